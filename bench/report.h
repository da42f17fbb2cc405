// SPDX-License-Identifier: Apache-2.0
// Registers benchmarks with Google Benchmark, collects the median of each, and prints at the end what the numbers mean:
// ours beside PoCL's or beside the bare mechanism's, their ratio and what we aim at.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bench/platform.h"
#include "bench/vendors.h"

namespace mirrorcl::bench {

struct Measurement {
  double seconds;    // of one operation
  double bytes = 0;  // moved by it; shown as bandwidth if not zero
};

struct Row {
  std::string what;
  std::string ours;   // name of a benchmark
  std::string other;  // name of the benchmark it is compared with; empty for none
  enum class Unit { kMicroseconds, kMilliseconds, kBandwidth } unit;
  // kAtMost: ratio of times; kAtLeast: ratio of bandwidths; kAbsolute: `aim` is in the row's unit; kNone: for
  // information.
  enum class Kind { kNone, kAtMost, kAtLeast, kAbsolute } kind = Kind::kNone;
  double aim = 0;
};

class Report : public benchmark::ConsoleReporter {
 public:
  Report() : ConsoleReporter(OO_Tabular) {}

  void add_row(Row row) { rows_.push_back(std::move(row)); }
  void ReportRuns(const std::vector<Run>& runs) override;
  // Rows whose benchmarks did not run (a filter, a missing platform) are left out.
  void print_table() const;
  bool any_errors() const { return any_errors_; }

 private:
  struct Samples {
    std::vector<double> seconds;
    double bytes = 0;
  };
  std::map<std::string, Samples> samples_;
  std::vector<Row> rows_;
  bool any_errors_ = false;
};

// What the benchmarks' registration functions work with.
struct Setup {
  Platform* mirrorcl;  // null: not there
  Platform* pocl;      // null: not there
  const Vendors& vendors;
  Report& report;
  bool quick;
  int repetitions;

  int scaled(int full, int quickly) const { return quick ? quickly : full; }
  // `body` runs once per repetition; what it throws ends the benchmark with an error.
  void add(const std::string& name, benchmark::TimeUnit unit, std::function<Measurement()> body) const;
};

void add_ahead_benchmarks(const Setup& setup);
void add_fault_benchmarks(const Setup& setup);
void add_migration_benchmarks(const Setup& setup);
void add_bandwidth_benchmarks(const Setup& setup);
void add_launch_benchmarks(const Setup& setup);
void add_build_benchmarks(const Setup& setup);
void add_ping_pong_benchmarks(const Setup& setup);
void add_startup_benchmarks(const Setup& setup);
void add_pressure_benchmarks(const Setup& setup);
void add_idle_benchmarks(const Setup& setup);

}  // namespace mirrorcl::bench

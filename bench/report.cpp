// SPDX-License-Identifier: Apache-2.0
#include "bench/report.h"

#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "bench/samples.h"

namespace mirrorcl::bench {

namespace {

std::string formatted(Row::Unit unit, double seconds, double bytes) {
  switch (unit) {
    case Row::Unit::kMicroseconds:
      return fmt::format("{:.2f} us", seconds * 1e6);
    case Row::Unit::kMilliseconds:
      return fmt::format("{:.2f} ms", seconds * 1e3);
    case Row::Unit::kBandwidth:
      return fmt::format("{:.2f} GB/s", bytes / seconds / 1e9);
  }
  return {};
}

}  // namespace

void Setup::add(const std::string& name, benchmark::TimeUnit unit, std::function<Measurement()> body) const {
  benchmark::RegisterBenchmark(name.c_str(),
                               [body = std::move(body)](benchmark::State& state) {
                                 for (auto _ : state) {
                                   try {
                                     const Measurement measured = body();
                                     state.SetIterationTime(measured.seconds);
                                     if (measured.bytes > 0) {
                                       state.SetBytesProcessed(static_cast<std::int64_t>(measured.bytes));
                                     }
                                   } catch (const std::exception& error) {
                                     state.SkipWithError(error.what());
                                     break;
                                   }
                                 }
                               })
      ->UseManualTime()
      ->Iterations(1)
      ->Repetitions(repetitions)
      ->Unit(unit);
}

void Report::ReportRuns(const std::vector<Run>& runs) {
  std::vector<Run> shown;
  for (const Run& run : runs) {
    any_errors_ |= run.error_occurred;
    if (run.run_type == Run::RT_Iteration && !run.error_occurred) {
      Samples& samples = samples_[run.run_name.function_name];
      const double seconds = run.real_accumulated_time / static_cast<double>(run.iterations);
      samples.seconds.push_back(seconds);
      if (auto rate = run.counters.find("bytes_per_second"); rate != run.counters.end()) {
        samples.bytes = rate->second.value * seconds;
      }
    }
    const bool is_median = run.run_type == Run::RT_Aggregate && run.aggregate_name == "median";
    if (!run.error_occurred && !is_median && run.repetitions > 1) continue;
    shown.push_back(run);
    shown.back().run_name = {};
    shown.back().run_name.function_name = run.run_name.function_name;
  }
  if (!shown.empty()) ConsoleReporter::ReportRuns(shown);
}

void Report::print_table() const {
  fmt::print("\n{:<58}{:>14}{:>14}{:>9}   {}\n", "what", "ours", "beside", "ratio", "aim");
  for (const Row& row : rows_) {
    const auto ours = samples_.find(row.ours);
    const auto other = samples_.find(row.other);
    if (ours == samples_.end()) continue;
    const bool compared = other != samples_.end();
    if (!compared && !row.other.empty() && row.kind != Row::Kind::kAbsolute) {
      fmt::print("{:<58}{:>14}{:>14}\n", row.what,
                 formatted(row.unit, median(ours->second.seconds), ours->second.bytes), "-");
      continue;
    }
    const double our_time = median(ours->second.seconds);
    const double other_time = compared ? median(other->second.seconds) : 0;
    double ratio = compared ? our_time / other_time : 0;
    if (row.unit == Row::Unit::kBandwidth && compared) {
      ratio = (ours->second.bytes / our_time) / (other->second.bytes / other_time);
    }
    std::string aim;
    switch (row.kind) {
      case Row::Kind::kNone:
        break;
      case Row::Kind::kAtMost:
        aim = fmt::format("<= {:.2f}{}", row.aim, ratio <= row.aim ? "" : "   MISSED");
        break;
      case Row::Kind::kAtLeast:
        aim = fmt::format(">= {:.2f}{}", row.aim, ratio >= row.aim ? "" : "   MISSED");
        break;
      case Row::Kind::kAbsolute: {
        const double in_unit = our_time * (row.unit == Row::Unit::kMicroseconds ? 1e6 : 1e3);
        aim = fmt::format("< {:.0f} {}{}", row.aim, row.unit == Row::Unit::kMicroseconds ? "us" : "ms",
                          in_unit < row.aim ? "" : "   MISSED");
        break;
      }
    }
    fmt::print("{:<58}{:>14}{:>14}{:>9}   {}\n", row.what, formatted(row.unit, our_time, ours->second.bytes),
               compared ? formatted(row.unit, other_time, other->second.bytes) : "-",
               compared ? fmt::format("{:.2f}", ratio) : "-", aim);
  }
  std::fflush(stdout);
}

}  // namespace mirrorcl::bench

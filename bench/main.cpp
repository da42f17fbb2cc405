// SPDX-License-Identifier: Apache-2.0
// mirrorcl_bench: MirrorCL beside PoCL and beside the bare kernel mechanisms, in one run. Any option of Google
// Benchmark works
// (--benchmark_filter=launch, --benchmark_out=file.json, ...).
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>

#include "bench/report.h"
#include "bench/subprocess.h"

namespace mirrorcl::bench {

namespace {

struct Arguments {
  bool quick = false;
  std::string mirrorcl_icd = MIRRORCL_ICD_FILE;
  std::string pocl_icd = "/etc/OpenCL/vendors/pocl.icd";
  std::vector<std::string> probe;
};

int run_named_probe(const std::vector<std::string>& probe) {
  if (probe.size() == 2 && probe[0] == "bare-fault") return bare_fault_probe(std::stoi(probe[1]));
  if (probe.size() == 2 && probe[0] == "startup") return startup_probe(probe[1]);
  if (probe.size() == 2 && probe[0] == "first-touch") return first_touch_probe(probe[1]);
  if (probe.size() == 5 && probe[0] == "round-trips") {
    return round_trips_probe(probe[1], probe[2], probe[3], std::stoi(probe[4]));
  }
  if (probe.size() == 2 && probe[0] == "pressure") return pressure_probe(probe[1]);
  if (probe.size() == 4 && probe[0] == "ahead") return ahead_probe(probe[1], probe[2], std::stoul(probe[3]));
  if (probe.size() == 2 && probe[0] == "idle") return idle_probe(probe[1]);
  std::fprintf(stderr, "no such probe\n");
  return 2;
}

std::unique_ptr<Platform> open_platform(const char* name) {
  cl_platform_id platform = find_platform(name);
  return platform == nullptr ? nullptr : std::make_unique<Platform>(platform);
}

int run(const Arguments& arguments) {
  const Vendors vendors(arguments.mirrorcl_icd, arguments.pocl_icd);
  vendors.export_environment();
  const auto mirrorcl = open_platform("MirrorCL");
  const auto pocl = open_platform("Portable Computing Language");
  if (mirrorcl == nullptr) {
    fmt::print(stderr, "MirrorCL is not there ({}): only the others are measured\n",
               vendors.has_mirrorcl() ? "its library did not load" : "no file " + arguments.mirrorcl_icd);
  }
  if (pocl == nullptr) {
    fmt::print(stderr, "PoCL is not there ({}): nothing is compared with it; on Debian: apt install pocl-opencl-icd\n",
               vendors.has_pocl() ? "its library did not load" : "no file " + arguments.pocl_icd);
  }
  Report report;
  const Setup setup{mirrorcl.get(), pocl.get(), vendors, report, arguments.quick, arguments.quick ? 2 : 5};
  add_fault_benchmarks(setup);
  add_migration_benchmarks(setup);
  add_bandwidth_benchmarks(setup);
  add_launch_benchmarks(setup);
  add_ahead_benchmarks(setup);
  add_build_benchmarks(setup);
  add_ping_pong_benchmarks(setup);
  add_startup_benchmarks(setup);
  add_pressure_benchmarks(setup);
  add_idle_benchmarks(setup);
  benchmark::RunSpecifiedBenchmarks(&report);
  report.print_table();
  return mirrorcl == nullptr || report.any_errors() ? 1 : 0;
}

}  // namespace

}  // namespace mirrorcl::bench

int main(int argc, char** argv) {
  mirrorcl::bench::Arguments arguments;
  CLI::App app("MirrorCL beside PoCL and beside the bare mechanisms");
  app.allow_extras();  // Google Benchmark's
  app.add_flag("--quick", arguments.quick, "fewer samples: some seconds in all");
  app.add_option("--mirrorcl-icd", arguments.mirrorcl_icd, "the .icd file of MirrorCL")->capture_default_str();
  app.add_option("--pocl-icd", arguments.pocl_icd, "the .icd file of PoCL")->capture_default_str();
  app.add_option("--probe", arguments.probe, "used by the program itself")->group("");
  CLI11_PARSE(app, argc, argv);
  if (!arguments.probe.empty()) return mirrorcl::bench::run_named_probe(arguments.probe);

  std::vector<std::string> rest = app.remaining();
  // Repetitions of all benchmarks in random order: a slow moment of the machine falls on both sides of a ratio.
  rest.insert(rest.begin(), "--benchmark_enable_random_interleaving=true");
  std::vector<char*> rest_argv = {argv[0]};
  for (std::string& word : rest) rest_argv.push_back(word.data());
  int rest_argc = static_cast<int>(rest_argv.size());
  benchmark::Initialize(&rest_argc, rest_argv.data());
  if (benchmark::ReportUnrecognizedArguments(rest_argc, rest_argv.data())) return 2;
  try {
    return mirrorcl::bench::run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mirrorcl_bench: %s\n", error.what());
    return 1;
  }
}

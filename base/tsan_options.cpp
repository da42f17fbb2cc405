// SPDX-License-Identifier: Apache-2.0
// Part of every test program in builds with ThreadSanitizer: how its runtime behaves unless TSAN_OPTIONS says
// otherwise.

// die_after_fork: children of a process with threads may start threads, as the driver's do. report_thread_leaks: tests
// end processes by _exit(), with the driver's threads unjoined.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() {  // NOLINT: the runtime's name
  return "die_after_fork=0:report_thread_leaks=0";
}

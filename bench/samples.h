// SPDX-License-Identifier: Apache-2.0
// Time and medians. All times in bench/ are seconds, as double.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace mirrorcl::bench {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double median(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const std::size_t middle = samples.size() / 2;
  return samples.size() % 2 == 1 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
}

template <typename Function>
double time_of(Function&& function) {
  const double start = now();
  function();
  return now() - start;
}

// The median time of `count` calls, after one that is not counted.
template <typename Function>
double median_time(int count, Function&& function) {
  function();
  std::vector<double> samples;
  for (int i = 0; i < count; i++) samples.push_back(time_of(function));
  return median(std::move(samples));
}

}  // namespace mirrorcl::bench

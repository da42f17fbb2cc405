// SPDX-License-Identifier: Apache-2.0
// hbind.h for C++: ranges of objects instead of pointers and sizes, results instead of errno.
//
//   std::vector<float> data(n);
//   if (auto bound = hms::bind(std::span(data), {target}); !bound) report(bound.error());
#pragma once

#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <system_error>
#include <tl/expected.hpp>

#include "hms/hbind.h"

namespace mirrorcl::hms {

template <typename T>
using BindResult = tl::expected<T, std::error_code>;
using Uids = std::span<const std::uint32_t>;

namespace detail {
inline BindResult<void> bind_result(int result) {
  if (result == 0) return {};
  return tl::unexpected(std::error_code(errno, std::generic_category()));
}
inline Uids uids(std::initializer_list<std::uint32_t> list) {
  return {list.begin(), list.size()};
}
}  // namespace detail

// Memory of the range comes from `targets` only, in order of preference.
template <typename T>
BindResult<void> bind(std::span<T> range, Uids targets) {
  return detail::bind_result(
      hms_bind(range.data(), range.size_bytes(), targets.data(), static_cast<std::uint32_t>(targets.size())));
}
template <typename T>
BindResult<void> bind(std::span<T> range, std::initializer_list<std::uint32_t> targets) {
  return bind(range, detail::uids(targets));
}

// The range has no policy any more.
template <typename T>
BindResult<void> unbind(std::span<T> range) {
  return detail::bind_result(hms_unbind(range.data(), range.size_bytes()));
}

template <typename T>
BindResult<void> prefer(std::span<T> range, std::uint32_t target) {
  return detail::bind_result(hms_prefer(range.data(), range.size_bytes(), target));
}

template <typename T>
BindResult<void> prefetch(std::span<T> range, std::uint32_t target) {
  return detail::bind_result(hms_prefetch(range.data(), range.size_bytes(), target));
}

template <typename T>
BindResult<void> accessed_by(std::span<T> range, std::initializer_list<std::uint32_t> initiators) {
  return detail::bind_result(hms_accessed_by(range.data(), range.size_bytes(), initiators.begin(),
                                             static_cast<std::uint32_t>(initiators.size())));
}

template <typename T>
BindResult<void> read_mostly(std::span<T> range, bool enable) {
  return detail::bind_result(hms_read_mostly(range.data(), range.size_bytes(), enable ? 1 : 0));
}

// The number of pages (4 KiB) that live elsewhere than before.
template <typename T>
BindResult<std::uint64_t> migrate(std::span<T> range, std::initializer_list<std::uint32_t> targets) {
  std::int64_t moved =
      hms_migrate(range.data(), range.size_bytes(), targets.begin(), static_cast<std::uint32_t>(targets.size()));
  if (moved < 0) return tl::unexpected(std::error_code(errno, std::generic_category()));
  return static_cast<std::uint64_t>(moved);
}

}  // namespace mirrorcl::hms

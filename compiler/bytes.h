// SPDX-License-Identifier: Apache-2.0
// Little-endian serialisation of what travels between client and service and lies in the disk cache. A ByteReader never
// reads beyond its input: the first short read makes it fail for good, and every later read gives zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace mirrorcl::compiler {

class ByteWriter {
 public:
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void number(T value) {
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), from, from + sizeof value);
  }
  void text(std::string_view value) {
    number<std::uint64_t>(value.size());
    raw(std::as_bytes(std::span(value)));
  }
  void blob(std::span<const std::byte> value) {
    number<std::uint64_t>(value.size());
    raw(value);
  }
  void raw(std::span<const std::byte> value) { bytes_.insert(bytes_.end(), value.begin(), value.end()); }

  std::span<const std::byte> bytes() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <typename T>
  requires std::is_trivially_copyable_v<T> T number() {
    T value{};
    std::span<const std::byte> from = raw(sizeof value);
    if (ok_) std::memcpy(&value, from.data(), sizeof value);
    return value;
  }
  std::string text() { return to_string(raw(number<std::uint64_t>())); }
  std::vector<std::byte> blob() {
    std::span<const std::byte> from = raw(number<std::uint64_t>());
    return {from.begin(), from.end()};
  }
  std::span<const std::byte> raw(std::uint64_t size) {
    if (!ok_ || size > rest_.size()) {
      ok_ = false;
      return {};
    }
    std::span<const std::byte> result = rest_.first(size);
    rest_ = rest_.subspan(size);
    return result;
  }
  // A count of things that take at least `least_size` bytes each: a count that cannot fit fails, so that nobody
  // reserves memory for it.
  template <typename T = std::uint64_t>
  T count(std::size_t least_size) {
    T value = number<T>();
    if (value > rest_.size() / least_size) {
      ok_ = false;
      return 0;
    }
    return value;
  }
  void fail() { ok_ = false; }

  bool ok() const { return ok_; }
  bool at_end() const { return ok_ && rest_.empty(); }
  std::size_t left() const { return rest_.size(); }

  static std::string to_string(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> rest_;
  bool ok_ = true;
};

}  // namespace mirrorcl::compiler

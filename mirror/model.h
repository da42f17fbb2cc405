// SPDX-License-Identifier: Apache-2.0
// A model test of the mirror: an interpreter of byte strings, in which every byte string is a program of reads, writes
// and atomics of the CPU and of one or more devices, and of address-space events, over one range of memory (the arena).
// After each operation the real memory must be what a plain array in this process says it is.
//
// The same interpreter serves random tests (bytes from a seed) and libFuzzer (bytes from the fuzzer). Everything
// happens one after the other, so each read has exactly one right answer; where the system itself leaves a choice (a
// page after MADV_FREE is old or zero) the model accepts either, and from the next write on only what it has seen.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "device/packet.h"
#include "device/window.h"
#include "mirror/address_space.h"
#include "mirror/mirror.h"

namespace mirrorcl::mirror {

// One naturally aligned access of a device to `size` bytes (1, 2, 4 or 8).
struct ModelAccess {
  enum class Kind : std::uint32_t { kRead, kWrite, kAdd };
  Kind kind;
  std::uint32_t size;
  std::uint64_t address;
  std::uint64_t value;  // in: what is written or added; out: what a read or an addition found
};

class ModelDevice {
 public:
  virtual ~ModelDevice() = default;
  // At most this many accesses in one launch.
  static constexpr std::size_t kMaxAccesses = 512;
  // Makes the accesses in order, as one launch. Returns how many were made; if not all, *error says why the next was
  // refused.
  virtual std::size_t run(std::span<ModelAccess> accesses, device::FaultKind* error) = 0;
};

class Model {
 public:
  static constexpr unsigned kPages = 4 * kBlockPages;
  static constexpr std::uint64_t kSize = kPages * kPageSize;
  // Where nothing else comes to lie, with or without a sanitizer: far below the kernel's own choices, so that holes
  // stay holes.
  static constexpr std::uint64_t kArena = window::kWindow.end() + 64 * window::kGiB;

  Model(Mirror& mirror, ModelDevice& device);
  // Launches go to this device or one of the others from then on, as the program says.
  void add_device(ModelDevice& device) { devices_.push_back(&device); }
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // Starts from an arena of fresh memory and interprets `program`. False if the memory was once not what it must be;
  // failure() then tells.
  bool run(std::span<const std::uint8_t> program);
  const std::string& failure() const { return failure_; }

  // Elementary operations made since the object was created: one access of one word, one page compared, or one system
  // call that changes the address space, reads or writes the memory, or forks.
  std::uint64_t operations() const { return operations_; }
  // The device may be refused any access, for lack of memory; what it made before must hold.
  void tolerate_refusals() { tolerant_ = true; }
  // Called between operations, for tests that disturb the mirror meanwhile.
  void set_disturbance(std::function<void(std::uint64_t)> disturb) { disturb_ = std::move(disturb); }

 private:
  enum class Kind : std::uint8_t { kHole, kAnonymous, kSharedFile, kPrivateFile };
  struct Page {
    Kind kind = Kind::kHole;
    std::uint8_t protection = 0;  // PROT_...
    bool locked = false;
    bool freed = false;  // by MADV_FREE, and not written since: the contents below, or zeros
    bool readable() const { return (protection & 1) != 0; }
    bool writable() const { return (protection & 2) != 0; }
    // What a mapping that begins with such a page grows by.
    Page grown() const { return {kind, protection, locked, false}; }
  };
  struct Run {
    unsigned first;
    unsigned count;
    unsigned end() const { return first + count; }
  };
  class Bytes;
  // The words of a pattern: `count` words, one every `stride` pages (0: one after the other), from a page on.
  struct Pattern {
    unsigned page;
    unsigned count;
    unsigned stride;
    unsigned size;
    unsigned offset;
    ModelAccess::Kind kind;
  };

  void reset();
  void step(Bytes& bytes);
  Pattern take_pattern(Bytes& bytes);
  Run take_run(Bytes& bytes);
  template <typename Predicate>
  Run trim(Run run, Predicate wanted) const;

  void cpu_accesses(Bytes& bytes);
  void device_accesses(Bytes& bytes);
  void wild_access(Bytes& bytes);
  void map(Bytes& bytes);
  void unmap(Bytes& bytes);
  void remap(Bytes& bytes);
  void grow(Bytes& bytes);
  void discard(Bytes& bytes);
  void free_lazily(Bytes& bytes);
  void protect(Bytes& bytes);
  void lock(Bytes& bytes);
  void advise_huge(Bytes& bytes);
  void through_a_pipe(Bytes& bytes);
  void fork_and_check(Bytes& bytes);
  void fork_and_stay(Bytes& bytes);
  void end_child();
  void bring_home(Bytes& bytes);
  void compare(Bytes& bytes);

  std::uint64_t address_of(const Pattern& pattern, unsigned index) const;
  std::uint64_t next_value() { return ++values_ * 0x9e37'79b9'7f4a'7c15; }
  std::uint64_t expected(std::uint64_t address, unsigned size) const;
  void expect_word(const char* who, std::uint64_t address, unsigned size, std::uint64_t seen);
  void store(std::uint64_t address, unsigned size, std::uint64_t value);
  bool may_be_refused(const ModelAccess& access) const;
  ModelDevice& take_device(Bytes& bytes);
  void launch(ModelDevice& device, std::vector<ModelAccess>& accesses);
  void settle(std::uint64_t address);
  bool page_is(unsigned page) const;
  void compare_run(const char* who, Run run);
  bool child_is_right() const;
  bool one_mapping(Run run) const;
  void forget(Run run);
  void zero(Run run);
  void fail(std::string what, std::int64_t page = -1);
  void touch(unsigned page) { touched_.push_back({static_cast<std::uint32_t>(history_.size() - 1), page}); }
  bool failed() const { return !failure_.empty(); }

  static char* pointer(unsigned page) { return reinterpret_cast<char*>(kArena + page * kPageSize); }
  static unsigned page_of(std::uint64_t address) { return static_cast<unsigned>((address - kArena) / kPageSize); }

  Mirror& mirror_;
  std::vector<ModelDevice*> devices_;
  AddressSpace space_;
  std::function<void(std::uint64_t)> disturb_;
  std::vector<Page> pages_;
  std::vector<char> contents_;
  std::vector<ModelAccess> batch_;
  bool tolerant_ = false;
  int file_ = -1;  // of kSize bytes
  int pipe_[2] = {-1, -1};
  pid_t child_ = -1;
  int child_pipe_ = -1;
  std::uint64_t values_ = 0;
  std::uint64_t operations_ = 0;
  std::uint64_t steps_ = 0;
  std::string failure_;
  // What a failure shows: each step of the program, and which pages it concerned.
  struct Touched {
    std::uint32_t step;
    unsigned page;
  };
  std::vector<std::string> history_;
  std::vector<Touched> touched_;
};

// `size` bytes that follow from `seed`.
std::vector<std::uint8_t> random_program(std::uint64_t seed, std::size_t size);

}  // namespace mirrorcl::mirror

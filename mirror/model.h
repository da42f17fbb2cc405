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
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device/packet.h"
#include "device/window.h"
#include "hms/binder.h"
#include "mirror/address_space.h"
#include "mirror/mirror.h"
#include "mirror/test_locks.h"

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
  // Where nothing else comes to lie, with or without a sanitizer: far below the kernel's own choices, so that holes
  // stay holes.
  static constexpr std::uint64_t kArena = window::kWindow.end() + 64 * window::kGiB;

  // The arena has `blocks` blocks of 2 MiB.
  Model(Mirror& mirror, ModelDevice& device, unsigned blocks = 4);
  // Launches go to this device or one of the others from then on, as the program says.
  void add_device(ModelDevice& device) { devices_.push_back(&device); }
  // Programs also say where memory should live from then on, with hbind(). `binder` outlives the model.
  void place_by(hms::Binder& binder) { binder_ = &binder; }
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
    bool freed = false;       // by MADV_FREE, and not written since: the contents below, or zeros
    std::uint8_t wishes = 0;  // policies that the program has set with hbind(), by kBound and so on
    bool readable() const { return (protection & 1) != 0; }
    bool writable() const { return (protection & 2) != 0; }
    // What a mapping that begins with such a page grows by.
    Page grown() const { return {kind, protection, locked, false, 0}; }
  };
  static constexpr std::uint8_t kBound = 1;
  static constexpr std::uint8_t kPreferred = 2;
  static constexpr std::uint8_t kAccessedBy = 4;
  static constexpr std::uint8_t kReadMostly = 8;
  struct Run {
    unsigned first;
    unsigned count;
    unsigned end() const { return first + count; }
  };
  // The program; endless zeros follow its end.
  class Bytes {
   public:
    explicit Bytes(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
    bool done() const { return next_ >= bytes_.size(); }
    unsigned u8() { return done() ? 0 : bytes_[next_++]; }
    unsigned u16() {
      unsigned high = u8();
      return high << 8 | u8();
    }

   private:
    std::span<const std::uint8_t> bytes_;
    std::size_t next_ = 0;
  };
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
  // The longest part of `run` whose pages are all as `wanted`, from the first that is.
  template <typename Predicate>
  Run trim(Run run, Predicate wanted) const {
    while (run.count != 0 && !wanted(pages_[run.first])) ++run.first, --run.count;
    unsigned count = 0;
    while (count < run.count && wanted(pages_[run.first + count])) ++count;
    return {run.first, count};
  }

  void cpu_accesses(Bytes& bytes);
  void device_accesses(Bytes& bytes);
  void device_sweep(Bytes& bytes);
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
  // model_threads.cpp
  void wait_or_wake(Bytes& bytes);
  void leave_lock(Bytes& bytes);
  void move_about(Bytes& bytes, std::uint64_t word, unsigned how);
  void end_waiter();
  // model_places.cpp
  void say_where(Bytes& bytes);
  void note_wishes(Run run, std::uint32_t command, bool wanted);
  void compare_wishes();

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
  void replace(Run run);
  std::uint64_t size() const { return pages_.size() * kPageSize; }
  unsigned page_count() const { return static_cast<unsigned>(pages_.size()); }
  void zero(Run run);
  void fail(std::string what, std::int64_t page = -1);
  void touch(unsigned page) { touched_.push_back({static_cast<std::uint32_t>(history_.size() - 1), page}); }
  bool failed() const { return !failure_.empty(); }

  static char* pointer(unsigned page) { return reinterpret_cast<char*>(kArena + page * kPageSize); }
  static unsigned page_of(std::uint64_t address) { return static_cast<unsigned>((address - kArena) / kPageSize); }

  Mirror& mirror_;
  std::vector<ModelDevice*> devices_;
  hms::Binder* binder_ = nullptr;
  AddressSpace space_;
  std::function<void(std::uint64_t)> disturb_;
  std::vector<Page> pages_;
  std::vector<char> contents_;
  std::vector<ModelAccess> batch_;
  bool tolerant_ = false;
  int file_ = -1;  // of size() bytes
  int pipe_[2] = {-1, -1};
  pid_t child_ = -1;
  int child_pipe_ = -1;
  std::unique_ptr<FutexWaiter> waiter_;
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

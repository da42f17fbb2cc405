// SPDX-License-Identifier: Apache-2.0
#include "mirror/model.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace mirrorcl::mirror {
namespace {

constexpr int kDontneedLocked = 24;  // MADV_DONTNEED_LOCKED, 5.18
constexpr std::uint64_t kPipeSize = 64 * 1024;

int make_file(const char* name, std::uint64_t size) {
  int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) std::abort();
  return fd;
}

}  // namespace

std::vector<std::uint8_t> random_program(std::uint64_t seed, std::size_t size) {
  std::vector<std::uint8_t> program(size);
  for (std::uint8_t& byte : program) {  // SplitMix64, a byte at a time
    seed += 0x9e37'79b9'7f4a'7c15;
    std::uint64_t mixed = (seed ^ seed >> 30) * 0xbf58'476d'1ce4'e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d0'49bb'1331'11eb;
    byte = static_cast<std::uint8_t>(mixed >> 56);
  }
  return program;
}

Model::Model(Mirror& mirror, ModelDevice& device, unsigned blocks)
    : mirror_(mirror),
      devices_{&device},
      space_(AddressSpace::open().value()),
      pages_(blocks * kBlockPages),
      contents_(size()) {
  file_ = make_file("model", size());
  if (pipe2(pipe_, O_CLOEXEC) != 0) std::abort();
  // Claims the range, so that a second user of it is noticed; the holes of the programs are made later.
  if (mmap(pointer(0), size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) !=
      pointer(0)) {
    std::abort();
  }
}

Model::~Model() {
  end_child();
  end_waiter();
  munmap(pointer(0), size());
  close(file_);
  close(pipe_[0]);
  close(pipe_[1]);
}

// With the steps that concerned `page`, or all if it is negative.
void Model::fail(std::string what, std::int64_t page) {
  if (failed()) return;
  failure_ = fmt::format("step {}: {}", steps_, what);
  if (page >= 0) {
    const Page& is = pages_[static_cast<std::size_t>(page)];
    auto mapping = space_.query(kArena + static_cast<std::uint64_t>(page) * kPageSize);
    failure_ += fmt::format("\nin the model: kind {}, protection {}{}{}; mapped: ", static_cast<int>(is.kind),
                            is.protection, is.locked ? ", locked" : "", is.freed ? ", freed" : "");
    failure_ += mapping ? fmt::format("protection {}{}", mapping->protection, mapping->shared ? ", shared" : "") : "no";
  }
  failure_ += "\nthe steps before:";
  std::vector<bool> shown(history_.size(), page < 0);
  for (const Touched& touched : touched_) {
    if (std::int64_t{touched.page} == page) shown[touched.step] = true;
  }
  for (std::size_t i = 0; i < history_.size(); ++i) {
    if (shown[i]) failure_ += fmt::format("\n  {}", history_[i]);
  }
}

// --- the plain model

void Model::zero(Run run) {
  std::memset(contents_.data() + run.first * kPageSize, 0, run.count * kPageSize);
}

void Model::forget(Run run) {
  replace(run);
  std::fill_n(pages_.begin() + run.first, run.count, Page{});
  zero(run);
}

std::uint64_t Model::expected(std::uint64_t address, unsigned size) const {
  std::uint64_t value = 0;
  std::memcpy(&value, contents_.data() + (address - kArena), size);
  return value;
}

void Model::store(std::uint64_t address, unsigned size, std::uint64_t value) {
  std::memcpy(contents_.data() + (address - kArena), &value, size);
}

void Model::expect_word(const char* who, std::uint64_t address, unsigned size, std::uint64_t seen) {
  std::uint64_t wanted = expected(address, size);
  if (seen == wanted) return;
  fail(fmt::format("{} reads {:#x} at {:#x} (page {}, {} bytes), not {:#x}", who, seen, address, page_of(address), size,
                   wanted),
       page_of(address));
}

bool Model::page_is(unsigned page) const {
  const char* wanted = contents_.data() + page * kPageSize;
  if (std::memcmp(pointer(page), wanted, kPageSize) == 0) return true;
  if (!pages_[page].freed) return false;
  return std::all_of(pointer(page), pointer(page) + kPageSize, [](char byte) { return byte == 0; });
}

void Model::compare_run(const char* who, Run run) {
  for (unsigned page = run.first; page < run.end() && !failed(); ++page) {
    if (!pages_[page].readable()) continue;
    ++operations_;
    if (page_is(page)) continue;
    const char* wanted = contents_.data() + page * kPageSize;
    unsigned at = 0;
    while (pointer(page)[at] == wanted[at] && at + 1 < kPageSize) ++at;
    fail(fmt::format("{}: page {} ({:#x}) differs from byte {} on: {:#04x}, not {:#04x}", who, page,
                     kArena + page * kPageSize, at, static_cast<unsigned char>(pointer(page)[at]),
                     static_cast<unsigned char>(wanted[at])),
         page);
  }
}

// The page of `address` was given up with MADV_FREE. A write ends the choice: what the page holds from then on it holds
// for good.
void Model::settle(std::uint64_t address) {
  unsigned page = page_of(address);
  if (!pages_[page].freed) return;
  std::uint64_t value = next_value();
  std::uint64_t word = kArena + page * kPageSize + value % (kPageSize / 8) * 8;
  if ((value & 1) != 0) {
    *reinterpret_cast<volatile std::uint64_t*>(word) = value;
  } else {
    ModelAccess write{ModelAccess::Kind::kWrite, 8, word, value};
    device::FaultKind error = device::FaultKind::kNone;
    mirror_.drain_events();
    if (devices_[value / 2 % devices_.size()]->run({&write, 1}, &error) != 1) {
      if (!tolerant_) return fail("the device may not write a page after MADV_FREE");
      *reinterpret_cast<volatile std::uint64_t*>(word) = value;
    }
  }
  ++operations_;
  store(word, 8, value);
  pages_[page].freed = false;
  if (std::memcmp(pointer(page), contents_.data() + page * kPageSize, kPageSize) == 0) return;
  zero({page, 1});
  store(word, 8, value);
  compare_run("after MADV_FREE", {page, 1});
}

// --- interpretation

bool Model::run(std::span<const std::uint8_t> program) {
  reset();
  Bytes bytes(program);
  while (!bytes.done() && !failed()) {
    ++steps_;
    if (disturb_) disturb_(steps_);
    step(bytes);
  }
  end_child();
  end_waiter();
  compare_run("at the end", {0, page_count()});
  compare_wishes();
  return !failed();
}

void Model::reset() {
  munmap(pointer(0), size());
  forget({0, page_count()});
  (void)fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(size()));
  // Holes at both ends, so that ranges can grow.
  Run all{64, page_count() - 128};
  if (mmap(pointer(all.first), all.count * kPageSize, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != pointer(all.first)) {
    fail("the arena cannot be mapped");
  }
  const Page fresh{Kind::kAnonymous, PROT_READ | PROT_WRITE};
  std::fill_n(pages_.begin() + all.first, all.count, fresh);
  history_.clear();
  touched_.clear();
  steps_ = 0;
}

void Model::step(Bytes& bytes) {
  struct Operation {
    const char* name;
    unsigned weight;  // out of 256
    void (Model::*run)(Bytes&);
  };
  static constexpr Operation kOperations[] = {
      {"CPU accesses", 70, &Model::cpu_accesses},
      {"device accesses", 82, &Model::device_accesses},
      {"device sweep", 6, &Model::device_sweep},
      {"compare", 8, &Model::compare},
      {"wild access", 3, &Model::wild_access},
      {"mmap", 12, &Model::map},
      {"munmap", 6, &Model::unmap},
      {"mremap", 10, &Model::remap},
      {"mremap to grow or shrink", 6, &Model::grow},
      {"MADV_DONTNEED", 8, &Model::discard},
      {"MADV_FREE", 5, &Model::free_lazily},
      {"mprotect", 10, &Model::protect},
      {"mlock", 2, &Model::lock},
      {"huge pages", 2, &Model::advise_huge},
      {"read and write", 6, &Model::through_a_pipe},
      {"bring home", 6, &Model::bring_home},
      {"say where", 9, &Model::say_where},
      {"futex", 2, &Model::wait_or_wake},
      {"robust mutex", 1, &Model::leave_lock},
      {"fork", 1, &Model::fork_and_check},
      {"fork and stay", 1, &Model::fork_and_stay},
  };
  unsigned choice = bytes.u8();
  const Operation* chosen = &kOperations[0];
  for (const Operation& operation : kOperations) {
    chosen = &operation;
    if (choice < operation.weight) break;
    choice -= operation.weight;
  }
  history_.push_back(fmt::format("{}: {}", steps_, chosen->name));
  (this->*chosen->run)(bytes);
}

// One page mostly, at times many.
Model::Run Model::take_run(Bytes& bytes) {
  unsigned first = bytes.u16() % page_count();
  unsigned shape = bytes.u8();
  unsigned count = shape < 96 ? 1 + shape % 4 : shape < 224 ? 1 + shape % 64 : 1 + (shape - 224) * 20;
  Run run{first, std::min(count, page_count() - first)};
  history_.back() += fmt::format(" {}+{}", run.first, run.count);
  for (unsigned page = run.first; page < run.end(); ++page) touch(page);
  return run;
}

Model::Pattern Model::take_pattern(Bytes& bytes) {
  static constexpr unsigned kSizes[] = {8, 8, 8, 8, 8, 4, 2, 1};
  Pattern pattern{};
  pattern.page = bytes.u16() % page_count();
  unsigned shape = bytes.u8();
  unsigned kind = bytes.u8();
  pattern.size = kSizes[kind >> 5];
  pattern.offset = (shape * 264 + kind * 8) % unsigned{kPageSize} / pattern.size * pattern.size;
  pattern.kind = static_cast<ModelAccess::Kind>(kind % 3);
  // Dense words of few pages mostly; strides touch a page with each access.
  pattern.stride = shape < 176 ? 0 : 1 + shape % 8;
  pattern.count = pattern.stride == 0 ? 32 + shape * 2 : 1 + (shape - 176) % 48;
  history_.back() += fmt::format(" {}{}+{}/{}", "rwa"[static_cast<unsigned>(pattern.kind)], pattern.page, pattern.count,
                                 pattern.stride);
  unsigned last = page_count();
  for (unsigned i = 0; i < pattern.count; ++i) {
    unsigned page = page_of(address_of(pattern, i));
    if (page != last) touch(page);
    last = page;
  }
  return pattern;
}

std::uint64_t Model::address_of(const Pattern& pattern, unsigned index) const {
  std::uint64_t offset = pattern.page * kPageSize + pattern.offset;
  offset += pattern.stride == 0 ? std::uint64_t{index} * pattern.size : index * pattern.stride * kPageSize;
  return kArena + offset % size();
}

void Model::cpu_accesses(Bytes& bytes) {
  Pattern pattern = take_pattern(bytes);
  auto access = [&]<typename T>(T* word, std::uint64_t address) {
    switch (pattern.kind) {
      case ModelAccess::Kind::kRead:
        return expect_word("the CPU", address, sizeof(T), __atomic_load_n(word, __ATOMIC_RELAXED));
      case ModelAccess::Kind::kWrite: {
        std::uint64_t value = next_value();
        __atomic_store_n(word, static_cast<T>(value), __ATOMIC_RELAXED);
        return store(address, sizeof(T), value);
      }
      case ModelAccess::Kind::kAdd: {
        std::uint64_t value = next_value();
        expect_word("an addition of the CPU", address, sizeof(T),
                    __atomic_fetch_add(word, static_cast<T>(value), __ATOMIC_SEQ_CST));
        return store(address, sizeof(T), expected(address, sizeof(T)) + value);
      }
    }
  };
  for (unsigned i = 0; i < pattern.count && !failed(); ++i) {
    std::uint64_t address = address_of(pattern, i);
    const Page& page = pages_[page_of(address)];
    if (!page.readable() || (pattern.kind != ModelAccess::Kind::kRead && !page.writable())) continue;
    settle(address);
    ++operations_;
    switch (pattern.size) {
      case 1:
        access(reinterpret_cast<std::uint8_t*>(address), address);
        break;
      case 2:
        access(reinterpret_cast<std::uint16_t*>(address), address);
        break;
      case 4:
        access(reinterpret_cast<std::uint32_t*>(address), address);
        break;
      default:
        access(reinterpret_cast<std::uint64_t*>(address), address);
    }
  }
}

// The device need not be able to write memory of files, or to know at once of a protection that was tightened.
bool Model::may_be_refused(const ModelAccess& access) const {
  const Page& page = pages_[page_of(access.address)];
  if (!page.readable()) return true;
  if (access.kind == ModelAccess::Kind::kRead) return false;
  return !page.writable() || page.kind != Kind::kAnonymous;
}

// Runs `accesses`, in several launches where some are refused, and checks what was read.
ModelDevice& Model::take_device(Bytes& bytes) {
  return devices_.size() == 1 ? *devices_[0] : *devices_[bytes.u8() % devices_.size()];
}

void Model::launch(ModelDevice& device, std::vector<ModelAccess>& accesses) {
  for (const ModelAccess& access : accesses) settle(access.address);
  // What is written as it is launched, before the results come back in its place.
  std::vector<std::uint64_t> operands(accesses.size());
  std::transform(accesses.begin(), accesses.end(), operands.begin(), [](const ModelAccess& a) { return a.value; });
  std::span<ModelAccess> rest(accesses);
  while (!rest.empty() && !failed()) {
    mirror_.drain_events();
    mirror_.drop_snapshots();
    device::FaultKind error = device::FaultKind::kNone;
    std::size_t made = device.run(rest, &error);
    for (std::size_t i = 0; i < made && !failed(); ++i) {
      const ModelAccess& access = rest[i];
      std::uint64_t operand = operands[accesses.size() - rest.size() + i];
      ++operations_;
      if (access.kind != ModelAccess::Kind::kWrite) {
        expect_word(access.kind == ModelAccess::Kind::kRead ? "the device" : "an addition of the device",
                    access.address, access.size, access.value);
      }
      if (access.kind == ModelAccess::Kind::kWrite) store(access.address, access.size, operand);
      if (access.kind == ModelAccess::Kind::kAdd) {
        store(access.address, access.size, expected(access.address, access.size) + operand);
      }
    }
    rest = rest.subspan(made);
    if (rest.empty()) return;
    if (!tolerant_ && !may_be_refused(rest.front())) {
      return fail(
          fmt::format("the device's access to {:#x} (page {}, kind {}) was refused: {}", rest.front().address,
                      page_of(rest.front().address), static_cast<int>(rest.front().kind), static_cast<int>(error)),
          page_of(rest.front().address));
    }
    rest = rest.subspan(1);
  }
}

void Model::device_accesses(Bytes& bytes) {
  batch_.clear();
  ModelDevice& device = take_device(bytes);
  unsigned patterns = 1 + bytes.u8() % 3;
  for (unsigned n = 0; n < patterns; ++n) {
    Pattern pattern = take_pattern(bytes);
    for (unsigned i = 0; i < pattern.count && batch_.size() < ModelDevice::kMaxAccesses; ++i) {
      ModelAccess access{pattern.kind, pattern.size, address_of(pattern, i), 0};
      const Page& page = pages_[page_of(access.address)];
      if (page.kind == Kind::kHole) continue;
      // An error costs a launch of its own: now and then is enough.
      if (may_be_refused(access) && i % 61 != 0) continue;
      if (access.kind != ModelAccess::Kind::kRead) access.value = next_value();
      batch_.push_back(access);
    }
  }
  launch(device, batch_);
}

// A word of each of many pages, one after the other: more than a small memory has room for.
void Model::device_sweep(Bytes& bytes) {
  batch_.clear();
  ModelDevice& device = take_device(bytes);
  const unsigned first = bytes.u16() % page_count();
  const unsigned shape = bytes.u8();
  const auto kind = static_cast<ModelAccess::Kind>(shape % 3);
  const unsigned count = std::min<unsigned>(shape * 4, ModelDevice::kMaxAccesses);
  history_.back() += fmt::format(" {}{}+{}", "rwa"[shape % 3], first, count);
  for (unsigned i = 0; i < count; ++i) {
    const unsigned page = (first + i) % page_count();
    ModelAccess access{kind, 8, kArena + page * kPageSize + i % 512 * 8, 0};
    if (pages_[page].kind == Kind::kHole || may_be_refused(access)) continue;
    if (kind != ModelAccess::Kind::kRead) access.value = next_value();
    touch(page);
    batch_.push_back(access);
  }
  launch(device, batch_);
}

void Model::wild_access(Bytes& bytes) {
  Run run = take_run(bytes);
  Run hole = trim(run, [](const Page& page) { return page.kind == Kind::kHole; });
  if (hole.count == 0) return;
  ModelAccess access{static_cast<ModelAccess::Kind>(bytes.u8() % 3), 8, kArena + hole.first * kPageSize, 1};
  device::FaultKind error = device::FaultKind::kNone;
  mirror_.drain_events();
  ++operations_;
  if (take_device(bytes).run({&access, 1}, &error) != 0 || error != device::FaultKind::kInvalidAddress) {
    fail(
        fmt::format("the device's access to the hole at {:#x} ended with {}", access.address, static_cast<int>(error)));
  }
}

void Model::map(Bytes& bytes) {
  Run run = take_run(bytes);
  unsigned choice = bytes.u8();
  Kind kind = choice < 208 ? Kind::kAnonymous : choice < 232 ? Kind::kSharedFile : Kind::kPrivateFile;
  int protection = choice % 8 == 0 ? PROT_READ : choice % 16 == 1 ? PROT_NONE : PROT_READ | PROT_WRITE;
  int flags = MAP_FIXED | MAP_NORESERVE;
  flags |= kind == Kind::kAnonymous    ? MAP_PRIVATE | MAP_ANONYMOUS
           : kind == Kind::kSharedFile ? MAP_SHARED
                                       : MAP_PRIVATE;
  history_.back() += fmt::format(" kind {} protection {}", static_cast<int>(kind), protection);
  off_t offset = static_cast<off_t>(run.first * kPageSize);
  // The file's pages belong to whoever has mapped them now, shared: they begin empty.
  if (kind != Kind::kAnonymous) {
    Run shared = trim(run, [](const Page& page) { return page.kind == Kind::kSharedFile; });
    if (kind == Kind::kPrivateFile && shared.count != 0) return;
    (void)fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                    static_cast<off_t>(run.count * kPageSize));
  }
  ++operations_;
  if (mmap(pointer(run.first), run.count * kPageSize, protection, flags, kind == Kind::kAnonymous ? -1 : file_,
           kind == Kind::kAnonymous ? 0 : offset) == MAP_FAILED) {
    return fail(fmt::format("mmap: {}", strerrordesc_np(errno)));
  }
  forget(run);
  const Page fresh{kind, static_cast<std::uint8_t>(protection)};
  std::fill_n(pages_.begin() + run.first, run.count, fresh);
}

void Model::unmap(Bytes& bytes) {
  Run run = take_run(bytes);
  ++operations_;
  if (munmap(pointer(run.first), run.count * kPageSize) != 0) fail(fmt::format("munmap: {}", strerrordesc_np(errno)));
  forget(run);
}

// mremap wants one mapping; coherent pages are mappings of their own.
bool Model::one_mapping(Run run) const {
  mirror_.drain_events();
  auto mapping = space_.query(kArena + run.first * kPageSize);
  return mapping && mapping->range.end() >= kArena + run.end() * kPageSize;
}

void Model::remap(Bytes& bytes) {
  Run wanted = take_run(bytes);
  unsigned target = bytes.u16() % page_count();
  const unsigned how = bytes.u8();
  const bool keep_source = how % 4 == 0;
  const unsigned more = how % 4 == 1 ? how / 4 % 8 : 0;  // pages by which it grows on the way, as realloc() does
  Run from = trim(wanted, [&](const Page& page) {
    return page.kind == Kind::kAnonymous && page.protection == pages_[wanted.first].protection && !page.locked;
  });
  from.count = std::min(from.count, page_count() - std::min(target + more, page_count()));
  bool overlap = from.first < target + from.count + more && target < from.end();
  if (from.count == 0 || overlap) return;
  history_.back() += fmt::format(" from {}+{} to {}{}{}", from.first, from.count, target, keep_source ? ", kept" : "",
                                 more != 0 ? fmt::format(", {} more", more) : "");
  for (unsigned page = target; page < target + from.count + more; ++page) touch(page);
  // Whole if it is one mapping, else page by page.
  unsigned step = one_mapping(from) ? from.count : 1;
  const unsigned grown = step == from.count ? more : 0;
  for (unsigned done = 0; done < from.count && !failed(); done += step) {
    Run source{from.first + done, step};
    Run destination{target + done, step};
    // The kernel would leave a coherent page's mapping of device memory behind at the source.
    auto mapping = space_.query(kArena + source.first * kPageSize);
    bool kept = keep_source && mapping && !mapping->shared;
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (kept ? MREMAP_DONTUNMAP : 0);
    ++operations_;
    if (mremap(pointer(source.first), step * kPageSize, (step + grown) * kPageSize, flags,
               pointer(destination.first)) == MAP_FAILED) {
      return fail(fmt::format("mremap of {} pages: {}", step, strerrordesc_np(errno)));
    }
    replace(source);
    replace({destination.first, step + grown});
    std::copy_n(pages_.begin() + source.first, step, pages_.begin() + destination.first);
    for (unsigned page = destination.first; page < destination.end(); ++page) pages_[page].wishes = 0;
    std::memcpy(contents_.data() + destination.first * kPageSize, contents_.data() + source.first * kPageSize,
                step * kPageSize);
    if (kept) {
      zero(source);
      for (unsigned page = source.first; page < source.end(); ++page) {
        pages_[page].freed = false;
        pages_[page].wishes = 0;
      }
    } else {
      forget(source);
    }
    zero({destination.end(), grown});
    std::fill_n(pages_.begin() + destination.end(), grown, pages_[destination.first].grown());
  }
}

void Model::grow(Bytes& bytes) {
  Run wanted = take_run(bytes);
  unsigned more = 1 + bytes.u8() % 100;
  Run run = trim(wanted, [&](const Page& page) {
    return page.kind == Kind::kAnonymous && page.protection == pages_[wanted.first].protection && !page.locked;
  });
  if (run.count == 0 || !one_mapping(run)) return;
  ++operations_;
  if (more % 2 == 0 && run.count > 1) {  // shrink
    unsigned left = 1 + more % (run.count - 1);
    if (mremap(pointer(run.first), run.count * kPageSize, left * kPageSize, 0) == MAP_FAILED) {
      return fail(fmt::format("mremap to shrink: {}", strerrordesc_np(errno)));
    }
    const Run gone{run.first + left, run.count - left};
    const Page again = pages_[run.first].grown();
    forget(gone);
    if (more % 4 != 0 || mremap(pointer(run.first), left * kPageSize, run.count * kPageSize, 0) == MAP_FAILED) return;
    std::fill_n(pages_.begin() + gone.first, gone.count, again);
    return;
  }
  Run beyond{run.end(), std::min(more, page_count() - run.end())};
  for (unsigned page = beyond.first; page < beyond.end(); ++page) touch(page);
  unsigned holes = 0;
  while (holes < beyond.count && pages_[beyond.first + holes].kind == Kind::kHole) ++holes;
  if (holes == 0) return;
  if (mremap(pointer(run.first), run.count * kPageSize, (run.count + holes) * kPageSize, 0) == MAP_FAILED) return;
  std::fill_n(pages_.begin() + run.end(), holes, pages_[run.first].grown());
}

void Model::discard(Bytes& bytes) {
  Run run = trim(take_run(bytes), [](const Page& page) { return page.kind != Kind::kHole; });
  if (run.count == 0) return;
  bool locked =
      std::any_of(pages_.begin() + run.first, pages_.begin() + run.end(), [](const Page& page) { return page.locked; });
  ++operations_;
  if (madvise(pointer(run.first), run.count * kPageSize, locked ? kDontneedLocked : MADV_DONTNEED) != 0) {
    return fail(fmt::format("MADV_DONTNEED: {}", strerrordesc_np(errno)));
  }
  for (unsigned page = run.first; page < run.end(); ++page) {
    pages_[page].freed = false;
    if (pages_[page].kind != Kind::kSharedFile) zero({page, 1});
  }
}

void Model::free_lazily(Bytes& bytes) {
  Run run = trim(take_run(bytes),
                 [](const Page& page) { return page.kind == Kind::kAnonymous && page.readable() && page.writable(); });
  if (run.count == 0) return;
  ++operations_;
  // Coherent and locked pages are refused, the others before them are freed all the same.
  (void)madvise(pointer(run.first), run.count * kPageSize, MADV_FREE);
  for (unsigned page = run.first; page < run.end(); ++page) pages_[page].freed = true;
}

void Model::protect(Bytes& bytes) {
  Run run = trim(take_run(bytes), [](const Page& page) { return page.kind != Kind::kHole; });
  if (run.count == 0) return;
  static constexpr int kProtections[] = {PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_NONE};
  int protection = kProtections[bytes.u8() % 4];
  history_.back() += fmt::format(" to {}", protection);
  for (unsigned page = run.first; page < run.end(); ++page) settle(kArena + page * kPageSize);
  ++operations_;
  if (mprotect(pointer(run.first), run.count * kPageSize, protection) != 0) {
    return fail(fmt::format("mprotect: {}", strerrordesc_np(errno)));
  }
  for (unsigned page = run.first; page < run.end(); ++page) {
    pages_[page].protection = static_cast<std::uint8_t>(protection);
  }
}

void Model::lock(Bytes& bytes) {
  bool on = bytes.u8() % 2 == 0;
  Run run = trim(take_run(bytes), [](const Page& page) {
    return page.kind == Kind::kAnonymous && page.readable() && page.writable() && !page.freed;
  });
  if (run.count == 0) return;
  ++operations_;
  int error =
      on ? mlock(pointer(run.first), run.count * kPageSize) : munlock(pointer(run.first), run.count * kPageSize);
  if (error != 0 && on) return;  // more than the limit
  for (unsigned page = run.first; page < run.end(); ++page) pages_[page].locked = on;
}

void Model::advise_huge(Bytes& bytes) {
  bool on = bytes.u8() % 2 == 0;
  Run run = trim(take_run(bytes), [](const Page& page) { return page.kind == Kind::kAnonymous; });
  if (run.count == 0) return;
  ++operations_;
  (void)madvise(pointer(run.first), run.count * kPageSize, on ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

// write(2) out of the memory and read(2) into it.
void Model::through_a_pipe(Bytes& bytes) {
  std::vector<char> buffer(kPipeSize);
  Run out = trim(take_run(bytes), [](const Page& page) { return page.readable(); });
  out.count = std::min<unsigned>(out.count, kPipeSize / kPageSize);
  for (unsigned page = out.first; page < out.end(); ++page) settle(kArena + page * kPageSize);
  if (out.count != 0) {
    auto size = static_cast<ssize_t>(out.count * kPageSize - 8);
    ++operations_;
    if (write(pipe_[1], pointer(out.first) + 8, static_cast<std::size_t>(size)) != size ||
        read(pipe_[0], buffer.data(), static_cast<std::size_t>(size)) != size ||
        std::memcmp(buffer.data(), contents_.data() + out.first * kPageSize + 8, static_cast<std::size_t>(size)) != 0) {
      return fail(fmt::format("write(2) of {} pages at page {} shows other data", out.count, out.first));
    }
  }
  Run in = trim(take_run(bytes), [](const Page& page) { return page.readable() && page.writable(); });
  in.count = std::min<unsigned>(in.count, kPipeSize / kPageSize);
  if (in.count == 0) return;
  for (unsigned page = in.first; page < in.end(); ++page) settle(kArena + page * kPageSize);
  auto size = static_cast<ssize_t>(in.count * kPageSize - 8);
  for (std::size_t i = 0; i + 8 <= static_cast<std::size_t>(size); i += 8) {
    std::uint64_t value = next_value();
    std::memcpy(buffer.data() + i, &value, 8);
  }
  ++operations_;
  if (write(pipe_[1], buffer.data(), static_cast<std::size_t>(size)) != size ||
      read(pipe_[0], pointer(in.first) + 8, static_cast<std::size_t>(size)) != size) {
    return fail(fmt::format("read(2) into {} pages at page {}: {}", in.count, in.first, strerrordesc_np(errno)));
  }
  std::memcpy(contents_.data() + in.first * kPageSize + 8, buffer.data(), static_cast<std::size_t>(size));
}

void Model::bring_home(Bytes& bytes) {
  Run run = take_run(bytes);
  ++operations_;
  mirror_.bring_home({kArena + run.first * kPageSize, run.count * kPageSize});
}

void Model::compare(Bytes& bytes) {
  compare_run("the CPU", take_run(bytes));
}

// --- fork

// In the child: no allocation. What lies in files may have gone on in the parent.
bool Model::child_is_right() const {
  unsigned wrong = 0;
  for (unsigned page = 0; page < page_count(); ++page) {
    if (!pages_[page].readable() || pages_[page].kind != Kind::kAnonymous || page_is(page)) continue;
    const char* wanted = contents_.data() + page * kPageSize;
    const char* seen = pointer(page);
    unsigned at = 0;
    while (seen[at] == wanted[at] && at + 8 < kPageSize) ++at;
    char line[128];
    const auto text =
        fmt::format_to_n(line, sizeof line, "child: page {} from byte {} on: {:#04x}, not {:#04x}\n", page, at,
                         static_cast<unsigned char>(seen[at]), static_cast<unsigned char>(wanted[at]));
    if (++wrong <= 8) (void)!write(STDERR_FILENO, line, static_cast<std::size_t>(text.out - line));
  }
  return wrong == 0;
}

void Model::fork_and_check(Bytes&) {
  ++operations_;
  pid_t child = fork();
  if (child == 0) _exit(child_is_right() ? 0 : 1);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
    compare_run("the parent of a child that sees other data", {0, page_count()});
    fail(fmt::format("a forked child sees other data (status {:#x})", status));
  }
}

// A child that lives on shares the pages with its parent meanwhile, and must see them as they were.
void Model::fork_and_stay(Bytes&) {
  if (child_ > 0) return end_child();
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail("pipe2");
  ++operations_;
  child_ = fork();
  if (child_ == 0) {
    close(ends[1]);
    char byte;
    (void)!read(ends[0], &byte, 1);  // until the parent closes its end
    _exit(child_is_right() ? 0 : 1);
  }
  close(ends[0]);
  child_pipe_ = ends[1];
  if (child_ < 0) fail("fork");
}

void Model::end_child() {
  if (child_ <= 0) return;
  close(child_pipe_);
  int status = 0;
  waitpid(child_, &status, 0);
  child_ = -1;
  if (status != 0) fail(fmt::format("a child that was forked earlier sees other data (status {:#x})", status));
}

}  // namespace mirrorcl::mirror

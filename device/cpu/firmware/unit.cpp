// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/firmware/unit.h"

#include <linux/futex.h>
#include <linux/prctl.h>
#include <string.h>
#include <time.h>

#include "base/futex.h"

namespace mirrorcl::firmware {
namespace {

using device::ControlBlock;
using device::FaultKind;
using device::kQueueSize;
using device::Packet;
using device::Queue;
using device::Signal;

std::uint32_t chunks_of(const Packet& packet) noexcept {
  return packet.chunk_count != 0 ? packet.chunk_count : 1;
}

// A right to run one chunk.
struct Claim {
  Queue* queue;
  Packet* packet;
  std::uint64_t index;  // of the packet
  std::uint32_t chunk;
};

// Whether `queue` has a chunk that nobody has claimed. A snapshot.
bool has_work(Queue& queue) noexcept {
  std::uint64_t index = queue.read_index.load(std::memory_order_seq_cst);
  if (index == queue.write_index.load(std::memory_order_seq_cst)) return false;
  Packet& packet = queue.packets[index % kQueueSize];
  std::uint64_t claim = packet.claim.load(std::memory_order_acquire);
  return claim >> 32 == static_cast<std::uint32_t>(index) && static_cast<std::uint32_t>(claim) < chunks_of(packet);
}

bool any_work() noexcept {
  ControlBlock& control = device_control.block();
  if (control.active.load(std::memory_order_acquire) == 0) return false;
  std::uint32_t count = control.queue_count.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < count; ++i) {
    if (has_work(*device_control.queue(i))) return true;
  }
  return false;
}

// A reused slot cannot be claimed with an old index: A first stores a claim that leaves nothing (of the new index),
// then the packet, then the real claim; so if the compare-and-swap succeeds, chunk_count was read from the packet of
// that index.
bool claim_from(Queue& queue, Claim* claim) noexcept {
  std::uint64_t index = queue.read_index.load(std::memory_order_acquire);
  if (index == queue.write_index.load(std::memory_order_acquire)) return false;
  Packet& packet = queue.packets[index % kQueueSize];
  std::uint64_t word = packet.claim.load(std::memory_order_acquire);
  while (word >> 32 == static_cast<std::uint32_t>(index) && static_cast<std::uint32_t>(word) < chunks_of(packet)) {
    if (packet.claim.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      *claim = {&queue, &packet, index, static_cast<std::uint32_t>(word)};
      return true;
    }
  }
  return false;
}

// Takes from the queues in turn, so that a busy one does not starve the others.
bool claim_any(Unit* unit, Claim* claim) noexcept {
  ControlBlock& control = device_control.block();
  if (control.active.load(std::memory_order_acquire) == 0) return false;
  std::uint32_t count = control.queue_count.load(std::memory_order_acquire);
  std::uint32_t at = unit->next_queue;
  for (std::uint32_t i = 0; i < count; ++i, ++at) {
    if (at >= count) at = 0;
    if (claim_from(*device_control.queue(at), claim)) {
      unit->next_queue = at + 1;
      return true;
    }
  }
  return false;
}

// Called by a unit that has just become busy with a packet: if there is more than it can take, the next sleeper must
// know. The caller does not count as spinning any more, so either A's ring or this look sees each packet.
void wake_next() noexcept {
  ControlBlock& control = device_control.block();
  if (control.sleeping_units.load(std::memory_order_seq_cst) == 0) return;
  if (control.spinning_units.load(std::memory_order_seq_cst) != 0 || !any_work()) return;
  control.doorbell.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(&control.doorbell, 1);
}

// Returns when there may be work.
void idle(Unit* unit) noexcept {
  ControlBlock& control = device_control.block();
  if (control.spinning_units.fetch_add(1, std::memory_order_seq_cst) < control.max_spinning && control.spin_ns != 0) {
    std::uint64_t end = now_ns() + control.spin_ns;
    do {
      for (int i = 0; i < 64; ++i) {
        if (any_work()) {
          control.spinning_units.fetch_sub(1, std::memory_order_seq_cst);
          return;
        }
        cpu_relax();
      }
      raw_syscall(SYS_sched_yield);  // the thread that would submit may wait for this very CPU
    } while (now_ns() < end);
  }
  control.sleeping_units.fetch_add(1, std::memory_order_seq_cst);
  control.spinning_units.fetch_sub(1, std::memory_order_seq_cst);
  std::uint32_t bell = control.doorbell.load(std::memory_order_seq_cst);
  if (!any_work()) {
    ++unit->sleeps;
    futex_wait(&control.doorbell, bell);
  }
  control.sleeping_units.fetch_sub(1, std::memory_order_seq_cst);
}

// Builds what the kernel is called with, once per packet and unit.
void prepare(Unit* unit, const Claim& claim) noexcept {
  if (unit->packet == claim.packet && unit->packet_index == claim.index) return;
  const Packet& packet = *claim.packet;
  unit->packet = claim.packet;
  unit->packet_index = claim.index;
  unit->state->packet.store(claim.packet, std::memory_order_relaxed);
  unit->unrunnable = FaultKind::kNone;
  unit->total_groups = packet.num_groups[0] * packet.num_groups[1] * packet.num_groups[2];
  unit->mxcsr = (packet.flags & Packet::kFlushDenormals) != 0 ? 0x9fc0 : 0x1f80;

  PoclContext& context = unit->context;
  device::WorkGroupView& view = unit->view;
  for (int d = 0; d < 3; ++d) {
    context.num_groups[d] = view.num_groups[d] = packet.num_groups[d];
    context.global_offset[d] = view.global_offset[d] = packet.global_offset[d];
    context.local_size[d] = view.local_size[d] = view.enqueued_local_size[d] = packet.local_size[d];
    view.global_size[d] =
        packet.num_groups[d] == 0 ? 0 : (packet.num_groups[d] - 1) * packet.local_size[d] + packet.last_local_size[d];
  }
  context.work_dim = packet.work_dim;
  view.work_dim = packet.work_dim;
  context.printf_buffer = reinterpret_cast<std::uint8_t*>(unit_space(unit->index) + kPrintfOffset);
  context.printf_buffer_position = &unit->printf_position;
  context.printf_buffer_capacity = packet.printf_buffer != nullptr ? kPrintfSize : 0;

  const device::ArgumentBlock* block = packet.arguments;
  if (block == nullptr) return;
  if (block->count > kMaxArguments) {
    unit->unrunnable = FaultKind::kOutOfMemory;
    return;
  }
  const device::Argument* arguments = block->arguments();
  const std::uint64_t local_start = unit_space(unit->index) + kLocalMemoryOffset;
  std::uint64_t local_used = 0;
  for (std::uint32_t i = 0; i < block->count; ++i) {
    if (arguments[i].kind == device::Argument::Kind::kValue) {
      unit->arguments[i] = reinterpret_cast<std::byte*>(packet.arguments) + arguments[i].offset;
      continue;
    }
    if (arguments[i].size > window::kUnitLocalMemory - local_used) {
      unit->unrunnable = FaultKind::kOutOfMemory;
      return;
    }
    unit->local_pointers[i] = reinterpret_cast<void*>(local_start + local_used);
    unit->arguments[i] = &unit->local_pointers[i];
    local_used += (arguments[i].size + 127) / 128 * 128;
  }
}

// The work-group function adds local ids to group * local_size + global_offset. In the smaller last group of a
// dimension local_size is that group's own, so the offset makes up for the difference.
void prepare_group(Unit* unit, const Packet& packet) noexcept {
  for (int d = 0; d < 3; ++d) {
    std::uint64_t group = unit->group[d];
    unit->view.group[d] = group;
    if (packet.last_local_size[d] == packet.local_size[d]) continue;
    bool last = group + 1 == packet.num_groups[d];
    std::uint64_t size = last ? packet.last_local_size[d] : packet.local_size[d];
    unit->context.local_size[d] = unit->view.local_size[d] = size;
    unit->context.global_offset[d] = packet.global_offset[d] + group * (packet.local_size[d] - size);
  }
}

// Appends what the work-group printed to the dispatch's buffer in one piece.
void append_printf(Unit* unit, device::PrintfBuffer* buffer) noexcept {
  std::uint32_t size = unit->printf_position;
  if (size == 0 || buffer == nullptr) return;
  if (size > kPrintfSize) size = kPrintfSize;
  if (buffer->used.load(std::memory_order_relaxed) >= buffer->capacity) return;
  std::uint32_t offset = buffer->used.fetch_add(size, std::memory_order_relaxed);
  if (offset >= buffer->capacity) return;
  std::uint32_t room = buffer->capacity - offset;
  memcpy(buffer->text() + offset, unit->context.printf_buffer, size < room ? size : room);
}

void run_chunk(Unit* unit, const Claim& claim) noexcept {
  Packet& packet = *claim.packet;
  std::uint64_t first = claim.chunk * packet.chunk_groups;
  std::uint64_t end = first + packet.chunk_groups;
  if (end > unit->total_groups) end = unit->total_groups;
  if (first >= end || packet.failed.load(std::memory_order_relaxed) != 0) return;

  unit->group[0] = first % packet.num_groups[0];
  unit->group[1] = first / packet.num_groups[0] % packet.num_groups[1];
  unit->group[2] = first / packet.num_groups[0] / packet.num_groups[1];
  if (unit->unrunnable != FaultKind::kNone) {
    record_failure(unit, unit->unrunnable, 0, packet.code);
    return;
  }
  auto code = reinterpret_cast<KernelEntry>(packet.code);
  void* stack = reinterpret_cast<void*>(unit_space(unit->index) + kKernelStackOffset + kKernelStackSize);
  asm volatile("fninit");
  for (std::uint64_t i = first; i < end; ++i) {
    prepare_group(unit, packet);
    unit->printf_position = 0;
    std::uint32_t aborted = mirrorcl_run_group(code, unit->arguments, &unit->context, unit->group, stack);
    unit->state->groups_run.store(unit->state->groups_run.load(std::memory_order_relaxed) + 1,
                                  std::memory_order_release);
    append_printf(unit, packet.printf_buffer);
    if (aborted != 0 || packet.failed.load(std::memory_order_relaxed) != 0) return;
    for (int d = 0; d < 3 && ++unit->group[d] == packet.num_groups[d]; ++d) unit->group[d] = 0;
  }
}

// By the unit that finished the packet's last chunk. From the store of read_index on, the slot is A's.
void complete(Unit* unit, const Claim& claim) noexcept {
  Packet& packet = *claim.packet;
  Signal* signal = packet.signal;
  std::uint32_t flags = packet.flags;
  bool failed = packet.failed.load(std::memory_order_acquire) != 0;
  if ((flags & Packet::kProfile) != 0 && signal != nullptr) signal->end_ns = now_ns();
  if (signal != nullptr)
    unit->state->finishing_serial.store(signal->serial.load(std::memory_order_relaxed), std::memory_order_relaxed);
  unit->state->finishing.store(signal, std::memory_order_release);
  claim.queue->read_index.store(claim.index + 1, std::memory_order_seq_cst);
  if (signal != nullptr) {
    std::int32_t status = failed ? device::kStatusKernelFailed : device::kStatusComplete;
    signal->status.store(static_cast<std::uint32_t>(status), std::memory_order_seq_cst);
    if (signal->waiters.load(std::memory_order_seq_cst) != 0) futex_wake(&signal->status, INT32_MAX);
  }
  unit->state->finishing.store(nullptr, std::memory_order_release);
  if ((flags & Packet::kNotify) != 0) {
    device::SharedControl& shared = device::shared_control();
    shared.completions.fetch_add(1, std::memory_order_seq_cst);
    if (shared.completion_waiters.load(std::memory_order_seq_cst) != 0) futex_wake(&shared.completions, INT32_MAX);
  }
}

void run_claim(Unit* unit, const Claim& claim) noexcept {
  Packet& packet = *claim.packet;
  if (unit->packet != claim.packet || unit->packet_index != claim.index) {
    // The next packet, if there is one, lies in the submitter's cache.
    auto* next = reinterpret_cast<const char*>(&claim.queue->packets[(claim.index + 1) % kQueueSize]);
    for (std::size_t offset = 0; offset < sizeof(Packet); offset += 64) __builtin_prefetch(next + offset);
    wake_next();
  }
  prepare(unit, claim);
  if (claim.chunk == 0 && packet.signal != nullptr) {
    if ((packet.flags & Packet::kProfile) != 0) packet.signal->start_ns = now_ns();
    packet.signal->status.store(static_cast<std::uint32_t>(device::kStatusRunning), std::memory_order_release);
  }
  run_chunk(unit, claim);
  std::uint32_t chunks = chunks_of(packet);
  if (packet.finished.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks) complete(unit, claim);
}

}  // namespace

std::uint64_t now_ns() noexcept {
  timespec time{};
  raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_nsec);
}

void record_failure(Unit* unit, FaultKind kind, std::uint64_t address, std::uint64_t instruction) noexcept {
  Packet& packet = *unit->packet;
  packet.failed.store(1, std::memory_order_release);
  Signal* signal = packet.signal;
  if (signal == nullptr || signal->error_claimed.exchange(1, std::memory_order_acq_rel) != 0) return;
  signal->error.kind = kind;
  signal->error.work_dim = packet.work_dim;
  signal->error.address = address;
  signal->error.instruction = instruction;
  for (int d = 0; d < 3; ++d) signal->error.group[d] = unit->group[d];
}

void run_unit(void* argument) {
  auto* unit = static_cast<Unit*>(argument);
  char name[16] = "mirrorcl-u";
  char* digit = name + 10;
  if (unit->index >= 100) *digit++ = static_cast<char>('0' + unit->index / 100);
  if (unit->index >= 10) *digit++ = static_cast<char>('0' + unit->index / 10 % 10);
  *digit = static_cast<char>('0' + unit->index % 10);
  raw_syscall(SYS_prctl, PR_SET_NAME, name);
  enter_signal_stack(unit);
  if (long result = restrict_unit(); result < 0) die("seccomp of a unit", static_cast<std::uint64_t>(-result));
  for (;;) {
    Claim claim;
    if (claim_any(unit, &claim)) {
      run_claim(unit, claim);
    } else {
      unit->state->packet.store(nullptr, std::memory_order_relaxed);
      idle(unit);
    }
  }
}

}  // namespace mirrorcl::firmware

// SPDX-License-Identifier: Apache-2.0
// What devices may do follows what the application may do: mprotect raises no event, so the protection of memory that
// devices have pages of is compared before each launch (LayoutWatch), and changes are applied here.
#include <sys/mman.h>

#include <algorithm>

#include "mirror/migrator.h"

namespace mirrorcl::mirror {

Outcome Migrator::apply_layout() noexcept {
  // Each change may rearrange the spans.
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t i = 0; i < watch_.size() && !changed; ++i) {
      const Outcome outcome = apply_layout_to(watch_.at(i), &changed);
      if (outcome != Outcome::kDone) return outcome;
    }
  }
  return Outcome::kDone;
}

Outcome Migrator::apply_layout_to(const LayoutWatch::Span& span, bool* changed) noexcept {
  for (std::uint64_t address = span.range.start; address < span.range.end();) {
    const auto mapping = space_.query_from(address);
    const std::uint64_t start =
        mapping ? std::clamp(mapping->range.start, address, span.range.end()) : span.range.end();
    const std::uint64_t end = mapping ? std::min(mapping->range.end(), span.range.end()) : span.range.end();
    if (start > address && span.is_file()) {
      *changed = true;
      end_sharing({address, start - address});
    }
    if (mapping && start < end && !span.matches(*mapping)) {
      *changed = true;
      return span.is_file() ? follow_file(span.devices, {start, end - start}, *mapping)
                            : follow_protection({start, end - start}, *mapping);
    }
    address = std::max(end, start);
  }
  return Outcome::kDone;
}

// `part` of a mapping that `devices` share is not what it was.
Outcome Migrator::follow_file(DeviceSet devices, Range part, const MappingInfo& mapping) noexcept {
  MappingInfo clipped = mapping;
  clipped.range = part;
  clipped.file_offset += part.start - mapping.range.start;
  // Mapped over at once, so that a running kernel finds the file at any time; but a kernel may not look at something
  // else.
  const auto shared = share_file(devices, part.start, Access::kRead, clipped);
  if (!shared || shared->outcome != Outcome::kDone) end_sharing(part);
  return Outcome::kDone;
}

// The application has changed the protection of `part`, which is mirrored.
Outcome Migrator::follow_protection(Range part, const MappingInfo& mapping) noexcept {
  if (!mapping.readable()) {
    // The device may not read it either. What it has of it comes home, and waits there for the protection to return.
    const Outcome outcome = bring_home(part);
    if (outcome == Outcome::kDone) watch_.remove(part);
    return outcome;
  }
  const Access access = mapping.writable() ? Access::kReadWrite : Access::kRead;
  blocks_.for_each(part, [&](Block& block) {
    const PageMask pages(block.pages(part));
    end_coherent_sharing(block, pages);
    for (AttachedDevice& device : devices_) {
      const PageMask coherent = block.coherent(device.index) & pages;
      const PageMask own = block.device(device.index) & pages;
      for (PageRun run = coherent.next_run(0); run.count != 0; run = coherent.next_run(run.end())) {
        on_device([&] { return shared(device).restrict(block.range(run), access); });
      }
      // Writable again: the device's next write faults, and finds that it may.
      for (PageRun run = own.next_run(0); run.count != 0 && !mapping.writable(); run = own.next_run(run.end())) {
        on_device([&] { return device->protect(block.range(run), Access::kRead); });
      }
    }
  });
  watch(part, mapping.protection);
  return Outcome::kDone;
}

// What the application may do at `address` now. A device may not do more.
Access Migrator::host_access(std::uint64_t address) noexcept {
  const auto mapping = space_.query(address);
  if (!mapping || !mapping->readable()) return Access::kNone;
  if (!mapping->writable()) return Access::kRead;
  // The device may get write access to it now, which must be taken away when the application's goes again.
  const Block* block = watch_.has_read_only() ? blocks_.find(address) : nullptr;
  if (block != nullptr && block->registered(page_in_block(address))) {
    watch(block->range(block->pages(mapping->range)), mapping->protection);
  }
  return Access::kReadWrite;
}

}  // namespace mirrorcl::mirror

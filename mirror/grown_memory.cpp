// SPDX-License-Identifier: Apache-2.0
// mremap makes a mapping of shared memory longer like any other, and tells nobody. To the application it is private
// memory, and what it grows by must be zero and its own; but the mapping shows more of the file: what is at the next
// addresses, or was there. The longer mapping inherits the registration, so that nobody touches the new pages before
// the mirror hears of it, and can put empty private memory in their place.
#include <algorithm>

#include "base/log.h"
#include "mirror/insist.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

bool Migrator::shows_shared_memory(const MappingInfo& mapping) const noexcept {
  if (!mapping.shared || mapping.excluded) return false;
  return std::any_of(devices_.begin(), devices_.end(), [&mapping](const AttachedDevice& device) {
    return device.operations != nullptr && device.shared_file == mapping.file;
  });
}

// kDone: what is mapped at `address` is private memory now, and registered. kFailed: it was none that has grown.
Outcome Migrator::take_back_grown(std::uint64_t address) noexcept {
  const auto mapping = space_.query(address);
  if (!mapping || !shows_shared_memory(*mapping)) return Outcome::kFailed;
  Block& block = blocks_.find_or_create(address);
  const unsigned page = page_in_block(address);
  if (block.registered(page)) return Outcome::kFailed;
  const PageMask grown = PageMask(block.pages(mapping->range)) & ~block.registered();
  PageRun run{page, 1};
  while (run.first > 0 && grown.test(run.first - 1)) --run.first;
  run.count = grown.find_clear(page) - run.first;
  const Range range = block.range(run);
  const int error = mappings_.replace(range, HostAgent::Expect::kGrown, HostMappings::kNothing);
  if (error == 0) {
    block.mark_registered(run);
    watch(range, mapping->protection);
    host_.wake(range);
    return Outcome::kDone;
  }
  blocks_.remove_if_empty(block);
  if (passes(error)) return Outcome::kAgain;
  log_error("coherent memory has grown by {:#x}-{:#x}, which cannot be made private: error {}", range.start,
            range.end(), -error);
  return Outcome::kFailed;
}

// Where mappings of shared memory that came to an end may have had more than the mirror knew.
Outcome Migrator::take_back_suspects() noexcept {
  while (!grown_suspects_.empty()) {
    const std::uint64_t address = grown_suspects_.back();
    const Outcome outcome = take_back_grown(address);
    if (outcome == Outcome::kAgain) return outcome;
    grown_suspects_.pop_back();
    // It may reach into the next block.
    if (outcome == Outcome::kDone) grown_suspects_.push_back(block_down(address) + kBlockSize);
  }
  return Outcome::kDone;
}

}  // namespace mirrorcl::mirror

// SPDX-License-Identifier: Apache-2.0
// Private mappings of files (.data of an executable or a library, a file mapped copy-on-write) and private huge pages
// cannot be watched with userfaultfd. The first device access to such a page replaces what lies around it, once, by
// anonymous memory with the same contents, which is mirrored like any other.
//
// No thread is stopped for it, and no write is lost: the pages themselves, not their contents, are put into a pipe,
// then the host agent moves an empty, registered mapping over them in one step. A write of the application lands in the
// old page up to that moment, and waits for us from then on. What comes out of the pipe afterwards is therefore the
// last word, and is shown in the new mapping.
#include <errno.h>
#include <sys/mman.h>

#include "base/log.h"
#include "mirror/insist.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

// kFailed: this memory stays as it is, and the reason has been told.
Outcome Migrator::make_anonymous(AttachedDevice& device, std::uint64_t address, const MappingInfo& mapping) noexcept {
  Block& block = blocks_.find_or_create(address);
  const PageRun run = anonymous_chunk(block, page_in_block(address), mapping);
  int error = run.count == 0 ? -EOPNOTSUPP : make_run_anonymous(device, block, run);
  // Parts of the chunk may lie behind the end of the file.
  if (error == -EFAULT && mapping.page_size == kPageSize) {
    error = make_run_anonymous(device, block, {page_in_block(address), 1});
  }
  blocks_.remove_if_empty(block);
  if (error == 0) return Outcome::kDone;
  if (error == -EAGAIN) return Outcome::kAgain;
  if (error == -EFAULT) return Outcome::kFailed;  // behind the end of the file
  if (!told_private_file_) {
    log_warning(
        "private memory of a file at {:#x} cannot become anonymous memory (error {}): devices get read-only copies",
        address, -error);
  }
  told_private_file_ = true;
  return Outcome::kFailed;
}

// The pages that are replaced together with `page`: as many as the pipe holds, of huge pages the block, or none.
PageRun Migrator::anonymous_chunk(const Block& block, unsigned page, const MappingInfo& mapping) noexcept {
  const unsigned size = page_pipe_.capacity();
  const PageRun whole = block.pages(mapping.range);
  if (mapping.page_size == kBlockSize && size == kBlockPages) return whole;
  if (mapping.page_size != kPageSize || size == 0) return {page, 0};
  const unsigned start = page / size * size;
  const unsigned first = std::max(start, whole.first);
  return {first, std::min(start + size, whole.end()) - first};
}

// 0; -EAGAIN: the application changes something there; or -errno. Nothing has happened unless it is 0.
int Migrator::make_run_anonymous(AttachedDevice& device, Block& block, PageRun run) noexcept {
  const Range range = block.range(run);
  // Every page becomes the process's own, as if it had written to it.
  if (int error = agent_.make_exclusive(range, events_, host_); error != 0) return error;
  if (int error = page_pipe_.put(range, agent_, events_); error != 0) return error;
  // A page that the application has discarded meanwhile would be shown by the file again, and written elsewhere.
  int error = space_.all_private(range);
  if (error == 0) error = mappings_.replace(range, HostAgent::Expect::kAnything, HostMappings::kNothing);
  if (error != 0) {
    page_pipe_.drop();
    return error;
  }
  drop_snapshots(block, PageMask(run));
  block.mark_registered(run);
  watch(range, PROT_READ | PROT_WRITE);
  policies_.became_anonymous(range);
  counters_.add(&Statistics::pages_made_anonymous, run.count);
  if (error = page_pipe_.take(bounce_, range.size); error != 0) {
    log_error("the contents of {:#x}-{:#x} are lost: error {}", range.start, range.end(), -error);
  }
  show_contents(device, block, run);
  return 0;
}

// Puts `bounce_` into the empty pages of `run`; where an event stands in the way, into device memory, from where the
// page comes home like any other.
void Migrator::show_contents(AttachedDevice& device, Block& block, PageRun run) noexcept {
  const Range range = block.range(run);
  auto progress = host_.copy(range, reinterpret_cast<std::uint64_t>(bounce_), Userfaultfd::Wake::kYes);
  const auto shown = static_cast<unsigned>(progress.done / kPageSize);
  if (shown == run.count) return;
  const PageRun rest{run.first + shown, run.count - shown};
  const long error = insist(
      [&] { return on_device([&] { return device->copy_in(block.range(rest), bounce_ + shown * kPageSize); }); });
  if (error != 0) {
    log_error("the contents of {:#x} are lost: device memory refused them with error {}", block.range(rest).start,
              -error);
    return;
  }
  block.host_to_device(device.index, rest);
  host_.wake(range);
}

}  // namespace mirrorcl::mirror

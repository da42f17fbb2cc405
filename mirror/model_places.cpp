// SPDX-License-Identifier: Apache-2.0
// The model's programs say where memory should live, as hbind() lets them: policies, moves and questions.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "mirror/model.h"

namespace mirrorcl::mirror {
namespace {

// `count` uids of `objects`, from the one at `first` on and around.
template <typename Objects>
std::vector<std::uint32_t> take_uids(const Objects& objects, unsigned first, std::size_t count) {
  std::vector<std::uint32_t> uids;
  for (std::size_t i = 0; i < std::min<std::size_t>(count, objects.size()); ++i) {
    uids.push_back(objects[(first + i) % objects.size()].uid);
  }
  return uids;
}

}  // namespace

void Model::say_where(Bytes& bytes) {
  struct Form {
    std::uint32_t command;
    unsigned targets;     // listed at most
    unsigned initiators;  // likewise, in extra dwords
    int dword;            // the one extra dword; -1: none
  };
  static constexpr Form kForms[] = {
      {HBIND_CMD_DEFAULT, 0, 0, -1},     {HBIND_CMD_BIND, 1, 0, -1},        {HBIND_CMD_BIND, 3, 0, -1},
      {HBIND_CMD_PREFERRED, 1, 0, -1},   {HBIND_CMD_PREFERRED, 0, 0, -1},   {HBIND_CMD_ACCESSED_BY, 0, 1, -1},
      {HBIND_CMD_ACCESSED_BY, 0, 3, -1}, {HBIND_CMD_ACCESSED_BY, 0, 0, -1}, {HBIND_CMD_READ_MOSTLY, 0, 0, 1},
      {HBIND_CMD_READ_MOSTLY, 0, 0, 0},  {HBIND_CMD_MIGRATE, 1, 0, 0},      {HBIND_CMD_MIGRATE, 1, 0, 0},
      {HBIND_CMD_MIGRATE, 2, 0, 0},      {HBIND_CMD_PREFETCH, 1, 0, -1},    {HBIND_CMD_QUERY_RESIDENCY, 1, 0, -1},
  };
  const Run run = trim(take_run(bytes), [](const Page& page) { return page.kind != Kind::kHole; });
  const Form& form = kForms[bytes.u8() % std::size(kForms)];
  const unsigned first = bytes.u8();
  if (binder_ == nullptr || run.count == 0) return;
  const auto topology = binder_->topology();
  std::vector<std::uint32_t> targets = take_uids(topology->targets(), first, form.targets);
  std::vector<std::uint32_t> dwords = take_uids(topology->initiators(), first, form.initiators);
  if (form.dword >= 0) dwords.push_back(static_cast<std::uint32_t>(form.dword));
  if (form.command == HBIND_CMD_QUERY_RESIDENCY) dwords.resize(targets.size() + 2);
  history_.back() +=
      fmt::format(" {}+{} command {} of {}", run.first, run.count, form.command, fmt::join(targets, ","));
  std::vector<std::uint32_t> atoms{HBIND_ATOM(form.command, dwords.size())};
  atoms.insert(atoms.end(), dwords.begin(), dwords.end());
  const hbind_params call{kArena + run.first * kPageSize,
                          kArena + run.end() * kPageSize,
                          static_cast<std::uint32_t>(targets.size()),
                          static_cast<std::uint32_t>(atoms.size()),
                          reinterpret_cast<std::uint64_t>(targets.data()),
                          reinterpret_cast<std::uint64_t>(atoms.data())};
  ++operations_;
  if (const int error = binder_->hbind(&call); error != 0) {
    return fail(fmt::format("hbind() with command {} of {} pages at page {}: error {}", form.command, run.count,
                            run.first, -error),
                run.first);
  }
  note_wishes(run, form.command, !targets.empty() || form.initiators != 0 || form.dword == 1);
}

// hbind() has changed the policy of `run`.
void Model::note_wishes(Run run, std::uint32_t command, bool wanted) {
  for (unsigned page = run.first; page < run.end(); ++page) {
    std::uint8_t& wishes = pages_[page].wishes;
    const auto set = [&](unsigned wish) {
      wishes = static_cast<std::uint8_t>(wanted ? wishes | wish : wishes & ~wish);
    };
    if (command == HBIND_CMD_DEFAULT) wishes = 0;
    if (command == HBIND_CMD_BIND) wishes = kBound;
    if (command == HBIND_CMD_PREFERRED) set(kPreferred);
    if (command == HBIND_CMD_ACCESSED_BY) set(kAccessedBy);
    if (command == HBIND_CMD_READ_MOSTLY) set(kReadMostly);
  }
}

// Policies of anonymous memory are the ones that the program has set, and end with it. Those of files may outlive it
// (docs/status.md).
void Model::compare_wishes() {
  if (binder_ == nullptr || failed()) return;
  mirror_.drain_events();
  std::vector<std::uint8_t> found(pages_.size());
  const hms::AddressRange arena{kArena, kArena + size()};
  binder_->policies().for_each(arena, [&](hms::AddressRange range, const hms::Policy& policy) {
    const unsigned wishes = (policy.bind.empty() ? 0U : kBound) | (policy.preferred == hms::kNoUid ? 0U : kPreferred) |
                            (policy.accessed_by.empty() ? 0U : kAccessedBy) | (policy.read_mostly ? kReadMostly : 0U);
    const unsigned first = page_of(std::max(range.start, arena.start));
    std::fill_n(found.begin() + first, page_of(std::min(range.end, arena.end)) - first,
                static_cast<std::uint8_t>(wishes));
  });
  for (unsigned page = 0; page < page_count(); ++page) {
    if (pages_[page].kind != Kind::kAnonymous || found[page] == pages_[page].wishes) continue;
    return fail(fmt::format("page {} has policies {:#x}, not {:#x}", page, found[page], pages_[page].wishes), page);
  }
}

}  // namespace mirrorcl::mirror

// SPDX-License-Identifier: Apache-2.0
// hms why: why a page of a live process lives where it does.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "hms/live_view.h"
#include "hms/placement.h"
#include "hms/query.h"
#include "hms/render.h"
#include "hms/residency.h"
#include "hms/tool/command.h"
#include "hms/tool/place.h"

namespace mirrorcl::hms::tool {
namespace {

constexpr std::uint64_t kPageSize = 4096;

struct Options {
  pid_t pid = 0;
  std::string address;
  std::size_t most = 10;
};

// --- why

bool concerns(const LiveDecision& decision, std::uint64_t address) {
  return address >= decision.address && address - decision.address < decision.pages * kPageSize;
}

const char* verb_of(std::uint8_t access) {
  switch (static_cast<Access>(access)) {
    case Access::kRead:
      return "read";
    case Access::kWrite:
      return "wrote";
    case Access::kAtomic:
      return "changed";
  }
  return "touched";
}

std::string action_text(const LiveState& state, const LiveDecision& decision) {
  const std::string from = state.name_of(decision.from);
  const std::string to = state.name_of(decision.to);
  switch (static_cast<Action>(decision.action)) {
    case Action::kMap:
      return fmt::format("it stayed in {} and was mapped", to);
    case Action::kMove:
      return decision.from == live::kNowhere ? fmt::format("it was allocated in {}", to)
                                             : fmt::format("it moved from {} to {}", from, to);
    case Action::kDuplicate:
      return fmt::format("it was copied from {} to {}", from, to);
    case Action::kShare:
      return fmt::format("it went to {}, where both sides map it", to);
    case Action::kHold:
      return fmt::format("it had to rest in {} for a while", from);
    case Action::kFail:
      return "the access failed";
  }
  return fmt::format("what happened ({}) is unknown to this version of hms", decision.action);
}

std::string reason_text(const LiveDecision& decision) {
  const std::string text = hms::text_of(static_cast<Reason>(decision.reason));
  return text != "?" ? text : fmt::format("for a reason ({}) that is unknown to this version of hms", decision.reason);
}

// Nobody's access led to it.
bool was_asked_for(const LiveDecision& decision) {
  const auto reason = static_cast<Reason>(decision.reason);
  return reason == Reason::kAsked || reason == Reason::kEvicted;
}

std::string policy_text(const LiveState& state, const LiveDecision& decision) {
  if ((decision.flags & live::Decision::kHasPolicy) == 0) return "the program had no wish for this range";
  std::string text;
  const auto add = [&](const std::string& wish) { text += (text.empty() ? "the program's wish: " : "; ") + wish; };
  if (decision.bind_count != 0) {
    std::string names;
    const std::size_t listed = std::min<std::size_t>(decision.bind_count, live::Decision::kBindListed);
    for (std::size_t i = 0; i < listed; ++i) names += (i == 0 ? "" : ", ") + state.name_of(decision.bind[i]);
    if (decision.bind_count > listed) names += fmt::format(" and {} more", decision.bind_count - listed);
    add("bound to " + names);
  }
  if (decision.preferred != kNoUid) add("rather in " + state.name_of(decision.preferred));
  if (decision.accessed_by_count != 0)
    add(fmt::format("mapped for {} who access it all the time", decision.accessed_by_count));
  if ((decision.flags & live::Decision::kReadMostly) != 0) add("read mostly");
  return text;
}

std::string decision_text(const LiveState& state, const LiveDecision& decision) {
  std::string text = fmt::format("{} ago ", time_text(state.read_ns - std::min(decision.time_ns, state.read_ns)));
  if ((decision.flags & live::Decision::kAllocation) != 0) {
    text += fmt::format("the program allocated it for {}: it lies in {}", state.name_of(decision.requester),
                        state.name_of(decision.to));
  } else {
    if (!was_asked_for(decision))
      text += fmt::format("{} {} it: ", state.name_of(decision.requester), verb_of(decision.access));
    text += action_text(state, decision);
  }
  if (decision.pages > 1) text += fmt::format(", with {} pages around it", decision.pages - 1);
  if ((decision.flags & live::Decision::kEvicts) != 0) text += ", for which something else had to leave";
  return fmt::format("{}.\n    Because: {}.\n    Policy: {}.\n", text, reason_text(decision),
                     policy_text(state, decision));
}

// --- what else there was

// What to read a page once costs, as placement.h reckons.
std::string cost_text(const Candidate& candidate) {
  if (!candidate.bandwidth || candidate.bandwidth->number == 0) return "cost unknown";
  const std::uint64_t transfer = kPageSize * 1'000'000'000 / (candidate.bandwidth->number << 20);
  const std::uint64_t latency = candidate.latency ? candidate.latency->number : 0;
  return fmt::format("{} ({}, {})", time_text(latency + transfer), bandwidth_text(candidate.bandwidth->number),
                     candidate.latency ? time_text(latency) : "latency unknown");
}

std::vector<Uid> initiators_of(const LiveState& state, Uid requester) {
  std::vector<Uid> result;
  if (requester == live::kHostThreads) {
    for (const Initiator& initiator : state.topology->initiators()) {
      if (initiator.kind == InitiatorKind::kCpu) result.push_back(initiator.uid);
    }
  } else if (const Uid uid = state.in_topology(requester); state.topology->initiator(uid) != nullptr) {
    result.push_back(uid);
  }
  return result;
}

// To read a page once, for everybody who asked for one of `decisions`, from wherever he reaches it.
std::string alternatives_text(const LiveState& state, std::span<const LiveDecision> decisions) {
  constexpr std::size_t kMost = 8;
  if (!state.topology) return "What other memories cost is not known: the process has not published its topology.\n";
  std::string text;
  std::vector<Uid> told;
  for (const LiveDecision& decision : decisions) {
    if (std::ranges::find(told, decision.requester) != told.end()) continue;
    told.push_back(decision.requester);
    const std::vector<Uid> initiators = initiators_of(state, decision.requester);
    const auto best = initiators.empty() ? Result<std::vector<Candidate>>{}
                                         : best_targets(*state.topology, {.initiators = initiators, .limit = kMost});
    if (!best || best->empty()) continue;
    text += fmt::format("To read a page once costs {}:\n", state.name_of(decision.requester));
    for (const Candidate& candidate : *best) {
      text += fmt::format("    {:<24} {}\n", state.name_of(candidate.target), cost_text(candidate));
    }
  }
  return text;
}

// The newest first.
std::vector<LiveDecision> decisions_about(const LiveState& state, std::uint64_t address, std::size_t most) {
  std::vector<LiveDecision> about;
  for (const auto* kind : {&state.decisions, &state.allocations}) {
    std::ranges::copy_if(*kind, std::back_inserter(about), [&](const auto& one) { return concerns(one, address); });
  }
  std::ranges::stable_sort(about, std::greater{},
                           [](const LiveDecision& one) { return std::pair(one.time_ns, one.number); });
  if (about.size() > most) about.resize(most);
  return about;
}

Result<void> explain(const Options& options) {
  const auto address = address_named(options.address);
  if (!address) return tl::unexpected<Error>(address.error());
  const auto view = LiveView::open(options.pid);
  if (!view) return tl::unexpected<Error>(view.error());
  const auto page = read_page_residency(options.pid, *address);
  if (!page) return tl::unexpected<Error>(page.error());
  const auto state = view->read();
  if (!state) return tl::unexpected<Error>(state.error());

  const std::vector<LiveDecision> about = decisions_about(*state, *address, options.most);
  std::string text = fmt::format("process {} ({}): {:#x} {}.\n", state->pid, state->command, *address,
                                 place_text(&*state, *address, *page));
  if (about.empty()) {
    text += fmt::format("None of the last {} decisions concerns it ({} were made since the start).\n",
                        state->decisions.size(), state->decisions_made);
  }
  for (const LiveDecision& decision : about) text += "  " + decision_text(*state, decision);
  if (!about.empty()) text += alternatives_text(*state, about);
  return write_output(text, "");
}

}  // namespace

void add_why(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("why", "why a page of a live process lives where it does");
  command->add_option("pid", options->pid, "the process")->required();
  command->add_option("address", options->address, "an address of it, in hexadecimal")->required();
  command->add_option("-n", options->most, "at most so many decisions, the newest first (10)")
      ->check(CLI::PositiveNumber);
  command->callback([options, &context] {
    if (const auto done = explain(*options); !done) complain(context, done.error());
  });
}

}  // namespace mirrorcl::hms::tool

// SPDX-License-Identifier: Apache-2.0
// Applies the application's address-space events to the mirror, in the order in which they were read.
//
// Locking: service thread only.
#pragma once

#include "mirror/host_events.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

class Notifier {
 public:
  Notifier(HostEvents& events, Migrator& migrator) : events_(events), migrator_(migrator) {}

  // Reads and applies events until none is left, then lets drain_events() return.
  void apply_pending() noexcept {
    do {
      events_.read_pending();
      while (events_.has_events()) apply(events_.take_event());
    } while (migrator_.place_moved() == Outcome::kAgain);
    events_.hold(migrator_.settle_discards() == Outcome::kAgain);
    events_.settle();
  }

 private:
  void apply(const HostEvent& event) noexcept {
    switch (event.kind) {
      case HostEvent::Kind::kUnmap:
        return migrator_.unmapped(event.range);
      case HostEvent::Kind::kRemove:
        return migrator_.discarded(event.range);
      case HostEvent::Kind::kRemap:
        return migrator_.moved(event.range, event.to);
    }
  }

  HostEvents& events_;
  Migrator& migrator_;
};

}  // namespace mirrorcl::mirror

// SPDX-License-Identifier: Apache-2.0
// What is left to do once a lock is let go: advancing queues whose dependencies are met, calling callbacks, reporting
// errors, and freeing what retired commands held. None of it may happen under a queue's lock, because it enters other
// queues or the application's code.
//
// Usage: declare before the lock, so that it is destroyed after it.
#pragma once

#include <CL/cl.h>

#include <string>
#include <utility>
#include <vector>

#include "icd/core/event.h"
#include "icd/core/object.h"

namespace mirrorcl::icd {

class Runtime;

class Aftermath {
 public:
  Aftermath() = default;
  Aftermath(const Aftermath&) = delete;
  Aftermath& operator=(const Aftermath&) = delete;
  // Runs what is left. No lock of this driver may be held.
  ~Aftermath() {
    if (anything_) run();
  }
  void run();

  // `queue` has a command whose last dependency was met.
  void advance(Ref<_cl_command_queue> queue);
  // `queue` needs the host worker.
  void watch(Ref<_cl_command_queue> queue);
  // The host worker looks at its queues, which it watches already, once more.
  void wake_worker(Runtime& runtime) noexcept;
  // Goes to the callback thread.
  void call(Attached<_cl_event> event, EventCallback callback, cl_int status, void* user_data);
  // Goes to the context's error callback.
  void report(_cl_context* context, std::string message);
  // Lets go of what `command` held, and of the queue's reference to it.
  void retire(_cl_event& command) noexcept;

 private:
  struct Call {
    Attached<_cl_event> event;  // keeps the handle valid until the callback has returned
    EventCallback function;
    cl_int status;
    void* user_data;
  };

  void free_retired() noexcept;

  bool anything_ = false;
  _cl_event* retired_ = nullptr;  // linked by next_
  std::vector<Ref<_cl_command_queue>> to_advance_;
  std::vector<Ref<_cl_command_queue>> to_watch_;
  Runtime* to_wake_ = nullptr;
  std::vector<Call> calls_;
  std::vector<std::pair<Attached<_cl_context>, std::string>> reports_;
};

}  // namespace mirrorcl::icd

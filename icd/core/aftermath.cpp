// SPDX-License-Identifier: Apache-2.0
#include "icd/core/aftermath.h"

#include "icd/core/command_queue.h"
#include "icd/core/context.h"
#include "icd/core/runtime.h"

namespace mirrorcl::icd {

void Aftermath::advance(Ref<_cl_command_queue> queue) {
  anything_ = true;
  to_advance_.push_back(std::move(queue));
}

void Aftermath::watch(Ref<_cl_command_queue> queue) {
  anything_ = true;
  to_watch_.push_back(std::move(queue));
}

void Aftermath::wake_worker(Runtime& runtime) noexcept {
  anything_ = true;
  to_wake_ = &runtime;
}

void Aftermath::call(Attached<_cl_event> event, EventCallback callback, cl_int status, void* user_data) {
  anything_ = true;
  calls_.push_back({std::move(event), callback, status, user_data});
}

void Aftermath::report(_cl_context* context, std::string message) {
  anything_ = true;
  reports_.emplace_back(Attached<_cl_context>(context), std::move(message));
}

void Aftermath::retire(_cl_event& command) noexcept {
  anything_ = true;
  command.next_ = retired_;
  retired_ = &command;
}

void Aftermath::free_retired() noexcept {
  while (retired_ != nullptr) {
    _cl_event* command = retired_;
    retired_ = std::exchange(command->next_, nullptr);
    command->launch_.reset();
    command->work_ = nullptr;
    if (command->shown_) {
      command->release();
    } else {
      command->api_release();
    }
  }
}

void Aftermath::run() {
  while (anything_) {
    anything_ = false;
    free_retired();
    for (auto& [context, message] : std::exchange(reports_, {})) context->report_error(message);
    for (auto& call : std::exchange(calls_, {})) {
      callback_thread().post(
          [call = std::move(call)] { call.function(call.event.get(), call.status, call.user_data); });
    }
    for (auto& queue : std::exchange(to_watch_, {})) {
      HostWorker& worker = queue->runtime().worker();
      worker.watch(std::move(queue));
    }
    if (Runtime* runtime = std::exchange(to_wake_, nullptr)) runtime->worker().wake();
    for (auto& queue : std::exchange(to_advance_, {})) queue->advance_ready(*this);
  }
}

}  // namespace mirrorcl::icd

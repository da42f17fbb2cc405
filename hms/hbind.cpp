// SPDX-License-Identifier: Apache-2.0
// The C functions: hbind() on the process's own binder, and the friendly ones on hbind().
#include "hms/hbind.h"

#include <errno.h>

#include <initializer_list>
#include <vector>

#include "base/log.h"
#include "hms/process.h"

namespace {

// One command and its extra dwords, on `targets`. The dwords are written back.
int bind_with(const void* start, size_t size, const uint32_t* targets, uint32_t target_count, uint32_t command,
              std::vector<uint32_t>& dwords) {
  std::vector<uint32_t> atoms{HBIND_ATOM(command, dwords.size())};
  atoms.insert(atoms.end(), dwords.begin(), dwords.end());
  auto address = reinterpret_cast<uint64_t>(start);
  uint64_t end = size > ~uint64_t{0} - address ? ~uint64_t{0} : address + size;
  hbind_params params{address,
                      end,
                      target_count,
                      static_cast<uint32_t>(atoms.size()),
                      reinterpret_cast<uint64_t>(targets),
                      reinterpret_cast<uint64_t>(atoms.data())};
  int result = hbind(&params);
  dwords.assign(atoms.begin() + 1, atoms.end());
  return result;
}

// No exception leaves a C function.
template <typename Body>
auto guarded(const Body& body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    errno = ENOMEM;
    return -1;
  }
}

int bind_with(const void* start, size_t size, const uint32_t* targets, uint32_t target_count, uint32_t command,
              std::initializer_list<uint32_t> dwords = {}) {
  return guarded([&] {
    std::vector<uint32_t> extra(dwords);
    return bind_with(start, size, targets, target_count, command, extra);
  });
}

}  // namespace

extern "C" {

int hbind(struct hbind_params* params) {
  return guarded([&] {
    auto binder = mirrorcl::hms::process_binder();
    int error = binder ? (*binder)->hbind(params) : -ENODEV;
    if (!binder) mirrorcl::log_info("hbind: {}", binder.error().message);
    if (error == 0) return 0;
    errno = -error;
    return -1;
  });
}

int hms_bind(const void* start, size_t size, const uint32_t* targets, uint32_t target_count) {
  return bind_with(start, size, targets, target_count, HBIND_CMD_BIND);
}

int hms_unbind(const void* start, size_t size) {
  return bind_with(start, size, nullptr, 0, HBIND_CMD_DEFAULT);
}

int hms_prefer(const void* start, size_t size, uint32_t target) {
  return bind_with(start, size, &target, 1, HBIND_CMD_PREFERRED);
}

int hms_prefetch(const void* start, size_t size, uint32_t target) {
  return bind_with(start, size, &target, 1, HBIND_CMD_PREFETCH);
}

int hms_accessed_by(const void* start, size_t size, const uint32_t* initiators, uint32_t initiator_count) {
  if (initiator_count != 0 && initiators == nullptr) {
    errno = EFAULT;
    return -1;
  }
  if (initiator_count >= HBIND_MAX_ATOMS) {
    errno = EINVAL;
    return -1;
  }
  return guarded([&] {
    std::vector<uint32_t> extra(initiators, initiators + initiator_count);
    return bind_with(start, size, nullptr, 0, HBIND_CMD_ACCESSED_BY, extra);
  });
}

int hms_read_mostly(const void* start, size_t size, int enable) {
  return bind_with(start, size, nullptr, 0, HBIND_CMD_READ_MOSTLY, {enable != 0 ? 1U : 0U});
}

int64_t hms_migrate(const void* start, size_t size, const uint32_t* targets, uint32_t target_count) {
  return guarded([&]() -> int64_t {
    std::vector<uint32_t> moved{0};
    int result = bind_with(start, size, targets, target_count, HBIND_CMD_MIGRATE, moved);
    return result != 0 ? -1 : int64_t{moved[0]};
  });
}

}  // extern "C"

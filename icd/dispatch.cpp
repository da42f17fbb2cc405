// SPDX-License-Identifier: Apache-2.0
#include "icd/dispatch.h"

#include "icd/core/object.h"

namespace mirrorcl::icd {

// The slots of clGetPlatformIDs and clUnloadCompiler hold cl_khr_icd 2's tag; no loader ever calls them. Constant data:
// the compiler folds the casts, nothing runs when the library is loaded.
const _cl_icd_dispatch kDispatch = {
#define MIRRORCL_ENTRY(name) .name = ::name,
#define MIRRORCL_TAGGED(name) .name = reinterpret_cast<cl_api_##name>(CL_ICD2_TAG_KHR),
#define MIRRORCL_FOREIGN(name) .name = ::name,
#define MIRRORCL_ABSENT(name) .name = nullptr,
#define MIRRORCL_ALIAS(name, target) .name = ::target,
#include "icd/entry_points.def"
};

namespace {

constexpr std::size_t kSlots = 0
#define MIRRORCL_ENTRY(name) +1
#define MIRRORCL_TAGGED(name) +1
#define MIRRORCL_FOREIGN(name) +1
#define MIRRORCL_ABSENT(name) +1
#define MIRRORCL_ALIAS(name, target) +1
#include "icd/entry_points.def"
    ;
static_assert(sizeof(_cl_icd_dispatch) == kSlots * sizeof(void*), "entry_points.def does not name every slot");

struct NamedFunction {
  const char* name;  // not a string_view, so that the list is constant data
  void* address;
  bool core;
};

const NamedFunction kFunctions[] = {
#define MIRRORCL_ENTRY(name) {#name, reinterpret_cast<void*>(&::name), true},
#define MIRRORCL_TAGGED(name) {#name, reinterpret_cast<void*>(&::name), true},
#define MIRRORCL_EXTENSION(name) {#name, reinterpret_cast<void*>(&::name), false},
#include "icd/entry_points.def"
};

}  // namespace

void* find_entry_point(std::string_view name, bool core) noexcept {
  for (const NamedFunction& function : kFunctions) {
    if (function.name == name) return core || !function.core ? function.address : nullptr;
  }
  return nullptr;
}

}  // namespace mirrorcl::icd

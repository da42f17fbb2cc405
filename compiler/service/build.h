// SPDX-License-Identifier: Apache-2.0
// One build, compilation or link: front end, PoCL, and what both know of each kernel put together.
#pragma once

#include "compiler/protocol.h"
#include "compiler/service/front_end.h"
#include "compiler/service/pocl.h"

namespace mirrorcl::compiler {

Reply build_program(const Request& request, FrontEnd& front_end, pocl::Pocl& pocl);

}  // namespace mirrorcl::compiler

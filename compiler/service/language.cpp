// SPDX-License-Identifier: Apache-2.0
#include "compiler/service/language.h"

#include <fmt/format.h>

#include <array>

#include "compiler/service/pocl_version.h"

namespace mirrorcl::compiler {
namespace {

constexpr std::array kExtensions{"cl_khr_fp64",
                                 "cl_khr_int64_base_atomics",
                                 "cl_khr_int64_extended_atomics",
                                 "cl_khr_byte_addressable_store",
                                 "cl_khr_global_int32_base_atomics",
                                 "cl_khr_global_int32_extended_atomics",
                                 "cl_khr_local_int32_base_atomics",
                                 "cl_khr_local_int32_extended_atomics"};

// __opencl_c_atomic_scope_device and _all_devices are macros of prefix.h. Images are on because the headers do not
// parse without them; prefix.h takes the macro back.
constexpr std::array kFeatures{"__opencl_c_generic_address_space",
                               "__opencl_c_atomic_order_acq_rel",
                               "__opencl_c_atomic_order_seq_cst",
                               "__opencl_c_int64",
                               "__opencl_c_fp64",
                               "__opencl_c_images"};

}  // namespace

std::vector<std::string> language_arguments(const BuildOptions& options, const std::string& target_cpu) {
  std::string extensions = "-cl-ext=-all";
  for (const char* name : kExtensions) extensions += fmt::format(",+{}", name);
  if (options.standard >= 300) {
    for (const char* name : kFeatures) extensions += fmt::format(",+{}", name);
  }
  // clang leaves optimising to PoCL's work-group passes: -O0, but without the attribute that would keep them away. With
  // -cl-opt-disable they optimise all the same; the option permits less, it does not promise it.
  std::vector<std::string> arguments{
      "-triple", pocl::kTriple, "-target-cpu", target_cpu, "-x", "cl",
      fmt::format("-cl-std=CL{}.{}", options.standard / 100, options.standard / 10 % 10), extensions,
      // PoCL 3.1 reads typed pointers.
      "-no-opaque-pointers", "-cl-kernel-arg-info", "-fno-builtin", "-O0", "-disable-O0-optnone", "-mrelocation-model",
      "pic", "-pic-level", "2", "-fblocks",
      // "inline" alone defines a function, as a program of one translation unit needs.
      "-fgnu89-inline", "-D__OPENCL_VERSION__=300",
      // What PoCL's headers ask for.
      "-DPOCL_DEVICE_ADDRESS_BITS=64", "-Dcl_khr_int64", "-internal-isystem", pocl::kHeaders};
  arguments.insert(arguments.end(), options.language.begin(), options.language.end());
  return arguments;
}

std::vector<std::string> program_arguments(const BuildOptions& options) {
  std::vector<std::string> arguments;
  for (const std::string& word : options.preprocessor) {
    arguments.push_back(word.substr(0, 2));
    arguments.push_back(word.substr(2));
  }
  arguments.insert(arguments.end(), {"-I", "."});
  if (options.suppress_warnings) arguments.emplace_back("-w");
  if (options.warnings_are_errors) arguments.emplace_back("-Werror");
  if (options.debug) arguments.insert(arguments.end(), {"-debug-info-kind=limited", "-dwarf-version=4"});
  return arguments;
}

}  // namespace mirrorcl::compiler

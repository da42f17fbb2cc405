// SPDX-License-Identifier: Apache-2.0
#include "compiler/service/pocl.h"

#include <CL/cl.h>
#include <CL/cl_icd.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "compiler/service/pocl_version.h"

namespace mirrorcl::compiler::pocl {
namespace {

using IcdGetPlatformIDs = cl_int(CL_API_CALL*)(cl_uint, cl_platform_id*, cl_uint*);
using GetExtensionFunctionAddress = void*(CL_API_CALL*)(const char*);

// Nothing of the user's own settings of PoCL: they are about other programs. The service's other thread, which waits
// for the end of the application, reads no environment.
void set_environment(const std::string& scratch_dir) {
  std::vector<std::string> inherited;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    std::string_view text = *entry;
    if (text.starts_with("POCL_")) inherited.emplace_back(text.substr(0, text.find('=')));
  }
  // NOLINTBEGIN(concurrency-mt-unsafe)
  for (const std::string& name : inherited) unsetenv(name.c_str());
  for (const Setting& setting : kEnvironment) setenv(setting.name, setting.value, 1);
  setenv("POCL_CACHE_DIR", (scratch_dir + "/pocl").c_str(), 1);
  // NOLINTEND(concurrency-mt-unsafe)
}

tl::unexpected<Error> unsupported(std::string reason) {
  return fail(ErrorCode::kNotSupported, std::move(reason));
}

tl::unexpected<Error> failed(const char* call, cl_int code) {
  return fail(ErrorCode::kSystem, fmt::format("PoCL: {} failed with {}", call, code));
}

// The first member of every OpenCL object is its dispatch table (cl_khr_icd).
const cl_icd_dispatch& dispatch_of(cl_platform_id platform) {
  return **reinterpret_cast<cl_icd_dispatch**>(platform);
}

class LoadedPocl final : public Pocl {
 public:
  LoadedPocl(const cl_icd_dispatch& cl, cl_device_id device, cl_context context, std::string target_cpu)
      : cl_(cl), device_(device), context_(context), target_cpu_(std::move(target_cpu)) {}
  ~LoadedPocl() override { cl_.clReleaseContext(context_); }

  std::string target_cpu() const override { return target_cpu_; }

  Result<CompiledProgram> compile(std::span<const std::byte> bitcode) override {
    const auto* code = reinterpret_cast<const unsigned char*>(bitcode.data());
    std::size_t size = bitcode.size();
    cl_int error = CL_SUCCESS;
    cl_program program = cl_.clCreateProgramWithBinary(context_, 1, &device_, &size, &code, nullptr, &error);
    if (program == nullptr) return failed("clCreateProgramWithBinary", error);
    Result<CompiledProgram> result = build(program);
    cl_.clReleaseProgram(program);
    return result;
  }

 private:
  Result<CompiledProgram> build(cl_program program) {
    CompiledProgram compiled;
    cl_int error = cl_.clBuildProgram(program, 1, &device_, "", nullptr, nullptr);
    compiled.log = build_log(program);
    if (error == CL_BUILD_PROGRAM_FAILURE || error == CL_LINK_PROGRAM_FAILURE) return compiled;
    if (error != CL_SUCCESS) return failed("clBuildProgram", error);
    std::size_t size = 0;
    // PoCL makes the work-group functions now.
    error = cl_.clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr);
    if (error != CL_SUCCESS || size == 0) return failed("clGetProgramInfo(CL_PROGRAM_BINARY_SIZES)", error);
    compiled.binary.resize(size);
    auto* target = reinterpret_cast<unsigned char*>(compiled.binary.data());
    error = cl_.clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof(unsigned char*), &target, nullptr);
    if (error != CL_SUCCESS) return failed("clGetProgramInfo(CL_PROGRAM_BINARIES)", error);
    compiled.ok = true;
    return compiled;
  }

  std::string build_log(cl_program program) const {
    std::size_t size = 0;
    if (cl_.clGetProgramBuildInfo(program, device_, CL_PROGRAM_BUILD_LOG, 0, nullptr, &size) != CL_SUCCESS) return {};
    std::string log(size, '\0');
    if (cl_.clGetProgramBuildInfo(program, device_, CL_PROGRAM_BUILD_LOG, size, log.data(), nullptr) != CL_SUCCESS)
      return {};
    log.resize(std::strlen(log.c_str()));
    return log;
  }

  const cl_icd_dispatch& cl_;
  cl_device_id device_;
  cl_context context_;
  std::string target_cpu_;
};

std::string platform_version(const cl_icd_dispatch& cl, cl_platform_id platform) {
  char text[512] = {};
  if (cl.clGetPlatformInfo(platform, CL_PLATFORM_VERSION, sizeof text - 1, text, nullptr) != CL_SUCCESS) return {};
  return text;
}

// "OpenCL 3.0 PoCL HSTR: basic-x86_64-pc-linux-gnu-skylake-avx512" -> "skylake-avx512"
std::string cpu_of(const cl_icd_dispatch& cl, cl_device_id device) {
  char text[512] = {};
  if (cl.clGetDeviceInfo(device, CL_DEVICE_VERSION, sizeof text - 1, text, nullptr) != CL_SUCCESS) return {};
  std::string_view version = text;
  std::string_view triple = kTriple;
  std::size_t start = version.find(triple);
  if (start == std::string_view::npos || start + triple.size() + 1 >= version.size()) return {};
  return std::string(version.substr(start + triple.size() + 1));
}

}  // namespace

Result<std::unique_ptr<Pocl>> Pocl::load(const std::string& library, const std::string& scratch_dir) {
  std::string path = library.empty() ? kLibrary : library;
  set_environment(scratch_dir);
  // Never unloaded: it registers passes and options with LLVM, which this process shares with it.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = dlerror();  // NOLINT(concurrency-mt-unsafe): glibc's is the thread's own
    return unsupported(
        fmt::format("no PoCL: {} (Debian: install libpocl2, or name the file in MIRRORCL_POCL)", reason));
  }
  auto get_address = reinterpret_cast<GetExtensionFunctionAddress>(dlsym(handle, "clGetExtensionFunctionAddress"));
  if (get_address == nullptr) return unsupported(path + " is not an OpenCL driver");
  auto get_platforms = reinterpret_cast<IcdGetPlatformIDs>(get_address("clIcdGetPlatformIDsKHR"));
  cl_platform_id platform = nullptr;
  if (get_platforms == nullptr || get_platforms(1, &platform, nullptr) != CL_SUCCESS) {
    return unsupported(path + " offers no platform");
  }
  const cl_icd_dispatch& cl = dispatch_of(platform);
  std::string version = platform_version(cl, platform);
  if (version.find(kVersion) == std::string::npos || version.find(kLlvmVersion) == std::string::npos) {
    return unsupported(fmt::format("{} is \"{}\"; MirrorCL needs {} with {}x", path, version, kVersion, kLlvmVersion));
  }
  cl_device_id device = nullptr;
  if (cl_int error = cl.clGetDeviceIDs(platform, CL_DEVICE_TYPE_CPU, 1, &device, nullptr); error != CL_SUCCESS) {
    return unsupported(fmt::format("{} offers no CPU device ({})", path, error));
  }
  std::string cpu = cpu_of(cl, device);
  if (cpu.empty()) return unsupported(path + " does not tell which processor it compiles for");
  cl_int error = CL_SUCCESS;
  cl_context context = cl.clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  if (context == nullptr) return failed("clCreateContext", error);
  return std::make_unique<LoadedPocl>(cl, device, context, std::move(cpu));
}

}  // namespace mirrorcl::compiler::pocl

// SPDX-License-Identifier: Apache-2.0
// Building programs: options, include folders, errors, reflection, binaries and the disk cache. OpenCL 3.0 API,
// sections 5.8 (program objects) and 5.9 (kernel objects).
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "conformance/child.h"
#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

namespace fs = std::filesystem;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    char name[] = "/tmp/mirrorcl-conformance-XXXXXX";
    path_ = mkdtemp(name) != nullptr ? name : "";
    EXPECT_FALSE(path_.empty());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(path_ + "/" + name).parent_path());
    std::ofstream(path_ + "/" + name) << text;
  }

 private:
  std::string path_;
};

class Programs : public ClTest {
 protected:
  Program create(const std::string& source) {
    const char* text = source.c_str();
    cl_int code = CL_SUCCESS;
    Program program(clCreateProgramWithSource(context(), 1, &text, nullptr, &code));
    EXPECT_CL(CL_SUCCESS, code);
    return program;
  }
  cl_int build_code(const Program& program, const std::string& options = "") {
    cl_device_id id = device();
    return clBuildProgram(program.get(), 1, &id, options.c_str(), nullptr, nullptr);
  }
  std::string log(const Program& program) {
    std::size_t bytes = 0;
    EXPECT_CL(CL_SUCCESS, clGetProgramBuildInfo(program.get(), device(), CL_PROGRAM_BUILD_LOG, 0, nullptr, &bytes));
    std::string text(bytes, '\0');
    EXPECT_CL(CL_SUCCESS,
              clGetProgramBuildInfo(program.get(), device(), CL_PROGRAM_BUILD_LOG, bytes, text.data(), nullptr));
    return text;
  }
  cl_build_status status(const Program& program) {
    cl_build_status value = 99;
    EXPECT_CL(CL_SUCCESS,
              clGetProgramBuildInfo(program.get(), device(), CL_PROGRAM_BUILD_STATUS, sizeof value, &value, nullptr));
    return value;
  }
  // What `kernel void answer(global int *out)` of the source writes.
  int answer(const std::string& source, const std::string& options = "") {
    Kernel kernel = build(source, "answer", options);
    if (!kernel) return -1;
    int value = -2;
    Buffer out = make_buffer(CL_MEM_COPY_HOST_PTR, sizeof value, &value);
    run(kernel, 1, out.get());
    EXPECT_CL(CL_SUCCESS,
              clEnqueueReadBuffer(queue(), out.get(), CL_TRUE, 0, sizeof value, &value, 0, nullptr, nullptr));
    return value;
  }
};

TEST_F(Programs, ErrorsNameTheLine) {
  Program program = create(
      "kernel void good(global int *p) { *p = 1; }\n\nkernel void bad(global int *p) {\n  *p = no_such_name;\n}\n");
  EXPECT_EQ(status(program), CL_BUILD_NONE);
  EXPECT_CL(CL_BUILD_PROGRAM_FAILURE, build_code(program));
  EXPECT_EQ(status(program), CL_BUILD_ERROR);
  std::string text = log(program);
  EXPECT_NE(text.find("no_such_name"), std::string::npos) << text;
  EXPECT_NE(text.find(":4:"), std::string::npos) << text;
  cl_int code = CL_SUCCESS;
  clCreateKernel(program.get(), "good", &code);
  EXPECT_CL(CL_INVALID_PROGRAM_EXECUTABLE, code);
}

TEST_F(Programs, WarningsAreInTheLogOfASuccessfulBuild) {
  Program program = create("#warning look here\nkernel void f(global int *p) { *p = 1; }");
  EXPECT_CL(CL_SUCCESS, build_code(program));
  EXPECT_NE(log(program).find("look here"), std::string::npos) << log(program);
  Program strict = create("#warning look here\nkernel void f(global int *p) { *p = 1; }");
  EXPECT_CL(CL_BUILD_PROGRAM_FAILURE, build_code(strict, "-Werror"));
}

TEST_F(Programs, SourceInPiecesWithAndWithoutLengths) {
  const char* pieces[] = {"kernel void ans", "wer(global int *out) { *out = 4", "2; }garbage"};
  std::size_t lengths[] = {0, 0, 4};
  cl_int code = CL_SUCCESS;
  Kernel kernel;
  kernel.program.reset(clCreateProgramWithSource(context(), 3, pieces, lengths, &code));
  ASSERT_CL(CL_SUCCESS, code);
  EXPECT_CL(CL_SUCCESS, build_code(kernel.program)) << log(kernel.program);
  kernel.handle.reset(clCreateKernel(kernel.program.get(), "answer", &code));
  EXPECT_CL(CL_SUCCESS, code);
  std::size_t bytes = 0;
  EXPECT_CL(CL_SUCCESS, clGetProgramInfo(kernel.program.get(), CL_PROGRAM_SOURCE, 0, nullptr, &bytes));
  std::string source(bytes, '\0');
  EXPECT_CL(CL_SUCCESS, clGetProgramInfo(kernel.program.get(), CL_PROGRAM_SOURCE, bytes, source.data(), nullptr));
  EXPECT_STREQ(source.c_str(), "kernel void answer(global int *out) { *out = 42; }");
}

TEST_F(Programs, Definitions) {
  const char* source = "kernel void answer(global int *out) { *out = A + B + (int)sizeof(TEXT); }";
  EXPECT_EQ(answer(source, "-DA=40 -D B=2 -DTEXT=\\\"four\\\""), 47);
  EXPECT_EQ(answer(source, "-D A=1 -DB -DTEXT=int"), 1 + 1 + 4);  // -DB defines 1
}

TEST_F(Programs, IncludeFoldersAlsoWithSpaces) {
  TemporaryFolder folder;
  folder.write("first/value.h", "#define VALUE 40\n#include \"nested.h\"\n");
  folder.write("first/nested.h", "#define NESTED 1\n");
  folder.write("with space/other.h", "#define OTHER 1\n");
  const char* source =
      "#include <value.h>\n#include \"other.h\"\nkernel void answer(global int *out) { *out = VALUE + NESTED + OTHER; "
      "}";
  EXPECT_EQ(answer(source, "-I " + folder.path() + "/first -I \"" + folder.path() + "/with space\""), 42);
  // A changed header must not be answered from a cache.
  folder.write("first/nested.h", "#define NESTED 11\n");
  EXPECT_EQ(answer(source, "-I " + folder.path() + "/first -I \"" + folder.path() + "/with space\""), 52);
  folder.write("first/value.h", "\n#error in the header\n");
  Program program = create(source);
  EXPECT_CL(CL_BUILD_PROGRAM_FAILURE,
            build_code(program, "-I" + folder.path() + "/first -I'" + folder.path() + "/with space'"));
  EXPECT_NE(log(program).find("value.h:2:"), std::string::npos) << log(program);
}

TEST_F(Programs, StandardOptionsAreTakenAndOthersRefused) {
  const char* source = "kernel void answer(global int *out) { *out = 1; }";
  for (const char* options :
       {"-cl-opt-disable", "-cl-fast-relaxed-math", "-cl-mad-enable", "-cl-single-precision-constant",
        "-cl-denorms-are-zero", "-cl-finite-math-only", "-cl-no-signed-zeros", "-w", "-cl-std=CL1.2",
        "-cl-unsafe-math-optimizations", "-cl-kernel-arg-info", "-cl-std=CL3.0 -DX  -w "}) {
    EXPECT_EQ(answer(source, options), 1) << options;
  }
  if (platform().is_mirrorcl) {
    EXPECT_EQ(answer(source, "-cl-std=CL2.0 -cl-uniform-work-group-size -cl-strict-aliasing"), 1);
  }
  Program program = create(source);
  EXPECT_CL(CL_INVALID_BUILD_OPTIONS, build_code(program, "--no-such-option"));
  EXPECT_CL(CL_INVALID_BUILD_OPTIONS, build_code(program, "-cl-std=CL9.9"));
}

TEST_F(Programs, LanguageVersionMacro) {
  const char* source = "kernel void answer(global int *out) { *out = __OPENCL_C_VERSION__; }";
  EXPECT_EQ(answer(source, "-cl-std=CL1.2"), 120);
  EXPECT_EQ(answer(source, "-cl-std=CL3.0"), 300);
  EXPECT_EQ(answer("kernel void answer(global int *out) { *out = __OPENCL_VERSION__; }"), 300);
}

TEST_F(Programs, GenericAddressSpace) {
  if (!platform().is_mirrorcl) GTEST_SKIP() << "optional in OpenCL 3.0";
  const char* source = R"(
int first(int *p) { return *p; }
kernel void answer(global int *out) {
  local int shared;
  int own = 2;
  shared = 40;
  *out = 0;
  *out = first(&shared) + first(&own) + first(out) + (to_global(out) != 0) - (to_local(&own) != 0) - 1;
})";
  EXPECT_EQ(answer(source, "-cl-std=CL2.0"), 42);
  EXPECT_EQ(answer(source, "-cl-std=CL3.0"), 42);
}

TEST_F(Programs, KernelNamesAndReflection) {
  Kernel kernel = build(
      "kernel void f(global const float4 *restrict points, const int count, local uchar *scratch, "
      "constant long *table) { if (count) scratch[0] = (uchar)(points[0].x + table[0]); }\n"
      "kernel void g(global int *p) { *p = 1; }",
      "f", "-cl-kernel-arg-info");
  ASSERT_TRUE(kernel);
  std::size_t number = 0;
  char text[64] = "";
  EXPECT_CL(CL_SUCCESS,
            clGetProgramInfo(kernel.program.get(), CL_PROGRAM_NUM_KERNELS, sizeof number, &number, nullptr));
  EXPECT_EQ(number, 2u);
  EXPECT_CL(CL_SUCCESS, clGetProgramInfo(kernel.program.get(), CL_PROGRAM_KERNEL_NAMES, sizeof text, text, nullptr));
  EXPECT_TRUE(std::string(text) == "f;g" || std::string(text) == "g;f") << text;
  cl_uint arguments = 0;
  EXPECT_CL(CL_SUCCESS, clGetKernelInfo(kernel.get(), CL_KERNEL_NUM_ARGS, sizeof arguments, &arguments, nullptr));
  EXPECT_EQ(arguments, 4u);
  struct Expected {
    const char* name;
    const char* type;
    cl_kernel_arg_address_qualifier space;
    cl_kernel_arg_type_qualifier qualifiers;
  };
  const Expected expected[] = {
      {"points", "float4*", CL_KERNEL_ARG_ADDRESS_GLOBAL, CL_KERNEL_ARG_TYPE_CONST | CL_KERNEL_ARG_TYPE_RESTRICT},
      {"count", "int", CL_KERNEL_ARG_ADDRESS_PRIVATE, CL_KERNEL_ARG_TYPE_NONE},
      {"scratch", "uchar*", CL_KERNEL_ARG_ADDRESS_LOCAL, CL_KERNEL_ARG_TYPE_NONE},
      {"table", "long*", CL_KERNEL_ARG_ADDRESS_CONSTANT, CL_KERNEL_ARG_TYPE_CONST}};
  for (cl_uint i = 0; i < 4; ++i) {
    cl_kernel_arg_address_qualifier space = 0;
    cl_kernel_arg_type_qualifier qualifiers = 0;
    EXPECT_CL(CL_SUCCESS, clGetKernelArgInfo(kernel.get(), i, CL_KERNEL_ARG_NAME, sizeof text, text, nullptr));
    EXPECT_STREQ(text, expected[i].name);
    EXPECT_CL(CL_SUCCESS, clGetKernelArgInfo(kernel.get(), i, CL_KERNEL_ARG_TYPE_NAME, sizeof text, text, nullptr));
    EXPECT_STREQ(text, expected[i].type);
    EXPECT_CL(CL_SUCCESS,
              clGetKernelArgInfo(kernel.get(), i, CL_KERNEL_ARG_ADDRESS_QUALIFIER, sizeof space, &space, nullptr));
    EXPECT_EQ(space, expected[i].space) << i;
    EXPECT_CL(CL_SUCCESS, clGetKernelArgInfo(kernel.get(), i, CL_KERNEL_ARG_TYPE_QUALIFIER, sizeof qualifiers,
                                             &qualifiers, nullptr));
    EXPECT_EQ(qualifiers, expected[i].qualifiers) << i;
  }
  EXPECT_CL(CL_INVALID_ARG_INDEX, clGetKernelArgInfo(kernel.get(), 4, CL_KERNEL_ARG_NAME, sizeof text, text, nullptr));
  cl_int code = CL_SUCCESS;
  clCreateKernel(kernel.program.get(), "h", &code);
  EXPECT_CL(CL_INVALID_KERNEL_NAME, code);
  EXPECT_CL(CL_INVALID_OPERATION, build_code(kernel.program));  // section 5.8.2: kernels are attached to it
}

TEST_F(Programs, WorkGroupInformation) {
  Kernel kernel = build(
      "kernel void f(global int *p) { local int l[100]; l[get_local_id(0)] = 1; barrier(CLK_LOCAL_MEM_FENCE); *p = "
      "l[0]; }",
      "f");
  ASSERT_TRUE(kernel);
  std::size_t largest = 0, preferred = 0;
  cl_ulong local_bytes = 0, private_bytes = 99;
  EXPECT_CL(CL_SUCCESS, clGetKernelWorkGroupInfo(kernel.get(), device(), CL_KERNEL_WORK_GROUP_SIZE, sizeof largest,
                                                 &largest, nullptr));
  EXPECT_CL(CL_SUCCESS, clGetKernelWorkGroupInfo(kernel.get(), device(), CL_KERNEL_PREFERRED_WORK_GROUP_SIZE_MULTIPLE,
                                                 sizeof preferred, &preferred, nullptr));
  EXPECT_CL(CL_SUCCESS, clGetKernelWorkGroupInfo(kernel.get(), device(), CL_KERNEL_LOCAL_MEM_SIZE, sizeof local_bytes,
                                                 &local_bytes, nullptr));
  EXPECT_CL(CL_SUCCESS, clGetKernelWorkGroupInfo(kernel.get(), device(), CL_KERNEL_PRIVATE_MEM_SIZE,
                                                 sizeof private_bytes, &private_bytes, nullptr));
  EXPECT_GE(largest, 1u);
  EXPECT_GE(preferred, 1u);
  EXPECT_GE(local_bytes, 400u);
}

TEST_F(Programs, CompileAndLinkWithHeaders) {
  Program header = create("int six(void);\n#define SEVEN 7\n");
  Program caller = create("#include \"lib/six.h\"\nkernel void answer(global int *out) { *out = six() * SEVEN; }");
  Program callee = create("int six(void) { return 6; }");
  cl_device_id id = device();
  cl_program headers[] = {header.get()};
  const char* names[] = {"lib/six.h"};
  cl_int code = clCompileProgram(caller.get(), 1, &id, "", 1, headers, names, nullptr, nullptr);
  if (code == CL_COMPILER_NOT_AVAILABLE || code == CL_INVALID_OPERATION || code == CL_LINKER_NOT_AVAILABLE) {
    GTEST_SKIP() << "separate compilation: " << error_name(code);
  }
  ASSERT_CL(CL_SUCCESS, code) << log(caller);
  ASSERT_CL(CL_SUCCESS, clCompileProgram(callee.get(), 1, &id, "", 0, nullptr, nullptr, nullptr, nullptr));
  cl_program parts[] = {caller.get(), callee.get()};
  Kernel kernel;
  kernel.program.reset(clLinkProgram(context(), 1, &id, "", 2, parts, nullptr, nullptr, &code));
  if (code == CL_LINKER_NOT_AVAILABLE) GTEST_SKIP() << "no linker";
  ASSERT_CL(CL_SUCCESS, code);
  kernel.handle.reset(clCreateKernel(kernel.program.get(), "answer", &code));
  ASSERT_CL(CL_SUCCESS, code);
  Buffer out = make_buffer(CL_MEM_READ_WRITE, sizeof(int));
  run(kernel, 1, out.get());
  int value = 0;
  EXPECT_CL(CL_SUCCESS, clEnqueueReadBuffer(queue(), out.get(), CL_TRUE, 0, sizeof value, &value, 0, nullptr, nullptr));
  EXPECT_EQ(value, 42);
}

TEST_F(Programs, BinariesComeBack) {
  Kernel kernel = build("kernel void answer(global int *out) { *out = 42; }", "answer");
  ASSERT_TRUE(kernel);
  std::size_t bytes = 0;
  ASSERT_CL(CL_SUCCESS, clGetProgramInfo(kernel.program.get(), CL_PROGRAM_BINARY_SIZES, sizeof bytes, &bytes, nullptr));
  if (bytes == 0) GTEST_SKIP() << "no binaries";
  std::vector<unsigned char> binary(bytes);
  unsigned char* target = binary.data();
  ASSERT_CL(CL_SUCCESS, clGetProgramInfo(kernel.program.get(), CL_PROGRAM_BINARIES, sizeof target,
                                         static_cast<void*>(&target), nullptr));
  cl_device_id id = device();
  const unsigned char* source = binary.data();
  cl_int status = 1, code = 1;
  Kernel again;
  again.program.reset(clCreateProgramWithBinary(context(), 1, &id, &bytes, &source, &status, &code));
  ASSERT_CL(CL_SUCCESS, code);
  EXPECT_CL(CL_SUCCESS, status);
  EXPECT_CL(CL_SUCCESS, build_code(again.program));
  again.handle.reset(clCreateKernel(again.program.get(), "answer", &code));
  ASSERT_CL(CL_SUCCESS, code);
  Buffer out = make_buffer(CL_MEM_READ_WRITE, sizeof(int));
  run(again, 1, out.get());
  int value = 0;
  EXPECT_CL(CL_SUCCESS, clEnqueueReadBuffer(queue(), out.get(), CL_TRUE, 0, sizeof value, &value, 0, nullptr, nullptr));
  EXPECT_EQ(value, 42);
  std::vector<unsigned char> rubbish(100, 0x5a);
  bytes = rubbish.size();
  source = rubbish.data();
  clCreateProgramWithBinary(context(), 1, &id, &bytes, &source, &status, &code);
  EXPECT_CL(CL_INVALID_BINARY, code);
}

TEST_F(Programs, SeveralThreadsBuildAtOnce) {
  std::vector<std::thread> threads;
  std::vector<int> answers(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::string number = std::to_string(1000 + t);
      answers[static_cast<std::size_t>(t)] = answer("kernel void answer(global int *out) { *out = " + number + "; }");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(answers, (std::vector<int>{1000, 1001, 1002, 1003}));
}

// The disk cache is read by a new process, which finds the files as this test leaves them.
class ProgramCache : public Programs {
 protected:
  // Runs `program_answer` in a process of its own with `folder` as its cache; what it says.
  static std::string fresh_process(const std::string& folder) {
    const char* old = getenv("XDG_CACHE_HOME");
    std::string before = old != nullptr ? old : "";
    setenv("XDG_CACHE_HOME", folder.c_str(), 1);
    ChildProcess child("answer");
    setenv("XDG_CACHE_HOME", before.c_str(), 1);
    std::string line = child.read_line(std::chrono::seconds(100));
    EXPECT_EQ(child.wait(std::chrono::seconds(20)), 0);
    return line;
  }
  static std::vector<fs::path> files_in(const std::string& folder) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
    return files;
  }
};

TEST_F(ProgramCache, SurvivesDamagedFiles) {
  TemporaryFolder folder;
  ASSERT_EQ(fresh_process(folder.path()), "42");
  std::vector<fs::path> files = files_in(folder.path());
  if (platform().is_mirrorcl) {
    EXPECT_FALSE(files.empty()) << "nothing was cached";
  }
  EXPECT_EQ(fresh_process(folder.path()), "42");
  if (!platform().is_mirrorcl) GTEST_SKIP() << "what damage other platforms' caches bear is their own matter";
  auto damage = [&](const char* what, auto change) {
    for (const fs::path& file : files_in(folder.path())) change(file);
    EXPECT_EQ(fresh_process(folder.path()), "42") << "after the cache was " << what;
  };
  damage("cut short", [](const fs::path& file) { fs::resize_file(file, fs::file_size(file) / 2); });
  damage("emptied", [](const fs::path& file) { fs::resize_file(file, 0); });
  damage("overwritten", [](const fs::path& file) { std::ofstream(file) << std::string(fs::file_size(file), 'x'); });
  damage("changed in one byte in the middle", [](const fs::path& file) {
    auto size = static_cast<std::streamoff>(fs::file_size(file));
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(size / 2);
    int byte = stream.get();
    stream.seekp(size / 2);
    stream.put(static_cast<char>(byte ^ 0x40));
  });
}

TEST_F(ProgramCache, FolderThatCannotBeWrittenIsNoError) {
  TemporaryFolder folder;
  folder.write("file", "not a folder");
  EXPECT_EQ(fresh_process(folder.path() + "/file"), "42");
  EXPECT_EQ(fresh_process("/proc/no-such-folder"), "42");
}

TEST_F(ProgramCache, TwoProcessesBuildTheSameAtOnce) {
  TemporaryFolder folder;
  const char* old = getenv("XDG_CACHE_HOME");
  std::string before = old != nullptr ? old : "";
  setenv("XDG_CACHE_HOME", folder.path().c_str(), 1);
  {
    ChildProcess one("answer"), two("answer"), three("answer");
    setenv("XDG_CACHE_HOME", before.c_str(), 1);
    for (ChildProcess* child : {&one, &two, &three}) {
      EXPECT_EQ(child->read_line(std::chrono::seconds(100)), "42");
      EXPECT_EQ(child->wait(std::chrono::seconds(20)), 0);
    }
  }
}

}  // namespace
}  // namespace mirrorcl::conformance

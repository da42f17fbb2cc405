// SPDX-License-Identifier: Apache-2.0
// Separate compilation and linking (OpenCL 3.0, 5.8.3 and 5.8.4), binaries of objects and libraries, asynchronous
// builds.
#include <atomic>
#include <string>
#include <vector>

#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

class LinkTest : public ContextTest {
 protected:
  void TearDown() override {
    for (cl_program program : programs) EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
    ContextTest::TearDown();
  }
  cl_program keep(cl_program program) {
    if (program != nullptr) programs.push_back(program);
    return program;
  }
  cl_program source(const char* text) {
    cl_int error = 1;
    cl_program program = keep(cl().clCreateProgramWithSource(context, 1, &text, nullptr, &error));
    EXPECT_EQ(error, CL_SUCCESS);
    return program;
  }
  cl_int compile(cl_program program, const char* options = "", std::vector<cl_program> headers = {},
                 std::vector<const char*> names = {}) {
    return cl().clCompileProgram(program, 1, &device, options, static_cast<cl_uint>(headers.size()),
                                 headers.empty() ? nullptr : headers.data(), names.empty() ? nullptr : names.data(),
                                 nullptr, nullptr);
  }
  cl_program object(const char* text, const char* options = "") {
    cl_program program = source(text);
    EXPECT_EQ(compile(program, options), CL_SUCCESS) << log_of(program);
    return program;
  }
  cl_program link(std::vector<cl_program> parts, const char* options, cl_int* error) {
    return keep(cl().clLinkProgram(context, 1, &device, options, static_cast<cl_uint>(parts.size()), parts.data(),
                                   nullptr, nullptr, error));
  }
  cl_program link(std::vector<cl_program> parts, const char* options = "") {
    cl_int error = 1;
    cl_program program = link(std::move(parts), options, &error);
    EXPECT_EQ(error, CL_SUCCESS) << (program != nullptr ? log_of(program) : "");
    return program;
  }
  template <typename T>
  T build_info(cl_program program, cl_program_build_info name) {
    T value{};
    EXPECT_EQ(cl().clGetProgramBuildInfo(program, device, name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  }
  cl_program_binary_type type_of(cl_program program) {
    return build_info<cl_program_binary_type>(program, CL_PROGRAM_BINARY_TYPE);
  }
  cl_program through_binary(cl_program program) {
    std::size_t size = 0;
    EXPECT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr), CL_SUCCESS);
    EXPECT_GT(size, 0u);
    std::vector<unsigned char> binary(size);
    unsigned char* to = binary.data();
    EXPECT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof to, &to, nullptr), CL_SUCCESS);
    const unsigned char* from = binary.data();
    cl_int status = 1;
    cl_int error = 1;
    cl_program again = keep(cl().clCreateProgramWithBinary(context, 1, &device, &size, &from, &status, &error));
    EXPECT_EQ(error, CL_SUCCESS);
    EXPECT_EQ(status, CL_SUCCESS);
    return again;
  }
  // What kernel `name(global int*)` writes.
  int result_of(cl_program program, const char* name) {
    cl_int error = 1;
    cl_kernel kernel = cl().clCreateKernel(program, name, &error);
    EXPECT_EQ(error, CL_SUCCESS) << name;
    if (kernel == nullptr) return -1;
    cl_command_queue queue = cl().clCreateCommandQueueWithProperties(context, device, nullptr, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    int result = -1;
    EXPECT_EQ(cl().clSetKernelArgSVMPointer(kernel, 0, &result), CL_SUCCESS);
    const std::size_t one = 1;
    EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &one, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
    EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
    EXPECT_EQ(cl().clReleaseCommandQueue(queue), CL_SUCCESS);
    EXPECT_EQ(cl().clReleaseKernel(kernel), CL_SUCCESS);
    return result;
  }

  std::vector<cl_program> programs;
};

constexpr const char* kCaller = "int six(void); kernel void answer(global int* out) { *out = six() * 7; }";
constexpr const char* kSix = "int six(void) { return 6; }";

TEST_F(LinkTest, JoinsObjectsOfSeveralSources) {
  cl_bool linker = CL_FALSE;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_LINKER_AVAILABLE, sizeof linker, &linker, nullptr), CL_SUCCESS);
  EXPECT_EQ(linker, cl_bool{CL_TRUE});
  cl_program caller = object(kCaller);
  EXPECT_EQ(type_of(caller), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT});
  EXPECT_EQ(build_info<cl_build_status>(caller, CL_PROGRAM_BUILD_STATUS), CL_BUILD_SUCCESS);
  cl_int error = 1;
  EXPECT_EQ(cl().clCreateKernel(caller, "answer", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_PROGRAM_EXECUTABLE);
  cl_program whole = link({caller, object(kSix)});
  EXPECT_EQ(type_of(whole), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_EXECUTABLE});
  EXPECT_EQ(result_of(whole, "answer"), 42);
  std::size_t kernels = 0;
  EXPECT_EQ(cl().clGetProgramInfo(whole, CL_PROGRAM_NUM_KERNELS, sizeof kernels, &kernels, nullptr), CL_SUCCESS);
  EXPECT_EQ(kernels, 1u);
}

TEST_F(LinkTest, HeadersComeFromProgramsBeforeFiles) {
  cl_program first = source("#define NUMBER 1\n");
  cl_program number = source("#include \"inner.h\"\n#define NUMBER INNER\n");
  cl_program inner = source("#define INNER 20\n");
  cl_program quoted =
      source("#include \"lib/number.h\"\n#include <other.h>\nkernel void k(global int* p) { *p = NUMBER + OTHER; }");
  cl_program other = source("#define OTHER 3\n");
  EXPECT_EQ(compile(quoted, "", {first, number, inner, other}, {"lib/number.h", "lib/number.h", "inner.h", "other.h"}),
            CL_SUCCESS)
      << log_of(quoted);
  EXPECT_EQ(result_of(link({quoted}), "k"), 23) << "of two with one name the last counts";
  EXPECT_EQ(compile(quoted), CL_COMPILE_PROGRAM_FAILURE);
  EXPECT_NE(log_of(quoted).find("lib/number.h"), std::string::npos) << log_of(quoted);
  EXPECT_EQ(build_info<cl_build_status>(quoted, CL_PROGRAM_BUILD_STATUS), CL_BUILD_ERROR);
  EXPECT_EQ(type_of(quoted), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_NONE});
}

TEST_F(LinkTest, InlineFunctionsOfASharedHeaderAreNoDuplicates) {
  cl_program header = source("inline int twice(int x) { return 2 * x; }\nstatic int own(int x) { return x + 1; }\n");
  cl_program one = source("#include \"h.h\"\nint half_of_it(void) { return own(twice(5)); }");
  cl_program two = source(
      "#include \"h.h\"\nint half_of_it(void); kernel void k(global int* p) { *p = half_of_it() + own(twice(10)); }");
  EXPECT_EQ(compile(one, "", {header}, {"h.h"}), CL_SUCCESS) << log_of(one);
  EXPECT_EQ(compile(two, "", {header}, {"h.h"}), CL_SUCCESS) << log_of(two);
  EXPECT_EQ(result_of(link({one, two}), "k"), 32);
}

TEST_F(LinkTest, LibrariesOfObjectsAndLibraries) {
  cl_program numbers = link({object(kSix), object("int seven(void) { return 7; }")}, "-create-library");
  EXPECT_EQ(type_of(numbers), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_LIBRARY});
  cl_program product = link({object("int six(void); int seven(void); int product(void) { return six() * seven(); }")},
                            "-create-library -enable-link-options");
  cl_program main = object("int product(void); kernel void k(global int* p) { *p = product(); }", "-cl-std=CL3.0");
  EXPECT_EQ(result_of(link({main, product, numbers}, "-cl-fast-relaxed-math -cl-denorms-are-zero"), "k"), 42);
  cl_int error = 1;
  EXPECT_EQ(cl().clCreateKernel(numbers, "k", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_PROGRAM_EXECUTABLE);
}

TEST_F(LinkTest, ObjectsAndLibrariesComeBackFromBinaries) {
  cl_program six = through_binary(object(kSix));
  EXPECT_EQ(type_of(six), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT});
  cl_program library = through_binary(link({six}, "-create-library"));
  EXPECT_EQ(type_of(library), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_LIBRARY});
  cl_program caller = through_binary(object(kCaller));
  cl_program whole = through_binary(link({caller, library}));
  EXPECT_EQ(type_of(whole), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_EXECUTABLE});
  EXPECT_EQ(cl().clBuildProgram(whole, 1, &device, nullptr, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(result_of(whole, "answer"), 42);
  EXPECT_EQ(compile(caller), CL_INVALID_OPERATION) << "there is no source";
}

// An object that needs nothing else can be built into an executable by itself.
TEST_F(LinkTest, ABinaryOfAnObjectCanBeBuilt) {
  cl_program alone = through_binary(object("kernel void k(global int* p) { *p = 9; }"));
  ASSERT_EQ(cl().clBuildProgram(alone, 1, &device, "", nullptr, nullptr), CL_SUCCESS) << log_of(alone);
  EXPECT_EQ(type_of(alone), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_EXECUTABLE});
  EXPECT_EQ(result_of(alone, "k"), 9);
  cl_program caller = through_binary(object(kCaller));
  EXPECT_EQ(cl().clBuildProgram(caller, 1, &device, "", nullptr, nullptr), CL_BUILD_PROGRAM_FAILURE);
  EXPECT_NE(log_of(caller).find("six"), std::string::npos) << log_of(caller);
}

// 5.8.4: where the link has begun, a program comes back that tells why it failed.
TEST_F(LinkTest, AFailedLinkGivesAProgramWithALog) {
  cl_int error = 1;
  cl_program missing = link({object(kCaller)}, "", &error);
  EXPECT_EQ(error, CL_LINK_PROGRAM_FAILURE);
  ASSERT_NE(missing, nullptr);
  EXPECT_EQ(build_info<cl_build_status>(missing, CL_PROGRAM_BUILD_STATUS), CL_BUILD_ERROR);
  EXPECT_NE(log_of(missing).find("'six'"), std::string::npos) << log_of(missing);
  cl_program twice = link({object(kSix), object("int six(void) { return 5; }")}, "", &error);
  EXPECT_EQ(error, CL_LINK_PROGRAM_FAILURE);
  ASSERT_NE(twice, nullptr);
  EXPECT_NE(log_of(twice).find("six"), std::string::npos) << log_of(twice);
}

TEST_F(LinkTest, CompileChecksWhatItIsGiven) {
  cl_program program = source(kSix);
  const char* name = "h.h";
  const auto code = [&](cl_program what, cl_uint devices, const cl_device_id* list, const char* options,
                        cl_uint headers, const cl_program* header_list, const char** names, void* data) {
    return cl().clCompileProgram(what, devices, list, options, headers, header_list, names, nullptr, data);
  };
  int data = 0;
  const cl_device_id no_device = nullptr;
  const cl_program no_program = nullptr;
  EXPECT_EQ(code(nullptr, 1, &device, "", 0, nullptr, nullptr, nullptr), CL_INVALID_PROGRAM);
  EXPECT_EQ(code(program, 0, &device, "", 0, nullptr, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(program, 1, nullptr, "", 0, nullptr, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(program, 1, &no_device, "", 0, nullptr, nullptr, nullptr), CL_INVALID_DEVICE);
  EXPECT_EQ(code(program, 1, &device, "", 0, &program, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(program, 1, &device, "", 0, nullptr, &name, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(program, 1, &device, "", 1, nullptr, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(program, 1, &device, "", 1, &program, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(program, 1, &device, "", 1, &no_program, &name, nullptr), CL_INVALID_PROGRAM);
  EXPECT_EQ(code(program, 1, &device, "", 0, nullptr, nullptr, &data), CL_INVALID_VALUE);
  EXPECT_EQ(code(program, 1, &device, "-no-such-option", 0, nullptr, nullptr, nullptr), CL_INVALID_COMPILER_OPTIONS);
  EXPECT_EQ(code(program, 1, &device, "-create-library", 0, nullptr, nullptr, nullptr), CL_INVALID_COMPILER_OPTIONS);
  cl_program bad = source("int six(void) { return nonsense; }");
  EXPECT_EQ(compile(bad), CL_COMPILE_PROGRAM_FAILURE);
  EXPECT_NE(log_of(bad).find("nonsense"), std::string::npos);
  cl_program used = build("kernel void k() {}");
  programs.push_back(used);
  cl_int error = 1;
  cl_kernel kernel = cl().clCreateKernel(used, "k", &error);
  EXPECT_EQ(compile(used), CL_INVALID_OPERATION) << "kernels are attached";
  EXPECT_EQ(cl().clReleaseKernel(kernel), CL_SUCCESS);
  EXPECT_EQ(compile(used, "-cl-std=CL2.0"), CL_SUCCESS);
  char options[40] = "";
  EXPECT_EQ(cl().clGetProgramBuildInfo(used, device, CL_PROGRAM_BUILD_OPTIONS, sizeof options, options, nullptr),
            CL_SUCCESS);
  EXPECT_STREQ(options, "-cl-std=CL2.0");
}

TEST_F(LinkTest, LinkChecksWhatItIsGiven) {
  cl_program six = object(kSix);
  const auto code = [&](cl_context in, cl_uint devices, const cl_device_id* list, const char* options, cl_uint count,
                        const cl_program* parts, void* data) {
    cl_int error = 1;
    EXPECT_EQ(cl().clLinkProgram(in, devices, list, options, count, parts, nullptr, data, &error), nullptr);
    return error;
  };
  int data = 0;
  const cl_device_id no_device = nullptr;
  const cl_program no_program = nullptr;
  EXPECT_EQ(code(nullptr, 1, &device, "", 1, &six, nullptr), CL_INVALID_CONTEXT);
  EXPECT_EQ(code(context, 0, &device, "", 1, &six, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(context, 1, nullptr, "", 1, &six, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(context, 1, &no_device, "", 1, &six, nullptr), CL_INVALID_DEVICE);
  EXPECT_EQ(code(context, 1, &device, "", 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(context, 1, &device, "", 0, &six, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(context, 1, &device, "", 1, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(code(context, 1, &device, "", 1, &no_program, nullptr), CL_INVALID_PROGRAM);
  EXPECT_EQ(code(context, 1, &device, "", 1, &six, &data), CL_INVALID_VALUE);
  for (const char* options : {"-no-such-option", "-cl-std=CL2.0", "-D X=1", "-enable-link-options"}) {
    EXPECT_EQ(code(context, 1, &device, options, 1, &six, nullptr), CL_INVALID_LINKER_OPTIONS) << options;
  }
  const cl_program plain = source(kSix);
  EXPECT_EQ(code(context, 1, &device, "", 1, &plain, nullptr), CL_INVALID_OPERATION) << "not compiled";
  cl_program executable = build("kernel void k() {}");
  programs.push_back(executable);
  EXPECT_EQ(code(context, 1, &device, "", 1, &executable, nullptr), CL_INVALID_OPERATION) << "linked already";
}

// A kernel's language version stays its own, whatever the link says.
TEST_F(LinkTest, LinkedKernelsKeepTheirLanguage) {
  const char* text = "kernel void k(global int* p) { atomic_inc(p); }";
  for (const bool uniform : {true, false}) {
    cl_program whole = link({object(text, uniform ? "-cl-std=CL1.2" : "-cl-std=CL3.0")});
    cl_int error = 1;
    cl_kernel kernel = cl().clCreateKernel(whole, "k", &error);
    ASSERT_EQ(error, CL_SUCCESS);
    int count = 0;
    EXPECT_EQ(cl().clSetKernelArgSVMPointer(kernel, 0, &count), CL_SUCCESS);
    cl_command_queue queue = cl().clCreateCommandQueueWithProperties(context, device, nullptr, &error);
    const std::size_t global = 13;
    const std::size_t local = 4;
    EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, &local, 0, nullptr, nullptr),
              uniform ? CL_INVALID_WORK_GROUP_SIZE : CL_SUCCESS);
    EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
    EXPECT_EQ(count, uniform ? 0 : 13);
    EXPECT_EQ(cl().clReleaseCommandQueue(queue), CL_SUCCESS);
    EXPECT_EQ(cl().clReleaseKernel(kernel), CL_SUCCESS);
  }
}

struct Done {
  std::atomic<cl_program> program{nullptr};
  static void CL_CALLBACK tell(cl_program program, void* data) { static_cast<Done*>(data)->program.store(program); }
};

// With a callback the three calls return while they are in progress, and the callback tells of failures, too.
TEST_F(LinkTest, CallbacksTellOfEveryOutcome) {
  cl_program good = source(kCaller);
  cl_program bad = source("int six(void) { return nonsense; }");
  cl_program six = object(kSix);
  Done compiled;
  Done failed;
  ASSERT_EQ(cl().clCompileProgram(good, 1, &device, "", 0, nullptr, nullptr, Done::tell, &compiled), CL_SUCCESS);
  ASSERT_EQ(cl().clBuildProgram(bad, 1, &device, "", Done::tell, &failed), CL_SUCCESS);
  ASSERT_TRUE(becomes([&] { return compiled.program.load() == good && failed.program.load() == bad; }));
  EXPECT_EQ(build_info<cl_build_status>(good, CL_PROGRAM_BUILD_STATUS), CL_BUILD_SUCCESS);
  EXPECT_EQ(build_info<cl_build_status>(bad, CL_PROGRAM_BUILD_STATUS), CL_BUILD_ERROR);
  EXPECT_NE(log_of(bad).find("nonsense"), std::string::npos);
  Done linked;
  cl_int error = 1;
  const cl_program parts[] = {good, six};
  cl_program whole = keep(cl().clLinkProgram(context, 1, &device, "", 2, parts, Done::tell, &linked, &error));
  EXPECT_EQ(error, CL_SUCCESS);
  ASSERT_NE(whole, nullptr);
  ASSERT_TRUE(becomes([&] { return linked.program.load() == whole; }));
  EXPECT_EQ(result_of(whole, "answer"), 42);
  Done not_begun;
  EXPECT_EQ(cl().clBuildProgram(bad, 1, &device, "-no-such-option", Done::tell, &not_begun), CL_INVALID_BUILD_OPTIONS);
  EXPECT_EQ(not_begun.program.load(), nullptr);
}

TEST_F(LinkTest, AProgramReleasedWhileItIsBuiltStaysUntilItsCallback) {
  Done done;
  const char* text = "kernel void k() {}";
  cl_int error = 1;
  cl_program program = cl().clCreateProgramWithSource(context, 1, &text, nullptr, &error);
  ASSERT_EQ(cl().clBuildProgram(program, 1, &device, "", Done::tell, &done), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
  EXPECT_TRUE(becomes([&] { return done.program.load() == program; }));
  const auto query = [&] { return cl().clGetProgramInfo(program, CL_PROGRAM_REFERENCE_COUNT, 0, nullptr, nullptr); };
  EXPECT_TRUE(becomes([&] { return query() == CL_INVALID_PROGRAM; }));
}

// PoCL's headers rename builtin functions, and with them what has the same name.
TEST_F(LinkTest, KernelsMayBeCalledLikeBuiltinFunctionsOrHaveLongNames) {
  cl_program program =
      build("kernel void step(global int* p) { *p = 1; } kernel void floor(global int* p) { *p = (int)floor(2.5f); }");
  programs.push_back(program);
  EXPECT_EQ(result_of(program, "step"), 1);
  EXPECT_EQ(result_of(program, "floor"), 2);
  const std::string long_name(1000, 'n');
  cl_program of_long_name =
      build(("kernel void " + long_name + "(global int* p) { local int l[3]; l[0] = 3; *p = l[0]; }").c_str());
  programs.push_back(of_long_name);
  EXPECT_EQ(result_of(of_long_name, long_name.c_str()), 3);
  char names[40] = "";
  EXPECT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_KERNEL_NAMES, sizeof names, names, nullptr), CL_SUCCESS);
  EXPECT_TRUE(std::string(names) == "step;floor" || std::string(names) == "floor;step") << names;
}

TEST_F(LinkTest, KernelsTellTheirPrivateMemoryAndWhatFitsTheStack) {
  cl_program program = build(
      "kernel void small(global int* p) { *p = 1; }\n"
      "int deep(int at) { int table[1000]; for (int i = 0; i < 1000; ++i) table[i] = i * at; return table[at]; }\n"
      "kernel void large(global int* p) { volatile int table[50000]; table[p[0]] = deep(p[1]); *p = table[p[2]]; }");
  programs.push_back(program);
  const auto size = [&](const char* name, cl_kernel_work_group_info what) {
    cl_int error = 1;
    cl_kernel kernel = cl().clCreateKernel(program, name, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    cl_ulong value = 0;
    EXPECT_EQ(cl().clGetKernelWorkGroupInfo(kernel, device, what, sizeof value, &value, nullptr), CL_SUCCESS);
    EXPECT_EQ(cl().clReleaseKernel(kernel), CL_SUCCESS);
    return value;
  };
  std::size_t most = 0;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof most, &most, nullptr), CL_SUCCESS);
  EXPECT_LT(size("small", CL_KERNEL_PRIVATE_MEM_SIZE), 200u);
  EXPECT_EQ(size("small", CL_KERNEL_WORK_GROUP_SIZE), most);
  EXPECT_GE(size("large", CL_KERNEL_PRIVATE_MEM_SIZE), 204'000u);
  EXPECT_LT(size("large", CL_KERNEL_WORK_GROUP_SIZE), most);
  EXPECT_GE(size("large", CL_KERNEL_WORK_GROUP_SIZE), 256u);
}

}  // namespace
}  // namespace mirrorcl::icd::testing

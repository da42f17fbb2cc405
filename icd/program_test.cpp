// SPDX-License-Identifier: Apache-2.0
// Programs and kernels through the real compiler (OpenCL 3.0, 5.8 and 5.9).
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

constexpr const char* kSource = R"(
  typedef struct { int a; float b[3]; } pair_t;
  kernel void scale(global float* restrict data, const global int* index, constant float* factors, local float* scratch,
                    const pair_t pair, float3 vector, int n) {
    scratch[get_local_id(0)] = factors[0] * n + pair.a + vector.x;
    barrier(CLK_LOCAL_MEM_FENCE);
    data[index[get_global_id(0)]] = scratch[get_local_id(0)];
  }
  kernel __attribute__((reqd_work_group_size(8, 4, 2))) void fixed(global int* out) {
    local int sum[16];
    sum[0] = 1;
    barrier(CLK_LOCAL_MEM_FENCE);
    out[0] = sum[0];
  }
)";

class ProgramTest : public ContextTest {};

TEST_F(ProgramTest, SourceIsChecked) {
  cl_int error = 1;
  const char* null = nullptr;
  EXPECT_EQ(cl().clCreateProgramWithSource(nullptr, 1, &null, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  EXPECT_EQ(cl().clCreateProgramWithSource(context, 0, &null, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(cl().clCreateProgramWithSource(context, 1, &null, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
}

TEST_F(ProgramTest, SourceIsShownJoined) {
  const char* parts[] = {"kernel void", " k() {}garbage"};
  const std::size_t lengths[] = {0, 7};
  cl_program program = cl().clCreateProgramWithSource(context, 2, parts, lengths, nullptr);
  char text[100];
  ASSERT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_SOURCE, sizeof text, text, nullptr), CL_SUCCESS);
  EXPECT_STREQ(text, "kernel void k() {}");
  cl_int error = 1;
  EXPECT_EQ(cl().clCreateKernel(program, "k", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_PROGRAM_EXECUTABLE);
  std::size_t count = 0;
  EXPECT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_NUM_KERNELS, sizeof count, &count, nullptr),
            CL_INVALID_PROGRAM_EXECUTABLE);
  cl_build_status status = 1;
  EXPECT_EQ(cl().clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_STATUS, sizeof status, &status, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(status, CL_BUILD_NONE);
  EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseProgram(program), CL_INVALID_PROGRAM);
  EXPECT_EQ(cl().clBuildProgram(program, 0, nullptr, nullptr, nullptr, nullptr), CL_INVALID_PROGRAM);
}

TEST_F(ProgramTest, BuildErrorIsInTheLog) {
  const char* source = "kernel void k(global int* p) { *p = nonsense; }";
  cl_program program = cl().clCreateProgramWithSource(context, 1, &source, nullptr, nullptr);
  EXPECT_EQ(cl().clBuildProgram(program, 1, &device, "", nullptr, nullptr), CL_BUILD_PROGRAM_FAILURE);
  EXPECT_NE(log_of(program).find("nonsense"), std::string::npos) << log_of(program);
  cl_build_status status = 1;
  EXPECT_EQ(cl().clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_STATUS, sizeof status, &status, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(status, CL_BUILD_ERROR);
  EXPECT_EQ(cl().clBuildProgram(program, 1, &device, "-no-such-option", nullptr, nullptr), CL_INVALID_BUILD_OPTIONS);
  int data = 0;
  EXPECT_EQ(cl().clBuildProgram(program, 1, nullptr, "", nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clBuildProgram(program, 0, &device, "", nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clBuildProgram(program, 1, &device, "", nullptr, &data), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
}

TEST_F(ProgramTest, BuildTellsItsCallbackAndItsOptions) {
  const char* source = "kernel void k(global int* p) { *p = VALUE; }";
  cl_program program = cl().clCreateProgramWithSource(context, 1, &source, nullptr, nullptr);
  struct Note {
    std::atomic<cl_program> program{nullptr};
  } note;
  const auto callback = [](cl_program built, void* data) { static_cast<Note*>(data)->program.store(built); };
  ASSERT_EQ(cl().clBuildProgram(program, 0, nullptr, "-D VALUE=3", callback, &note), CL_SUCCESS);
  EXPECT_TRUE(becomes([&] { return note.program.load() == program; }));
  cl_build_status status = CL_BUILD_NONE;
  EXPECT_EQ(cl().clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_STATUS, sizeof status, &status, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(status, CL_BUILD_SUCCESS) << log_of(program);
  char options[100];
  EXPECT_EQ(cl().clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_OPTIONS, sizeof options, options, nullptr),
            CL_SUCCESS);
  EXPECT_STREQ(options, "-D VALUE=3");
  EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
}

TEST_F(ProgramTest, NamesItsKernels) {
  cl_program program = build(kSource);
  std::size_t count = 0;
  EXPECT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_NUM_KERNELS, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 2u);
  char names[100] = "";
  EXPECT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_KERNEL_NAMES, sizeof names, names, nullptr), CL_SUCCESS);
  EXPECT_TRUE(std::string(names) == "scale;fixed" || std::string(names) == "fixed;scale") << names;
  cl_kernel kernels[2] = {};
  cl_uint made = 0;
  EXPECT_EQ(cl().clCreateKernelsInProgram(program, 1, kernels, &made), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clCreateKernelsInProgram(program, 2, kernels, &made), CL_SUCCESS);
  EXPECT_EQ(made, 2u);
  EXPECT_EQ(cl().clBuildProgram(program, 1, &device, "", nullptr, nullptr), CL_INVALID_OPERATION)
      << "kernels are attached";
  for (cl_kernel kernel : kernels) EXPECT_EQ(cl().clReleaseKernel(kernel), CL_SUCCESS);
  cl_int error = 1;
  EXPECT_EQ(cl().clCreateKernel(program, "missing", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_KERNEL_NAME);
  EXPECT_EQ(cl().clCreateKernel(program, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
}

TEST_F(ProgramTest, BinaryMakesTheSameProgramAgain) {
  cl_program program = build(kSource);
  std::size_t size = 0;
  ASSERT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr), CL_SUCCESS);
  ASSERT_GT(size, 0u);
  std::vector<unsigned char> binary(size);
  unsigned char* destination = binary.data();
  ASSERT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof destination, &destination, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);

  const unsigned char* source = binary.data();
  cl_int status = 1;
  cl_int error = 1;
  cl_program again = cl().clCreateProgramWithBinary(context, 1, &device, &size, &source, &status, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(status, CL_SUCCESS);
  ASSERT_EQ(cl().clBuildProgram(again, 1, &device, nullptr, nullptr, nullptr), CL_SUCCESS);
  cl_program_binary_type type = 0;
  EXPECT_EQ(cl().clGetProgramBuildInfo(again, device, CL_PROGRAM_BINARY_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
  EXPECT_EQ(type, cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_EXECUTABLE});
  cl_kernel kernel = cl().clCreateKernel(again, "fixed", &error);
  EXPECT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseKernel(kernel), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseProgram(again), CL_SUCCESS);

  for (const std::size_t damage : {std::size_t{0}, std::size_t{9}, size / 2, size - 1}) {
    std::vector<unsigned char> damaged = binary;
    damaged[damage] ^= 0x20;
    source = damaged.data();
    EXPECT_EQ(cl().clCreateProgramWithBinary(context, 1, &device, &size, &source, &status, &error), nullptr);
    EXPECT_EQ(error, CL_INVALID_BINARY) << damage;
    EXPECT_EQ(status, CL_INVALID_BINARY) << damage;
  }
  const std::size_t half = size / 2;
  source = binary.data();
  EXPECT_EQ(cl().clCreateProgramWithBinary(context, 1, &device, &half, &source, &status, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_BINARY);
  source = nullptr;
  EXPECT_EQ(cl().clCreateProgramWithBinary(context, 1, &device, &size, &source, &status, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
}

TEST_F(ProgramTest, IntermediateLanguagesAndBuiltInKernelsAreRefused) {
  cl_int error = 1;
  EXPECT_EQ(cl().clCreateProgramWithIL(context, "xxxx", 4, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
  EXPECT_EQ(cl().clCreateProgramWithBuiltInKernels(context, 1, &device, "none", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(cl().clUnloadPlatformCompiler(Driver::get().platform), CL_SUCCESS);
  EXPECT_EQ(cl().clUnloadPlatformCompiler(nullptr), CL_INVALID_PLATFORM);
}

class KernelTest : public ContextTest {
 protected:
  void SetUp() override {
    ContextTest::SetUp();
    program = build(kSource);
    cl_int error = 1;
    scale = cl().clCreateKernel(program, "scale", &error);
    ASSERT_EQ(error, CL_SUCCESS);
    fixed = cl().clCreateKernel(program, "fixed", &error);
    ASSERT_EQ(error, CL_SUCCESS);
  }
  void TearDown() override {
    EXPECT_EQ(cl().clReleaseKernel(scale), CL_SUCCESS);
    EXPECT_EQ(cl().clReleaseKernel(fixed), CL_SUCCESS);
    EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
    ContextTest::TearDown();
  }

  std::string argument_string(cl_uint index, cl_kernel_arg_info name) {
    char text[100] = "";
    EXPECT_EQ(cl().clGetKernelArgInfo(scale, index, name, sizeof text, text, nullptr), CL_SUCCESS);
    return text;
  }
  template <typename T>
  T argument_value(cl_uint index, cl_kernel_arg_info name) {
    T value{};
    EXPECT_EQ(cl().clGetKernelArgInfo(scale, index, name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  }

  cl_program program = nullptr;
  cl_kernel scale = nullptr;
  cl_kernel fixed = nullptr;
};

TEST_F(KernelTest, AnswersQueries) {
  char name[20];
  EXPECT_EQ(cl().clGetKernelInfo(scale, CL_KERNEL_FUNCTION_NAME, sizeof name, name, nullptr), CL_SUCCESS);
  EXPECT_STREQ(name, "scale");
  cl_uint count = 0;
  EXPECT_EQ(cl().clGetKernelInfo(scale, CL_KERNEL_NUM_ARGS, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 7u);
  cl_program named = nullptr;
  EXPECT_EQ(cl().clGetKernelInfo(scale, CL_KERNEL_PROGRAM, sizeof named, &named, nullptr), CL_SUCCESS);
  EXPECT_EQ(named, program);
  char attributes[200];
  EXPECT_EQ(cl().clGetKernelInfo(fixed, CL_KERNEL_ATTRIBUTES, sizeof attributes, attributes, nullptr), CL_SUCCESS);
  EXPECT_NE(std::string(attributes).find("reqd_work_group_size(8,4,2)"), std::string::npos) << attributes;
  EXPECT_EQ(cl().clGetKernelInfo(scale, 0xbad, 0, nullptr, nullptr), CL_INVALID_VALUE);
}

TEST_F(KernelTest, DescribesItsArguments) {
  EXPECT_EQ(argument_string(0, CL_KERNEL_ARG_NAME), "data");
  EXPECT_EQ(argument_string(0, CL_KERNEL_ARG_TYPE_NAME), "float*");
  EXPECT_EQ(argument_value<cl_kernel_arg_address_qualifier>(0, CL_KERNEL_ARG_ADDRESS_QUALIFIER),
            cl_kernel_arg_address_qualifier{CL_KERNEL_ARG_ADDRESS_GLOBAL});
  EXPECT_EQ(argument_value<cl_kernel_arg_type_qualifier>(0, CL_KERNEL_ARG_TYPE_QUALIFIER),
            cl_kernel_arg_type_qualifier{CL_KERNEL_ARG_TYPE_RESTRICT});
  EXPECT_EQ(argument_value<cl_kernel_arg_type_qualifier>(1, CL_KERNEL_ARG_TYPE_QUALIFIER),
            cl_kernel_arg_type_qualifier{CL_KERNEL_ARG_TYPE_CONST});
  EXPECT_EQ(argument_value<cl_kernel_arg_address_qualifier>(2, CL_KERNEL_ARG_ADDRESS_QUALIFIER),
            cl_kernel_arg_address_qualifier{CL_KERNEL_ARG_ADDRESS_CONSTANT});
  EXPECT_EQ(argument_value<cl_kernel_arg_address_qualifier>(3, CL_KERNEL_ARG_ADDRESS_QUALIFIER),
            cl_kernel_arg_address_qualifier{CL_KERNEL_ARG_ADDRESS_LOCAL});
  EXPECT_EQ(argument_string(5, CL_KERNEL_ARG_TYPE_NAME), "float3");
  EXPECT_EQ(argument_value<cl_kernel_arg_address_qualifier>(6, CL_KERNEL_ARG_ADDRESS_QUALIFIER),
            cl_kernel_arg_address_qualifier{CL_KERNEL_ARG_ADDRESS_PRIVATE});
  EXPECT_EQ(argument_value<cl_kernel_arg_access_qualifier>(6, CL_KERNEL_ARG_ACCESS_QUALIFIER),
            cl_kernel_arg_access_qualifier{CL_KERNEL_ARG_ACCESS_NONE});
  EXPECT_EQ(cl().clGetKernelArgInfo(scale, 7, CL_KERNEL_ARG_NAME, 0, nullptr, nullptr), CL_INVALID_ARG_INDEX);
}

TEST_F(KernelTest, ArgumentsAreChecked) {
  const cl_int four = 4;
  cl_mem null = nullptr;
  EXPECT_EQ(cl().clSetKernelArg(nullptr, 6, sizeof four, &four), CL_INVALID_KERNEL);
  EXPECT_EQ(cl().clSetKernelArg(scale, 7, sizeof four, &four), CL_INVALID_ARG_INDEX);
  EXPECT_EQ(cl().clSetKernelArg(scale, 6, sizeof four, nullptr), CL_INVALID_ARG_VALUE);
  EXPECT_EQ(cl().clSetKernelArg(scale, 6, 8, &four), CL_INVALID_ARG_SIZE);
  EXPECT_EQ(cl().clSetKernelArg(scale, 6, sizeof four, &four), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(scale, 0, sizeof null, &null), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(scale, 0, sizeof null, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(scale, 0, 4, &null), CL_INVALID_ARG_SIZE);
  EXPECT_EQ(cl().clSetKernelArg(scale, 0, sizeof context, &context), CL_INVALID_MEM_OBJECT);
  EXPECT_EQ(cl().clSetKernelArg(scale, 3, 0, nullptr), CL_INVALID_ARG_SIZE);
  EXPECT_EQ(cl().clSetKernelArg(scale, 3, 64, &four), CL_INVALID_ARG_VALUE);
  EXPECT_EQ(cl().clSetKernelArg(scale, 3, 64, nullptr), CL_SUCCESS);
  const float vector[4] = {};
  EXPECT_EQ(cl().clSetKernelArg(scale, 5, 12, vector), CL_INVALID_ARG_SIZE);
  EXPECT_EQ(cl().clSetKernelArg(scale, 5, 16, vector), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(scale, 4, 16, vector), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(scale, 0, &four), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(scale, 2, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(scale, 6, &four), CL_INVALID_ARG_VALUE);
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(scale, 3, &four), CL_INVALID_ARG_VALUE);
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(scale, 9, &four), CL_INVALID_ARG_INDEX);
}

TEST_F(KernelTest, DoesNotKeepItsBuffersAlive) {
  cl_int error = 1;
  cl_mem buffer = cl().clCreateBuffer(context, CL_MEM_READ_WRITE, 4096, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  static bool gone;
  gone = false;
  EXPECT_EQ(cl().clSetMemObjectDestructorCallback(
                buffer, [](cl_mem, void*) { gone = true; }, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(fixed, 0, sizeof buffer, &buffer), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseMemObject(buffer), CL_SUCCESS);
  EXPECT_TRUE(gone);
  EXPECT_EQ(cl().clSetKernelArg(fixed, 0, sizeof buffer, &buffer), CL_INVALID_MEM_OBJECT);
}

TEST_F(KernelTest, ExecInfoIsChecked) {
  void* pointers[2] = {&program, &scale};
  EXPECT_EQ(cl().clSetKernelExecInfo(scale, CL_KERNEL_EXEC_INFO_SVM_PTRS, sizeof pointers, pointers), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelExecInfo(scale, CL_KERNEL_EXEC_INFO_SVM_PTRS, 0, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelExecInfo(scale, CL_KERNEL_EXEC_INFO_SVM_PTRS, 7, pointers), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clSetKernelExecInfo(scale, CL_KERNEL_EXEC_INFO_SVM_PTRS, 8, nullptr), CL_INVALID_VALUE);
  const cl_bool yes = CL_TRUE;
  const cl_bool neither = 7;
  EXPECT_EQ(cl().clSetKernelExecInfo(scale, CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM, sizeof yes, &yes), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelExecInfo(scale, CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM, 1, &yes), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clSetKernelExecInfo(scale, CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM, sizeof yes, &neither),
            CL_INVALID_VALUE);
  EXPECT_EQ(cl().clSetKernelExecInfo(scale, 0xbad, sizeof yes, &yes), CL_INVALID_VALUE);
}

TEST_F(KernelTest, TellsItsWorkGroupNeeds) {
  std::size_t sizes[3] = {};
  EXPECT_EQ(
      cl().clGetKernelWorkGroupInfo(fixed, device, CL_KERNEL_COMPILE_WORK_GROUP_SIZE, sizeof sizes, sizes, nullptr),
      CL_SUCCESS);
  EXPECT_EQ(sizes[0], 8u);
  EXPECT_EQ(sizes[1], 4u);
  EXPECT_EQ(sizes[2], 2u);
  std::size_t size = 0;
  EXPECT_EQ(cl().clGetKernelWorkGroupInfo(scale, nullptr, CL_KERNEL_WORK_GROUP_SIZE, sizeof size, &size, nullptr),
            CL_SUCCESS);
  EXPECT_GE(size, 64u);
  cl_ulong bytes = 0;
  EXPECT_EQ(cl().clGetKernelWorkGroupInfo(fixed, device, CL_KERNEL_LOCAL_MEM_SIZE, sizeof bytes, &bytes, nullptr),
            CL_SUCCESS);
  EXPECT_GE(bytes, 64u);
  EXPECT_EQ(cl().clSetKernelArg(scale, 3, 1000, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clGetKernelWorkGroupInfo(scale, device, CL_KERNEL_LOCAL_MEM_SIZE, sizeof bytes, &bytes, nullptr),
            CL_SUCCESS);
  EXPECT_GE(bytes, 1000u);
  EXPECT_EQ(cl().clGetKernelWorkGroupInfo(scale, device, CL_KERNEL_GLOBAL_WORK_SIZE, sizeof sizes, sizes, nullptr),
            CL_INVALID_VALUE);
  EXPECT_EQ(cl().clGetKernelSubGroupInfo(scale, device, CL_KERNEL_MAX_NUM_SUB_GROUPS, 0, nullptr, sizeof size, &size,
                                         nullptr),
            CL_INVALID_OPERATION);
}

TEST_F(KernelTest, CloneHasItsOwnArguments) {
  cl_int value = 1;
  cl_int other = 2;
  cl_int error = 1;
  cl_command_queue queue = cl().clCreateCommandQueueWithProperties(context, device, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_program add_program = build("kernel void add(global int* p, int n) { *p += n; }");
  cl_kernel add = cl().clCreateKernel(add_program, "add", &error);
  ASSERT_EQ(error, CL_SUCCESS);
  const std::size_t one = 1;
  EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, add, 1, nullptr, &one, nullptr, 0, nullptr, nullptr),
            CL_INVALID_KERNEL_ARGS);
  cl_int n = 10;
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(add, 0, &value), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(add, 1, sizeof n, &n), CL_SUCCESS);
  cl_kernel clone = cl().clCloneKernel(add, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(clone, 0, &other), CL_SUCCESS);
  EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, add, 1, nullptr, &one, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, clone, 1, nullptr, &one, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(value, 11);
  EXPECT_EQ(other, 12);
  EXPECT_EQ(cl().clReleaseKernel(clone), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseKernel(add), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseKernel(add), CL_INVALID_KERNEL);
  EXPECT_EQ(cl().clReleaseProgram(add_program), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseCommandQueue(queue), CL_SUCCESS);
}

TEST_F(KernelTest, RunsWithEveryKindOfArgument) {
  cl_int error = 1;
  cl_command_queue queue = cl().clCreateCommandQueueWithProperties(context, device, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  std::vector<float> data(64, 0.0f);
  std::vector<cl_int> index(64);
  for (int i = 0; i < 64; ++i) index[static_cast<std::size_t>(i)] = 63 - i;
  const float factors[1] = {2.0f};
  struct {
    cl_int a;
    float b[3];
  } pair = {100, {}};
  const float vector[4] = {0.5f, 0, 0, 0};
  const cl_int n = 3;
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(scale, 0, data.data()), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(scale, 1, index.data()), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(scale, 2, factors), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(scale, 3, 16 * sizeof(float), nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(scale, 4, sizeof pair, &pair), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(scale, 5, sizeof vector, vector), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(scale, 6, sizeof n, &n), CL_SUCCESS);
  const std::size_t global = 64;
  const std::size_t local = 16;
  EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, scale, 1, nullptr, &global, &local, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  for (float value : data) EXPECT_EQ(value, 2.0f * 3 + 100 + 0.5f);

  EXPECT_EQ(cl().clSetKernelArg(scale, 3, std::size_t{1} << 40, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, scale, 1, nullptr, &global, &local, 0, nullptr, nullptr),
            CL_OUT_OF_RESOURCES);
  EXPECT_EQ(cl().clReleaseCommandQueue(queue), CL_SUCCESS);
}

}  // namespace
}  // namespace mirrorcl::icd::testing

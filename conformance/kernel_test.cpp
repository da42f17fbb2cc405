// SPDX-License-Identifier: Apache-2.0
// What runs inside kernels: index spaces, work-groups, local memory, arguments by value, printf. OpenCL 3.0 API,
// section 5.10 (clEnqueueNDRangeKernel), OpenCL C 3.0, sections 6.15.1 (work-item functions), 6.15.8
// (synchronisation), 6.15.15 (printf).
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

class Kernels : public ClTest {
 protected:
  template <typename T>
  std::vector<T> read(const Buffer& buffer, std::size_t count) {
    std::vector<T> data(count);
    EXPECT_CL(CL_SUCCESS, clEnqueueReadBuffer(queue(), buffer.get(), CL_TRUE, 0, count * sizeof(T), data.data(), 0,
                                              nullptr, nullptr));
    return data;
  }
  template <typename T>
  Buffer buffer_of(std::size_t count, int fill_byte = 0) {
    std::vector<unsigned char> bytes(count * sizeof(T), static_cast<unsigned char>(fill_byte));
    return make_buffer(CL_MEM_COPY_HOST_PTR, bytes.size(), bytes.data());
  }
};

// Every work-item writes all its numbers at its linear place.
constexpr const char* kWhoAmI = R"(
kernel void who(global ulong *out) {
  ulong width = get_global_size(0), height = get_global_size(1);
  ulong x = get_global_id(0) - get_global_offset(0), y = get_global_id(1) - get_global_offset(1),
        z = get_global_id(2) - get_global_offset(2);
  global ulong *mine = out + 16 * (x + width * (y + height * z));
  for (uint d = 0; d < 3; ++d) {
    mine[d] = get_global_id(d);
    mine[3 + d] = get_local_id(d);
    mine[6 + d] = get_group_id(d);
    mine[9 + d] = get_local_size(d);
    mine[12 + d] = get_num_groups(d);
  }
  mine[15] = get_work_dim() * 1000 + get_global_linear_id() * 10000 + get_local_linear_id();
})";

class IndexSpace : public Kernels {
 protected:
  void check(const Grid& grid) {
    Kernel kernel = build(kWhoAmI, "who");
    ASSERT_TRUE(kernel);
    std::size_t dims = grid.global.size(), size[3] = {1, 1, 1}, local[3] = {1, 1, 1}, offset[3] = {};
    std::copy(grid.global.begin(), grid.global.end(), size);
    std::copy(grid.local.begin(), grid.local.end(), local);
    std::copy(grid.offset.begin(), grid.offset.end(), offset);
    std::size_t items = size[0] * size[1] * size[2];
    Buffer out = buffer_of<cl_ulong>(16 * items, 0xee);
    run(kernel, grid, out.get());
    std::vector<cl_ulong> seen = read<cl_ulong>(out, 16 * items);
    for (std::size_t item = 0; item < items; ++item) {
      std::size_t at[3] = {item % size[0], item / size[0] % size[1], item / size[0] / size[1]};
      const cl_ulong* mine = seen.data() + 16 * item;
      cl_ulong local_linear = 0;
      for (std::size_t d = 3; d-- > 0;) {
        std::size_t group = at[d] / local[d], groups = (size[d] + local[d] - 1) / local[d];
        std::size_t group_size = std::min(local[d], size[d] - group * local[d]);  // the last group may be smaller
        ASSERT_EQ(mine[d], at[d] + offset[d]) << "global id " << d << " of item " << item;
        ASSERT_EQ(mine[3 + d], at[d] % local[d]) << "local id " << d << " of item " << item;
        ASSERT_EQ(mine[6 + d], group) << "group id " << d << " of item " << item;
        ASSERT_EQ(mine[9 + d], group_size) << "local size " << d << " of item " << item;
        ASSERT_EQ(mine[12 + d], groups) << "number of groups " << d << " of item " << item;
        local_linear = local_linear * group_size + at[d] % local[d];
      }
      ASSERT_EQ(mine[15], dims * 1000 + item * 10000 + local_linear) << "item " << item;
    }
  }
  bool non_uniform() const {
    cl_bool supported = CL_FALSE;
    clGetDeviceInfo(device(), CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT, sizeof supported, &supported, nullptr);
    return supported == CL_TRUE;
  }
};

TEST_F(IndexSpace, OneDimension) {
  check(Grid({1000}, {8}));
}
TEST_F(IndexSpace, OneWorkItem) {
  check(Grid({1}, {1}));
}
TEST_F(IndexSpace, TwoDimensions) {
  check(Grid({48, 20}, {16, 4}));
}
TEST_F(IndexSpace, ThreeDimensions) {
  check(Grid({12, 10, 9}, {4, 5, 3}));
}
TEST_F(IndexSpace, OffsetsInOneDimension) {
  check(Grid({100}, {10}, {12345}));
}
TEST_F(IndexSpace, OffsetsInThreeDimensions) {
  check(Grid({8, 6, 4}, {2, 3, 4}, {100, 7, 33}));
}

TEST_F(IndexSpace, NonUniformGroupsInOneDimension) {
  if (!non_uniform()) GTEST_SKIP() << "no non-uniform work-groups";
  check(Grid({1003}, {16}));
}
TEST_F(IndexSpace, NonUniformGroupsInThreeDimensionsWithOffsets) {
  if (!non_uniform()) GTEST_SKIP() << "no non-uniform work-groups";
  check(Grid({11, 7, 5}, {4, 4, 2}, {3, 2, 1}));
}
TEST_F(IndexSpace, GridSmallerThanAWorkGroup) {
  if (!non_uniform()) GTEST_SKIP() << "no non-uniform work-groups";
  check(Grid({5}, {64}));
}

TEST_F(IndexSpace, LocalSizeLeftToTheDriver) {
  Kernel kernel = build(
      "kernel void mark(global uint *out) { atomic_add(out + get_global_id(0) + 997 * get_global_id(1), 1); }", "mark");
  ASSERT_TRUE(kernel);
  for (std::size_t width : {1U, 7U, 64U, 997U}) {
    Buffer out = buffer_of<cl_uint>(997 * 3);
    run(kernel, Grid({width, 3}, {}), out.get());
    std::vector<cl_uint> seen = read<cl_uint>(out, 997 * 3);
    for (std::size_t i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i], i % 997 < width ? 1u : 0u) << i;
  }
}

TEST_F(IndexSpace, ManyWorkItems) {
  Kernel kernel =
      build("kernel void mark(global uint *out) { out[get_global_id(0)] += (uint)get_global_id(0); }", "mark");
  ASSERT_TRUE(kernel);
  constexpr std::size_t kItems = 4'000'000;
  Buffer out = buffer_of<cl_uint>(kItems);
  run(kernel, kItems, out.get());
  std::vector<cl_uint> seen = read<cl_uint>(out, kItems);
  for (std::size_t i = 0; i < kItems; ++i) ASSERT_EQ(seen[i], i);
}

TEST_F(IndexSpace, Errors) {
  Kernel kernel = build(kWhoAmI, "who");
  ASSERT_TRUE(kernel);
  auto code = [&](cl_uint dims, std::vector<std::size_t> global, std::vector<std::size_t> local) {
    return clEnqueueNDRangeKernel(queue(), kernel.get(), dims, nullptr, global.data(),
                                  local.empty() ? nullptr : local.data(), 0, nullptr, nullptr);
  };
  EXPECT_CL(CL_INVALID_KERNEL_ARGS, code(1, {16}, {}));
  Buffer out = buffer_of<cl_ulong>(16 * 16);
  ASSERT_CL(CL_SUCCESS, set_argument(kernel.get(), 0, out.get()));
  EXPECT_CL(CL_INVALID_WORK_DIMENSION, code(0, {16}, {}));
  EXPECT_CL(CL_INVALID_WORK_DIMENSION, code(4, {16, 1, 1, 1}, {}));
  EXPECT_CL(CL_INVALID_WORK_GROUP_SIZE, code(1, {16}, {0}));
  std::size_t largest = 0;
  ASSERT_CL(CL_SUCCESS, clGetDeviceInfo(device(), CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof largest, &largest, nullptr));
  cl_int too_large = code(1, {4 * largest}, {2 * largest});
  EXPECT_TRUE(too_large == CL_INVALID_WORK_GROUP_SIZE || too_large == CL_INVALID_WORK_ITEM_SIZE)
      << error_name(too_large);
  EXPECT_CL(CL_SUCCESS, code(1, {16}, {4}));
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
}

TEST_F(Kernels, RequiredWorkGroupSize) {
  Kernel kernel = build(
      "kernel __attribute__((reqd_work_group_size(8, 2, 1))) void fixed(global int *p) "
      "{ p[get_global_id(0) + 16 * get_global_id(1)] = (int)get_local_size(0) * 10 + (int)get_local_size(1); }",
      "fixed");
  ASSERT_TRUE(kernel);
  std::size_t sizes[3] = {};
  EXPECT_CL(CL_SUCCESS, clGetKernelWorkGroupInfo(kernel.get(), device(), CL_KERNEL_COMPILE_WORK_GROUP_SIZE,
                                                 sizeof sizes, sizes, nullptr));
  EXPECT_EQ(std::vector<std::size_t>(sizes, sizes + 3), (std::vector<std::size_t>{8, 2, 1}));
  Buffer out = buffer_of<int>(64);
  run(kernel, Grid({16, 4}, {8, 2}), out.get());
  EXPECT_EQ(read<int>(out, 64), std::vector<int>(64, 82));
  std::size_t global[2] = {16, 4}, wrong[2] = {4, 4};
  EXPECT_CL(CL_INVALID_WORK_GROUP_SIZE,
            clEnqueueNDRangeKernel(queue(), kernel.get(), 2, nullptr, global, wrong, 0, nullptr, nullptr));
}

constexpr const char* kReduce = R"(
kernel void reduce(global const int *in, global long *out, local long *scratch) {
  size_t l = get_local_id(0);
  scratch[l] = in[get_global_id(0)];
  for (size_t stride = get_local_size(0) / 2; stride > 0; stride /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (l < stride) scratch[l] += scratch[l + stride];
  }
  if (l == 0) out[get_group_id(0)] = scratch[0];
}
kernel void shift(global int *data) {
  local int copy[256];
  size_t l = get_local_id(0), n = get_local_size(0);
  copy[l] = data[get_global_id(0)];
  barrier(CLK_LOCAL_MEM_FENCE);
  data[get_global_id(0)] = copy[(l + 1) % n];
})";

TEST_F(Kernels, ReductionInLocalMemoryGivenAsAnArgument) {
  Kernel kernel = build(kReduce, "reduce");
  ASSERT_TRUE(kernel);
  constexpr std::size_t kItems = 64 * 128;
  std::vector<int> in(kItems);
  std::iota(in.begin(), in.end(), -100);
  Buffer input = make_buffer(CL_MEM_COPY_HOST_PTR, kItems * sizeof(int), in.data()),
         output = buffer_of<cl_long>(kItems / 64);
  for (std::size_t group : {64U, 128U}) {
    run(kernel, Grid({kItems}, {group}), input.get(), output.get(), Local{group * sizeof(cl_long)});
    std::vector<cl_long> sums = read<cl_long>(output, kItems / group);
    for (std::size_t g = 0; g < sums.size(); ++g) {
      auto first = in.begin() + static_cast<std::ptrdiff_t>(g * group);
      ASSERT_EQ(sums[g], std::accumulate(first, first + static_cast<std::ptrdiff_t>(group), cl_long{0})) << g;
    }
  }
}

TEST_F(Kernels, LocalArraysDeclaredInTheKernel) {
  Kernel kernel = build(kReduce, "shift");
  ASSERT_TRUE(kernel);
  std::vector<int> in(1024);
  std::iota(in.begin(), in.end(), 0);
  Buffer data = make_buffer(CL_MEM_COPY_HOST_PTR, in.size() * sizeof(int), in.data());
  run(kernel, Grid({1024}, {32}), data.get());
  std::vector<int> seen = read<int>(data, 1024);
  for (int i = 0; i < 1024; ++i) ASSERT_EQ(seen[static_cast<std::size_t>(i)], i / 32 * 32 + (i + 1) % 32);
}

TEST_F(Kernels, BarriersInLoops) {
  Kernel kernel = build(R"(
kernel void life(global int *data, int steps) {
  local int cells[2][64];
  size_t l = get_local_id(0);
  cells[0][l] = data[get_global_id(0)];
  for (int s = 0; s < steps; ++s) {
    barrier(CLK_LOCAL_MEM_FENCE);
    cells[(s + 1) & 1][l] = cells[s & 1][(l + 63) % 64] + cells[s & 1][(l + 1) % 64];
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  data[get_global_id(0)] = cells[steps & 1][l];
})",
                        "life");
  ASSERT_TRUE(kernel);
  std::vector<int> in(128), expected;
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i * i % 11);
  Buffer data = make_buffer(CL_MEM_COPY_HOST_PTR, in.size() * sizeof(int), in.data());
  run(kernel, Grid({128}, {64}), data.get(), 7);
  for (std::size_t group = 0; group < 2; ++group) {
    std::vector<int> cells(in.begin() + static_cast<std::ptrdiff_t>(64 * group),
                           in.begin() + static_cast<std::ptrdiff_t>(64 * group + 64));
    for (int step = 0; step < 7; ++step) {
      std::vector<int> next(64);
      for (std::size_t i = 0; i < 64; ++i) next[i] = cells[(i + 63) % 64] + cells[(i + 1) % 64];
      cells = next;
    }
    expected.insert(expected.end(), cells.begin(), cells.end());
  }
  EXPECT_EQ(read<int>(data, 128), expected);
}

TEST_F(Kernels, StructsAndVectorsByValue) {
  struct Inner {
    cl_short a;
    cl_double b;
  };
  struct Params {
    cl_char c;
    Inner inner[2];
    cl_int4 v;
    cl_long l;
  };
  Kernel kernel = build(R"(
struct Inner { short a; double b; };
struct Params { char c; struct Inner inner[2]; int4 v; long l; };
kernel void take(struct Params p, float3 f, uchar u, global double *out) {
  out[0] = p.c; out[1] = p.inner[1].a; out[2] = p.inner[1].b; out[3] = p.v.w; out[4] = p.l; out[5] = f.z; out[6] = u;
  out[7] = sizeof(struct Params);
})",
                        "take");
  ASSERT_TRUE(kernel);
  Params params{};
  params.c = -3;
  params.inner[1] = {-1234, 2.5};
  params.v.s[3] = 99;
  params.l = -5'000'000'000;
  cl_float3 f{};
  f.s[2] = 0.75F;
  Buffer out = buffer_of<double>(8);
  run(kernel, 1, params, f, cl_uchar{200}, out.get());
  EXPECT_EQ(read<double>(out, 8),
            (std::vector<double>{-3, -1234, 2.5, 99, -5e9, 0.75, 200, static_cast<double>(sizeof(Params))}));
}

TEST_F(Kernels, ConstantMemoryAndProgramScopeConstants) {
  Kernel kernel = build(R"(
constant int table[5] = {10, 20, 30, 40, 50};
kernel void lookup(constant int *given, global int *out) {
  size_t i = get_global_id(0);
  out[i] = table[i % 5] + given[i % 3];
})",
                        "lookup");
  ASSERT_TRUE(kernel);
  int given[3] = {1, 2, 3};
  Buffer input = make_buffer(CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, sizeof given, given), out = buffer_of<int>(15);
  run(kernel, 15, input.get(), out.get());
  std::vector<int> seen = read<int>(out, 15);
  for (int i = 0; i < 15; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], 10 * (i % 5 + 1) + i % 3 + 1);
}

TEST_F(Kernels, MathFunctions) {
  Kernel kernel = build(R"(
kernel void math(global const float *in, global float *out) {
  size_t i = get_global_id(0);
  float x = in[i];
  out[5 * i] = sqrt(x); out[5 * i + 1] = sin(x); out[5 * i + 2] = exp(-x); out[5 * i + 3] = pow(x, 1.5f);
  out[5 * i + 4] = fmod(x, 0.7f);
})",
                        "math");
  ASSERT_TRUE(kernel);
  std::vector<float> in(100);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = 0.05F * static_cast<float>(i);
  Buffer input = make_buffer(CL_MEM_COPY_HOST_PTR, in.size() * sizeof(float), in.data()), out = buffer_of<float>(500);
  run(kernel, in.size(), input.get(), out.get());
  std::vector<float> seen = read<float>(out, 500);
  for (std::size_t i = 0; i < in.size(); ++i) {
    float x = in[i];
    EXPECT_NEAR(seen[5 * i], std::sqrt(x), 1e-5F);
    EXPECT_NEAR(seen[5 * i + 1], std::sin(x), 1e-5F);
    EXPECT_NEAR(seen[5 * i + 2], std::exp(-x), 1e-5F);
    EXPECT_NEAR(seen[5 * i + 3], std::pow(x, 1.5F), 1e-4F);
    EXPECT_NEAR(seen[5 * i + 4], std::fmod(x, 0.7F), 1e-5F);
  }
}

// What this process writes to its standard output while it lives.
class CapturedOutput {
 public:
  CapturedOutput() {
    std::fflush(stdout);
    char name[] = "/tmp/mirrorcl-conformance-XXXXXX";
    file_ = mkstemp(name);
    unlink(name);
    saved_ = dup(1);
    dup2(file_, 1);
  }
  ~CapturedOutput() {
    restore();
    close(file_);
  }
  std::string text() {
    restore();
    std::string all(static_cast<std::size_t>(lseek(file_, 0, SEEK_END)), '\0');
    EXPECT_EQ(pread(file_, all.data(), all.size(), 0), static_cast<ssize_t>(all.size()));
    return all;
  }

 private:
  void restore() {
    if (saved_ < 0) return;
    std::fflush(stdout);
    dup2(saved_, 1);
    close(saved_);
    saved_ = -1;
  }
  int file_, saved_;
};

TEST_F(Kernels, Printf) {
  Kernel kernel = build(R"(
kernel void talk(int number, float real) {
  printf("n=%d x=%#x r=%.3f s=%s c=%c v=%v4hld %%\n", number, number, real, "text", 'k',
         (int4)(1, 2, 3, 4));
})",
                        "talk");
  ASSERT_TRUE(kernel);
  CapturedOutput output;
  run(kernel, 1, 42, 1.5F);
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
  EXPECT_EQ(output.text(), "n=42 x=0x2a r=1.500 s=text c=k v=1,2,3,4 %\n");
}

TEST_F(Kernels, PrintfOfManyWorkItemsLosesNoLine) {
  Kernel kernel = build("kernel void talk() { printf(\"item %d\\n\", (int)get_global_id(0)); }", "talk");
  ASSERT_TRUE(kernel);
  CapturedOutput output;
  run(kernel, Grid({1000}, {10}));
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
  std::string text = output.text();
  std::set<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = text.find('\n', at);
    lines.insert(text.substr(at, end - at));
    at = end == std::string::npos ? end : end + 1;
  }
  EXPECT_EQ(lines.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(lines.count("item " + std::to_string(i)) == 1) << i;
}

TEST_F(Kernels, TwoKernelsOfOneProgramAndClones) {
  Kernel add = build(
      "kernel void add(global int *p, int v) { *p += v; } kernel void mul(global int *p, int v) { *p *= v; }", "add");
  ASSERT_TRUE(add);
  cl_int code = CL_SUCCESS;
  Kernel mul;
  mul.handle.reset(clCreateKernel(add.program.get(), "mul", &code));
  ASSERT_CL(CL_SUCCESS, code);
  Buffer word = buffer_of<int>(1);
  run(add, 1, word.get(), 5);
  run(mul, 1, word.get(), 6);
  EXPECT_EQ(read<int>(word, 1)[0], 30);
  Kernel clone;
  clone.handle.reset(clCloneKernel(add.get(), &code));  // with its arguments: adds 5
  ASSERT_CL(CL_SUCCESS, code);
  ASSERT_CL(CL_SUCCESS, set_argument(add.get(), 1, 100));
  expect_complete(enqueue(queue(), clone, 1));
  EXPECT_EQ(read<int>(word, 1)[0], 35);
}

TEST_F(Kernels, ArgumentErrors) {
  Kernel kernel = build("kernel void f(global int *p, int v, local int *l) { p[0] = v + l[0]; }", "f");
  ASSERT_TRUE(kernel);
  int v = 1;
  EXPECT_CL(CL_INVALID_ARG_INDEX, clSetKernelArg(kernel.get(), 3, sizeof v, &v));
  EXPECT_CL(CL_INVALID_ARG_SIZE, clSetKernelArg(kernel.get(), 1, 8, &v));
  EXPECT_CL(CL_INVALID_ARG_VALUE, clSetKernelArg(kernel.get(), 1, sizeof v, nullptr));
  EXPECT_CL(CL_INVALID_ARG_VALUE, clSetKernelArg(kernel.get(), 2, 16, &v));
  EXPECT_CL(CL_INVALID_ARG_SIZE, clSetKernelArg(kernel.get(), 2, 0, nullptr));
  EXPECT_CL(CL_INVALID_ARG_SIZE, clSetKernelArg(kernel.get(), 0, 4, &v));
  void* null_buffer = nullptr;
  EXPECT_CL(CL_SUCCESS, clSetKernelArg(kernel.get(), 0, sizeof(cl_mem), &null_buffer));
  EXPECT_CL(CL_INVALID_KERNEL, clSetKernelArg(nullptr, 0, sizeof v, &v));
}

}  // namespace
}  // namespace mirrorcl::conformance

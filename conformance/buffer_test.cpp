// SPDX-License-Identifier: Apache-2.0
// Buffer objects over every kind of memory: OpenCL 3.0 API, sections 5.2.1 to 5.2.4 (creating, reading, writing,
// copying, filling and mapping buffers).
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <vector>

#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

class Buffers : public ClTest {
 protected:
  static constexpr std::size_t kWords = 10'000;
  static constexpr std::size_t kBytes = kWords * sizeof(int);

  void SetUp() override {
    ClTest::SetUp();
    if (HasFatalFailure()) return;
    kernel_ = build("kernel void twice(global int *data) { data[get_global_id(0)] *= 2; }", "twice");
    ASSERT_TRUE(kernel_);
    numbers_.resize(kWords);
    std::iota(numbers_.begin(), numbers_.end(), 1);
  }
  void TearDown() override {
    kernel_ = {};
    ClTest::TearDown();
  }
  std::vector<int> read(const Buffer& buffer, std::size_t words = kWords) {
    std::vector<int> data(words, -1);
    EXPECT_CL(CL_SUCCESS, clEnqueueReadBuffer(queue(), buffer.get(), CL_TRUE, 0, words * sizeof(int), data.data(), 0,
                                              nullptr, nullptr));
    return data;
  }
  std::vector<int> doubled() const {
    std::vector<int> result(numbers_);
    for (int& number : result) number *= 2;
    return result;
  }
  int* map(const Buffer& buffer, cl_map_flags flags, std::size_t offset, std::size_t bytes) {
    cl_int code = CL_SUCCESS;
    void* mapped = clEnqueueMapBuffer(queue(), buffer.get(), CL_TRUE, flags, offset, bytes, 0, nullptr, nullptr, &code);
    EXPECT_CL(CL_SUCCESS, code);
    return static_cast<int*>(mapped);
  }
  void unmap(const Buffer& buffer, void* mapped) {
    EXPECT_CL(CL_SUCCESS, clEnqueueUnmapMemObject(queue(), buffer.get(), mapped, 0, nullptr, nullptr));
    EXPECT_CL(CL_SUCCESS, clFinish(queue()));
  }
  Kernel kernel_;
  std::vector<int> numbers_;
};

TEST_F(Buffers, WriteRunRead) {
  Buffer buffer = make_buffer(CL_MEM_READ_WRITE, kBytes);
  ASSERT_CL(CL_SUCCESS,
            clEnqueueWriteBuffer(queue(), buffer.get(), CL_FALSE, 0, kBytes, numbers_.data(), 0, nullptr, nullptr));
  run(kernel_, kWords, buffer.get());
  EXPECT_EQ(read(buffer), doubled());
}

TEST_F(Buffers, CopyHostPtr) {
  Buffer buffer = make_buffer(CL_MEM_COPY_HOST_PTR, kBytes, numbers_.data());
  std::vector<int> original(numbers_);
  std::fill(numbers_.begin(), numbers_.end(), 0);
  EXPECT_EQ(read(buffer), original);
}

TEST_F(Buffers, AllocHostPtrIsMapped) {
  Buffer buffer = make_buffer(CL_MEM_ALLOC_HOST_PTR, kBytes);
  int* mapped = map(buffer, CL_MAP_WRITE_INVALIDATE_REGION, 0, kBytes);
  ASSERT_NE(mapped, nullptr);
  std::copy(numbers_.begin(), numbers_.end(), mapped);
  unmap(buffer, mapped);
  run(kernel_, kWords, buffer.get());
  EXPECT_EQ(read(buffer), doubled());
}

TEST_F(Buffers, UseHostPtrFromTheHeap) {
  std::vector<int> expected = doubled();
  Buffer buffer = make_buffer(CL_MEM_USE_HOST_PTR, kBytes, numbers_.data());
  run(kernel_, kWords, buffer.get());
  int* mapped = map(buffer, CL_MAP_READ, 0, kBytes);
  EXPECT_EQ(mapped, numbers_.data());  // section 5.2.4: maps of such a buffer are at the host pointer
  EXPECT_EQ(numbers_, expected);
  unmap(buffer, mapped);
}

TEST_F(Buffers, UseHostPtrFromTheStack) {
  int on_stack[1000];
  std::copy_n(numbers_.begin(), 1000, on_stack);
  Buffer buffer = make_buffer(CL_MEM_USE_HOST_PTR, sizeof on_stack, on_stack);
  run(kernel_, 1000, buffer.get());
  int* mapped = map(buffer, CL_MAP_READ | CL_MAP_WRITE, 0, sizeof on_stack);
  EXPECT_EQ(mapped, on_stack);
  EXPECT_EQ(on_stack[999], 2000);
  on_stack[0] = 50;
  unmap(buffer, mapped);
  run(kernel_, 1000, buffer.get());
  EXPECT_EQ(read(buffer, 1000)[0], 100);
}

TEST_F(Buffers, ReadAndWriteWithOffsets) {
  Buffer buffer = make_buffer(CL_MEM_COPY_HOST_PTR, kBytes, numbers_.data());
  const int words[3] = {-1, -2, -3};
  ASSERT_CL(CL_SUCCESS,
            clEnqueueWriteBuffer(queue(), buffer.get(), CL_TRUE, 40, sizeof words, words, 0, nullptr, nullptr));
  int seen[5];
  ASSERT_CL(CL_SUCCESS,
            clEnqueueReadBuffer(queue(), buffer.get(), CL_TRUE, 36, sizeof seen, seen, 0, nullptr, nullptr));
  EXPECT_EQ(std::vector<int>(seen, seen + 5), (std::vector<int>{10, -1, -2, -3, 14}));
  EXPECT_CL(CL_INVALID_VALUE,
            clEnqueueReadBuffer(queue(), buffer.get(), CL_TRUE, kBytes - 4, 8, seen, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueReadBuffer(queue(), buffer.get(), CL_TRUE, 0, 4, nullptr, 0, nullptr, nullptr));
}

TEST_F(Buffers, SubBuffersSeeTheirPart) {
  cl_uint align_bits = 0;
  ASSERT_CL(CL_SUCCESS,
            clGetDeviceInfo(device(), CL_DEVICE_MEM_BASE_ADDR_ALIGN, sizeof align_bits, &align_bits, nullptr));
  std::size_t align = align_bits / 8;
  Buffer buffer = make_buffer(CL_MEM_COPY_HOST_PTR, kBytes, numbers_.data());
  cl_buffer_region region{4 * align, 100 * sizeof(int)};
  cl_int code = CL_SUCCESS;
  Buffer part(clCreateSubBuffer(buffer.get(), CL_MEM_READ_WRITE, CL_BUFFER_CREATE_TYPE_REGION, &region, &code));
  ASSERT_CL(CL_SUCCESS, code);
  run(kernel_, 100, part.get());
  std::vector<int> all = read(buffer), expected(numbers_);
  std::size_t first = region.origin / sizeof(int);
  for (std::size_t i = first; i < first + 100; ++i) expected[i] *= 2;
  EXPECT_EQ(all, expected);
  EXPECT_EQ(read(part, 100)[0], expected[first]);
  cl_mem parent = nullptr;
  std::size_t offset = 0;
  EXPECT_CL(CL_SUCCESS, clGetMemObjectInfo(part.get(), CL_MEM_ASSOCIATED_MEMOBJECT, sizeof parent, &parent, nullptr));
  EXPECT_CL(CL_SUCCESS, clGetMemObjectInfo(part.get(), CL_MEM_OFFSET, sizeof offset, &offset, nullptr));
  EXPECT_EQ(parent, buffer.get());
  EXPECT_EQ(offset, region.origin);
  region = {kBytes - 4, 8};
  clCreateSubBuffer(buffer.get(), 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &code);
  EXPECT_CL(CL_INVALID_VALUE, code);
  region = {0, 0};
  clCreateSubBuffer(buffer.get(), 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &code);
  EXPECT_CL(CL_INVALID_BUFFER_SIZE, code);
  region = {0, 16};
  clCreateSubBuffer(part.get(), 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &code);
  EXPECT_CL(CL_INVALID_MEM_OBJECT, code);
  if (align > 1) {
    region = {1, 16};
    clCreateSubBuffer(buffer.get(), 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &code);
    EXPECT_CL(CL_MISALIGNED_SUB_BUFFER_OFFSET, code);
  }
}

TEST_F(Buffers, SubBufferOutlivesItsParentHandle) {
  Buffer buffer = make_buffer(CL_MEM_COPY_HOST_PTR, kBytes, numbers_.data());
  cl_buffer_region region{0, 400};
  cl_int code = CL_SUCCESS;
  Buffer part(clCreateSubBuffer(buffer.get(), 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &code));
  ASSERT_CL(CL_SUCCESS, code);
  buffer.reset();
  EXPECT_EQ(read(part, 100)[99], 100);
}

TEST_F(Buffers, CopyBetweenBuffersAndOverlap) {
  Buffer a = make_buffer(CL_MEM_COPY_HOST_PTR, kBytes, numbers_.data());
  Buffer b = make_buffer(CL_MEM_READ_WRITE, kBytes);
  ASSERT_CL(CL_SUCCESS, clEnqueueCopyBuffer(queue(), a.get(), b.get(), 0, 0, kBytes, 0, nullptr, nullptr));
  EXPECT_EQ(read(b), numbers_);
  ASSERT_CL(CL_SUCCESS, clEnqueueCopyBuffer(queue(), a.get(), a.get(), 0, 400, 400, 0, nullptr, nullptr));
  EXPECT_EQ(read(a)[100], 1);
  EXPECT_CL(CL_MEM_COPY_OVERLAP, clEnqueueCopyBuffer(queue(), a.get(), a.get(), 0, 200, 400, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueCopyBuffer(queue(), a.get(), b.get(), 4, 0, kBytes, 0, nullptr, nullptr));
}

TEST_F(Buffers, FillWithPatterns) {
  Buffer buffer = make_buffer(CL_MEM_READ_WRITE, 4096);
  for (std::size_t size = 1; size <= 128; size *= 2) {
    std::vector<unsigned char> pattern(size);
    std::iota(pattern.begin(), pattern.end(), static_cast<unsigned char>(3 * size));
    ASSERT_CL(CL_SUCCESS,
              clEnqueueFillBuffer(queue(), buffer.get(), pattern.data(), size, 128, 3072, 0, nullptr, nullptr));
    std::vector<unsigned char> bytes(4096);
    ASSERT_CL(CL_SUCCESS,
              clEnqueueReadBuffer(queue(), buffer.get(), CL_TRUE, 0, 4096, bytes.data(), 0, nullptr, nullptr));
    for (std::size_t i = 128; i < 3200; ++i) ASSERT_EQ(bytes[i], pattern[i % size]) << size << " at " << i;
  }
  int zero = 0;
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueFillBuffer(queue(), buffer.get(), &zero, 3, 0, 12, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueFillBuffer(queue(), buffer.get(), &zero, 4, 2, 12, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueFillBuffer(queue(), buffer.get(), nullptr, 4, 0, 12, 0, nullptr, nullptr));
}

TEST_F(Buffers, RectanglesReadWriteAndCopy) {
  // A 3D box of 8 x 6 x 4 bytes; 3 x 2 x 2 of it go out, change, and come back elsewhere.
  constexpr std::size_t kX = 8, kY = 6, kZ = 4;
  std::vector<unsigned char> box(kX * kY * kZ);
  std::iota(box.begin(), box.end(), 0);
  Buffer buffer = make_buffer(CL_MEM_COPY_HOST_PTR, box.size(), box.data());
  std::size_t from[3] = {2, 1, 1}, zero[3] = {0, 0, 0}, region[3] = {3, 2, 2}, to[3] = {5, 4, 2};
  std::vector<unsigned char> part(12);
  ASSERT_CL(CL_SUCCESS, clEnqueueReadBufferRect(queue(), buffer.get(), CL_TRUE, from, zero, region, kX, kX * kY, 0, 0,
                                                part.data(), 0, nullptr, nullptr));
  auto at = [&](std::size_t x, std::size_t y, std::size_t z) { return x + kX * (y + kY * z); };
  for (std::size_t i = 0; i < 12; ++i) {
    ASSERT_EQ(part[i], at(2 + i % 3, 1 + i / 3 % 2, 1 + i / 6)) << i;
    part[i] = static_cast<unsigned char>(200 + i);
  }
  ASSERT_CL(CL_SUCCESS, clEnqueueWriteBufferRect(queue(), buffer.get(), CL_TRUE, to, zero, region, kX, kX * kY, 3, 6,
                                                 part.data(), 0, nullptr, nullptr));
  ASSERT_CL(CL_SUCCESS, clEnqueueCopyBufferRect(queue(), buffer.get(), buffer.get(), to, zero, region, kX, kX * kY, kX,
                                                kX * kY, 0, nullptr, nullptr));
  for (std::size_t i = 0; i < 12; ++i) {
    std::size_t x = i % 3, y = i / 3 % 2, z = i / 6;
    box[at(5 + x, 4 + y, 2 + z)] = box[at(x, y, z)] = static_cast<unsigned char>(200 + i);
  }
  std::vector<unsigned char> seen(box.size());
  ASSERT_CL(CL_SUCCESS,
            clEnqueueReadBuffer(queue(), buffer.get(), CL_TRUE, 0, box.size(), seen.data(), 0, nullptr, nullptr));
  EXPECT_EQ(seen, box);
  std::size_t large[3] = {9, 1, 1};
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueReadBufferRect(queue(), buffer.get(), CL_TRUE, zero, zero, large, kX, kX * kY, 0,
                                                      0, part.data(), 0, nullptr, nullptr));
}

TEST_F(Buffers, MapsNestAndCount) {
  Buffer buffer = make_buffer(CL_MEM_COPY_HOST_PTR, kBytes, numbers_.data());
  int* first = map(buffer, CL_MAP_READ, 0, 100);
  int* second = map(buffer, CL_MAP_READ, 400, 100);
  EXPECT_EQ(first[0], 1);
  EXPECT_EQ(second[0], 101);
  cl_uint count = 0;
  EXPECT_CL(CL_SUCCESS, clGetMemObjectInfo(buffer.get(), CL_MEM_MAP_COUNT, sizeof count, &count, nullptr));
  EXPECT_EQ(count, 2u);
  unmap(buffer, first);
  unmap(buffer, second);
  int not_mapped = 0;
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueUnmapMemObject(queue(), buffer.get(), &not_mapped, 0, nullptr, nullptr));
}

TEST_F(Buffers, HostAccessFlagsAreKept) {
  // Section 5.2.1: CL_MEM_HOST_... flags make the forbidden commands CL_INVALID_OPERATION.
  Buffer write_only = make_buffer(CL_MEM_HOST_WRITE_ONLY, 64), read_only = make_buffer(CL_MEM_HOST_READ_ONLY, 64),
         no_access = make_buffer(CL_MEM_HOST_NO_ACCESS, 64);
  char bytes[64] = {};
  auto read_code = [&](const Buffer& b) {
    return clEnqueueReadBuffer(queue(), b.get(), CL_TRUE, 0, 64, bytes, 0, nullptr, nullptr);
  };
  auto write_code = [&](const Buffer& b) {
    return clEnqueueWriteBuffer(queue(), b.get(), CL_TRUE, 0, 64, bytes, 0, nullptr, nullptr);
  };
  EXPECT_CL(CL_INVALID_OPERATION, read_code(write_only));
  EXPECT_CL(CL_SUCCESS, write_code(write_only));
  EXPECT_CL(CL_SUCCESS, read_code(read_only));
  EXPECT_CL(CL_INVALID_OPERATION, write_code(read_only));
  EXPECT_CL(CL_INVALID_OPERATION, read_code(no_access));
  EXPECT_CL(CL_INVALID_OPERATION, write_code(no_access));
}

TEST_F(Buffers, CreationErrors) {
  cl_int code = CL_SUCCESS;
  int word = 0;
  clCreateBuffer(context(), CL_MEM_READ_WRITE, 0, nullptr, &code);
  EXPECT_CL(CL_INVALID_BUFFER_SIZE, code);
  clCreateBuffer(context(), CL_MEM_USE_HOST_PTR, 4, nullptr, &code);
  EXPECT_CL(CL_INVALID_HOST_PTR, code);
  clCreateBuffer(context(), CL_MEM_READ_WRITE, 4, &word, &code);
  EXPECT_CL(CL_INVALID_HOST_PTR, code);
  clCreateBuffer(context(), CL_MEM_READ_ONLY | CL_MEM_WRITE_ONLY, 4, nullptr, &code);
  EXPECT_CL(CL_INVALID_VALUE, code);
  clCreateBuffer(nullptr, CL_MEM_READ_WRITE, 4, nullptr, &code);
  EXPECT_CL(CL_INVALID_CONTEXT, code);
}

struct Order {
  std::mutex mutex;
  std::vector<int> numbers;
};
struct Note {
  Order* order;
  int number;
};

void CL_CALLBACK note_order(cl_mem /*memory*/, void* data) {
  auto* note = static_cast<Note*>(data);
  std::lock_guard lock(note->order->mutex);
  note->order->numbers.push_back(note->number);
}

TEST_F(Buffers, DestructorCallbacksRunInReverseOrder) {
  Order order;
  Note notes[] = {{&order, 1}, {&order, 2}, {&order, 3}};
  Buffer buffer = make_buffer(CL_MEM_READ_WRITE, 64);
  for (Note& note : notes) ASSERT_CL(CL_SUCCESS, clSetMemObjectDestructorCallback(buffer.get(), note_order, &note));
  buffer.reset();
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
  auto called = [&] {
    std::lock_guard lock(order.mutex);
    return order.numbers;
  };
  EXPECT_TRUE(wait_until([&] { return called().size() == 3; }, std::chrono::seconds(5)));
  EXPECT_EQ(called(), (std::vector<int>{3, 2, 1}));
}

}  // namespace
}  // namespace mirrorcl::conformance

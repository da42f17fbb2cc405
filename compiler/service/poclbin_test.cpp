// SPDX-License-Identifier: Apache-2.0
// The reader against real binaries of PoCL, made here, whole and cut at every length.
#include "compiler/service/poclbin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "base/options.h"
#include "compiler/build_options.h"
#include "compiler/service/front_end.h"
#include "compiler/service/pocl.h"
#include "compiler/test_support.h"

// What PoCL and LLVM keep for the life of the process is theirs.
extern "C" __attribute__((visibility("default"))) const char* __lsan_default_suppressions() {
  return "leak:libpocl.so\nleak:libLLVM\n";
}

namespace mirrorcl::compiler::pocl {
namespace {

// One binary for all tests: two kernels, one with arguments of all sorts, local variables and a required size.
class Poclbin : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch = new TemporaryFolder();
    auto loaded = Pocl::load(options().pocl_library, scratch->path());
    ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
    auto front_end = FrontEnd::create((*loaded)->target_cpu(), {}, scratch->path());
    FrontEndOutput output =
        front_end->compile({"kernel __attribute__((reqd_work_group_size(8, 2, 1))) void second(global const float* "
                            "restrict in, local int* "
                            "l, float4 v) {\n"
                            "  local int tile[16]; local double other[3]; tile[get_local_id(0)] = v.x; other[0] = 1; "
                            "barrier(CLK_LOCAL_MEM_FENCE);\n"
                            "  l[0] = in[tile[0]] + other[0]; }\n"
                            "kernel void first(global int* out) { out[get_global_id(0)] = 1; }\n"},
                           BuildOptions());
    ASSERT_TRUE(output.ok) << output.log;
    auto compiled = (*loaded)->compile(output.bitcode);
    ASSERT_TRUE(compiled.has_value() && compiled->ok) << compiled->log;
    sample = new std::vector<std::byte>(std::move(compiled->binary));
  }
  static void TearDownTestSuite() {
    delete sample;
    delete scratch;
  }
  static inline TemporaryFolder* scratch = nullptr;
  static inline std::vector<std::byte>* sample = nullptr;
};

TEST_F(Poclbin, gives_kernels_arguments_locals_and_objects) {
  auto binary = parse_binary(*sample);
  ASSERT_TRUE(binary.has_value()) << binary.error().message;
  ASSERT_EQ(binary->kernels.size(), 2U);
  const BinaryKernel& kernel = binary->kernels[binary->kernels[0].name == "second" ? 0 : 1];
  EXPECT_EQ(kernel.name, "second");
  EXPECT_THAT(kernel.required_local_size, testing::ElementsAre(8, 2, 1));
  EXPECT_THAT(kernel.local_sizes, testing::UnorderedElementsAre(64, 24));
  ASSERT_EQ(kernel.arguments.size(), 3U);
  EXPECT_EQ(kernel.arguments[0].name, "in");
  EXPECT_EQ(kernel.arguments[0].type_name, "float*");
  EXPECT_EQ(kernel.arguments[2].size, 16U);
  std::span<const std::byte> object = kernel.generic_object();
  ASSERT_GT(object.size(), 64U);
  EXPECT_EQ(std::memcmp(object.data(), "\177ELF", 4), 0);
}

TEST_F(Poclbin, cut_at_any_length_is_an_error) {
  // Every length up to the end of the first kernel's description, then every 61st.
  for (std::size_t length = 0; length < sample->size(); length += length < 4096 ? 1 : 61) {
    std::vector<std::byte> cut(sample->begin(), sample->begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_FALSE(parse_binary(cut).has_value()) << length << " of " << sample->size();
  }
  for (std::size_t missing = 1; missing < 2048; ++missing) {
    EXPECT_FALSE(parse_binary(std::span(*sample).first(sample->size() - missing)).has_value()) << "last " << missing;
  }
}

TEST_F(Poclbin, damaged_fields_are_never_followed_outside) {
  // Any 4 bytes of the headers at their largest: an error or a smaller reading, never a crash (the sanitizers watch).
  std::vector<std::byte> damaged = *sample;
  std::size_t refused = 0;
  for (std::size_t at = 0; at + 4 <= std::min<std::size_t>(sample->size(), 200'000); at += at < 400 ? 1 : 97) {
    std::memset(damaged.data() + at, 0xFF, 4);
    refused += parse_binary(damaged).has_value() ? 0U : 1U;
    std::copy_n(sample->begin() + static_cast<std::ptrdiff_t>(at), 4,
                damaged.begin() + static_cast<std::ptrdiff_t>(at));
  }
  EXPECT_GT(refused, 20U);
  EXPECT_TRUE(parse_binary(damaged).has_value());
}

TEST_F(Poclbin, another_version_or_bytes_after_the_end_are_refused) {
  std::vector<std::byte> other = *sample;
  other[16] = std::byte{10};
  EXPECT_THAT(parse_binary(other).error().message, testing::HasSubstr("version 10"));
  other = *sample;
  other.push_back(std::byte{0});
  EXPECT_FALSE(parse_binary(other).has_value());
}

TEST_F(Poclbin, a_missing_or_another_library_is_one_clear_sentence) {
  auto missing = Pocl::load("/nonexistent/libpocl.so.2", scratch->path());
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotSupported);
  EXPECT_THAT(missing.error().message, testing::HasSubstr("/nonexistent/libpocl.so.2"));
  EXPECT_THAT(missing.error().message, testing::HasSubstr("libpocl2"));
  auto other = Pocl::load("libm.so.6", scratch->path());
  ASSERT_FALSE(other.has_value());
  EXPECT_EQ(other.error().code, ErrorCode::kNotSupported);
  EXPECT_THAT(other.error().message, testing::HasSubstr("not an OpenCL driver"));
}

TEST_F(Poclbin, an_undefined_function_is_a_log_and_not_an_error) {
  auto loaded = Pocl::load(options().pocl_library, scratch->path());
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  auto front_end = FrontEnd::create((*loaded)->target_cpu(), {}, scratch->path());
  FrontEndOutput output =
      front_end->compile({"int missing(int); kernel void k(global int* p) { *p = missing(1); }"}, BuildOptions());
  ASSERT_TRUE(output.ok) << output.log;
  auto compiled = (*loaded)->compile(output.bitcode);
  ASSERT_TRUE(compiled.has_value()) << compiled.error().message;
  EXPECT_FALSE(compiled->ok);
  EXPECT_THAT(compiled->log, testing::HasSubstr("missing"));
}

}  // namespace
}  // namespace mirrorcl::compiler::pocl

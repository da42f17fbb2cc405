// SPDX-License-Identifier: Apache-2.0
// OpenCL 3.0 API §5.8.6 and §5.8.7.
#include "compiler/build_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mirrorcl::compiler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(split_words, joins_what_quotes_join) {
  EXPECT_THAT(*split_words("  -DA=1\t-I  \"a b\"/c 'd e' "), ElementsAre("-DA=1", "-I", "a b/c", "d e"));
  EXPECT_THAT(*split_words("-DX=\\\"text\\\" -DY=a\\ b -DZ='\"'"), ElementsAre("-DX=\"text\"", "-DY=a b", "-DZ=\""));
  EXPECT_THAT(*split_words("\"\""), ElementsAre(""));
  EXPECT_TRUE(split_words("")->empty());
  EXPECT_THAT(*split_words("a\\b C:\\dir"), ElementsAre("a\\b", "C:\\dir"));
}

TEST(split_words, refuses_an_unfinished_quote) {
  EXPECT_EQ(split_words("-I \"a b").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(split_words("'").error().code, ErrorCode::kInvalidArgument);
}

TEST(parse_link_options, knows_every_option_of_the_specification) {
  auto options = parse_link_options(
      "-cl-denorms-are-zero -cl-no-signed-zeros -cl-unsafe-math-optimizations -cl-finite-math-only "
      "-cl-fast-relaxed-math -cl-no-subgroup-ifp");
  ASSERT_TRUE(options.has_value()) << options.error().message;
  EXPECT_TRUE(options->flush_denormals);
  EXPECT_FALSE(options->create_library);
  EXPECT_TRUE(parse_link_options("-create-library -enable-link-options")->create_library);
  EXPECT_THAT(parse_link_options("-enable-link-options").error().message, HasSubstr("-create-library"));
  EXPECT_THAT(parse_link_options("-DX").error().message, HasSubstr("-DX"));
}

TEST(parse_build_options, defaults_to_opencl_c_1_2) {
  auto options = parse_build_options("");
  ASSERT_TRUE(options.has_value());
  EXPECT_EQ(options->standard, 120U);
  EXPECT_TRUE(options->preprocessor.empty());
  EXPECT_TRUE(options->language.empty());
}

TEST(parse_build_options, knows_every_option_of_the_specification) {
  auto options = parse_build_options(
      "-D NAME -DOTHER=2 -I dir -Iother -cl-std=CL2.0 -w -Werror -g -cl-opt-disable -cl-single-precision-constant "
      "-cl-denorms-are-zero "
      "-cl-fp32-correctly-rounded-divide-sqrt -cl-mad-enable -cl-no-signed-zeros -cl-unsafe-math-optimizations "
      "-cl-finite-math-only -cl-fast-relaxed-math -cl-uniform-work-group-size -cl-no-subgroup-ifp -cl-kernel-arg-info "
      "-cl-strict-aliasing");
  ASSERT_TRUE(options.has_value()) << options.error().message;
  EXPECT_EQ(options->standard, 200U);
  EXPECT_THAT(options->preprocessor, ElementsAre("-DNAME", "-DOTHER=2", "-Idir", "-Iother"));
  EXPECT_TRUE(options->suppress_warnings);
  EXPECT_TRUE(options->warnings_are_errors);
  EXPECT_TRUE(options->debug);
  EXPECT_TRUE(options->flush_denormals);
  EXPECT_TRUE(options->disable_optimisation);
  EXPECT_EQ(options->language.size(), 9U);
}

TEST(parse_build_options, keeps_one_of_a_repeated_language_option_and_the_last_standard) {
  auto options = parse_build_options("-cl-mad-enable -cl-std=CL1.1 -cl-mad-enable -cl-std=CL3.0");
  ASSERT_TRUE(options.has_value());
  EXPECT_THAT(options->language, ElementsAre("-cl-mad-enable"));
  EXPECT_EQ(options->standard, 300U);
}

TEST(parse_build_options, names_what_is_wrong) {
  for (const char* text : {"-cl-foo", "-O3", "file.cl", "-cl-std=CL9.9", "-cl-std=", "-D", "-I", "-D 1x", "-D =3",
                           "-x spir", "\"\"", "-Xclang -load", "-include /etc/passwd", "-cl-std=CL1.2x"}) {
    auto options = parse_build_options(text);
    ASSERT_FALSE(options.has_value()) << text;
    EXPECT_EQ(options.error().code, ErrorCode::kInvalidArgument) << text;
  }
  EXPECT_THAT(parse_build_options("-w -cl-foo").error().message, HasSubstr("-cl-foo"));
}

}  // namespace
}  // namespace mirrorcl::compiler

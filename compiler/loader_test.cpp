// SPDX-License-Identifier: Apache-2.0
#include "compiler/loader.h"

#include <elf.h>
#include <gmock/gmock.h>

#include <cstring>
#include <fstream>

#include "compiler/test_support.h"

namespace mirrorcl::compiler {
namespace {

std::vector<std::byte> read_object(const std::string& name) {
  std::ifstream file(std::string(MIRRORCL_LOADER_SAMPLES) + "/" + name, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  auto bytes = std::as_bytes(std::span(text));
  EXPECT_FALSE(bytes.empty()) << name;
  return {bytes.begin(), bytes.end()};
}

class Loader : public testing::TestWithParam<const char*> {
 protected:
  std::vector<std::byte> object_ = read_object(GetParam());
  HostCodeSpace host_;

  // Applies `change` to each relocation of the object, in the file's own table.
  template <typename Change>
  void for_each_relocation(std::vector<std::byte>& object, Change change) {
    Elf64_Ehdr header;
    std::memcpy(&header, object.data(), sizeof header);
    for (unsigned i = 0; i < header.e_shnum; ++i) {
      Elf64_Shdr section;
      std::memcpy(&section, object.data() + header.e_shoff + i * sizeof section, sizeof section);
      if (section.sh_type != SHT_RELA) continue;
      for (std::uint64_t at = 0; at < section.sh_size; at += sizeof(Elf64_Rela)) {
        Elf64_Rela relocation;
        std::memcpy(&relocation, object.data() + section.sh_offset + at, sizeof relocation);
        change(relocation);
        std::memcpy(object.data() + section.sh_offset + at, &relocation, sizeof relocation);
      }
    }
  }
};

TEST_P(Loader, places_relocates_and_runs_an_object) {
  {
    auto loaded = load_kernel(object_, "sample", host_.space());
    ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
    EXPECT_EQ(host_.blocks(), 1U);
    EXPECT_GE((*loaded)->code_bytes(), 8000U);
    auto function = reinterpret_cast<WorkGroupFunction>((*loaded)->entry());
    int out[4] = {-1, -1, -1, -1};
    int* pointer = out;
    void* arguments[] = {&pointer};
    function(arguments, nullptr, 5, 0, 0);
    EXPECT_THAT(out, testing::ElementsAre(3, 5, 0, 0x11111111));
    function(arguments, nullptr, 6, 0, 0);
    EXPECT_THAT(out, testing::ElementsAre(4, 6, 0, 0x11111111));
  }
  EXPECT_EQ(host_.blocks(), 0U) << "the code space goes with the kernel";
}

TEST_P(Loader, passes_on_that_code_cannot_be_made_executable) {
  CodeSpace space = host_.space();
  space.make_executable = [](void*, std::size_t) -> Result<void> {
    return fail(ErrorCode::kNotSupported, "forbidden here");
  };
  auto loaded = load_kernel(object_, "sample", space);
  ASSERT_FALSE(loaded.has_value());
  EXPECT_EQ(loaded.error().message, "forbidden here");
  EXPECT_EQ(host_.blocks(), 0U);
}

TEST_P(Loader, refuses_writable_instructions) {
  Elf64_Ehdr header;
  std::memcpy(&header, object_.data(), sizeof header);
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    std::byte* at = object_.data() + header.e_phoff + i * sizeof(Elf64_Phdr);
    Elf64_Phdr segment;
    std::memcpy(&segment, at, sizeof segment);
    if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) != 0) segment.p_flags |= PF_W;
    std::memcpy(at, &segment, sizeof segment);
  }
  auto loaded = load_kernel(object_, "sample", host_.space());
  ASSERT_FALSE(loaded.has_value());
  EXPECT_EQ(loaded.error().code, ErrorCode::kNotSupported);
}

TEST_P(Loader, names_a_missing_symbol) {
  CodeSpace space = host_.space();
  space.find_symbol = [](const char*) -> std::uint64_t { return 0; };
  auto loaded = load_kernel(object_, "sample", space);
  ASSERT_FALSE(loaded.has_value());
  EXPECT_EQ(loaded.error().code, ErrorCode::kNotSupported);
  EXPECT_THAT(loaded.error().message, testing::HasSubstr("memset"));
  EXPECT_EQ(host_.blocks(), 0U);
}

TEST_P(Loader, refuses_another_kernel_s_object) {
  auto loaded = load_kernel(object_, "other", host_.space());
  ASSERT_FALSE(loaded.has_value());
  EXPECT_EQ(loaded.error().code, ErrorCode::kInvalidArgument);
}

TEST_P(Loader, tells_when_code_space_is_used_up) {
  CodeSpace space = host_.space();
  space.allocate = [](std::size_t) -> void* { return nullptr; };
  EXPECT_EQ(load_kernel(object_, "sample", space).error().code, ErrorCode::kOutOfDeviceMemory);
}

TEST_P(Loader, refuses_a_relocation_it_does_not_know) {
  for_each_relocation(
      object_, [](Elf64_Rela& relocation) { relocation.r_info = ELF64_R_INFO(ELF64_R_SYM(relocation.r_info), 18); });
  auto loaded = load_kernel(object_, "sample", host_.space());
  ASSERT_FALSE(loaded.has_value());
  EXPECT_EQ(loaded.error().code, ErrorCode::kNotSupported);
  EXPECT_THAT(loaded.error().message, testing::HasSubstr("type 18"));
}

TEST_P(Loader, refuses_relocations_outside_the_object) {
  for (std::uint64_t offset :
       {std::uint64_t{1} << 40, ~std::uint64_t{0}, ~std::uint64_t{0} - 7, std::uint64_t{0x7fff'f000}}) {
    std::vector<std::byte> bad = object_;
    for_each_relocation(bad, [&](Elf64_Rela& relocation) { relocation.r_offset = offset; });
    EXPECT_EQ(load_kernel(bad, "sample", host_.space()).error().code, ErrorCode::kInvalidArgument) << offset;
  }
}

TEST_P(Loader, refuses_symbol_numbers_outside_the_table) {
  for_each_relocation(object_, [](Elf64_Rela& relocation) {
    if (ELF64_R_SYM(relocation.r_info) != 0)
      relocation.r_info = ELF64_R_INFO(0xFFFFFFUL, ELF64_R_TYPE(relocation.r_info));
  });
  EXPECT_EQ(load_kernel(object_, "sample", host_.space()).error().code, ErrorCode::kInvalidArgument);
}

TEST_P(Loader, survives_cutting_at_any_length) {
  for (std::size_t length = 0; length < object_.size(); length += length < 1024 ? 1 : 17) {
    auto loaded = load_kernel(std::span(object_).first(length), "sample", host_.space());
    // Section headers and debugging come last and are not needed; whatever loads must be whole.
    if (loaded) {
      EXPECT_GT(length, 0x2000U);
    }
  }
  EXPECT_EQ(host_.blocks(), 0U);
}

TEST_P(Loader, survives_damage_anywhere) {
  // 1, 4 and 8 bytes at their largest or at zero, at every place of the first pages and of the dynamic section's pages.
  std::size_t refused = 0;
  for (std::size_t width : {1U, 4U, 8U}) {
    for (int value : {0xFF, 0x00, 0x7F}) {
      for (std::size_t at = 0; at + width <= object_.size(); at += width) {
        std::vector<std::byte> bad = object_;
        std::memset(bad.data() + at, value, width);
        refused += load_kernel(bad, "sample", host_.space()).has_value() ? 0U : 1U;
      }
    }
  }
  EXPECT_GT(refused, 100U);
  EXPECT_EQ(host_.blocks(), 0U);
}

INSTANTIATE_TEST_SUITE_P(with_and_without_plt, Loader,
                         testing::Values("libloader_sample_plt.so", "libloader_sample_no_plt.so"),
                         [](const auto& parameter) { return std::string(parameter.index == 0 ? "plt" : "no_plt"); });

TEST(LoaderInput, refuses_what_is_no_object) {
  HostCodeSpace host;
  std::vector<std::byte> zeros(4096);
  EXPECT_EQ(load_kernel({}, "k", host.space()).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(load_kernel(zeros, "k", host.space()).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace mirrorcl::compiler

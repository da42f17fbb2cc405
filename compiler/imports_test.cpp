// SPDX-License-Identifier: Apache-2.0
// What kernel objects import must be what the device firmware exports: firmware_imports.txt is the agreement.
#include <elf.h>
#include <fmt/format.h>

#include <cstring>
#include <fstream>
#include <set>

#include "compiler/test_support.h"

namespace mirrorcl::compiler {
namespace {

std::set<std::string> agreed_imports() {
  std::set<std::string> names;
  std::ifstream file(MIRRORCL_FIRMWARE_IMPORTS);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') names.insert(line);
  }
  return names;
}

// The undefined symbols of a shared object's dynamic symbol table.
std::set<std::string> imports_of(const std::vector<std::byte>& elf) {
  std::set<std::string> names;
  Elf64_Ehdr header;
  std::memcpy(&header, elf.data(), sizeof header);
  auto section_at = [&](std::size_t index) {
    Elf64_Shdr section;
    std::memcpy(&section, elf.data() + header.e_shoff + index * sizeof section, sizeof section);
    return section;
  };
  for (std::size_t i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr symbols = section_at(i);
    if (symbols.sh_type != SHT_DYNSYM) continue;
    Elf64_Shdr strings = section_at(symbols.sh_link);
    for (std::uint64_t at = sizeof(Elf64_Sym); at < symbols.sh_size; at += sizeof(Elf64_Sym)) {
      Elf64_Sym symbol;
      std::memcpy(&symbol, elf.data() + symbols.sh_offset + at, sizeof symbol);
      if (symbol.st_shndx != SHN_UNDEF) continue;
      names.insert(reinterpret_cast<const char*>(elf.data() + strings.sh_offset + symbol.st_name));
    }
  }
  return names;
}

// A kernel that calls each of `calls` ("sin(x)") with x, y, z of `type`, i of the integer type of as many elements.
std::string kernel_calling(const std::string& name, const std::string& type, const std::string& integers,
                           std::initializer_list<const char*> calls) {
  std::string source = fmt::format(
      "kernel void {0}(global {1}* out, global const {1}* in, global {2}* ints) {{\n"
      "  {1} x = in[0], y = in[1], z = in[2], p; {2} i = ints[0], n; int count = 1;\n",
      name, type, integers);
  for (const char* call : calls) source += fmt::format("  out[count++] = {};\n", call);
  return source + "  out[0] = p; ints[1] = n; }\n";
}

class MathImports : public testing::TestWithParam<std::array<const char*, 2>> {};

TEST_P(MathImports, cover_every_mathematical_builtin) {
  auto [type, integers] = GetParam();
  const bool is_float = std::string(type).starts_with("float");
  std::string source;
  source += kernel_calling(
      "trigonometry", type, integers,
      {"acos(x)",     "acosh(x)",      "acospi(x)", "asin(x)",       "asinh(x)", "asinpi(x)", "atan(x)",
       "atan2(x, y)", "atanh(x)",      "atanpi(x)", "atan2pi(x, y)", "cos(x)",   "cosh(x)",   "cospi(x)",
       "sin(x)",      "sincos(x, &p)", "sinh(x)",   "sinpi(x)",      "tan(x)",   "tanh(x)",   "tanpi(x)"});
  source += kernel_calling(
      "exponentials", type, integers,
      {"cbrt(x)",         "erf(x)",      "erfc(x)",  "exp(x)",   "exp2(x)",   "exp10(x)",   "expm1(x)",  "lgamma(x)",
       "lgamma_r(x, &n)", "log(x)",      "log2(x)",  "log10(x)", "log1p(x)",  "logb(x)",    "pow(x, y)", "pown(x, i)",
       "powr(x, y)",      "rootn(x, i)", "rsqrt(x)", "sqrt(x)",  "tgamma(x)", "hypot(x, y)"});
  source += kernel_calling("rounding", type, integers, {"ceil(x)",           "copysign(x, y)",  "fabs(x)",
                                                        "fdim(x, y)",        "floor(x)",        "fma(x, y, z)",
                                                        "fmax(x, y)",        "fmin(x, y)",      "fmod(x, y)",
                                                        "fract(x, &p)",      "frexp(x, &n)",    "ldexp(x, i)",
                                                        "mad(x, y, z)",      "maxmag(x, y)",    "minmag(x, y)",
                                                        "modf(x, &p)",       "nextafter(x, y)", "remainder(x, y)",
                                                        "remquo(x, y, &n)",  "rint(x)",         "round(x)",
                                                        "trunc(x)",          "clamp(x, y, z)",  "degrees(x)",
                                                        "mix(x, y, z)",      "radians(x)",      "smoothstep(x, y, z)",
                                                        "step(x, y)",        "sign(x)",         "x / y",
                                                        "normalize(x)",      "x * dot(x, y)",   "x * length(x)",
                                                        "x * distance(x, y)"});
  if (is_float) {
    source += kernel_calling(
        "native", type, integers,
        {"native_cos(x)",     "native_divide(x, y)", "native_exp(x)",   "native_exp2(x)",    "native_exp10(x)",
         "native_log(x)",     "native_log2(x)",      "native_log10(x)", "native_powr(x, y)", "native_recip(x)",
         "native_rsqrt(x)",   "native_sin(x)",       "native_sqrt(x)",  "native_tan(x)",     "half_cos(x)",
         "half_divide(x, y)", "half_exp(x)",         "half_exp2(x)",    "half_exp10(x)",     "half_log(x)",
         "half_log2(x)",      "half_log10(x)",       "half_powr(x, y)", "half_recip(x)",     "half_rsqrt(x)",
         "half_sin(x)",       "half_sqrt(x)",        "half_tan(x)",     "fast_normalize(x)", "x * fast_length(x)"});
  }
  BuildOutcome built = Client::create()->build({source, ""});
  ASSERT_TRUE(built.image.has_value()) << built.log;
  ASSERT_EQ(built.image->kernels.size(), is_float ? 4U : 3U);
  const std::set<std::string> agreed = agreed_imports();
  for (const KernelImage& kernel : built.image->kernels) {
    for (const std::string& name : imports_of(kernel.elf)) {
      EXPECT_TRUE(agreed.contains(name)) << kernel.name << " of " << type << " imports " << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(types, MathImports,
                         testing::Values(std::array{"float", "int"}, std::array{"float4", "int4"},
                                         std::array{"double", "int"}, std::array{"double2", "int2"}),
                         [](const auto& parameter) { return std::string(parameter.param[0]); });

TEST(FirmwareImports, cover_printf_integers_copies_and_conversions) {
  BuildOutcome built = Client::create()->build({R"(
    typedef struct { char bytes[1000]; } large;
    kernel void print(global double* p, global long* l) {
      printf("%d %5.3f %e %g %a %s %c %p %x %v4hlf %ld\n", 1, p[0], p[1], p[2], p[3], "s", 'c', p, 5, (float4)(1.0f), l[0]); }
    kernel void integers(global long* l, global ulong* u, global int4* v, global short8* s) {
      l[0] = l[1] / l[2] + l[3] % l[4] + mul_hi(l[5], l[6]) + mad_sat(l[7], l[8], l[9]) + popcount(l[10]) + clz(l[11]);
      u[0] = u[1] / u[2] + u[3] % u[4] + mul_hi(u[5], u[6]) + mad_sat(u[7], u[8], u[9]) + rotate(u[10], u[11]);
      v[0] = v[1] / v[2] + v[3] % v[4] + (v[5] == 0); s[0] = s[1] / s[2] + add_sat(s[3], s[4]); }
    kernel void copies(global large* to, large value, global char* p, local char* l, int n) {
      large mine = value; mine.bytes[n] = 1; to[0] = mine; to[1] = to[2];
      for (int i = 0; i < n; ++i) p[i] = 0;
      event_t e = async_work_group_copy(l, p, 512, 0); wait_group_events(1, &e); p[n] = l[n]; }
    kernel void conversions(global float* f, global double* d, global half* h, global long* l, global uchar4* c) {
      f[0] = vload_half(0, h) + convert_float_rtz(d[0]) + convert_float_rte(l[0]); vstore_half_rte(f[1], 1, h);
      vstore_half_rtz(d[1], 2, h); d[2] = convert_double(l[1]) + convert_double_rtp((ulong)l[2]); l[3] = convert_long_sat_rtn(d[3]);
      c[0] = convert_uchar4_sat_rte(vload4(0, f)); vstore_half4(vload4(1, f), 1, h); }
    kernel void atomics(volatile global long* l, volatile global float* f, volatile local int* i) {
      atom_add(l, 1L); atom_min(l, 2L); atomic_xchg(f, 1.0f); atomic_max(i, 3); barrier(CLK_LOCAL_MEM_FENCE); })",
                                                ""});
  ASSERT_TRUE(built.image.has_value()) << built.log;
  ASSERT_EQ(built.image->kernels.size(), 5U);
  const std::set<std::string> agreed = agreed_imports();
  std::set<std::string> all;
  for (const KernelImage& kernel : built.image->kernels) {
    for (const std::string& name : imports_of(kernel.elf)) {
      EXPECT_TRUE(agreed.contains(name)) << kernel.name << " imports " << name;
      all.insert(name);
    }
  }
  EXPECT_TRUE(all.contains("snprintf")) << "the reading of imports works";
}

}  // namespace
}  // namespace mirrorcl::compiler

// Without the user's cache.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  mirrorcl::compiler::TemporaryFolder folder;
  setenv("TMPDIR", folder.path().c_str(), 1);
  setenv("MIRRORCL_CACHE_DIR", (folder.path() + "/cache").c_str(), 1);
  return RUN_ALL_TESTS();
}

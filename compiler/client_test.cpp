// SPDX-License-Identifier: Apache-2.0
// Builds through the real service, and runs what comes out in this process.
#include "compiler/client.h"

#include <CL/cl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "compiler/test_support.h"

namespace mirrorcl::compiler {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kOne = "kernel void k(global int* p) { *p = 1; }";

std::vector<std::string> scratch_folders() {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::temp_directory_path())) {
    std::string name = entry.path().filename().string();
    if (name.starts_with("mirrorcl-compiler-")) found.push_back(entry.path().string());
  }
  return found;
}

// The service processes of this test: their scratch folders lie in its own temporary folder.
std::vector<pid_t> services() {
  std::vector<pid_t> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 1 || std::filesystem::read_symlink(entry.path() / "exe", ignored).filename() != "mirrorcl-compiler")
      continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    std::string line((std::istreambuf_iterator<char>(file)), {});
    if (line.find(std::filesystem::temp_directory_path().string()) != std::string::npos) found.push_back(pid);
  }
  return found;
}

// The one that runs, or the test ends here: no number but a service's is ever killed.
pid_t the_service() {
  std::vector<pid_t> found = services();
  if (found.size() != 1) throw std::runtime_error(fmt::format("{} services run", found.size()));
  return found.front();
}

bool wait_until(const std::function<bool()>& condition) {
  for (int i = 0; i < 500; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return condition();
}

class CompilerClient : public testing::Test {
 protected:
  BuildOutcome build(const std::string& source, const std::string& options = {}) {
    return client_->build({source, options});
  }
  // One work-item that writes one int.
  int run_to_int(const std::string& source, const std::string& options = {}) {
    BuildOutcome built = build(source, options);
    int result = -1;
    int* pointer = &result;
    run_kernel(kernel_of(built, "k"), {&pointer}, 1, 1);
    return result;
  }
  // Not in the disk cache: every call gives another program.
  static std::string fresh(const std::string& source = kOne) {
    static int count = 0;
    return source + fmt::format("\n// {} {}", getpid(), ++count);
  }
  std::unique_ptr<Client> client_ = Client::create();
};

TEST_F(CompilerClient, builds_a_kernel_that_computes_the_right_result) {
  BuildOutcome built = build(
      "kernel void add(global const int* a, global int* b, int c) {\n"
      "  size_t i = get_global_id(0);\n  b[i] = a[i] + c;\n}\n");
  std::vector<int> a(256), b(256);
  std::iota(a.begin(), a.end(), 0);
  int* a_pointer = a.data();
  int* b_pointer = b.data();
  int c = 7;
  run_kernel(kernel_of(built, "add"), {&a_pointer, &b_pointer, &c}, 4, 64);
  for (int i = 0; i < 256; ++i) ASSERT_EQ(b[static_cast<std::size_t>(i)], i + 7);
}

TEST_F(CompilerClient, runs_barriers_and_local_memory) {
  BuildOutcome built = build(
      "kernel void reduce(global const int* a, global int* r) {\n"
      "  local int s[64]; local long twice[1]; int l = get_local_id(0);\n"
      "  s[l] = a[get_global_id(0)]; barrier(CLK_LOCAL_MEM_FENCE);\n"
      "  for (int k = 32; k; k >>= 1) { if (l < k) s[l] += s[l + k]; barrier(CLK_LOCAL_MEM_FENCE); }\n"
      "  if (l == 0) { twice[0] = 2L * s[0]; atomic_add(r, (int)twice[0]); }\n}\n");
  const KernelImage& kernel = kernel_of(built, "reduce");
  EXPECT_THAT(kernel.automatic_locals, testing::UnorderedElementsAre(256, 8));
  std::vector<int> a(256, 1);
  int* a_pointer = a.data();
  int result = 0;
  int* r_pointer = &result;
  run_kernel(kernel, {&a_pointer, &r_pointer}, 4, 64);
  EXPECT_EQ(result, 512);
}

TEST_F(CompilerClient, prints) {
  BuildOutcome built = build(
      "kernel void k(int i, float4 v, global const char* s) { if (get_local_id(0) == 1) printf(\"%d %s %.1v4hlf "
      "%5.2f|%%\\n\", i, "
      "\"text\", v, 3.14159f); }\n"
      "kernel void silent(global int* p) { *p = 1; }\n");
  const KernelImage& kernel = kernel_of(built, "k");
  EXPECT_TRUE(kernel.uses_printf);
  EXPECT_FALSE(kernel_of(built, "silent").uses_printf);
  int i = -42;
  alignas(16) float v[4] = {1, 2, 3, 4};
  void* none = nullptr;
  EXPECT_EQ(run_kernel(kernel, {&i, v, &none}, 1, 4), "-42 text 1.0,2.0,3.0,4.0  3.14|%\n");
}

TEST_F(CompilerClient, constant_tables_and_structs_by_value) {
  BuildOutcome built = build(
      "typedef struct { char a; int b[3]; double c; } pair;\n"
      "constant int table[4] = {10, 20, 30, 40};\n"
      "kernel void k(global int* out, pair p, char3 v) { out[0] = table[p.b[2]] + p.a + (int)p.c + v.z; }\n");
  const KernelImage& kernel = kernel_of(built, "k");
  struct Pair {
    char a;
    int b[3];
    double c;
  } pair{1, {0, 0, 3}, 2.5};
  ASSERT_EQ(kernel.arguments.at(1).size, sizeof pair);
  EXPECT_EQ(kernel.arguments.at(2).size, 4U);
  int out = 0;
  int* out_pointer = &out;
  signed char v[4] = {0, 0, 100, 0};
  run_kernel(kernel, {&out_pointer, &pair, v}, 1, 1);
  EXPECT_EQ(out, 40 + 1 + 2 + 100);
  EXPECT_EQ(built.image->global_variables_size, 0U);
}

// OpenCL C §6.13.11, memory scopes; what the CTS's SVM suite and live_counter use.
TEST_F(CompilerClient, opencl_c_2_0_and_3_0_have_generic_pointers_and_atomics_of_all_devices) {
  const std::string source = fresh(
      "int touch(int* p) { return atomic_fetch_add_explicit((atomic_int*)p, 1, memory_order_relaxed, "
      "memory_scope_all_svm_devices); }\n"
      "kernel void k(global int* p, __attribute__((nosvm)) global int* q, local int* l) {\n"
      "  int mine = 5; uint expected = 7; float whole;\n"
      "  touch(p); touch(p); touch(&mine); *l = 1; touch(l);\n"
      "  atomic_compare_exchange_strong_explicit((volatile global atomic_uint*)(p + 1), &expected, 9, "
      "memory_order_seq_cst,\n"
      "      memory_order_relaxed, memory_scope_all_svm_devices);\n"
      "  atomic_long* wide = (atomic_long*)(p + 4); atomic_store_explicit(wide, 77, memory_order_release, "
      "memory_scope_device);\n"
      "  p[2] = mine + *l; p[3] = (int)expected; float f = fract(2.75f, &whole); p[6] = (int)(f * 100) + (int)whole;\n"
      "  p[7] = to_global(p) == p && to_local(p) == 0 && get_fence(p) == CLK_GLOBAL_MEM_FENCE;\n"
      "  atomic_work_item_fence(CLK_GLOBAL_MEM_FENCE, memory_order_acq_rel, memory_scope_all_svm_devices);\n}\n");
  for (const char* standard : {"-cl-std=CL2.0", "-cl-std=CL3.0"}) {
    BuildOutcome built = build(source, standard);
    const KernelImage& kernel = kernel_of(built, "k");
    ASSERT_EQ(kernel.arguments.size(), 3U) << standard;
    EXPECT_EQ(kernel.arguments[2].kind, KernelArgument::Kind::kLocal);
    alignas(8) int p[8] = {1, 7};
    int* p_pointer = p;
    int local = 0;
    int* l_pointer = &local;
    run_kernel(kernel, {&p_pointer, &p_pointer, &l_pointer}, 1, 1);
    EXPECT_THAT(p, testing::ElementsAre(3, 9, 8, 7, 77, 0, 77, 1)) << standard;
  }
}

TEST_F(CompilerClient, opencl_c_1_2_is_the_default) {
  EXPECT_EQ(run_to_int(fresh("kernel void k(global int* p) { *p = __OPENCL_C_VERSION__; }")), 120);
  EXPECT_EQ(run_to_int(fresh("kernel void k(global int* p) { *p = __OPENCL_VERSION__; }")), 300);
  for (int version : {110, 120, 200, 300}) {
    std::string option = fmt::format("-cl-std=CL{}.{}", version / 100, version / 10 % 10);
    EXPECT_EQ(run_to_int(fresh("kernel void k(global int* p) { *p = __OPENCL_C_VERSION__; }"), option), version);
  }
  // Generic pointers are an error of 1.2.
  EXPECT_FALSE(build(fresh("kernel void k(global int* p) { int* q = p; *q = 1; }")).image.has_value());
}

TEST_F(CompilerClient, announces_what_it_has_and_nothing_else) {
  auto defined = [&](const std::string& macro, const std::string& option) {
    return run_to_int(
               fresh(fmt::format("kernel void k(global int* p) {{\n#ifdef {}\n  *p = 1;\n#else\n  *p = 0;\n#endif\n}}",
                                 macro)),
               option) == 1;
  };
  for (const char* macro :
       {"__opencl_c_generic_address_space", "__opencl_c_atomic_order_acq_rel", "__opencl_c_atomic_order_seq_cst",
        "__opencl_c_atomic_scope_device", "__opencl_c_atomic_scope_all_devices", "__opencl_c_int64", "__opencl_c_fp64",
        "cl_khr_fp64", "cl_khr_int64_base_atomics", "__ENDIAN_LITTLE__"}) {
    EXPECT_TRUE(defined(macro, "-cl-std=CL3.0")) << macro;
  }
  for (const char* macro :
       {"__opencl_c_images", "__opencl_c_read_write_images", "__opencl_c_3d_image_writes", "__opencl_c_pipes",
        "__opencl_c_device_enqueue", "__opencl_c_subgroups", "__opencl_c_work_group_collective_functions",
        "__opencl_c_program_scope_global_variables", "__IMAGE_SUPPORT__", "cl_khr_fp16", "cl_khr_subgroups",
        "__FAST_RELAXED_MATH__", "cl_khr_3d_image_writes"}) {
    EXPECT_FALSE(defined(macro, "-cl-std=CL3.0")) << macro;
    EXPECT_FALSE(defined(macro, "")) << macro;
  }
  EXPECT_TRUE(defined("__FAST_RELAXED_MATH__", "-cl-fast-relaxed-math"));
}

TEST_F(CompilerClient, describes_arguments) {
  BuildOutcome built = build(
      "typedef struct { int x; } thing; typedef float real;\n"
      "kernel __attribute__((reqd_work_group_size(4, 2, 1))) __attribute__((vec_type_hint(uint4)))\n"
      "void k(global const float* restrict in, constant int* table, local volatile long* scratch, real4_t v) {}\n",
      "-Dreal4_t=float4");
  const KernelImage& kernel = kernel_of(built, "k");
  ASSERT_EQ(kernel.arguments.size(), 4U);
  using Kind = KernelArgument::Kind;
  const auto& a = kernel.arguments;
  EXPECT_EQ(a[0].kind, Kind::kPointer);
  EXPECT_EQ(a[0].name, "in");
  EXPECT_EQ(a[0].type_name, "float*");
  EXPECT_EQ(a[0].address_qualifier, static_cast<std::uint32_t>(CL_KERNEL_ARG_ADDRESS_GLOBAL));
  EXPECT_EQ(a[0].access_qualifier, static_cast<std::uint32_t>(CL_KERNEL_ARG_ACCESS_NONE));
  EXPECT_EQ(a[0].type_qualifier, static_cast<std::uint32_t>(CL_KERNEL_ARG_TYPE_CONST | CL_KERNEL_ARG_TYPE_RESTRICT));
  EXPECT_EQ(a[1].kind, Kind::kPointer);
  EXPECT_EQ(a[1].address_qualifier, static_cast<std::uint32_t>(CL_KERNEL_ARG_ADDRESS_CONSTANT));
  EXPECT_EQ(a[2].kind, Kind::kLocal);
  EXPECT_EQ(a[2].type_qualifier, static_cast<std::uint32_t>(CL_KERNEL_ARG_TYPE_VOLATILE));
  EXPECT_EQ(a[3].kind, Kind::kValue);
  EXPECT_EQ(a[3].size, 16U);
  EXPECT_EQ(a[3].type_name, "float4");
  EXPECT_THAT(kernel.required_local_size, testing::ElementsAre(4, 2, 1));
  EXPECT_EQ(kernel.attributes, "reqd_work_group_size(4,2,1) vec_type_hint(uint4)");
}

TEST_F(CompilerClient, defines_and_includes) {
  TemporaryFolder folder;
  std::filesystem::create_directories(folder.path() + "/with blank");
  auto write = [&](int value) {
    std::ofstream(folder.path() + "/with blank/value.h") << "#define VALUE " << value << "\n";
  };
  EXPECT_EQ(run_to_int(fresh("kernel void k(global int* p) { *p = X + sizeof(T); }"), "-DX=40 -D T=short"), 42);
  EXPECT_EQ(
      run_to_int(fresh("constant char t[] = TEXT; kernel void k(global int* p) { *p = t[1]; }"), "-DTEXT=\\\"ab\\\""),
      'b');
  const std::string source = fresh("#include \"value.h\"\nkernel void k(global int* p) { *p = VALUE; }");
  const std::string options = fmt::format("-I \"{}/with blank\"", folder.path());
  write(5);
  EXPECT_EQ(run_to_int(source, options), 5);
  write(6);
  EXPECT_EQ(run_to_int(source, options), 6) << "a program that includes files is not taken from the cache";
  std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path() + "/with blank");
  write(7);
  EXPECT_EQ(run_to_int(source), 7) << "relative to the application's folder";
  std::filesystem::current_path(before);
}

TEST_F(CompilerClient, errors_name_the_programs_own_files_and_lines) {
  BuildOutcome built =
      build(fresh("kernel void k(global int* p) {\n  p[0] = unknown_name;\n#line 77 \"user.cl\"\n  p[1] = 1 +;\n}\n"));
  ASSERT_FALSE(built.image.has_value());
  EXPECT_EQ(built.image.error().code, ErrorCode::kBuildFailed);
  EXPECT_THAT(built.log, HasSubstr("<program source>:2:10: error: use of undeclared identifier 'unknown_name'"));
  EXPECT_THAT(built.log, HasSubstr("user.cl:77:13: error: expected expression"));
  TemporaryFolder folder;
  std::ofstream(folder.path() + "/bad.h") << "\n\nint f(void) { return $; }\n";
  built = build(fresh("#include <bad.h>\nkernel void k(global int* p) { *p = f(); }"), "-I" + folder.path());
  EXPECT_THAT(built.log, HasSubstr(folder.path() + "/bad.h:3:"));
}

TEST_F(CompilerClient, warnings_go_to_the_log_also_from_the_cache) {
  const std::string source = fresh("kernel void k(global int* p) {\n  int x = 3.9;\n#warning look here\n  *p = x; }");
  for (int round = 0; round < 2; ++round) {
    BuildOutcome built = build(source);
    ASSERT_TRUE(built.image.has_value()) << built.log;
    EXPECT_THAT(built.log, HasSubstr("<program source>:3:2: warning: look here"));
  }
  EXPECT_EQ(build(source, "-w").log, "");
  BuildOutcome strict = build(source, "-Werror");
  EXPECT_FALSE(strict.image.has_value());
  EXPECT_THAT(strict.log, HasSubstr("error: look here"));
}

TEST_F(CompilerClient, undefined_functions_are_named) {
  BuildOutcome built =
      build(fresh("int missing(int); float __attribute__((overloadable)) absent(float);\n"
                  "kernel void k(global int* p) { *p = missing(1) + absent(1.0f); }"));
  ASSERT_FALSE(built.image.has_value());
  EXPECT_EQ(built.image.error().code, ErrorCode::kBuildFailed);
  EXPECT_THAT(built.log, HasSubstr("function 'missing'"));
  EXPECT_THAT(built.log, HasSubstr("function 'absent'"));
}

TEST_F(CompilerClient, program_scope_variables_come_with_a_warning) {
  BuildOutcome built =
      build(fresh("global int counter[3]; kernel void k(global int* p) { *p = ++counter[1]; }"), "-cl-std=CL2.0");
  ASSERT_TRUE(built.image.has_value()) << built.log;
  EXPECT_EQ(built.image->global_variables_size, 12U);
  EXPECT_THAT(built.log, HasSubstr("each kernel has its own"));
  EXPECT_FALSE(build(fresh("global int counter; kernel void k(global int* p) { *p = ++counter; }"), "-cl-std=CL3.0")
                   .image.has_value());
}

TEST_F(CompilerClient, every_option_builds) {
  for (const char* option : {"-cl-opt-disable", "-cl-single-precision-constant", "-cl-denorms-are-zero",
                             "-cl-fp32-correctly-rounded-divide-sqrt", "-cl-mad-enable", "-cl-no-signed-zeros",
                             "-cl-unsafe-math-optimizations", "-cl-finite-math-only", "-cl-fast-relaxed-math",
                             "-cl-uniform-work-group-size -cl-std=CL2.0", "-cl-no-subgroup-ifp", "-cl-kernel-arg-info",
                             "-g", "-cl-strict-aliasing"}) {
    BuildOutcome built =
        build(fresh("kernel void k(global float* p) { p[get_global_id(0)] = sin(p[0]) / 3; }"), option);
    EXPECT_TRUE(built.image.has_value()) << option << "\n" << built.log;
    if (built.image) {
      EXPECT_EQ(built.image->flush_denormals, std::string(option) == "-cl-denorms-are-zero") << option;
    }
  }
}

TEST_F(CompilerClient, invalid_options_start_nothing) {
  std::size_t before = services().size();
  BuildOutcome built = build(kOne, "-cl-unknown");
  EXPECT_EQ(built.image.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(built.log, HasSubstr("-cl-unknown"));
  EXPECT_FALSE(client_->check_options(BuildKind::kBuild, "-cl-unknown").has_value());
  EXPECT_TRUE(client_->check_options(BuildKind::kBuild, "-cl-std=CL2.0 -DX").has_value());
  EXPECT_FALSE(client_->check_options(BuildKind::kLink, "-cl-std=CL2.0").has_value());
  EXPECT_TRUE(client_->check_options(BuildKind::kLink, "-create-library -enable-link-options").has_value());
  EXPECT_EQ(services().size(), before);
}

TEST_F(CompilerClient, objects_and_links_lie_in_the_disk_cache) {
  const auto make = [&](Client& client) {
    BuildRequest caller{"#include \"six.h\"\nkernel void k(global int* p) { *p = six() + 1; }", "",
                        BuildKind::kCompile};
    caller.headers = {{"six.h", "int six(void);"}};
    BuildOutcome first = client.build(caller);
    BuildOutcome second = client.build({"int six(void) { return 6; }", "", BuildKind::kCompile});
    EXPECT_TRUE(first.image.has_value() && second.image.has_value()) << first.log << second.log;
    BuildRequest link{"", "", BuildKind::kLink};
    link.objects = {{first.image->bitcode}, {second.image->bitcode}};
    return client.build(link);
  };
  BuildOutcome built = make(*client_);
  int result = 0;
  int* pointer = &result;
  run_kernel(kernel_of(built, "k"), {&pointer}, 1, 1);
  EXPECT_EQ(result, 7);
  client_.reset();
  ASSERT_TRUE(wait_until([] { return services().empty(); }));
  client_ = Client::create();
  EXPECT_TRUE(make(*client_).image.has_value());
  EXPECT_TRUE(services().empty()) << "a service was started although all three are in the cache";
}

TEST_F(CompilerClient, an_object_that_is_no_bitcode_is_a_failed_link) {
  BuildRequest link{"", "", BuildKind::kLink};
  link.objects = {{std::vector<std::byte>(100)}};
  BuildOutcome built = client_->build(link);
  ASSERT_FALSE(built.image.has_value());
  EXPECT_EQ(built.image.error().code, ErrorCode::kBuildFailed);
  EXPECT_THAT(built.log, HasSubstr("an object cannot be read"));
}

TEST_F(CompilerClient, a_program_may_have_no_kernels_and_inline_functions) {
  BuildOutcome built = build(fresh("int helper(int x) { return x; }"));
  ASSERT_TRUE(built.image.has_value()) << built.log;
  EXPECT_TRUE(built.image->kernels.empty());
  EXPECT_TRUE(build("").image.has_value());
  EXPECT_EQ(run_to_int(fresh("inline int f(int x) { return x + 1; } static inline int g(int x) { return f(x) * 2; }\n"
                             "kernel void k(global int* p) { *p = g(4); }")),
            10);
  EXPECT_EQ(
      run_to_int(fresh("kernel void inner(global int* p) { *p = 9; } kernel void k(global int* p) { inner(p); }")), 9);
}

TEST_F(CompilerClient, a_cached_build_starts_no_service) {
  const std::string source = fresh();
  ASSERT_TRUE(build(source).image.has_value());
  ASSERT_EQ(services().size(), 1U);
  client_ = Client::create();
  ASSERT_TRUE(wait_until([] { return services().empty(); }));
  BuildOutcome built = build(source);
  ASSERT_TRUE(built.image.has_value());
  EXPECT_TRUE(services().empty());
  int result = 0;
  int* pointer = &result;
  run_kernel(kernel_of(built, "k"), {&pointer}, 1, 1);
  EXPECT_EQ(result, 1);
}

TEST_F(CompilerClient, the_service_ends_with_its_client_and_leaves_nothing) {
  ASSERT_TRUE(build(fresh()).image.has_value());
  EXPECT_EQ(services().size(), 1U);
  EXPECT_EQ(scratch_folders().size(), 1U);
  errno = 0;
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG | __WALL), -1);
  EXPECT_EQ(errno, ECHILD) << "nothing of ours for the application's wait()";
  client_.reset();
  EXPECT_TRUE(wait_until([] { return services().empty() && scratch_folders().empty(); }));
}

TEST_F(CompilerClient, a_service_killed_between_builds_is_an_error_and_the_next_build_works) {
  ASSERT_TRUE(build(fresh()).image.has_value());
  ASSERT_EQ(services().size(), 1U);
  kill(the_service(), SIGKILL);
  ASSERT_TRUE(wait_until([] { return services().empty(); }));
  BuildOutcome built = build(fresh());
  ASSERT_FALSE(built.image.has_value());
  EXPECT_EQ(built.image.error().code, ErrorCode::kCompilerLost);
  EXPECT_THAT(built.image.error().message, HasSubstr("SIGKILL"));
  EXPECT_THAT(built.log, HasSubstr("SIGKILL"));
  EXPECT_TRUE(scratch_folders().empty()) << "the client removes what a killed service leaves";
  EXPECT_TRUE(build(fresh()).image.has_value());
}

TEST_F(CompilerClient, a_service_killed_during_a_build_is_an_error_and_the_next_build_works) {
  ASSERT_TRUE(build(fresh()).image.has_value());
  pid_t service = the_service();
  kill(service, SIGSTOP);  // the build below cannot be over before the kill
  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    kill(service, SIGKILL);
  });
  BuildOutcome built = build(fresh());
  killer.join();
  ASSERT_FALSE(built.image.has_value());
  EXPECT_EQ(built.image.error().code, ErrorCode::kCompilerLost);
  EXPECT_THAT(built.image.error().message, HasSubstr("SIGKILL"));
  EXPECT_TRUE(build(fresh()).image.has_value());
}

TEST_F(CompilerClient, a_crash_of_the_compiler_is_an_error_that_names_the_signal) {
  ASSERT_TRUE(build(fresh()).image.has_value());
  pid_t service = the_service();
  kill(service, SIGSTOP);
  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    kill(service, SIGSEGV);
    kill(service, SIGCONT);
    // LLVM's own handler, where it is in place, returns so that the instruction crashes again; one of kill() does not.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    kill(service, SIGSEGV);
  });
  BuildOutcome built = build(fresh());
  killer.join();
  ASSERT_FALSE(built.image.has_value());
  EXPECT_EQ(built.image.error().code, ErrorCode::kCompilerLost);
  EXPECT_THAT(built.log, HasSubstr("SIGSEGV"));
  EXPECT_TRUE(build(fresh()).image.has_value());
  EXPECT_TRUE(wait_until([] { return scratch_folders().size() == 1; }));
}

TEST_F(CompilerClient, a_fatal_error_of_llvm_is_a_failed_build) {
  // The code generator has no way to allocate this register: report_fatal_error.
  BuildOutcome built =
      build(fresh("kernel void k(global int* p) { asm volatile(\"nonsense_instruction %0\" : : \"r\"(p)); }"));
  ASSERT_FALSE(built.image.has_value());
  EXPECT_FALSE(built.log.empty());
  EXPECT_TRUE(build(fresh()).image.has_value());
}

TEST_F(CompilerClient, nothing_of_llvm_reaches_the_terminal) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  build(fresh("kernel void k(global int* p) { *p = nothing; }"));
  build(fresh("int missing(void); kernel void k(global int* p) { *p = missing(); }"));
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(CompilerClient, builds_of_several_threads_take_turns) {
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  std::vector<std::string> sources;
  for (int i = 0; i < 4; ++i) sources.push_back(fresh());
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { good += build(sources[static_cast<std::size_t>(i)]).image.has_value() ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 4);
  EXPECT_EQ(services().size(), 1U);
}

TEST_F(CompilerClient, a_forked_child_builds_with_a_service_of_its_own) {
  ASSERT_TRUE(build(fresh()).image.has_value());
  pid_t child = fork();
  if (child == 0) {
    bool good = build(fresh()).image.has_value() && services().size() == 2;
    client_.reset();
    _exit(good ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(build(fresh()).image.has_value()) << "the parent's service is untouched";
  EXPECT_TRUE(wait_until([] { return services().size() == 1 && scratch_folders().size() == 1; }));
}

TEST_F(CompilerClient, an_application_killed_with_its_service_leaves_a_folder_that_the_next_start_removes) {
  std::string leftover = (std::filesystem::temp_directory_path() / "mirrorcl-compiler-abcdef").string();
  std::filesystem::create_directories(leftover + "/pocl");
  ASSERT_TRUE(build(fresh()).image.has_value());
  EXPECT_FALSE(std::filesystem::exists(leftover));
}

TEST_F(CompilerClient, an_application_that_is_killed_takes_its_service_along) {
  pid_t child = fork();
  if (child == 0) {
    client_ = Client::create();
    _exit(build(fresh()).image.has_value() && kill(getpid(), SIGKILL) == 0 ? 1 : 2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(wait_until([] { return services().empty() && scratch_folders().empty(); }));
}

TEST(CompilerProbe, finds_service_and_pocl_without_starting_anything) {
  auto found = Client::probe();
  EXPECT_TRUE(found.has_value()) << found.error().message;
  EXPECT_TRUE(services().empty());
}

}  // namespace
}  // namespace mirrorcl::compiler

// A temporary folder and a cache of this run's own, before the options are read.
int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  mirrorcl::compiler::TemporaryFolder folder;
  setenv("TMPDIR", folder.path().c_str(), 1);
  setenv("MIRRORCL_CACHE_DIR", (folder.path() + "/cache").c_str(), 1);
  return RUN_ALL_TESTS();
}

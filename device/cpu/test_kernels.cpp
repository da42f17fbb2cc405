// SPDX-License-Identifier: Apache-2.0
// Compiled with its own options: optimised, never instrumented.
#include "device/cpu/test_kernels.h"

#define KERNEL extern "C" __attribute__((section("kernels"), used, noinline))

namespace mirrorcl::device {
namespace {

// As PoCL passes them: the address of the value.
template <typename T>
__attribute__((always_inline)) inline T value(void** args, int index) {
  return *static_cast<T*>(args[index]);
}

template <typename T>
__attribute__((always_inline)) inline void make_access(TestAccess& access) {
  auto* word = reinterpret_cast<T*>(access.address);
  if (access.kind == TestAccess::kRead) {
    access.value = __atomic_load_n(word, __ATOMIC_RELAXED);
  } else if (access.kind == TestAccess::kWrite) {
    __atomic_store_n(word, static_cast<T>(access.value), __ATOMIC_RELAXED);
  } else {
    access.value = __atomic_fetch_add(word, static_cast<T>(access.value), __ATOMIC_SEQ_CST);
  }
}

}  // namespace

KERNEL void kernel_empty(void**, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {}

KERNEL void kernel_count_items(void** args, TestContext* c, std::uint64_t gx, std::uint64_t gy, std::uint64_t gz) {
  auto* out = value<std::uint32_t*>(args, 0);
  auto* sizes = value<std::uint64_t*>(args, 1);  // global size, global offset
  for (std::uint64_t z = 0; z < c->local_size[2]; ++z) {
    for (std::uint64_t y = 0; y < c->local_size[1]; ++y) {
      for (std::uint64_t x = 0; x < c->local_size[0]; ++x) {
        std::uint64_t ix = gx * c->local_size[0] + x + c->global_offset[0] - sizes[3];
        std::uint64_t iy = gy * c->local_size[1] + y + c->global_offset[1] - sizes[4];
        std::uint64_t iz = gz * c->local_size[2] + z + c->global_offset[2] - sizes[5];
        __atomic_fetch_add(&out[(iz * sizes[1] + iy) * sizes[0] + ix], 1, __ATOMIC_RELAXED);
      }
    }
  }
}

KERNEL void kernel_append(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  auto* log = value<std::uint64_t*>(args, 0);
  log[++log[0]] = value<std::uint64_t>(args, 1);
}

KERNEL void kernel_use_local(void** args, TestContext* c, std::uint64_t gx, std::uint64_t, std::uint64_t) {
  auto* out = value<std::uint64_t*>(args, 0);
  auto* volatile first = value<volatile std::uint64_t*>(args, 1);
  auto factor = value<std::uint64_t>(args, 2);
  auto* volatile second = value<volatile std::uint64_t*>(args, 3);
  for (std::uint64_t i = 0; i < c->local_size[0]; ++i) first[i] = i;
  for (std::uint64_t i = 0; i < c->local_size[0]; ++i) second[i] = first[i] * factor;
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < c->local_size[0]; ++i) sum += second[i];
  out[3 * gx] = sum;
  out[3 * gx + 1] = reinterpret_cast<std::uint64_t>(first);
  out[3 * gx + 2] = reinterpret_cast<std::uint64_t>(second);
}

KERNEL void kernel_print(void**, TestContext* c, std::uint64_t gx, std::uint64_t, std::uint64_t) {
  std::uint8_t* to = c->printf_buffer + *c->printf_position;
  if (c->printf_capacity - *c->printf_position < 8) return;
  to[0] = 'g';
  to[1] = 'r';
  to[2] = 'o';
  to[3] = 'u';
  to[4] = 'p';
  to[5] = ' ';
  to[6] = static_cast<std::uint8_t>('0' + gx % 10);
  to[7] = '\n';
  *c->printf_position += 8;
}

KERNEL void kernel_read(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  *value<std::uint64_t*>(args, 1) = *value<volatile std::uint64_t*>(args, 0);
}

KERNEL void kernel_write(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  *value<volatile std::uint64_t*>(args, 0) = value<std::uint64_t>(args, 1);
}

KERNEL void kernel_divide(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  *value<std::uint64_t*>(args, 2) = value<std::uint64_t>(args, 0) / value<std::uint64_t>(args, 1);
}

KERNEL void kernel_trap(void**, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  asm volatile("ud2");
}

KERNEL void kernel_breakpoint(void**, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  asm volatile("int3");
}

KERNEL void kernel_illegal(void**, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  asm volatile(".byte 0x06");  // push %es, which 64-bit mode does not have
}

KERNEL void kernel_privileged(void**, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  asm volatile("hlt");
}

KERNEL void kernel_system_call(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  asm volatile("syscall" : : "a"(value<std::uint64_t>(args, 0)), "D"(0), "S"(0), "d"(0) : "rcx", "r11", "memory");
}

KERNEL void kernel_recurse(void**, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  asm volatile("1: pushq %%rax\n jmp 1b" : : : "memory");
}

KERNEL void kernel_misaligned(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  asm volatile("movaps (%0), %%xmm0" : : "r"(value<std::uint64_t>(args, 0)) : "xmm0", "memory");
}

KERNEL void kernel_jump(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  asm volatile("jmp *%0" : : "r"(value<std::uint64_t>(args, 0)));
}

KERNEL void kernel_spin(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  auto* flag = value<std::uint32_t*>(args, 0);
  while (__atomic_load_n(flag, __ATOMIC_ACQUIRE) == 0) __builtin_ia32_pause();
}

KERNEL void kernel_spoil_state(void**, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  const std::uint32_t mxcsr = 0x7f80;  // round towards zero
  const std::uint16_t control = 0x0f7f;
  asm volatile("std\n ldmxcsr %0\n fldz\n fldz\n fldcw %1" : : "m"(mxcsr), "m"(control));
}

KERNEL void kernel_report_state(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  auto* out = value<std::uint64_t*>(args, 0);
  std::uint64_t flags;
  std::uint32_t mxcsr;
  std::uint32_t environment[7];
  asm volatile("pushfq\n popq %0" : "=r"(flags));
  asm volatile("stmxcsr %0" : "=m"(mxcsr));
  asm volatile("fnstenv %0" : "=m"(environment));
  out[0] = flags >> 10 & 1;
  out[1] = mxcsr & 0xffc0;
  out[2] = environment[0] & 0xffff;
  out[3] = environment[2] & 0xffff;
}

KERNEL void kernel_fail_group(void** args, TestContext*, std::uint64_t gx, std::uint64_t, std::uint64_t) {
  if (gx == value<std::uint64_t>(args, 0)) asm volatile("ud2");
  __atomic_fetch_add(value<std::uint32_t*>(args, 1), 1, __ATOMIC_RELAXED);
}

KERNEL void kernel_view(void** args, TestContext* c, std::uint64_t gx, std::uint64_t gy, std::uint64_t) {
  auto* out = value<std::uint64_t*>(args, 0) + 19 * (gy * c->num_groups[0] + gx);
  for (std::uint64_t i = 0; i < 19; ++i) {
    std::uint64_t word;
    asm volatile("movq %%fs:0x200(,%1,8), %0" : "=r"(word) : "r"(i));
    out[i] = word;
  }
}

KERNEL void kernel_accesses(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  auto* list = value<TestAccess*>(args, 0);
  auto count = value<std::uint64_t>(args, 1);
  auto* done = value<volatile std::uint64_t*>(args, 2);
  for (std::uint64_t i = 0; i < count; ++i) {
    TestAccess& access = list[i];
    if (access.size == 8) {
      make_access<std::uint64_t>(access);
    } else if (access.size == 4) {
      make_access<std::uint32_t>(access);
    } else if (access.size == 2) {
      make_access<std::uint16_t>(access);
    } else {
      make_access<std::uint8_t>(access);
    }
    *done = i + 1;
  }
}

KERNEL void kernel_sum(void** args, TestContext*, std::uint64_t, std::uint64_t, std::uint64_t) {
  auto* data = value<volatile std::uint64_t*>(args, 0);
  auto count = value<std::uint64_t>(args, 1);
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < count; ++i) sum += data[i];
  *value<std::uint64_t*>(args, 2) = sum;
}

}  // namespace mirrorcl::device

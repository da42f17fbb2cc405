/* SPDX-License-Identifier: Apache-2.0 */
/* The firmware's few instructions that C++ cannot say. */
#include <sys/syscall.h>

#include "device/cpu/firmware/layout.h"

        .text

/* The kernel's entry, or the ATS device's call: leave the stack, which the takeover unmaps, for our own. The argument in rdi
   says which (startup.h); exec clears it. */
        .globl  _start
        .type   _start, @function
_start:
        xorl    %ebp, %ebp
        leaq    mirrorcl_control_stack_end(%rip), %rsp
        call    mirrorcl_firmware_main
        ud2

/* long mirrorcl_start_thread(ulong flags, void* stack_top, u32* thread_id, void* fs_base, void (*entry)(void*))
   The new thread runs entry(fs_base) on stack_top, and never returns. */
        .globl  mirrorcl_start_thread
        .type   mirrorcl_start_thread, @function
mirrorcl_start_thread:
        movq    %r8, %r9                /* entry survives the system call in r9 */
        movq    %rcx, %r8               /* tls */
        xorl    %r10d, %r10d            /* child_tid */
        movl    $SYS_clone, %eax
        syscall
        testq   %rax, %rax
        jz      1f
        ret
1:      xorl    %ebp, %ebp
        movq    %r8, %rdi
        call    *%r9
        ud2

/* u32 mirrorcl_run_group(Entry code, void* args, void* context, const u64 group[3], void* stack_top)
   Runs one work-group on the kernel stack. Returns 0, or 1 if the signal handler ended it: the handler then resumes the thread at
   mirrorcl_group_aborted. The FS base is the unit. */
        .globl  mirrorcl_run_group
        .type   mirrorcl_run_group, @function
mirrorcl_run_group:
        pushq   %rbp
        pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, %fs:UNIT_SAVED_STACK
        ldmxcsr %fs:UNIT_MXCSR
        movq    %rdi, %rax
        movq    %r8, %rsp
        movq    %rsi, %rdi              /* args */
        movq    %rdx, %rsi              /* pocl_context */
        movq    (%rcx), %rdx
        movq    16(%rcx), %r8
        movq    8(%rcx), %rcx
        movl    $1, %fs:UNIT_RUNNING
        call    *%rax
        movl    $0, %fs:UNIT_RUNNING
        xorl    %eax, %eax
2:      movq    %fs:UNIT_SAVED_STACK, %rsp
        cld
        cmpb    $0, mirrorcl_has_avx(%rip)
        je      3f
        vzeroupper
3:      popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        ret

        .globl  mirrorcl_group_aborted
mirrorcl_group_aborted:
        fninit
        movl    $1, %eax
        jmp     2b

        .globl  mirrorcl_signal_return
        .type   mirrorcl_signal_return, @function
mirrorcl_signal_return:
        movl    $SYS_rt_sigreturn, %eax
        syscall

        .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: Apache-2.0 */
/* hbind(): tell where the memory behind a range of addresses should live. The binary interface is that of the
 * Heterogeneous Memory System proposal of 2018 (linux-mm, HBIND_IOCTL), as a function of this library; commands from 3
 * on are MirrorCL's. docs/hbind.md has examples and the table of errors.
 *
 * Memories (targets) and processors (initiators) are named by the uids of the process's topology (hms/topology.h, `hms
 * show`).
 *
 *   uint32_t target = 1;
 *   hms_bind(buffer, size, &target, 1);
 *
 * The general form is a program of atoms. Each command is one atom, followed by as many extra dwords as it says;
 * commands are executed in order, after all of them have been found valid:
 *
 *   uint32_t atoms[] = {HBIND_ATOM(HBIND_CMD_BIND, 0), HBIND_ATOM(HBIND_CMD_MIGRATE, 1), 0};
 *   struct hbind_params p = {(uintptr_t)buffer, (uintptr_t)buffer + size, 1, 3, (uintptr_t)&target, (uintptr_t)atoms};
 *   if (hbind(&p) == 0) printf("%u pages moved\n", atoms[2]);
 */
#ifndef MIRRORCL_HMS_HBIND_H_
#define MIRRORCL_HMS_HBIND_H_

#include <stddef.h>
#include <stdint.h>

#include "hms/api.h"

#ifdef __cplusplus
extern "C" {
#endif

struct hbind_params {
  uint64_t start;    /* address; rounded down to a page */
  uint64_t end;      /* address behind the last byte; rounded up to a page */
  uint32_t ntargets; /* uids in `targets`, at most HBIND_MAX_TARGETS */
  uint32_t natoms;   /* dwords in `atoms`, extra ones included, 1 to HBIND_MAX_ATOMS */
  uint64_t targets;  /* address of uint32_t uids in order of preference; may be 0 if ntargets is */
  uint64_t atoms;    /* address of uint32_t atoms; results are written to their extra dwords */
};

#define HBIND_MAX_TARGETS 1024
#define HBIND_MAX_ATOMS 1024

/* Bits 0-19 of an atom are the command, bits 20-31 the number of extra dwords that follow. */
#define HBIND_ATOM_GET_CMD(atom) ((uint32_t)(atom)&0xfffffu)
#define HBIND_ATOM_SET_CMD(cmd) ((uint32_t)(cmd)&0xfffffu)
#define HBIND_ATOM_GET_DWORDS(atom) ((uint32_t)(atom) >> 20)
#define HBIND_ATOM_SET_DWORDS(dwords) (((uint32_t)(dwords)&0xfffu) << 20)
#define HBIND_ATOM(cmd, dwords) (HBIND_ATOM_SET_CMD(cmd) | HBIND_ATOM_SET_DWORDS(dwords))

/* The range has no policy any more. */
#define HBIND_CMD_DEFAULT 0u

/* Strict: from now on memory of the range is allocated in the listed targets, in order of preference; in others only if
 * the initiator that asks reaches none of the listed ones. Replaces any earlier policy of the range. */
#define HBIND_CMD_BIND 1u

/* Moves what the range holds to the listed targets, as much as the first has room for, then the next. Neither reads nor
 * changes policies. Extra dword 0 (out): pages of 4 KiB that live in another target than before. */
#define HBIND_CMD_MIGRATE 2u

/* As MIGRATE, for memory that is about to be used: a device also gets pages that nobody has touched yet, and
 * has all of them mapped. No result. */
#define HBIND_CMD_PREFETCH 3u

/* Not strict: memory of the range should live in the first listed target that this process can use. A page that lives
 * there is mapped rather than moved, for whoever can map it. Kept beside other policy; no target listed: no preference.
 */
#define HBIND_CMD_PREFERRED 4u

/* Extra dwords (in): uids of the initiators that access the range all the time. They have it mapped wherever it lives,
 * if they can reach it there, and their accesses do not move it. Replaces an earlier list; no extra dword: nobody. */
#define HBIND_CMD_ACCESSED_BY 5u

/* Extra dword 0 (in): 1, the range is read far more often than written and readers get copies of their own; 0, no more
 * so. */
#define HBIND_CMD_READ_MOSTLY 6u

/* Extra dwords (out), ntargets + 2 of them: pages in each listed target; then pages in others; then pages that nobody
 * has touched. Counts stop at 2^32 - 1. */
#define HBIND_CMD_QUERY_RESIDENCY 7u

#define HBIND_COMMANDS 8u

/* 0, or -1 with errno:
 *   EINVAL  the range is empty or beyond user space, a count is out of bounds, a command is unknown or has a wrong
 *           number of extra dwords or a wrong value in one; nothing has been done
 *   EFAULT  `params`, `targets` or `atoms` is null, or part of the range is not mapped; nothing has been done
 *   ENODEV  none of the listed targets (of ACCESSED_BY: initiators) is usable in this process; nothing has been done.
 *           Unknown uids among usable ones are skipped
 *   ENOMEM  no room for another policy, in the library or the kernel; commands before the failing one have been
 *           executed, that one has changed nothing
 * Safe from any thread. Costs no memory per page. */
HMS_API int hbind(struct hbind_params* params);

/* hbind() with one command each. `size` is in bytes; 0 or -1 with errno. */
HMS_API int hms_bind(const void* start, size_t size, const uint32_t* targets, uint32_t target_count);
HMS_API int hms_unbind(const void* start, size_t size); /* DEFAULT */
HMS_API int hms_prefer(const void* start, size_t size, uint32_t target);
HMS_API int hms_prefetch(const void* start, size_t size, uint32_t target);
HMS_API int hms_accessed_by(const void* start, size_t size, const uint32_t* initiators, uint32_t initiator_count);
HMS_API int hms_read_mostly(const void* start, size_t size, int enable);
/* The number of pages moved, or -1 with errno. */
HMS_API int64_t hms_migrate(const void* start, size_t size, const uint32_t* targets, uint32_t target_count);

#ifdef __cplusplus
}
#endif

#endif /* MIRRORCL_HMS_HBIND_H_ */

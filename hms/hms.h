/* SPDX-License-Identifier: Apache-2.0 */
/* libmirror-hms for C: the memories of a machine, who reaches them, and which are best for whom. The model is explained
 * in hms/topology.h and docs/hms.md; hms/hbind.h binds memory to what is found here.
 *
 *   char error[256];
 *   hms_topology* machine = hms_topology_load(NULL, error, sizeof error);
 *   struct hms_query query = {.rank = HMS_RANK_BANDWIDTH, .min_free = (uint64_t)4 << 30};
 *   uint32_t me = hms_initiator_of_cpu(machine, sched_getcpu());
 *   struct hms_candidate best;
 *   if (hms_best_targets(machine, &query, &me, 1, &best, 1) > 0) hms_bind(buffer, size, &best.target, 1);
 *   hms_topology_destroy(machine);
 *
 * A topology does not change once it is loaded; any number of threads may use it. Strings belong to it. */
#ifndef MIRRORCL_HMS_HMS_H_
#define MIRRORCL_HMS_HMS_H_

#include <stddef.h>
#include <stdint.h>

#include "hms/api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hms_topology hms_topology;

#define HMS_NO_UID UINT32_MAX
#define HMS_UNKNOWN UINT64_MAX /* a figure or a number of bytes that nobody knows */

enum hms_rank { HMS_RANK_BANDWIDTH, HMS_RANK_LATENCY, HMS_RANK_CAPACITY, HMS_RANK_FREE_SPACE };
enum hms_direction { HMS_READS_AND_WRITES, HMS_READS, HMS_WRITES };
enum hms_source { HMS_ASSUMED, HMS_FIRMWARE, HMS_MEASURED, HMS_CONFIGURED };
enum hms_locality { HMS_LOCAL, HMS_SAME_PACKAGE, HMS_REMOTE };
enum hms_memory_kind { HMS_DRAM, HMS_HBM, HMS_NVM, HMS_CXL, HMS_SPM, HMS_DEVICE_MEMORY, HMS_OTHER_MEMORY };
enum hms_initiator_kind { HMS_CPUS, HMS_DEVICE, HMS_GENERIC_INITIATOR };

/* `path` as for `hms --topology`: hwloc XML, a captured sysfs tree, JSON or a tree of `hms show`; NULL is this machine.
 * NULL on failure, with one sentence in `error` (may be NULL), cut to `error_size` bytes. */
HMS_API hms_topology* hms_topology_load(const char* path, char* error, size_t error_size);
HMS_API void hms_topology_destroy(hms_topology* topology); /* NULL is ignored */

struct hms_target {
  uint32_t uid;
  enum hms_memory_kind kind;
  int node;           /* NUMA node id, -1: not memory that the kernel hands out */
  int online;         /* pages can be allocated in it */
  uint64_t size;      /* bytes */
  uint64_t free;      /* bytes, or HMS_UNKNOWN */
  const char* name;   /* "node0" */
  const char* device; /* whose memory it is, "" for host memory */
};

struct hms_initiator {
  uint32_t uid;
  enum hms_initiator_kind kind;
  int node; /* NUMA node id, -1: none */
  const char* name;
  const char* device; /* "" for CPUs */
};

/* By position, from 0 to the count; 0, or -1 with errno EINVAL if there is none. */
HMS_API size_t hms_target_count(const hms_topology* topology);
HMS_API size_t hms_initiator_count(const hms_topology* topology);
HMS_API int hms_target_at(const hms_topology* topology, size_t position, struct hms_target* target);
HMS_API int hms_initiator_at(const hms_topology* topology, size_t position, struct hms_initiator* initiator);

/* Uids, or HMS_NO_UID if there is none. */
HMS_API uint32_t hms_find(const hms_topology* topology, const char* name);
HMS_API uint32_t hms_target_of_node(const hms_topology* topology, int node);
HMS_API uint32_t hms_initiator_of_cpu(const hms_topology* topology, int cpu);
HMS_API uint32_t hms_initiator_of_device(const hms_topology* topology, const char* device);

/* All zero is: by bandwidth, of reads and writes, wherever it is. */
struct hms_query {
  enum hms_rank rank;
  enum hms_direction direction;
  uint64_t min_free;   /* bytes */
  int coherent;        /* not 0: only over coherent paths */
  int atomic;          /* not 0: only over paths on which atomics work */
  int include_offline; /* not 0: also memory in which nothing can be allocated now */
};

struct hms_candidate {
  uint32_t target;
  enum hms_locality locality;
  uint64_t bandwidth;               /* MiB/s, or HMS_UNKNOWN */
  uint64_t latency;                 /* ns, or HMS_UNKNOWN */
  enum hms_source bandwidth_source; /* meaningless if unknown */
  enum hms_source latency_source;
  int coherent;
  int atomic;
};

/* The targets that all initiators reach, best first, with the worst of their figures; ties go to the nearer. Writes
 * at most `capacity` of them and returns how many there are; candidates may be NULL if capacity is 0. -1 with errno
 * EINVAL: no initiator, or not an initiator's uid. */
HMS_API int hms_best_targets(const hms_topology* topology, const struct hms_query* query, const uint32_t* initiators,
                             size_t initiator_count, struct hms_candidate* candidates, size_t capacity);

/* How one initiator reaches one target best; 0, or -1 with errno ENOENT if it does not. `query` may be NULL. */
HMS_API int hms_reach(const hms_topology* topology, uint32_t initiator, uint32_t target, const struct hms_query* query,
                      struct hms_candidate* candidate);

/* Everything, as JSON; free() it. NULL with errno ENOMEM. */
HMS_API char* hms_topology_json(const hms_topology* topology);

#ifdef __cplusplus
}
#endif

#endif /* MIRRORCL_HMS_HMS_H_ */

/* SPDX-License-Identifier: Apache-2.0 */
/* hms.h in a C program: compiled as C, called by hms_test.cpp. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hms/hms.h"

/* Asks the reference machine in the file `path`. Returns 0, or the line that went wrong. */
int hms_from_c(const char* path);

#define CHECK(condition)       \
  do {                         \
    if (!(condition)) {        \
      hms_topology_destroy(t); \
      return __LINE__;         \
    }                          \
  } while (0)

int hms_from_c(const char* path) {
  char error[64] = "";
  hms_topology* t = hms_topology_load("/nonexistent/file", error, sizeof error);
  CHECK(t == NULL && strcmp(error, "cannot read /nonexistent/file: No such file or directory") == 0);
  CHECK(hms_topology_load("/nonexistent/file", error, 7) == NULL && strcmp(error, "cannot") == 0);
  t = hms_topology_load(path, error, sizeof error);
  CHECK(t != NULL);
  CHECK(hms_target_count(t) == 14 && hms_initiator_count(t) == 8);

  struct hms_target target;
  CHECK(hms_target_at(t, 1, &target) == 0);
  CHECK(strcmp(target.name, "hbm00") == 0 && target.kind == HMS_HBM && target.node == 2 && target.online);
  CHECK(target.size == (uint64_t)16 << 30 && target.free == (uint64_t)15 << 30 && target.device[0] == 0);
  CHECK(hms_target_of_node(t, 2) == target.uid && hms_find(t, "hbm00") == target.uid);
  errno = 0;
  CHECK(hms_target_at(t, 14, &target) == -1 && errno == EINVAL);
  struct hms_initiator initiator;
  CHECK(hms_initiator_at(t, 0, &initiator) == 0 && strcmp(initiator.name, "cx00") == 0 && initiator.kind == HMS_CPUS);
  CHECK(hms_initiator_of_cpu(t, 3) == initiator.uid && hms_initiator_of_cpu(t, -1) == HMS_NO_UID);
  const uint32_t gpu = hms_initiator_of_device(t, "gpu0");
  CHECK(gpu != HMS_NO_UID && hms_find(t, "gpu9") == HMS_NO_UID);

  struct hms_query query = {.rank = HMS_RANK_LATENCY};
  struct hms_candidate best[2];
  CHECK(hms_best_targets(t, &query, &initiator.uid, 1, best, 2) == 10);
  CHECK(best[0].target == hms_find(t, "ddr0") && best[0].latency == 90 && best[0].latency_source == HMS_CONFIGURED);
  CHECK(best[1].target == hms_find(t, "hbm00") && best[1].locality == HMS_LOCAL);
  const uint32_t both[] = {initiator.uid, gpu};
  CHECK(hms_best_targets(t, NULL, both, 2, NULL, 0) == 6);
  errno = 0;
  CHECK(hms_best_targets(t, &query, NULL, 0, best, 2) == -1 && errno == EINVAL);
  CHECK(hms_best_targets(t, &query, &target.uid, 1, best, 2) == -1);
  query.rank = (enum hms_rank)9;
  CHECK(hms_best_targets(t, &query, both, 2, best, 2) == -1);

  struct hms_candidate way;
  CHECK(hms_reach(t, gpu, hms_find(t, "gpu0-hbm"), NULL, &way) == 0 && way.bandwidth == 953674 && way.coherent);
  errno = 0;
  CHECK(hms_reach(t, initiator.uid, hms_find(t, "gpu0-hbm"), NULL, &way) == -1 && errno == ENOENT);

  char* json = hms_topology_json(t);
  CHECK(json != NULL && strstr(json, "mirrorcl-hms") != NULL);
  free(json);
  hms_topology_destroy(t);
  return 0;
}

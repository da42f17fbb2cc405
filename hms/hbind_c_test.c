/* SPDX-License-Identifier: Apache-2.0 */
/* hbind.h in a C program: compiled as C, called by process_test.cpp. */
#include <stdlib.h>

#include "hms/hbind.h"

/* Binds a megabyte to `target`, moves it there and asks where it is. Returns 0, or the line that went wrong. */
int hbind_from_c(uint32_t target, uint32_t* resident_pages);

int hbind_from_c(uint32_t target, uint32_t* resident_pages) {
  const size_t size = 1 << 20;
  char* buffer = aligned_alloc(4096, size);
  if (buffer == NULL) return __LINE__;
  for (size_t i = 0; i < size; i += 4096) buffer[i] = 1;
  uint32_t atoms[] = {HBIND_ATOM(HBIND_CMD_BIND, 0),
                      HBIND_ATOM(HBIND_CMD_MIGRATE, 1),
                      0,
                      HBIND_ATOM(HBIND_CMD_QUERY_RESIDENCY, 3),
                      0,
                      0,
                      0};
  struct hbind_params params = {.start = (uintptr_t)buffer,
                                .end = (uintptr_t)buffer + size,
                                .ntargets = 1,
                                .natoms = sizeof atoms / sizeof atoms[0],
                                .targets = (uintptr_t)&target,
                                .atoms = (uintptr_t)atoms};
  int line = 0;
  if (hbind(&params) != 0) line = __LINE__;
  *resident_pages = atoms[4];
  if (line == 0 && hms_unbind(buffer, size) != 0) line = __LINE__;
  free(buffer);
  return line;
}

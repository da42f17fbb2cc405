// SPDX-License-Identifier: Apache-2.0
// A child of memory_file.cpp's that makes an empty file on a tmpfs which nobody else sees and which ends with the file.
// In /proc it looks like a memfd. Code like that of base/spawn_children.h.
#pragma once

namespace mirrorcl {

struct TmpfsMaker {
  struct Step {
    const char* name;
    int error;  // 0: the process ended in it
  };

  // Lie in memory that both share.
  const char* path;       // of the file in its file system
  const char* user_map;   // what /proc/self/uid_map says in a user namespace of its own
  const char* group_map;  // likewise
  int socket;             // of the child: takes the file

  bool sent = false;  // the file lies in the socket
  Step last{"clone", 0};
  Step without_namespaces{"", 0};  // the step that has failed there, if one did
};

// For run_in_child().
int run_tmpfs_maker(void* maker);

}  // namespace mirrorcl

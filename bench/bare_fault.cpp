// SPDX-License-Identifier: Apache-2.0
// The bare mechanism that a device fault is made of, without any driver: a child process touches a page of a shared
// file mapping that is registered with userfaultfd, the parent reads the fault, writes the page into the file and
// continues the child. What the driver adds on top (finding the block, taking the page from the host, statistics) is
// its own cost.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>

#include "base/pass_descriptors.h"
#include "base/unique_fd.h"
#include "bench/fault_pages.h"
#include "bench/samples.h"
#include "bench/subprocess.h"

namespace mirrorcl::bench {

namespace {

bool send_fd(int socket, int fd) {
  char byte = 0;
  return send_with_descriptor(socket, &byte, 1, fd) == 1;
}

int receive_fd(int socket) {
  char byte = 0;
  int fd = -1;
  return receive_with_descriptor(socket, &byte, 1, &fd) == 1 ? fd : -1;
}

int failed(const char* what) {
  std::perror(what);
  return 1;
}

// In the child: the range becomes device memory, its faults go to the parent.
int run_device(char* range, int memory, int socket, int batches) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (mmap(range, kFaultRange, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, memory,
           reinterpret_cast<off_t>(range)) == MAP_FAILED) {
    return failed("mmap of device memory");
  }
  UniqueFd faults(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC)));
  uffdio_api api{UFFD_API, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM, 0};
  uffdio_register where{{reinterpret_cast<std::uint64_t>(range), kFaultRange},
                        UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
                        0};
  if (ioctl(faults.get(), UFFDIO_API, &api) != 0) return failed("UFFDIO_API");
  if (ioctl(faults.get(), UFFDIO_REGISTER, &where) != 0) return failed("UFFDIO_REGISTER");
  if (!send_fd(socket, faults.get())) return failed("sendmsg");
  char go = 0;
  if (read(socket, &go, 1) != 1) return failed("read");

  const std::vector<std::size_t> pages = isolated_pages(batches);
  std::vector<double> samples;
  std::uint64_t wrong = 0;
  for (std::size_t first = 0; first < pages.size(); first += kFaultBatch) {
    const double start = now();
    for (std::size_t i = first; i < first + kFaultBatch; i++) {
      wrong += *reinterpret_cast<volatile std::uint64_t*>(range + pages[i]) != pages[i];
    }
    samples.push_back((now() - start) / kFaultBatch);
  }
  if (wrong != 0) {
    std::fprintf(stderr, "%lu pages arrived with wrong contents\n", wrong);
    return 1;
  }
  std::printf("fault %.9f\n", median(std::move(samples)));
  std::fflush(stdout);
  return 0;
}

// In the parent, on a thread of its own; ends with the process.
void serve_faults(int faults, int memory) {
  for (;;) {
    uffd_msg message;
    if (read(faults, &message, sizeof message) != sizeof message) continue;
    const std::uint64_t page = message.arg.pagefault.address & ~std::uint64_t{kPage - 1};
    if (pwrite(memory, reinterpret_cast<void*>(page), kPage, static_cast<off_t>(page)) != kPage) std::perror("pwrite");
    uffdio_continue install{{page, kPage}, 0, 0};
    if (ioctl(faults, UFFDIO_CONTINUE, &install) != 0) std::perror("UFFDIO_CONTINUE");
  }
}

}  // namespace

int bare_fault_probe(int batches) {
  char* range = static_cast<char*>(
      mmap(nullptr, kFaultRange + kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (range == MAP_FAILED) return failed("mmap");
  range += kBlock - reinterpret_cast<std::uintptr_t>(range) % kBlock;
  for (std::size_t offset = 0; offset < kFaultRange; offset += kPage) {
    *reinterpret_cast<std::uint64_t*>(range + offset) = offset;
  }
  UniqueFd memory(memfd_create("bare-device-memory", MFD_CLOEXEC));
  if (ftruncate(memory.get(), off_t{1} << 47) != 0) return failed("ftruncate");
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) return failed("socketpair");

  const pid_t child = fork();
  if (child < 0) return failed("fork");
  if (child == 0) _exit(run_device(range, memory.get(), sockets[1], batches));
  close(sockets[1]);
  const int faults = receive_fd(sockets[0]);
  if (faults < 0) return failed("receiving the userfaultfd (is it allowed here?)");
  std::thread(serve_faults, faults, memory.get()).detach();
  if (write(sockets[0], "g", 1) != 1) return failed("write");
  int status = 0;
  waitpid(child, &status, 0);
  _exit(status == 0 ? 0 : 1);  // the thread never ends by itself
}

}  // namespace mirrorcl::bench

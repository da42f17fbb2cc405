// SPDX-License-Identifier: Apache-2.0
// Who may do what, and in which order. There is nothing to include here but the rule; it is short because one thread
// owns the state.
//
// Threads
//   service thread   owns blocks, userfaultfd, staging, the device. Everything marked "Locking: service thread only".
//                    Never waits for anything but (1) epoll, (2) the host agent, and while it waits for the agent it
//                    reads events, (3) the copy threads.
//   host agent       makes the one system call it is given, and may block in the kernel until the service thread has
//                    read the event of that call. Touches nothing else.
//   copy threads     copy contents while the service thread does the same and then waits for them (CopyThreads). Change
//                    no state, and read no events.
//   application      posts requests (ServiceThread::request), reads statistics and the event sequence
//                    (HostEvents::wait_settled).
//
// The pinned threads take no locks, and touch no memory outside of the window and the driver's own segments: no malloc,
// no stdio, no thread-local variables. Their memory comes from PinnedArena.
//
// Locks of application threads, in the order in which they may be taken; the service thread takes none of them, so a
// thread that holds one may fault on a page that is away. Builds with assertions check it (ordered_lock.h).
//   1. g_start          mirror.cpp: one mirror per process (start, end, fork)
//   2. publish_         mirror.cpp: one thread at a time tells other processes about devices and topology
//   3. a request slot   service_thread.cpp: claimed with one compare-and-swap, held until the answer
//
// Kernel locks: the mmap lock is only ever held inside a system call. A system call of the service thread that raised
// an event for its own userfaultfd would wait for itself: munmap, mremap, madvise(DONTNEED) and mmap(FIXED) over a
// registered range are the agent's. Reading application memory in the service thread would fault to itself:
// AddressSpace::read does not.
#pragma once

// SPDX-License-Identifier: Apache-2.0
// Which lock guards what, in words that clang's thread-safety analysis checks (-Wthread-safety; preset `clang`). Other
// compilers see nothing. The locks of base/mutex.h and base/futex_lock.h carry them; the standard library's do not.
//   https://releases.llvm.org/15.0.0/tools/clang/docs/ThreadSafetyAnalysis.html
#pragma once

#ifdef __clang__
#define MIRRORCL_THREAD_ANNOTATION(attribute) __attribute__((attribute))
#else
#define MIRRORCL_THREAD_ANNOTATION(attribute)
#endif

// A type whose objects are locks, and one whose objects hold a lock as long as they live.
#define MIRRORCL_LOCK_TYPE(name) MIRRORCL_THREAD_ANNOTATION(capability(name))
#define MIRRORCL_SCOPED_LOCK_TYPE MIRRORCL_THREAD_ANNOTATION(scoped_lockable)

// Of a variable: read only by who holds `lock`, written only by who holds it exclusively.
#define MIRRORCL_GUARDED_BY(lock) MIRRORCL_THREAD_ANNOTATION(guarded_by(lock))

// Of a function: what its caller holds, or must not hold.
#define MIRRORCL_REQUIRES(...) MIRRORCL_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define MIRRORCL_REQUIRES_SHARED(...) MIRRORCL_THREAD_ANNOTATION(requires_shared_capability(__VA_ARGS__))
#define MIRRORCL_EXCLUDES(...) MIRRORCL_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))

// Of a function: what it takes, or lets go of; without a name the object itself.
#define MIRRORCL_ACQUIRE(...) MIRRORCL_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define MIRRORCL_ACQUIRE_SHARED(...) MIRRORCL_THREAD_ANNOTATION(acquire_shared_capability(__VA_ARGS__))
#define MIRRORCL_TRY_ACQUIRE(...) MIRRORCL_THREAD_ANNOTATION(try_acquire_capability(__VA_ARGS__))
#define MIRRORCL_RELEASE(...) MIRRORCL_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define MIRRORCL_RELEASE_SHARED(...) MIRRORCL_THREAD_ANNOTATION(release_shared_capability(__VA_ARGS__))

// Of a function that returns a reference to `lock`.
#define MIRRORCL_RETURNS_LOCK(lock) MIRRORCL_THREAD_ANNOTATION(lock_returned(lock))

// Of a function that the analysis cannot follow; the reason stands beside it.
#define MIRRORCL_NO_THREAD_ANALYSIS MIRRORCL_THREAD_ANNOTATION(no_thread_safety_analysis)

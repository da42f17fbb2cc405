// SPDX-License-Identifier: Apache-2.0
// The little that musl's snprintf, string and mathematical functions expect from a C library around them: a place for
// errno in the thread structure at the FS base, which units and control thread have. (Musl's own start, threads and
// system calls are not linked.)
namespace {

// Behind the self pointer, in the room that unit.h and startup.cpp keep for musl.
int* error_number() noexcept {
  char* self;
  asm("movq %%fs:0, %0" : "=r"(self));
  return reinterpret_cast<int*>(self + 64);
}

}  // namespace

extern "C" {
int* __errno_location() {
  return error_number();
}
int* ___errno_location() {
  return error_number();
}
}

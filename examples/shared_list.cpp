// SPDX-License-Identifier: Apache-2.0
// A linked list of 100,000 nodes made with `new`, walked and changed by a kernel, then by the CPU, then by a kernel
// again. The kernel is given one pointer; all others it finds in the nodes. Its result lies in a local variable of
// main().
#include <cstdint>
#include <cstdio>

#include "examples/opencl.h"

namespace {

struct Node {
  Node* next;
  std::int64_t value;
};

// Adds 1 to every value, turns the list around, leaves the new head and the sum behind.
const char* const kSource = R"(
  struct Node { global struct Node* next; long value; };
  kernel void reverse(global struct Node* head, global ulong* new_head, global long* sum) {
    global struct Node* done = 0;
    *sum = 0;
    while (head != 0) {
      global struct Node* next = head->next;
      *sum += ++head->value;
      head->next = done;
      done = head;
      head = next;
    }
    *new_head = (ulong)done;
  })";

constexpr std::int64_t kNodes = 100'000;
constexpr std::int64_t kSum = kNodes * (kNodes - 1) / 2;  // of the values 0, 1, 2, ...

}  // namespace

int main() {
  example::OpenCl cl = example::open_mirrorcl();
  cl_kernel kernel = example::build_kernel(cl, kSource, "reverse");

  Node* head = nullptr;
  for (std::int64_t value = 0; value < kNodes; value++) head = new Node{head, value};
  Node* const last = head;
  std::int64_t sum = 0;

  example::launch(cl, kernel, 1, {head, &head, &sum});
  example::check(clFinish(cl.queue), "clFinish");
  example::expect(sum == kSum + kNodes, "sum after the first kernel");
  example::expect(head->value == 1, "the kernel turned the list around");
  std::printf("A kernel walked a list of %lld nodes made with new and added 1 to each: sum %lld.\n",
              static_cast<long long>(kNodes), static_cast<long long>(sum));

  std::int64_t nodes = 0;
  std::int64_t before = -1;
  sum = 0;
  for (Node* node = head; node != nullptr; node = node->next) {
    example::expect(node->value == before + (nodes == 0 ? 2 : 1), "values in the order that the kernel left");
    before = node->value;
    sum += node->value += 10;
    nodes++;
  }
  example::expect(nodes == kNodes, "number of nodes that the CPU meets");
  example::expect(sum == kSum + 11 * kNodes, "sum after the CPU");
  std::printf("The CPU walked it the other way, as the kernel left it, and added 10 to each: sum %lld.\n",
              static_cast<long long>(sum));

  example::launch(cl, kernel, 1, {head, &head, &sum});
  example::check(clFinish(cl.queue), "clFinish");
  example::expect(sum == kSum + 12 * kNodes, "sum after the second kernel");
  example::expect(head == last, "the kernel turned the list around again");
  std::printf("A kernel walked it again and added 1 to each: sum %lld. Nothing was copied or registered by hand.\n",
              static_cast<long long>(sum));

  while (head != nullptr) {
    Node* next = head->next;
    delete head;
    head = next;
  }
  example::close(cl, kernel);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
// Pointers that kernels find in memory: lists, trees and tables built with new and std containers, never passed as
// arguments. OpenCL 3.0 API, section 5.6: pointers are the same on host and devices; with fine-grain system SVM no
// clSetKernelExecInfo is needed, and CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM may be set.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

using Structures = SystemMemoryTest;

struct Node {
  Node* next;
  cl_long value;
};

constexpr const char* kListKernels = R"(
struct Node { global struct Node *next; long value; };
kernel void walk(global struct Node *head, global long *sum, long change) {
  long total = 0;
  for (global struct Node *n = head; n; n = n->next) { total += n->value; n->value += change; }
  *sum = total;
}
// Builds a list in reverse: each work-group of one item appends nothing but links the nodes that it is given.
kernel void reverse(global struct Node *head, global ulong *new_head) {
  global struct Node *previous = 0;
  while (head) { global struct Node *next = head->next; head->next = previous; previous = head; head = next; }
  *new_head = (ulong)previous;
})";

std::vector<std::unique_ptr<Node>> scattered_list(std::size_t count) {
  std::vector<std::unique_ptr<Node>> nodes;
  for (std::size_t i = 0; i < count; ++i)
    nodes.push_back(std::make_unique<Node>(Node{nullptr, static_cast<cl_long>(i)}));
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::shuffle(order.begin() + 1, order.end(), std::minstd_rand(7));
  for (std::size_t i = 0; i + 1 < count; ++i) nodes[order[i]]->next = nodes[order[i + 1]].get();
  return nodes;
}

TEST_F(Structures, LinkedListOfNewedNodesWalkedByBothSides) {
  constexpr std::size_t kNodes = 20'000;
  auto nodes = scattered_list(kNodes);
  Kernel kernel = build(kListKernels, "walk");
  ASSERT_TRUE(kernel);
  auto sum = std::make_unique<cl_long>(0);
  auto expected = static_cast<cl_long>(kNodes * (kNodes - 1) / 2);
  for (int round = 0; round < 3; ++round) {
    run(kernel, 1, nodes[0].get(), sum.get(), cl_long{2});
    EXPECT_EQ(*sum, expected);
    expected += 2 * static_cast<cl_long>(kNodes);
    cl_long seen = 0;
    for (Node* n = nodes[0].get(); n != nullptr; n = n->next) {
      seen += n->value;
      n->value += 1;
    }
    EXPECT_EQ(seen, expected);
    expected += static_cast<cl_long>(kNodes);
  }
}

TEST_F(Structures, ListReversedByTheDevice) {
  constexpr std::size_t kNodes = 5'000;
  auto nodes = scattered_list(kNodes);
  std::vector<cl_long> forward;
  for (Node* n = nodes[0].get(); n != nullptr; n = n->next) forward.push_back(n->value);
  Kernel kernel = build(kListKernels, "reverse");
  ASSERT_TRUE(kernel);
  auto head = std::make_unique<cl_ulong>(0);
  run(kernel, 1, nodes[0].get(), head.get());
  std::vector<cl_long> backward;
  for (auto* n = reinterpret_cast<Node*>(*head); n != nullptr && backward.size() <= kNodes; n = n->next) {
    backward.push_back(n->value);
  }
  EXPECT_EQ(std::vector<cl_long>(forward.rbegin(), forward.rend()), backward);
}

TEST_F(Structures, TableOfPointersIntoStackHeapAndGlobals) {
  static int global_word = 30;  // .data: read only
  static int zero_word;
  int stack_word = 10;
  auto heap_word = std::make_unique<int>(20);
  const int* table[] = {&stack_word, heap_word.get(), &global_word, &zero_word};
  Kernel kernel = build(R"(
kernel void gather(global const ulong *table, global int *out) {
  out[get_global_id(0)] = *(global const int *)table[get_global_id(0)] + 1;
})",
                        "gather");
  ASSERT_TRUE(kernel);
  int out[4] = {};
  run(kernel, 4, static_cast<const int**>(table), static_cast<int*>(out));
  EXPECT_EQ(out[0], 11);
  EXPECT_EQ(out[1], 21);
  EXPECT_EQ(out[2], 31);
  EXPECT_EQ(out[3], 1);
}

TEST_F(Structures, VectorOfVectors) {
  std::vector<std::vector<int>> rows;
  for (int r = 0; r < 100; ++r) rows.emplace_back(static_cast<std::size_t>(r * 13 % 50 + 1), r);
  struct Row {
    const int* data;
    cl_ulong count;
  };
  std::vector<Row> table;
  for (const auto& row : rows) table.push_back({row.data(), row.size()});
  Kernel kernel = build(R"(
struct Row { global const int *data; ulong count; };
kernel void row_sums(global const struct Row *rows, global int *sums) {
  size_t r = get_global_id(0);
  int total = 0;
  for (ulong i = 0; i < rows[r].count; ++i) total += rows[r].data[i];
  sums[r] = total;
})",
                        "row_sums");
  ASSERT_TRUE(kernel);
  std::vector<int> sums(rows.size());
  run(kernel, rows.size(), table.data(), sums.data());
  for (std::size_t r = 0; r < rows.size(); ++r) EXPECT_EQ(sums[r], std::accumulate(rows[r].begin(), rows[r].end(), 0));
}

struct TreeNode {
  int key;
  std::unique_ptr<TreeNode> left, right;
};

void insert(std::unique_ptr<TreeNode>& at, int key) {
  if (at == nullptr) {
    at = std::make_unique<TreeNode>();
    at->key = key;
  } else {
    insert(key < at->key ? at->left : at->right, key);
  }
}

TEST_F(Structures, TreeOfUniquePointersSearchedByManyWorkItems) {
  static_assert(sizeof(std::unique_ptr<TreeNode>) == sizeof(void*));
  std::unique_ptr<TreeNode> root;
  std::minstd_rand random(3);
  for (int i = 0; i < 3000; ++i) insert(root, static_cast<int>(random() % 10000));
  std::vector<int> keys(10000), found(10000);
  std::iota(keys.begin(), keys.end(), 0);
  Kernel kernel = build(R"(
struct Tree { int key; global struct Tree *left, *right; };
kernel void search(global struct Tree *root, global const int *keys, global int *found) {
  size_t i = get_global_id(0);
  global struct Tree *t = root;
  while (t && t->key != keys[i]) t = keys[i] < t->key ? t->left : t->right;
  found[i] = t != 0;
})",
                        "search");
  ASSERT_TRUE(kernel);
  run(kernel, keys.size(), root.get(), keys.data(), found.data());
  for (int key : keys) {
    const TreeNode* t = root.get();
    while (t != nullptr && t->key != key) t = key < t->key ? t->left.get() : t->right.get();
    ASSERT_EQ(found[static_cast<std::size_t>(key)], t != nullptr) << key;
  }
}

TEST_F(Structures, ExecInfoForSystemPointersIsAccepted) {
  Kernel kernel = build(kListKernels, "walk");
  ASSERT_TRUE(kernel);
  // Section 5.9.2, clSetKernelExecInfo.
  cl_bool system = CL_TRUE;
  EXPECT_CL(CL_SUCCESS,
            clSetKernelExecInfo(kernel.get(), CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM, sizeof system, &system));
  Node tail{nullptr, 4}, head{&tail, 3};
  void* pointers[] = {&tail};
  EXPECT_CL(CL_SUCCESS, clSetKernelExecInfo(kernel.get(), CL_KERNEL_EXEC_INFO_SVM_PTRS, sizeof pointers, pointers));
  cl_long sum = 0;
  run(kernel, 1, &head, &sum, cl_long{0});
  EXPECT_EQ(sum, 7);
  EXPECT_CL(CL_INVALID_VALUE, clSetKernelExecInfo(kernel.get(), CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM, 1, &system));
  EXPECT_CL(CL_INVALID_VALUE, clSetKernelExecInfo(kernel.get(), 0x1234, sizeof system, &system));
}

}  // namespace
}  // namespace mirrorcl::conformance

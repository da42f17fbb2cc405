// SPDX-License-Identifier: Apache-2.0
#include "hms/reference_machine.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace mirrorcl::hms {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint32_t kCpusPerComplex = 8;

Properties figures(double gigabytes_per_s, std::uint64_t latency_ns) {
  Properties properties;
  properties.set(Property::kBandwidth, {mib_per_s(gigabytes_per_s), Source::kConfigured});
  properties.set(Property::kLatency, {latency_ns, Source::kConfigured});
  return properties;
}

// Builds the machine step by step; nothing that it adds can be refused.
class Builder {
 public:
  Topology build() {
    topology_.info["name"] = "reference machine of the HMS proposal";
    for (std::uint32_t node = 0; node < 2; ++node) add_cpus(node);
    for (std::uint32_t gpu = 0; gpu < 4; ++gpu) add_gpu(gpu);
    for (std::uint32_t node = 0; node < 2; ++node) link_node(node);
    for (std::uint32_t gpu = 0; gpu < 4; ++gpu) link_gpu(gpu);
    bridge_nodes();
    return std::move(topology_);
  }

 private:
  struct Node {
    std::array<Uid, 2> complexes, hbm, hbm_links;
    Uid ddr, ddr_link, pcie_link;
    std::vector<Uid> gpus;
    std::vector<Uid> cpus() const { return {complexes[0], complexes[1]}; }
  };

  static IdSet cpus_of(std::uint32_t node, std::uint32_t complex) {
    const std::uint32_t first = (node * 2 + complex) * kCpusPerComplex;
    return IdSet::range(first, first + kCpusPerComplex - 1);
  }

  void add_cpus(std::uint32_t n) {
    Node& node = nodes_[n];
    const auto package = static_cast<std::int32_t>(n);
    for (std::uint32_t c = 0; c < 2; ++c) {
      Initiator complex;
      complex.name = fmt::format("cx{}{}", n, c);
      complex.node = package;
      complex.package = package;
      complex.cpus = cpus_of(n, c);
      node.complexes[c] = *topology_.add(complex);
    }
    Target ddr;
    ddr.name = fmt::format("ddr{}", n);
    ddr.parent = fmt::format("node{}", n);
    ddr.node = package;
    ddr.package = package;
    ddr.tier = 1;
    ddr.size = 256 * kGiB;
    ddr.free = 200 * kGiB;
    ddr.cpus = cpus_of(n, 0);
    ddr.cpus |= cpus_of(n, 1);
    node.ddr = *topology_.add(ddr);
    for (std::uint32_t c = 0; c < 2; ++c) {
      Target hbm;
      hbm.name = fmt::format("hbm{}{}", n, c);
      hbm.kind = MemoryKind::kHbm;
      hbm.node = static_cast<std::int32_t>(2 + 2 * n + c);
      hbm.parent = fmt::format("node{}", hbm.node);
      hbm.package = package;
      hbm.tier = 0;
      hbm.size = 16 * kGiB;
      hbm.free = 15 * kGiB;
      hbm.cpus = cpus_of(n, c);
      node.hbm[c] = *topology_.add(hbm);
    }
  }

  void add_gpu(std::uint32_t g) {
    Initiator gpu;
    gpu.name = fmt::format("gpu{}", g);
    gpu.kind = InitiatorKind::kDevice;
    gpu.device = gpu.name;
    gpu.node = static_cast<std::int32_t>(g / 2);
    gpu.package = gpu.node;
    gpu.cpus = cpus_of(g / 2, 0);
    gpu.cpus |= cpus_of(g / 2, 1);
    gpus_[g] = *topology_.add(gpu);
    nodes_[g / 2].gpus.push_back(gpus_[g]);
    hbm_[g] = add_gpu_memory(gpu, "hbm", 16 * kGiB);
    gddr_[g] = add_gpu_memory(gpu, "gddr", 32 * kGiB);
  }

  Uid add_gpu_memory(const Initiator& gpu, const char* what, std::uint64_t size) {
    Target memory;
    memory.name = fmt::format("{}-{}", gpu.name, what);
    memory.kind = MemoryKind::kDevice;
    memory.device = gpu.device;
    memory.package = gpu.package;
    memory.size = size;
    memory.free = size;
    return *topology_.add(memory);
  }

  Uid add_link(std::string name, std::vector<Uid> initiators, std::vector<Uid> targets, Properties properties,
               bool coherent = true) {
    Link link;
    link.name = std::move(name);
    link.initiators = std::move(initiators);
    link.targets = std::move(targets);
    link.properties = properties;
    link.coherent = link.atomic = coherent;
    return *topology_.add(link);
  }

  void add_bridge(std::string name, Uid from, Uid to, bool both_ways, std::vector<Uid> initiators,
                  Properties properties) {
    Bridge bridge;
    bridge.name = std::move(name);
    bridge.from = from;
    bridge.to = to;
    bridge.both_ways = both_ways;
    bridge.initiators = std::move(initiators);
    bridge.properties = properties;
    static_cast<void>(*topology_.add(bridge));
  }

  void link_node(std::uint32_t n) {
    Node& node = nodes_[n];
    for (std::uint32_t c = 0; c < 2; ++c) {
      node.hbm_links[c] =
          add_link(fmt::format("hbm{}{}-link", n, c), {node.complexes[c]}, {node.hbm[c]}, figures(200, 120));
    }
    node.ddr_link = add_link(fmt::format("ddr{}-link", n), node.cpus(), {node.ddr}, figures(90, 90));
    std::vector<Uid> on_pcie = node.cpus();
    on_pcie.insert(on_pcie.end(), node.gpus.begin(), node.gpus.end());
    node.pcie_link = add_link(fmt::format("pcie{}", n), on_pcie, {}, figures(60, 500), false);
    add_bridge(fmt::format("complexes{}", n), node.hbm_links[0], node.hbm_links[1], true, node.cpus(),
               figures(100, 40));
  }

  // The CPUs of its node come from PCIe, the other GPUs over their own link.
  void link_gpu(std::uint32_t g) {
    const Node& node = nodes_[g / 2];
    const Uid hbm_link = add_link(fmt::format("gpu{}-hbm-link", g), {gpus_[g]}, {hbm_[g]}, figures(1000, 100));
    const Uid gddr_link = add_link(fmt::format("gpu{}-gddr-link", g), {gpus_[g]}, {gddr_[g]}, figures(500, 150));
    add_bridge(fmt::format("pcie-gddr{}", g), node.pcie_link, gddr_link, false, all_cpus(), figures(60, 10));
    if (gpu_link_ == kNoUid) gpu_link_ = add_link("gpu-link", {gpus_.begin(), gpus_.end()}, {}, figures(400, 300));
    std::vector<Uid> peers(gpus_.begin(), gpus_.end());
    std::erase(peers, gpus_[g]);
    add_bridge(fmt::format("peer-hbm{}", g), gpu_link_, hbm_link, false, peers, figures(400, 10));
    add_bridge(fmt::format("peer-gddr{}", g), gpu_link_, gddr_link, false, peers, figures(400, 10));
  }

  void bridge_nodes() {
    std::vector<Uid> everybody = all_cpus();
    everybody.insert(everybody.end(), gpus_.begin(), gpus_.end());
    add_bridge("interconnect", nodes_[0].ddr_link, nodes_[1].ddr_link, true, everybody, figures(50, 60));
    for (std::uint32_t n = 0; n < 2; ++n) {
      const Node& node = nodes_[n];
      const std::vector<Uid> visitors = nodes_[1 - n].cpus();
      for (std::uint32_t c = 0; c < 2; ++c) {
        add_bridge(fmt::format("visitors-hbm{}{}", n, c), node.ddr_link, node.hbm_links[c], false, visitors,
                   figures(100, 40));
      }
      add_bridge(fmt::format("visitors-pcie{}", n), node.ddr_link, node.pcie_link, false, visitors, figures(60, 40));
      add_bridge(fmt::format("pcie-ddr{}", n), node.pcie_link, node.ddr_link, false, node.gpus, figures(60, 40));
    }
  }

  std::vector<Uid> all_cpus() const {
    return {nodes_[0].complexes[0], nodes_[0].complexes[1], nodes_[1].complexes[0], nodes_[1].complexes[1]};
  }

  Topology topology_;
  std::array<Node, 2> nodes_{};
  std::array<Uid, 4> gpus_{}, hbm_{}, gddr_{};
  Uid gpu_link_ = kNoUid;
};

}  // namespace

Topology reference_machine() {
  return Builder().build();
}

}  // namespace mirrorcl::hms

// SPDX-License-Identifier: Apache-2.0
#include "hms/render.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hms/reference_machine.h"
#include "hms/test_machines.h"

namespace mirrorcl::hms {
namespace {

std::size_t count(const std::string& text, const std::string& piece) {
  std::size_t n = 0;
  for (std::size_t at = text.find(piece); at != std::string::npos; at = text.find(piece, at + 1)) ++n;
  return n;
}

// Whether every tag is closed in its order, and no '<' or '&' stands where it may not. Enough for what the library
// writes.
bool is_well_formed(const std::string& xml) {
  std::vector<std::string> open;
  for (std::size_t at = 0; at < xml.size(); ++at) {
    if (xml[at] == '&') {
      const std::size_t end = xml.find(';', at);
      if (end == std::string::npos || end - at > 5) return false;
    }
    if (xml[at] == '>') return false;
    if (xml[at] != '<') continue;
    const std::size_t end = xml.find_first_of("<>", at + 1);
    if (end == std::string::npos || xml[end] != '>') return false;
    const std::string tag = xml.substr(at + 1, end - at - 1);
    if (tag.empty() || count(tag, "\"") % 2 != 0) return false;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    at = end;
  }
  return open.empty();
}

Topology with_strange_names() {
  Topology machine = reference_machine();
  Target odd;
  odd.name = "<odd> & \"quoted\" \\ \n name";
  static_cast<void>(*machine.add(odd));
  return machine;
}

TEST(Render, TextNamesEverythingAndWhatIsBest) {
  const std::string text = to_text(reference_machine(), 3);
  EXPECT_NE(text.find("package 1\n"), std::string::npos);
  EXPECT_NE(text.find("  memory hbm10     uid 8    hbm    16.0 GiB, 15.0 GiB free, tier 0\n"), std::string::npos);
  EXPECT_NE(text.find("  device gpu3 uid 19, near CPUs 16-31\n"
                      "    -> gpu3-hbm   931.3 GiB/s configured       100 ns configured local\n"),
            std::string::npos);
  EXPECT_NE(text.find("    ... and 7 more; see 'hms best cx00'\n"), std::string::npos);
}

TEST(Render, DotHasAllObjects) {
  const Topology machine = reference_machine();
  const std::string dot = to_dot(machine);
  EXPECT_EQ(count(dot, "shape=box"), machine.targets().size());
  EXPECT_EQ(count(dot, "shape=ellipse"), machine.initiators().size());
  EXPECT_EQ(count(dot, "shape=plaintext"), machine.links().size());
  EXPECT_EQ(count(dot, "style=dashed, constraint"), machine.bridges().size());
  EXPECT_NE(dot.find("label=\"hbm00\\nhbm 16.0 GiB\""), std::string::npos);
  EXPECT_NE(to_dot(with_strange_names()).find("label=\"<odd> & \\\"quoted\\\" \\\\ \\n name\\ndram"),
            std::string::npos);
}

TEST(Render, SvgIsWellFormedAndHasAllObjects) {
  const Topology machine = with_strange_names();
  const std::string svg = to_svg(machine);
  EXPECT_TRUE(is_well_formed(svg));
  EXPECT_EQ(count(svg, "<rect x="), machine.targets().size() + machine.initiators().size());
  EXPECT_EQ(count(svg, "<title>"), machine.links().size() + machine.bridges().size());
  EXPECT_NE(svg.find("&lt;odd&gt; &amp; &quot;quoted&quot; \\   name"), std::string::npos);
  EXPECT_TRUE(is_well_formed(to_svg(Topology{})));
  EXPECT_TRUE(is_well_formed(to_svg(many_nodes(64))));
  EXPECT_FALSE(is_well_formed("<a><b></a></b>"));
  EXPECT_FALSE(is_well_formed("<a>&</a>"));
}

TEST(Render, ChoosesUnits) {
  EXPECT_EQ(bytes_text(0), "0 bytes");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text(std::uint64_t{3} << 40), "3.0 TiB");
  EXPECT_EQ(bandwidth_text(238), "238 MiB/s");
  EXPECT_EQ(bandwidth_text(90000), "87.9 GiB/s");
  EXPECT_EQ(figure_text(Property::kLatency, {26, Source::kFirmware}), "26 ns");
  EXPECT_EQ(figure_text(Property::kBusWidth, {16, Source::kFirmware}), "16 bits");
}

}  // namespace
}  // namespace mirrorcl::hms

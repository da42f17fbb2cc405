// SPDX-License-Identifier: Apache-2.0
// to_svg() of render.h. Coordinates are pixels from the upper left corner.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "hms/render.h"

namespace mirrorcl::hms {
namespace {

constexpr int kBoxHeight = 46;
constexpr int kBoxGap = 18;
constexpr int kMargin = 20;
constexpr int kPortGap = 9;  // between the ends of two links on a box
constexpr int kLaneHeight = 26;
constexpr int kBridgeGap = 34;  // between two bridges
constexpr int kCharacter = 7;   // width, on average

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        // Control characters are not allowed in XML at all.
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return result;
}

const char* fill_of(MemoryKind kind) {
  constexpr const char* kColors[] = {"#cfe2f3", "#f9cb9c", "#d9d2e9", "#d9ead3", "#fff2cc", "#f4cccc", "#eeeeee"};
  return kColors[static_cast<std::size_t>(kind)];
}

// The colour says where the bandwidth comes from, or the latency if there is none.
const char* stroke_of(const Properties& properties) {
  constexpr const char* kColors[] = {"#999999", "#1f5fae", "#2e7d32", "#333333"};
  const auto bandwidth = properties.bandwidth(), latency = properties.latency();
  const Source source = bandwidth ? bandwidth->source : latency ? latency->source : Source::kAssumed;
  return kColors[static_cast<std::size_t>(source)];
}

std::string figures_of(const Properties& properties) {
  const auto sign = [](const Value& value) { return value.source == Source::kAssumed ? "~" : ""; };
  std::string text;
  if (const auto bandwidth = properties.bandwidth()) text = sign(*bandwidth) + bandwidth_text(bandwidth->number);
  if (const auto latency = properties.latency()) {
    text += fmt::format("{}{}{} ns", text.empty() ? "" : ", ", sign(*latency), latency->number);
  }
  return text.empty() ? "no figures" : text;
}

struct Box {
  int left = 0;
  int width = 0;
  int ports = 0;       // links on it
  int used_ports = 0;  // of these, drawn
  int next_port() { return left + width * ++used_ports / (ports + 1); }
};

struct Lane {
  int left = 0;
  int right = 0;
  int row = 0;
};

class Drawing {
 public:
  explicit Drawing(const Topology& topology) : topology_(topology) {}

  std::string draw() {
    count_ports();
    const int boxes_right = place_boxes();
    place_links(boxes_right);
    place_bridges(boxes_right);
    pack_lanes();
    draw_links();
    draw_bridges();
    draw_boxes();
    const int legend = initiators_top() + kBoxHeight + 30;
    draw_legend(legend);
    return fmt::format(
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
               "font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
               std::max(right_, 640) + kMargin, legend + kMargin) +
           body_ + "</svg>\n";
  }

 private:
  template <typename... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(body_), format, std::forward<Args>(args)...);
    body_ += '\n';
  }

  void count_ports() {
    for (const Link& link : topology_.links()) {
      for (const Uid uid : link.targets) ++boxes_[uid].ports;
      for (const Uid uid : link.initiators) ++boxes_[uid].ports;
    }
  }

  static std::string second_line(const Target& target) {
    return fmt::format("{} {}", name_of(target.kind), bytes_text(target.size));
  }
  static std::string second_line(const Initiator& initiator) {
    if (initiator.kind == InitiatorKind::kCpu) return fmt::format("{} CPUs", initiator.cpus.count());
    return std::string(name_of(initiator.kind));
  }

  // Package after package, memories above initiators. Returns where the last one ends.
  int place_boxes() {
    std::set<std::uint32_t> packages;  // -1, outside packages, comes last
    for (const Target& target : topology_.targets()) packages.insert(static_cast<std::uint32_t>(target.package));
    for (const Initiator& initiator : topology_.initiators()) {
      packages.insert(static_cast<std::uint32_t>(initiator.package));
    }
    int left = kMargin;
    for (const auto package : packages) {
      left = std::max(place(topology_.targets(), package, left), place(topology_.initiators(), package, left));
    }
    return left;
  }

  template <typename T>
  int place(std::span<const T> objects, std::uint32_t package, int left) {
    for (const T& object : objects) {
      if (static_cast<std::uint32_t>(object.package) != package) continue;
      Box& box = boxes_[object.uid];
      const auto characters = std::max(object.name.size(), second_line(object).size());
      box.left = left;
      box.width = std::max(
          {70, static_cast<int>(std::min<std::size_t>(characters, 60)) * kCharacter + 12, (box.ports + 1) * kPortGap});
      left += box.width + kBoxGap;
    }
    return left;
  }

  void place_links(int boxes_right) {
    for (const Link& link : topology_.links()) {
      Ends& ends = ends_[link.uid];
      for (const Uid uid : link.targets) ends.up.push_back(boxes_.at(uid).next_port());
      for (const Uid uid : link.initiators) ends.down.push_back(boxes_.at(uid).next_port());
      Lane& lane = lanes_[link.uid];
      lane.left = boxes_right;
      lane.right = 0;
      for (const auto& side : {ends.up, ends.down}) {
        for (const int x : side) {
          lane.left = std::min(lane.left, x);
          lane.right = std::max(lane.right, x);
        }
      }
      lane.right = std::max(lane.right, lane.left);
    }
  }

  void place_bridges(int boxes_right) {
    int x = boxes_right + kBridgeGap;
    for (const Bridge& bridge : topology_.bridges()) {
      bridge_x_[bridge.uid] = x;
      for (const Uid link : {bridge.from, bridge.to}) lanes_[link].right = std::max(lanes_[link].right, x);
      x += kBridgeGap;
    }
    right_ = x;
  }

  // Links share a row where they and their labels do not overlap; narrow ones first.
  void pack_lanes() {
    std::vector<std::pair<Uid, Lane*>> ordered;
    for (auto& [uid, lane] : lanes_) ordered.emplace_back(uid, &lane);
    std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
      return a.second->right - a.second->left < b.second->right - b.second->left;
    });
    std::vector<std::vector<std::pair<int, int>>> rows;
    for (auto& [uid, lane] : ordered) {
      const auto label = static_cast<int>(figures_of(topology_.link(uid)->properties).size()) * kCharacter;
      const int left = lane->left - 6, right = std::max(lane->right, lane->left + label + 8) + 6;
      right_ = std::max(right_, right);
      const auto fits = [&](const std::vector<std::pair<int, int>>& row) {
        return std::none_of(row.begin(), row.end(), [&](const auto& r) { return left < r.second && r.first < right; });
      };
      auto row = std::find_if(rows.begin(), rows.end(), fits);
      if (row == rows.end()) row = rows.insert(rows.end(), std::vector<std::pair<int, int>>());
      row->emplace_back(left, right);
      lane->row = static_cast<int>(row - rows.begin());
    }
    rows_ = static_cast<int>(rows.size());
  }

  static constexpr int targets_top() { return kMargin; }
  static int row_y(int row) { return targets_top() + kBoxHeight + 34 + row * kLaneHeight; }
  int initiators_top() const { return row_y(rows_) + 4; }

  void draw_links() {
    for (const Link& link : topology_.links()) {
      const Lane& lane = lanes_.at(link.uid);
      const char* color = stroke_of(link.properties);
      const int y = row_y(lane.row);
      put("<g stroke=\"{}\" fill=\"{}\"><title>{}</title>", color, color, escaped(link.name));
      put("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke-width=\"3\"/>", lane.left - 2, y, lane.right + 2, y);
      const auto drop = [&](int x, int end) {
        put("<line x1=\"{0}\" y1=\"{1}\" x2=\"{0}\" y2=\"{2}\"/><circle cx=\"{0}\" cy=\"{1}\" r=\"3\"/>", x, y, end);
      };
      for (const int x : ends_.at(link.uid).up) drop(x, targets_top() + kBoxHeight);
      for (const int x : ends_.at(link.uid).down) drop(x, initiators_top());
      put("</g>");
      labels_ += fmt::format(
          "<text x=\"{}\" y=\"{}\" fill=\"{}\" stroke=\"white\" stroke-width=\"4\" paint-order=\"stroke\">{}</text>\n",
          lane.left + 6, y - 5, color, escaped(figures_of(link.properties)));
    }
  }

  void draw_bridges() {
    for (const Bridge& bridge : topology_.bridges()) {
      const int x = bridge_x_.at(bridge.uid);
      const int from = row_y(lanes_.at(bridge.from).row), to = row_y(lanes_.at(bridge.to).row);
      const char* color = stroke_of(bridge.properties);
      put("<g stroke=\"{}\" fill=\"{}\"><title>{}</title>", color, color, escaped(bridge.name));
      put("<line x1=\"{0}\" y1=\"{1}\" x2=\"{0}\" y2=\"{2}\" stroke-dasharray=\"5,3\" stroke-width=\"2\"/>", x, from,
          to);
      draw_arrow(x, to, to > from ? -1 : 1);
      if (bridge.both_ways) {
        draw_arrow(x, from, from > to ? -1 : 1);
      } else {
        put("<circle cx=\"{}\" cy=\"{}\" r=\"3\"/>", x, from);
      }
      put("</g>");
      labels_ += fmt::format(
          "<text transform=\"translate({},{}) rotate(-90)\" font-size=\"10\" fill=\"{}\" stroke=\"white\" "
          "stroke-width=\"4\" "
          "paint-order=\"stroke\">{}</text>\n",
          x - 5, std::max(from, to) - 4, color, escaped(figures_of(bridge.properties)));
    }
    body_ += labels_;
  }

  // Its tip on the link at `y`; `direction` is where it comes from: -1 above, 1 below.
  void draw_arrow(int x, int y, int direction) { put("<path d=\"M {0} {1} l -4 {2} h 8 z\"/>", x, y, direction * 9); }

  template <typename T>
  void draw_box(const T& object, int top, const char* fill, bool dashed, int corner) {
    const Box& box = boxes_.at(object.uid);
    put("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"{}\" fill=\"{}\" stroke=\"#333333\"{}/>", box.left,
        top, box.width, kBoxHeight, corner, fill, dashed ? " stroke-dasharray=\"4,3\"" : "");
    put("<text x=\"{0}\" y=\"{1}\" text-anchor=\"middle\" font-weight=\"bold\">{2}</text>"
        "<text x=\"{0}\" y=\"{3}\" text-anchor=\"middle\">{4}</text>",
        box.left + box.width / 2, top + 19, escaped(object.name), top + 35, escaped(second_line(object)));
  }

  void draw_boxes() {
    for (const Target& target : topology_.targets()) {
      draw_box(target, targets_top(), fill_of(target.kind), !target.online, 2);
    }
    for (const Initiator& initiator : topology_.initiators()) {
      draw_box(initiator, initiators_top(), "#ffffff", false, 16);
    }
  }

  void draw_legend(int y) {
    put("<text x=\"{}\" y=\"{}\" font-size=\"10\" fill=\"#555555\">links: <tspan fill=\"#333333\">configured</tspan>, "
        "<tspan fill=\"#2e7d32\">measured</tspan>, <tspan fill=\"#1f5fae\">firmware</tspan>, "
        "<tspan fill=\"#999999\">assumed</tspan> bandwidth, ~: assumed; dashed: bridges, offline memory</text>",
        kMargin, y);
  }

  struct Ends {
    std::vector<int> up, down;
  };

  const Topology& topology_;
  std::map<Uid, Box> boxes_;
  std::map<Uid, Ends> ends_;
  std::map<Uid, Lane> lanes_;
  std::map<Uid, int> bridge_x_;
  int rows_ = 0;
  int right_ = 0;
  std::string body_;
  std::string labels_;  // above all lines
};

}  // namespace

std::string to_svg(const Topology& topology) {
  return Drawing(topology).draw();
}

}  // namespace mirrorcl::hms

#include "node/commands/actor_tree.hpp"

#include "node/commands/answer_field.hpp"
#include "node/commands/text_table.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace posthorn {
namespace {

namespace json = boost::json;

// Escape sequences that stay readable on a dark and on a light background.
constexpr std::string_view plain = "\x1b[0m", bold = "\x1b[1m", faint = "\x1b[2m", red = "\x1b[31m",
                           yellow = "\x1b[33m";

struct node {
  std::string name, kind, state, restarts, mailbox;
  bool is_supervisor = false;
  std::uint64_t children_count = 0;  // there are; not all of them need be in `children`
  std::vector<std::size_t> children;
};

struct line {
  std::string branch;  // what the tree draws before the name
  std::string name;
  const node* of = nullptr;  // null: it only says how many more there are
};

std::string parent_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::vector<node> nodes_of(const json::array& actors) {
  std::vector<node> out;
  std::unordered_map<std::string, std::size_t> place_of;
  for (const auto& actor : actors) {
    const auto path = text_at(actor, "path");
    if (path.empty() || path.front() != '/') continue;
    node made;
    made.name = printable(out.empty() ? path : path.substr(path.rfind('/') + 1));
    made.kind = printable(text_at(actor, "kind"));
    made.state = printable(text_at(actor, "state"));
    made.restarts = with_thousands(number_at(actor, "restarts"));
    made.mailbox =
        part(actor, "mailbox_depth").is_null() ? "-" : with_thousands(number_at(actor, "mailbox_depth"));
    made.is_supervisor = !part(actor, "children").is_null();
    made.children_count = number_at(actor, "children");
    if (!out.empty()) {
      const auto parent = place_of.find(parent_of(path));
      if (parent == place_of.end() || place_of.contains(path)) continue;
      out[parent->second].children.push_back(out.size());
    }
    place_of.emplace(path, out.size());
    out.push_back(std::move(made));
  }
  return out;
}

class drawing {
public:
  drawing(const std::vector<node>& nodes, const terminal& on)
      : nodes_{nodes},
        on_{on},
        fork_{on.draws_boxes ? "├─ " : "|- "},
        last_{on.draws_boxes ? "└─ " : "`- "},
        pass_{on.draws_boxes ? "│  " : "|  "},
        cut_{on.draws_boxes ? "…" : "..."} {}

  std::string to_string() {
    if (nodes_.empty()) return {};
    add(0, "", "");
    std::size_t name_width = width_of(titles[0]);
    for (const auto& l : lines_) {
      // What is only a remark may reach into the next columns.
      if (l.of != nullptr) name_width = std::max(name_width, width_of(l.branch) + width_of(l.name));
    }
    std::array<std::size_t, 4> widths{};
    for (std::size_t i = 0; i < widths.size(); ++i) {
      widths[i] = width_of(titles[i + 1]);
      for (const auto& l : lines_) {
        if (l.of != nullptr) widths[i] = std::max(widths[i], width_of(cell(*l.of, i)));
      }
    }
    if (on_.columns != 0) {
      std::size_t others = 0;
      for (const auto width : widths) others += gap + width;
      name_width =
          std::min(name_width, std::max(name_width_min, on_.columns > others ? on_.columns - others : 0));
    }
    std::string out = in(bold, padded(titles[0], name_width));
    for (std::size_t i = 0; i < widths.size(); ++i) {
      out +=
          std::string(gap, ' ') + in(bold, i < 2 && i + 1 < widths.size() ? padded(titles[i + 1], widths[i])
                                                                          : right(titles[i + 1], widths[i]));
    }
    out += '\n';
    for (const auto& l : lines_) {
      if (l.of == nullptr) {
        out += in(faint, l.branch + l.name) + '\n';
        continue;
      }
      const auto room = name_width > width_of(l.branch) ? name_width - width_of(l.branch) : 1;
      const auto name = shortened(l.name, room);
      const auto used = width_of(l.branch) + width_of(name);
      out += in(faint, l.branch) + (l.of->is_supervisor ? in(bold, name) : name);
      out += std::string(name_width > used ? name_width - used : 0, ' ') + std::string(gap, ' ');
      out += padded(l.of->kind, widths[0]) + std::string(gap, ' ');
      out += in(colour_of(l.of->state), padded(l.of->state, widths[1])) + std::string(gap, ' ');
      out +=
          in(l.of->restarts == "0" ? "" : yellow, right(l.of->restarts, widths[2])) + std::string(gap, ' ');
      out += right(l.of->mailbox, widths[3]) + '\n';
    }
    return out;
  }

private:
  static constexpr std::array<const char*, 5> titles{"ACTOR", "KIND", "STATE", "RESTARTS", "MAILBOX"};
  static constexpr std::size_t gap = 2, name_width_min = 16;

  static const std::string& cell(const node& of, std::size_t column) {
    return column == 0 ? of.kind : column == 1 ? of.state : column == 2 ? of.restarts : of.mailbox;
  }
  static std::string padded(std::string text, std::size_t width) {
    const auto own = width_of(text);
    return own < width ? text + std::string(width - own, ' ') : text;
  }
  static std::string right(std::string text, std::size_t width) {
    const auto own = width_of(text);
    return own < width ? std::string(width - own, ' ') + text : text;
  }
  static std::string_view colour_of(std::string_view state) {
    if (state == "running") return "";
    if (state == "failed") return red;
    return state == "stopped" ? faint : yellow;
  }

  [[nodiscard]] std::string in(std::string_view colour, const std::string& text) const {
    if (!on_.has_colour || colour.empty() || text.empty()) return text;
    return std::string{colour} + text + std::string{plain};
  }

  // Where the character with this number begins; the end, when there are not so many.
  static std::size_t place_of(const std::string& text, std::size_t character) {
    std::size_t at = 0;
    for (std::size_t count = 0; at < text.size(); ++at) {
      if ((static_cast<unsigned char>(text[at]) & 0xC0U) != 0x80U && count++ == character) break;
    }
    return at;
  }

  // In the middle: names that begin alike often differ at their end.
  [[nodiscard]] std::string shortened(const std::string& text, std::size_t width) const {
    const auto own = width_of(text);
    if (own <= width) return text;
    const auto keep = width > width_of(cut_) ? width - width_of(cut_) : 0;
    const auto tail = keep / 3;
    return text.substr(0, place_of(text, keep - tail)) + cut_ + text.substr(place_of(text, own - tail));
  }

  void add(std::size_t at, const std::string& branch, const std::string& below) {
    const auto& n = nodes_[at];
    const auto missing = n.children_count - std::min<std::uint64_t>(n.children_count, n.children.size());
    std::string name = n.name;
    if (n.children.empty() && missing != 0) {
      name += " (" + with_thousands(missing) + (missing == 1 ? " child)" : " children)");
    }
    lines_.push_back({branch, std::move(name), &n});
    const bool has_rest = missing != 0 && !n.children.empty();
    for (std::size_t i = 0; i < n.children.size(); ++i) {
      const bool is_last = i + 1 == n.children.size() && !has_rest;
      add(n.children[i], below + (is_last ? last_ : fork_), below + (is_last ? "   " : pass_));
    }
    if (has_rest)
      lines_.push_back({below + last_, cut_ + " and " + with_thousands(missing) + " more", nullptr});
  }

  const std::vector<node>& nodes_;
  const terminal& on_;
  const std::string fork_, last_, pass_, cut_;
  std::vector<line> lines_;
};

}  // namespace

std::string draw_actor_tree(const json::array& actors, const terminal& on) {
  const auto nodes = nodes_of(actors);
  return drawing{nodes, on}.to_string();
}

}  // namespace posthorn

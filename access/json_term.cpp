#include "access/json_term.hpp"

#include "mailbox/erlang_term.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <vector>

namespace posthorn {

namespace {

namespace json = boost::json;

// What Erlang calls printable among the control characters.
bool is_printable(unsigned char c) { return c >= 0x20 ? c != 0x7f : (c >= '\b' && c <= '\r') || c == 0x1b; }

void append_quoted(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\b': out += "\\b"; break;
      case '\t': out += "\\t"; break;
      case '\n': out += "\\n"; break;
      case '\v': out += "\\v"; break;
      case '\f': out += "\\f"; break;
      case '\r': out += "\\r"; break;
      case 0x1b: out += "\\e"; break;
      default: out += c;
    }
  }
  out += '"';
}

// The shortest text that reads back as the same number, with the point that Erlang wants.
std::string float_text(double value) {
  std::array<char, 40> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  std::string text{buffer.data(), end};
  auto exponent = text.find('e');
  if (text.find('.') == std::string::npos) {
    text.insert(exponent == std::string::npos ? text.size() : exponent, ".0");
    exponent = text.find('e');
  }
  if (exponent != std::string::npos && text[exponent + 1] == '+') text.erase(exponent + 1, 1);
  return text;
}

// A list of character codes is a text to Erlang.
bool is_text(const json::array& list) {
  return !list.empty() && std::all_of(list.begin(), list.end(), [](const json::value& element) {
    return element.is_int64() && element.get_int64() >= 0 && element.get_int64() < 0x7f &&
           is_printable(static_cast<unsigned char>(element.get_int64()));
  });
}

void append(std::string& out, const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: out += "null"; return;
    case json::kind::bool_: out += value.get_bool() ? "true" : "false"; return;
    case json::kind::int64: out += std::to_string(value.get_int64()); return;
    case json::kind::uint64: out += std::to_string(value.get_uint64()); return;
    case json::kind::double_: out += float_text(value.get_double()); return;
    case json::kind::string: out += erlang_binary(value.get_string()); return;
    case json::kind::array: {
      const auto& list = value.get_array();
      if (is_text(list)) {
        std::string text;
        for (const auto& element : list) text += static_cast<char>(element.get_int64());
        append_quoted(out, text);
        return;
      }
      out += '[';
      for (std::size_t i = 0; i < list.size(); ++i) {
        if (i > 0) out += ',';
        append(out, list[i]);
      }
      out += ']';
      return;
    }
    case json::kind::object: {
      std::map<std::string_view, const json::value*> sorted;
      for (const auto& [name, element] : value.get_object()) sorted.emplace(name, &element);
      out += "#{";
      bool first = true;
      for (const auto& [name, element] : sorted) {
        if (!first) out += ',';
        first = false;
        out += erlang_binary(name) + " => ";
        append(out, *element);
      }
      out += '}';
      return;
    }
  }
}

}  // namespace

std::string erlang_term(const json::value& value) {
  std::string out;
  append(out, value);
  return out;
}

}  // namespace posthorn

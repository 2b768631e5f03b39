#include "mailbox/erlang_term.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>

namespace posthorn {

namespace {

// What may stand between quotes after a backslash, by its letter; 0: as it is.
char escape_of(char c) noexcept {
  switch (c) {
    case '\b': return 'b';
    case '\t': return 't';
    case '\n': return 'n';
    case '\v': return 'v';
    case '\f': return 'f';
    case '\r': return 'r';
    case '\x1b': return 'e';
    case '"': return '"';
    case '\\': return '\\';
    default: return 0;
  }
}

unsigned octet(char c) noexcept { return static_cast<unsigned char>(c); }

// How many octets the character takes that begins there, as UTF-8 has it; 0: it is none, or cannot be printed.
std::size_t character_at(std::string_view text, std::size_t at) noexcept {
  const auto first = octet(text[at]);
  if (first < 0x80) return (first >= 0x20 && first < 0x7f) || escape_of(text[at]) != 0 ? 1 : 0;
  const std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() - at < size) return 0;
  auto code = first & (0xffU >> (size + 1));
  for (std::size_t n = 1; n < size; ++n) {
    if ((octet(text[at + n]) & 0xc0U) != 0x80U) return 0;
    code = (code << 6U) | (octet(text[at + n]) & 0x3fU);
  }
  const bool overlong = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
  const bool printable = code >= 0xa0 && (code < 0xd800 || code > 0xdfff) && code <= 0x10ffff &&
                         code != 0xfffe && code != 0xffff;
  return printable && !overlong ? size : 0;
}

bool is_latin1(char c) noexcept {
  return (octet(c) >= 0x20 && octet(c) < 0x7f) || octet(c) >= 0xa0 || escape_of(c) != 0;
}

enum class script : std::uint8_t { ascii, latin1, utf8, none };

script script_of(std::string_view text) noexcept {
  bool ascii = true, utf8 = true;
  for (std::size_t at = 0; at < text.size();) {
    const auto size = character_at(text, at);
    if (size != 1) ascii = false;
    if (size == 0) utf8 = false;
    at += std::max<std::size_t>(size, 1);
  }
  if (ascii) return script::ascii;
  if (utf8) return script::utf8;
  return std::all_of(text.begin(), text.end(), is_latin1) ? script::latin1 : script::none;
}

std::string numbers_of(std::string_view octets) {
  std::string out;
  for (const char c : octets) {
    if (!out.empty()) out += ',';
    out += std::to_string(octet(c));
  }
  return out;
}

// Between quotes. The text around it is UTF-8: what was Latin-1 becomes that, too.
std::string quoted(std::string_view octets, bool from_latin1) {
  std::string out = "\"";
  for (const char c : octets) {
    if (const auto letter = escape_of(c); letter != 0) {
      out += '\\';
      out += letter;
    } else if (from_latin1 && octet(c) >= 0x80) {
      out += static_cast<char>(0xc0U | (octet(c) >> 6U));
      out += static_cast<char>(0x80U | (octet(c) & 0x3fU));
    } else {
      out += c;
    }
  }
  return out + '"';
}

void append_number(double value, std::string& out) {
  std::array<char, 32> digits{};
  const auto [end, failed] = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  if (failed != std::errc{}) return;
  std::string text{digits.data(), end};
  if (std::isfinite(value) && text.find_first_of(".e") == std::string::npos) text += ".0";
  out += text;
}

void append(const field_value& value, std::string& out);

// What stands in an array or a table has its type beside it.
void append_typed(const field_value& value, std::string& out) {
  out += type_name(value.type);
  out += ',';
  append(value, out);
  out += '}';
}

struct appended {
  std::string& out;

  void operator()(std::monostate) const { out += "undefined"; }
  void operator()(boolean value) const { out += value ? "true" : "false"; }
  void operator()(std::int64_t value) const { out += std::to_string(value); }
  void operator()(float value) const { append_number(double{value}, out); }
  void operator()(double value) const { append_number(value, out); }
  void operator()(decimal value) const {
    out += '{' + std::to_string(value.scale) + ',' + std::to_string(value.mantissa) + '}';
  }
  void operator()(const std::string& value) const { out += erlang_binary(value); }
  void operator()(const field_array& values) const {
    out += '[';
    for (const auto& value : values) {
      if (&value != values.data()) out += ',';
      out += '{';
      append_typed(value, out);
    }
    out += ']';
  }
  void operator()(const field_table& table) const {
    out += '[';
    for (const auto& entry : table) {
      if (&entry != table.begin()) out += ',';
      out += '{' + erlang_binary(entry.first) + ',';
      append_typed(entry.second, out);
    }
    out += ']';
  }
};

void append(const field_value& value, std::string& out) { std::visit(appended{out}, value.value); }

}  // namespace

std::string erlang_binary(std::string_view octets) {
  if (octets.empty()) return "<<>>";
  const auto written_in = script_of(octets);
  if (written_in == script::none) return "<<" + numbers_of(octets) + ">>";
  const auto text = quoted(octets, written_in == script::latin1);
  return "<<" + text + (written_in == script::utf8 ? "/utf8>>" : ">>");
}

std::string erlang_string(std::string_view octets) {
  if (octets.empty()) return "[]";
  if (!std::all_of(octets.begin(), octets.end(), is_latin1)) return "[" + numbers_of(octets) + "]";
  return quoted(octets, true);
}

std::string erlang_term(const field_value& value) {
  std::string out;
  append(value, out);
  return out;
}

}  // namespace posthorn

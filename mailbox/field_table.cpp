#include "mailbox/field_table.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <limits>

namespace posthorn {

field_table::field_table() noexcept = default;
field_table::field_table(std::initializer_list<entry> entries) : entries_(entries) {}
field_table::field_table(const field_table& other) = default;
field_table::field_table(field_table&& other) noexcept = default;
field_table& field_table::operator=(const field_table& other) = default;
field_table& field_table::operator=(field_table&& other) noexcept = default;
field_table::~field_table() = default;

const field_value* field_table::find(std::string_view name) const noexcept {
  for (const auto& [key, value] : entries_) {
    if (key == name) return &value;
  }
  return nullptr;
}

void field_table::add(std::string name, field_value value) {
  entries_.emplace_back(std::move(name), std::move(value));
}

void field_table::set(std::string_view name, field_value value) {
  for (auto& [key, old] : entries_) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  add(std::string{name}, std::move(value));
}

bool field_table::erase(std::string_view name) {
  return std::erase_if(entries_, [name](const entry& e) { return e.first == name; }) != 0;
}

field_table field_table::sorted() const {
  field_table copy{*this};
  std::stable_sort(copy.entries_.begin(), copy.entries_.end(),
                   [](const entry& a, const entry& b) { return a.first < b.first; });
  return copy;
}

bool operator==(const field_table& a, const field_table& b) noexcept {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.first == y.first && x.second == y.second; });
}

namespace {

struct same_value {
  bool operator()(std::monostate, std::monostate) const noexcept { return true; }
  bool operator()(float a, float b) const noexcept {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
  }
  bool operator()(double a, double b) const noexcept {
    return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
  }
  bool operator()(const field_array& a, const field_array& b) const noexcept {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }
  template <class T>
  bool operator()(const T& a, const T& b) const noexcept {
    return a == b;
  }
};

}  // namespace

bool operator==(const field_value& a, const field_value& b) noexcept {
  if (a.type != b.type || a.value.index() != b.value.index()) return false;
  return std::visit(
      [&b](const auto& mine) {
        const auto* other = std::get_if<std::remove_cvref_t<decltype(mine)>>(&b.value);
        return other != nullptr && same_value{}(mine, *other);
      },
      a.value);
}

std::optional<std::int64_t> as_integer(const field_value& value) noexcept {
  const auto* number = std::get_if<std::int64_t>(&value.value);
  if (number == nullptr || value.type == 'T') return std::nullopt;
  return *number;
}

std::optional<std::string_view> as_string(const field_value& value) noexcept {
  const auto* text = std::get_if<std::string>(&value.value);
  if (text == nullptr) return std::nullopt;
  return *text;
}

std::optional<bool> as_bool(const field_value& value) noexcept {
  const auto* truth = std::get_if<boolean>(&value.value);
  if (truth == nullptr) return std::nullopt;
  return bool{*truth};
}

const field_table* as_table(const field_value& value) noexcept {
  return std::get_if<field_table>(&value.value);
}

const field_array* as_array(const field_value& value) noexcept {
  return std::get_if<field_array>(&value.value);
}

std::string_view type_name(char type) noexcept {
  switch (type) {
    case 't': return "bool";
    case 'b': return "byte";
    case 'B': return "unsignedbyte";
    case 's': return "short";
    case 'u': return "unsignedshort";
    case 'I': return "signedint";
    case 'i': return "unsignedint";
    case 'l':
    case 'L': return "long";
    case 'f': return "float";
    case 'd': return "double";
    case 'D': return "decimal";
    case 'S': return "longstr";
    case 'x': return "binary";
    case 'A': return "array";
    case 'F': return "table";
    case 'T': return "timestamp";
    case 'V': return "void";
    default: return {};
  }
}

namespace {

template <class T>
std::string number_text(T value) {
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  return {digits, end.ptr};
}

struct text_of {
  char type;

  std::string operator()(std::monostate) const { return "undefined"; }
  std::string operator()(boolean value) const { return value ? "true" : "false"; }
  std::string operator()(std::int64_t value) const {
    return type == 'T' ? number_text(static_cast<std::uint64_t>(value)) : number_text(value);
  }
  std::string operator()(float value) const { return number_text(value); }
  std::string operator()(double value) const { return number_text(value); }
  std::string operator()(decimal value) const {
    return number_text(value.mantissa) + "e-" + number_text(unsigned{value.scale});
  }
  std::string operator()(const std::string& value) const { return value; }
  std::string operator()(const field_array& values) const {
    std::string text = "[";
    for (const auto& value : values) {
      if (text.size() > 1) text += ',';
      text += to_string(value);
    }
    return text + ']';
  }
  std::string operator()(const field_table& table) const { return to_string(table); }
};

}  // namespace

std::string to_string(const field_value& value) { return std::visit(text_of{value.type}, value.value); }

std::string to_string(const field_table& table) {
  std::string text = "{";
  for (const auto& [name, value] : table) {
    if (text.size() > 1) text += ", ";
    text += name;
    text += ": ";
    text += to_string(value);
  }
  return text + '}';
}

namespace {

// Octets after the letter; -1 when a length of 32 bits says how many, -2 for an unknown letter.
int width_of(char type) noexcept {
  switch (type) {
    case 'V': return 0;
    case 't':
    case 'b':
    case 'B': return 1;
    case 's':
    case 'u': return 2;
    case 'I':
    case 'i':
    case 'f': return 4;
    case 'D': return 5;
    case 'l':
    case 'L':
    case 'd':
    case 'T': return 8;
    case 'S':
    case 'x':
    case 'A':
    case 'F': return -1;
    default: return -2;
  }
}

using bytes = std::span<const std::byte>;

// Walks through a table or an array, one entry at a time. Both decode_table and check_table stand on it, so
// that they cannot be of two minds.
class entry_walk {
public:
  enum class kind { table, array };

  entry_walk(bytes body, kind of) noexcept : left_{body}, kind_{of} {}

  [[nodiscard]] bool at_end() const noexcept { return left_.empty(); }

  // The next entry, into the members below.
  result<void> step() {
    if (kind_ == kind::table) {
      const auto size = std::to_integer<std::size_t>(left_[0]);
      if (left_.size() - 1 < size) return missing("a name", size, left_.size() - 1);
      name = {reinterpret_cast<const char*>(left_.data() + 1), size};
      left_ = left_.subspan(1 + size);
      if (left_.empty()) return missing("a type", 1, 0);
    }
    type = static_cast<char>(left_[0]);
    left_ = left_.subspan(1);
    const auto width = width_of(type);
    if (width == -2) {
      return corrupted(where() + " has the unknown type " +
                       number_text(int{static_cast<unsigned char>(type)}));
    }
    auto size = static_cast<std::size_t>(width);
    if (width == -1) {
      if (left_.size() < 4) return missing("a length", 4, left_.size());
      size = big_endian::load<std::uint32_t>(left_.data());
      left_ = left_.subspan(4);
    }
    if (left_.size() < size) return missing("a value", size, left_.size());
    content = left_.first(size);
    left_ = left_.subspan(size);
    return {};
  }

  std::string_view name;
  char type = 'V';
  bytes content;

private:
  [[nodiscard]] std::string where() const {
    if (kind_ == kind::array) return "field table: an array's element";
    return "field table: the value of '" + std::string{name} + "'";
  }

  [[nodiscard]] error missing(std::string_view what, std::size_t needed, std::size_t there) const {
    return corrupted("field table: " + std::string{what} + " of " + number_text(needed) +
                     " octets is cut short, " + number_text(there) + " are left" +
                     (name.empty() ? "" : ", at or after '" + std::string{name} + "'"));
  }

  bytes left_;
  kind kind_;
};

error too_deep() {
  return corrupted("field table: tables and arrays are nested deeper than " + number_text(field_depth_max) +
                   " levels");
}

result<field_table> decode_table_at(bytes body, int depth);
result<field_array> decode_array_at(bytes body, int depth);

template <class Unsigned, class Signed>
std::int64_t signed_number(bytes content) noexcept {
  return static_cast<Signed>(big_endian::load<Unsigned>(content.data()));
}

template <class Unsigned>
std::int64_t unsigned_number(bytes content) noexcept {
  return big_endian::load<Unsigned>(content.data());
}

// `content` has the width of the type.
result<field_value> decode_value(char type, bytes content, int depth) {
  const auto text = [content] {
    return std::string{reinterpret_cast<const char*>(content.data()), content.size()};
  };
  field_value out;
  out.type = type;
  switch (type) {
    case 't': out.value = boolean{std::to_integer<std::uint8_t>(content[0])}; break;
    case 'b': out.value = signed_number<std::uint8_t, std::int8_t>(content); break;
    case 'B': out.value = unsigned_number<std::uint8_t>(content); break;
    case 's': out.value = signed_number<std::uint16_t, std::int16_t>(content); break;
    case 'u': out.value = unsigned_number<std::uint16_t>(content); break;
    case 'I': out.value = signed_number<std::uint32_t, std::int32_t>(content); break;
    case 'i': out.value = unsigned_number<std::uint32_t>(content); break;
    case 'l':
    case 'L':
    case 'T': out.value = signed_number<std::uint64_t, std::int64_t>(content); break;
    case 'f': out.value = std::bit_cast<float>(big_endian::load<std::uint32_t>(content.data())); break;
    case 'd': out.value = std::bit_cast<double>(big_endian::load<std::uint64_t>(content.data())); break;
    case 'D':
      out.value = decimal{std::to_integer<std::uint8_t>(content[0]),
                          big_endian::load<std::uint32_t>(content.data() + 1)};
      break;
    case 'S':
    case 'x': out.value = text(); break;
    case 'A': {
      auto array = decode_array_at(content, depth + 1);
      if (!array) return array.error();
      out.value = *std::move(array);
      break;
    }
    case 'F': {
      auto table = decode_table_at(content, depth + 1);
      if (!table) return table.error();
      out.value = *std::move(table);
      break;
    }
    default: break;
  }
  return out;
}

result<field_array> decode_array_at(bytes body, int depth) {
  if (depth > field_depth_max) return too_deep();
  field_array out;
  entry_walk walk{body, entry_walk::kind::array};
  while (!walk.at_end()) {
    if (auto step = walk.step(); !step) return step.error();
    auto value = decode_value(walk.type, walk.content, depth);
    if (!value) return value.error();
    out.push_back(*std::move(value));
  }
  return out;
}

result<field_table> decode_table_at(bytes body, int depth) {
  if (depth > field_depth_max) return too_deep();
  field_table out;
  entry_walk walk{body, entry_walk::kind::table};
  while (!walk.at_end()) {
    if (auto step = walk.step(); !step) return step.error();
    auto value = decode_value(walk.type, walk.content, depth);
    if (!value) return value.error();
    out.add(std::string{walk.name}, *std::move(value));
  }
  return out;
}

result<void> check_at(bytes body, entry_walk::kind kind, int depth) {
  if (depth > field_depth_max) return too_deep();
  entry_walk walk{body, kind};
  while (!walk.at_end()) {
    if (auto step = walk.step(); !step) return step;
    if (walk.type != 'A' && walk.type != 'F') continue;
    const auto inner = walk.type == 'A' ? entry_walk::kind::array : entry_walk::kind::table;
    if (auto inside = check_at(walk.content, inner, depth + 1); !inside) return inside;
  }
  return {};
}

void append_sized(std::string_view text, std::string& out) {
  expects(text.size() <= std::numeric_limits<std::uint32_t>::max(),
          "a long string has at most 2^32 - 1 octets");
  big_endian::append(out, static_cast<std::uint32_t>(text.size()));
  out.append(text);
}

// What `write` appends, with its length in four octets before it.
template <class Write>
void append_measured(std::string& out, Write write) {
  const auto begin = out.size();
  out.append(4, '\0');
  write();
  const auto size = out.size() - begin - 4;
  expects(size <= std::numeric_limits<std::uint32_t>::max(), "a table has at most 2^32 - 1 octets");
  big_endian::store(out.data() + begin, static_cast<std::uint32_t>(size));
}

template <class Number>
void append_integer(std::int64_t value, std::string& out) {
  expects(value >= std::numeric_limits<Number>::min() &&
              value <= std::int64_t{std::numeric_limits<Number>::max()},
          "an integer fits the type that it is sent as");
  big_endian::append(out, static_cast<std::make_unsigned_t<Number>>(value));
}

template <class T>
const T& alternative(const field_value& value) {
  const auto* found = std::get_if<T>(&value.value);
  expects(found != nullptr, "a field value holds what its type letter says");
  return *found;
}

void encode_value(const field_value& value, std::string& out) {
  const auto integer = [&value] { return alternative<std::int64_t>(value); };
  out.push_back(value.type);
  switch (value.type) {
    case 'V': break;
    case 't': big_endian::append(out, alternative<boolean>(value).octet); break;
    case 'b': append_integer<std::int8_t>(integer(), out); break;
    case 'B': append_integer<std::uint8_t>(integer(), out); break;
    case 's': append_integer<std::int16_t>(integer(), out); break;
    case 'u': append_integer<std::uint16_t>(integer(), out); break;
    case 'I': append_integer<std::int32_t>(integer(), out); break;
    case 'i': append_integer<std::uint32_t>(integer(), out); break;
    case 'l':
    case 'L':
    case 'T': append_integer<std::int64_t>(integer(), out); break;
    case 'f': big_endian::append(out, std::bit_cast<std::uint32_t>(alternative<float>(value))); break;
    case 'd': big_endian::append(out, std::bit_cast<std::uint64_t>(alternative<double>(value))); break;
    case 'D': {
      const auto& number = alternative<decimal>(value);
      big_endian::append(out, number.scale);
      big_endian::append(out, number.mantissa);
      break;
    }
    case 'S':
    case 'x': append_sized(alternative<std::string>(value), out); break;
    case 'A': {
      const auto& values = alternative<field_array>(value);
      append_measured(out, [&values, &out] {
        for (const auto& element : values) encode_value(element, out);
      });
      break;
    }
    case 'F': encode_table(alternative<field_table>(value), out); break;
    default: expects(false, "a field value has one of the known types");
  }
}

}  // namespace

result<field_table> decode_table(std::span<const std::byte> body) { return decode_table_at(body, 1); }

result<void> check_table(std::span<const std::byte> body) {
  return check_at(body, entry_walk::kind::table, 1);
}

void encode_table(const field_table& table, std::string& out) {
  append_measured(out, [&table, &out] {
    for (const auto& [name, value] : table) {
      expects(name.size() <= 0xFF, "a field's name has at most 255 octets");
      big_endian::append(out, static_cast<std::uint8_t>(name.size()));
      out.append(name);
      encode_value(value, out);
    }
  });
}

}  // namespace posthorn

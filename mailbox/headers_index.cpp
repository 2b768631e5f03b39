#include "mailbox/headers_index.hpp"

#include <bit>
#include <functional>
#include <optional>
#include <tuple>

namespace posthorn {

namespace {

// Wanted keys beyond do not lead further down the trie; so its depth is bounded, whatever a client sends.
constexpr std::size_t depth_max = 64;
// What a value adds to a key at most; longer ones are told apart by their hash.
constexpr std::size_t value_size_max = 64;

bool counts(const header_match& match, std::string_view name) noexcept {
  if (name == "x-match") return false;
  return match.with_x || !name.starts_with("x-");
}

template <class Number>
void append_number(Number value, std::string& out) {
  char raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);
  out.append(raw, sizeof raw);
}

// Equal values, and no others, append the same.
void append_value(const field_value& value, std::string& out);

struct appended {
  std::string& out;

  void operator()(std::monostate) const {}
  void operator()(boolean value) const { out += value ? '\1' : '\0'; }  // any other than zero is true
  void operator()(std::int64_t value) const { append_number(value, out); }
  void operator()(float value) const { append_number(std::bit_cast<std::uint32_t>(value), out); }
  void operator()(double value) const { append_number(std::bit_cast<std::uint64_t>(value), out); }
  void operator()(decimal value) const {
    append_number(value.scale, out);
    append_number(value.mantissa, out);
  }
  void operator()(const std::string& value) const {
    append_number(value.size(), out);
    out += value;
  }
  void operator()(const field_array& values) const {
    append_number(values.size(), out);
    for (const auto& value : values) append_value(value, out);
  }
  void operator()(const field_table& table) const {
    append_number(table.size(), out);
    for (const auto& [name, value] : table) {
      (*this)(name);
      append_value(value, out);
    }
  }
};

void append_value(const field_value& value, std::string& out) {
  out += value.type;
  std::visit(appended{out}, value.value);
}

// Numbers are told apart by their values, and not by their widths, though no number is a time; text and bytes by their
// octets. So RabbitMQ does, but only for the header itself: what stands in an array or a table is the same only if its
// type is, too [34].
char kind_of(char type) noexcept {
  switch (type) {
    case 'b':
    case 'B':
    case 's':
    case 'u':
    case 'i':
    case 'I':
    case 'L': return 'l';
    case 'f': return 'd';
    case 'x': return 'S';
    default: return type;
  }
}

// A float at the width that all are compared at, by its bits: zero is not minus zero, and every value is itself.
std::optional<std::uint64_t> float_bits(const field_value& value) noexcept {
  if (const auto* narrow = std::get_if<float>(&value.value))
    return std::bit_cast<std::uint64_t>(double{*narrow});
  if (const auto* wide = std::get_if<double>(&value.value)) return std::bit_cast<std::uint64_t>(*wide);
  return std::nullopt;
}

bool same_header(const field_value& a, const field_value& b) noexcept {
  const auto kind = kind_of(a.type);
  if (kind != kind_of(b.type)) return false;
  if (kind == 'd') return float_bits(a) == float_bits(b);
  return kind == 'l' || kind == 'S' ? a.value == b.value : a == b;
}

// Values that are the same header, and no others, append the same.
void append_header(const field_value& value, std::string& out) {
  out += kind_of(value.type);
  if (const auto bits = float_bits(value)) {
    append_number(*bits, out);
  } else {
    std::visit(appended{out}, value.value);
  }
}

std::string name_key(std::string_view name) {
  std::string key;
  append_number(name.size(), key);
  key += name;
  return key;
}

std::string value_key(std::string_view name, const field_value& value) {
  auto key = name_key(name);
  const auto begin = key.size();
  append_header(value, key);
  if (key.size() - begin > value_size_max) {
    const auto hash = std::hash<std::string_view>{}(std::string_view{key}.substr(begin));
    key.resize(begin);
    append_number(hash, key);
  }
  return key;
}

// In order, each once.
std::vector<std::string> keys_of(const header_match& match) {
  std::vector<std::string> keys;
  for (const auto& [name, value] : match.wanted) {
    if (counts(match, name)) keys.push_back(value.type == 'V' ? name_key(name) : value_key(name, value));
  }
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  if (!match.any && keys.size() > depth_max) keys.resize(depth_max);
  return keys;
}

}  // namespace

bool headers_match(const header_match& match, const field_table& headers) {
  for (const auto& [name, wanted] : match.wanted) {
    if (!counts(match, name)) continue;
    const auto* present = headers.find(name);
    // A void value asks only whether the header is there: [34].
    const bool matches = present != nullptr && (wanted.type == 'V' || same_header(*present, wanted));
    if (matches == match.any) return matches;
  }
  return !match.any;
}

void headers_index::add(const header_match& match, std::string_view name, const binding_ptr& binding) {
  for (const auto& [wanted, value] : match.wanted) {
    if (counts(match, wanted)) ++names_.edit(wanted);
  }
  const auto keys = posthorn::keys_of(match);
  if (match.any) {
    for (const auto& key : keys) any_.edit(key).set(name, binding);
    return;
  }
  auto* at = &all_.edit();
  for (const auto& key : keys) at = &at->below.edit(key);
  at->here.set(name, binding);
}

void headers_index::remove(const header_match& match, std::string_view name) {
  for (const auto& [wanted, value] : match.wanted) {
    if (!counts(match, wanted)) continue;
    const auto* present = names_.find(wanted);
    if (present == nullptr) continue;
    if (*present == 1) {
      names_.erase(wanted);
    } else {
      --names_.edit(wanted);
    }
  }
  const auto keys = posthorn::keys_of(match);
  if (match.any) {
    for (const auto& key : keys) {
      if (any_.find(key) == nullptr) continue;
      auto& set = any_.edit(key);
      set.erase(name);
      if (set.empty()) any_.erase(key);
    }
    return;
  }
  if (all_ && remove_below(all_.edit(), keys, 0, name)) all_ = {};
}

// Says whether nothing is left of it.
bool headers_index::remove_below(node& at, const std::vector<std::string>& path, std::size_t depth,
                                 std::string_view name) {
  if (depth == path.size()) {
    at.here.erase(name);
  } else if (at.below.find(path[depth]) != nullptr) {
    if (remove_below(at.below.edit(path[depth]), path, depth + 1, name)) at.below.erase(path[depth]);
  }
  return at.empty();
}

std::vector<std::string> headers_index::keys_of(const field_table& headers) const {
  // Most messages carry headers that nobody asks for. Of two headers with the same name, the first one counts; a client
  // may send tens of thousands, so they are found by sorting.
  std::vector<std::pair<const std::uint64_t*, const field_table::entry*>> asked_for;
  for (const auto& header : headers) {
    if (const auto* name = names_.find(header.first)) asked_for.emplace_back(name, &header);
  }
  std::sort(asked_for.begin(), asked_for.end(), [](const auto& a, const auto& b) {
    return std::less<>{}(std::tie(a.first, a.second), std::tie(b.first, b.second));
  });
  std::vector<std::string> keys;
  keys.reserve(2 * asked_for.size());
  const std::uint64_t* last = nullptr;
  for (const auto& [name, header] : asked_for) {
    if (std::exchange(last, name) == name) continue;
    keys.push_back(name_key(header->first));
    if (header->second.type != 'V') keys.push_back(value_key(header->first, header->second));
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

}  // namespace posthorn

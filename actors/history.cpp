#include "actors/history.hpp"

#include "actors/actor_house.hpp"
#include "actors/node_context.hpp"

#include <charconv>
#include <cstdio>

namespace posthorn {

namespace {

constexpr std::size_t type_size = 8;

}  // namespace

std::vector<std::byte> encode_event(std::string_view type, std::span<const std::byte> body) {
  expects(type.size() == 2 + 2 * type_size && type.starts_with("0x"), "an event has the type of its schema");
  std::uint64_t id = 0;
  const auto [end, failed] = std::from_chars(type.data() + 2, type.data() + type.size(), id, 16);
  expects(failed == std::errc{} && end == type.data() + type.size(), "an event has the type of its schema");
  std::vector<std::byte> out(type_size + body.size());
  for (std::size_t i = 0; i < type_size; ++i) {
    out[i] = static_cast<std::byte>(id >> (8 * (type_size - 1 - i)) & 0xff);
  }
  std::copy(body.begin(), body.end(), out.begin() + type_size);
  return out;
}

result<history_event> decode_event(const actor_event& stored) {
  if (stored.bytes.size() < type_size) {
    return corrupted("event " + std::to_string(stored.number) + " of actor " + stored.path + " has no type");
  }
  std::uint64_t id = 0;
  for (std::size_t i = 0; i < type_size; ++i) id = id << 8 | std::to_integer<std::uint64_t>(stored.bytes[i]);
  char text[19];
  std::snprintf(text, sizeof text, "0x%016llx", static_cast<unsigned long long>(id));
  return history_event{stored.number, text, {stored.bytes.begin() + type_size, stored.bytes.end()}};
}

result<std::vector<history_event>> history_of(const node_context& node, std::string_view name,
                                              std::uint64_t from, std::size_t count_max) {
  const auto slash = name.find('/');
  if (slash == std::string_view::npos || slash == 0 || slash + 1 == name.size()) {
    return refused("'" + std::string{name} + "' is no name of an actor: they are called \"kind/id\"");
  }
  const auto stored = node.journal.read_history(actor_house::path_of(name), from, count_max);
  if (!stored) return stored.error();
  std::vector<history_event> out;
  out.reserve(stored->size());
  for (const auto& e : *stored) {
    auto event = decode_event(e);
    if (!event) return event.error();
    out.push_back(std::move(*event));
  }
  return out;
}

}  // namespace posthorn

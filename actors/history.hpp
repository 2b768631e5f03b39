// The event journal of a durable actor: what `turn.record` wrote, in order. docs/store.md has how an event stands on disk.
//
// Threads   any; what is read is what was durable at that moment.
#pragma once

#include "mailbox/result.hpp"
#include "persist/actor_records.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn {

struct node_context;

struct history_event {
  std::uint64_t number = 0;     // 1, 2, 3, … for each actor
  std::string type;             // the id of its schema: "0x…", 16 hexadecimal digits
  std::vector<std::byte> body;  // a flat Cap'n Proto message
};

// Up to `count_max` events of an actor ("kind/id"), from the number `from` on, whether it is awake or not. Events that a
// snapshot has made needless are gone, unless its kind keeps them. `refused`: this cannot be the name of an actor;
// `corrupted`: the store is damaged there.
[[nodiscard]] result<std::vector<history_event>> history_of(const node_context& node, std::string_view name,
                                                            std::uint64_t from = 1,
                                                            std::size_t count_max = 1000);

// As the store has it. `type` as in `history_event`.
[[nodiscard]] std::vector<std::byte> encode_event(std::string_view type, std::span<const std::byte> body);
[[nodiscard]] result<history_event> decode_event(const actor_event& stored);

}  // namespace posthorn

// A virtual host under test: what is declared, bound and published in few words.
#pragma once

#include "mailbox/properties.hpp"
#include "mailbox/topology.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace posthorn::test_host {

using strings = std::vector<std::string>;

inline constexpr connection_id me{1}, you{2};

// A field table as it travels, without its length.
inline std::string table(const field_table& t) {
  std::string out;
  encode_table(t, out);
  return out.substr(4);
}

// A virtual host under test. Commands give the refusal's text, or nothing when they succeed.
class host {
public:
  topology t{"/"};
  topology::changes changes;
  std::optional<refusal::kind> why;

  template <class Command>
  std::string tell(const Command& command) {
    const auto before = changes.size();
    const auto refused = t.on(command, changes);
    why.reset();
    if (!refused) return {};
    CHECK(changes.size() == before);  // a refusal changes nothing
    why = refused->why;
    return refused->text;
  }

  declare_queue a_queue(std::string name, connection_id by = me) {
    declare_queue c;
    c.id = {++last_mailbox_};
    c.name = std::move(name);
    c.durable = true;
    c.by = by;
    return c;
  }
  static declare_exchange an_exchange(std::string name, std::string type) {
    declare_exchange c;
    c.name = std::move(name);
    c.type = std::move(type);
    c.durable = true;
    return c;
  }
  bind a_binding(std::string source, std::string queue, std::string key = {}, std::string arguments = {}) {
    return {{++last_binding_},
            destination_kind::queue,
            std::move(source),
            std::move(queue),
            std::move(key),
            std::move(arguments),
            me};
  }
  bind to_exchange(std::string source, std::string destination, std::string key = {}) {
    return {{++last_binding_},
            destination_kind::exchange,
            std::move(source),
            std::move(destination),
            std::move(key),
            {},
            me};
  }
  static unbind the_reverse(const bind& b) {
    return {b.kind, b.source, b.destination, b.routing_key, b.arguments, b.by};
  }

  host& queue(const std::string& name) {
    REQUIRE(tell(a_queue(name)).empty());
    return *this;
  }
  host& exchange(const std::string& name, const std::string& type, bool auto_delete = false) {
    auto c = an_exchange(name, type);
    c.auto_delete = auto_delete;
    REQUIRE(tell(c).empty());
    return *this;
  }
  host& bound(const bind& b) {
    REQUIRE(tell(b).empty());
    return *this;
  }
  void remove(const std::string& name) {
    const auto* q = t.find_queue(name);
    REQUIRE(q != nullptr);
    t.on(remove_queue{(*q)->id, name}, changes);
  }

  // The names of the queues that a message goes to.
  strings route(std::string_view exchange, std::string_view key, const field_table& headers = {},
                const passage& with = {}) const {
    basic_properties p;
    p.headers = headers;
    return route(exchange, key, p, with);
  }
  strings route(std::string_view exchange, std::string_view key, const basic_properties& p,
                const passage& with = {}) const {
    std::string properties;
    encode_properties(p, properties);
    const auto* from = t.find_exchange(exchange);
    REQUIRE(from != nullptr);
    std::vector<queue_ptr> queues;
    t.route(*from, key, std::as_bytes(std::span{properties}), queues, with);
    strings out;
    for (const auto& q : queues) out.push_back(q->name);
    return out;
  }

  template <class Change>
  [[nodiscard]] std::size_t count() const {
    return static_cast<std::size_t>(std::count_if(
        changes.begin(), changes.end(), [](const auto& c) { return std::holds_alternative<Change>(c); }));
  }

private:
  std::uint64_t last_mailbox_ = 0, last_binding_ = 0;
};

}  // namespace posthorn::test_host

// A kind of durable actors, written against Cap'n Proto types:
//
//   node.add(posthorn::durable<bank::Account>("account")
//                .on<bank::Deposit>([](auto& turn, bank::Deposit::Reader deposit) { … })
//                .on<bank::Withdraw>(…)
//                .delivery_limit(5)
//                .dead_letters_to("dead", "accounts")
//                .idle_after(std::chrono::minutes{1}));
//
// Its actors are "account/1", "account/anna", …: they exist because somebody sends to them.
//
// Ownership   a value, until it is added.
// Threads     handlers run on the node's threads; one actor's never at the same time.
#pragma once

#include "actors/actor_kind.hpp"
#include "actors/same_value.hpp"
#include "posthorn/turn.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>

namespace posthorn {

namespace detail {

template <class Message>
void read_json(std::span<const std::byte> body, capnp::MallocMessageBuilder& to) {
  try {
    capnp::JsonCodec json;
    json.setRejectUnknownFields(true);
    json.decode(kj::ArrayPtr<const char>{reinterpret_cast<const char*>(body.data()), body.size()},
                to.initRoot<Message>());
  } catch (const std::exception& e) {
    throw unreadable_message{"the body is no JSON for '" + name_of<Message>() + "': " + e.what()};
  }
}

// Its pointers are checked when they are followed: what is wrong with them fails the turn.
template <class Message>
std::unique_ptr<capnp::FlatArrayMessageReader> read_flat(kj::ArrayPtr<const capnp::word> words) {
  try {
    auto reader = std::make_unique<capnp::FlatArrayMessageReader>(words, reader_options(words));
    (void)reader->getRoot<Message>();
    return reader;
  } catch (const std::exception& e) {
    throw unreadable_message{"the body is no Cap'n Proto message of type '" + name_of<Message>() +
                             "': " + e.what()};
  }
}

}  // namespace detail

template <class State>
class durable {
public:
  // `name`: the first part of its actors' names, not empty and without '/'.
  explicit durable(std::string name) : kind_{std::make_shared<actor_kind>()} {
    kind_->name = std::move(name);
    kind_->journal.load_state = [](capnp::MessageBuilder& to, std::span<const std::byte> stored) {
      detail::load_root<State>(to, stored);
    };
    kind_->journal.same_state = [](std::span<const std::byte> a, std::span<const std::byte> b) {
      if (std::ranges::equal(a, b)) return true;
      capnp::MallocMessageBuilder of_a, of_b;
      detail::load_root<State>(of_a, a);
      detail::load_root<State>(of_b, b);
      return same_value(capnp::DynamicStruct::Reader{of_a.getRoot<State>().asReader()},
                        capnp::DynamicStruct::Reader{of_b.getRoot<State>().asReader()});
    };
  }

  // What to do with messages of this type: `handler(turn<State>&, Message::Reader)`. Bodies are flat Cap'n Proto
  // messages; with the content type application/json they are JSON by the schema's rules, and `type` may be the plain
  // name of the struct.
  template <class Message, class Handler>
  durable& on(Handler handler) & {
    const actor_kind::handler run = [handler = std::move(handler)](
                                        raw_turn& raw, std::span<const std::byte> body, body_format format) {
      turn<State> t{raw};
      if (format == body_format::json) {
        capnp::MallocMessageBuilder builder;
        detail::read_json<Message>(body, builder);
        handler(t, builder.getRoot<Message>().asReader());
      } else {
        const auto words = detail::aligned_words(body);
        auto reader = detail::read_flat<Message>(words);
        handler(t, reader->template getRoot<Message>());
      }
      t.finish();
    };
    kind_->handlers[type_of<Message>()] = run;
    kind_->handlers[detail::name_of<Message>()] = run;
    return *this;
  }
  // The same.
  template <class Message, class Handler>
  durable&& on(Handler handler) && {
    on<Message>(std::move(handler));
    return std::move(*this);
  }

  // Keeps an event journal beside the state: `turn.record<Event>` writes an event, and `apply(State::Builder,
  // Event::Reader)` says what it does to the state. It is called again for the same event whenever the actor wakes from
  // an older state, so it must do the same each time: it asks no clock, and sends nothing. An event type that was ever
  // recorded must stay: an actor with an event that nobody can apply takes no messages until somebody can.
  template <class Event, class Apply>
  durable& on_event(Apply apply) & {
    kind_->journal.appliers[type_of<Event>()] = [apply = std::move(apply)](capnp::MessageBuilder& state,
                                                                           std::span<const std::byte> event) {
      const auto words = detail::aligned_words(event);
      capnp::FlatArrayMessageReader reader{words, detail::reader_options(words)};
      apply(state.getRoot<State>(), reader.getRoot<Event>());
    };
    return *this;
  }
  // The same.
  template <class Event, class Apply>
  durable&& on_event(Apply apply) && {
    on_event<Event>(std::move(apply));
    return std::move(*this);
  }
  // With an event journal: the state is written when so many events came since it was, and else only the events are. A
  // turn that changes the state itself, and not by events, writes it at once. 0: never; then such a turn fails. Default:
  // 100.
  durable&& snapshot_every(std::uint32_t events) && {
    kind_->journal.snapshot_every = events;
    return std::move(*this);
  }
  // Whether events stay that the written state has in it. Default: they go.
  durable&& keep_events(bool keep) && {
    kind_->journal.keep_events = keep;
    return std::move(*this);
  }
  // How many messages one actor may set aside with `turn.stash`. Default: 1000.
  durable&& stash_max(std::size_t messages) && {
    kind_->stash_max = messages;
    return std::move(*this);
  }

  // How often a message may fail before it goes to the dead letters. Default: 20.
  durable&& delivery_limit(std::uint32_t times) && {
    kind_->rules.delivery_limit = times;
    return std::move(*this);
  }
  // Where messages go that failed too often, expired, were rejected or did not fit. Default: nowhere, they are dropped.
  durable&& dead_letters_to(std::string exchange, std::string key) && {
    kind_->rules.dead_letter_exchange = std::move(exchange);
    kind_->rules.dead_letter_routing_key = std::move(key);
    return std::move(*this);
  }
  // A message that waited for so long expires. Default: none does.
  durable&& message_ttl(std::chrono::milliseconds ttl) && {
    kind_->rules.message_ttl = ttl;
    return std::move(*this);
  }
  // Of each mailbox; more are refused, and their senders told. Default: no limit.
  durable&& mailbox_max(std::uint64_t messages) && {
    kind_->rules.length_max = messages;
    kind_->rules.on_overflow = mailbox_rules::overflow::reject_publish;
    return std::move(*this);
  }
  // An actor that got nothing for so long leaves memory. 0: never. Default: one minute.
  durable&& idle_after(std::chrono::milliseconds time) && {
    kind_->idle_after = time;
    return std::move(*this);
  }
  // Of the state's schema, to be raised when its meaning changes: a state of a newer one is refused. Default: 0.
  durable&& schema_version(std::uint32_t version) && {
    kind_->schema_version = version;
    return std::move(*this);
  }
  // How failures are met: restart with back-off, and a budget of its own for each actor. Name and kind are not looked at.
  durable&& supervision(child_spec rules) && {
    kind_->supervision = std::move(rules);
    return std::move(*this);
  }

  // What a node is given of it.
  [[nodiscard]] std::shared_ptr<const actor_kind> kind() const { return kind_; }

private:
  std::shared_ptr<actor_kind> kind_;
};

}  // namespace posthorn

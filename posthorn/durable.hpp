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
#include "posthorn/turn.hpp"

#include <memory>
#include <string>
#include <utility>

namespace posthorn {

template <class State>
class durable {
public:
  explicit durable(std::string name) : kind_{std::make_shared<actor_kind>()} {
    kind_->name = std::move(name);
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
        capnp::JsonCodec json;
        json.setRejectUnknownFields(true);
        json.decode(kj::ArrayPtr<const char>{reinterpret_cast<const char*>(body.data()), body.size()},
                    builder.initRoot<Message>());
        handler(t, builder.getRoot<Message>().asReader());
      } else {
        const auto words = detail::aligned_words(body);
        capnp::FlatArrayMessageReader reader{words, detail::reader_options()};
        handler(t, reader.getRoot<Message>());
      }
      t.finish();
    };
    kind_->handlers[type_of<Message>()] = run;
    kind_->handlers[detail::name_of<Message>()] = run;
    return *this;
  }
  template <class Message, class Handler>
  durable&& on(Handler handler) && {
    on<Message>(std::move(handler));
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

  [[nodiscard]] std::shared_ptr<const actor_kind> kind() const { return kind_; }

private:
  std::shared_ptr<actor_kind> kind_;
};

}  // namespace posthorn

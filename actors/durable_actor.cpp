#include "actors/durable_actor.hpp"

#include "actors/history.hpp"
#include "actors/turn.hpp"
#include "actors/vhost.hpp"

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <exception>

namespace posthorn {

namespace {

// Events that are read from the store at once.
constexpr std::size_t page_max = 256;

std::vector<std::byte> flat_bytes(capnp::MessageBuilder& message) {
  const auto words = capnp::messageToFlatArray(message);
  const auto bytes = words.asBytes();
  const auto* first = reinterpret_cast<const std::byte*>(bytes.begin());
  return {first, first + bytes.size()};
}

class durable_actor final : public inhabitant {
public:
  durable_actor(node_context& node, std::shared_ptr<const actor_kind> kind, std::string name,
                queue_port& port, actor_state state)
      : node_{node},
        kind_{std::move(kind)},
        name_{std::move(name)},
        port_{port},
        state_{std::move(state)},
        last_event_{state_.last_event} {}

  result<void> begin() override {
    if (state_.schema_version > kind_->schema_version) {
      return refused("the state of actor '" + name_ + "' was written by version " +
                     std::to_string(state_.schema_version) + " of its schema; this program knows " +
                     std::to_string(kind_->schema_version) + ": start a newer program");
    }
    if (!recovered_) {
      if (auto r = recover(); !r) return r;
      recovered_ = true;
    }
    return {};
  }

  answer take(const delivery& message, outgoing& sent, const occasion& when) override {
    const auto& envelope = *message.message;
    const auto type = text_property(envelope.properties(), property::type);
    const auto found = type ? kind_->handlers.find(*type) : kind_->handlers.end();
    if (found == kind_->handlers.end()) {
      return of(verdict::rejected,
                type ? "actor '" + name_ + "' does not know messages of type '" + std::string{*type} + "'"
                     : "a message without the property `type`");
    }
    const auto vhost = node_.actors_vhost.lock();
    if (!vhost) return of(verdict::failed, "the node stops");
    const auto where = vhost->snapshot();
    raw_turn turn{{node_, *where, message, sent, name_, state_.path, state_.state, when, state_.mailbox,
                   *kind_, state_.turn}};
    bool direct = false;  // the state was changed, and not by events alone
    try {
      found->second(turn, envelope.body(), turn.format());
      direct = kind_->journal.on() && changed_directly(turn);
    } catch (const unreadable_message& e) {
      return of(verdict::rejected, e.what());
    } catch (const std::exception& e) {
      return of(verdict::failed, e.what());
    } catch (...) {
      return of(verdict::failed, "a handler threw something that is no std::exception");
    }
    if (turn.rejected()) return of(verdict::rejected, *turn.rejected());
    if (turn.spoilt()) {
      return of(verdict::failed,
                "an event of the turn was applied only in part: let the exception of turn.record pass");
    }
    if (direct && kind_->journal.snapshot_every == 0) {
      return of(verdict::failed,
                "the state of the kind '" + kind_->name +
                    "' is never written (snapshot_every is 0), so a turn must not change it but by "
                    "turn.record: record an event, or let the state be written");
    }
    auto event = last_event_;
    for (const auto& e : turn.events()) {
      sent.writes.events.push_back({state_.path, ++event, encode_event(e.type, e.body)});
    }
    if (const auto checked = check(sent.writes); !checked) return of(verdict::failed, checked.error().text);

    answer out;
    out.unstash = turn.unstashes();
    out.timers = std::move(turn.timers());
    auto& next = turn.new_state();
    if (turn.stashed()) {
      out.what = verdict::stashed;
      out.changed = !sent.empty() || (next && *next != state_.state);
      if (!out.changed) return out;
    }
    ++state_.turn;
    changed_ = true;
    last_event_ = event;
    to_be_written_ = to_be_written_ || direct;
    if (next) state_.state = std::move(*next);
    return out;
  }

  void save(outgoing& to, sequence used) override {
    if (!std::exchange(changed_, false)) return;
    state_.used = used;
    if (kind_->journal.on() && !wants_snapshot()) {
      auto& uses = to.writes.uses;
      if (uses.empty() || uses.back().path != state_.path) uses.push_back({state_.path, state_.mailbox, {}});
      uses.back().used = used;
      return;
    }
    to_be_written_ = false;
    state_.schema_version = kind_->schema_version;
    if (state_.last_event != last_event_ && !kind_->journal.keep_events) {
      to.writes.prune_events.emplace_back(state_.path, last_event_);
    }
    state_.last_event = last_event_;
    // Of several turns in one batch, the last has the word.
    auto& states = to.writes.states;
    if (states.empty() || states.back().now.path != state_.path) states.emplace_back();
    states.back().now = state_;
  }

  [[nodiscard]] std::chrono::milliseconds idle_after() const override { return kind_->idle_after; }

private:
  static answer of(verdict what, std::string why) {
    answer out;
    out.what = what;
    out.why = std::move(why);
    return out;
  }

  [[nodiscard]] bool wants_snapshot() const {
    const auto every = kind_->journal.snapshot_every;
    return to_be_written_ || (every != 0 && last_event_ - state_.last_event >= every);
  }

  bool changed_directly(raw_turn& turn) const {
    const auto& next = turn.new_state();
    if (!next || !turn.handed_out()) return false;
    if (turn.events().empty()) return !kind_->journal.same_state(*next, state_.state);
    capnp::MallocMessageBuilder expected;
    kind_->journal.load_state(expected, state_.state);
    for (const auto& e : turn.events()) kind_->journal.appliers.at(e.type)(expected, e.body);
    return !kind_->journal.same_state(*next, flat_bytes(expected));
  }

  // The state is what was written last, and the events that came since. Of a kind without a journal, there are none.
  result<void> recover() {
    std::optional<capnp::MallocMessageBuilder> state;
    auto next = state_.last_event + 1;
    for (std::size_t read = page_max; read == page_max;) {
      const auto page = node_.journal.read_history(state_.path, next, page_max);
      if (!page) {
        node_.on_fatal("cannot read from the store: the events of " + state_.path + ": " + page.error().text);
      }
      read = page->size();
      for (const auto& stored : *page) {
        if (auto r = apply(stored, next++, state); !r) return r;
      }
    }
    if (!state) return {};
    state_.state = flat_bytes(*state);
    last_event_ = next - 1;
    return {};
  }

  result<void> apply(const actor_event& stored, std::uint64_t number,
                     std::optional<capnp::MallocMessageBuilder>& state) const {
    if (stored.number != number) {
      return corrupted("event " + std::to_string(number) + " of actor '" + name_ +
                       "' is missing: the next is " + std::to_string(stored.number) +
                       "; restore a copy of the store");
    }
    const auto event = decode_event(stored);
    if (!event) return event.error();
    const auto which =
        "event " + std::to_string(number) + " of actor '" + name_ + "', of type " + event->type;
    const auto found = kind_->journal.appliers.find(event->type);
    if (found == kind_->journal.appliers.end()) {
      return refused(which + ", is not known to the kind '" + kind_->name +
                     "': start a program whose kind has on_event for it; nothing was changed");
    }
    try {
      if (!state) kind_->journal.load_state(state.emplace(), state_.state);
      found->second(*state, event->body);
    } catch (const std::exception& e) {
      return refused(which + ", cannot be applied: " + e.what());
    } catch (...) {
      return refused(which + ", cannot be applied: on_event threw something that is no std::exception");
    }
    return {};
  }

  // fixed after construction
  node_context& node_;
  std::shared_ptr<const actor_kind> kind_;
  std::string name_;
  queue_port& port_;

  actor_state state_;         // last_event is what the store will have with the state that was saved last
  std::uint64_t last_event_;  // of the journal
  bool recovered_ = false;
  bool changed_ = false;
  bool to_be_written_ = false;  // the state itself, whatever the journal has
};

}  // namespace

std::unique_ptr<inhabitant> make_durable_actor(node_context& node, std::shared_ptr<const actor_kind> kind,
                                               std::string name, queue_port& port, actor_state state) {
  return std::make_unique<durable_actor>(node, std::move(kind), std::move(name), port, std::move(state));
}

}  // namespace posthorn

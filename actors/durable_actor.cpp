#include "actors/durable_actor.hpp"

#include "actors/turn.hpp"
#include "actors/vhost.hpp"

#include <exception>

namespace posthorn {

namespace {

class durable_actor final : public inhabitant {
public:
  durable_actor(node_context& node, std::shared_ptr<const actor_kind> kind, std::string name,
                queue_port& port, actor_state state)
      : node_{node}, kind_{std::move(kind)}, name_{std::move(name)}, port_{port}, state_{std::move(state)} {}

  result<void> begin() override {
    if (state_.schema_version > kind_->schema_version) {
      return refused("the state of actor '" + name_ + "' was written by version " +
                     std::to_string(state_.schema_version) + " of its schema; this program knows " +
                     std::to_string(kind_->schema_version) + ": start a newer program");
    }
    return {};
  }

  answer take(const delivery& message, outgoing& sent, std::int64_t now) override {
    const auto& envelope = *message.message;
    const auto type = text_property(envelope.properties(), property::type);
    const auto found = type ? kind_->handlers.find(*type) : kind_->handlers.end();
    if (found == kind_->handlers.end()) {
      return {verdict::rejected,
              type ? "actor '" + name_ + "' does not know messages of type '" + std::string{*type} + "'"
                   : "a message without the property `type`"};
    }
    const auto vhost = node_.actors_vhost.lock();
    if (!vhost) return {verdict::failed, "the node stops"};
    const auto where = vhost->snapshot();
    raw_turn turn{{node_, *where, message, sent, name_, state_.path, state_.state, now, state_.mailbox}};
    try {
      found->second(turn, envelope.body(), turn.format());
    } catch (const std::exception& e) {
      return {verdict::failed, e.what()};
    } catch (...) {
      return {verdict::failed, "a handler threw something that is no std::exception"};
    }
    if (turn.rejected()) return {verdict::rejected, *turn.rejected()};
    if (const auto checked = check(sent.writes); !checked) return {verdict::failed, checked.error().text};
    ++state_.turn;
    changed_ = true;
    if (auto& next = turn.new_state()) state_.state = std::move(*next);
    return {};
  }

  void save(outgoing& to, sequence used) override {
    if (!std::exchange(changed_, false)) return;
    state_.used = used;
    state_.schema_version = kind_->schema_version;
    // Of several turns in one batch, the last has the word.
    auto& states = to.writes.states;
    if (states.empty() || states.back().now.path != state_.path) states.emplace_back();
    states.back().now = state_;
  }

  [[nodiscard]] std::chrono::milliseconds idle_after() const override { return kind_->idle_after; }

private:
  // fixed after construction
  node_context& node_;
  std::shared_ptr<const actor_kind> kind_;
  std::string name_;
  queue_port& port_;

  actor_state state_;
  bool changed_ = false;
};

}  // namespace

std::unique_ptr<inhabitant> make_durable_actor(node_context& node, std::shared_ptr<const actor_kind> kind,
                                               std::string name, queue_port& port, actor_state state) {
  return std::make_unique<durable_actor>(node, std::move(kind), std::move(name), port, std::move(state));
}

}  // namespace posthorn

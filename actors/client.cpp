#include "actors/client.hpp"

#include "actors/actor_house.hpp"
#include "actors/inhabitant.hpp"
#include "actors/queue.hpp"
#include "actors/supervisor.hpp"
#include "actors/vhost.hpp"

#include <mutex>
#include <unordered_map>

namespace posthorn {

namespace {

struct pending {
  std::promise<result<void>> sent;
};
struct asked {
  std::promise<result<envelope_ptr>> answered;
};

}  // namespace

struct client::state : std::enable_shared_from_this<client::state> {
  explicit state(broker& b) : node{b} {}

  broker& node;
  connection_id id{};
  publisher_id by{};
  std::string name;         // "clients/7"
  connection_actor handle;  // hears what becomes of publishes

  std::mutex mutex;  // guards what follows
  std::uint64_t last_number = 0, last_question = 0;
  std::unordered_map<std::uint64_t, pending> sending;  // by number
  std::unordered_map<std::string, asked> asking;       // by correlation id

  std::future<result<void>> publish(std::string_view to, const typed_message& m, std::string_view reply_to,
                                    std::string_view correlation) {
    std::promise<result<void>> refusal;
    if (to.size() > envelope::name_size_max) {
      refusal.set_value(refused("a name has at most 255 octets"));
      return refusal.get_future();
    }
    basic_properties properties;
    properties.content_type = "application/x-capnp";
    properties.delivery_mode = std::uint8_t{2};
    properties.type = m.type;
    if (!reply_to.empty()) properties.reply_to = std::string{reply_to};
    if (!correlation.empty()) properties.correlation_id = std::string{correlation};
    std::string encoded;
    encode_properties(properties, encoded);
    const auto message = make_envelope("", to, std::as_bytes(std::span{encoded}), true, m.body);
    auto& context = node.context();
    const auto vhost = context.actors_vhost.lock();
    const auto targets = context.house->route(*vhost->snapshot(), *message);
    if (targets.empty()) {
      refusal.set_value(
          refused("nothing has the name '" + std::string{to} +
                  "': send to an actor of a known kind (\"kind/id\") or to a queue that was declared"));
      return refusal.get_future();
    }
    std::future<result<void>> out;
    publish_batch batch{handle, id, {}};
    // Numbers go up in each mailbox, so they are given out and sent under the lock.
    const std::lock_guard guard{mutex};
    const auto number = ++last_number;
    out = sending[number].sent.get_future();
    batch.messages.push_back({message, by, number});
    targets.front()->post(std::move(batch));
    return out;
  }

  void on_settled(const settled& message) {
    const std::lock_guard guard{mutex};
    for (const auto& s : message.settlements) {
      for (auto n = s.first; n <= s.last; ++n) {
        const auto found = sending.find(n);
        if (found == sending.end()) continue;
        found->second.sent.set_value(
            s.rejected ? result<void>{overloaded("the mailbox is full and refused the message")}
                       : result<void>{});
        sending.erase(found);
      }
    }
  }

  void on_reply(const envelope_ptr& message) {
    const auto correlation = correlation_id_of(message->properties());
    if (!correlation) return;
    const std::lock_guard guard{mutex};
    const auto found = asking.find(std::string{*correlation});
    if (found == asking.end()) return;  // its deadline has passed
    found->second.answered.set_value(message);
    asking.erase(found);
  }
};

namespace {

class reply_taker final : public inhabitant {
public:
  explicit reply_taker(std::function<void(const envelope_ptr&)> take) : take_{std::move(take)} {}
  result<void> begin() override { return {}; }
  answer take(const delivery& message, outgoing&, std::int64_t) override {
    take_(message.message);
    return {};
  }
  void save(outgoing&, sequence) override {}
  [[nodiscard]] std::chrono::milliseconds idle_after() const override { return {}; }

private:
  std::function<void(const envelope_ptr&)> take_;
};

}  // namespace

client::client(broker& node) : state_{std::make_shared<state>(node)} {
  auto& context = node.context();
  auto& s = *state_;
  s.id = node_context::next_id<connection_id>(context.last_connection);
  s.by = {s.id.value << 16 | 1};
  s.name = "clients/" + std::to_string(s.id.value);
  s.handle = node.system().spawn(
      [weak = std::weak_ptr<state>{state_}](connection_actor::pointer) -> connection_actor::behavior_type {
        return {
            [](deliver&) {},
            [weak](settled& m) {
              if (const auto alive = weak.lock()) alive->on_settled(m);
            },
            [](reply&) {},
            [](consumer_cancelled&) {},
            [](close_connection&) {},
            [](alarm_changed&) {},
        };
      });
  child_spec rules;
  rules.restart = restart_kind::transient;
  actor_place place;
  place.name = s.name;
  place.path = actor_house::path_of(s.name);
  place.supervision = rules;
  place.durable = false;
  auto port = add_actor(context, *context.house->clients(), place, {},
                        [weak = std::weak_ptr<state>{state_}](queue_port&) {
                          return std::make_unique<reply_taker>([weak](const envelope_ptr& m) {
                            if (const auto alive = weak.lock()) alive->on_reply(m);
                          });
                        });
  context.house->keep(s.name, std::move(port));
}

client::~client() {
  auto& s = *state_;
  caf::anon_send_exit(s.handle, caf::exit_reason::user_shutdown);
  if (auto port = s.node.context().house->release(s.name)) port->post(queue_removed_now{port});
}

std::future<result<void>> client::send_raw(std::string_view to, const typed_message& m) {
  return state_->publish(to, m, "", "");
}

result<envelope_ptr> client::ask_raw(std::string_view to, const typed_message& m,
                                     std::chrono::milliseconds deadline) {
  auto& s = *state_;
  std::string question;
  std::future<result<envelope_ptr>> answer;
  {
    const std::lock_guard guard{s.mutex};
    question = std::to_string(++s.last_question);
    answer = s.asking[question].answered.get_future();
  }
  const auto give_up_at = std::chrono::steady_clock::now() + deadline;
  auto sent = s.publish(to, m, s.name, question);
  const auto forget = [&] {
    const std::lock_guard guard{s.mutex};
    s.asking.erase(question);
  };
  if (sent.wait_until(give_up_at) == std::future_status::ready) {
    if (auto done = sent.get(); !done) {
      forget();
      return done.error();
    }
    if (answer.wait_until(give_up_at) == std::future_status::ready) return answer.get();
  }
  forget();
  return overloaded("no answer of '" + std::string{to} + "' came within " + std::to_string(deadline.count()) +
                    " ms; it may still come, and is then dropped");
}

}  // namespace posthorn

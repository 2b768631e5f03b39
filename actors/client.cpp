#include "actors/client.hpp"

#include "actors/actor_house.hpp"
#include "actors/inhabitant.hpp"
#include "actors/queue.hpp"
#include "actors/simulation.hpp"
#include "actors/supervisor.hpp"
#include "actors/vhost.hpp"
#include "mailbox/queue_arguments.hpp"

#include <caf/logger.hpp>

#include <algorithm>
#include <map>
#include <mutex>
#include <random>
#include <unordered_map>

namespace posthorn {

namespace {

constexpr request_token deadlines_token = 0;  // of a message that the client sends itself

template <class T>
std::future<result<T>> at_once(result<T> what) {
  std::promise<result<T>> made;
  made.set_value(std::move(what));
  return made.get_future();
}

}  // namespace

struct client::state : std::enable_shared_from_this<client::state> {
  using clock_time = caf::actor_clock::time_point;

  explicit state(broker& b) : node{b} {}

  struct pending {
    std::promise<result<void>> sent;
    std::size_t mailboxes = 1;  // that have not answered
    bool rejected = false;
    std::string question{};  // that it asks, if it asks one
  };
  struct asked {
    std::promise<result<envelope_ptr>> answered;
    std::multimap<clock_time, std::string>::iterator deadline;
    std::string to;
    std::chrono::milliseconds patience{};
  };

  broker& node;
  connection_id id{};
  publisher_id by{};
  std::string name;         // "clients/7"
  connection_actor handle;  // hears what becomes of publishes and requests

  std::mutex mutex;  // guards what follows
  std::uint64_t last_number = 0, last_question = 0;
  request_token last_token = deadlines_token;
  std::unordered_map<std::uint64_t, pending> sending;  // by number
  std::unordered_map<std::string, asked> asking;       // by correlation id
  std::multimap<clock_time, std::string> deadlines;    // of what is asked
  clock_time armed_for = clock_time::max();            // the deadline that a timer is set for
  std::unordered_map<request_token, std::function<void(reply&)>> requests;

  std::future<result<void>> publish(std::string_view exchange, std::string_view key, const typed_message& m,
                                    std::string_view reply_to = "", std::string_view correlation = "") {
    if (exchange.size() > envelope::name_size_max || key.size() > envelope::name_size_max) {
      return at_once<void>(refused("a name has at most 255 octets"));
    }
    if (m.body.size() > envelope::body_size_max) {
      return at_once<void>(
          refused("a message of " + std::to_string(m.body.size()) +
                  " bytes is larger than a message can be: " + std::to_string(envelope::body_size_max)));
    }
    basic_properties properties;
    properties.content_type = "application/x-capnp";
    properties.delivery_mode = std::uint8_t{2};
    properties.type = m.type;
    if (!reply_to.empty()) properties.reply_to = std::string{reply_to};
    if (!correlation.empty()) properties.correlation_id = std::string{correlation};
    std::string encoded;
    encode_properties(properties, encoded);
    const auto message = make_envelope(exchange, key, std::as_bytes(std::span{encoded}), true, m.body);
    auto& context = node.context();
    const auto where = context.actors_vhost.lock()->snapshot();
    const auto* source = where->find_exchange(exchange);
    if (source == nullptr) {
      return at_once<void>(
          refused("there is no exchange '" + std::string{exchange} + "' to publish to: declare it first"));
    }
    if (source->definition.internal) {
      return at_once<void>(refused("the exchange '" + std::string{exchange} +
                                   "' is internal: publish to one that is bound to it"));
    }
    std::vector<std::string_view> histories;
    const auto targets =
        context.house->route(*where, *message, {.chance = context.next_chance(), .histories = &histories});
    if (!histories.empty()) {
      remember passed;
      for (const auto passed_by : histories) passed.passed.push_back({std::string{passed_by}, message});
      context.actors_vhost.lock()->post(std::move(passed));
    }
    if (targets.empty()) {
      if (exchange.empty()) return at_once<void>(context.house->why_nowhere(key));
      context.counters.unroutable->inc();
      return at_once<void>({});
    }
    // Numbers go up in each mailbox, so they are given out and sent under the lock.
    const std::lock_guard guard{mutex};
    const auto number = ++last_number;
    auto& entry = sending[number];
    entry.mailboxes = targets.size();
    entry.question = correlation;
    auto out = entry.sent.get_future();
    for (const auto& to : targets) {
      publish_batch batch{handle, id, {}};
      batch.messages.push_back({message, by, number});
      to->post(std::move(batch));
    }
    return out;
  }

  void on_settled(const settled& message) {
    const auto refusal = overloaded("the mailbox is full and refused the message");
    const std::lock_guard guard{mutex};
    for (const auto& s : message.settlements) {
      for (auto n = s.first; n <= s.last; ++n) {
        const auto found = sending.find(n);
        if (found == sending.end()) continue;
        auto& entry = found->second;
        entry.rejected = entry.rejected || s.rejected;
        if (--entry.mailboxes != 0) continue;
        if (entry.rejected && !entry.question.empty()) answer_locked(entry.question, refusal);
        entry.sent.set_value(entry.rejected ? result<void>{refusal} : result<void>{});
        sending.erase(found);
      }
    }
  }

  // --- questions ---

  std::future<result<envelope_ptr>> ask(std::string_view to, const typed_message& m,
                                        std::chrono::milliseconds patience) {
    std::string question;
    std::future<result<envelope_ptr>> out;
    {
      const std::lock_guard guard{mutex};
      question = std::to_string(++last_question);
      auto& entry = asking[question];
      entry.to = to;
      entry.patience = patience;
      out = entry.answered.get_future();
      entry.deadline = deadlines.emplace(node.system().clock().now() + patience, question);
      arm();
    }
    auto sent = publish("", to, m, name, question);
    if (sent.wait_for(std::chrono::seconds{0}) == std::future_status::ready) {
      if (auto done = sent.get(); !done) answer(question, done.error());
    }
    return out;
  }

  // Under the lock. One timer for the earliest deadline, and none for each question: they would pile up.
  void arm() {
    if (deadlines.empty() || armed_for <= deadlines.begin()->first) return;
    armed_for = deadlines.begin()->first;
    const auto left = std::max(clock_time::duration::zero(), armed_for - node.system().clock().now());
    const auto whole =
        std::chrono::duration_cast<std::chrono::milliseconds>(left) + std::chrono::milliseconds{1};
    caf::delayed_anon_send(handle, whole, reply{deadlines_token, done{}});
  }

  void answer(const std::string& question, result<envelope_ptr> what) {
    const std::lock_guard guard{mutex};
    answer_locked(question, std::move(what));
  }
  void answer_locked(const std::string& question, result<envelope_ptr> what) {
    const auto found = asking.find(question);
    if (found == asking.end()) return;  // its deadline has passed
    deadlines.erase(found->second.deadline);
    found->second.answered.set_value(std::move(what));
    asking.erase(found);
  }

  void on_answer(const envelope_ptr& message) {
    if (const auto correlation = correlation_id_of(message->properties())) {
      answer(std::string{*correlation}, message);
    }
  }

  void on_deadline() {
    const std::lock_guard guard{mutex};
    const auto now = node.system().clock().now();
    if (now < armed_for) return;  // a later timer stands for what is left
    armed_for = clock_time::max();
    while (!deadlines.empty() && deadlines.begin()->first <= now) {
      const auto found = asking.find(deadlines.begin()->second);
      deadlines.erase(deadlines.begin());
      auto& late = found->second;
      late.answered.set_value(overloaded("no answer of '" + late.to + "' came within " +
                                         std::to_string(late.patience.count()) +
                                         " ms; it may still come, and is then dropped"));
      asking.erase(found);
    }
    arm();
  }

  // --- requests to queues and the vhost ---

  // `post(token)` sends the request.
  template <class T, class Take, class Post>
  std::future<result<T>> request(Take take, Post post) {
    auto promise = std::make_shared<std::promise<result<T>>>();
    auto out = promise->get_future();
    request_token token = 0;
    {
      const std::lock_guard guard{mutex};
      token = ++last_token;
      requests[token] = [promise, take](reply& what) {
        const auto* no = std::get_if<refusal>(&what.what);
        promise->set_value(no != nullptr ? result<T>{refused(no->text)} : take(what));
      };
    }
    post(token);
    return out;
  }

  template <class Command>
  std::future<result<void>> change(Command command) {
    if constexpr (requires { command.by; }) command.by = id;
    return request<void>([](reply&) { return result<void>{}; },
                         [&](request_token token) {
                           topology_request asked_for{handle, token, std::move(command)};
                           node.context().actors_vhost.lock()->post(std::move(asked_for));
                         });
  }

  void on_reply(reply& what) {
    if (what.token == deadlines_token) return on_deadline();
    std::function<void(reply&)> take;
    {
      const std::lock_guard guard{mutex};
      const auto found = requests.find(what.token);
      if (found == requests.end()) return;
      take = std::move(found->second);
      requests.erase(found);
    }
    take(what);
  }
};

client::client(broker& node) : state_{std::make_shared<state>(node)} {
  auto& context = node.context();
  auto& s = *state_;
  s.id = node_context::next_id<connection_id>(context.last_connection);
  s.by = {s.id.value << 16 | 1};
  // An answer to a question of an earlier run must not be taken for one to a question of this one.
  std::random_device entropy;
  const auto run = context.simulated != nullptr ? context.simulated->choose(UINT64_MAX)
                                                : std::uint64_t{entropy()} << 32 | entropy();
  s.name = "clients/" + std::to_string(s.id.value) + "-" + std::to_string(run);
  s.handle = node.system().spawn(
      [weak = std::weak_ptr<state>{state_}](connection_actor::pointer) -> connection_actor::behavior_type {
        return {
            [](deliver&) {},
            [weak](settled& m) {
              if (const auto alive = weak.lock()) alive->on_settled(m);
            },
            [weak](reply& m) {
              if (const auto alive = weak.lock()) alive->on_reply(m);
            },
            [](consumer_cancelled&) {},
            [](close_connection&) {},
            [](alarm_changed&) {},
        };
      });
  // CAF keeps the system for the thread that spawns, and the system would wait for this thread to end.
  caf::logger::set_current_actor_system(nullptr);
  child_spec rules;
  rules.restart = restart_kind::transient;
  actor_place place;
  place.name = s.name;
  place.path = actor_house::path_of(s.name);
  place.supervision = rules;
  place.durable = false;
  auto port = add_actor(context, *context.house->clients(), place, {},
                        [weak = std::weak_ptr<state>{state_}](queue_port&) {
                          return std::make_unique<message_taker>([weak](const envelope_ptr& m) {
                            if (const auto alive = weak.lock()) alive->on_answer(m);
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
  return state_->publish("", to, m);
}

std::future<result<void>> client::publish_raw(std::string_view exchange, std::string_view key,
                                              const typed_message& m) {
  return state_->publish(exchange, key, m);
}

std::future<result<envelope_ptr>> client::ask_raw(std::string_view to, const typed_message& m,
                                                  std::chrono::milliseconds deadline) {
  return state_->ask(to, m, deadline);
}

std::future<result<void>> client::declare_exchange(std::string_view name, exchange_type type) {
  posthorn::declare_exchange command;
  command.name = name;
  command.type = to_string(type);
  command.durable = true;
  return state_->change(std::move(command));
}

std::future<result<void>> client::declare_queue(std::string_view name, const mailbox_rules& rules) {
  posthorn::declare_queue command;
  command.name = name;
  command.durable = true;
  std::string arguments;
  encode_table(arguments_of(rules), arguments);
  command.arguments = arguments.substr(4);  // without its length
  return state_->change(std::move(command));
}

std::future<result<void>> client::delete_exchange(std::string_view name) {
  return state_->change(posthorn::delete_exchange{std::string{name}, false});
}

std::future<result<void>> client::bind(std::string_view to, std::string_view exchange,
                                       std::string_view routing_key) {
  posthorn::bind command;
  command.source = exchange;
  command.destination = to;
  command.routing_key = routing_key;
  return state_->change(std::move(command));
}

std::future<result<void>> client::unbind(std::string_view from, std::string_view exchange,
                                         std::string_view routing_key) {
  posthorn::unbind command;
  command.source = exchange;
  command.destination = from;
  command.routing_key = routing_key;
  return state_->change(std::move(command));
}

std::future<result<envelope_ptr>> client::take(std::string_view queue) {
  auto& s = *state_;
  auto& context = s.node.context();
  const auto where = context.actors_vhost.lock()->snapshot();
  auto found = where->access_queue(queue, s.id);
  if (const auto* no = std::get_if<refusal>(&found)) return at_once<envelope_ptr>(refused(no->text));
  auto& port = port_of(*std::get<queue_ptr>(found));
  return s.request<envelope_ptr>(
      [](reply& what) -> result<envelope_ptr> {
        auto& one = std::get<fetched>(what.what).message;
        return one ? one->message : envelope_ptr{};
      },
      [&](request_token token) {
        const auto holder = node_context::next_id<consumer_id>(context.last_consumer);
        port.post(fetch_message{s.handle, s.id, token, holder, false});
      });
}

}  // namespace posthorn

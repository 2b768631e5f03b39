// A broker, and connections to it that only note down what they are told. For tests of the broker from its actors' side.
//
// Nothing here sleeps: what is expected is waited for, or the deadline has passed.
#pragma once

#include "actors/broker.hpp"
#include "actors/queue.hpp"
#include "actors/supervisor.hpp"
#include "mailbox/field_table.hpp"
#include "tests/persist/scratch.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

namespace posthorn::probed {

constexpr auto patience = std::chrono::seconds{60};  // under a sanitizer on a busy machine, too
constexpr std::int64_t plenty = std::int64_t{1} << 40;

using queue_handle = std::shared_ptr<queue_port>;

// For what nobody is told about: looks again and again, and lets others run in between.
template <class Condition>
bool eventually(Condition condition, std::chrono::milliseconds within = patience) {
  const auto give_up_at = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up_at) return false;
    std::this_thread::yield();
  }
  return true;
}

// What a connection has heard.
struct hearing {
  std::mutex mutex;
  std::condition_variable news;
  std::vector<delivery> deliveries;
  std::map<std::uint64_t, int> settled, rejected;  // how often, by number
  std::atomic<std::size_t> settled_count{0};       // with those that were rejected
  std::map<request_token, std::vector<reply>> replies;
  std::vector<request_token> order;  // of the replies
  std::vector<consumer_id> cancelled;
  bool closed = false;

  template <class Note>
  void note(Note&& how) {
    {
      const std::lock_guard guard{mutex};
      if (closed) return;
      how();
    }
    news.notify_all();
  }
};

inline connection_actor::behavior_type listener(std::shared_ptr<hearing> h) {
  return {
      [h](deliver& m) {
        h->note(
            [&] { std::move(m.deliveries.begin(), m.deliveries.end(), std::back_inserter(h->deliveries)); });
      },
      [h](settled& m) {
        h->note([&] {
          for (const auto& s : m.settlements) {
            for (auto n = s.first; n <= s.last; ++n) {
              ++(s.rejected ? h->rejected : h->settled)[n];
              ++h->settled_count;
            }
          }
        });
      },
      [h](reply& m) {
        h->note([&] {
          h->order.push_back(m.token);
          h->replies[m.token].push_back(std::move(m));
        });
      },
      [h](consumer_cancelled& m) { h->note([&] { h->cancelled.push_back(m.consumer); }); },
      [](close_connection&) {},
      [](alarm_changed&) {},
  };
}

// A broker on a directory of its own. It stops when nobody has a handle of an actor any more, as behind its gateways.
class node {
public:
  explicit node(std::uint64_t memory = std::uint64_t{128} << 20) : memory_{memory} { start(); }

  void start() {
    broker_settings settings;
    settings.data_directory = directory.path();
    settings.map_size = std::uint64_t{256} << 20;
    settings.disk_free_min = 1;
    settings.memory_messages_max = memory_;
    settings.threads = 3;
    auto started = broker::start(std::move(settings));
    REQUIRE(started.has_value());
    running = std::move(*started);
  }
  void restart() {
    running.reset();
    start();
  }
  broker& operator*() const { return *running; }
  [[nodiscard]] supervisor& tree() const { return running->tree(); }
  [[nodiscard]] topology_ptr snapshot() const { return running->find_vhost("/")->snapshot(); }

  // What would be found if the machine stopped now. Nothing may be under way.
  [[nodiscard]] recovered_store on_disk() const {
    const scratch_directory copy;
    copy.set_content(directory.content());
    return recover(*open_store(copy, std::uint64_t{256} << 20));
  }

  [[nodiscard]] caf::actor_id id(const std::string& path) const {
    const auto handle = tree().find(path);
    return handle ? handle.id() : 0;
  }
  // Gives the order, which may come at a bad time, until another actor runs there.
  template <class Order>
  bool replace(const std::string& path, Order order) const {
    const auto before = id(path);
    return eventually([&] {
      if (id(path) == before) (void)order(path);
      const auto now = id(path);
      return now != 0 && now != before;
    });
  }
  bool kill(const std::string& path) const {
    return replace(path, [&](const std::string& p) { return tree().kill(p); });
  }
  bool restart_actor(const std::string& path) const {
    const auto before = id(path);
    if (!tree().restart(path)) return false;
    return eventually([&] {
      const auto now = id(path);
      return now != 0 && now != before;
    });
  }

  scratch_directory directory;
  std::unique_ptr<broker> running;

private:
  std::uint64_t memory_;
};

// A connection, as the broker sees it.
class client {
public:
  explicit client(broker& b) : broker_{b} {
    id = node_context::next_id<connection_id>(b.context().last_connection);
    by = {id.value << 16 | 1};
    handle = b.system().spawn([h = heard](connection_actor::pointer) { return listener(h); });
  }
  ~client() { leave(); }
  client(const client&) = delete;
  client& operator=(const client&) = delete;

  void leave(caf::exit_reason how = caf::exit_reason::user_shutdown) {
    if (handle) caf::anon_send_exit(handle, how);
    handle = nullptr;
    // A queue that was removed lives as long as an answer that names it.
    const std::lock_guard guard{heard->mutex};
    heard->closed = true;
    heard->replies.clear();
  }
  void forget_replies() {
    const std::lock_guard guard{heard->mutex};
    heard->replies.clear();
  }
  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock{heard->mutex};
    return heard->news.wait_for(lock, patience, condition);
  }

  // --- requests and their answers ---

  template <class Command>
  request_token ask_vhost(Command command, const char* vhost = "/") {
    const auto token = ++last_token_;
    broker_.find_vhost(vhost)->post(topology_request{handle, token, std::move(command)});
    return token;
  }
  template <class Request>
  request_token ask(const queue_handle& queue, Request request) {
    request.from = handle;
    request.token = ++last_token_;
    const auto token = request.token;
    queue->post(std::move(request));
    return token;
  }
  reply answer(request_token token) {
    REQUIRE(wait([&] { return heard->replies.contains(token); }));
    const std::lock_guard guard{heard->mutex};
    return heard->replies.at(token).front();
  }
  template <class Answer>
  Answer answer(request_token token) {
    auto got = answer(token);
    const auto* refused = std::get_if<refusal>(&got.what);
    INFO("refused: " << (refused != nullptr ? refused->text : ""));
    REQUIRE(std::holds_alternative<Answer>(got.what));
    return std::get<Answer>(std::move(got.what));
  }

  // --- what clients do ---

  [[nodiscard]] declare_queue a_queue(const std::string& name, const field_table& arguments = {}) const {
    declare_queue c;
    c.name = name;
    c.durable = true;
    c.by = id;
    encode_table(arguments, c.arguments);
    c.arguments.erase(0, 4);  // its length
    return c;
  }
  queue_handle declare(const std::string& name, const field_table& arguments = {}) {
    const auto declared = answer<queue_declared>(ask_vhost(a_queue(name, arguments)));
    REQUIRE(declared.queue != nullptr);
    return port_of(*declared.queue).shared_from_this();
  }
  [[nodiscard]] queue_handle queue(const std::string& name) const {
    const auto snapshot = broker_.find_vhost("/")->snapshot();
    const auto* found = snapshot->find_queue(name);
    REQUIRE(found != nullptr);
    return port_of(**found).shared_from_this();
  }
  // A fanout exchange that leads to the queue.
  void lead(const std::string& exchange, const std::string& to) {
    answer<done>(ask_vhost(declare_exchange{exchange, "fanout", false, true, false, false, {}}));
    answer<done>(ask_vhost(posthorn::bind{{}, destination_kind::queue, exchange, to, "", {}, id}));
  }
  void publish(const queue_handle& to, std::vector<envelope_ptr> messages) {
    publish_batch batch{handle, id, {}};
    for (auto& m : messages) batch.messages.push_back({std::move(m), by, ++published});
    to->post(std::move(batch));
  }
  // The body is the message's number, and then as much padding as is asked for.
  void publish(const queue_handle& to, std::size_t count, bool persistent = true, std::size_t padding = 0) {
    std::vector<envelope_ptr> messages;
    for (std::size_t n = 0; n < count; ++n) {
      auto body = std::to_string(published + n + 1);
      if (padding != 0) body += " " + std::string(padding, 'x');
      messages.push_back(message_of(body, persistent));
    }
    publish(to, std::move(messages));
  }
  bool all_settled(std::size_t count) {
    return wait([&] { return heard->settled_count >= count; });
  }
  bool all_settled() { return all_settled(published); }
  // Every publish was answered, each once.
  void check_settled_once() {
    REQUIRE(all_settled());
    const std::lock_guard guard{heard->mutex};
    CHECK(heard->settled_count == published);
    CHECK(heard->settled.size() + heard->rejected.size() == published);
  }
  consumer_id start_consuming(const queue_handle& from, std::uint32_t prefetch = 0, bool exclusive = false) {
    const auto consumer = node_context::next_id<consumer_id>(broker_.context().last_consumer);
    consume request;
    request.by = id;
    request.consumer = {consumer, prefetch, true, plenty};
    request.exclusive = exclusive;
    last_asked = ask(from, std::move(request));
    return consumer;
  }
  consumer_id consume_from(const queue_handle& from, std::uint32_t prefetch = 0) {
    const auto consumer = start_consuming(from, prefetch);
    answer<done>(last_asked);
    return consumer;
  }
  // Takes the deliveries out of the notes when there are that many.
  std::vector<delivery> take(std::size_t count) {
    REQUIRE(wait([&] { return heard->deliveries.size() >= count; }));
    const std::lock_guard guard{heard->mutex};
    return std::exchange(heard->deliveries, {});
  }
  void answer_for(const queue_handle& queue, const std::vector<delivery>& deliveries,
                  outcome how = outcome::acknowledged) {
    answer_held message;
    for (const auto& d : deliveries) message.answers.push_back({d.to, how, {{d.at, d.at}}});
    queue->post(std::move(message));
  }
  queue_counts counts(const queue_handle& queue) { return answer<queue_counts>(ask(queue, inspect_queue{})); }
  bool becomes_ready(const queue_handle& queue, std::uint64_t count) {
    return eventually([&] { return queue->ready.load() == count; });
  }
  std::optional<delivery> get(const queue_handle& queue) {
    fetch_message request;
    request.by = id;
    request.holder = node_context::next_id<consumer_id>(broker_.context().last_consumer);
    request.acknowledges = false;
    return answer<fetched>(ask(queue, std::move(request))).message;
  }

  connection_id id;
  publisher_id by;
  connection_actor handle;
  std::shared_ptr<hearing> heard = std::make_shared<hearing>();
  std::uint64_t published = 0;
  request_token last_asked = 0;

private:
  broker& broker_;
  request_token last_token_ = 0;
};

inline std::string body_of(const delivery& d) { return posthorn::body_of(*d.message); }
// The number that the body begins with.
inline std::uint64_t number_of(const delivery& d) { return std::stoull(body_of(d)); }
inline std::vector<std::string> bodies_of(const std::vector<delivery>& deliveries) {
  std::vector<std::string> out;
  for (const auto& d : deliveries) out.push_back(body_of(d));
  return out;
}

}  // namespace posthorn::probed

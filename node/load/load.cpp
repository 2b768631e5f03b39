#include "node/load/load.hpp"

#include "gateway/amqp091/methods.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"
#include "node/load/confirm_window.hpp"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace posthorn {
namespace {

namespace amqp = amqp091;
namespace method = amqp091::method;
using namespace std::chrono_literals;
using steady = std::chrono::steady_clock;

constexpr auto patience = 20s;  // for the last confirms, and for a consumer that hears nothing more
constexpr std::size_t batch_size = std::size_t{256} << 10U;  // bytes that a producer hands over at a time

std::uint64_t now_ns() { return static_cast<std::uint64_t>(steady::now().time_since_epoch().count()); }

std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string table_body(const field_table& table) {
  std::string out;
  encode_table(table, out);
  return out.substr(4);
}

// Written by its worker's thread, read by the one that reports; on a cache line of its own.
struct alignas(64) counter {
  std::atomic<std::uint64_t> value = 0;

  void add(std::uint64_t n) {
    value.store(value.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t get() const { return value.load(std::memory_order_relaxed); }
};

// What all workers see.
struct stage {
  explicit stage(const load_options& o) : options{o} {}

  const load_options& options;
  std::atomic<bool> begin = false;    // all are connected
  std::atomic<bool> measure = false;  // latencies count
  std::atomic<bool> stop_publishing = false;
  std::atomic<bool> stop_consuming = false;
  std::atomic<bool> has_failed = false;

  std::mutex mutex;  // guards `first_error`
  std::optional<error> first_error;

  void fail(const error& failure) {
    const std::lock_guard lock{mutex};
    if (!first_error) first_error = failure;
    has_failed = true;
  }

  [[nodiscard]] std::string queue_name(unsigned index) const {
    return options.name + '-' + std::to_string(index);
  }
  [[nodiscard]] std::string exchange_name() const {
    return options.exchange_type.empty() ? "" : options.name + '.' + options.exchange_type;
  }
};

// Worker i of n takes the queues i, i + n, …, or, if there are fewer queues than workers, the one it shares.
std::vector<unsigned> queues_of(unsigned worker, unsigned workers, unsigned queues) {
  std::vector<unsigned> out;
  if (workers >= queues) return {worker % queues};
  for (unsigned queue = worker; queue < queues; queue += workers) out.push_back(queue);
  return out;
}

// A message to one queue: all its frames, and where in them the time goes.
struct prepared_message {
  std::string bytes;
  std::optional<std::size_t> time_at;
};

prepared_message prepare(const stage& on, unsigned queue, std::uint32_t frame_max) {
  const auto& options = on.options;
  basic_properties properties;
  properties.delivery_mode = options.is_transient ? std::uint8_t{1} : std::uint8_t{2};
  if (options.exchange_type == "headers") {
    properties.headers = field_table{{"queue", field_value::of_string(on.queue_name(queue))}};
  }
  std::string encoded;
  encode_properties(properties, encoded);
  const std::string exchange = on.exchange_name();
  const std::string routing_key = on.queue_name(queue);
  const std::string body(options.size, 'x');
  method::basic_publish publish;
  publish.exchange = exchange;
  publish.routing_key = routing_key;
  prepared_message out;
  amqp::encode(amqp_client::channel, publish, out.bytes);
  amqp::encode_content_header(amqp_client::channel, body.size(), as_bytes(encoded), out.bytes);
  if (body.size() >= sizeof(std::uint64_t)) out.time_at = out.bytes.size() + amqp::frame_header_size;
  amqp::encode_body(amqp_client::channel, as_bytes(body), frame_max, out.bytes);
  return out;
}

class producer {
public:
  producer(stage& on, unsigned index)
      : stage_{on}, index_{index}, window_{std::max<std::size_t>(1, on.options.confirm_window)} {}

  void run() {
    if (auto done = work(); !done) stage_.fail(done.error());
    unconfirmed = stage_.options.confirm_window == 0 ? 0 : window_.in_flight();
    unexpected = window_.unexpected();
    is_over = true;
  }

  result<void> connect() {
    auto opened = amqp_client::open(stage_.options.broker);
    if (!opened) return opened.error();
    client_ = std::move(*opened);
    for (const auto queue : queues_of(index_, stage_.options.producers, stage_.options.queues)) {
      messages_.push_back(prepare(stage_, queue, client_->frame_max()));
    }
    if (stage_.options.confirm_window == 0) return {};
    return client_->call<method::confirm_select_ok>(method::confirm_select{});
  }

  counter published;
  counter confirmed;
  std::atomic<bool> is_over = false;
  // Read when the thread has ended.
  latency_histogram latency;
  std::uint64_t nacked = 0;
  std::uint64_t unconfirmed = 0;
  std::uint64_t unexpected = 0;
  bool was_blocked = false;

private:
  result<void> work() {
    while (!stage_.begin) std::this_thread::sleep_for(200us);
    const auto& options = stage_.options;
    const bool confirms = options.confirm_window != 0;
    const auto limit = options.count == 0 ? ~std::uint64_t{0}
                                          : options.count / options.producers +
                                                (index_ < options.count % options.producers ? 1 : 0);
    const auto began = steady::now();
    const auto batch_max = std::max<std::size_t>(1, batch_size / messages_.front().bytes.size());
    std::string batch;
    while (!stage_.stop_publishing && !stage_.has_failed && sent_ < limit) {
      std::uint64_t room = std::min<std::uint64_t>(batch_max, limit - sent_);
      if (confirms) room = std::min<std::uint64_t>(room, window_.room());
      const bool waits_for_confirms = confirms && room == 0;
      if (options.rate > 0) room = std::min(room, due(began));
      if (client_->is_blocked()) {
        was_blocked = true;
        room = 0;
      }
      if (room != 0) {
        batch.clear();
        for (std::uint64_t i = 0; i < room; ++i) append_one(batch, confirms);
        published.add(room);
        if (auto sent = client_->send(batch); !sent) return sent;
      }
      // Without anything to send, listening is what there is to do; a moment only, if the rate holds us back.
      const auto wait = waits_for_confirms || client_->is_blocked() ? 100ms : 0ms;
      if (auto heard = listen(wait); !heard) return heard;
      if (room == 0 && wait == 0ms) std::this_thread::sleep_for(50us);
    }
    const auto give_up_at = steady::now() + patience;
    while (confirms && window_.in_flight() != 0 && !stage_.has_failed && steady::now() < give_up_at) {
      if (auto heard = listen(100ms); !heard) return heard;
    }
    client_->close();
    return {};
  }

  // How many more the rate allows by now.
  [[nodiscard]] std::uint64_t due(steady::time_point began) const {
    const auto elapsed = std::chrono::duration<double>(steady::now() - began).count();
    const auto planned = static_cast<std::uint64_t>(elapsed * stage_.options.rate / stage_.options.producers);
    return planned > sent_ ? planned - sent_ : 0;
  }

  void append_one(std::string& batch, bool confirms) {
    auto& message = messages_[sent_ % messages_.size()];
    const auto now = now_ns();
    if (message.time_at) std::memcpy(message.bytes.data() + *message.time_at, &now, sizeof now);
    batch += message.bytes;
    if (confirms) window_.published(now);
    ++sent_;
  }

  result<void> listen(std::chrono::milliseconds wait) {
    if (auto received = client_->receive(wait); !received) return received.error();
    while (true) {
      const auto frame = client_->next();
      if (!frame) return frame.error();
      if (!*frame) return {};
      if ((*frame)->type != amqp::frame_type::method) continue;
      const auto payload = (*frame)->payload;
      if (method::basic_ack ack; amqp::decode_as(payload, ack)) {
        settle(ack.delivery_tag, ack.multiple);
      } else if (method::basic_nack nack; amqp::decode_as(payload, nack)) {
        nacked += window_.settle(nack.delivery_tag, nack.multiple, [](std::uint64_t) {});
      }
    }
  }

  void settle(std::uint64_t tag, bool is_multiple) {
    const auto now = now_ns();
    const bool measures = stage_.measure.load(std::memory_order_relaxed);
    confirmed.add(window_.settle(tag, is_multiple, [&](std::uint64_t sent_at) {
      if (measures) latency.record(now - sent_at);
    }));
  }

  stage& stage_;
  const unsigned index_;
  std::unique_ptr<amqp_client> client_;
  std::vector<prepared_message> messages_;
  confirm_window window_;
  std::uint64_t sent_ = 0;
};

class consumer {
public:
  consumer(stage& on, unsigned index) : stage_{on}, index_{index} {
    const auto& options = on.options;
    // Waiting for more than may come before the first acknowledgement would be waiting for ever.
    ack_every_ =
        std::max(1U, options.prefetch == 0 ? options.ack_every
                                           : std::min<unsigned>(options.ack_every, options.prefetch));
  }

  void run() {
    if (auto done = work(); !done) stage_.fail(done.error());
  }

  result<void> connect() {
    const auto& options = stage_.options;
    auto opened = amqp_client::open(options.broker);
    if (!opened) return opened.error();
    client_ = std::move(*opened);
    if (!options.is_auto_ack) {
      method::basic_qos qos;
      qos.prefetch_count = options.prefetch;
      if (auto ok = client_->call<method::basic_qos_ok>(qos); !ok) return ok;
    }
    return {};
  }

  counter consumed;
  latency_histogram latency;  // read when the thread has ended

private:
  result<void> work() {
    const auto& options = stage_.options;
    for (const auto queue : queues_of(index_, options.consumers, options.queues)) {
      const std::string name = stage_.queue_name(queue);
      method::basic_consume consume;
      consume.queue = name;
      consume.no_ack = options.is_auto_ack;
      // Not awaited: with what waits in the queue, deliveries come before the next answer.
      amqp::buffer bytes;
      consume.no_wait = false;
      amqp::encode(amqp_client::channel, consume, bytes);
      if (auto sent = client_->send(bytes); !sent) return sent;
    }
    while (!stage_.stop_consuming && !stage_.has_failed) {
      const auto received = client_->receive(20ms);
      if (!received) return received.error();
      if (auto taken = take_deliveries(); !taken) return taken;
      if (!*received) {
        if (auto sent = acknowledge(); !sent) return sent;
      }
    }
    if (auto sent = acknowledge(); !sent) return sent;
    client_->close();
    return {};
  }

  result<void> take_deliveries() {
    const auto now = now_ns();
    std::uint64_t count = 0;
    while (true) {
      const auto frame = client_->next();
      if (!frame) return frame.error();
      if (!*frame) break;
      const auto payload = (*frame)->payload;
      switch ((*frame)->type) {
        case amqp::frame_type::method:
          if (method::basic_deliver deliver; amqp::decode_deliver(payload, deliver))
            tag_ = deliver.delivery_tag;
          if (method::basic_cancel cancel; amqp::decode_as(payload, cancel)) {
            return error{errc::unreachable,
                         "the broker cancelled the consumer of " + std::string{cancel.consumer_tag}};
          }
          continue;
        case amqp::frame_type::header:
          if (amqp::content_header header; amqp::decode_content_header(payload, header)) {
            body_left_ = header.body_size;
            is_first_piece_ = true;
          }
          break;
        case amqp::frame_type::body:
          if (is_first_piece_) record_latency(payload, now);
          is_first_piece_ = false;
          body_left_ -= std::min<std::uint64_t>(body_left_, payload.size());
          break;
        case amqp::frame_type::heartbeat: continue;
      }
      if (body_left_ != 0) continue;
      ++count;
      if (stage_.options.is_auto_ack || ++unacknowledged_ < ack_every_) continue;
      if (auto sent = acknowledge(); !sent) return sent;
    }
    consumed.add(count);
    return {};
  }

  void record_latency(std::span<const std::byte> body, std::uint64_t now) {
    std::uint64_t sent_at = 0;
    if (body.size() < sizeof sent_at || !stage_.measure.load(std::memory_order_relaxed)) return;
    std::memcpy(&sent_at, body.data(), sizeof sent_at);
    // What stood in the queue before us may hold anything.
    if (sent_at <= now && now - sent_at < 3'600'000'000'000) latency.record(now - sent_at);
  }

  result<void> acknowledge() {
    if (unacknowledged_ == 0) return {};
    unacknowledged_ = 0;
    method::basic_ack ack;
    ack.delivery_tag = tag_;
    ack.multiple = true;
    ack_bytes_.clear();
    amqp::encode(amqp_client::channel, ack, ack_bytes_);
    return client_->send(ack_bytes_);
  }

  stage& stage_;
  const unsigned index_;
  unsigned ack_every_ = 1;
  std::unique_ptr<amqp_client> client_;
  std::uint64_t tag_ = 0;
  std::uint64_t body_left_ = 0;
  bool is_first_piece_ = false;
  unsigned unacknowledged_ = 0;
  amqp::buffer ack_bytes_;
};

result<void> delete_queues(const stage& on, amqp_client& client) {
  for (unsigned i = 0; i < on.options.queues; ++i) {
    const std::string name = on.queue_name(i);
    method::queue_delete request;
    request.queue = name;
    if (auto ok = client.call<method::queue_delete_ok>(request); !ok) return ok;
  }
  const std::string exchange = on.exchange_name();
  if (exchange.empty()) return {};
  method::exchange_delete request;
  request.exchange = exchange;
  return client.call<method::exchange_delete_ok>(request);
}

result<void> declare_queues(const stage& on) {
  auto client = amqp_client::open(on.options.broker);
  if (!client) return client.error();
  if (!on.options.keep) {
    if (auto ok = delete_queues(on, **client); !ok) return ok;
  }
  const std::string exchange = on.exchange_name();
  if (!exchange.empty()) {
    method::exchange_declare request;
    request.exchange = exchange;
    request.type = on.options.exchange_type;
    request.durable = true;
    if (auto ok = (*client)->call<method::exchange_declare_ok>(request); !ok) return ok;
  }
  field_table arguments;
  if (!on.options.queue_type.empty()) {
    arguments.add("x-queue-type", field_value::of_string(on.options.queue_type));
  }
  const auto queue_arguments = table_body(arguments);
  for (unsigned i = 0; i < on.options.queues; ++i) {
    const std::string name = on.queue_name(i);
    method::queue_declare declare;
    declare.queue = name;
    declare.durable = true;
    declare.arguments = as_bytes(queue_arguments);
    if (auto ok = (*client)->call<method::queue_declare_ok>(declare); !ok) return ok;
    if (exchange.empty()) continue;
    field_table matching;
    if (on.options.exchange_type == "headers") {
      matching.add("x-match", field_value::of_string("all"));
      matching.add("queue", field_value::of_string(name));
    }
    const auto bind_arguments = table_body(matching);
    method::queue_bind bind;
    bind.queue = name;
    bind.exchange = exchange;
    bind.routing_key = name;
    bind.arguments = as_bytes(bind_arguments);
    if (auto ok = (*client)->call<method::queue_bind_ok>(bind); !ok) return ok;
  }
  (*client)->close();
  return {};
}

// Threads that are joined, whatever happens.
class crew {
public:
  ~crew() { join(); }
  template <class Worker>
  void start(Worker& worker) {
    threads_.emplace_back([&worker] { worker.run(); });
  }
  void join() {
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }

private:
  std::vector<std::thread> threads_;
};

load_counts operator-(const load_counts& a, const load_counts& b) {
  return {a.published - b.published, a.confirmed - b.confirmed, a.consumed - b.consumed};
}

}  // namespace

result<load_report> run_load(const load_options& options, const load_observer& observe,
                             const std::atomic<bool>& interrupted) {
  stage on{options};
  if (auto ok = declare_queues(on); !ok) return ok.error();
  std::deque<producer> producers;
  std::deque<consumer> consumers;
  for (unsigned i = 0; i < options.consumers; ++i) {
    if (auto ok = consumers.emplace_back(on, i).connect(); !ok) return ok.error();
  }
  for (unsigned i = 0; i < options.producers; ++i) {
    if (auto ok = producers.emplace_back(on, i).connect(); !ok) return ok.error();
  }

  const auto counts = [&] {
    load_counts sum;
    for (const auto& p : producers) {
      sum.published += p.published.get();
      sum.confirmed += p.confirmed.get();
    }
    for (const auto& c : consumers) sum.consumed += c.consumed.get();
    return sum;
  };
  // Every queue is new and has a consumer: then it can be told how many messages there will be.
  const bool is_countable = !options.keep && options.consumers != 0;
  const auto copies = options.exchange_type == "fanout" ? options.queues : 1U;
  const auto all_are_done = [&] {
    const auto sum = counts();
    if (options.producers != 0) {
      return std::all_of(producers.begin(), producers.end(),
                         [](const producer& p) { return p.is_over.load(); }) &&
             (!is_countable || sum.consumed >= sum.published * copies);
    }
    return sum.consumed >= options.count;
  };

  crew consuming;
  crew publishing;
  on.measure = options.count != 0;
  for (auto& c : consumers) consuming.start(c);
  for (auto& p : producers) publishing.start(p);
  on.begin = true;
  const auto sleep_until = [&](steady::time_point until) {
    while (!interrupted && !on.has_failed && steady::now() < until) std::this_thread::sleep_for(1ms);
  };
  if (options.count == 0) sleep_until(steady::now() + options.warm_up);

  load_report report;
  on.measure = true;
  const auto began = steady::now();
  const auto first = options.count == 0 ? counts() : load_counts{};
  auto last = first;
  auto last_at = began;
  auto last_progress = began;
  for (unsigned second = 1; !interrupted && !on.has_failed; ++second) {
    const auto until = began + std::chrono::seconds{second};
    const auto end = options.count == 0 ? began + options.duration : steady::time_point::max();
    while (!interrupted && !on.has_failed && steady::now() < std::min(until, end) &&
           !(options.count != 0 && all_are_done())) {
      std::this_thread::sleep_for(1ms);
    }
    const auto now = steady::now();
    const auto sum = counts();
    const auto delta = sum - last;
    if (delta.published + delta.confirmed + delta.consumed != 0) last_progress = now;
    if (observe && now >= until) observe(second, delta, std::chrono::duration<double>(now - last_at).count());
    last = sum;
    last_at = now;
    if (now >= end || (options.count != 0 && (all_are_done() || now - last_progress > patience))) break;
  }
  report.seconds = std::chrono::duration<double>(steady::now() - began).count();
  report.measured = counts() - first;
  on.measure = false;

  on.stop_publishing = true;
  publishing.join();
  // What was published is also consumed, before the consumers leave.
  last_progress = steady::now();
  for (auto before = counts(); is_countable && !interrupted && !on.has_failed;) {
    const auto sum = counts();
    if (sum.consumed >= sum.published * copies) break;
    if (sum.consumed != before.consumed) last_progress = steady::now();
    if (steady::now() - last_progress > patience) break;
    before = sum;
    std::this_thread::sleep_for(1ms);
  }
  on.stop_consuming = true;
  consuming.join();
  if (on.first_error) return *on.first_error;

  report.total = counts();
  for (const auto& p : producers) {
    report.confirm.add(p.latency);
    report.nacked += p.nacked;
    report.unconfirmed += p.unconfirmed;
    report.unexpected += p.unexpected;
    report.was_blocked = report.was_blocked || p.was_blocked;
  }
  for (const auto& c : consumers) report.delivery.add(c.latency);
  const auto expected = (report.total.published - report.nacked) * copies;
  if (is_countable && !interrupted && expected > report.total.consumed) {
    report.missing = expected - report.total.consumed;
  }
  if (!options.keep) {
    auto client = amqp_client::open(options.broker);
    if (!client) return client.error();
    if (auto ok = delete_queues(on, **client); !ok) return ok.error();
    (*client)->close();
  }
  return report;
}

}  // namespace posthorn

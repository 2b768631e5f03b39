// A broker of one thread that keeps nothing: enough of AMQP 0-9-1 for a load, and faults on demand.
//
// Threads   its own; what tests read of it is atomic, or read when it has stopped.
#pragma once

#include "gateway/amqp091/frame.hpp"
#include "gateway/amqp091/methods.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace posthorn::test {

struct broker_faults {
  std::string password = "guest";
  bool is_mute = false;     // takes connections, and says nothing
  bool confirms = true;     // otherwise it never does
  bool drops_idle = false;  // with the first publish, it closes connections that did nothing so far
  std::uint64_t dies_after_publishes = 0;  // 0: never
  std::uint64_t refuses_each = 0;          // each n-th publish is answered with a nack, and goes nowhere
  std::uint64_t loses_each = 0;            // each n-th publish is confirmed, and goes nowhere
  std::uint64_t confirms_twice_each = 0;
  std::uint64_t finds_no_queue_each = 0;  // of mandatory ones: comes back, and is confirmed
};

class fake_amqp_broker {
public:
  explicit fake_amqp_broker(broker_faults faults = {}) : faults_{std::move(faults)} {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ::listen(listener_, 512);
    socklen_t size = sizeof address;
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread{[this] { run(); }};
  }
  ~fake_amqp_broker() {
    stop_ = true;
    thread_.join();
    for (const auto& each : peers_) ::close(each->fd);
    ::close(listener_);
  }
  fake_amqp_broker(const fake_amqp_broker&) = delete;
  fake_amqp_broker& operator=(const fake_amqp_broker&) = delete;

  [[nodiscard]] std::string uri() const { return "amqp://127.0.0.1:" + std::to_string(port_); }

  std::atomic<std::uint64_t> published = 0;
  std::atomic<std::uint64_t> delivered = 0;
  std::atomic<std::uint64_t> acknowledged = 0;  // answers, not messages
  std::atomic<std::uint64_t> connections_max = 0;
  std::atomic<std::uint64_t> queues_max = 0;

  // What was published: sizes, routing keys and channels.
  struct notes {
    std::set<std::size_t> sizes;
    std::set<std::string> keys;
    std::set<std::uint16_t> channels;
    std::set<std::string> queues_left;
  };
  [[nodiscard]] notes seen() {
    const std::lock_guard lock{mutex_};
    auto out = notes_;
    for (const auto& each : queues_) out.queues_left.insert(each.first);
    return out;
  }

private:
  struct peer {
    int fd = -1;
    std::string in, out;
    bool has_greeted = false;
    bool is_over = false;
    bool is_busy = false;                               // it publishes, consumes or declares
    std::map<std::uint16_t, std::uint64_t> publishes;   // of channels with confirms: how many so far
    std::map<std::uint16_t, std::uint64_t> deliveries;  // by channel
    struct {
      std::string exchange, key, body;
      std::uint64_t left = 0;
      bool is_mandatory = false;
    } message;
  };
  struct reader {
    peer* who;
    std::uint16_t channel;
    std::string tag;
  };
  struct stored_queue {
    std::vector<reader> consumers;
    std::size_t turn = 0;
    std::deque<std::string> waiting;
  };

  void run() {
    while (!stop_) {
      std::vector<pollfd> watched{{listener_, POLLIN, 0}};
      for (const auto& each : peers_) {
        watched.push_back({each->fd, static_cast<short>(each->out.empty() ? POLLIN : POLLIN | POLLOUT), 0});
      }
      ::poll(watched.data(), watched.size(), 10);
      const std::lock_guard lock{mutex_};
      if ((watched[0].revents & POLLIN) != 0) {
        auto made = std::make_unique<peer>();
        made->fd = ::accept(listener_, nullptr, nullptr);
        if (made->fd >= 0) peers_.push_back(std::move(made));
        connections_max = std::max<std::uint64_t>(connections_max, peers_.size());
      }
      for (std::size_t i = 0; i + 1 < watched.size(); ++i) {
        auto& each = *peers_[i];
        if ((watched[i + 1].revents & (POLLIN | POLLHUP | POLLERR)) != 0) read(each);
      }
      for (auto& each : peers_) {
        if (each->out.empty()) continue;
        const auto count = ::send(each->fd, each->out.data(), each->out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count > 0) each->out.erase(0, static_cast<std::size_t>(count));
      }
      for (std::size_t i = peers_.size(); i-- > 0;) {
        if (peers_[i]->is_over || is_dead_) forget(i);
      }
    }
  }

  void forget(std::size_t index) {
    auto* const gone = peers_[index].get();
    for (auto& [name, each] : queues_) {
      std::erase_if(each.consumers, [&](const reader& one) { return one.who == gone; });
    }
    ::close(gone->fd);
    peers_.erase(peers_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  void read(peer& from) {
    char bytes[65536];
    const auto count = ::recv(from.fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count <= 0) {
      from.is_over = true;
      return;
    }
    if (faults_.is_mute || is_dead_) return;
    from.in.append(bytes, static_cast<std::size_t>(count));
    if (!from.has_greeted && from.in.size() >= 8) {
      from.has_greeted = true;
      from.in.erase(0, 8);
      amqp091::method::connection_start start;
      start.version_minor = 9;
      start.mechanisms = "PLAIN";
      start.locales = "en_US";
      amqp091::encode(0, start, from.out);
    }
    std::size_t at = 0;
    while (from.has_greeted && !is_dead_) {
      amqp091::frame frame;
      const std::string_view unread = std::string_view{from.in}.substr(at);
      const auto status = amqp091::decode_frame(
          {reinterpret_cast<const std::byte*>(unread.data()), unread.size()}, 131072, frame);
      if (status != amqp091::frame_status::complete) break;
      on_frame(from, frame);
      at += frame.size;
    }
    from.in.erase(0, at);
  }

  void on_frame(peer& from, const amqp091::frame& frame) {
    namespace method = amqp091::method;
    const auto payload = frame.payload;
    const auto answer = [&](const auto& what) { amqp091::encode(frame.channel, what, from.out); };
    from.is_busy = from.is_busy ||
                   (frame.type == amqp091::frame_type::method && amqp091::method_id_of(payload).class_ >= 50);
    if (frame.type == amqp091::frame_type::header) {
      amqp091::content_header header;
      if (!amqp091::decode_content_header(payload, header)) return;
      from.message.left = header.body_size;
      from.message.body.clear();
      if (header.body_size == 0) on_message(from, frame.channel);
      return;
    }
    if (frame.type == amqp091::frame_type::body) {
      from.message.body.append(reinterpret_cast<const char*>(payload.data()), payload.size());
      if (from.message.body.size() == from.message.left) on_message(from, frame.channel);
      return;
    }
    if (frame.type != amqp091::frame_type::method) return;
    if (method::connection_start_ok start; amqp091::decode_as(payload, start)) {
      if (std::string_view{start.response}.ends_with('\0' + faults_.password)) {
        method::connection_tune tune;
        tune.channel_max = 64;
        tune.frame_max = 131072;
        answer(tune);
      } else {
        method::connection_close close;
        close.reply_code = amqp091::reply_code::access_refused;
        close.reply_text = "ACCESS_REFUSED - Login was refused";
        answer(close);
      }
    } else if (method::connection_open open; amqp091::decode_as(payload, open)) {
      answer(method::connection_open_ok{});
    } else if (method::connection_close close; amqp091::decode_as(payload, close)) {
      answer(method::connection_close_ok{});
    } else if (method::channel_open channel; amqp091::decode_as(payload, channel)) {
      answer(method::channel_open_ok{});
    } else if (method::queue_declare declare; amqp091::decode_as(payload, declare)) {
      queues_.try_emplace(std::string{declare.queue});
      queues_max = std::max<std::uint64_t>(queues_max, queues_.size());
      method::queue_declare_ok ok;
      ok.queue = declare.queue;
      answer(ok);
    } else if (method::queue_delete remove; amqp091::decode_as(payload, remove)) {
      queues_.erase(std::string{remove.queue});
      answer(method::queue_delete_ok{});
    } else if (method::exchange_declare exchange; amqp091::decode_as(payload, exchange)) {
      exchange_type_ = exchange.type;
      answer(method::exchange_declare_ok{});
    } else if (method::exchange_delete gone; amqp091::decode_as(payload, gone)) {
      bindings_.clear();
      answer(method::exchange_delete_ok{});
    } else if (method::queue_bind bind; amqp091::decode_as(payload, bind)) {
      bindings_.insert({std::string{bind.routing_key}, std::string{bind.queue}});
      answer(method::queue_bind_ok{});
    } else if (method::confirm_select confirm; amqp091::decode_as(payload, confirm)) {
      from.publishes[frame.channel] = 0;
      answer(method::confirm_select_ok{});
    } else if (method::basic_qos qos; amqp091::decode_as(payload, qos)) {
      answer(method::basic_qos_ok{});
    } else if (method::basic_consume consume; amqp091::decode_as(payload, consume)) {
      const std::string name{consume.queue};
      method::basic_consume_ok ok;
      ok.consumer_tag = name;
      answer(ok);
      auto& source = queues_[name];
      source.consumers.push_back({&from, frame.channel, name});
      for (; !source.waiting.empty(); source.waiting.pop_front()) deliver(source, source.waiting.front());
    } else if (method::basic_publish publish; amqp091::decode_as(payload, publish)) {
      from.message = {
          std::string{publish.exchange}, std::string{publish.routing_key}, {}, 0, publish.mandatory};
    } else if (method::basic_ack ack; amqp091::decode_as(payload, ack)) {
      ++acknowledged;
    }
  }

  void on_message(peer& from, std::uint16_t channel) {
    namespace method = amqp091::method;
    const auto number = ++published;
    notes_.sizes.insert(from.message.body.size());
    notes_.keys.insert(from.message.key);
    notes_.channels.insert(channel);
    if (number == faults_.dies_after_publishes) {
      is_dead_ = true;
      return;
    }
    for (auto& each : peers_) {
      if (faults_.drops_idle && !each->is_busy) each->is_over = true;
    }
    const auto is_each = [&](std::uint64_t n) { return n != 0 && number % n == 0; };
    const bool is_refused = is_each(faults_.refuses_each);
    const bool is_unroutable = from.message.is_mandatory && is_each(faults_.finds_no_queue_each);
    if (!is_refused && !is_unroutable && !is_each(faults_.loses_each)) {
      route(from.message.exchange, from.message.key, from.message.body);
    }
    if (is_unroutable) {
      method::basic_return back;
      back.reply_code = amqp091::reply_code::no_route;
      amqp091::encode(channel, back, from.out);
      amqp091::encode_content_header(channel, 0, {}, from.out);
    }
    const auto confirms = from.publishes.find(channel);
    if (confirms == from.publishes.end() || !faults_.confirms) return;
    ++confirms->second;
    if (is_refused) {
      method::basic_nack nack;
      nack.delivery_tag = confirms->second;
      amqp091::encode(channel, nack, from.out);
      return;
    }
    method::basic_ack ack;
    ack.delivery_tag = confirms->second;
    for (int i = 0; i < (is_each(faults_.confirms_twice_each) ? 2 : 1); ++i)
      amqp091::encode(channel, ack, from.out);
  }

  void route(const std::string& exchange, const std::string& key, const std::string& body) {
    std::set<std::string> to;
    if (exchange.empty()) to.insert(key);
    for (const auto& [pattern, name] : bindings_) {
      if (!exchange.empty() && (exchange_type_ == "fanout" || pattern == key || pattern == key + ".#"))
        to.insert(name);
    }
    for (const auto& name : to) {
      const auto found = queues_.find(name);
      if (found == queues_.end()) continue;
      if (found->second.consumers.empty()) {
        found->second.waiting.push_back(body);
      } else {
        deliver(found->second, body);
      }
    }
  }

  void deliver(stored_queue& from, const std::string& body) {
    const auto& to = from.consumers[from.turn++ % from.consumers.size()];
    amqp091::method::basic_deliver deliver;
    deliver.consumer_tag = to.tag;
    deliver.delivery_tag = ++to.who->deliveries[to.channel];
    amqp091::encode(to.channel, deliver, to.who->out);
    amqp091::encode_content_header(to.channel, body.size(), {}, to.who->out);
    amqp091::encode_body(to.channel, {reinterpret_cast<const std::byte*>(body.data()), body.size()}, 131072,
                         to.who->out);
    ++delivered;
  }

  const broker_faults faults_;
  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<bool> stop_ = false;
  bool is_dead_ = false;  // all connections end, and new ones hear nothing
  std::mutex mutex_;      // guards what follows
  std::vector<std::unique_ptr<peer>> peers_;
  std::map<std::string, stored_queue> queues_;
  std::set<std::pair<std::string, std::string>> bindings_;
  std::string exchange_type_;
  notes notes_;
  std::thread thread_;
};

}  // namespace posthorn::test

// What several requests and several connections do to each other, at a real door, with a client that sends as much at once
// as it likes.
#include "actors/broker.hpp"
#include "actors/node_context.hpp"
#include "gateway/amqp091/frame.hpp"
#include "gateway/amqp091/methods.hpp"
#include "gateway/amqp091/server.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"

#include <boost/asio.hpp>
#include <catch2/catch_test_macros.hpp>

#include <poll.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

using namespace posthorn;
using namespace posthorn::amqp091;
using namespace std::chrono_literals;

namespace {

using tcp = boost::asio::ip::tcp;

// A node with one I/O thread, over a store of its own.
struct door {
  explicit door(std::chrono::microseconds turn_max = amqp091::server_settings{}.turn_max) {
    std::string name = (std::filesystem::temp_directory_path() / "posthorn-door-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    directory = name;
    broker_settings wanted;
    wanted.data_directory = directory;
    wanted.map_size = std::uint64_t{256} << 20;
    wanted.disk_free_min = 1;
    wanted.threads = 1;
    auto started = broker::start(std::move(wanted));
    REQUIRE(started.has_value());
    running = std::move(*started);
    amqp091::server_settings settings;
    settings.host = "127.0.0.1";
    settings.port = 0;
    settings.threads = 1;
    settings.turn_max = turn_max;
    auto listening = amqp091::server::listen(*running, settings);
    REQUIRE(listening.has_value());
    listens = std::move(*listening);
  }
  ~door() {
    listens->stop(2s);
    running->stop();
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  door(const door&) = delete;
  door& operator=(const door&) = delete;

  [[nodiscard]] std::int64_t commits() const { return running->context().counters.commits->value(); }

  std::filesystem::path directory;
  std::unique_ptr<broker> running;
  std::unique_ptr<amqp091::server> listens;
};

// A logged-in client. What it says is gathered until it asks for the next frame.
class client {
public:
  explicit client(const door& to) : socket_{io_} {
    socket_.connect({boost::asio::ip::make_address("127.0.0.1"), to.listens->port()});
    socket_.set_option(tcp::no_delay{true});
    out_.assign(protocol_header.data(), protocol_header.size());
    CHECK(next() == "connection.start");
    say(method::connection_start_ok{{}, "PLAIN", std::string_view{"\0guest\0guest", 12}, "en_US"}, 0);
    CHECK(next() == "connection.tune");
    say(method::connection_tune_ok{2047, 131072, 0}, 0);
    say(method::connection_open{"/", "", false}, 0);
    CHECK(next() == "connection.open-ok");
    open(1);
  }

  void open(std::uint16_t channel) {
    say(method::channel_open{}, channel);
    REQUIRE(next() == "channel.open-ok");
  }

  template <class Method>
  client& say(const Method& m, std::uint16_t channel = 1) {
    encode(channel, m, out_);
    return *this;
  }
  client& declare(std::string_view queue, bool passive = false) {
    method::queue_declare m;
    m.queue = queue;
    m.passive = passive;
    m.durable = !passive;
    return say(m);
  }
  client& bind(std::string_view queue, std::string_view exchange) {
    method::queue_bind m;
    m.queue = queue;
    m.exchange = exchange;
    m.routing_key = "k";
    return say(m);
  }
  client& remove(std::string_view queue, bool if_empty = false) {
    method::queue_delete m;
    m.queue = queue;
    m.if_empty = if_empty;
    return say(m);
  }
  client& purge(std::string_view queue) {
    method::queue_purge m;
    m.queue = queue;
    return say(m);
  }
  client& publish(std::string_view exchange, std::string_view key, std::string_view body,
                  std::string_view properties = std::string_view{"\0\0", 2}) {
    method::basic_publish m;
    m.exchange = exchange;
    m.routing_key = key;
    m.mandatory = true;
    say(m);
    encode_content_header(1, body.size(), std::as_bytes(std::span{properties}), out_);
    encode_body(1, std::as_bytes(std::span{body}), 131072, out_);
    return *this;
  }

  void flush() {
    boost::asio::write(socket_, boost::asio::buffer(out_));
    out_.clear();
  }
  // Says what was gathered, waits for the next frame, and tells what it is: a method with the numbers that matter, or
  // the body of a message. Headers are skipped.
  std::string next() {
    if (!out_.empty()) flush();
    in_.erase(0, std::exchange(used_, 0));
    for (;;) {
      frame f;
      const auto status = decode_frame(std::as_bytes(std::span{in_}), 131072, f);
      if (status == frame_status::complete) {
        used_ = f.size;
        if (f.type == frame_type::body) {
          return {reinterpret_cast<const char*>(f.payload.data()), f.payload.size()};
        }
        if (f.type == frame_type::method) return described(f.payload);
        if (content_header header; f.type == frame_type::header && decode_content_header(f.payload, header)) {
          if (const auto address = reply_to_of(header.properties)) reply_to_ = *address;
        }
        in_.erase(0, std::exchange(used_, 0));
        continue;
      }
      REQUIRE(status == frame_status::incomplete);
      pollfd readable{socket_.native_handle(), POLLIN, 0};
      if (::poll(&readable, 1, 20'000) != 1) return "nothing, in 20 seconds";
      char some[65536];
      boost::system::error_code failed;
      const auto size = socket_.read_some(boost::asio::buffer(some), failed);
      if (failed) return "the end";
      in_.append(some, size);
    }
  }
  std::vector<std::string> next(std::size_t count) {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < count; ++i) out.push_back(next());
    return out;
  }

  // Of the last message that had one.
  [[nodiscard]] const std::string& reply_to() const { return reply_to_; }

private:
  static std::string described(std::span<const std::byte> payload) {
    const auto m = decode_method(payload);
    REQUIRE(m.has_value());
    std::string out{method_name(*m)};
    if (const auto* d = std::get_if<method::queue_declare_ok>(&*m))
      out += " " + std::to_string(d->message_count);
    if (const auto* d = std::get_if<method::queue_delete_ok>(&*m))
      out += " " + std::to_string(d->message_count);
    if (const auto* p = std::get_if<method::queue_purge_ok>(&*m))
      out += " " + std::to_string(p->message_count);
    if (const auto* c = std::get_if<method::channel_close>(&*m)) {
      out += " " + std::to_string(static_cast<int>(c->reply_code));
    }
    if (const auto* a = std::get_if<method::basic_ack>(&*m)) out += " " + std::to_string(a->delivery_tag);
    return out;
  }

  boost::asio::io_context io_;
  tcp::socket socket_;
  std::string out_, in_, reply_to_;
  std::size_t used_ = 0;
};

using answers = std::vector<std::string>;

std::string table_of(std::string_view key, std::int64_t value) {
  field_table table;
  table.add(std::string{key}, field_value::of_long(value));
  std::string out;
  encode_table(table, out);
  return out;
}

// Waits until the publishes before are confirmed, so that their messages are there.
void publish_confirmed(client& c, std::string_view queue, int count) {
  c.say(method::confirm_select{});
  REQUIRE(c.next() == "confirm.select-ok");
  for (int i = 0; i < count; ++i) c.publish("", queue, "m");
  const auto last = "basic.ack " + std::to_string(count);
  while (c.next() != last) {
  }
}

}  // namespace

TEST_CASE("a chunk of expensive publishes is taken in turns, and nothing changes its place", "[connection]") {
  const door d{0us};  // a turn ends as soon as the clock is looked at
  client busy{d}, other{d};
  method::exchange_declare exchange;
  exchange.exchange = "h";
  exchange.type = "headers";
  busy.say(exchange).declare("q");
  REQUIRE(busy.next(2) == answers{"exchange.declare-ok", "queue.declare-ok 0"});
  constexpr int bindings = 2000, publishes = 1000;
  for (int i = 0; i < bindings; ++i) {
    const auto arguments = table_of("n", i);
    method::queue_bind m;
    m.queue = "q";
    m.exchange = "h";
    m.arguments = std::as_bytes(std::span{arguments}).subspan(4);
    busy.say(m);
  }
  for (int i = 0; i < bindings; ++i) REQUIRE(busy.next() == "queue.bind-ok");
  busy.say(method::confirm_select{});
  REQUIRE(busy.next() == "confirm.select-ok");

  const auto before = d.listens->counts().turns_cut;
  const std::string properties = std::string{"\x20\x00", 2} + table_of("n", 1);  // headers alone
  for (int i = 0; i < publishes; ++i) busy.publish("h", "", std::to_string(i), properties);
  busy.flush();
  const auto turns = [&] { return d.listens->counts().turns_cut - before; };
  const auto give_up_at = std::chrono::steady_clock::now() + 10s;
  // Each publish that is compared with all bindings is a turn of its own here.
  while (turns() < publishes - 10 && std::chrono::steady_clock::now() < give_up_at) {
    other.say(method::basic_qos{});
    REQUIRE(other.next() == "basic.qos-ok");
  }
  CHECK(turns() >= publishes - 10);
  const auto last = "basic.ack " + std::to_string(publishes);
  while (busy.next() != last) {
  }

  // Nothing changed its place, neither on the way in nor, from the actor's messages, on the way out.
  method::basic_consume consume;
  consume.queue = "q";
  consume.no_ack = true;
  other.say(consume);
  REQUIRE(other.next() == "basic.consume-ok");
  for (int i = 0; i < publishes; ++i) {
    REQUIRE(other.next() == "basic.deliver");
    REQUIRE(other.next() == std::to_string(i));
  }
}

TEST_CASE("a request behind a turn that was cut is answered", "[connection]") {
  const door d{0us};
  client c{d};
  c.declare("q");
  REQUIRE(c.next() == "queue.declare-ok 0");
  // More frames than one turn takes, and half a frame at their end.
  for (int i = 0; i < 1000; ++i) c.publish("", "q", "m");
  c.say(method::basic_qos{});
  CHECK(c.next() == "basic.qos-ok");
  CHECK(d.listens->counts().turns_cut >= 5);
  c.purge("q");
  CHECK(c.next() == "queue.purge-ok 1000");
}

TEST_CASE("deletes of different queues share commits", "[connection][pipelined]") {
  const door d;
  client c{d};
  constexpr int count = 500;
  for (int i = 0; i < count; ++i) c.declare("q" + std::to_string(i));
  for (int i = 0; i < count; ++i) REQUIRE(c.next() == "queue.declare-ok 0");
  const auto before = d.commits();
  for (int i = 0; i < count; ++i) c.remove("q" + std::to_string(i));
  for (int i = 0; i < count; ++i) REQUIRE(c.next() == "queue.delete-ok 0");
  CHECK(d.commits() - before <= count / 5);
  c.declare("q7", true);
  CHECK(c.next() == "channel.close 404");
}

TEST_CASE("a queue that is declared, deleted and declared again is there, new", "[connection][pipelined]") {
  const door d;
  client c{d};
  for (int i = 0; i < 20; ++i) {
    c.declare("q").publish("", "q", "old").remove("q").declare("q").bind("q", "amq.direct").remove("q");
    c.publish("", "q", "nobody's").declare("q").declare("q", true);
    REQUIRE(c.next(9) == answers{"queue.declare-ok 0", "queue.delete-ok 1", "queue.declare-ok 0",
                                 "queue.bind-ok", "queue.delete-ok 0", "basic.return", "nobody's",
                                 "queue.declare-ok 0", "queue.declare-ok 0"});
    c.remove("q");
    REQUIRE(c.next() == "queue.delete-ok 0");
  }
}

TEST_CASE("answers stand in the order of the requests, whoever gives them", "[connection][pipelined]") {
  const door d;
  client c{d};
  c.declare("a").declare("b").declare("c");
  c.next(3);
  publish_confirmed(c, "a", 3);
  c.remove("nobody's").purge("a").declare("a", true).declare("b", true).remove("b").remove("nobody's");
  c.remove("a").remove("a").remove("c");
  CHECK(c.next(9) == answers{"queue.delete-ok 0", "queue.purge-ok 3", "queue.declare-ok 0",
                             "queue.declare-ok 0", "queue.delete-ok 0", "queue.delete-ok 0",
                             "queue.delete-ok 0", "queue.delete-ok 0", "queue.delete-ok 0"});
}

TEST_CASE("what is sent behind a request that is refused has no effect", "[connection][pipelined]") {
  const door d;
  client c{d}, owner{d};
  method::queue_declare own;
  own.queue = "locked";
  own.exclusive = true;
  owner.say(own);
  REQUIRE(owner.next() == "queue.declare-ok 0");
  c.declare("a").declare("b").declare("full");
  c.next(3);
  publish_confirmed(c, "full", 1);
  SECTION("a condition that does not hold") {
    c.remove("a").remove("full", true).remove("b");
    CHECK(c.next(2) == answers{"queue.delete-ok 0", "channel.close 406"});
  }
  SECTION("a queue of somebody else") {
    c.remove("a").remove("locked").remove("b");
    CHECK(c.next(2) == answers{"queue.delete-ok 0", "channel.close 405"});
  }
  SECTION("a queue that is not there") {
    c.remove("a").declare("nobody's", true).remove("b");
    CHECK(c.next(2) == answers{"queue.delete-ok 0", "channel.close 404"});
  }
  c.say(method::channel_close_ok{});
  c.open(1);
  c.declare("b", true).declare("full", true);
  CHECK(c.next(2) == answers{"queue.declare-ok 0", "queue.declare-ok 1"});
}

TEST_CASE("a bind behind a delete meets an exchange that went with its last queue",
          "[connection][pipelined]") {
  const door d;
  client c{d};
  method::exchange_declare exchange;
  exchange.exchange = "x";
  exchange.type = "fanout";
  exchange.auto_delete = true;
  c.say(exchange).declare("a").declare("b").bind("a", "x");
  REQUIRE(c.next(4).back() == "queue.bind-ok");
  c.remove("a").bind("b", "x");
  CHECK(c.next(2) == answers{"queue.delete-ok 0", "channel.close 404"});
}

TEST_CASE("more requests than may wait for answers are answered, too", "[connection][pipelined]") {
  const door d;
  client c{d};
  c.declare("q");
  REQUIRE(c.next() == "queue.declare-ok 0");
  publish_confirmed(c, "q", 1);
  constexpr int count = 10'000;
  for (int i = 0; i < count; ++i) c.declare("q");
  for (int i = 0; i < count; ++i) REQUIRE(c.next() == "queue.declare-ok 1");
  for (int i = 0; i < count; ++i) c.declare("q", true);
  for (int i = 0; i < count; ++i) REQUIRE(c.next() == "queue.declare-ok 1");
}

TEST_CASE("a commit larger than a turn and than the room for publishes is answered when all is there",
          "[connection][transaction]") {
  const door d{0us};
  client c{d}, other{d};
  c.declare("q").say(method::tx_select{});
  REQUIRE(c.next(2) == answers{"queue.declare-ok 0", "tx.select-ok"});
  const std::string body(100'000, 'x');
  constexpr int count = 300;  // 30 MB
  for (int i = 0; i < count; ++i) c.publish("", "q", body);
  c.say(method::basic_qos{});
  REQUIRE(c.next() == "basic.qos-ok");
  other.declare("q", true);
  CHECK(other.next() == "queue.declare-ok 0");
  // What is sent behind the commit waits for it.
  c.say(method::tx_commit{}).purge("q");
  CHECK(c.next() == "tx.commit-ok");
  CHECK(c.next() == "queue.purge-ok 300");
  // The next one begins with nothing.
  c.publish("", "q", "never").say(method::tx_rollback{}).say(method::tx_commit{}).purge("q");
  CHECK(c.next(3) == answers{"tx.rollback-ok", "tx.commit-ok", "queue.purge-ok 0"});
}

TEST_CASE("returns come with the commit, and not with a rollback", "[connection][transaction]") {
  const door d;
  client c{d};
  c.say(method::tx_select{}).publish("", "nobody's", "1").say(method::basic_qos{}).say(method::tx_rollback{});
  CHECK(c.next(3) == answers{"tx.select-ok", "basic.qos-ok", "tx.rollback-ok"});
  c.publish("", "nobody's", "2").say(method::basic_qos{}).say(method::tx_commit{});
  CHECK(c.next(4) == answers{"basic.qos-ok", "basic.return", "2", "tx.commit-ok"});
}

TEST_CASE("what the transactions of a connection hold together has a limit", "[connection][transaction]") {
  const door d;
  client c{d};
  c.declare("q").say(method::tx_select{});
  REQUIRE(c.next(2) == answers{"queue.declare-ok 0", "tx.select-ok"});
  const std::string body(std::size_t{8} << 20, 'x');
  int held = 0;
  for (; held < 20; ++held) {
    c.publish("", "q", body).say(method::basic_qos{});
    const auto answer = c.next();
    if (answer == "channel.close 406") break;
    REQUIRE(answer == "basic.qos-ok");
  }
  CHECK(held == 7);  // 8 MiB and a little, seven times, are below 64 MiB
  // All that was held is free again.
  c.say(method::channel_close_ok{}).open(1);
  c.say(method::tx_select{});
  CHECK(c.next() == "tx.select-ok");
  for (int i = 0; i < 7; ++i) c.publish("", "q", body);
  c.say(method::tx_rollback{}).purge("q");
  CHECK(c.next(2) == answers{"tx.rollback-ok", "queue.purge-ok 0"});
}

TEST_CASE("a channel that is closed in the midst of a commit leaves nothing that waits",
          "[connection][transaction]") {
  const door d{0us};
  client c{d};
  c.declare("q").say(method::tx_select{});
  REQUIRE(c.next(2) == answers{"queue.declare-ok 0", "tx.select-ok"});
  for (int i = 0; i < 2000; ++i) c.publish("", "q", "m");
  method::channel_close close;
  c.say(method::tx_commit{}).say(close);
  CHECK(c.next(2) == answers{"tx.commit-ok", "channel.close-ok"});
  c.open(1);
  for (int i = 0; i < 2000; ++i) c.publish("", "q", "m");
  c.say(method::tx_select{}).say(method::tx_commit{}).purge("q");
  CHECK(c.next(3) == answers{"tx.select-ok", "tx.commit-ok", "queue.purge-ok 4000"});
}

// One waits for replies, and the other has its question.
void ask_for_replies(client& asks, client& answers_it) {
  method::basic_consume wait;
  wait.queue = "amq.rabbitmq.reply-to";
  wait.no_ack = true;
  asks.declare("requests").say(wait);
  REQUIRE(asks.next(2) == answers{"queue.declare-ok 0", "basic.consume-ok"});
  asks.publish("", "requests", "ask", std::string{"\x02\x00\x15", 3} + "amq.rabbitmq.reply-to");
  asks.say(method::basic_qos{});
  REQUIRE(asks.next() == "basic.qos-ok");
  method::basic_consume serve;
  serve.queue = "requests";
  answers_it.say(serve);
  REQUIRE(answers_it.next(3) == answers{"basic.consume-ok", "basic.deliver", "ask"});
}

TEST_CASE("replies find the channel that asked, from any connection, and nobody once it is gone",
          "[connection][reply_to]") {
  const door d;
  client asks{d}, answers_it{d};
  ask_for_replies(asks, answers_it);
  const auto address = answers_it.reply_to();
  CHECK(address.size() == 65);
  answers_it.publish("", address, "42").flush();
  CHECK(asks.next(2) == answers{"basic.deliver", "42"});
  // Many more than may be on their way at a time, to one who reads: all come, in order.
  for (int i = 0; i < 5000; ++i) answers_it.publish("", address, std::to_string(i));
  answers_it.flush();
  for (int i = 0; i < 5000; ++i) REQUIRE(asks.next(2) == answers{"basic.deliver", std::to_string(i)});
  answers_it.declare(address, true);
  CHECK(answers_it.next() == "queue.declare-ok 0");
  asks.say(method::channel_close{});
  REQUIRE(asks.next() == "channel.close-ok");
  // Routed to one who has gone, and then to an address that never was.
  answers_it.publish("", address, "nobody")
      .publish("", "amq.rabbitmq.reply-to.x", "back")
      .declare(address, true);
  CHECK(answers_it.next(3) == answers{"basic.return", "back", "channel.close 404"});
}

TEST_CASE("who publishes hears of a refusal a moment later, and before the end of the channel",
          "[connection]") {
  const door d;
  client c{d};
  const auto before = std::chrono::steady_clock::now();
  c.publish("nowhere", "k", "m").flush();
  CHECK(c.next() == "channel.close 404");
  CHECK(std::chrono::steady_clock::now() - before >= 2ms);
  c.say(method::channel_close_ok{}).open(1);
  c.publish("nowhere", "k", "m").say(method::channel_close{});
  CHECK(c.next(2) == answers{"channel.close 404", "channel.close-ok"});
  c.say(method::channel_close_ok{}).open(1);
  // Who says that he has heard of it before it was said opens another channel behind it.
  c.publish("nowhere", "k", "m").say(method::channel_close_ok{}).say(method::channel_open{});
  CHECK(c.next(2) == answers{"channel.close 404", "channel.open-ok"});
  c.publish("nowhere", "k", "m").say(method::connection_close{}, 0);
  CHECK(c.next(2) == answers{"channel.close 404", "connection.close-ok"});
}

TEST_CASE("replies to somebody who does not read are given up beyond a limit", "[connection][reply_to]") {
  const door d;
  client asks{d}, answers_it{d};
  ask_for_replies(asks, answers_it);
  const std::string body(1 << 20, 'x');
  const auto before = d.running->context().counters.unroutable->value();
  for (int i = 0; i < 64; ++i) answers_it.publish("", answers_it.reply_to(), body);
  answers_it.say(method::basic_qos{});
  REQUIRE(answers_it.next() == "basic.qos-ok");
  const auto lost = d.running->context().counters.unroutable->value() - before;
  CHECK(lost >= 32);  // eight may wait, and the sockets hold some
  CHECK(lost <= 60);
  // Once it reads, replies come again.
  for (std::int64_t i = 0; i < 64 - lost; ++i) {
    REQUIRE(asks.next() == "basic.deliver");
    for (std::size_t size = 0; size < body.size();) size += asks.next().size();
  }
  asks.say(method::basic_qos{});
  REQUIRE(asks.next() == "basic.qos-ok");
  answers_it.publish("", answers_it.reply_to(), "last");
  answers_it.flush();
  CHECK(asks.next(2) == answers{"basic.deliver", "last"});
}

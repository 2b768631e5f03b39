#include "gateway/amqp091/methods.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

using namespace posthorn;
using namespace posthorn::amqp091;
using namespace std::string_view_literals;

namespace {

constexpr std::uint32_t frame_max = 131072;

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// Gives every field a value that differs from its default and from its neighbours.
struct fill_in {
  void octet(std::uint8_t& value) { value = static_cast<std::uint8_t>(++count); }
  void short_(std::uint16_t& value) { value = static_cast<std::uint16_t>(0x0100 + ++count); }
  void long_(std::uint32_t& value) { value = 0x01020300 + ++count; }
  void longlong(std::uint64_t& value) { value = 0x0102030405060700 + ++count; }
  void shortstr(std::string_view& value) { value = texts[++count % 4]; }
  void longstr(std::string_view& value) { value = texts[++count % 4]; }
  void table(std::span<const std::byte>& value) { value = bytes_of("\1kI\0\0\0\7"sv); }
  void code(reply_code& value) { value = reply_code::not_found; }
  template <class... Bool>
  void bits(Bool&... bit) {
    ((bit = (++count % 2) != 0), ...);
  }

  std::uint32_t count = 0;
  std::string_view texts[4] = {"orders", "amq.direct", "caf\xC3\xA9", "k.e.y"};
};

template <class Method>
Method filled() {
  Method m;
  fill_in fill;
  Method::each_field(m, fill);
  return m;
}

template <class Method>
std::string encoded(std::uint16_t channel, const Method& m) {
  std::string out;
  encode(channel, m, out);
  return out;
}

// The payload of a single method frame.
std::string payload_of(std::string_view raw) {
  frame f;
  REQUIRE(decode_frame(bytes_of(raw), frame_max, f) == frame_status::complete);
  REQUIRE(f.size == raw.size());
  REQUIRE(f.type == frame_type::method);
  return {reinterpret_cast<const char*>(f.payload.data()), f.payload.size()};
}

// One of them for each method, so that the assertions are compiled once and not once for each type.
struct sample {
  std::string_view name;
  method_id id;
  any_method filled;
  // decode_as for this type: what came out, encoded for channel 1; empty when it was refused.
  std::string (*decode_direct)(std::span<const std::byte> payload);
};

template <class Method>
std::string decode_direct(std::span<const std::byte> payload) {
  Method m;
  return decode_as(payload, m) ? encoded(1, m) : std::string{};
}

template <class... Methods>
std::vector<sample> samples_of(const std::variant<Methods...>*) {
  return {sample{Methods::name, id_of<Methods>, filled<Methods>(), &decode_direct<Methods>}...};
}

const std::vector<sample>& every_method() {
  static const auto all = samples_of(static_cast<const any_method*>(nullptr));
  return all;
}

}  // namespace

TEST_CASE("every method round-trips", "[methods]") {
  for (const auto& method : every_method()) {
    INFO(method.name);
    const auto raw = encoded(1, method.filled);
    const auto payload = payload_of(raw);
    const auto received = decode_method(bytes_of(payload));
    REQUIRE(received.has_value());
    CHECK(received->index() == method.filled.index());
    CHECK(encoded(1, *received) == raw);
    CHECK(method.decode_direct(bytes_of(payload)) == raw);
    CHECK(method_id_of(*received) == method.id);
    CHECK(method_id_of(bytes_of(payload)) == method.id);
    CHECK(method_name(*received) == method.name);
    CHECK(method_name(method.id) == method.name);
  }
}

TEST_CASE("every method cut short at any octet is refused", "[methods]") {
  for (const auto& method : every_method()) {
    INFO(method.name);
    const auto payload = payload_of(encoded(1, method.filled));
    for (std::size_t size = 0; size < payload.size(); ++size) {
      // A copy of its own, so that a sanitizer sees a read behind it.
      const std::vector<char> cut(payload.data(), payload.data() + size);
      const auto bytes = bytes_of({cut.data(), cut.size()});
      const auto received = decode_method(bytes);
      REQUIRE(received.has_error());
      CHECK(received.error().code == reply_code::frame_error);
      CHECK(received.error().method == (size < 4 ? method_id{} : method.id));
      CHECK(method.decode_direct(bytes).empty());
    }
  }
}

TEST_CASE("octets behind the arguments of a method are refused", "[methods]") {
  for (const auto& method : every_method()) {
    const auto payload = payload_of(encoded(1, method.filled)) + '\0';
    const auto received = decode_method(bytes_of(payload));
    REQUIRE(received.has_error());
    CHECK(received.error().code == reply_code::frame_error);
    CHECK(received.error().explanation ==
          std::string{method.name} + ": 1 octet too many behind the arguments");
    CHECK(method.decode_direct(bytes_of(payload)).empty());
  }
}

TEST_CASE("every method has an id and a name of its own", "[methods]") {
  std::set<std::uint32_t> ids;
  std::set<std::string_view> names;
  for (const auto& method : every_method()) {
    ids.insert(packed(method.id));
    names.insert(method.name);
  }
  CHECK(ids.size() == 66);
  CHECK(names.size() == 66);
  CHECK(method_name(method_id{40, 51}) == "exchange.unbind-ok");
  CHECK(method_name(method_id{60, 120}) == "basic.nack");
  CHECK(method_name(method_id{60, 121}).empty());
}

// The bytes below are written by hand from the specification's grammar, not taken from our encoder.

TEST_CASE("connection.start-ok is read as a client sends it", "[methods]") {
  const auto payload =
      "\0\x0A\0\x0B"
      "\0\0\0\x10\x07productS\0\0\0\3abc"
      "\5PLAIN"
      "\0\0\0\x0C\0guest\0guest"
      "\5en_US"sv;
  const auto received = decode_method(bytes_of(payload));
  REQUIRE(received.has_value());
  const auto& start_ok = std::get<method::connection_start_ok>(*received);
  CHECK(start_ok.mechanism == "PLAIN");
  CHECK(start_ok.response == "\0guest\0guest"sv);
  CHECK(start_ok.locale == "en_US");
  CHECK(as_string(*decode_table(start_ok.client_properties).value().find("product")) == "abc");
}

TEST_CASE("connection.tune is the frame that the specification's grammar gives", "[methods]") {
  method::connection_tune tune;
  tune.channel_max = 2047;
  tune.frame_max = 131072;
  tune.heartbeat = 60;
  CHECK(encoded(0, tune) == "\1\0\0\0\0\0\x0C\0\x0A\0\x1E\x07\xFF\0\2\0\0\0\x3C\xCE"sv);
}

TEST_CASE("queue.declare has its five flags in one octet", "[methods]") {
  const auto payload = "\0\x32\0\x0A\0\0\6orders\x12\0\0\0\x15\x0Dx-message-ttlI\0\0\0\x3C"sv;
  auto short_of_two = decode_method(bytes_of(payload));
  CHECK(short_of_two.has_error());

  const auto right = "\0\x32\0\x0A\0\0\6orders\x12\0\0\0\x13\x0Dx-message-ttlI\0\0\0\x3C"sv;
  const auto received = decode_method(bytes_of(right));
  REQUIRE(received.has_value());
  const auto& declare = std::get<method::queue_declare>(*received);
  CHECK(declare.queue == "orders");
  CHECK_FALSE(declare.passive);
  CHECK(declare.durable);
  CHECK_FALSE(declare.exclusive);
  CHECK_FALSE(declare.auto_delete);
  CHECK(declare.no_wait);
  CHECK(as_integer(*decode_table(declare.arguments).value().find("x-message-ttl")) == 60);
}

TEST_CASE("basic.publish is read without a variant", "[methods]") {
  method::basic_publish publish;
  REQUIRE(decode_publish(bytes_of("\0\x3C\0\x28\0\0\0\6orders\1"sv), publish));
  CHECK(publish.exchange.empty());
  CHECK(publish.routing_key == "orders");
  CHECK(publish.mandatory);
  CHECK_FALSE(publish.immediate);
  CHECK_FALSE(decode_publish(bytes_of("\0\x3C\0\x29\0\0\0\6orders\1"sv), publish));
  CHECK_FALSE(decode_publish(bytes_of("\0\x3C\0\x28\0\0\0\7orders\1"sv), publish));
}

TEST_CASE("basic.ack and basic.nack carry the tag and their flags", "[methods]") {
  method::basic_ack ack;
  REQUIRE(decode_ack(bytes_of("\0\x3C\0\x50\0\0\0\0\0\0\1\2\1"sv), ack));
  CHECK(ack.delivery_tag == 258);
  CHECK(ack.multiple);
  const auto nack = decode_method(bytes_of("\0\x3C\0\x78\0\0\0\0\0\0\0\3\2"sv));
  REQUIRE(nack.has_value());
  CHECK(std::get<method::basic_nack>(*nack).delivery_tag == 3);
  CHECK_FALSE(std::get<method::basic_nack>(*nack).multiple);
  CHECK(std::get<method::basic_nack>(*nack).requeue);
}

TEST_CASE("connection.close carries code, text and the method that failed", "[methods]") {
  method::connection_close close;
  close.reply_code = reply_code::not_allowed;
  close.reply_text = "NOT_ALLOWED - no";
  close.failing_class = 10;
  close.failing_method = 40;
  CHECK(encoded(0, close) == "\1\0\0\0\0\0\x1B\0\x0A\0\x32\2\x12\x10NOT_ALLOWED - no\0\x0A\0\x28\xCE"sv);
}

TEST_CASE("a delivery is written in one go as the same bytes as frame by frame", "[methods]") {
  const std::string body(300, 'b');
  for (const std::size_t size : {0UL, 1UL, 100UL, 300UL}) {
    for (const auto properties : {""sv, "\0\0"sv, "\x10\0\2"sv}) {
      method::basic_deliver deliver;
      deliver.consumer_tag = "ctag1.1";
      deliver.delivery_tag = 0x0102030405060708;
      deliver.redelivered = size == 1;
      deliver.exchange = size == 0 ? "" : "amq.topic";
      deliver.routing_key = "a.b.c";
      std::string by_frames = "before";
      std::string at_once = "before";
      encode_with_content(7, deliver, bytes_of(properties), bytes_of(body).first(size), 108, by_frames);
      encode_deliver(7, deliver, bytes_of(properties), bytes_of(body).first(size), 108, at_once);
      CHECK(at_once == by_frames);

      frame f;
      REQUIRE(decode_frame(bytes_of(at_once).subspan(6), 108, f) == frame_status::complete);
      method::basic_deliver received;
      REQUIRE(decode_deliver(f.payload, received));
      CHECK(received.consumer_tag == deliver.consumer_tag);
      CHECK(received.delivery_tag == deliver.delivery_tag);
      CHECK(received.redelivered == deliver.redelivered);
      CHECK(received.exchange == deliver.exchange);
      CHECK(received.routing_key == deliver.routing_key);
    }
  }
}

TEST_CASE("a delivery with the longest names is written whole, and longer ones are a bug", "[methods]") {
  const std::string longest(255, 'n');
  method::basic_deliver deliver;
  deliver.consumer_tag = deliver.exchange = deliver.routing_key = longest;
  std::string by_frames;
  std::string at_once;
  encode_with_content(7, deliver, {}, {}, 4096, by_frames);
  encode_deliver(7, deliver, {}, {}, 4096, at_once);
  CHECK(at_once == by_frames);
  const std::string too_long(256, 'n');
  deliver.routing_key = too_long;
  CHECK_THROWS_AS(encode_deliver(7, deliver, {}, {}, 4096, at_once), std::logic_error);
  CHECK_THROWS_AS(encode(7, deliver, at_once), std::logic_error);
}

TEST_CASE("an unknown class or method is an invalid command, with its numbers", "[methods]") {
  for (const auto payload : {"\0\x3C\0\x79"sv, "\0\x0B\0\x0A"sv, "\xFF\xFF\xFF\xFFzzz"sv, "\0\0\0\0"sv}) {
    const auto received = decode_method(bytes_of(payload));
    REQUIRE(received.has_error());
    CHECK(received.error().code == reply_code::command_invalid);
    CHECK(received.error().method == method_id_of(bytes_of(payload)));
  }
  CHECK(decode_method(bytes_of("\0\x3C\0\x79"sv)).error().explanation == "unknown method 121 of class 60");
}

TEST_CASE("names have to be UTF-8, but a routing key of a message may be any octets", "[methods]") {
  const auto declare = decode_method(bytes_of("\0\x32\0\x1E\0\0\2\xC3(\0"sv));  // queue.purge
  REQUIRE(declare.has_error());
  CHECK(declare.error().code == reply_code::frame_error);
  CHECK(declare.error().explanation == "Malformed UTF-8 in shortstr");
  CHECK(decode_method(bytes_of("\0\x3C\0\x28\0\0\0\2\xC3(\0"sv)).has_value());
}

TEST_CASE("a reply's text has the name before it, and fits a short string without a torn character",
          "[methods]") {
  CHECK(reply_text(reply_code::not_found, "no queue 'q' in vhost '/'") ==
        "NOT_FOUND - no queue 'q' in vhost '/'");
  CHECK(reply_text(reply_code::not_found, std::string(243, 'x')) == "NOT_FOUND - " + std::string(243, 'x'));
  CHECK(reply_text(reply_code::not_found, std::string(244, 'x')) ==
        "NOT_FOUND - " + std::string(240, 'x') + "...");
  std::string accents;
  for (int i = 0; i < 200; ++i) accents += "\xC3\xA9";
  for (const auto* shift : {"", "x"}) {
    const auto text = reply_text(reply_code::not_found, shift + accents);
    CHECK(text.size() >= 254);
    CHECK(text.size() <= 255);
    CHECK(is_utf8(text));
  }
  CHECK(reply_text(reply_code::not_found, std::string(1000, '\x80')).size() == 255);
}

TEST_CASE("each reply code has its name and closes what the specification says", "[methods]") {
  CHECK(reply_name(reply_code::precondition_failed) == "PRECONDITION_FAILED");
  CHECK(reply_name(static_cast<reply_code>(999)) == "UNKNOWN");
  const std::vector<std::uint16_t> soft{311, 312, 313, 403, 404, 405, 406};
  for (const auto code : soft) {
    CHECK_FALSE(closes_connection(static_cast<reply_code>(code)));
  }
  const std::vector<std::uint16_t> hard{320, 402, 501, 502, 503, 504, 505, 506, 530, 540, 541};
  for (const auto code : hard) {
    CHECK(closes_connection(static_cast<reply_code>(code)));
    CHECK(reply_name(static_cast<reply_code>(code)) != "UNKNOWN");
  }
}

TEST_CASE("a result of decode_method is not to be used without looking", "[methods]") {
  CHECK_THROWS_AS(decode_method({}).value(), std::logic_error);
}

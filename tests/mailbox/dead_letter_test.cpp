#include "mailbox/dead_letter.hpp"

#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

using namespace posthorn;
using namespace std::chrono_literals;
using namespace std::string_view_literals;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

field_value text(std::string_view value) { return field_value::of_string(value); }

field_value texts(std::initializer_list<std::string_view> values) {
  field_array out;
  for (const auto value : values) out.push_back(text(value));
  return field_value::of_array(std::move(out));
}

envelope_ptr a_message(const basic_properties& properties, std::string_view exchange = "orders",
                       std::string_view key = "new") {
  std::string raw;
  encode_properties(properties, raw);
  return make_envelope(exchange, key, bytes_of(raw), properties.delivery_mode == 2, bytes_of("the body"));
}

envelope_ptr with_headers(field_table headers) {
  basic_properties p;
  p.headers = std::move(headers);
  return a_message(p);
}

// In queue q, whose dead-letter exchange is dlx, without a key of its own.
death a_death(death_reason reason = death_reason::rejected, std::string_view queue = "q",
              bool dead_lettered_before = false) {
  return {.queue = queue,
          .reason = reason,
          .time = 1'700'000'000s,
          .exchange = "dlx",
          .routing_key = std::nullopt,
          .dead_lettered_before = dead_lettered_before};
}

field_table headers_in(const envelope& message) {
  return decode_table(headers_of(message.properties())).value();
}

// As RabbitMQ writes it.
field_value an_entry(std::int64_t count, std::string_view reason, std::string_view queue,
                     std::string_view exchange = "orders",
                     std::initializer_list<std::string_view> keys = {"new"},
                     std::uint64_t time = 1'700'000'000) {
  return field_value::of_table({{"count", field_value::of_long(count)},
                                {"reason", text(reason)},
                                {"queue", text(queue)},
                                {"time", field_value::of_timestamp(time)},
                                {"exchange", text(exchange)},
                                {"routing-keys", texts(keys)}});
}

field_value an_array(field_array values) { return field_value::of_array(std::move(values)); }

field_table first_and_last(field_value deaths, std::string_view reason, std::string_view queue,
                           std::string_view exchange = "orders") {
  return {{"x-death", std::move(deaths)},           {"x-first-death-reason", text(reason)},
          {"x-first-death-queue", text(queue)},     {"x-first-death-exchange", text(exchange)},
          {"x-last-death-reason", text(reason)},    {"x-last-death-queue", text(queue)},
          {"x-last-death-exchange", text(exchange)}};
}

// Dies again and again: of these reasons, in these queues. Each time it is published to dlx, with its own keys.
envelope_ptr after(std::initializer_list<std::pair<std::string_view, death_reason>> deaths) {
  auto message = a_message({});
  bool before = false;
  for (const auto& [queue, reason] : deaths) {
    message = make_dead_letter(*message, a_death(reason, queue, before)).value();
    before = true;
  }
  return message;
}

}  // namespace

TEST_CASE("61, 62: a first death is recorded as RabbitMQ records it", "[dead_letter]") {
  const auto message = a_message({});
  const auto dead = make_dead_letter(*message, a_death()).value();
  CHECK(dead->exchange() == "dlx");
  CHECK(dead->routing_key() == "new");
  CHECK(headers_in(*dead) == first_and_last(an_array({an_entry(1, "rejected", "q")}), "rejected", "q"));
  CHECK(text_of(dead->body()) == "the body");
  CHECK_FALSE(dead->persistent());
}

TEST_CASE("63: every reason has its name", "[dead_letter]") {
  CHECK(to_string(death_reason::rejected) == "rejected");
  CHECK(to_string(death_reason::expired) == "expired");
  CHECK(to_string(death_reason::maxlen) == "maxlen");
  CHECK(to_string(death_reason::delivery_limit) == "delivery_limit");
}

TEST_CASE("61, 62: the same queue and reason are counted up, and moved to the front", "[dead_letter]") {
  const auto first = a_message({});
  const auto once = make_dead_letter(*first, a_death(death_reason::expired, "a")).value();
  auto in_b = a_death(death_reason::rejected, "b", true);
  in_b.time = 1'700'000'009s;
  in_b.routing_key = "retry";
  const auto twice = make_dead_letter(*once, in_b).value();
  const auto table = headers_in(*twice);
  CHECK(*table.find("x-death") ==
        an_array({an_entry(1, "rejected", "b", "dlx", {"new"}, 1'700'000'009), an_entry(1, "expired", "a")}));
  CHECK(*table.find("x-first-death-queue") == text("a"));
  CHECK(*table.find("x-first-death-reason") == text("expired"));
  CHECK(*table.find("x-first-death-exchange") == text("orders"));
  CHECK(*table.find("x-last-death-queue") == text("b"));
  CHECK(*table.find("x-last-death-reason") == text("rejected"));
  CHECK(*table.find("x-last-death-exchange") == text("dlx"));
  CHECK(table.size() == 7);

  // Time, exchange and keys of an entry stay those of the first time, though the message comes with others now.
  auto in_a = a_death(death_reason::expired, "a", true);
  in_a.time = 1'800'000'000s;
  const auto thrice = make_dead_letter(*twice, in_a).value();
  CHECK(*headers_in(*thrice).find("x-death") ==
        an_array({an_entry(2, "expired", "a"), an_entry(1, "rejected", "b", "dlx", {"new"}, 1'700'000'009)}));
  CHECK(*headers_in(*thrice).find("x-last-death-queue") == text("a"));

  // Another reason in the same queue is another entry.
  const auto other = make_dead_letter(*thrice, a_death(death_reason::maxlen, "a", true)).value();
  const auto headers = headers_in(*other);
  REQUIRE(as_array(*headers.find("x-death"))->size() == 3);
  CHECK(as_array(*headers.find("x-death"))->front() == an_entry(1, "maxlen", "a", "dlx", {"retry"}));
}

TEST_CASE("63: the expiration is removed, and remembered by the entry", "[dead_letter]") {
  basic_properties p;
  p.expiration = "0060000";
  const auto once = make_dead_letter(*a_message(p), a_death(death_reason::expired)).value();
  CHECK(expiration_of(once->properties()) == std::nullopt);
  field_table entry{{"original-expiration", text("60000")}};
  const auto plain = an_entry(1, "expired", "q");
  for (const auto& [name, value] : *as_table(plain)) entry.add(name, value);
  CHECK(*headers_in(*once).find("x-death") == an_array({field_value::of_table(entry)}));

  // It has none any more: the next entry has no such field, and the first one keeps it.
  const auto twice = make_dead_letter(*once, a_death(death_reason::expired, "r", true)).value();
  CHECK(*headers_in(*twice).find("x-death") ==
        an_array({an_entry(1, "expired", "r", "dlx"), field_value::of_table(entry)}));
  p.expiration = "0";
  const auto zero = make_dead_letter(*a_message(p), a_death(death_reason::maxlen)).value();
  const auto headers = headers_in(*zero);
  const auto& first = as_array(*headers.find("x-death"))->front();
  CHECK(*as_table(first)->find("original-expiration") == text("0"));
}

TEST_CASE("61, 64: without a dead-letter key, all keys stay; those of CC are recorded, those of BCC are not",
          "[dead_letter]") {
  const auto message = with_headers({{"CC", texts({"copy", "again"})}, {"BCC", texts({"secret"})}});
  const auto dead = make_dead_letter(*message, a_death()).value();
  const auto headers = headers_in(*dead);
  CHECK(dead->routing_key() == "new");
  CHECK(*headers.find("CC") == texts({"copy", "again"}));
  CHECK(*headers.find("BCC") == texts({"secret"}));
  CHECK(*headers.find("x-death") ==
        an_array({an_entry(1, "rejected", "q", "orders", {"new", "copy", "again"})}));
}

TEST_CASE("64: with a dead-letter key, that is the only one", "[dead_letter]") {
  const auto message = with_headers(
      {{"CC", texts({"copy"})}, {"a", text("b")}, {"BCC", texts({"secret"})}, {"CC", texts({"x"})}});
  auto event = a_death();
  event.routing_key = "dead";
  const auto dead = make_dead_letter(*message, event).value();
  const auto headers = headers_in(*dead);
  CHECK(dead->routing_key() == "dead");
  CHECK(dead->by_key_alone());
  CHECK(*headers.find("CC") == texts({"copy"}));  // to be read, no more
  CHECK(*headers.find("a") == text("b"));
  CHECK(*headers.find("x-death") == an_array({an_entry(1, "rejected", "q", "orders", {"new", "copy"})}));
  // It keeps to that, wherever it dies next.
  const auto again = make_dead_letter(*dead, a_death(death_reason::expired, "r", true)).value();
  CHECK(again->by_key_alone());
  CHECK(as_array(*headers_in(*again).find("x-death"))->front() ==
        an_entry(1, "expired", "r", "dlx", {"dead"}));
  event.routing_key = "";
  CHECK(make_dead_letter(*message, event).value()->routing_key().empty());
}

TEST_CASE("48: what a quorum queue has counted goes with a dead letter", "[dead_letter]") {
  const auto message = with_headers({{"mine", text("stays")}, {"x-delivery-count", text("a client's")}});
  CHECK(failed_deliveries_of(*message) == 0);
  CHECK_FALSE(headers_in(*make_dead_letter(*message, a_death()).value()).contains("x-acquired-count"));
  auto event = a_death();
  event.delivered = true;
  event.returns = 3;
  event.attempts = 2;
  const auto dead = make_dead_letter(*message, event).value();
  CHECK(dead->delivered_before());
  CHECK(*headers_in(*dead).find("x-acquired-count") == field_value::of_long(3));
  CHECK(*headers_in(*dead).find("x-delivery-count") == field_value::of_long(2));
  CHECK(*headers_in(*dead).find("mine") == text("stays"));
  CHECK(failed_deliveries_of(*dead) == 2);
  const auto stored = envelope::read(dead->bytes()).value();
  CHECK(stored->delivered_before());
  CHECK_FALSE(stored->by_key_alone());
}

TEST_CASE("62: a history that a client sent is replaced", "[dead_letter]") {
  auto sent = first_and_last(an_array({an_entry(7, "rejected", "q")}), "maxlen", "elsewhere", "nowhere");
  sent.add("x-death", text("a second one"));
  sent.add("mine", text("stays"));
  const auto dead = make_dead_letter(*with_headers(sent), a_death()).value();
  field_table wanted{{"mine", text("stays")}};
  for (const auto& [name, value] :
       first_and_last(an_array({an_entry(1, "rejected", "q")}), "rejected", "q")) {
    wanted.add(name, value);
  }
  CHECK(headers_in(*dead) == wanted);
}

TEST_CASE("a history of the wrong types is replaced", "[dead_letter]") {
  const field_value wrong[] = {field_value::nothing(), field_value::of_int(1),
                               text("x-death"),        field_value::of_table({{"queue", text("q")}}),
                               an_array({}),           an_array({text("q"), field_value::of_int(2)})};
  for (const bool ours : {false, true}) {
    for (const auto& value : wrong) {
      const auto dead =
          make_dead_letter(*with_headers({{"x-death", value}}), a_death(death_reason::rejected, "q", ours));
      CHECK(headers_in(*dead.value()) ==
            first_and_last(an_array({an_entry(1, "rejected", "q")}), "rejected", "q"));
    }
  }
}

TEST_CASE("a count of the wrong type begins again, and one at the end of its range stays there",
          "[dead_letter]") {
  const auto counted = [](field_value count) {
    const auto entry = field_value::of_table(
        {{"count", std::move(count)}, {"reason", text("rejected")}, {"queue", text("q")}});
    const auto dead = make_dead_letter(*with_headers({{"x-death", an_array({entry})}}),
                                       a_death(death_reason::rejected, "q", true));
    const auto headers = headers_in(*dead.value());
    return *as_table(as_array(*headers.find("x-death"))->front())->find("count");
  };
  CHECK(counted(text("many")) == field_value::of_long(1));
  CHECK(counted(field_value::of_long(-5)) == field_value::of_long(1));
  CHECK(counted(field_value::of_int(4)) == field_value::of_long(5));
  CHECK(counted(field_value::of_long(INT64_MAX)) == field_value::of_long(INT64_MAX));
}

TEST_CASE("headers that cannot be read, CC and keys of wrong types do no harm", "[dead_letter]") {
  // The value of 'k' has a type that there is not.
  const auto unreadable = make_envelope("orders", "new", bytes_of("\x20\0\0\0\0\4\1kU\0"sv), true, {});
  const auto dead = make_dead_letter(*unreadable, a_death()).value();
  CHECK(headers_in(*dead) == first_and_last(an_array({an_entry(1, "rejected", "q")}), "rejected", "q"));
  CHECK(dead->persistent());
  CHECK_FALSE(would_cycle(*unreadable, "q", death_reason::expired));

  const auto odd = make_dead_letter(
      *with_headers({{"CC", an_array({field_value::of_int(1), text("copy"), field_value::nothing()})}}),
      a_death());
  CHECK(*headers_in(*odd.value()).find("x-death") ==
        an_array({an_entry(1, "rejected", "q", "orders", {"new", "copy"})}));
  CHECK(make_dead_letter(*with_headers({{"CC", text("copy")}}), a_death()).has_value());
}

TEST_CASE("a message without any properties gets only headers", "[dead_letter]") {
  const auto dead = make_dead_letter(*make_envelope("orders", "new", {}, false, {}), a_death()).value();
  basic_properties wanted;
  wanted.headers = first_and_last(an_array({an_entry(1, "rejected", "q")}), "rejected", "q");
  CHECK(decode_properties(dead->properties()).value() == wanted);
}

TEST_CASE("what cannot be dead-lettered is refused with its reason", "[dead_letter]") {
  const auto message = a_message({});
  auto event = a_death();
  const std::string long_name(256, 'k');
  event.routing_key = long_name;
  CHECK(make_dead_letter(*message, event).error().code == errc::refused);
  event.routing_key = std::string_view{long_name}.substr(1);
  CHECK(make_dead_letter(*message, event).has_value());

  const auto damaged = make_envelope("orders", "new", bytes_of("\x10\0"sv), true, {});
  CHECK(make_dead_letter(*damaged, a_death()).error().code == errc::corrupted);

  const auto large = with_headers({{"h", text(std::string(envelope::properties_size_max - 50, 'h'))}});
  CHECK(make_dead_letter(*large, a_death()).error().code == errc::refused);
}

TEST_CASE("what is not touched stays byte for byte", "[dead_letter]") {
  basic_properties p;
  p.content_type = "text/plain";
  p.content_encoding = "";
  p.headers =
      field_table{{"true", {'t', boolean{7}}},
                  {"short", {'s', std::int64_t{-3}}},
                  {"long", {'L', std::int64_t{4}}},
                  {"bytes", field_value::of_bytes("\0\1")},
                  {"when", field_value::of_timestamp(UINT64_MAX)},
                  {"twice", text("a")},
                  {"twice", text("b")},
                  {"nested", field_value::of_table({{"f", {'f', 1.5F}}, {"d", {'D', decimal{2, 314}}}})}};
  p.delivery_mode = std::uint8_t{2};
  p.priority = std::uint8_t{9};
  p.correlation_id = "c-1";
  p.reply_to = "answers";
  p.expiration = "10";
  p.message_id = "m-1";
  p.timestamp = UINT64_MAX;
  p.type = "order";
  p.user_id = "guest";
  p.app_id = "shop";
  p.cluster_id = "";
  const auto message = a_message(p);
  const auto dead = make_dead_letter(*message, a_death()).value();
  CHECK(dead->persistent());

  // The old headers are the beginning of the new ones.
  const auto old_headers = text_of(headers_of(message->properties()));
  CHECK(text_of(headers_of(dead->properties())).starts_with(old_headers));
  auto wanted = p;
  wanted.expiration.reset();
  wanted.headers = headers_in(*dead);
  std::string raw;
  encode_properties(wanted, raw);
  CHECK(text_of(dead->properties()) == raw);
}

TEST_CASE("65: a message that comes back by itself goes round for ever", "[dead_letter]") {
  using enum death_reason;
  struct row {
    envelope_ptr message;
    std::string_view queue;
    death_reason reason;
    bool cycle;
  };
  const row rows[] = {
      // straight back to where it died
      {after({{"a", expired}}), "a", expired, true},
      {after({{"a", maxlen}}), "a", maxlen, true},
      {after({{"a", delivery_limit}}), "a", delivery_limit, true},
      {after({{"a", rejected}}), "a", rejected, false},
      // to a queue where it has not been
      {after({{"a", expired}}), "b", expired, false},
      // over a second queue
      {after({{"a", expired}, {"b", expired}}), "a", expired, true},
      {after({{"a", rejected}, {"b", expired}}), "a", expired, false},
      {after({{"a", expired}, {"b", rejected}}), "a", rejected, false},
      // a rejection that is older than the cycle does not count
      {after({{"a", rejected}, {"b", expired}}), "b", expired, true},
      {after({{"a", rejected}, {"b", expired}, {"c", maxlen}}), "b", maxlen, true},
      {after({{"a", rejected}, {"b", expired}, {"c", maxlen}}), "a", maxlen, false},
      // the usual retry: rejected from work, expired in wait, and so on for ever
      {after({{"work", rejected}, {"wait", expired}, {"work", rejected}, {"wait", expired}}), "work", expired,
       false},
      // counted up, the entries change their order
      {after({{"a", expired}, {"b", rejected}, {"a", expired}}), "a", expired, true},
      {after({{"a", expired}, {"b", rejected}, {"a", expired}}), "b", expired, false},
  };
  for (std::size_t i = 0; i < std::size(rows); ++i) {
    CAPTURE(i);
    CHECK(would_cycle(*rows[i].message, rows[i].queue, rows[i].reason) == rows[i].cycle);
  }
  CHECK_FALSE(would_cycle(*a_message({}), "a", expired));
}

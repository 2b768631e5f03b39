#include "gateway/amqp091/reply_to.hpp"

#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <set>
#include <string>

using namespace posthorn;
using namespace posthorn::amqp091;

namespace {

std::string encoded(const basic_properties& properties) {
  std::string out;
  encode_properties(properties, out);
  return out;
}
std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span{text}); }

}  // namespace

TEST_CASE("addresses for replies are all different, and look like addresses", "[reply_to]") {
  reply_addresses all;
  std::set<std::string> seen;
  for (std::uint64_t n = 1; n <= 1000; ++n) {
    const auto made = all.add({}, consumer_id{n});
    CHECK(is_reply_address(made->address));
    CHECK(made->address.starts_with("amq.rabbitmq.reply-to."));
    CHECK(made->address.size() == 65);
    CHECK(seen.insert(made->address).second);
  }
  for (const auto* other :
       {"", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.", "amq.rabbitmq.reply-to.nobody"}) {
    CHECK_FALSE(is_reply_address(other));
  }
  auto one = *seen.begin();
  CHECK_FALSE(is_reply_address(one + "x"));
  CHECK_FALSE(is_reply_address(one.substr(0, one.size() - 1)));
  one.back() = '.';
  CHECK_FALSE(is_reply_address(one));
  one.back() = 'A';
  one[21] = 'x';
  CHECK_FALSE(is_reply_address(one));
}

TEST_CASE("an address leads to its consumer for as long as that is there [35]", "[reply_to]") {
  reply_addresses all;
  const auto one = all.add({}, consumer_id{1});
  const auto two = all.add({}, consumer_id{2});
  CHECK(all.find(one->address) == one);
  CHECK(all.find(two->address) == two);
  CHECK(all.find("amq.rabbitmq.reply-to") == nullptr);

  reply_route route;
  all.route("q", {}, route);
  CHECK_FALSE(route.known);
  all.route(one->address, {}, route);
  CHECK(route.known);
  CHECK(route.consumers == std::vector{one});

  all.remove(*one);
  all.remove(*one);
  CHECK(all.find(one->address) == nullptr);
  CHECK(all.find(two->address) == two);
  route = {};
  all.route(one->address, {}, route);
  CHECK(route.known);  // nobody is there, and it is not returned
  CHECK(route.consumers.empty());
}

TEST_CASE("keys in CC lead to consumers of replies, each once", "[reply_to]") {
  reply_addresses all;
  const auto one = all.add({}, consumer_id{1});
  const auto two = all.add({}, consumer_id{2});
  basic_properties properties;
  field_table headers;
  headers.add("CC", field_value::of_array({field_value::of_string(two->address), field_value::of_string("q"),
                                           field_value::of_string(one->address)}));
  properties.headers = std::move(headers);
  const auto octets = encoded(properties);
  reply_route route;
  all.route(one->address, bytes_of(octets), route);
  CHECK(route.consumers == std::vector{one, two});
}

TEST_CASE("the address stands in the place of the pseudo queue, and all else as it came", "[reply_to]") {
  basic_properties properties;
  properties.reply_to = std::string{reply_queue};
  const std::string address = "amq.rabbitmq.reply-to.0123456789";
  CHECK(with_reply_to(bytes_of(encoded(properties)), address) == [&] {
    auto changed = properties;
    changed.reply_to = address;
    return encoded(changed);
  }());
  properties.content_type = "text/plain";
  properties.delivery_mode = 2;
  properties.correlation_id = "7";
  properties.expiration = "100";
  properties.user_id = "guest";
  properties.timestamp = 12345;
  field_table headers;
  headers.add("h", field_value::of_long(1));
  properties.headers = std::move(headers);
  const auto octets = encoded(properties);
  properties.reply_to = address;
  CHECK(with_reply_to(bytes_of(octets), address) == encoded(properties));
}

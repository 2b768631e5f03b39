#include "gateway/amqp091/reply_to.hpp"

#include "mailbox/carbon_copies.hpp"
#include "mailbox/properties.hpp"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace posthorn::amqp091 {

namespace {

constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr std::size_t letter_count = 43;  // six bits in each but the last, which has four

// Whoever knows an address may write to its channel, so it comes from the system's generator.
std::string new_address() {
  std::array<unsigned char, 32> random{};
  expects(::getentropy(random.data(), random.size()) == 0, "the system has random numbers");
  std::string out{reply_queue};
  out += '.';
  unsigned bits = 0;
  unsigned count = 0;
  for (const auto octet : random) {
    bits = (bits << 8U) | octet;
    count += 8;
    while (count >= 6) {
      count -= 6;
      out += letters[(bits >> count) & 63U];
    }
  }
  out += letters[(bits << (6 - count)) & 63U];
  return out;
}

}  // namespace

bool is_reply_address(std::string_view name) noexcept {
  if (name.size() != reply_queue.size() + 1 + letter_count || !name.starts_with(reply_queue)) return false;
  const auto token = name.substr(reply_queue.size());
  return token.front() == '.' && token.find_first_not_of(letters, 1) == std::string_view::npos;
}

bool reply_consumer::deliver_reply(envelope_ptr message) {
  const auto size = message->footprint();
  if (under_way.fetch_add(size, std::memory_order_relaxed) > under_way_max) {
    under_way.fetch_sub(size, std::memory_order_relaxed);
    return false;
  }
  posthorn::delivery one;
  one.to = id;
  one.message = std::move(message);
  deliver reply;
  reply.deliveries.push_back(std::move(one));
  caf::anon_send(at, std::move(reply));
  return true;
}

reply_consumer_ptr reply_addresses::add(connection_actor at, consumer_id id) {
  auto made = std::make_shared<reply_consumer>();
  made->address = new_address();
  made->at = std::move(at);
  made->id = id;
  const std::lock_guard guard{mutex_};
  consumers_.emplace(made->address, made);
  return made;
}

void reply_addresses::remove(const reply_consumer& gone) {
  reply_consumer_ptr last;  // its actor may end with it: not under the lock
  const std::lock_guard guard{mutex_};
  const auto found = consumers_.find(gone.address);
  if (found == consumers_.end()) return;
  last = std::move(found->second);
  consumers_.erase(found);
}

reply_consumer_ptr reply_addresses::find(std::string_view address) const {
  const std::lock_guard guard{mutex_};
  const auto found = consumers_.find(address);
  return found == consumers_.end() ? nullptr : found->second;
}

void reply_addresses::route(std::string_view routing_key, std::span<const std::byte> properties,
                            reply_route& out) const {
  const auto look_at = [&](std::string_view key) {
    if (!is_reply_address(key)) return;
    out.known = true;
    auto found = find(key);
    if (found && std::find(out.consumers.begin(), out.consumers.end(), found) == out.consumers.end()) {
      out.consumers.push_back(std::move(found));
    }
  };
  look_at(routing_key);
  for (const auto& key : copy_keys(properties)) look_at(key);
}

std::string with_reply_to(std::span<const std::byte> properties, std::string_view address) {
  const auto at = static_cast<std::size_t>(detail::place_of(properties, property::reply_to));
  const auto size = std::to_integer<std::size_t>(properties[at]);
  const std::string_view all{reinterpret_cast<const char*>(properties.data()), properties.size()};
  std::string out;
  out.reserve(all.size() + address.size());
  out += all.substr(0, at);
  out += static_cast<char>(address.size());
  out += address;
  out += all.substr(at + 1 + size);
  return out;
}

}  // namespace posthorn::amqp091

#include "mailbox/delayed.hpp"

#include "mailbox/properties.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

namespace posthorn {

namespace {

constexpr std::string_view type_argument = "x-delayed-type", delay_header = "x-delay";
constexpr auto latest = std::numeric_limits<std::int64_t>::max();
constexpr auto earliest = std::numeric_limits<std::int64_t>::min();

std::optional<std::int64_t> truncated(double value) noexcept {
  if (std::isnan(value)) return std::nullopt;
  if (value >= 9223372036854775807.0) return latest;
  if (value <= -9223372036854775808.0) return earliest;
  return static_cast<std::int64_t>(value);
}

std::optional<std::int64_t> number_in(std::string_view text) noexcept {
  if (text.starts_with('+')) text.remove_prefix(1);
  std::int64_t value = 0;
  const auto* end = text.data() + text.size();
  const auto [rest, failed] = std::from_chars(text.data(), end, value);
  if (text.empty() || rest != end) return std::nullopt;
  if (failed == std::errc::result_out_of_range) return text.starts_with('-') ? earliest : latest;
  if (failed != std::errc{}) return std::nullopt;
  return value;
}

std::optional<std::int64_t> delay_in(const field_table& headers) {
  const auto* value = headers.find(delay_header);
  if (value == nullptr) return std::nullopt;
  if (const auto number = as_integer(*value)) return number;
  switch (value->type) {
    case 'S': return number_in(*as_string(*value));
    case 'f': return truncated(double{std::get<float>(value->value)});
    case 'd': return truncated(std::get<double>(value->value));
    case 'D': {
      const auto number = std::get<decimal>(value->value);
      return truncated(number.mantissa / std::pow(10.0, number.scale));
    }
    default: return std::nullopt;
  }
}

// Most messages have no such header: they are not decoded.
bool may_have_delay(std::span<const std::byte> properties) noexcept {
  const auto headers = headers_of(properties);
  const std::string_view octets{reinterpret_cast<const char*>(headers.data()), headers.size()};
  return octets.find(delay_header) != std::string_view::npos;
}

}  // namespace

std::variant<exchange_type, std::string> delayed_type_of(const field_table& arguments) {
  const auto* value = arguments.find(type_argument);
  const auto name = value == nullptr ? std::nullopt : as_string(*value);
  if (!name || *name == delayed_exchange_type)
    return "Invalid argument, 'x-delayed-type' must be an existing exchange type";
  if (const auto type = exchange_type_of(*name)) return *type;
  return "invalid exchange type '" + std::string{*name} + "'";
}

std::int64_t delay_of(std::span<const std::byte> properties) {
  if (!may_have_delay(properties)) return 0;
  const auto headers = decode_table(headers_of(properties));
  const auto delay = headers ? delay_in(*headers) : std::nullopt;
  return std::max<std::int64_t>(delay.value_or(0), 0);
}

std::int64_t due_time_of(const envelope& message, std::int64_t now) {
  const auto delay = delay_of(message.properties());
  return delay > latest - std::max<std::int64_t>(now, 0) ? latest : now + delay;
}

result<envelope_ptr> released(const envelope& message) {
  auto headers = decode_table(headers_of(message.properties()));
  if (!headers) return headers.error();
  const auto delay = delay_in(*headers).value_or(0);
  const auto negative = delay > 0 ? -delay : delay;
  constexpr auto least = std::numeric_limits<std::int32_t>::min();
  headers->erase(delay_header);
  headers->add(std::string{delay_header}, negative >= least
                                              ? field_value::of_int(static_cast<std::int32_t>(negative))
                                              : field_value::of_long(negative));
  std::string properties;
  if (auto written = rewrite_properties(message.properties(), {.headers = &*headers}, properties); !written)
    return written.error();
  return make_envelope(message.exchange(), message.routing_key(), std::as_bytes(std::span{properties}),
                       message.persistent(), message.body(),
                       {.dead_lettered = message.dead_lettered(),
                        .delivered_before = message.delivered_before(),
                        .by_key_alone = message.by_key_alone()});
}

std::string to_string(const delayed_id& id) {
  return std::to_string(id.due) + "-" + std::to_string(id.at.value);
}

std::optional<delayed_id> delayed_id_of(std::string_view text) noexcept {
  const auto* end = text.data() + text.size();
  delayed_id id;
  const auto due = std::from_chars(text.data(), end, id.due);
  if (due.ec != std::errc{} || due.ptr == end || *due.ptr != '-') return std::nullopt;
  const auto at = std::from_chars(due.ptr + 1, end, id.at.value);
  if (at.ec != std::errc{} || at.ptr != end) return std::nullopt;
  return id;
}

// --- the ids ---

std::size_t delayed_ids::block_of(const delayed_id& id) const noexcept {
  const auto after = std::upper_bound(blocks_.begin(), blocks_.end(), id,
                                      [](const delayed_id& a, const block& b) { return a < b.front(); });
  return after == blocks_.begin() ? 0 : static_cast<std::size_t>(after - blocks_.begin()) - 1;
}

void delayed_ids::drop_gap() {
  if (first_ == 0) return;
  auto& front = blocks_.front();
  front.erase(front.begin(), front.begin() + static_cast<std::ptrdiff_t>(first_));
  first_ = 0;
}

bool delayed_ids::insert(const delayed_id& id) {
  if (blocks_.empty()) {
    blocks_.push_back({id});
    ++size_;
    return true;
  }
  const auto index = block_of(id);
  if (index == 0) drop_gap();
  auto& here = blocks_[index];
  const auto place = std::lower_bound(here.begin(), here.end(), id);
  if (place != here.end() && *place == id) return false;
  ++size_;
  if (here.size() < block_size_max) {
    here.insert(place, id);
    return true;
  }
  const auto next = blocks_.begin() + static_cast<std::ptrdiff_t>(index) + 1;
  // What comes in order fills its blocks.
  if (place == here.end() && next == blocks_.end()) {
    blocks_.push_back({id});
    return true;
  }
  const auto middle = here.begin() + block_size_max / 2;
  block upper(middle, here.end());
  const bool goes_up = upper.front() < id;
  here.erase(middle, here.end());
  auto& to = goes_up ? upper : here;
  to.insert(std::lower_bound(to.begin(), to.end(), id), id);
  blocks_.insert(next, std::move(upper));
  return true;
}

bool delayed_ids::erase(const delayed_id& id) {
  if (empty()) return false;
  const auto index = block_of(id);
  if (index == 0) drop_gap();
  auto& here = blocks_[index];
  const auto place = std::lower_bound(here.begin(), here.end(), id);
  if (place == here.end() || *place != id) return false;
  here.erase(place);
  --size_;
  const auto block_at = [this](std::size_t i) { return blocks_.begin() + static_cast<std::ptrdiff_t>(i); };
  if (here.empty()) {
    blocks_.erase(block_at(index));
    return true;
  }
  // Neighbours that are half empty become one.
  const auto join = [&](std::size_t lower) {
    if (lower + 1 >= blocks_.size()) return false;
    auto &a = blocks_[lower], &b = blocks_[lower + 1];
    if (a.size() + b.size() > block_size_max * 3 / 4) return false;
    a.insert(a.end(), b.begin(), b.end());
    blocks_.erase(block_at(lower + 1));
    return true;
  };
  if (here.size() < block_size_max / 2 && !join(index) && index > 0) (void)join(index - 1);
  return true;
}

void delayed_ids::pop_front() {
  --size_;
  if (++first_ < blocks_.front().size()) return;
  first_ = 0;
  blocks_.erase(blocks_.begin());
}

std::vector<delayed_id> delayed_ids::list(const delayed_id& from, std::size_t count_max) const {
  std::vector<delayed_id> out;
  if (empty()) return out;
  for (auto index = block_of(from); index < blocks_.size(); ++index) {
    const auto& here = blocks_[index];
    const auto begin = here.begin() + static_cast<std::ptrdiff_t>(index == 0 ? first_ : 0);
    for (auto id = std::lower_bound(begin, here.end(), from); id != here.end(); ++id) {
      if (out.size() >= count_max) return out;
      out.push_back(*id);
    }
  }
  return out;
}

std::size_t delayed_ids::footprint() const noexcept {
  std::size_t bytes = blocks_.capacity() * sizeof(block);
  for (const auto& b : blocks_) bytes += b.capacity() * sizeof(delayed_id);
  return bytes;
}

// --- the messages ---

void delayed_messages::restore(sequence at, std::int64_t due) {
  ids_.insert({due, at});
  skip_to({at.value + 1});
}

void delayed_messages::publish(std::span<arrival> messages, std::int64_t now) {
  for (auto& m : messages) {
    const auto at = next_;
    next_ = {at.value + 1};
    const auto due = due_time_of(*m.message, now);
    ids_.insert({due, at});
    feed_.append({at, std::move(m.message), due, m.from, m.number, false, false});
  }
}

void delayed_messages::arrive(std::span<const loaded_message> messages) {
  for (const auto& m : messages) restore(m.at, m.expires_at);
}

std::optional<std::int64_t> delayed_messages::next_due() const noexcept {
  if (ids_.empty()) return std::nullopt;
  return ids_.front().due;
}

std::vector<delayed_messages::due_message> delayed_messages::take_due(std::int64_t now, std::size_t count_max,
                                                                      effects& out) {
  std::vector<due_message> taken;
  while (!ids_.empty() && ids_.front().due <= now && taken.size() < count_max) {
    due_message due{ids_.front(), feed_.find_unstored(ids_.front().at)};
    ids_.pop_front();
    feed_.withdraw(due.id.at, true, out);
    taken.push_back(std::move(due));
  }
  return taken;
}

bool delayed_messages::cancel(const delayed_id& id, effects& out) {
  if (!ids_.erase(id)) return false;
  feed_.withdraw(id.at, false, out);
  return true;
}

std::size_t delayed_messages::purge(std::size_t count_max, effects& out) {
  std::vector<sequence> places;
  for (; !ids_.empty() && places.size() < count_max; ids_.pop_front()) places.push_back(ids_.front().at);
  std::sort(places.begin(), places.end());  // so that neighbours are erased as one range
  for (const auto at : places) feed_.withdraw(at, false, out);
  return places.size();
}

}  // namespace posthorn

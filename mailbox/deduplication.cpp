#include "mailbox/deduplication.hpp"

#include "mailbox/properties.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

namespace posthorn {

namespace {

constexpr std::string_view header = "x-deduplication-header", ttl_name = "x-cache-ttl",
                           size_name = "x-cache-size", persistence_name = "x-cache-persistence",
                           argument = deduplication_argument;

// Most messages have no such headers: they are not decoded.
std::optional<field_value> header_of(std::span<const std::byte> properties, std::string_view name) {
  const auto headers = headers_of(properties);
  const std::string_view octets{reinterpret_cast<const char*>(headers.data()), headers.size()};
  if (octets.find(name) == std::string_view::npos) return std::nullopt;
  const auto decoded = decode_table(headers);
  const auto* value = decoded ? decoded->find(name) : nullptr;
  return value == nullptr ? std::nullopt : std::optional{*value};
}

// The value with a letter before it that all types have which can be equal.
std::string canonical(const field_value& value) {
  std::string out;
  if (const auto* number = std::get_if<std::int64_t>(&value.value)) {
    out += 'i';
    big_endian::append(out, static_cast<std::uint64_t>(*number));
  } else if (const auto* text = std::get_if<std::string>(&value.value)) {
    out += 'S';
    out += *text;
  } else if (const auto* narrow = std::get_if<float>(&value.value)) {
    return canonical(field_value::of_double(double{*narrow}));
  } else {
    field_table table;
    table.add("", value);
    encode_table(table, out);
  }
  return out;
}

// A whole number, or one that is written as text; nothing: neither.
std::optional<std::int64_t> number_in(const field_value& value) {
  if (const auto number = as_integer(value)) return number;
  const auto text = as_string(value);
  if (!text || text->empty()) return std::nullopt;
  std::int64_t number = 0;
  const auto* end = text->data() + text->size();
  const auto read = std::from_chars(text->data(), end, number);
  if (read.ec != std::errc{} || read.ptr != end) return std::nullopt;
  return number;
}

std::int64_t later(std::int64_t now, std::int64_t by) noexcept {
  constexpr auto latest = std::numeric_limits<std::int64_t>::max();
  return by > latest - std::max<std::int64_t>(now, 0) ? latest : std::max<std::int64_t>(now + by, 1);
}

}  // namespace

std::optional<deduplication_key> deduplication_key_of(std::span<const std::byte> properties) {
  const auto value = header_of(properties, header);
  if (!value) return std::nullopt;
  const auto octets = canonical(*value);
  const auto hash = XXH3_128bits(octets.data(), octets.size());
  return deduplication_key{hash.high64, hash.low64};
}

std::optional<std::int64_t> deduplication_ttl_of(std::span<const std::byte> properties) {
  const auto value = header_of(properties, ttl_name);
  return value ? number_in(*value) : std::nullopt;
}

// --- arguments ---

std::variant<std::optional<deduplication_rules>, std::string> deduplication_of_exchange(
    std::string_view type, const field_table& arguments) {
  const bool of_type = type == deduplication_exchange_type;
  const auto* asked = arguments.find(argument);
  if (!of_type && asked == nullptr) return std::nullopt;
  if (!of_type) {
    const auto wanted = as_bool(*asked);
    if (!wanted) return "Invalid argument, 'x-message-deduplication' must be a boolean";
    if (!*wanted) return std::nullopt;
  }
  deduplication_rules rules;
  if (const auto* size = arguments.find(size_name); size != nullptr || of_type) {
    const auto number = size == nullptr ? std::nullopt : number_in(*size);
    if (!number || *number <= 0)
      return "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0";
    rules.size_max = std::min(static_cast<std::uint64_t>(*number), deduplication_rules::size_most);
  }
  if (const auto* ttl = arguments.find(ttl_name)) {
    rules.ttl = number_in(*ttl);
    if (!rules.ttl || *rules.ttl <= 0)
      return "Invalid argument, 'x-cache-ttl' must be an integer greater than 0";
  }
  if (const auto* persistence = arguments.find(persistence_name)) {
    const auto where = persistence->type == 'S' ? as_string(*persistence) : std::nullopt;
    if (where != "disk" && where != "memory")
      return "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'";
    rules.on_disk = where == "disk";
  }
  return rules;
}

bool deduplicates(const field_table& queue_arguments) {
  const auto* asked = queue_arguments.find(argument);
  return asked != nullptr && as_bool(*asked).value_or(false);
}

// --- an exchange ---

seen_messages::verdict seen_messages::see(const deduplication_key& key, std::int64_t now,
                                          std::optional<std::int64_t> ttl) {
  if (const auto found = places_.find(key); found != places_.end()) {
    const auto index = found->second;
    if (!expired(entries_[index], now)) {
      take_out(index);
      put_newest(index);
      return entries_[index].stored ? verdict::duplicate : verdict::pending;
    }
    forget(index);
  }
  while (places_.size() >= rules_.size_max) forget(oldest_);
  if (!ttl) ttl = rules_.ttl;
  const auto index = add(key, ttl ? later(now, *ttl) : 0, ++order_);
  note({key, entries_[index].expires_at, order_, false});
  return verdict::fresh;
}

void seen_messages::on_stored(const deduplication_key& key) {
  if (const auto found = places_.find(key); found != places_.end()) entries_[found->second].stored = true;
}

void seen_messages::on_refused(const deduplication_key& key) {
  if (const auto found = places_.find(key); found != places_.end()) forget(found->second);
}

void seen_messages::expire(std::int64_t now, std::size_t count_max) {
  for (auto left = std::min(count_max, entries_.size()); left > 0; --left) {
    if (looked_at_ >= entries_.size()) looked_at_ = 0;
    const auto index = static_cast<std::uint32_t>(looked_at_++);
    if (entries_[index].used && expired(entries_[index], now)) forget(index);
  }
}

std::vector<seen_messages::change> seen_messages::changes() { return std::exchange(changes_, {}); }

void seen_messages::restore(const change& remembered) {
  if (remembered.forgotten || places_.contains(remembered.key)) return;
  while (places_.size() >= rules_.size_max) forget(oldest_);
  const auto index = add(remembered.key, remembered.expires_at, remembered.order);
  entries_[index].stored = true;
  order_ = std::max(order_, remembered.order);
}

std::uint32_t seen_messages::add(const deduplication_key& key, std::int64_t expires_at, std::uint64_t order) {
  if (free_.empty()) {
    free_.push_back(static_cast<std::uint32_t>(entries_.size()));
    entries_.emplace_back();
  }
  const auto index = free_.back();
  free_.pop_back();
  entries_[index] = {key, expires_at, order, none, none, true, false};
  places_[key] = index;
  put_newest(index);
  return index;
}

void seen_messages::forget(std::uint32_t index) {
  auto& e = entries_[index];
  note({e.key, 0, e.order, true});
  take_out(index);
  places_.erase(e.key);
  e = entry{};
  free_.push_back(index);
}

void seen_messages::put_newest(std::uint32_t index) {
  auto& e = entries_[index];
  e.older = newest_;
  e.newer = none;
  (newest_ == none ? oldest_ : entries_[newest_].newer) = index;
  newest_ = index;
}

void seen_messages::take_out(std::uint32_t index) {
  const auto& e = entries_[index];
  (e.older == none ? oldest_ : entries_[e.older].newer) = e.newer;
  (e.newer == none ? newest_ : entries_[e.newer].older) = e.older;
}

void seen_messages::note(change c) {
  if (rules_.on_disk) changes_.push_back(c);
}

// --- a queue ---

std::size_t kept_messages::index_of(sequence at) const noexcept {
  std::size_t first = 0, end = places_.size();
  while (first < end) {
    const auto middle = first + (end - first) / 2;
    if (places_[middle].at < at) {
      first = middle + 1;
    } else {
      end = middle;
    }
  }
  return first;
}

std::optional<sequence> kept_messages::original_of(const deduplication_key& key) const {
  const auto found = originals_.find(key);
  return found == originals_.end() ? std::nullopt : std::optional{found->second};
}

void kept_messages::add(const deduplication_key& key, sequence at) {
  if (!originals_.emplace(key, at).second) return;
  if (places_.empty() || places_.back().at < at) {
    places_.push_back({at, key, false});
  } else {
    places_.insert(index_of(at), {at, key, false});
  }
}

void kept_messages::remove(sequence_range which) {
  for (auto index = index_of(which.first); index < places_.size() && places_[index].at <= which.last;
       ++index) {
    auto& k = places_[index];
    if (std::exchange(k.gone, true)) continue;
    ++gone_;
    originals_.erase(k.key);
  }
  drop_gone();
}

void kept_messages::drop_gone() {
  for (; !places_.empty() && places_.front().gone; places_.pop_front()) --gone_;
  if (gone_ < 64 || gone_ * 2 < places_.size()) return;
  ring<kept> rest;
  for (std::size_t i = 0; i < places_.size(); ++i) {
    if (!places_[i].gone) rest.push_back(places_[i]);
  }
  places_ = std::move(rest);
  gone_ = 0;
}

void kept_messages::wait_for(sequence original, publisher_id by, std::uint64_t number) {
  waiting_.emplace(original, waiting{by, number});
}

void kept_messages::on_stored(sequence up_to, effects& out) {
  const auto end = waiting_.upper_bound(up_to);
  for (auto w = waiting_.begin(); w != end; ++w) out.settle(w->second.by, w->second.number);
  waiting_.erase(waiting_.begin(), end);
}

std::vector<kept_messages::waiting> kept_messages::take_waiting(sequence original) {
  std::vector<waiting> out;
  const auto [first, end] = waiting_.equal_range(original);
  for (auto w = first; w != end; ++w) out.push_back(w->second);
  waiting_.erase(first, end);
  return out;
}

}  // namespace posthorn

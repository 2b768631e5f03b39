#include "mailbox/dead_letter.hpp"

#include "mailbox/delivered_properties.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

namespace posthorn {

namespace {

// The history in the headers of a dead letter; empty if what stands there is none.
field_array history_of(const field_table& headers) {
  const auto* found = headers.find("x-death");
  const auto* entries = found != nullptr ? as_array(*found) : nullptr;
  field_array out;
  if (entries == nullptr) return out;
  for (const auto& entry : *entries) {
    if (as_table(entry) != nullptr) out.push_back(entry);
  }
  return out;
}

std::optional<std::string_view> text_in(const field_value& entry, std::string_view name) {
  const auto* table = as_table(entry);
  const auto* value = table != nullptr ? table->find(name) : nullptr;
  return value != nullptr ? as_string(*value) : std::nullopt;
}

bool is_of(const field_value& entry, std::string_view queue, std::string_view reason) {
  return text_in(entry, "queue") == queue && text_in(entry, "reason") == reason;
}

// The expiration was a number when the message came; it is written as one that was calculated would be.
std::string_view without_zeros(std::string_view digits) {
  const auto first = digits.find_first_not_of('0');
  if (first != std::string_view::npos) return digits.substr(first);
  return digits.empty() ? digits : digits.substr(digits.size() - 1);
}

field_value entry_of(const envelope& message, const field_table& headers, const death& event) {
  field_array keys{field_value::of_string(message.routing_key())};
  const auto* more = message.by_key_alone() ? nullptr : headers.find("CC");
  if (const auto* copies = more != nullptr ? as_array(*more) : nullptr) {
    for (const auto& key : *copies) {
      if (key.type == 'S') keys.push_back(key);
    }
  }
  field_table entry;
  if (const auto expiration = expiration_of(message.properties())) {
    entry.add("original-expiration", field_value::of_string(without_zeros(*expiration)));
  }
  entry.add("count", field_value::of_long(1));
  entry.add("reason", field_value::of_string(to_string(event.reason)));
  entry.add("queue", field_value::of_string(event.queue));
  entry.add("time", field_value::of_timestamp(static_cast<std::uint64_t>(event.time.count())));
  entry.add("exchange", field_value::of_string(message.exchange()));
  entry.add("routing-keys", field_value::of_array(std::move(keys)));
  return field_value::of_table(std::move(entry));
}

// Counts the death in the entry of its queue and reason, and puts that to the front.
void record(field_array& history, const envelope& message, const field_table& headers, const death& event) {
  const auto known = std::find_if(history.begin(), history.end(), [&event](const field_value& entry) {
    return is_of(entry, event.queue, to_string(event.reason));
  });
  if (known == history.end()) {
    history.insert(history.begin(), entry_of(message, headers, event));
    return;
  }
  auto& entry = std::get<field_table>(known->value);
  const auto* count = entry.find("count");
  const auto before = count != nullptr ? as_integer(*count).value_or(0) : 0;
  constexpr auto count_max = std::numeric_limits<std::int64_t>::max();
  entry.set("count",
            field_value::of_long(before < count_max ? std::max<std::int64_t>(before, 0) + 1 : count_max));
  std::rotate(history.begin(), known, known + 1);
}

void replace(field_table& headers, std::string_view name, field_value value) {
  headers.erase(name);  // all of them: clients differ in which one of two counts
  headers.add(std::string{name}, std::move(value));
}

}  // namespace

std::string_view to_string(death_reason reason) noexcept {
  switch (reason) {
    case death_reason::rejected: return "rejected";
    case death_reason::expired: return "expired";
    case death_reason::maxlen: return "maxlen";
    case death_reason::delivery_limit: return "delivery_limit";
  }
  return {};
}

result<envelope_ptr> make_dead_letter(const envelope& message, const death& event) {
  const auto key = event.routing_key.value_or(message.routing_key());
  if (event.exchange.size() > envelope::name_size_max || key.size() > envelope::name_size_max) {
    return refused("dead letter of queue '" + std::string{event.queue} +
                   "': its exchange or routing key is longer than 255 bytes");
  }
  if (auto valid = check_properties(message.properties()); !valid) return valid.error();

  field_table headers;
  if (auto read = decode_table(headers_of(message.properties()))) headers = *std::move(read);

  field_array history;
  if (event.dead_lettered_before) history = history_of(headers);
  const bool first = history.empty();
  record(history, message, headers, event);
  if (event.returns != 0) add_delivery_counts(headers, event.returns, event.attempts);
  replace(headers, "x-death", field_value::of_array(std::move(history)));
  const auto describe = [&](const std::string& which) {
    replace(headers, which + "-reason", field_value::of_string(to_string(event.reason)));
    replace(headers, which + "-queue", field_value::of_string(event.queue));
    replace(headers, which + "-exchange", field_value::of_string(message.exchange()));
  };
  if (first) describe("x-first-death");
  describe("x-last-death");

  std::string properties;
  if (auto written = rewrite_properties(message.properties(),
                                        {.headers = &headers, .without_expiration = true}, properties);
      !written) {
    return written.error();
  }
  if (properties.size() > envelope::properties_size_max) {
    return refused("dead letter of queue '" + std::string{event.queue} + "': its properties have grown to " +
                   std::to_string(properties.size()) + " bytes");
  }
  return make_envelope(event.exchange, key,
                       {reinterpret_cast<const std::byte*>(properties.data()), properties.size()},
                       message.persistent(), message.body(),
                       {.dead_lettered = true,
                        .delivered_before = event.delivered,
                        .by_key_alone = event.routing_key.has_value() || message.by_key_alone()});
}

bool would_cycle(const envelope& dead_letter, std::string_view queue, death_reason reason) {
  if (reason == death_reason::rejected) return false;
  const auto headers = decode_table(headers_of(dead_letter.properties()));
  if (!headers) return false;
  const auto* found = headers->find("x-death");
  const auto* history = found != nullptr ? as_array(*found) : nullptr;
  if (history == nullptr) return false;
  // From the newest death back to the one in this queue.
  for (const auto& entry : *history) {
    if (text_in(entry, "reason") == to_string(death_reason::rejected)) return false;
    if (text_in(entry, "queue") == queue) return true;
  }
  return false;
}

std::uint16_t failed_deliveries_of(const envelope& dead_letter) {
  const auto headers = decode_table(headers_of(dead_letter.properties()));
  const auto* found = headers ? headers->find(delivery_count_header) : nullptr;
  const auto count = found != nullptr ? as_integer(*found) : std::nullopt;
  constexpr std::int64_t count_max = std::numeric_limits<std::uint16_t>::max();
  return static_cast<std::uint16_t>(std::clamp<std::int64_t>(count.value_or(0), 0, count_max));
}

}  // namespace posthorn

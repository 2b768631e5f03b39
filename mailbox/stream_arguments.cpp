#include "mailbox/stream_arguments.hpp"

#include "mailbox/erlang_term.hpp"
#include "mailbox/properties.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

namespace posthorn {

namespace {

using kind = refusal::kind;

// What is refused for a stream, because only other types of queues know it [4]; of several, the first by name is told.
// The last three are ours.
constexpr std::array<std::string_view, 24> not_of_stream = {
    "x-consumer-disconnected-timeout",
    "x-consumer-timeout",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delayed-retry-max",
    "x-delayed-retry-min",
    "x-delayed-retry-type",
    "x-delivery-limit",
    "x-expires",
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-max-length",
    "x-max-priority",
    "x-message-ttl",
    "x-overflow",
    "x-queue-master-locator",
    "x-queue-mode",
    "x-queue-version",
    "x-quorum-initial-group-size",
    "x-single-active-consumer",
    "x-dispatch",
    "x-hash-header",
    "x-message-deduplication",
};

constexpr std::string_view age_argument = "x-max-age", size_argument = "x-max-length-bytes",
                           segment_argument = "x-stream-max-segment-size-bytes",
                           filter_size_argument = "x-stream-filter-size-bytes",
                           offset_argument = "x-stream-offset", filter_argument = "x-stream-filter",
                           unfiltered_argument = "x-stream-match-unfiltered",
                           filter_header = "x-stream-filter-value";

constexpr std::int64_t filter_size_min = 16, filter_size_max = 255;

std::string invalid(std::string_view name, std::string_view described, std::string_view what) {
  return "invalid arg '" + std::string{name} + "' for " + std::string{described} + ": " + std::string{what};
}

std::optional<std::string> check_age(const field_value& value) {
  if (value.type != 'S') return "{unacceptable_type," + std::string{type_name(value.type)} + "}";
  if (!stream_age(*as_string(value))) return "invalid_max_age";
  return std::nullopt;
}

std::optional<std::string> check_size(const field_value& value) {
  const auto number = as_integer(value);
  if (!number) return "\"expected integer, got " + std::string{type_name(value.type)} + "\"";
  if (*number < 0) return "{value_negative," + std::to_string(*number) + "}";
  return std::nullopt;
}

std::optional<std::int64_t> whole(const field_table& arguments, std::string_view name) {
  const auto* value = arguments.find(name);
  return value == nullptr ? std::nullopt : as_integer(*value);
}

// Nothing: this is no place in a stream.
std::optional<stream_start> start_of(const field_value& value, std::int64_t now) {
  using from = stream_start::from;
  if (const auto number = as_integer(value))
    return stream_start{from::offset, static_cast<std::uint64_t>(std::max<std::int64_t>(*number, 0))};
  if (value.type == 'T') {
    const auto seconds = static_cast<std::uint64_t>(std::get<std::int64_t>(value.value));
    constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    return stream_start{from::time, seconds > most / 1000 ? most : seconds * 1000};
  }
  if (value.type != 'S') return std::nullopt;
  const auto text = *as_string(value);
  if (text == "first") return stream_start{from::first};
  if (text == "last") return stream_start{from::last};
  if (text == "next") return stream_start{from::next};
  const auto age = stream_age(text);
  if (!age) return std::nullopt;
  const auto since = age->count() >= now ? 0 : now - age->count();
  return stream_start{from::time, static_cast<std::uint64_t>(since)};
}

}  // namespace

std::optional<std::chrono::milliseconds> stream_age(std::string_view text) noexcept {
  constexpr std::array<std::pair<char, std::int64_t>, 6> units = {
      {{'Y', 31'536'000}, {'M', 2'592'000}, {'D', 86'400}, {'h', 3'600}, {'m', 60}, {'s', 1}}};
  if (text.empty()) return std::nullopt;
  const auto unit =
      std::find_if(units.begin(), units.end(), [&text](const auto& u) { return u.first == text.back(); });
  if (unit == units.end()) return std::nullopt;
  const auto digits = text.substr(0, text.size() - 1);
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  if (digits.find_first_not_of('0') == std::string_view::npos) return std::nullopt;
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  std::int64_t number = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (read.ec != std::errc{} || number > most / 1000 / unit->second) return std::chrono::milliseconds{most};
  return std::chrono::milliseconds{number * unit->second * 1000};
}

std::optional<refusal> check_stream_argument_names(const field_table& arguments, std::string_view described) {
  for (const auto name : not_of_stream) {
    if (!arguments.contains(name)) continue;
    return refusal{kind::precondition_failed, "invalid arg '" + std::string{name} + "' for " +
                                                  std::string{described} +
                                                  " of queue type rabbit_stream_queue"};
  }
  return std::nullopt;
}

std::optional<refusal> check_stream_arguments(const field_table& arguments, std::string_view described) {
  const auto refuse = [](std::string text) { return refusal{kind::precondition_failed, std::move(text)}; };
  if (const auto* age = arguments.find(age_argument)) {
    if (const auto wrong = check_age(*age)) return refuse(invalid(age_argument, described, *wrong));
  }
  for (const auto name : {size_argument, segment_argument, filter_size_argument}) {
    const auto* size = arguments.find(name);
    if (size == nullptr) continue;
    if (const auto wrong = check_size(*size)) return refuse(invalid(name, described, *wrong));
  }
  if (const auto size = whole(arguments, segment_argument);
      size && *size > static_cast<std::int64_t>(stream_rules::segment_size_most)) {
    return refuse("Exceeded max value for " + std::string{segment_argument});
  }
  if (const auto size = whole(arguments, filter_size_argument);
      size && (*size < filter_size_min || *size > filter_size_max)) {
    return refuse("Invalid value for " + std::string{filter_size_argument});
  }
  return std::nullopt;
}

stream_rules stream_rules_of(const field_table& arguments) {
  stream_rules rules;
  if (const auto size = whole(arguments, size_argument); size && *size >= 0)
    rules.size_max = static_cast<std::uint64_t>(*size);
  if (const auto* age = arguments.find(age_argument); age != nullptr && age->type == 'S')
    rules.age_max = stream_age(*as_string(*age));
  if (const auto size = whole(arguments, segment_argument); size && *size >= 0)
    rules.segment_size_max = std::min(static_cast<std::uint64_t>(*size), stream_rules::segment_size_most);
  return rules;
}

std::optional<refusal> check_stream_reader(const field_table& arguments, std::uint32_t prefetch,
                                           bool acknowledges, std::string_view described) {
  const auto* offset = arguments.find(offset_argument);
  if (offset != nullptr && !start_of(*offset, 0)) {
    return refusal{kind::precondition_failed,
                   invalid(offset_argument, described,
                           "{invalid_stream_offset_arg,{" + std::string{type_name(offset->type)} + "," +
                               erlang_term(*offset) + "}}")};
  }
  if (prefetch == 0) {
    return refusal{kind::precondition_failed,
                   "consumer prefetch count is not set for stream " + std::string{described}};
  }
  if (!acknowledges) {
    return refusal{kind::not_implemented,
                   "automatic acknowledgement not supported by stream " + std::string{described}};
  }
  return std::nullopt;
}

stream_start stream_start_of(const field_table& arguments, std::int64_t now) {
  const auto* offset = arguments.find(offset_argument);
  return offset == nullptr ? stream_start{} : start_of(*offset, now).value_or(stream_start{});
}

stream_filter stream_filter_of(const field_table& arguments) {
  stream_filter out;
  const auto* value = arguments.find(filter_argument);
  if (value == nullptr) return out;
  if (value->type == 'S') out.values.emplace_back(*as_string(*value));
  if (const auto* several = as_array(*value)) {
    for (const auto& each : *several) {
      if (each.type == 'S') out.values.emplace_back(*as_string(each));
    }
  }
  const auto* unfiltered = arguments.find(unfiltered_argument);
  out.unfiltered = unfiltered != nullptr && as_bool(*unfiltered).value_or(false);
  return out;
}

bool stream_filter::takes(std::span<const std::byte> properties) const {
  if (takes_all()) return true;
  const auto headers = headers_of(properties);
  const std::string_view octets{reinterpret_cast<const char*>(headers.data()), headers.size()};
  if (octets.find(filter_header) == std::string_view::npos) return unfiltered;
  const auto decoded = decode_table(headers);
  const auto* found = decoded ? decoded->find(filter_header) : nullptr;
  if (found == nullptr || found->type != 'S') return unfiltered;
  return std::find(values.begin(), values.end(), *as_string(*found)) != values.end();
}

refusal not_of_streams(std::string_view what, std::string_view described) {
  return {kind::not_implemented,
          std::string{what} + " not supported by stream queues " + std::string{described}};
}

std::optional<std::string> with_stream_offset(std::span<const std::byte> properties, std::uint64_t offset) {
  auto headers = decode_table(headers_of(properties));
  if (!headers) return std::nullopt;
  headers->erase("BCC");
  headers->erase(stream_offset_header);
  headers->add(std::string{stream_offset_header}, field_value::of_long(static_cast<std::int64_t>(offset)));
  std::string out;
  if (!rewrite_properties(properties, {.headers = &*headers}, out)) return std::nullopt;
  return out;
}

}  // namespace posthorn

#include "gateway/amqp091/methods.hpp"

#include <cstring>
#include <stdexcept>

namespace posthorn::amqp091 {

std::string_view reply_name(reply_code code) noexcept {
  switch (code) {
    case reply_code::reply_success: return "REPLY_SUCCESS";
    case reply_code::content_too_large: return "CONTENT_TOO_LARGE";
    case reply_code::no_route: return "NO_ROUTE";
    case reply_code::no_consumers: return "NO_CONSUMERS";
    case reply_code::access_refused: return "ACCESS_REFUSED";
    case reply_code::not_found: return "NOT_FOUND";
    case reply_code::resource_locked: return "RESOURCE_LOCKED";
    case reply_code::precondition_failed: return "PRECONDITION_FAILED";
    case reply_code::connection_forced: return "CONNECTION_FORCED";
    case reply_code::invalid_path: return "INVALID_PATH";
    case reply_code::frame_error: return "FRAME_ERROR";
    case reply_code::syntax_error: return "SYNTAX_ERROR";
    case reply_code::command_invalid: return "COMMAND_INVALID";
    case reply_code::channel_error: return "CHANNEL_ERROR";
    case reply_code::unexpected_frame: return "UNEXPECTED_FRAME";
    case reply_code::resource_error: return "RESOURCE_ERROR";
    case reply_code::not_allowed: return "NOT_ALLOWED";
    case reply_code::not_implemented: return "NOT_IMPLEMENTED";
    case reply_code::internal_error: return "INTERNAL_ERROR";
  }
  return "UNKNOWN";
}

std::string reply_text(reply_code code, std::string_view explanation) {
  std::string text{reply_name(code)};
  text += " - ";
  text += explanation;
  constexpr std::size_t size_max = 255;
  constexpr std::string_view cut = "...";
  if (text.size() <= size_max) return text;
  auto size = size_max - cut.size();  // as RabbitMQ [5]
  // An octet 10xxxxxx goes on with a character. More than three of them are no UTF-8, and cut anywhere.
  const auto continues = [&text](std::size_t at) {
    return (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U;
  };
  for (int back = 0; back < 3 && continues(size); ++back) --size;
  if (continues(size)) size = size_max - cut.size();
  text.resize(size);
  text += cut;
  return text;
}

void throw_exception_from_error(const protocol_error& failure, const boost::source_location& where) {
  throw std::logic_error{"a result was used without looking at its error: " +
                         reply_text(failure.code, failure.explanation) + " at " + where.to_string()};
}

namespace {

// Calls `use` with the type of the method, as a null pointer to it; says whether there is such a method.
template <class Use, class... Methods>
bool with_method_of(const std::variant<Methods...>*, method_id id, Use&& use) {
  return ((id_of<Methods> == id ? (use(static_cast<const Methods*>(nullptr)), true) : false) || ...);
}

template <class Use>
bool with_method(method_id id, Use&& use) {
  return with_method_of(static_cast<const any_method*>(nullptr), id, std::forward<Use>(use));
}

// Looks at the short strings and passes by everything else.
class text_check {
public:
  void octet(std::uint8_t) noexcept {}
  void short_(std::uint16_t) noexcept {}
  void long_(std::uint32_t) noexcept {}
  void longlong(std::uint64_t) noexcept {}
  void longstr(std::string_view) noexcept {}
  void table(std::span<const std::byte>) noexcept {}
  void code(reply_code) noexcept {}
  void shortstr(std::string_view value) noexcept { sound = sound && is_utf8(value); }
  template <class... Bool>
  void bits(Bool...) noexcept {}

  bool sound = true;
};

std::string octets(std::size_t count) { return std::to_string(count) + (count == 1 ? " octet" : " octets"); }

template <class Method>
protocol_result<any_method> decode_arguments(std::span<const std::byte> arguments) {
  const auto malformed = [](std::string what) {
    return protocol_error{reply_code::frame_error, id_of<Method>,
                          std::string{Method::name} + ": " + std::move(what)};
  };
  Method method;
  detail::argument_reader in{arguments};
  Method::each_field(method, in);
  if (in.in().failed()) return malformed("the arguments do not fit into " + octets(arguments.size()));
  if (in.in().left() != 0) return malformed(octets(in.in().left()) + " too many behind the arguments");
  if constexpr (!Method::has_content) {
    text_check text;
    Method::each_field(method, text);
    if (!text.sound) return protocol_error{reply_code::frame_error, {}, "Malformed UTF-8 in shortstr"};
  }
  return any_method{method};
}

}  // namespace

std::string_view method_name(method_id id) noexcept {
  std::string_view name;
  with_method(id, [&name](const auto* m) { name = std::remove_cvref_t<decltype(*m)>::name; });
  return name;
}

protocol_result<any_method> decode_method(std::span<const std::byte> payload) {
  if (payload.size() < 4) {
    return protocol_error{
        reply_code::frame_error, {}, "a method frame of " + octets(payload.size()) + " names no method"};
  }
  const auto id = method_id_of(payload);
  protocol_result<any_method> out{any_method{}};
  const bool known = with_method(id, [&](const auto* m) {
    out = decode_arguments<std::remove_cvref_t<decltype(*m)>>(payload.subspan(4));
  });
  if (!known) {
    out = protocol_error{
        reply_code::command_invalid, id,
        "unknown method " + std::to_string(id.method) + " of class " + std::to_string(id.class_)};
  }
  return out;
}

void encode(std::uint16_t channel, const any_method& method, buffer& out) {
  std::visit([&](const auto& m) { encode(channel, m, out); }, method);
}

namespace {

char* put(char* to, std::string_view text) noexcept {
  *to = static_cast<char>(text.size());
  if (!text.empty()) std::memcpy(to + 1, text.data(), text.size());
  return to + 1 + text.size();
}

template <class Number>
char* put(char* to, Number value) noexcept {
  big_endian::store(to, value);
  return to + sizeof(Number);
}

char* put_frame_header(char* to, frame_type type, std::uint16_t channel, std::size_t size) noexcept {
  *to = static_cast<char>(type);
  to = put(to + 1, channel);
  return put(to, static_cast<std::uint32_t>(size));
}

}  // namespace

void encode_deliver_head(std::uint16_t channel, const method::basic_deliver& deliver,
                         std::span<const std::byte> properties, std::uint64_t body_size, buffer& out) {
  expects(deliver.consumer_tag.size() <= 0xFF && deliver.exchange.size() <= 0xFF &&
              deliver.routing_key.size() <= 0xFF,
          "a short string has at most 255 octets");
  expects(properties.size() <= 0xFFFFFFFFU - 12U, "a frame has at most 2^32 - 1 octets of payload");
  static constexpr std::byte no_flags[2]{};
  if (properties.empty()) properties = no_flags;

  const auto method_size = 4 + 1 + deliver.consumer_tag.size() + 8 + 1 + 1 + deliver.exchange.size() + 1 +
                           deliver.routing_key.size();
  const auto header_size = 12 + properties.size();
  const auto begin = out.size();
  const auto total = method_size + header_size + 2 * frame_overhead;
  out.resize(begin + total);
  char* to = put_frame_header(out.data() + begin, frame_type::method, channel, method_size);
  to = put(to, method::basic_deliver::class_id);
  to = put(to, method::basic_deliver::method_id);
  to = put(to, deliver.consumer_tag);
  to = put(to, deliver.delivery_tag);
  to = put(to, deliver.redelivered ? std::uint8_t{1} : std::uint8_t{0});
  to = put(to, deliver.exchange);
  to = put(to, deliver.routing_key);
  *to++ = frame_end;
  to = put_frame_header(to, frame_type::header, channel, header_size);
  to = put(to, method::basic_deliver::class_id);
  to = put(to, std::uint16_t{0});
  to = put(to, body_size);
  std::memcpy(to, properties.data(), properties.size());
  to[properties.size()] = frame_end;
}

}  // namespace posthorn::amqp091

// The methods of AMQP 0-9-1 with RabbitMQ's extensions: one struct for each, both directions, so that the
// broker and the load generator share one codec.
//
// Strings and tables are views of the payload that was decoded, or of what the caller wants to be encoded. A
// table is the bytes between its length and its end, for decode_table of mailbox/field_table.hpp.
//
// Threads   pure functions over bytes that the caller keeps alive.
#pragma once

#include "gateway/amqp091/frame.hpp"
#include "gateway/amqp091/wire.hpp"
#include "mailbox/result.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

namespace posthorn::amqp091 {

enum class reply_code : std::uint16_t {
  reply_success = 200,

  // These close the channel, unless they happen on channel 0.
  content_too_large = 311,
  no_route = 312,
  no_consumers = 313,
  access_refused = 403,
  not_found = 404,
  resource_locked = 405,
  precondition_failed = 406,

  // These close the connection.
  connection_forced = 320,
  invalid_path = 402,
  frame_error = 501,
  syntax_error = 502,
  command_invalid = 503,
  channel_error = 504,
  unexpected_frame = 505,
  resource_error = 506,
  not_allowed = 530,
  not_implemented = 540,
  internal_error = 541,
};

// "NOT_FOUND"; "UNKNOWN" for a number that is none of them.
[[nodiscard]] std::string_view reply_name(reply_code code) noexcept;

[[nodiscard]] constexpr bool closes_connection(reply_code code) noexcept {
  switch (code) {
    case reply_code::reply_success:
    case reply_code::content_too_large:
    case reply_code::no_route:
    case reply_code::no_consumers:
    case reply_code::access_refused:
    case reply_code::not_found:
    case reply_code::resource_locked:
    case reply_code::precondition_failed: return false;
    default: return true;
  }
}

// "NOT_FOUND - no queue 'q' in vhost '/'". What does not fit a short string is cut between two characters, and three dots
// say so [5].
[[nodiscard]] std::string reply_text(reply_code code, std::string_view explanation);

struct method_id {
  std::uint16_t class_ = 0;
  std::uint16_t method = 0;

  friend bool operator==(const method_id&, const method_id&) = default;
};

// Both numbers in one, for a switch: `case packed(id_of<method::basic_publish>):`.
[[nodiscard]] constexpr std::uint32_t packed(method_id id) noexcept {
  return (std::uint32_t{id.class_} << 16U) | id.method;
}

template <class Method>
inline constexpr method_id id_of{Method::class_id, Method::method_id};

// "queue.declare"; empty when there is no such method.
[[nodiscard]] std::string_view method_name(method_id id) noexcept;

// Why the connection has to be closed; `explanation` still wants its reply_text.
struct protocol_error {
  reply_code code = reply_code::internal_error;
  method_id method;
  std::string explanation;

  friend bool operator==(const protocol_error&, const protocol_error&) = default;
};

// Called by `value()` of a result that holds none: asking without looking first is a bug.
[[noreturn]] void throw_exception_from_error(const protocol_error& failure,
                                             const boost::source_location& where);

template <class T>
using protocol_result = boost::system::result<T, protocol_error>;

// In each struct, `each_field` names the fields in their order on the wire, for reading and for writing.
namespace method {

// --- connection ---

struct connection_start {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 10;
  static constexpr std::string_view name = "connection.start";
  static constexpr bool has_content = false;

  std::uint8_t version_major = 0;
  std::uint8_t version_minor = 9;
  std::span<const std::byte> server_properties;
  std::string_view mechanisms;
  std::string_view locales;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.octet(self.version_major);
    wire.octet(self.version_minor);
    wire.table(self.server_properties);
    wire.longstr(self.mechanisms);
    wire.longstr(self.locales);
  }
};

struct connection_start_ok {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 11;
  static constexpr std::string_view name = "connection.start-ok";
  static constexpr bool has_content = false;

  std::span<const std::byte> client_properties;
  std::string_view mechanism;
  std::string_view response;
  std::string_view locale;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.table(self.client_properties);
    wire.shortstr(self.mechanism);
    wire.longstr(self.response);
    wire.shortstr(self.locale);
  }
};

struct connection_secure {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 20;
  static constexpr std::string_view name = "connection.secure";
  static constexpr bool has_content = false;

  std::string_view challenge;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.longstr(self.challenge);
  }
};

struct connection_secure_ok {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 21;
  static constexpr std::string_view name = "connection.secure-ok";
  static constexpr bool has_content = false;

  std::string_view response;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.longstr(self.response);
  }
};

struct connection_tune {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 30;
  static constexpr std::string_view name = "connection.tune";
  static constexpr bool has_content = false;

  std::uint16_t channel_max = 0;
  std::uint32_t frame_max = 0;
  std::uint16_t heartbeat = 0;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.channel_max);
    wire.long_(self.frame_max);
    wire.short_(self.heartbeat);
  }
};

struct connection_tune_ok {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 31;
  static constexpr std::string_view name = "connection.tune-ok";
  static constexpr bool has_content = false;

  std::uint16_t channel_max = 0;
  std::uint32_t frame_max = 0;
  std::uint16_t heartbeat = 0;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.channel_max);
    wire.long_(self.frame_max);
    wire.short_(self.heartbeat);
  }
};

struct connection_open {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 40;
  static constexpr std::string_view name = "connection.open";
  static constexpr bool has_content = false;

  std::string_view virtual_host;
  std::string_view capabilities;
  bool insist = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.virtual_host);
    wire.shortstr(self.capabilities);
    wire.bits(self.insist);
  }
};

struct connection_open_ok {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 41;
  static constexpr std::string_view name = "connection.open-ok";
  static constexpr bool has_content = false;

  std::string_view known_hosts;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.known_hosts);
  }
};

struct connection_close {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 50;
  static constexpr std::string_view name = "connection.close";
  static constexpr bool has_content = false;

  amqp091::reply_code reply_code = amqp091::reply_code::reply_success;
  std::string_view reply_text;
  std::uint16_t failing_class = 0;
  std::uint16_t failing_method = 0;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.code(self.reply_code);
    wire.shortstr(self.reply_text);
    wire.short_(self.failing_class);
    wire.short_(self.failing_method);
  }
};

struct connection_close_ok {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 51;
  static constexpr std::string_view name = "connection.close-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct connection_blocked {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 60;
  static constexpr std::string_view name = "connection.blocked";
  static constexpr bool has_content = false;

  std::string_view reason;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.reason);
  }
};

struct connection_unblocked {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 61;
  static constexpr std::string_view name = "connection.unblocked";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct connection_update_secret {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 70;
  static constexpr std::string_view name = "connection.update-secret";
  static constexpr bool has_content = false;

  std::string_view new_secret;
  std::string_view reason;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.longstr(self.new_secret);
    wire.shortstr(self.reason);
  }
};

struct connection_update_secret_ok {
  static constexpr std::uint16_t class_id = 10;
  static constexpr std::uint16_t method_id = 71;
  static constexpr std::string_view name = "connection.update-secret-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

// --- channel ---

struct channel_open {
  static constexpr std::uint16_t class_id = 20;
  static constexpr std::uint16_t method_id = 10;
  static constexpr std::string_view name = "channel.open";
  static constexpr bool has_content = false;

  std::string_view out_of_band;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.out_of_band);
  }
};

struct channel_open_ok {
  static constexpr std::uint16_t class_id = 20;
  static constexpr std::uint16_t method_id = 11;
  static constexpr std::string_view name = "channel.open-ok";
  static constexpr bool has_content = false;

  std::string_view channel_id;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.longstr(self.channel_id);
  }
};

struct channel_flow {
  static constexpr std::uint16_t class_id = 20;
  static constexpr std::uint16_t method_id = 20;
  static constexpr std::string_view name = "channel.flow";
  static constexpr bool has_content = false;

  bool active = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.bits(self.active);
  }
};

struct channel_flow_ok {
  static constexpr std::uint16_t class_id = 20;
  static constexpr std::uint16_t method_id = 21;
  static constexpr std::string_view name = "channel.flow-ok";
  static constexpr bool has_content = false;

  bool active = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.bits(self.active);
  }
};

struct channel_close {
  static constexpr std::uint16_t class_id = 20;
  static constexpr std::uint16_t method_id = 40;
  static constexpr std::string_view name = "channel.close";
  static constexpr bool has_content = false;

  amqp091::reply_code reply_code = amqp091::reply_code::reply_success;
  std::string_view reply_text;
  std::uint16_t failing_class = 0;
  std::uint16_t failing_method = 0;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.code(self.reply_code);
    wire.shortstr(self.reply_text);
    wire.short_(self.failing_class);
    wire.short_(self.failing_method);
  }
};

struct channel_close_ok {
  static constexpr std::uint16_t class_id = 20;
  static constexpr std::uint16_t method_id = 41;
  static constexpr std::string_view name = "channel.close-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

// --- access ---

struct access_request {
  static constexpr std::uint16_t class_id = 30;
  static constexpr std::uint16_t method_id = 10;
  static constexpr std::string_view name = "access.request";
  static constexpr bool has_content = false;

  std::string_view realm;
  bool exclusive = false;
  bool passive = false;
  bool active = false;
  bool write = false;
  bool read = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.realm);
    wire.bits(self.exclusive, self.passive, self.active, self.write, self.read);
  }
};

struct access_request_ok {
  static constexpr std::uint16_t class_id = 30;
  static constexpr std::uint16_t method_id = 11;
  static constexpr std::string_view name = "access.request-ok";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 1;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
  }
};

// --- exchange ---

struct exchange_declare {
  static constexpr std::uint16_t class_id = 40;
  static constexpr std::uint16_t method_id = 10;
  static constexpr std::string_view name = "exchange.declare";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view exchange;
  std::string_view type;
  bool passive = false;
  bool durable = false;
  bool auto_delete = false;
  bool internal = false;
  bool no_wait = false;
  std::span<const std::byte> arguments;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.exchange);
    wire.shortstr(self.type);
    wire.bits(self.passive, self.durable, self.auto_delete, self.internal, self.no_wait);
    wire.table(self.arguments);
  }
};

struct exchange_declare_ok {
  static constexpr std::uint16_t class_id = 40;
  static constexpr std::uint16_t method_id = 11;
  static constexpr std::string_view name = "exchange.declare-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct exchange_delete {
  static constexpr std::uint16_t class_id = 40;
  static constexpr std::uint16_t method_id = 20;
  static constexpr std::string_view name = "exchange.delete";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view exchange;
  bool if_unused = false;
  bool no_wait = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.exchange);
    wire.bits(self.if_unused, self.no_wait);
  }
};

struct exchange_delete_ok {
  static constexpr std::uint16_t class_id = 40;
  static constexpr std::uint16_t method_id = 21;
  static constexpr std::string_view name = "exchange.delete-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct exchange_bind {
  static constexpr std::uint16_t class_id = 40;
  static constexpr std::uint16_t method_id = 30;
  static constexpr std::string_view name = "exchange.bind";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view destination;
  std::string_view source;
  std::string_view routing_key;
  bool no_wait = false;
  std::span<const std::byte> arguments;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.destination);
    wire.shortstr(self.source);
    wire.shortstr(self.routing_key);
    wire.bits(self.no_wait);
    wire.table(self.arguments);
  }
};

struct exchange_bind_ok {
  static constexpr std::uint16_t class_id = 40;
  static constexpr std::uint16_t method_id = 31;
  static constexpr std::string_view name = "exchange.bind-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct exchange_unbind {
  static constexpr std::uint16_t class_id = 40;
  static constexpr std::uint16_t method_id = 40;
  static constexpr std::string_view name = "exchange.unbind";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view destination;
  std::string_view source;
  std::string_view routing_key;
  bool no_wait = false;
  std::span<const std::byte> arguments;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.destination);
    wire.shortstr(self.source);
    wire.shortstr(self.routing_key);
    wire.bits(self.no_wait);
    wire.table(self.arguments);
  }
};

struct exchange_unbind_ok {
  static constexpr std::uint16_t class_id = 40;
  static constexpr std::uint16_t method_id = 51;
  static constexpr std::string_view name = "exchange.unbind-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

// --- queue ---

struct queue_declare {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 10;
  static constexpr std::string_view name = "queue.declare";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view queue;
  bool passive = false;
  bool durable = false;
  bool exclusive = false;
  bool auto_delete = false;
  bool no_wait = false;
  std::span<const std::byte> arguments;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.queue);
    wire.bits(self.passive, self.durable, self.exclusive, self.auto_delete, self.no_wait);
    wire.table(self.arguments);
  }
};

struct queue_declare_ok {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 11;
  static constexpr std::string_view name = "queue.declare-ok";
  static constexpr bool has_content = false;

  std::string_view queue;
  std::uint32_t message_count = 0;
  std::uint32_t consumer_count = 0;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.queue);
    wire.long_(self.message_count);
    wire.long_(self.consumer_count);
  }
};

struct queue_bind {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 20;
  static constexpr std::string_view name = "queue.bind";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view queue;
  std::string_view exchange;
  std::string_view routing_key;
  bool no_wait = false;
  std::span<const std::byte> arguments;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.queue);
    wire.shortstr(self.exchange);
    wire.shortstr(self.routing_key);
    wire.bits(self.no_wait);
    wire.table(self.arguments);
  }
};

struct queue_bind_ok {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 21;
  static constexpr std::string_view name = "queue.bind-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct queue_purge {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 30;
  static constexpr std::string_view name = "queue.purge";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view queue;
  bool no_wait = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.queue);
    wire.bits(self.no_wait);
  }
};

struct queue_purge_ok {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 31;
  static constexpr std::string_view name = "queue.purge-ok";
  static constexpr bool has_content = false;

  std::uint32_t message_count = 0;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.long_(self.message_count);
  }
};

struct queue_delete {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 40;
  static constexpr std::string_view name = "queue.delete";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view queue;
  bool if_unused = false;
  bool if_empty = false;
  bool no_wait = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.queue);
    wire.bits(self.if_unused, self.if_empty, self.no_wait);
  }
};

struct queue_delete_ok {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 41;
  static constexpr std::string_view name = "queue.delete-ok";
  static constexpr bool has_content = false;

  std::uint32_t message_count = 0;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.long_(self.message_count);
  }
};

struct queue_unbind {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 50;
  static constexpr std::string_view name = "queue.unbind";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view queue;
  std::string_view exchange;
  std::string_view routing_key;
  std::span<const std::byte> arguments;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.queue);
    wire.shortstr(self.exchange);
    wire.shortstr(self.routing_key);
    wire.table(self.arguments);
  }
};

struct queue_unbind_ok {
  static constexpr std::uint16_t class_id = 50;
  static constexpr std::uint16_t method_id = 51;
  static constexpr std::string_view name = "queue.unbind-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

// --- basic ---

struct basic_qos {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 10;
  static constexpr std::string_view name = "basic.qos";
  static constexpr bool has_content = false;

  std::uint32_t prefetch_size = 0;
  std::uint16_t prefetch_count = 0;
  bool global = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.long_(self.prefetch_size);
    wire.short_(self.prefetch_count);
    wire.bits(self.global);
  }
};

struct basic_qos_ok {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 11;
  static constexpr std::string_view name = "basic.qos-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct basic_consume {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 20;
  static constexpr std::string_view name = "basic.consume";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view queue;
  std::string_view consumer_tag;
  bool no_local = false;
  bool no_ack = false;
  bool exclusive = false;
  bool no_wait = false;
  std::span<const std::byte> arguments;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.queue);
    wire.shortstr(self.consumer_tag);
    wire.bits(self.no_local, self.no_ack, self.exclusive, self.no_wait);
    wire.table(self.arguments);
  }
};

struct basic_consume_ok {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 21;
  static constexpr std::string_view name = "basic.consume-ok";
  static constexpr bool has_content = false;

  std::string_view consumer_tag;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.consumer_tag);
  }
};

struct basic_cancel {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 30;
  static constexpr std::string_view name = "basic.cancel";
  static constexpr bool has_content = false;

  std::string_view consumer_tag;
  bool no_wait = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.consumer_tag);
    wire.bits(self.no_wait);
  }
};

struct basic_cancel_ok {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 31;
  static constexpr std::string_view name = "basic.cancel-ok";
  static constexpr bool has_content = false;

  std::string_view consumer_tag;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.consumer_tag);
  }
};

struct basic_publish {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 40;
  static constexpr std::string_view name = "basic.publish";
  static constexpr bool has_content = true;

  std::uint16_t ticket = 0;
  std::string_view exchange;
  std::string_view routing_key;
  bool mandatory = false;
  bool immediate = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.exchange);
    wire.shortstr(self.routing_key);
    wire.bits(self.mandatory, self.immediate);
  }
};

struct basic_return {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 50;
  static constexpr std::string_view name = "basic.return";
  static constexpr bool has_content = true;

  amqp091::reply_code reply_code = amqp091::reply_code::reply_success;
  std::string_view reply_text;
  std::string_view exchange;
  std::string_view routing_key;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.code(self.reply_code);
    wire.shortstr(self.reply_text);
    wire.shortstr(self.exchange);
    wire.shortstr(self.routing_key);
  }
};

struct basic_deliver {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 60;
  static constexpr std::string_view name = "basic.deliver";
  static constexpr bool has_content = true;

  std::string_view consumer_tag;
  std::uint64_t delivery_tag = 0;
  bool redelivered = false;
  std::string_view exchange;
  std::string_view routing_key;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.consumer_tag);
    wire.longlong(self.delivery_tag);
    wire.bits(self.redelivered);
    wire.shortstr(self.exchange);
    wire.shortstr(self.routing_key);
  }
};

struct basic_get {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 70;
  static constexpr std::string_view name = "basic.get";
  static constexpr bool has_content = false;

  std::uint16_t ticket = 0;
  std::string_view queue;
  bool no_ack = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.short_(self.ticket);
    wire.shortstr(self.queue);
    wire.bits(self.no_ack);
  }
};

struct basic_get_ok {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 71;
  static constexpr std::string_view name = "basic.get-ok";
  static constexpr bool has_content = true;

  std::uint64_t delivery_tag = 0;
  bool redelivered = false;
  std::string_view exchange;
  std::string_view routing_key;
  std::uint32_t message_count = 0;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.longlong(self.delivery_tag);
    wire.bits(self.redelivered);
    wire.shortstr(self.exchange);
    wire.shortstr(self.routing_key);
    wire.long_(self.message_count);
  }
};

struct basic_get_empty {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 72;
  static constexpr std::string_view name = "basic.get-empty";
  static constexpr bool has_content = false;

  std::string_view cluster_id;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.shortstr(self.cluster_id);
  }
};

struct basic_ack {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 80;
  static constexpr std::string_view name = "basic.ack";
  static constexpr bool has_content = false;

  std::uint64_t delivery_tag = 0;
  bool multiple = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.longlong(self.delivery_tag);
    wire.bits(self.multiple);
  }
};

struct basic_reject {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 90;
  static constexpr std::string_view name = "basic.reject";
  static constexpr bool has_content = false;

  std::uint64_t delivery_tag = 0;
  bool requeue = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.longlong(self.delivery_tag);
    wire.bits(self.requeue);
  }
};

struct basic_recover_async {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 100;
  static constexpr std::string_view name = "basic.recover-async";
  static constexpr bool has_content = false;

  bool requeue = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.bits(self.requeue);
  }
};

struct basic_recover {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 110;
  static constexpr std::string_view name = "basic.recover";
  static constexpr bool has_content = false;

  bool requeue = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.bits(self.requeue);
  }
};

struct basic_recover_ok {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 111;
  static constexpr std::string_view name = "basic.recover-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct basic_nack {
  static constexpr std::uint16_t class_id = 60;
  static constexpr std::uint16_t method_id = 120;
  static constexpr std::string_view name = "basic.nack";
  static constexpr bool has_content = false;

  std::uint64_t delivery_tag = 0;
  bool multiple = false;
  bool requeue = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.longlong(self.delivery_tag);
    wire.bits(self.multiple, self.requeue);
  }
};

// --- confirm ---

struct confirm_select {
  static constexpr std::uint16_t class_id = 85;
  static constexpr std::uint16_t method_id = 10;
  static constexpr std::string_view name = "confirm.select";
  static constexpr bool has_content = false;

  bool no_wait = false;

  template <class Self, class Wire>
  static void each_field(Self& self, Wire& wire) {
    wire.bits(self.no_wait);
  }
};

struct confirm_select_ok {
  static constexpr std::uint16_t class_id = 85;
  static constexpr std::uint16_t method_id = 11;
  static constexpr std::string_view name = "confirm.select-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

// --- tx ---

struct tx_select {
  static constexpr std::uint16_t class_id = 90;
  static constexpr std::uint16_t method_id = 10;
  static constexpr std::string_view name = "tx.select";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct tx_select_ok {
  static constexpr std::uint16_t class_id = 90;
  static constexpr std::uint16_t method_id = 11;
  static constexpr std::string_view name = "tx.select-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct tx_commit {
  static constexpr std::uint16_t class_id = 90;
  static constexpr std::uint16_t method_id = 20;
  static constexpr std::string_view name = "tx.commit";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct tx_commit_ok {
  static constexpr std::uint16_t class_id = 90;
  static constexpr std::uint16_t method_id = 21;
  static constexpr std::string_view name = "tx.commit-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct tx_rollback {
  static constexpr std::uint16_t class_id = 90;
  static constexpr std::uint16_t method_id = 30;
  static constexpr std::string_view name = "tx.rollback";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

struct tx_rollback_ok {
  static constexpr std::uint16_t class_id = 90;
  static constexpr std::uint16_t method_id = 31;
  static constexpr std::string_view name = "tx.rollback-ok";
  static constexpr bool has_content = false;

  template <class Self, class Wire>
  static void each_field(Self&, Wire&) {}
};

}  // namespace method

using any_method = std::variant<
    method::connection_start, method::connection_start_ok, method::connection_secure,
    method::connection_secure_ok, method::connection_tune, method::connection_tune_ok,
    method::connection_open, method::connection_open_ok, method::connection_close,
    method::connection_close_ok, method::connection_blocked, method::connection_unblocked,
    method::connection_update_secret, method::connection_update_secret_ok, method::channel_open,
    method::channel_open_ok, method::channel_flow, method::channel_flow_ok, method::channel_close,
    method::channel_close_ok, method::access_request, method::access_request_ok, method::exchange_declare,
    method::exchange_declare_ok, method::exchange_delete, method::exchange_delete_ok, method::exchange_bind,
    method::exchange_bind_ok, method::exchange_unbind, method::exchange_unbind_ok, method::queue_declare,
    method::queue_declare_ok, method::queue_bind, method::queue_bind_ok, method::queue_purge,
    method::queue_purge_ok, method::queue_delete, method::queue_delete_ok, method::queue_unbind,
    method::queue_unbind_ok, method::basic_qos, method::basic_qos_ok, method::basic_consume,
    method::basic_consume_ok, method::basic_cancel, method::basic_cancel_ok, method::basic_publish,
    method::basic_return, method::basic_deliver, method::basic_get, method::basic_get_ok,
    method::basic_get_empty, method::basic_ack, method::basic_reject, method::basic_recover_async,
    method::basic_recover, method::basic_recover_ok, method::basic_nack, method::confirm_select,
    method::confirm_select_ok, method::tx_select, method::tx_select_ok, method::tx_commit,
    method::tx_commit_ok, method::tx_rollback, method::tx_rollback_ok>;

namespace detail {

// What `each_field` calls for reading.
class argument_reader {
public:
  explicit argument_reader(std::span<const std::byte> bytes) noexcept : in_{bytes} {}

  void octet(std::uint8_t& value) noexcept { value = in_.octet(); }
  void short_(std::uint16_t& value) noexcept { value = in_.short_(); }
  void long_(std::uint32_t& value) noexcept { value = in_.long_(); }
  void longlong(std::uint64_t& value) noexcept { value = in_.longlong(); }
  void shortstr(std::string_view& value) noexcept { value = in_.shortstr(); }
  void longstr(std::string_view& value) noexcept { value = in_.longstr(); }
  void table(std::span<const std::byte>& value) noexcept { value = in_.table(); }
  void code(reply_code& value) noexcept { value = static_cast<reply_code>(in_.short_()); }

  template <class... Bool>
  void bits(Bool&... bit) noexcept {
    in_.bits(bit...);
  }

  [[nodiscard]] const reader& in() const noexcept { return in_; }

private:
  reader in_;
};

// The same for writing.
class argument_writer : public writer {
public:
  using writer::writer;

  void code(reply_code value) { short_(static_cast<std::uint16_t>(value)); }
};

}  // namespace detail

// The class and method of a method frame's payload; zeros when it is too short to have any.
[[nodiscard]] inline method_id method_id_of(std::span<const std::byte> payload) noexcept {
  reader in{payload};
  method_id id;
  id.class_ = in.short_();
  id.method = in.short_();
  return in.ok() ? id : method_id{};
}

// For the message's way, where the method is known before: no variant, no allocation. False when the payload
// is not this method, is cut short or goes on behind the arguments; decode_method then says what is wrong.
template <class Method>
[[nodiscard]] inline bool decode_as(std::span<const std::byte> payload, Method& out) noexcept {
  if (method_id_of(payload) != id_of<Method>) return false;
  detail::argument_reader in{payload.subspan(4)};
  Method::each_field(out, in);
  return in.in().done();
}

[[nodiscard]] inline bool decode_publish(std::span<const std::byte> payload,
                                         method::basic_publish& out) noexcept {
  return decode_as(payload, out);
}

[[nodiscard]] inline bool decode_ack(std::span<const std::byte> payload, method::basic_ack& out) noexcept {
  return decode_as(payload, out);
}

[[nodiscard]] inline bool decode_deliver(std::span<const std::byte> payload,
                                         method::basic_deliver& out) noexcept {
  return decode_as(payload, out);
}

// Any method. What is refused is what RabbitMQ refuses:
//
//   503 COMMAND_INVALID  an unknown class or method. RabbitMQ hangs up without a word.
//   501 FRAME_ERROR      no method, arguments that are cut short, or octets left over behind them [32]; a short string
//                        that is not UTF-8. The methods that carry content are not checked for that: any octets may be
//                        a routing key.
//
// Tables are not looked into: decode_table refuses them when their turn comes, which is a 502.
[[nodiscard]] protocol_result<any_method> decode_method(std::span<const std::byte> payload);

[[nodiscard]] inline std::string_view method_name(const any_method& method) noexcept {
  return std::visit([](const auto& m) { return std::remove_cvref_t<decltype(m)>::name; }, method);
}

[[nodiscard]] inline method_id method_id_of(const any_method& method) noexcept {
  return std::visit([](const auto& m) { return id_of<std::remove_cvref_t<decltype(m)>>; }, method);
}

// Appends the whole frame, from its type to its end octet.
template <class Method>
requires requires { Method::class_id; }
inline void encode(std::uint16_t channel, const Method& method, buffer& out) {
  detail::argument_writer to{out};
  to.begin_method(channel, Method::class_id, Method::method_id);
  Method::each_field(method, to);
  to.end_frame();
}

void encode(std::uint16_t channel, const any_method& method, buffer& out);

// Appends a method that carries content, its header and its body: frames that must stand together.
template <class Method>
requires(Method::has_content) inline void encode_with_content(std::uint16_t channel, const Method& method,
                                                              std::span<const std::byte> properties,
                                                              std::span<const std::byte> body,
                                                              std::uint32_t frame_max, buffer& out) {
  encode(channel, method, out);
  encode_content_header(channel, body.size(), properties, out);
  encode_body(channel, body, frame_max, out);
}

// The frames of encode_with_content without the body frames, written in one go: what is paid for every
// message that leaves. encode_deliver adds the body.
void encode_deliver_head(std::uint16_t channel, const method::basic_deliver& deliver,
                         std::span<const std::byte> properties, std::uint64_t body_size, buffer& out);

inline void encode_deliver(std::uint16_t channel, const method::basic_deliver& deliver,
                           std::span<const std::byte> properties, std::span<const std::byte> body,
                           std::uint32_t frame_max, buffer& out) {
  encode_deliver_head(channel, deliver, properties, body.size(), out);
  encode_body(channel, body, frame_max, out);
}

}  // namespace posthorn::amqp091

// Envelopes, and the properties that they carry.
#include "mailbox/envelope.hpp"

#include "bench/micro/meter.hpp"
#include "mailbox/properties.hpp"

#include <cstdlib>
#include <string>

namespace posthorn::bench {

namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span{text}); }

}  // namespace

void measure_envelope(meter& m) {
  basic_properties few, many;
  few.delivery_mode = std::uint8_t{2};
  many.content_type = "application/json";
  many.delivery_mode = std::uint8_t{2};
  many.correlation_id = "0123456789abcdef";
  many.reply_to = "amq.gen-answers";
  many.message_id = "0123456789abcdef";
  many.timestamp = std::uint64_t{1'800'000'000};
  field_table headers;
  for (int n = 0; n < 10; ++n) headers.add("header-" + std::to_string(n), field_value::of_string("value"));
  many.headers = headers;
  std::string few_bytes, many_bytes;
  encode_properties(few, few_bytes);
  encode_properties(many, many_bytes);

  for (const auto& [size, name] : {std::pair{std::size_t{16}, "16 B"}, std::pair{std::size_t{1024}, "1 KiB"},
                                   std::pair{std::size_t{65536}, "64 KiB"}}) {
    const std::string body(size, 'x');
    m.measure(std::string{"envelope: make one and let it go, "} + name, [&](std::uint64_t count) {
      for (std::uint64_t n = 0; n < count; ++n)
        keep(make_envelope("", "orders", bytes_of(few_bytes), true, bytes_of(body)));
    });
    const auto made = make_envelope("", "orders", bytes_of(few_bytes), true, bytes_of(body));
    m.measure(std::string{"envelope: read what was stored, "} + name, [&](std::uint64_t count) {
      for (std::uint64_t n = 0; n < count; ++n) {
        const auto read = envelope::read(made->bytes());
        if (!read) std::abort();
        keep(read);
      }
    });
  }
  for (const auto& [bytes, name] :
       {std::pair{&few_bytes, "delivery mode only"}, std::pair{&many_bytes, "7, 10 headers"}}) {
    m.measure(std::string{"properties: check, "} + name, [&](std::uint64_t count) {
      for (std::uint64_t n = 0; n < count; ++n) {
        keep(*bytes);
        if (!check_properties(bytes_of(*bytes))) std::abort();
      }
    });
    m.measure(std::string{"properties: find the expiration, "} + name, [&](std::uint64_t count) {
      for (std::uint64_t n = 0; n < count; ++n) {
        keep(*bytes);
        keep(expiration_of(bytes_of(*bytes)));
      }
    });
    m.measure(std::string{"properties: decode all, "} + name, [&](std::uint64_t count) {
      for (std::uint64_t n = 0; n < count; ++n) keep(decode_properties(bytes_of(*bytes)));
    });
  }
}

}  // namespace posthorn::bench

// What the door does with the first octets of a client, before it is known who it is: recognising what is spoken, and
// reading the PROXY protocol's header, of both versions.
//
// Beyond not crashing, this must hold:
//   1. What was recognised stays so, whatever follows; and no more octets than promised are needed.
//   2. A header is complete exactly when all of its octets are there: each part of it is incomplete, and what follows
//      changes nothing.
//   3. The address in it is the one that its text says.
#include "gateway/amqp091/first_octets.hpp"
#include "gateway/amqp091/proxy_protocol.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

using namespace posthorn::amqp091;

namespace {

using bytes = std::span<const std::byte>;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

// Of its own allocation, so that the sanitizer sees a read behind it.
std::vector<std::byte> cut_to(bytes octets, std::size_t size) {
  return {octets.data(), octets.data() + size};
}

void check_recognition(bytes in) {
  auto before = spoken::incomplete;
  for (std::size_t size = 0; size <= std::min(in.size(), first_octets_max + 1); ++size) {
    const auto now = recognise(cut_to(in, size));
    require(before == spoken::incomplete || now == before, "what was recognised stays so");
    before = now;
  }
  require(in.size() < first_octets_max || before != spoken::incomplete, "enough octets decide");
  require(recognise(in) == before || before == spoken::incomplete, "what follows changes nothing");
}

void check_header(bytes in) {
  proxy_header header;
  std::string_view why;
  const auto status = parse_proxy_header(in, header, why);
  require(status != proxy_status::malformed || !why.empty(), "a refusal says why");
  require(status != proxy_status::incomplete || in.size() < proxy_block_size_max, "a header has an end");
  if (status != proxy_status::complete) return;
  require(header.size != 0 && header.size <= in.size(), "a header is in what was given");
  require(header.size <= proxy_block_size_max, "a header is not too long");
  const auto whole = cut_to(in, header.size);
  proxy_header again;
  require(parse_proxy_header(whole, again, why) == proxy_status::complete, "the header alone is complete");
  require(again.size == header.size && again.whom == header.whom && again.source == header.source &&
              again.source_port == header.source_port,
          "what follows changes nothing");
  for (std::size_t size = 0; size < header.size; size += 1 + size / 8) {
    require(parse_proxy_header(cut_to(in, size), again, why) == proxy_status::incomplete,
            "a header cut short is incomplete");
  }
  if (header.whom != proxy_header::speaks_for::client) return;
  const auto text = to_string(header.source);
  require(parse_ip_address(text) == header.source, "an address is what its text says");
  require(header.source.is_v4() == (text.find(':') == std::string_view::npos), "only IPv6 has colons");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const bytes in{reinterpret_cast<const std::byte*>(data), size};
  check_recognition(in);
  check_header(in);
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  if (const auto networks = parse_networks(text)) {
    require(parse_networks(to_string(*networks)) == networks, "networks are what their text says");
  }
  return 0;
}

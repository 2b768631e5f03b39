// The envelope reader, which takes what the store, or another node, holds for an envelope.
//
// Beyond not crashing, this must hold: what was read can be built anew from its parts, and the bytes of
// either are read as the same message again.
#include "mailbox/envelope.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>

using namespace posthorn;

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

std::string_view text_of(std::span<const std::byte> octets) {
  return {reinterpret_cast<const char*>(octets.data()), octets.size()};
}

void require_same(const envelope& a, const envelope& b, const char* what) {
  require(a.exchange() == b.exchange() && a.routing_key() == b.routing_key(), what);
  require(text_of(a.properties()) == text_of(b.properties()) && text_of(a.body()) == text_of(b.body()), what);
  require(a.persistent() == b.persistent(), what);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span stored{reinterpret_cast<const std::byte*>(data), size};
  const auto read = envelope::read(stored);
  if (read.has_error()) {
    require(read.error().code == errc::corrupted && !read.error().text.empty(), "a refusal says why");
    return 0;
  }
  const envelope& original = **read;
  require(text_of(original.bytes()) == text_of(stored), "an envelope keeps the bytes that it was read from");
  require(original.exchange().size() <= envelope::name_size_max, "an exchange's name has its limit");
  require(original.routing_key().size() <= envelope::name_size_max, "a routing key has its limit");

  const auto rebuilt = make_envelope(original.exchange(), original.routing_key(), original.properties(),
                                     original.persistent(), original.body());
  require_same(original, *rebuilt, "an envelope built from the parts of another is the same message");
  const auto again = envelope::read(rebuilt->bytes());
  require(again.has_value(), "what we build can be read");
  require_same(original, **again, "what we build is read as the same message");
  return 0;
}

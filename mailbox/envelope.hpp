// One message as it travels: an immutable, reference-counted, flat Cap'n Proto message (mailbox/envelope.capnp).
//
// It is built once, where the message enters the node, and the same bytes serve in memory, in the store and between
// nodes. Object and bytes share one allocation. What readers ask for on the way of a message was looked up when the
// envelope was made, so that reading a field costs no decoding.
//
// Ownership   shared by `envelope_ptr`; nobody can change an envelope once it is finished.
// Threads     any; the reference count is atomic.
#pragma once

#include "mailbox/result.hpp"

#include <boost/smart_ptr/intrusive_ptr.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace posthorn {

class envelope;
// What the node knows of a message that does not stand in its properties.
struct envelope_marks {
  bool dead_lettered = false;     // a queue gave it up: its x-death headers are ours, not a client's
  bool delivered_before = false;  // and somebody had it in his hands before that
  bool by_key_alone = false;  // its keys were replaced by one: what CC and BCC name does not count any more
};

using envelope_ptr = boost::intrusive_ptr<const envelope>;

class alignas(8) envelope {
public:
  // The largest body that an envelope can carry, in bytes. Gateways refuse earlier, at their configured limit.
  static constexpr std::size_t body_size_max = std::size_t{512} << 20;
  // The longest exchange name and routing key (AMQP 0-9-1 short strings), and property list, in bytes.
  static constexpr std::size_t name_size_max = 255;
  static constexpr std::size_t properties_size_max = std::size_t{16} << 20;

  // Reads what `bytes()` gave once, from wherever it was kept. Copies, so `stored` needs no alignment and may vanish
  // afterwards. Anything that is not an envelope is an error (`corrupted`), never a crash.
  static result<envelope_ptr> read(std::span<const std::byte> stored);

  envelope(const envelope&) = delete;
  envelope& operator=(const envelope&) = delete;

  [[nodiscard]] std::string_view exchange() const noexcept { return text(exchange_); }
  [[nodiscard]] std::string_view routing_key() const noexcept { return text(routing_key_); }
  [[nodiscard]] std::span<const std::byte> properties() const noexcept { return view(properties_); }
  [[nodiscard]] std::span<const std::byte> body() const noexcept { return view(body_); }
  [[nodiscard]] bool persistent() const noexcept { return persistent_; }
  [[nodiscard]] bool dead_lettered() const noexcept { return marks_.dead_lettered; }
  [[nodiscard]] bool delivered_before() const noexcept { return marks_.delivered_before; }
  [[nodiscard]] bool by_key_alone() const noexcept { return marks_.by_key_alone; }

  // The whole flat message, with its segment table.
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {words(), size_}; }
  // What this envelope takes of memory, in bytes.
  [[nodiscard]] std::size_t footprint() const noexcept { return sizeof(envelope) + size_; }

private:
  friend class envelope_builder;
  friend void intrusive_ptr_add_ref(const envelope* e) noexcept {
    e->references_.fetch_add(1, std::memory_order_relaxed);
  }
  friend void intrusive_ptr_release(const envelope* e) noexcept {
    if (e->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) destroy(e);
  }

  struct part {
    std::uint32_t offset = 0, size = 0;  // in bytes, from the first word
  };

  explicit envelope(std::size_t size) noexcept : size_{static_cast<std::uint32_t>(size)} {}
  static envelope* allocate(std::size_t size);
  static void destroy(const envelope* e) noexcept;

  [[nodiscard]] const std::byte* words() const noexcept {
    return reinterpret_cast<const std::byte*>(this + 1);
  }
  [[nodiscard]] std::byte* words() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
  [[nodiscard]] std::span<const std::byte> view(part p) const noexcept {
    return {words() + p.offset, p.size};
  }
  [[nodiscard]] std::string_view text(part p) const noexcept {
    return {reinterpret_cast<const char*>(words()) + p.offset, p.size};
  }

  mutable std::atomic<std::uint32_t> references_{0};
  std::uint32_t size_;
  part exchange_, routing_key_, properties_, body_;
  bool persistent_ = false;
  envelope_marks marks_;
};

// Builds one envelope whose body may come in pieces. The sizes were checked by the caller against the limits above.
class envelope_builder {
public:
  envelope_builder() noexcept = default;
  envelope_builder(std::string_view exchange, std::string_view routing_key,
                   std::span<const std::byte> properties, bool persistent, std::size_t body_size,
                   const envelope_marks& marks = {});

  // The next piece of the body. More than was announced is a bug of the caller.
  void append_body(std::span<const std::byte> piece);
  [[nodiscard]] std::size_t body_missing() const noexcept { return missing_; }

  // Once only, when nothing is missing.
  [[nodiscard]] envelope_ptr finish();

private:
  boost::intrusive_ptr<envelope> made_;
  std::byte* next_ = nullptr;
  std::size_t missing_ = 0;
};

// The whole envelope at once, for those that have the whole body.
[[nodiscard]] envelope_ptr make_envelope(std::string_view exchange, std::string_view routing_key,
                                         std::span<const std::byte> properties, bool persistent,
                                         std::span<const std::byte> body, const envelope_marks& marks = {});

}  // namespace posthorn

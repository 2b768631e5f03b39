// A connection that publishes, on all its channels in turn.
//
// Threads   belongs to one thread from its first step on.
#pragma once

#include "node/load/confirm_window.hpp"
#include "node/load/load_connection.hpp"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace posthorn {

// What stands before a body: the frames of the method and of the properties, and where in them the rest goes.
struct message_head {
  std::string bytes;
  std::size_t header_at = 0;  // of the second frame
};

// The heads of all messages of a load, by queue and key; all producers share them.
class message_heads {
public:
  explicit message_heads(const load_options& options);
  [[nodiscard]] const message_head& of(unsigned queue, unsigned key) const noexcept {
    return heads_[std::size_t{queue} * keys_ + key];
  }

private:
  unsigned keys_;
  std::vector<message_head> heads_;
};

// Appends a whole message. From 8 bytes on, its body begins with `now`.
void append_message(const message_head& head, std::uint16_t channel, std::size_t size, std::uint64_t now,
                    std::uint32_t frame_max, amqp091::buffer& out);

class producer final : public load_connection {
public:
  producer(load_stage& stage, load_tally& tally, const message_heads& heads, unsigned index);

  [[nodiscard]] result<void> connect();
  [[nodiscard]] result<pause> step(bool is_readable) override;

private:
  // Stops when all is confirmed, or nothing was for too long.
  [[nodiscard]] result<pause> finish();
  [[nodiscard]] result<void> listen();
  void settle(std::uint16_t channel, std::uint64_t tag, bool is_multiple, bool is_ack);
  void append_one(std::uint64_t now);
  [[nodiscard]] std::uint64_t room() const noexcept;
  [[nodiscard]] std::size_t in_flight() const noexcept;
  // How many the rate allows by now, and when it allows the next.
  [[nodiscard]] std::uint64_t due() const noexcept;
  [[nodiscard]] std::chrono::steady_clock::time_point next_due() const noexcept;

  const message_heads& heads_;
  const unsigned index_;
  const bool confirms_;
  std::uint64_t limit_;
  std::vector<unsigned> queues_;
  std::size_t queue_at_ = 0;
  unsigned key_at_ = 0;
  std::vector<confirm_window> windows_;  // by channel, from 1
  std::uint16_t channel_at_ = 0;
  std::uint64_t sent_ = 0;
  std::chrono::steady_clock::time_point give_up_at_{};  // once there is nothing left to publish
};

}  // namespace posthorn

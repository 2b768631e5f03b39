// A connection that consumes, each channel from the queues of its share, and acknowledges.
//
// Threads   belongs to one thread from its first step on.
#pragma once

#include "node/load/load_connection.hpp"

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

namespace posthorn {

class consumer final : public load_connection {
public:
  consumer(load_stage& stage, load_tally& tally, unsigned index);

  // Deliveries come from now on, though they are not read before the first step.
  [[nodiscard]] result<void> connect();
  [[nodiscard]] result<pause> step(bool is_readable) override;

private:
  struct channel_state {
    std::uint64_t tag = 0;  // of the last message
    std::uint64_t body_left = 0;
    unsigned unacknowledged = 0;
    bool is_first_piece = false;
  };

  // Reads the deliveries that are there, at most so many.
  [[nodiscard]] result<std::uint64_t> take_deliveries(std::uint64_t count_max);
  void record_latency(std::span<const std::byte> body, std::uint64_t now);
  void acknowledge(std::uint16_t channel);
  void acknowledge_all();
  [[nodiscard]] std::uint64_t allowed() const noexcept;

  const unsigned index_;
  unsigned ack_every_ = 1;
  std::vector<channel_state> channels_;  // channel 1 is the first
  std::chrono::steady_clock::time_point last_heard_{};
  bool has_unacknowledged_ = false;
  bool may_have_frames_ = false;  // the rate stopped reading in the midst of what was received
  std::uint64_t consumed_ = 0;
};

}  // namespace posthorn

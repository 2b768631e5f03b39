// Requests to a broker that do not wait for each other's answers: up to a window of them is under way. Each must be one
// that has one answer, and all go through one channel, so that the answers come in order.
//
// Threads   belongs to the thread of its connection.
#pragma once

#include "node/load/amqp_client.hpp"
#include "node/load/latency_histogram.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>

namespace posthorn {

class request_pipe {
public:
  // A window of 1 waits for each answer before the next request.
  request_pipe(amqp_client& client, std::chrono::milliseconds answer_time, std::size_t window)
      : client_{client}, answer_time_{answer_time}, window_{window} {}

  template <class Method>
  [[nodiscard]] result<void> add(const Method& method) {
    amqp091::encode(amqp_client::channel, method, unsent_);
    sent_at_.push_back(now());
    // Small pieces in one packet: but what fills the window has to go.
    if (sent_at_.size() < window_ && unsent_.size() < (std::size_t{16} << 10U)) return {};
    if (auto sent = flush(); !sent) return sent;
    return wait_until_below(window_);
  }
  // Until all are answered.
  [[nodiscard]] result<void> finish() {
    if (auto sent = flush(); !sent) return sent;
    return wait_until_below(1);
  }

  // From just before a request was written to its answer.
  [[nodiscard]] const latency_histogram& latency() const noexcept { return latency_; }

private:
  [[nodiscard]] static std::uint64_t now();
  [[nodiscard]] result<void> flush();
  [[nodiscard]] result<void> wait_until_below(std::size_t count);

  amqp_client& client_;
  std::chrono::milliseconds answer_time_;
  std::size_t window_;
  amqp091::buffer unsent_;
  std::deque<std::uint64_t> sent_at_;  // of those without an answer, the oldest first
  latency_histogram latency_;
};

}  // namespace posthorn

#include "node/load/request_pipe.hpp"

#include <algorithm>
#include <string>

namespace posthorn {

namespace amqp = amqp091;

std::uint64_t request_pipe::now() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

result<void> request_pipe::flush() {
  if (auto sent = client_.send(unsent_); !sent) return sent;
  unsent_.clear();
  return {};
}

result<void> request_pipe::wait_until_below(std::size_t count) {
  auto give_up_at = std::chrono::steady_clock::now() + answer_time_;
  while (sent_at_.size() >= count) {
    const auto frame = client_.next();
    if (!frame) return frame.error();
    if (*frame) {
      if ((*frame)->type != amqp::frame_type::method || (*frame)->channel != amqp_client::channel) continue;
      latency_.record(now() - sent_at_.front());
      sent_at_.pop_front();
      continue;
    }
    const auto received = client_.receive(std::min(std::chrono::milliseconds{100}, answer_time_));
    if (!received) return received.error();
    if (*received) {
      give_up_at = std::chrono::steady_clock::now() + answer_time_;
    } else if (std::chrono::steady_clock::now() > give_up_at) {
      return error{errc::unreachable, "the broker did not answer within " +
                                          std::to_string(answer_time_.count()) + " ms; " +
                                          std::to_string(sent_at_.size()) + " requests wait"};
    }
  }
  return {};
}

}  // namespace posthorn

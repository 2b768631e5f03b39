#include "node/load/load_connection.hpp"

#include <algorithm>

namespace posthorn {

std::size_t load_connection::buffer_size() const noexcept {
  constexpr std::size_t all = std::size_t{3} << 20U;
  constexpr std::size_t least = std::size_t{8} << 10U;
  constexpr std::size_t most = std::size_t{256} << 10U;
  const auto connections = std::max(1U, stage_.options.producers + stage_.options.consumers);
  return std::clamp(all / connections, least, most);
}

result<void> load_connection::open() {
  auto opened = amqp_client::open(stage_.options.broker);
  if (!opened) return opened.error();
  client_ = std::move(*opened);
  client_->shrink();
  client_->set_receive_size(buffer_size());
  return client_->open_channels(stage_.options.channels);
}

result<bool> load_connection::flush() {
  std::string_view rest = std::string_view{unsent_}.substr(flushed_);
  if (auto sent = client_->send_some(rest); !sent) return sent.error();
  flushed_ = unsent_.size() - rest.size();
  if (!rest.empty()) return false;
  unsent_.clear();
  flushed_ = 0;
  return true;
}

result<void> load_connection::flush_all() {
  auto sent = client_->send(std::string_view{unsent_}.substr(flushed_));
  unsent_.clear();
  flushed_ = 0;
  return sent;
}

}  // namespace posthorn

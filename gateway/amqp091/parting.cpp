#include "gateway/amqp091/parting.hpp"

#include "gateway/amqp091/connection.hpp"

namespace posthorn::amqp091 {

void parting::begin(io_worker& worker, transport line, buffer rest, std::size_t sent,
                    std::chrono::milliseconds patience) {
  if (worker.partings >= partings_max) {
    line.close();
    return;
  }
  const std::shared_ptr<parting> made{new parting{worker, std::move(line), std::move(rest), sent}};
  made->timer_.expires_after(patience);
  made->timer_.async_wait([weak = made->weak_from_this()](const auto& cancelled) {
    const auto self = weak.lock();
    if (!cancelled && self) self->finish();
  });
  made->write();
  made->read();
}

parting::parting(io_worker& worker, transport line, buffer rest, std::size_t sent)
    : worker_{worker}, line_{std::move(line)}, rest_{std::move(rest)}, sent_{sent}, timer_{worker.io} {
  ++worker_.partings;
}

void parting::write() {
  while (!is_over_ && sent_ < rest_.size()) {
    boost::system::error_code error;
    const auto size = line_.write_some(std::span{rest_}.subspan(sent_), error);
    if (error == boost::asio::error::would_block) {
      line_.wait_to_write([self = shared_from_this()](const auto& failed) {
        if (failed) return self->finish();
        self->write();
      });
      return;
    }
    if (error) return finish();
    sent_ += size;
  }
  if (!is_over_) line_.finish_sending();
}

// One chunk at a time: the worker's other connections come in between.
void parting::read() {
  if (is_over_) return;
  line_.wait_to_discard([self = shared_from_this()](const auto& failed) {
    if (failed) return self->finish();
    if (self->is_over_) return;
    boost::system::error_code error;
    self->line_.discard_some(self->worker_.chunk, error);
    if (error && error != boost::asio::error::would_block) return self->finish();
    self->read();
  });
}

void parting::finish() {
  if (std::exchange(is_over_, true)) return;
  --worker_.partings;
  timer_.cancel();
  line_.close();
}

}  // namespace posthorn::amqp091

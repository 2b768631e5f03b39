#include "node/load/consumer.hpp"

#include "gateway/amqp091/methods.hpp"
#include "node/load/worker_share.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

namespace posthorn {

namespace amqp = amqp091;
namespace method = amqp091::method;
using namespace std::chrono_literals;
using steady = std::chrono::steady_clock;

namespace {

// After such a silence, what is left of an acknowledgement of many is sent.
constexpr auto silence = 20ms;
constexpr std::uint64_t believable_ns = 3'600'000'000'000;

}  // namespace

consumer::consumer(load_stage& stage, load_tally& tally, unsigned index)
    : load_connection{stage, tally}, index_{index}, channels_(stage.options.channels) {
  const auto& options = stage.options;
  // Waiting for more than may come before the first acknowledgement would be waiting for ever.
  ack_every_ = std::max(1U, options.prefetch == 0 ? options.ack_every
                                                  : std::min<unsigned>(options.ack_every, options.prefetch));
}

result<void> consumer::connect() {
  if (auto ok = open(); !ok) return ok;
  const auto& options = stage_.options;
  for (std::uint16_t channel = 1; channel <= options.channels; ++channel) {
    if (!options.is_auto_ack) {
      method::basic_qos qos;
      qos.prefetch_count = options.prefetch;
      if (auto ok = client_->call<method::basic_qos_ok>(qos, channel); !ok) return ok;
    }
  }
  // Not awaited: with what waits in the queues, deliveries come before the next answer.
  amqp::buffer bytes;
  for (std::uint16_t channel = 1; channel <= options.channels; ++channel) {
    const auto worker = index_ * options.channels + channel - 1U;
    for (const auto queue : share_of(worker, options.consumers * options.channels, options.queues)) {
      const std::string name = queue_name_of(options, queue);
      method::basic_consume consume;
      consume.queue = name;
      consume.no_ack = options.is_auto_ack;
      amqp::encode(channel, consume, bytes);
    }
  }
  last_heard_ = steady::now();
  may_have_frames_ = true;
  return client_->send(bytes);
}

std::uint64_t consumer::allowed() const noexcept {
  const auto& options = stage_.options;
  if (options.consume_rate <= 0 || stage_.stop_publishing) return std::numeric_limits<std::uint64_t>::max();
  const auto seconds = std::chrono::duration<double>(steady::now() - stage_.began).count();
  const auto planned =
      static_cast<std::uint64_t>(std::max(0.0, seconds * options.consume_rate / options.consumers));
  return planned > consumed_ ? planned - consumed_ : 0;
}

result<load_connection::pause> consumer::step(bool is_readable) {
  pause out;
  if (stage_.stop_consuming) {
    acknowledge_all();
    if (auto sent = flush_all(); !sent) return sent.error();
    client_->close();
    out.is_over = true;
    return out;
  }
  const auto count_max = allowed();
  if (count_max == 0) {
    out.wants_read = false;
    out.until = steady::now() + 1ms;
    return out;
  }
  if (is_readable) {
    const auto received = client_->receive_now();
    if (!received) return received.error();
  }
  if (is_readable || may_have_frames_) {
    const auto count = take_deliveries(count_max);
    if (!count) return count.error();
    if (*count != 0) last_heard_ = steady::now();
    consumed_ += *count;
    tally_.consumed.add(*count);
    may_have_frames_ = *count == count_max;
    out.is_again = may_have_frames_;
  }
  if (has_unacknowledged_) {
    out.until = last_heard_ + silence;
    if (!is_readable && steady::now() >= out.until) {
      acknowledge_all();
      out.until = steady::time_point::max();
    }
  }
  const auto flushed = flush();
  if (!flushed) return flushed.error();
  out.wants_write = !*flushed;
  return out;
}

result<std::uint64_t> consumer::take_deliveries(std::uint64_t count_max) {
  const auto now = now_ns();
  std::uint64_t count = 0;
  while (count < count_max) {
    const auto frame = client_->next();
    if (!frame) return frame.error();
    if (!*frame) break;
    const auto number = (*frame)->channel;
    if (number == 0 || number > channels_.size()) continue;
    auto& channel = channels_[number - 1U];
    const auto payload = (*frame)->payload;
    switch ((*frame)->type) {
      case amqp::frame_type::method:
        if (method::basic_deliver deliver; amqp::decode_deliver(payload, deliver))
          channel.tag = deliver.delivery_tag;
        if (method::basic_cancel cancel; amqp::decode_as(payload, cancel)) {
          return error{errc::unreachable,
                       "the broker cancelled the consumer of " + std::string{cancel.consumer_tag}};
        }
        continue;
      case amqp::frame_type::header:
        if (amqp::content_header header; amqp::decode_content_header(payload, header)) {
          channel.body_left = header.body_size;
          channel.is_first_piece = true;
        }
        break;
      case amqp::frame_type::body:
        if (channel.is_first_piece) record_latency(payload, now);
        channel.is_first_piece = false;
        channel.body_left -= std::min<std::uint64_t>(channel.body_left, payload.size());
        break;
      case amqp::frame_type::heartbeat: continue;
    }
    if (channel.body_left != 0) continue;
    ++count;
    if (stage_.options.is_auto_ack) continue;
    has_unacknowledged_ = true;
    if (++channel.unacknowledged >= ack_every_) acknowledge(number);
  }
  return count;
}

void consumer::record_latency(std::span<const std::byte> body, std::uint64_t now) {
  std::uint64_t sent_at = 0;
  if (body.size() < sizeof sent_at || !stage_.measure.load(std::memory_order_relaxed)) return;
  std::memcpy(&sent_at, body.data(), sizeof sent_at);
  // What stood in the queue before us may hold anything.
  if (sent_at <= now && now - sent_at < believable_ns) tally_.delivery.record(now - sent_at);
}

void consumer::acknowledge(std::uint16_t number) {
  auto& channel = channels_[number - 1U];
  if (channel.unacknowledged == 0) return;
  channel.unacknowledged = 0;
  method::basic_ack ack;
  ack.delivery_tag = channel.tag;
  ack.multiple = true;
  amqp::encode(number, ack, unsent_);
}

void consumer::acknowledge_all() {
  for (std::uint16_t number = 1; number <= channels_.size(); ++number) acknowledge(number);
  has_unacknowledged_ = false;
}

}  // namespace posthorn

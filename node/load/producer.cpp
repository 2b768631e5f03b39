#include "node/load/producer.hpp"

#include "gateway/amqp091/methods.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"
#include "node/load/worker_share.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace posthorn {

namespace amqp = amqp091;
namespace method = amqp091::method;
using steady = std::chrono::steady_clock;

namespace {

constexpr std::size_t header_size_at =
    amqp::frame_header_size + 4;  // class and weight come before the body's size
constexpr std::uint16_t any_channel = 1;
constexpr std::uint64_t messages_per_time = 16;
constexpr std::size_t bytes_per_time = 4096;

template <class Number>
void store_big_endian(Number value, char* to) {
  for (std::size_t i = sizeof value; i-- > 0; value = static_cast<Number>(value >> 8U)) {
    to[i] = static_cast<char>(value & 0xFFU);
  }
}

}  // namespace

message_heads::message_heads(const load_options& options) : keys_{options.keys} {
  const std::string exchange = exchange_name_of(options);
  heads_.reserve(std::size_t{options.queues} * keys_);
  for (unsigned queue = 0; queue < options.queues; ++queue) {
    for (unsigned key = 0; key < keys_; ++key) {
      const std::string routing_key = routing_key_of(options, queue, key);
      basic_properties properties;
      properties.delivery_mode = options.is_transient ? std::uint8_t{1} : std::uint8_t{2};
      if (options.exchange_type == "headers") {
        properties.headers = field_table{{"queue", field_value::of_string(routing_key)}};
      }
      std::string encoded;
      encode_properties(properties, encoded);
      method::basic_publish publish;
      publish.exchange = exchange;
      publish.routing_key = routing_key;
      publish.mandatory = options.is_mandatory;
      message_head& head = heads_.emplace_back();
      amqp::encode(any_channel, publish, head.bytes);
      head.header_at = head.bytes.size();
      amqp::encode_content_header(
          any_channel, 0, {reinterpret_cast<const std::byte*>(encoded.data()), encoded.size()}, head.bytes);
      head.bytes.shrink_to_fit();
    }
  }
}

void append_message(const message_head& head, std::uint16_t channel, std::size_t size, std::uint64_t now,
                    std::uint32_t frame_max, amqp::buffer& out) {
  const auto at = out.size();
  out += head.bytes;
  if (channel != any_channel) {
    store_big_endian(channel, out.data() + at + 1);
    store_big_endian(channel, out.data() + at + head.header_at + 1);
  }
  store_big_endian(std::uint64_t{size}, out.data() + at + head.header_at + header_size_at);
  const std::size_t piece_max = frame_max - amqp::frame_overhead;
  for (std::size_t done = 0; done < size;) {
    const auto piece = std::min(piece_max, size - done);
    char frame[amqp::frame_header_size] = {static_cast<char>(amqp::frame_type::body)};
    store_big_endian(channel, frame + 1);
    store_big_endian(static_cast<std::uint32_t>(piece), frame + 3);
    out.append(frame, sizeof frame);
    const auto body_at = out.size();
    out.append(piece, 'x');
    if (done == 0 && size >= sizeof now) std::memcpy(out.data() + body_at, &now, std::min(piece, sizeof now));
    out += amqp::frame_end;
    done += piece;
  }
}

producer::producer(load_stage& stage, load_tally& tally, const message_heads& heads, unsigned index)
    : load_connection{stage, tally},
      heads_{heads},
      index_{index},
      confirms_{stage.options.confirm_window != 0},
      queues_{share_of(index, stage.options.producers, stage.options.queues)} {
  const auto& options = stage.options;
  limit_ = options.count == 0
               ? std::numeric_limits<std::uint64_t>::max()
               : options.count / options.producers + (index < options.count % options.producers ? 1 : 0);
  for (unsigned i = 0; confirms_ && i < options.channels; ++i) windows_.emplace_back(options.confirm_window);
}

result<void> producer::connect() {
  if (auto ok = open(); !ok) return ok;
  for (std::uint16_t channel = 1; confirms_ && channel <= stage_.options.channels; ++channel) {
    if (auto ok = client_->call<method::confirm_select_ok>(method::confirm_select{}, channel); !ok) return ok;
  }
  return {};
}

std::uint64_t producer::room() const noexcept {
  if (!confirms_) return std::numeric_limits<std::uint64_t>::max();
  std::uint64_t sum = 0;
  for (const auto& window : windows_) sum += window.room();
  return sum;
}

std::size_t producer::in_flight() const noexcept {
  std::size_t sum = 0;
  for (const auto& window : windows_) sum += window.in_flight();
  return sum;
}

// Producer i of n sends the messages i, i + n, ... of the plan, so that they take turns.
std::uint64_t producer::due() const noexcept {
  const auto& options = stage_.options;
  const auto all = options.rate.due(std::chrono::duration<double>(steady::now() - stage_.began).count());
  const auto planned = all > index_ ? (all - index_ - 1) / options.producers + 1 : 0;
  return planned > sent_ ? planned - sent_ : 0;
}

steady::time_point producer::next_due() const noexcept {
  const auto& options = stage_.options;
  const auto seconds = options.rate.time_of(sent_ * options.producers + index_ + 1);
  // A very slow rate would not fit the clock.
  return stage_.began + std::chrono::nanoseconds{std::llround(std::min(seconds, 1e8) * 1e9)};
}

result<load_connection::pause> producer::step(bool is_readable) {
  if (is_readable) {
    if (auto heard = listen(); !heard) return heard.error();
  }
  if (!stage_.may_publish) return pause{};
  const auto flushed = flush();
  if (!flushed) return flushed.error();
  pause out;
  out.wants_write = !*flushed;
  if (out.wants_write) return out;
  if (stage_.stop_publishing || sent_ >= limit_) return finish();
  if (client_->is_blocked()) {
    tally_.was_blocked.value = 1;
    return out;
  }
  auto count = std::min(limit_ - sent_, room());
  if (count == 0) return out;
  if (stage_.options.rate.is_limited()) {
    count = std::min(count, due());
    if (count == 0) {
      out.until = next_due();
      return out;
    }
  }
  const auto enough = buffer_size();
  std::uint64_t done = 0;
  // To look at the clock costs more than to put a small message together: one time serves what takes about a microsecond.
  std::uint64_t now = 0;
  for (std::size_t timed_until = 0; done < count && unsent_.size() < enough; ++done) {
    if (done % messages_per_time == 0 || unsent_.size() >= timed_until) {
      now = now_ns();
      timed_until = unsent_.size() + bytes_per_time;
    }
    append_one(now);
  }
  tally_.published.add(done);
  const auto sent = flush();
  if (!sent) return sent.error();
  out.wants_write = !*sent;
  out.is_again = *sent;
  return out;
}

result<load_connection::pause> producer::finish() {
  const auto now = steady::now();
  if (give_up_at_ == steady::time_point{}) give_up_at_ = now + stage_.options.broker.answer_time;
  const auto left = in_flight();
  if (left != 0 && now < give_up_at_) {
    pause out;
    out.until = give_up_at_;
    return out;
  }
  tally_.unconfirmed.add(left);
  for (const auto& window : windows_) tally_.unexpected.add(window.unexpected());
  // Without confirms the answer to the goodbye tells that all was taken.
  if (left == 0 && !client_->is_blocked()) client_->close();
  --stage_.producers_left;
  pause out;
  out.is_over = true;
  return out;
}

void producer::append_one(std::uint64_t now) {
  std::uint16_t channel = channel_at_;
  if (confirms_) {
    while (windows_[channel].room() == 0)
      channel = static_cast<std::uint16_t>((channel + 1) % windows_.size());
  }
  append_message(heads_.of(queues_[queue_at_], key_at_), static_cast<std::uint16_t>(channel + 1),
                 stage_.options.size.size_of(sent_), now, client_->frame_max(), unsent_);
  if (confirms_) windows_[channel].published(now);
  channel_at_ = static_cast<std::uint16_t>(channel + 1 < stage_.options.channels ? channel + 1 : 0);
  if (++queue_at_ == queues_.size()) {
    queue_at_ = 0;
    if (++key_at_ == stage_.options.keys) key_at_ = 0;
  }
  ++sent_;
}

result<void> producer::listen() {
  if (auto received = client_->receive_now(); !received) return received.error();
  while (true) {
    const auto frame = client_->next();
    if (!frame) return frame.error();
    if (!*frame) return {};
    if ((*frame)->type != amqp::frame_type::method) continue;
    const auto payload = (*frame)->payload;
    if (method::basic_ack ack; amqp::decode_as(payload, ack)) {
      settle((*frame)->channel, ack.delivery_tag, ack.multiple, true);
    } else if (method::basic_nack nack; amqp::decode_as(payload, nack)) {
      settle((*frame)->channel, nack.delivery_tag, nack.multiple, false);
    } else if (amqp::method_id_of(payload) == amqp::id_of<method::basic_return>) {
      tally_.returned.add(1);
    }
  }
}

void producer::settle(std::uint16_t channel, std::uint64_t tag, bool is_multiple, bool is_ack) {
  if (channel == 0 || channel > windows_.size()) {
    tally_.unexpected.add(1);
    return;
  }
  const auto now = now_ns();
  const bool measures = is_ack && stage_.measure.load(std::memory_order_relaxed);
  const auto count = windows_[channel - 1U].settle(tag, is_multiple, [&](std::uint64_t sent_at) {
    if (measures) tally_.confirm.record(now - sent_at);
  });
  (is_ack ? tally_.confirmed : tally_.nacked).add(count);
}

}  // namespace posthorn

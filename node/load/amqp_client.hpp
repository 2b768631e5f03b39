// One AMQP connection, as the load generator needs it. What sets it up waits for the broker, but never so that both
// sides wait for each other to read; `send_some`, `receive_now` and `next` never wait.
//
// Owns      its socket and what was received on it.
// Threads   belongs to one thread.
#pragma once

#include "gateway/amqp091/frame.hpp"
#include "gateway/amqp091/methods.hpp"
#include "mailbox/result.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace posthorn {

struct amqp_address {
  std::string host = "127.0.0.1";
  std::string port = "5672";
  std::string user = "guest";
  std::string password = "guest";
  std::string vhost = "/";
  std::chrono::milliseconds answer_time{
      30'000};  // for which an answer, or the connection itself, is waited for
};

// amqp://USER:PASSWORD@HOST:PORT/VHOST, each part optional and percent-encoded.
[[nodiscard]] result<amqp_address> parse_amqp_uri(std::string_view uri);

class amqp_client {
public:
  // Connected, logged in, and with channel 1 open.
  static result<std::unique_ptr<amqp_client>> open(const amqp_address& address);
  ~amqp_client();
  amqp_client(const amqp_client&) = delete;
  amqp_client& operator=(const amqp_client&) = delete;

  // The channel that is open from the start.
  static constexpr std::uint16_t channel = 1;
  // Opens the channels 2 to `last`; an error when the broker allows fewer.
  [[nodiscard]] result<void> open_channels(std::uint16_t last);
  [[nodiscard]] int socket() const noexcept { return fd_; }
  // How much is received at a time, in bytes.
  void set_receive_size(std::size_t size) noexcept { receive_size_ = size; }
  // Gives the memory for what was received back, when all of it was looked at.
  void shrink();
  [[nodiscard]] std::uint32_t frame_max() const noexcept { return frame_max_; }
  // Whether the broker has told us to stop publishing, and not yet to go on.
  [[nodiscard]] bool is_blocked() const noexcept { return is_blocked_; }

  // Returns when all is in the system's hands. While it waits for room, what comes in is received.
  [[nodiscard]] result<void> send(std::string_view bytes);

  // Waits for more to come in; false when nothing did in time.
  [[nodiscard]] result<bool> receive(std::chrono::milliseconds timeout);

  // Drops from the front of `rest` what the system takes at once.
  [[nodiscard]] result<void> send_some(std::string_view& rest);
  // What has come in by now; false when nothing had.
  [[nodiscard]] result<bool> receive_now() { return fill(); }

  // The next frame that came in whole. Its bytes are valid until the next `send` or `receive`. A close, whether of
  // the channel or the connection, is an error; other methods of the connection are dealt with here.
  [[nodiscard]] result<std::optional<amqp091::frame>> next();

  // Sends a method, and waits for its answer; other frames are skipped.
  template <class Answer, class Method>
  [[nodiscard]] result<void> call(const Method& method, std::uint16_t on = channel) {
    amqp091::buffer bytes;
    amqp091::encode(on, method, bytes);
    if (auto sent = send(bytes); !sent) return sent;
    return expect(amqp091::id_of<Answer>);
  }

  // Says goodbye, and waits for the answer, so that what was sent before is surely dealt with. An error may be ignored:
  // a broker that is gone has nothing left to answer.
  result<void> close();

private:
  explicit amqp_client(int fd) : fd_{fd} {}
  [[nodiscard]] result<void> handshake(const amqp_address& address);
  [[nodiscard]] error why_gone(int code);
  [[nodiscard]] result<void> expect(amqp091::method_id id);
  [[nodiscard]] result<bool> fill();
  [[nodiscard]] result<void> on_connection_method(std::span<const std::byte> payload);

  int fd_;
  std::chrono::milliseconds answer_time_{30'000};
  std::uint32_t frame_max_ = 4096;
  std::uint16_t channel_max_ = 0;  // 0: as many as there are numbers
  bool is_blocked_ = false;
  // Bytes from `at_` to `end_` were received and not looked at. Not a string: what is to be overwritten needs no zeros.
  std::unique_ptr<char[]> received_;
  std::size_t capacity_ = 0;
  std::size_t at_ = 0;
  std::size_t end_ = 0;
  std::size_t receive_size_ = std::size_t{256} << 10U;
  std::span<const std::byte> answer_;  // what `expect` found
};

}  // namespace posthorn

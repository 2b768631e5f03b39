// One connection of a load, as the thread that drives it sees it: it never waits, but tells what it waits for.
//
// Threads   belongs to one thread from its first step on.
#pragma once

#include "mailbox/result.hpp"
#include "node/load/amqp_client.hpp"
#include "node/load/load_stage.hpp"

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace posthorn {

class load_connection {
public:
  // What has to happen before the next step makes sense; `is_over`: nothing will.
  struct pause {
    bool is_over = false;
    bool is_again = false;     // it has more to do at once
    bool wants_read = true;    // whether it wants to know of what comes in
    bool wants_write = false;  // ... and that there is room to send
    std::chrono::steady_clock::time_point until = std::chrono::steady_clock::time_point::max();
  };

  load_connection(load_stage& stage, load_tally& tally) : stage_{stage}, tally_{tally} {}
  virtual ~load_connection() = default;
  load_connection(const load_connection&) = delete;
  load_connection& operator=(const load_connection&) = delete;

  // Does what can be done without waiting. `is_readable`: something came in.
  [[nodiscard]] virtual result<pause> step(bool is_readable) = 0;
  [[nodiscard]] int socket() const noexcept { return client_->socket(); }

protected:
  // Connects, and opens the channels; how much is received at a time depends on how many connections there are.
  [[nodiscard]] result<void> open();
  // Sends what `unsent_` holds; true when nothing is left.
  [[nodiscard]] result<bool> flush();
  // The same, but waits for room.
  [[nodiscard]] result<void> flush_all();
  // In bytes. All connections together may take some MiB.
  [[nodiscard]] std::size_t buffer_size() const noexcept;

  load_stage& stage_;
  load_tally& tally_;
  std::unique_ptr<amqp_client> client_;
  amqp091::buffer unsent_;

private:
  std::size_t flushed_ = 0;  // of `unsent_`
};

}  // namespace posthorn

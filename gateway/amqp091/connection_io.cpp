// The socket of a connection: reading, writing, timers, and the messages of its actor.
#include "gateway/amqp091/connection.hpp"
#include "gateway/amqp091/parting.hpp"

namespace posthorn::amqp091 {

namespace {

// Output that the client does not read makes us stop reading its input, so that it cannot make us answer without end.
constexpr std::size_t output_max = std::size_t{1} << 20;
// A parcel takes about a microsecond to send, however full it is. Of a chunk that is taken in turns, parcels are sent when
// that takes an eighth of the time in which they were filled: sent after each turn, those of a fan-out to 1,000 queues
// would hold thirty messages instead of hundreds, and cost half of the throughput.
constexpr std::size_t parcels_per_turn = 128;
// Messages of the actor whose place is kept between two bursts.
constexpr std::size_t inbox_capacity_max = 64;
// A buffer that is empty at a tick gives back what it has beyond this.
constexpr std::size_t idle_capacity_max = 4096;
constexpr auto closing_patience = std::chrono::seconds{5};

}  // namespace

connection::connection(server_context& server, io_worker& worker, transport line, client_place from,
                       std::function<void(connection&)> on_gone)
    : server_{server},
      worker_{worker},
      id_{node_context::next_id<connection_id>(server.node.context().last_connection)},
      peer_{std::move(from.name)},
      place_name_{from.via.empty() ? peer_ : peer_ + " via " + from.via},
      from_loopback_{from.is_local},
      on_gone_{std::move(on_gone)},
      transport_{std::move(line)},
      timer_{worker.io} {}

connection::~connection() = default;

void connection::start(std::string_view first, std::chrono::steady_clock::time_point deadline) {
  auto& system = server_.node.system();
  companion_ = system.spawn<caf::actor_companion>();
  self_ = caf::actor_cast<connection_actor>(companion_);
  auto* companion = caf::actor_cast<caf::actor_companion*>(companion_);
  companion->on_enqueue([weak = weak_from_this()](caf::mailbox_element_ptr element) {
    if (const auto self = weak.lock()) self->enter_inbox(std::move(element));
  });
  companion->become(caf::message_handler{
      [this](deliver& message) { on_deliver(message); },
      [this](const settled& message) { on_settled(message); },
      [this](reply& message) { on_reply(message); },
      [this](const consumer_cancelled& message) {
        message.took_too_long ? on_consumer_timeout(message.consumer)
                              : on_consumer_cancelled(message.consumer);
      },
      [this](const close_connection& message) {
        if (said_goodbye_) return end("the node stops");
        if (phase_ != phase::closing) close_now(reply_code::connection_forced, message.reason, {});
      },
      [this](const alarm_changed& message) {
        alarmed_ = message.blocked;
        blocked_reason_ = message.reason;
        if (alarmed_) return;
        blocked_ = false;
        if (std::exchange(blocked_told_, false) && phase_ == phase::running) {
          send(0, method::connection_unblocked{});
        }
      },
  });
  // On this thread, for messages are handled here. Its own end comes as `gone` before.
  companion->on_exit([this] { killed_ = phase_ != phase::gone; });
  child_definition place;
  place.spec.name = path_part(place_name_);
  place.spec.restart = restart_kind::temporary;
  place.kind = "connection";
  place.stop = [self = self_](const caf::actor&) {
    caf::anon_send(self, close_connection{"broker forced connection closure with reason 'shutdown'"});
  };
  server_.connections_supervisor->adopt(std::move(place), companion_);
  server_.connections.fetch_add(1, std::memory_order_relaxed);
  server_.node.context().counters.connections_opened->inc();
  blocked_reason_ = server_.node.alarms().reason();
  alarmed_ = !blocked_reason_.empty();
  arm_timer(std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()));
  if (first.empty()) return arm_read();
  received_since_tick_ = true;
  begin_turn();
  consume_input(std::as_bytes(std::span{first}));
}

void connection::abandon() {
  end("the node stops");
  // The exit message of its actor is there.
  do {
    drain_inbox();
  } while (drained_ < draining_.size());
}

void connection::alarm(const std::string& reason) {
  caf::anon_send(self_, alarm_changed{!reason.empty(), reason});
}

// --- the actor's messages -----------------------------------------------------------------------------------------

// On the sender's thread.
void connection::enter_inbox(caf::mailbox_element_ptr element) {
  {
    const std::lock_guard guard{inbox_mutex_};
    inbox_.push_back(std::move(element));
    if (std::exchange(inbox_scheduled_, true)) return;
  }
  boost::asio::post(worker_.io, [self = shared_from_this()] { self->drain_inbox(); });
}

void connection::drain_inbox() {
  draining_.erase(draining_.begin(), draining_.begin() + static_cast<std::ptrdiff_t>(drained_));
  drained_ = 0;
  {
    const std::lock_guard guard{inbox_mutex_};
    if (draining_.empty()) {
      draining_.swap(inbox_);
    } else {
      std::move(inbox_.begin(), inbox_.end(), std::back_inserter(draining_));
      inbox_.clear();
    }
    inbox_scheduled_ = false;
  }
  if (!companion_) return;
  begin_turn();
  const auto keep = companion_;
  auto* companion = caf::actor_cast<caf::actor_companion*>(keep);
  while (drained_ < draining_.size() && !worker_.turn.is_over()) {
    const auto element = std::move(draining_[drained_++]);
    companion->activate(server_.node.system().dummy_execution_unit(), *element);
    worker_.turn.spend(1);
  }
  if (drained_ < draining_.size()) {
    server_.turns_cut.fetch_add(1, std::memory_order_relaxed);
    const std::lock_guard guard{inbox_mutex_};
    if (!std::exchange(inbox_scheduled_, true)) {
      boost::asio::post(worker_.io, [self = shared_from_this()] { self->drain_inbox(); });
    }
  } else {
    draining_.clear();
    drained_ = 0;
    if (draining_.capacity() > inbox_capacity_max) draining_.shrink_to_fit();
  }
  if (phase_ == phase::gone) return;
  if (std::exchange(killed_, false)) {
    // What it held goes back to the queues, which watched it.
    log(node_context::severity::warning, "connection " + peer_ + " closed: its actor was killed");
    return close_now(reply_code::connection_forced, "the connection was killed", {});
  }
  resume_input();
}

// --- reading ------------------------------------------------------------------------------------------------------

bool connection::may_read() const noexcept {
  return phase_ != phase::gone && !stalled_ && !yielded_ && !in_flight_full_ && !blocked_ &&
         out_.size() - out_sent_ < output_max;
}

void connection::arm_read() {
  if (reading_ || !may_read()) return;
  reading_ = true;
  transport_.wait_to_read([self = shared_from_this()](const auto& failed) { self->on_readable(failed); });
}

void connection::on_readable(const boost::system::error_code& failed) {
  reading_ = false;
  if (phase_ == phase::gone) return;
  if (failed) return on_broken(failed.message());
  if (!may_read()) return;
  boost::system::error_code error;
  const auto size = transport_.read_some(worker_.chunk, error);
  if (error == boost::asio::error::would_block) return arm_read();
  if (error) {
    return on_broken(error == boost::asio::error::eof ? "the client closed the socket" : error.message());
  }
  received_since_tick_ = true;
  begin_turn();
  consume_input({worker_.chunk.data(), size});
}

void connection::consume_input(bytes chunk) {
  if (vhost_) {
    snapshot_ = vhost_->snapshot();
    if (server_.node.context().directory->version() != access_version_) [[unlikely]]
      look_at_permissions();
  }
  if (input_.empty()) {
    const auto used = decode(chunk);
    if (phase_ == phase::gone) return;
    if (used < chunk.size())
      input_.assign(reinterpret_cast<const char*>(chunk.data()) + used, chunk.size() - used);
  } else {
    if (!chunk.empty()) {
      input_.erase(0, std::exchange(input_used_, 0));
      input_.append(reinterpret_cast<const char*>(chunk.data()), chunk.size());
    }
    input_used_ += decode(std::as_bytes(std::span{input_}).subspan(input_used_));
    if (phase_ == phase::gone) return;
    if (input_used_ == input_.size()) {
      input_.clear();
      input_used_ = 0;
    }
  }
  snapshot_.reset();
  if (!yielded_ || parcel_count_ <= parcels_per_turn * ++turns_gathered_) send_parcels();
  write_out();
  if (phase_ == phase::gone) return;
  if (!yielded_) return arm_read();
  server_.turns_cut.fetch_add(1, std::memory_order_relaxed);
  boost::asio::post(worker_.io, [self = shared_from_this()] { self->continue_input(); });
}

// The others had their turn.
void connection::continue_input() {
  yielded_ = false;
  if (phase_ == phase::gone) return;
  begin_turn();
  consume_input({});
}

void connection::begin_turn() { worker_.turn.begin(server_.settings.turn_max); }

// After anything that may let the input go on.
void connection::resume_input() {
  if (std::exchange(stalled_, false)) {
    consume_input({});
  } else {
    if (!yielded_) send_parcels();
    write_out();
    if (phase_ != phase::gone) arm_read();
  }
}

// How much of the input was used. The rest is the begin of a frame, or waits for an answer or for the next turn.
std::size_t connection::decode(bytes input) {
  std::size_t used = 0;
  while (phase_ != phase::gone) {
    const auto rest = input.subspan(used);
    if (phase_ == phase::header) {
      const auto status = parse_protocol_header(rest);
      if (status == protocol_header_status::incomplete) break;
      if (status == protocol_header_status::refused) {
        out_.append(protocol_header.data(), protocol_header.size());  // [68]
        write_out();
        end("its protocol header is not that of AMQP 0-9-1", true);
        break;
      }
      used += protocol_header_size;
      phase_ = phase::start;
      send(0, method::connection_start{
                  0, 9, std::as_bytes(std::span{server_.server_properties}),
                  transport_.user().empty() ? "PLAIN AMQPLAIN" : "PLAIN AMQPLAIN EXTERNAL", "en_US"});
      continue;
    }
    frame f;
    const auto status = decode_frame(rest, frame_max_, f);
    if (status == frame_status::incomplete) break;
    if (status != frame_status::complete) {
      if (phase_ == phase::closing) {
        end("what follows its last frame is not AMQP", true);
      } else {
        refuse_connection(reply_code::frame_error, to_string(status));
        // Nothing behind a broken frame can be understood, the answer to our close included.
        write_out();
        used = input.size();
      }
      break;
    }
    if (!on_frame(f)) {
      if (stalled_) break;
    }
    used += f.size;
    worker_.turn.spend(1);
    if (worker_.turn.is_over() && used < input.size()) [[unlikely]] {
      yielded_ = phase_ != phase::gone;
      break;
    }
  }
  return phase_ == phase::gone ? input.size() : used;
}

// --- writing ------------------------------------------------------------------------------------------------------

void connection::write_out() {
  if (writing_ || phase_ == phase::gone) return;
  while (out_sent_ < out_.size()) {
    boost::system::error_code error;
    const auto size = transport_.write_some(std::span{out_}.subspan(out_sent_), error);
    if (error == boost::asio::error::would_block) {
      writing_ = true;
      transport_.wait_to_write(
          [self = shared_from_this()](const auto& failed) { self->on_writable(failed); });
      return;
    }
    if (error) return end(error.message());
    sent_since_tick_ = true;
    out_sent_ += size;
  }
  out_.clear();
  out_sent_ = 0;
  grant_credit();
}

void connection::on_writable(const boost::system::error_code& failed) {
  writing_ = false;
  if (phase_ == phase::gone) return;
  if (failed) return end(failed.message());
  write_out();
  if (phase_ != phase::gone) arm_read();
}

// All that was delivered has gone to the socket: as much may follow.
void connection::grant_credit() {
  if (owed_.empty()) return;
  for (const auto id : owed_) {
    const auto found = consumers_.find(id);
    if (found == consumers_.end()) continue;
    auto& holder = found->second.of->holders[found->second.holder];
    if (holder.takes_replies()) [[unlikely]] {
      found->second.of->replies->grant(static_cast<std::size_t>(std::exchange(holder.credit_owed, 0)));
      continue;
    }
    parcel_for(holder.queue).answers.grants.push_back({id, std::exchange(holder.credit_owed, 0)});
  }
  owed_.clear();
  send_parcels();
}

// --- time ---------------------------------------------------------------------------------------------------------

void connection::arm_timer(std::chrono::milliseconds after) {
  timer_.expires_after(after);
  timer_.async_wait([weak = weak_from_this()](const auto& failed) {
    if (failed) return;
    if (const auto self = weak.lock()) self->on_timer();
  });
}

void connection::on_timer() {
  if (phase_ == phase::gone) return;
  if (phase_ != phase::running) {
    return end(said_goodbye_              ? "the client left the socket open behind its close"
               : phase_ == phase::closing ? "it did not answer our close in time"
                                          : "the handshake was not finished in time");
  }
  if (heartbeat_.count() == 0) return;
  // Twice per interval: [74].
  const bool listening = may_read();  // while we do not read, silence says nothing
  silent_ticks_ = std::exchange(received_since_tick_, false) || !listening ? 0 : silent_ticks_ + 1;
  if (silent_ticks_ >= 5) return end("no heartbeat came for two intervals");
  if (!std::exchange(sent_since_tick_, false) && !writing_) {
    out_.append(heartbeat_frame.data(), heartbeat_frame.size());
    write_out();
    if (phase_ == phase::gone) return;
    sent_since_tick_ = false;
  }
  if (out_.empty() && out_.capacity() > idle_capacity_max) out_.shrink_to_fit();
  if (input_.empty() && input_.capacity() > idle_capacity_max) input_.shrink_to_fit();
  arm_timer(heartbeat_ / 2);
}

// --- the end ------------------------------------------------------------------------------------------------------

void connection::close_now(reply_code code, std::string_view text, method_id about) {
  if (phase_ == phase::gone || phase_ == phase::closing) return;
  const bool can_understand = phase_ != phase::header;
  leave_vhost();
  release_everything(0);
  phase_ = phase::closing;
  stalled_ = blocked_ = in_flight_full_ = false;  // nothing keeps us from reading its answer
  if (can_understand) {
    tell_refusals();
    const auto full = reply_text(code, text);
    send(0, method::connection_close{code, full, about.class_, about.method});
  }
  arm_timer(closing_patience);
  write_out();
  if (!can_understand && phase_ != phase::gone) end("the node stops");
}

// The end of our stream would overtake this answer in clients whose threads close one connection together: the first one
// has its answer, and the others, which wait for theirs, would hear of a lost connection. RabbitMQ waits as well, 30 s.
void connection::say_goodbye() {
  leave_vhost();
  release_everything(0);
  phase_ = phase::closing;
  said_goodbye_ = true;
  blocked_ = in_flight_full_ = false;
  arm_timer(closing_patience);
}

void connection::on_broken(std::string why) {
  auto& broken = worker_.broken;
  broken.emplace_back(shared_from_this(), std::move(why));
  if (broken.size() == 1) boost::asio::post(worker_.io, [&worker = worker_] { end_broken(worker); });
}

void connection::end_broken(io_worker& worker) {
  for (std::size_t n = 0; n < io_worker::broken_at_once && !worker.broken.empty(); ++n) {
    const auto [broken, why] = std::move(worker.broken.front());
    worker.broken.pop_front();
    broken->end(why);
  }
  if (!worker.broken.empty()) boost::asio::post(worker.io, [&worker] { end_broken(worker); });
}

// `with_last_words`: the client may still read what was written for it last, and write meanwhile.
void connection::end(const std::string& why, bool with_last_words) {
  if (phase_ == phase::gone) return;
  leave_vhost();
  const bool expected = phase_ == phase::closing || phase_ == phase::header;
  log(expected || phase_ == phase::running ? node_context::severity::debug : node_context::severity::info,
      "connection " + peer_ + " ended: " + why);
  release_everything(0);
  phase_ = phase::gone;
  timer_.cancel();
  if (with_last_words) {
    parting::begin(worker_, std::move(transport_), std::exchange(out_, {}), out_sent_, closing_patience);
  } else {
    transport_.close();
  }
  if (companion_) {
    // The queues that monitor it put back what it held.
    caf::anon_send_exit(companion_, caf::exit_reason::user_shutdown);
    server_.connections.fetch_sub(1, std::memory_order_relaxed);
    server_.node.context().counters.connections_closed->inc();
  }
  if (auto gone = std::exchange(on_gone_, nullptr)) gone(*this);
}

void connection::log(node_context::severity level, const std::string& text) const {
  server_.node.context().log(level, text);
}

}  // namespace posthorn::amqp091

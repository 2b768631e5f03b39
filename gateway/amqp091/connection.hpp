// One client's connection: its socket, the dialogue, and the actor by which queues reach it.
//
//   header --> start --> tune --> open --> running --on_close (the client)-----> closing --its end of the socket--> gone
//                                             |------refuse (an error, shutdown)--> closing --on_close_ok--> gone
//   Each step is taken in connection.cpp by the handler of the method that ends it. From everywhere, a lost socket, a
//   missed heartbeat or a handshake that takes too long leads to gone.
//
// Owns      its transport (the socket), its channels, and a `caf::actor_companion`, whose messages are handled on the I/O thread.
// Receives  deliver, settled, reply, consumer_cancelled from queues and the vhost; close_connection, alarm_changed from
//           the server
// Sends     publish_batch, answer_held, consume, … to queues; topology_request, release_owner to the vhost
// Order     A client sees its own requests take effect, and answered, in the order in which it sent them, whatever their
//           channels. Most requests are answered by another actor. What comes behind one waits for its answer, with all
//           input behind it, unless both are of one of these kinds:
//             of the topology  declare, bind, unbind, and delete of an exchange: the vhost takes them in order.
//             of a queue       delete without condition, purge, passive declare: each goes to its queue's actor, which
//                              takes those of its own in order, and no queue's answer depends on another queue. Behind
//                              a delete nothing more may go to the same queue, as the delete goes on to the vhost.
//           So pipelined requests share commits: 1,000 deletes cost a few, not 1,000. The kinds do not mix: a declare
//           could overtake a delete of the same name, which comes to the vhost by way of its queue, and a bind could meet
//           an exchange that should have gone with its last queue. What the connection answers itself waits as well: a
//           queue that is not there, or is somebody else's, is told of behind the answers that come first.
//           A refusal closes the channel, and what its client sent behind must have no effect. A delete with a condition
//           is refused in the course of things, so it stands alone. The requests of a queue above are refused only when
//           another client deletes the queue at that moment, or the disk is full, and a request of the topology by what
//           the client asks for: then those that were on their way behind it have taken effect.
// Turns     A connection gives the thread to others when its time is over (turn_budget.hpp), in the midst of its input or
//           of the messages of its actor; it sends what it has, and goes on after them. It reads no more meanwhile.
// Limits    input: one chunk and the begin of a frame; requests without an answer: `requests_max`; publishes on their way:
//           `in_flight_max`; output: what the consumers' credit allows. Beyond any of them the socket is not read.
//           Transactions that were not committed: `transactions_max`; beyond it the channel is closed.
#pragma once

#include "access/permissions.hpp"
#include "access/user.hpp"
#include "actors/supervisor.hpp"
#include "gateway/amqp091/channel.hpp"
#include "gateway/amqp091/methods.hpp"
#include "gateway/amqp091/network.hpp"
#include "gateway/amqp091/occupancy.hpp"
#include "gateway/amqp091/server.hpp"
#include "gateway/amqp091/transport.hpp"
#include "gateway/amqp091/turn_budget.hpp"

#include <boost/asio.hpp>
#include <caf/actor_companion.hpp>

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace posthorn::amqp091 {

// The context of new TLS connections, which any thread may replace.
class current_tls {
public:
  [[nodiscard]] std::shared_ptr<const tls_context> load() const {
    const std::lock_guard guard{mutex_};
    return context_;
  }
  void store(std::shared_ptr<const tls_context> context) {
    const std::lock_guard guard{mutex_};
    context_ = std::move(context);
  }

private:
  mutable std::mutex mutex_;
  std::shared_ptr<const tls_context> context_;  // null: there is no TLS
};

// Where a client is: what the PROXY protocol says, if it came through a proxy.
struct client_place {
  std::string name;                     // address and port
  bool is_local = false;                // on this machine, as far as can be known
  std::optional<ip_address> address{};  // as the proxy said
  std::string via{};                    // the proxy that said so; its address and port
};

// What all connections of a server share.
struct server_context {
  broker& node;
  server_settings settings;
  std::string server_properties;  // field table, encoded without its length
  std::atomic<std::uint64_t> connections{0}, channels{0};
  std::atomic<std::uint64_t> turns_cut{0};
  occupancy occupants{};
  reply_addresses replies{};
  std::shared_ptr<supervisor> connections_supervisor{};  // fixed before the first connection
  current_tls tls{};
};

class connection;

// One thread and what its connections share. Touched by that thread only, but for `io`.
struct io_worker {
  boost::asio::io_context io{1};
  std::vector<std::byte> chunk = std::vector<std::byte>(std::size_t{256} << 10);
  turn_budget turn;  // of the connection that the thread is at

  // Connections whose socket broke, and why. They end some at a time: a thousand that break in one moment take the thread
  // 20 ms, which the others would wait.
  std::deque<std::pair<std::shared_ptr<connection>, std::string>> broken;
  std::size_t partings = 0;  // sockets whose connections are gone, and whose clients may still write
  static constexpr std::size_t broken_at_once = 16;
};

class connection : public std::enable_shared_from_this<connection> {
public:
  // `on_gone` is called once, on the I/O thread, with the last that happens.
  connection(server_context& server, io_worker& worker, transport bytes, client_place from,
             std::function<void(connection&)> on_gone);
  ~connection();

  // `first` is what was read of it before. It has to be open at the deadline.
  void start(std::string_view first, std::chrono::steady_clock::time_point deadline);
  // The I/O thread has ended: ends at once, on the thread that calls.
  void abandon();
  // Publishers have to wait for this reason, or, if it is empty, no longer.
  void alarm(const std::string& reason);
  // Ends if it is among those who have to go. On the I/O thread.
  void evict(const broker::eviction& who);

  [[nodiscard]] connection_id id() const noexcept { return id_; }

private:
  using bytes = std::span<const std::byte>;
  enum class phase : std::uint8_t { header, start, login, tune, open, running, closing, gone };

  // What may follow a request before it is answered: see "Order".
  enum class request_kind : std::uint8_t { alone, of_topology, of_queue };
  // An answer that the client waits for, and what it becomes.
  struct request {
    request_token token = 0;  // one more than that of the request before
    std::uint16_t channel = 0;
    method_id about;
    bool no_wait = false;
    request_kind kind = request_kind::alone;
    std::string name;      // queue or consumer tag
    mailbox_id deletes{};  // the queue that goes with it
    std::uint32_t holder = 0;
    std::optional<reply> answered;  // and waits for those before it
  };
  // What a chunk has for one queue.
  struct parcel {
    queue_ptr queue;
    publish_batch publishes;
    answer_held answers;
  };

  // --- the socket: connection_io.cpp ---
  void arm_read();
  void on_readable(const boost::system::error_code& failed);
  void consume_input(bytes chunk);
  void continue_input();
  void resume_input();
  std::size_t decode(bytes input);
  [[nodiscard]] bool may_read() const noexcept;
  void write_out();
  void on_writable(const boost::system::error_code& failed);
  void grant_credit();
  void arm_timer(std::chrono::milliseconds after);
  void on_timer();
  void end(const std::string& why, bool with_last_words = false);
  void drain_inbox();
  void begin_turn();
  void enter_inbox(caf::mailbox_element_ptr element);

  // --- the dialogue: connection.cpp ---
  bool on_frame(const frame& f);
  bool on_method(std::uint16_t channel, bytes payload);
  bool on_connection_method(const any_method& m);
  void on(const method::connection_start_ok& m);
  void on(const method::connection_tune_ok& m);
  void on(const method::connection_open& m);
  void on(const method::connection_close& m);
  void log_in(std::string_view mechanism, std::string_view response);
  // --- who may do what: connection_access.cpp ---
  void check_login(std::string user, secret password, std::string_view mechanism);
  static reply reply_of(broker::login verdict);
  void on_login(const reply& message);
  std::shared_ptr<vhost_port> enter_vhost(const std::string& name, method_id about);
  void leave_vhost();
  void look_at_permissions();
  bool refuse_access(channel& c, method_id about, const refusal& why);
  [[nodiscard]] std::optional<refusal> ask_to_bind(resource_kind kind, const std::string& destination,
                                                   const std::string& source, std::string_view key) const;
  [[nodiscard]] std::optional<refusal> ask_to_declare(const posthorn::declare_queue& command) const;
  [[nodiscard]] std::optional<refusal> ask_to_declare(const declare_exchange& command) const;
  [[nodiscard]] std::optional<refusal> ask_to_publish(channel& c, const std::string& exchange) const;
  [[nodiscard]] std::optional<refusal> ask_to_publish(const exchange_state& exchange,
                                                      const envelope& message) const;
  bool on_new_secret(method_id about);

  bool on_channel_method(std::uint16_t number, const any_method& m);
  void on_channel_open(std::uint16_t number);
  void on_channel_close(channel& c);
  bool leave_auto_delete_queues(channel& c);
  // connection_methods.cpp; false when the connection is being closed
  bool on(channel& c, const method::exchange_declare& m);
  bool on(channel& c, const method::exchange_delete& m);
  bool on(channel& c, const method::exchange_bind& m);
  bool on(channel& c, const method::exchange_unbind& m);
  bool on(channel& c, const method::queue_declare& m);
  bool on(channel& c, const method::queue_bind& m);
  bool on(channel& c, const method::queue_unbind& m);
  bool on(channel& c, const method::queue_purge& m);
  bool on(channel& c, const method::queue_delete& m);
  bool on(channel& c, const method::basic_qos& m);
  bool on(channel& c, const method::basic_consume& m);
  bool on(channel& c, const method::basic_cancel& m);
  bool on(channel& c, const method::basic_get& m);
  bool on(channel& c, const method::basic_ack& m);
  bool on(channel& c, const method::basic_nack& m);
  bool on(channel& c, const method::basic_reject& m);
  bool on(channel& c, const method::basic_recover& m);
  bool on(channel& c, const method::basic_recover_async& m);
  bool on(channel& c, const method::confirm_select& m);
  // connection_transaction.cpp
  bool on(channel& c, const method::tx_select& m);
  bool on(channel& c, const method::tx_commit& m);
  bool on(channel& c, const method::tx_rollback& m);
  bool on(channel& c, const method::channel_flow& m);
  bool on(channel& c, const method::access_request& m);
  bool recover(channel& c, bool requeue, method_id about);

  // --- publishing: connection_publish.cpp ---
  bool on_publish(channel& c, const method::basic_publish& m);
  bool on_content_header(channel& c, bytes payload);
  bool on_body(channel& c, bytes payload);
  void on_message(channel& c);
  // Where the content in progress is published to; null when the client may not, and was told so.
  const exchange_state* exchange_of_content(channel& c);
  void forward(channel& c, const envelope_ptr& message, const std::vector<queue_ptr>& queues,
               const reply_route& replies, bool mandatory);
  void return_message(channel& c, const envelope& message);
  void confirm(channel& c);
  // Null unless the last message went the same way.
  [[nodiscard]] const std::vector<queue_ptr>* known_route(const channel& c, const envelope& message) const;
  const std::vector<queue_ptr>& find_route(channel& c, const exchange_state& exchange,
                                           const envelope& message);

  // --- transactions: connection_transaction.cpp ---
  void hold(channel& c, const envelope_ptr& message, const std::vector<queue_ptr>& queues);
  bool hold_answer(channel& c, std::uint64_t tag, bool multiple, outcome how, method_id about);
  // Takes the commit as far as it goes now: as turn, limits and what the queues have settled allow.
  void go_on_with_commit();
  void drop_transaction(channel& c);

  // --- direct reply-to: connection_replies.cpp ---
  bool consume_replies(channel& c, const method::basic_consume& m, std::string tag);
  void stop_replies(channel& c);
  bool answer_for_reply_address(channel& c, const method::queue_declare& m);

  // --- asking and being answered ---
  parcel& parcel_for(const queue_ptr& queue);
  void send_parcels();
  request& ask(channel& c, method_id about, bool no_wait, request_kind kind = request_kind::alone);
  bool ask_vhost(channel& c, method_id about, bool no_wait, decltype(topology_request::command) command);
  [[nodiscard]] bool must_wait(std::uint16_t number, const any_method& m) const;
  [[nodiscard]] bool may_follow(request_kind kind) const noexcept;
  [[nodiscard]] bool is_at_hand(std::uint16_t number, std::string_view queue) const;
  void on_deliver(deliver& message);
  void on_settled(const settled& message);
  void on_reply(reply& message);
  void answer(const request& r, reply& message);
  void on_consumer_cancelled(consumer_id id);
  void on_consumer_timeout(consumer_id id);
  std::uint64_t enter_delivery(channel& c, std::uint32_t holder, const delivery& d);
  void release(channel& c);
  std::optional<queue_ptr> queue_for(channel& c, std::string_view name, method_id about);
  // The mailbox of a durable actor, which needs no declaring; null: this vhost has none of this name.
  [[nodiscard]] queue_ptr actor_named(std::string_view name) const;
  [[nodiscard]] bool knows_actor(std::string_view name) const;
  std::optional<std::string> name_for(channel& c, std::string_view name, method_id about);
  bool answer_deliveries(channel& c, std::uint64_t tag, bool multiple, outcome how, method_id about);
  bool give_back_deliveries(channel& c, std::uint64_t tag, outcome how, method_id about);
  void enter_answer(channel& c, const delivery_ledger::entry& e, outcome how);
  void drop_holder_if_idle(channel& c, std::uint32_t index);

  // --- refusing ---
  bool refuse(const channel& c, method_id about, const refusal& why);
  bool refuse_channel(std::uint16_t number, reply_code code, std::string_view why, method_id about);
  void tell_later(std::uint16_t number, const method::channel_close& refusal);
  // What `tell_later` holds back goes out now.
  void tell_refusals();
  bool refuse_connection(reply_code code, std::string_view why, method_id about = {});
  // A header or body where a method is due [32].
  bool refuse_content();

  channel* find_channel(std::uint16_t number);
  template <class Method>
  void send(std::uint16_t number, const Method& m) {
    encode(number, m, out_);
  }
  void release_everything(request_token token);
  // The socket is of no use any more: the connection ends in its turn among those of which that is true.
  void on_broken(std::string why);
  static void end_broken(io_worker& worker);
  void close_now(reply_code code, std::string_view text, method_id about);
  // The client closes it: all of it ends but the socket, which stays until the client closes that, too.
  void say_goodbye();
  void log(node_context::severity level, const std::string& text) const;

  // fixed after start
  server_context& server_;
  io_worker& worker_;
  connection_id id_;
  std::string peer_;        // address and port
  std::string place_name_;  // in the tree; two proxies may speak for the same address and port
  bool from_loopback_ = false;
  caf::actor companion_;
  connection_actor self_;  // the same, as queues see it
  std::function<void(connection&)> on_gone_;

  transport transport_;
  boost::asio::steady_timer timer_;
  phase phase_ = phase::header;

  // negotiated
  std::uint32_t frame_max_ = 8192;  // until tune-ok
  std::uint16_t channel_max_ = 0;
  std::chrono::milliseconds heartbeat_{0};
  bool wants_cancel_notify_ = false, wants_blocked_ = false, wants_failure_close_ = false;
  std::string user_;
  std::string mechanism_;
  // Of the vhost that is open, and as the directory was at that version.
  std::shared_ptr<const user> who_;  // null: it was removed meanwhile
  std::optional<vhost_access> access_;
  std::uint64_t access_version_ = 0;
  bool has_entered_ = false;  // it counts as a connection of the vhost and the user
  std::shared_ptr<vhost_port> vhost_;
  topology_ptr snapshot_;  // of this chunk

  std::unordered_map<std::uint16_t, std::unique_ptr<channel>> channels_;
  std::unordered_map<std::uint16_t, channel*> publishers_;  // by incarnation
  struct consumer_place {
    channel* of = nullptr;
    std::uint32_t holder = 0;
  };
  std::unordered_map<consumer_id, consumer_place> consumers_;
  std::uint16_t last_incarnation_ = 0;
  std::vector<consumer_id> owed_;  // consumers that are owed credit
  buffer untold_;                  // the frames that tell of refusals, a moment later

  std::deque<request> requests_;  // answered in their order
  request_token last_token_ = 0;
  std::size_t requests_of_[3] = {};          // by kind
  std::unordered_set<mailbox_id> deleting_;  // queues that a request of these deletes
  bool has_exclusive_ = false;               // some queue may have to go with this connection
  std::vector<parcel> parcels_;
  std::size_t parcel_count_ = 0;
  std::size_t turns_gathered_ = 0;            // since some were sent
  std::vector<remember::passage_of> passed_;  // what the vhost has to hear of, as well
  std::uint64_t routed_ = 0;                  // messages that were not known to go where others went
  std::unordered_map<mailbox_id, std::size_t> parcel_index_;

  // From `input_used_` on: what was not decoded yet: the begin of a frame, all behind a request, or the rest of a turn.
  std::string input_;
  std::size_t input_used_ = 0;
  buffer out_;
  std::size_t out_sent_ = 0;
  bool reading_ = false, writing_ = false;
  bool stalled_ = false;       // input waits for an answer
  bool yielded_ = false;       // input waits for the other connections
  bool killed_ = false;        // the companion ended, and we did not end it
  bool said_goodbye_ = false;  // closing: the client's close is answered
  bool received_since_tick_ = false, sent_since_tick_ = false;
  int silent_ticks_ = 0;

  std::size_t in_flight_ = 0;  // bytes of publishes that some queue has not settled
  bool in_flight_full_ = false;
  std::size_t transactions_size_ = 0;  // bytes that all channels' transactions hold
  channel* committing_ = nullptr;      // the last request is its tx.commit, and is not answered yet
  bool commit_scheduled_ = false;      // it goes on after the other connections had their turn
  // With an alarm, the next publish blocks the connection [75].
  bool alarmed_ = false, blocked_ = false, blocked_told_ = false;
  std::string blocked_reason_;

  // From other threads: messages of the companion that wait for the I/O thread.
  std::mutex inbox_mutex_;
  std::vector<caf::mailbox_element_ptr> inbox_;
  bool inbox_scheduled_ = false;
  // The I/O thread's: those that it has taken, from `drained_` on.
  std::vector<caf::mailbox_element_ptr> draining_;
  std::size_t drained_ = 0;
};

}  // namespace posthorn::amqp091

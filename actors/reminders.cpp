#include "actors/reminders.hpp"

#include "actors/actor_house.hpp"
#include "actors/outgoing.hpp"

#include <algorithm>

namespace posthorn {

namespace {

constexpr std::size_t moved_at_once_max = 256;
// A reminder of a kind that this program does not know waits until it does, or for this long.
constexpr auto unknown_delay = std::chrono::seconds{5};

std::int64_t wall_clock() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

class reminder_logic {
public:
  reminder_logic(node_context& node, reminder_port& port) : node_{node}, port_{port} {}

  void begin(worker_actor::pointer self, bool) {
    self_ = self;
    armed_ = 0;
    if (!moving_) look();
  }
  void on(reminder_message& message) {
    if (std::holds_alternative<reminders_moved>(message)) moving_ = false;
    if (!moving_) look();
  }
  void discard(reminder_message&) {}
  void on_idle() {}
  void on_tick(const tick& t) {
    if (t.number != armed_) return;
    armed_ = 0;
    if (!moving_) look();
  }
  void on_down(const caf::down_msg&) {}

private:
  void look() {
    const auto now = wall_clock();
    const auto due = node_.journal.timers_due(now, moved_at_once_max);
    if (!due) node_.on_fatal("cannot read the reminders from the store: " + due.error().text);
    auto moves = std::make_shared<outgoing>();
    bool some_wait = false;
    for (const auto& timer : *due) {
      const auto to = node_.house->find(timer.path.substr(actor_house::path_of("").size()));
      if (!to || !timer.message || !moves->add(*to, timer.message, now)) {
        some_wait = true;
        continue;
      }
      timer_write w;
      w.timer = timer;
      w.cancel = timer.period == 0;
      // Those that were missed while the node was down come once.
      if (!w.cancel) w.timer.due = std::max(timer.due + timer.period, now + 1);
      moves->writes.timers.push_back(std::move(w));
    }
    if (!moves->empty()) {
      moving_ = true;
      write_batch batch;
      batch.with = std::move(moves);
      batch.when_written = [weak = port_.weak_from_this()] {
        if (const auto port = weak.lock()) port->post(reminders_moved{});
      };
      return node_.to_journal(std::move(batch));
    }
    const auto next = node_.journal.next_timer_due();
    if (!next) node_.on_fatal("cannot read the reminders from the store: " + next.error().text);
    if (!*next) return;
    auto wait = std::chrono::milliseconds{std::max<std::int64_t>(0, **next - now)};
    if (some_wait) wait = std::max<std::chrono::milliseconds>(wait, unknown_delay);
    armed_ = ++last_tick_;
    self_->delayed_send(self_, wait, tick{armed_});
  }

  worker_actor::pointer self_ = nullptr;  // the actor of now
  node_context& node_;
  reminder_port& port_;
  bool moving_ = false;
  std::uint64_t armed_ = 0, last_tick_ = 0;
};

reminder_port::reminder_port(node_context& node) : memory{std::make_unique<reminder_logic>(node, *this)} {}
reminder_port::~reminder_port() = default;

child_definition reminders_child(node_context& node, const std::shared_ptr<reminder_port>& port) {
  child_definition child;
  child.spec.name = "reminders";
  child.spec.handler_limit = std::chrono::seconds{1};
  child.kind = "reminders";
  child.start = [&node, port] { return start_worker(node.system, port); };
  child.figures = [port] { return figures_of(*port); };
  return child;
}

}  // namespace posthorn

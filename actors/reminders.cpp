#include "actors/reminders.hpp"

#include "actors/actor_house.hpp"
#include "actors/outgoing.hpp"

#include <algorithm>

namespace posthorn {

namespace {

constexpr std::size_t moved_at_once_max = 256;
// A reminder of a kind that this program does not know waits until it does, or for this long.
constexpr auto unknown_delay = std::chrono::seconds{5};

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
    const auto now = node_.now();
    auto moves = std::make_shared<outgoing>();
    bool some_wait = false;
    // Those that wait for their kind must not stand in the way of the others.
    for (auto count_max = moved_at_once_max; move_due(now, count_max, *moves, some_wait) == count_max;
         count_max *= 4) {
      if (!moves->empty()) break;
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
    const auto next = node_.journal.next_timer_due(some_wait ? now : -1);
    if (!next) node_.on_fatal("cannot read the reminders from the store: " + next.error().text);
    if (!*next && !some_wait) return;
    auto wait = some_wait ? std::chrono::milliseconds{unknown_delay} : std::chrono::milliseconds::max();
    if (*next) wait = std::min(wait, std::chrono::milliseconds{std::max<std::int64_t>(0, **next - now)});
    armed_ = ++last_tick_;
    self_->delayed_send(self_, wait, tick{armed_});
  }

  // Of the oldest `count_max` that are due: moves those that somebody takes, but not more than go into one batch. Gives how
  // many it has looked at.
  std::size_t move_due(std::int64_t now, std::size_t count_max, outgoing& moves, bool& some_wait) {
    const auto due = node_.journal.timers_due(now, count_max);
    if (!due) node_.on_fatal("cannot read the reminders from the store: " + due.error().text);
    for (const auto& timer : *due) {
      if (moves.writes.timers.size() >= moved_at_once_max) break;
      const auto to = node_.house->find(actor_house::name_of(timer.path));
      if (!to || !timer.message || !moves.add(*to, timer.message, now)) {
        some_wait = true;
        continue;
      }
      timer_write w;
      w.timer = timer;
      w.cancel = timer.period == 0;
      // Those that were missed while the node was down come once.
      if (!w.cancel) w.timer.due += ((now - timer.due) / timer.period + 1) * timer.period;
      moves.writes.timers.push_back(std::move(w));
    }
    return due->size();
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

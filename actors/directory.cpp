#include "actors/directory.hpp"

#include "actors/supervisor.hpp"
#include "actors/vhost.hpp"

#include <deque>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace posthorn {

namespace {

// A step holds no more requests. One of them takes some microseconds; an import, as long as it is large.
constexpr std::size_t step_size_max = 128;

// How long a step that found no room in the store waits before it is tried again.
constexpr auto retry_delay = std::chrono::milliseconds{200};

constexpr std::uint64_t go_on_tick = 1, retry_tick = 2;

}  // namespace

class directory_logic {
public:
  directory_logic(node_context& node, directory_port& port) : node_{node}, port_{&port} {}

  void begin(worker_actor::pointer self, bool after_failure) {
    self_ = self;
    if (after_failure) {
      node_.on_fatal("a bug ended the actor of the directory");
      return;
    }
    going_on_ = false;
    if (!std::exchange(begun_, true)) resume_deletions();
    on_idle();
  }

  void on(directory_message& message) {
    std::visit([this](auto& m) { handle(m); }, message);
  }
  void discard(directory_message&) {}
  void on_idle() {
    if (!step_ && !going_on_ && !waiting_.empty()) begin_step();
  }
  void on_tick(const tick&) {
    going_on_ = false;
    on_idle();
  }
  void on_down(const caf::down_msg&) {}

private:
  using answer_function = std::function<void(const result<directory_answer>&)>;
  struct asked {
    directory_request request;
    result<directory_answer> outcome;
    // It ends when the virtual host is gone: the answer waits.
    bool is_deletion = false;
  };
  // The requests that arrived while the last write was under way are one write.
  struct step {
    std::vector<asked> requests;
    directory next;
    directory::touched touched;
  };

  void handle(directory_request& message) { waiting_.push_back(std::move(message)); }

  void begin_step() {
    step_.emplace(step{{}, *port_->snapshot(), {}});
    auto& s = *step_;
    while (!waiting_.empty() && s.requests.size() < step_size_max) {
      auto& a = s.requests.emplace_back(asked{std::move(waiting_.front()), directory_answer::changed, false});
      waiting_.pop_front();
      a.outcome = s.next.on(a.request.command, s.touched);
      a.is_deletion = a.outcome.has_value() && std::holds_alternative<close_vhost>(a.request.command);
    }
    if (s.touched.empty()) return finish();
    std::vector<access_record> records;
    for (const auto& name : s.touched) records.push_back({name, s.next.record(name)});
    node_.to_journal(write_access{port_->shared_from_this(), std::move(records)});
  }

  void handle(directory_written& message) {
    if (!step_) return;
    if (message.failed) {
      undo(*message.failed);
    } else {
      finish();
    }
  }

  void finish() {
    step s = std::move(*step_);
    step_.reset();
    const auto before = port_->snapshot();
    std::shared_ptr<void> until_applied;
    if (!s.touched.empty()) {
      until_applied = applying();
      s.next.count_version();
      const auto after = std::make_shared<const directory>(std::move(s.next));
      // A virtual host works before anyone can find it, and nobody finds one that is being deleted.
      each_vhost(s.touched, [&](const std::string& name) {
        const auto had = before->find_vhost(name), has = after->find_vhost(name);
        if (!had && has && port_->follow.start_vhost) port_->follow.start_vhost(name);
        if (had && !has && port_->follow.stop_vhost) port_->follow.stop_vhost(name);
      });
      port_->publish(after);
      follow(s.touched, *before, *after, until_applied);
    }
    for (auto& a : s.requests) {
      if (a.is_deletion) {
        const auto& name = std::get<close_vhost>(a.request.command).name;
        deletions_[name] = std::move(a.request.answer);
        empty(name);
      } else if (const auto* forget = std::get_if<forget_vhost>(&a.request.command)) {
        const auto found = deletions_.find(forget->name);
        if (found == deletions_.end()) continue;
        const auto answer = std::move(found->second);
        deletions_.erase(found);
        if (answer) answer(directory_answer::removed);
      } else if (a.request.answer) {
        if (until_applied) {
          answers_[last_step_].push_back(std::move(a));
        } else {
          a.request.answer(a.outcome);
        }
      }
    }
    go_on();
  }

  // As long as somebody has it, what this step lays down is not applied everywhere, and its answers wait.
  std::shared_ptr<void> applying() {
    return {port_, [weak = port_->weak_from_this(), step = ++last_step_](void*) {
              if (const auto port = weak.lock()) port->post(policies_applied{step});
            }};
  }

  void handle(policies_applied& message) {
    const auto found = answers_.find(message.step);
    if (found == answers_.end()) return;
    const auto answers = std::move(found->second);
    answers_.erase(found);
    for (const auto& a : answers) a.request.answer(a.outcome);
  }

  template <class Visit>
  static void each_vhost(const directory::touched& touched, Visit visit) {
    for (const auto& record : touched) {
      if (record.front() == 'v') visit(record.substr(1));
    }
  }

  void follow(const directory::touched& touched, const directory& before, const directory& after,
              const std::shared_ptr<void>& until_applied) {
    for (const auto& record : touched) {
      const auto name = record.substr(1);
      if (record.front() == 'u' && before.users().find(name) && !after.users().find(name) &&
          port_->follow.user_removed) {
        port_->follow.user_removed(name);
      }
      if (record.front() != 'v') continue;
      const auto has = after.find_vhost(name);
      if (has && has->closing && port_->follow.leave_vhost) port_->follow.leave_vhost(name);
      if (!has || has->closing || !port_->follow.find_vhost) continue;
      if (const auto vhost = port_->follow.find_vhost(name)) vhost->post(apply_policies{until_applied});
    }
  }

  // What was begun when the node stopped.
  void resume_deletions() {
    for (const auto& entry : port_->snapshot()->vhosts()) {
      if (!entry->closing) continue;
      deletions_[entry->what.name] = nullptr;
      empty(entry->what.name);
    }
  }

  void empty(const std::string& vhost) {
    const auto emptied = [weak = port_->weak_from_this(), vhost] {
      if (const auto port = weak.lock()) port->post(vhost_emptied{vhost});
    };
    const auto port = port_->follow.find_vhost ? port_->follow.find_vhost(vhost) : nullptr;
    if (port) {
      port->post(empty_vhost{emptied});
    } else {
      emptied();
    }
  }

  void handle(vhost_emptied& message) {
    waiting_.push_back(directory_request{forget_vhost{message.vhost}, nullptr});
  }

  void undo(const error& why) {
    step s = std::move(*step_);
    step_.reset();
    const auto text =
        overloaded("the change could not be made durable: " + why.text + "; free some space and try again");
    node_.log(node_context::severity::warning,
              "a change of the directory could not be made durable: " + why.text);
    for (auto& a : s.requests) {
      if (std::holds_alternative<forget_vhost>(a.request.command)) {
        waiting_.push_back(std::move(a.request));
      } else if (a.request.answer) {
        a.request.answer(a.outcome ? result<directory_answer>{text} : a.outcome);
      }
    }
    if (waiting_.empty() || std::exchange(going_on_, true)) return;
    self_->delayed_send(self_, retry_delay, tick{retry_tick});
  }

  void go_on() {
    if (waiting_.empty() || std::exchange(going_on_, true)) return;
    self_->send(self_, tick{go_on_tick});
  }

  worker_actor::pointer self_ = nullptr;  // the actor of now
  node_context& node_;
  directory_port* port_;  // whose snapshot is the value

  std::deque<directory_request> waiting_;
  std::optional<step> step_;
  std::map<std::string, answer_function> deletions_;     // of virtual hosts, and who waits for them
  std::map<std::uint64_t, std::vector<asked>> answers_;  // by their step: they wait until it is applied
  std::uint64_t last_step_ = 0;
  bool going_on_ = false;  // a tick will begin the next step
  bool begun_ = false;
};

directory_port::directory_port(node_context& node, directory first)
    : memory{std::make_unique<directory_logic>(node, *this)}, version_{first.version()} {
  snapshot_ = std::make_shared<const directory>(std::move(first));
}
directory_port::~directory_port() = default;

void directory_port::publish(directory_ptr next) noexcept {
  const auto version = next->version();
  snapshot_.store(std::move(next), std::memory_order_release);
  version_.store(version, std::memory_order_release);
}

child_definition directory_child(node_context& node) {
  child_definition child;
  child.spec.name = "directory";
  child.spec.handler_limit = std::chrono::seconds{1};
  child.kind = "directory";
  child.start = [&node] { return start_worker(node.system, node.directory); };
  child.figures = [&node] { return figures_of(*node.directory); };
  return child;
}

}  // namespace posthorn

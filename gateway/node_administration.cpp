#include "gateway/node_administration.hpp"

#include "actors/exchange_keeper.hpp"
#include "actors/vhost.hpp"

#include <mutex>
#include <utility>

namespace posthorn {

namespace {

error not_yet() { return overloaded("the node is starting: ask again when /healthz says ok"); }

}  // namespace

std::shared_ptr<const directory> node_administration::access() const {
  broker* const running = broker_;
  return running == nullptr ? nullptr : running->access();
}

void node_administration::change(directory_command command,
                                 std::function<void(const result<directory_answer>&)> answer) {
  broker* const running = broker_;
  if (running == nullptr) return answer(not_yet());
  running->administrate(std::move(command), std::move(answer));
}

void node_administration::hash(secret password, std::function<void(result<password_hash>)> answer) {
  broker* const running = broker_;
  if (running == nullptr) return answer(not_yet());
  running->hash(std::move(password), std::move(answer));
}

void node_administration::close_connections(const std::optional<std::string>& vhost,
                                            const std::optional<std::string>& user,
                                            const std::string& reason) {
  broker* const running = broker_;
  if (running != nullptr) running->evict({vhost, user, reason});
}

void node_administration::export_topology(const std::optional<std::string>& vhost, definitions& to) const {
  broker* const running = broker_;
  if (running == nullptr) return;
  for (const auto& port : running->vhosts()) {
    if (!vhost || port->name() == *vhost) posthorn::export_topology(*port->snapshot(), to);
  }
}

namespace {

// Answers when the last virtual host has.
struct import_answers {
  using answer_function = std::function<void(result<std::vector<std::string>>)>;

  explicit import_answers(answer_function when_all) : answer{std::move(when_all)} {}
  ~import_answers() { answer(failed ? result<std::vector<std::string>>{*failed} : std::move(refused)); }
  import_answers(const import_answers&) = delete;
  import_answers& operator=(const import_answers&) = delete;

  answer_function answer;
  std::mutex mutex;  // guards the two below
  std::vector<std::string> refused;
  std::optional<error> failed;
};

}  // namespace

void node_administration::import_topology(imported_topology what,
                                          std::function<void(result<std::vector<std::string>>)> answer) {
  broker* const running = broker_;
  if (running == nullptr) return answer(not_yet());
  const auto all = std::make_shared<import_answers>(std::move(answer));
  for (auto& [name, commands] : what.commands) {
    const auto vhost = running->find_vhost(name);
    if (!vhost) {
      const std::lock_guard lock{all->mutex};
      all->refused.push_back("virtual host '" + name + "' was deleted meanwhile");
      continue;
    }
    vhost->post(
        ::posthorn::import_topology{std::move(commands), [all](result<std::vector<std::string>> done) {
                                      const std::lock_guard lock{all->mutex};
                                      if (!done) {
                                        all->failed = done.error();
                                        return;
                                      }
                                      for (auto& text : *done) all->refused.push_back(std::move(text));
                                    }});
  }
}

// --- messages that wait ---

result<std::shared_ptr<queue_port>> node_administration::keeper_of(const std::string& vhost,
                                                                   const std::string& exchange) const {
  const broker* const running = broker_;
  if (running == nullptr) return not_yet();
  const auto port = running->find_vhost(vhost);
  if (!port) return error{errc::unreachable, "there is no virtual host '" + vhost + "'"};
  const auto where = port->snapshot();
  const auto* found = where->find_exchange(exchange);
  const auto described = "exchange '" + exchange + "' in virtual host '" + vhost + "'";
  if (found == nullptr) return error{errc::unreachable, "there is no " + described};
  if (!found->delays || !found->keeper) {
    return refused("the " + described + " delays no messages: name one of the type x-delayed-message");
  }
  return port_of(*found->keeper).shared_from_this();
}

void node_administration::list_delayed(
    const std::string& vhost, const std::string& exchange, const delayed_id& from, std::size_t count_max,
    std::function<void(result<std::vector<http::delayed_summary>>)> answer) {
  const auto keeper = keeper_of(vhost, exchange);
  if (!keeper) return answer(keeper.error());
  auto order = std::make_shared<keeper_order>();
  order->what = keeper_order::kind::list;
  order->from = from;
  order->count_max = count_max;
  order->on_list = [answer = std::move(answer)](result<std::vector<waiting_message>> found) {
    if (!found) return answer(found.error());
    std::vector<http::delayed_summary> out;
    out.reserve(found->size());
    for (auto& m : *found) out.push_back({m.id, std::move(m.routing_key), std::move(m.message_id), m.size});
    answer(std::move(out));
  };
  (*keeper)->post(ask_keeper{std::move(order)});
}

void node_administration::cancel_delayed(const std::string& vhost, const std::string& exchange,
                                         const std::optional<delayed_id>& which,
                                         std::function<void(result<std::uint64_t>)> answer) {
  const auto keeper = keeper_of(vhost, exchange);
  if (!keeper) return answer(keeper.error());
  auto order = std::make_shared<keeper_order>();
  order->what = which ? keeper_order::kind::cancel : keeper_order::kind::cancel_all;
  if (which) order->which.push_back(*which);
  order->on_cancelled = std::move(answer);
  (*keeper)->post(ask_keeper{std::move(order)});
}

}  // namespace posthorn

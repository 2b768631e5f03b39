#include "actors/test_node.hpp"

#include "actors/actor_house.hpp"
#include "actors/inhabitant.hpp"
#include "actors/queue.hpp"
#include "actors/supervisor.hpp"
#include "actors/vhost.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <unordered_map>

namespace posthorn {

namespace {

// Virtual: as much as a test can want of it costs nothing.
constexpr std::uint64_t map_size = std::uint64_t{1} << 30;
constexpr std::string_view questions = "probe/answers of ask";

// In memory, if there is room: nothing here has to outlive the machine, and a disk would make each new store wait.
std::filesystem::path temporary_place() {
  constexpr std::uintmax_t room = std::uintmax_t{256} << 20;
  const std::filesystem::path in_memory = "/dev/shm";
  std::error_code failed;
  const auto space = std::filesystem::space(in_memory, failed);
  if (std::getenv("TMPDIR") == nullptr && !failed && space.available >= room &&
      ::access(in_memory.c_str(), W_OK) == 0) {
    return in_memory;
  }
  return std::filesystem::temp_directory_path();
}

std::filesystem::path new_directory() {
  static std::atomic<unsigned> last{0};
  const auto path = temporary_place() / ("posthorn-test-node-" + std::to_string(::getpid()) + "-" +
                                         std::to_string(last.fetch_add(1) + 1));
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path;
}

}  // namespace

// Who sends the test's messages to one broker, and hears what became of them.
class raw_test_node::clerk {
public:
  explicit clerk(posthorn::broker& node) : node_{node} {
    auto& context = node.context();
    id_ = node_context::next_id<connection_id>(context.last_connection);
    // It may hear more while the node stops, when nobody sends any more.
    handle_ =
        node.system().spawn([open = open_](connection_actor::pointer) -> connection_actor::behavior_type {
          return {
              [](deliver&) {},
              [open](settled& m) { open->on_settled(m); },
              [](reply&) {},
              [](consumer_cancelled&) {},
              [](close_connection&) {},
              [](alarm_changed&) {},
          };
        });
  }
  clerk(const clerk&) = delete;
  clerk& operator=(const clerk&) = delete;

  sent_message publish(const envelope_ptr& message) {
    auto& context = node_.context();
    const auto targets = context.house->route(*context.actors_vhost.lock()->snapshot(), *message,
                                              {.chance = context.next_chance()});
    if (targets.empty()) {
      throw test_failure{
          "nothing has the name '" + std::string{message->routing_key()} +
          "': send to an actor of a kind that was added (\"kind/id\"), to a probe of this node, or to "
          "a queue that was declared"};
    }
    auto fate = std::make_shared<sent_message::fate>(sent_message::fate::open);
    const auto number = ++last_number_;
    open_->messages[number] = {fate, targets.size(), false};
    for (const auto& to : targets) {
      publish_batch batch{handle_, id_, {}};
      batch.messages.push_back({message, publisher_id{id_.value << 16 | 1}, number});
      to->post(std::move(batch));
    }
    return sent_message{fate};
  }

private:
  struct publish_state {
    std::shared_ptr<sent_message::fate> what;
    std::size_t mailboxes = 1;  // that have not answered
    bool refused = false;
  };

  struct open_messages {
    std::unordered_map<std::uint64_t, publish_state> messages;  // by number

    void on_settled(const settled& message) {
      for (const auto& s : message.settlements) {
        for (auto n = s.first; n <= s.last; ++n) {
          const auto found = messages.find(n);
          if (found == messages.end()) continue;
          auto& entry = found->second;
          entry.refused = entry.refused || s.rejected;
          if (--entry.mailboxes != 0) continue;
          *entry.what = entry.refused ? sent_message::fate::refused : sent_message::fate::confirmed;
          messages.erase(found);
        }
      }
    }
  };

  posthorn::broker& node_;
  connection_id id_{};
  connection_actor handle_;
  std::uint64_t last_number_ = 0;
  std::shared_ptr<open_messages> open_ = std::make_shared<open_messages>();
};

raw_test_node::raw_test_node(test_settings settings)
    : settings_{std::move(settings)},
      own_directory_{settings_.directory.empty()},
      simulation_{settings_.seed, settings_.start_at},
      failing_{std::make_shared<std::map<std::string, planned_failure, std::less<>>>()} {
  if (own_directory_) settings_.directory = new_directory();
  if (settings_.keep_trace) simulation_.keep_trace();
  start();
}

raw_test_node::~raw_test_node() {
  drop();
  std::error_code ignored;
  if (own_directory_) std::filesystem::remove_all(settings_.directory, ignored);
}

// As a crash does.
void raw_test_node::drop() {
  if (!broker_) return;
  clerk_.reset();
  // A client takes its mailbox with it in order, which nobody is there to do.
  std::vector<std::string> names;
  std::vector<std::shared_ptr<queue_port>> ports;
  auto& house = *broker_->context().house;
  if (client_) {
    house.each_awake([&](const std::string& name, const queue_port&) {
      if (name.starts_with("clients/")) names.push_back(name);
    });
  }
  for (const auto& name : names) ports.push_back(house.find(name));
  client_.reset();
  for (const auto& port : ports) port->abandon();
  ports.clear();
  broker_->abandon();
  broker_.reset();
}

void raw_test_node::start() {
  broker_settings settings;
  settings.data_directory = settings_.directory;
  settings.map_size = map_size;
  settings.threads = 1;
  settings.faults = settings_.defects;
  settings.faults.crash_at.clear();
  // The process goes on, and so does what it has written.
  settings.faults.skip_fsync = true;
  settings.log = settings_.log;
  settings.simulated = &simulation_;
  auto started = broker::start(std::move(settings));
  if (!started) throw test_failure{"the node does not start: " + started.error().text};
  broker_ = std::move(*started);
  clerk_ = std::make_shared<clerk>(*broker_);
  for (const auto& [name, probe] : probes_) open_probe(probe);
  if (auto added = broker_->context().house->add(kinds_); !added) throw test_failure{added.error().text};
  for (const auto& prepare : at_start_) prepare(*broker_);
}

// --- time and order -----------------------------------------------------------------------------------------------

void raw_test_node::run() { simulation_.run(); }
void raw_test_node::advance(std::chrono::milliseconds time) { simulation_.advance(time); }

// --- failures -----------------------------------------------------------------------------------------------------

void raw_test_node::fail_at(std::string_view point, unsigned on) {
  if (std::find(std::begin(fault_points), std::end(fault_points), point) == std::end(fault_points)) {
    std::string known;
    for (const auto p : fault_points) known += (known.empty() ? "" : ", ") + std::string{p};
    throw test_failure{"'" + std::string{point} + "' is no fault point; there are " + known};
  }
  simulation_.crash_at(point, on);
}

void raw_test_node::crash_and_restart(std::chrono::milliseconds down_for) {
  simulation_.crash_at("", 0);
  drop();
  simulation_.advance(down_for);
  start();
}

void raw_test_node::restart() {
  must_run();
  clerk_.reset();
  client_.reset();
  broker_->stop();
  broker_.reset();
  start();
}

void raw_test_node::kill(std::string_view path) {
  must_run();
  if (auto killed = broker_->tree().kill(path); !killed) throw test_failure{killed.error().text};
}

void raw_test_node::fail_next_turn(std::string_view name, std::string why, unsigned times) {
  if (times != 0) (*failing_)[std::string{name}] = {std::move(why), times};
}

void raw_test_node::must_run() {
  if (broker_ && !has_crashed()) return;
  throw test_failure{"the node has crashed (" + simulation_.crashed().value_or("it did not start") +
                     "): call crash_and_restart() first"};
}

// --- what it is made of -------------------------------------------------------------------------------------------

void raw_test_node::add(const std::shared_ptr<const actor_kind>& kind) {
  must_run();
  auto own = std::make_shared<actor_kind>(*kind);
  for (auto& [type, handler] : own->handlers) {
    handler = [failing = failing_, run = handler](raw_turn& turn, auto&&... rest) {
      if (const auto found = failing->find(turn.self()); found != failing->end()) {
        const auto why = found->second.why;
        if (--found->second.times == 0) failing->erase(found);
        throw std::runtime_error{why};
      }
      run(turn, std::forward<decltype(rest)>(rest)...);
    };
  }
  if (auto added = broker_->context().house->add({own}); !added) throw test_failure{added.error().text};
  kinds_.push_back(std::move(own));
}

void raw_test_node::at_start(std::function<void(posthorn::broker&)> prepare) {
  must_run();
  prepare(*broker_);
  at_start_.push_back(std::move(prepare));
}

posthorn::broker& raw_test_node::broker() {
  if (!broker_) must_run();
  return *broker_;
}

posthorn::client& raw_test_node::client() {
  must_run();
  if (!client_) client_ = std::make_unique<posthorn::client>(*broker_);
  return *client_;
}

// --- messages -----------------------------------------------------------------------------------------------------

sent_message raw_test_node::send_raw(std::string_view to, const typed_message& m, std::string_view reply_to,
                                     std::string_view correlation) {
  must_run();
  if (to.size() > envelope::name_size_max) throw test_failure{"a name has at most 255 octets"};
  basic_properties properties;
  properties.content_type = "application/x-capnp";
  properties.delivery_mode = std::uint8_t{2};
  properties.type = m.type;
  if (!reply_to.empty()) properties.reply_to = std::string{reply_to};
  if (!correlation.empty()) properties.correlation_id = std::string{correlation};
  std::string encoded;
  encode_properties(properties, encoded);
  return clerk_->publish(make_envelope("", to, std::as_bytes(std::span{encoded}), true, m.body));
}

std::shared_ptr<probe_state> raw_test_node::probe_named(std::string_view name) {
  const auto found = probes_.find(name);
  if (found != probes_.end()) return found->second;
  must_run();
  const auto slash = name.find('/');
  if (slash == 0 || slash == std::string_view::npos || slash + 1 == name.size()) {
    throw test_failure{"'" + std::string{name} +
                       "' cannot be the name of a probe: use one such as \"probe/1\""};
  }
  auto made = std::make_shared<probe_state>();
  made->name = name;
  open_probe(made);
  probes_.emplace(name, made);
  return made;
}

void raw_test_node::open_probe(const std::shared_ptr<probe_state>& probe) {
  auto& context = broker_->context();
  actor_place place;
  place.name = probe->name;
  place.path = actor_house::path_of(probe->name);
  place.supervision.restart = restart_kind::transient;
  place.durable = false;
  auto port = add_actor(context, *context.house->clients(), place, {}, [&](queue_port&) {
    return std::make_unique<message_taker>([probe](const envelope_ptr& m) { probe->messages.push_back(m); });
  });
  context.house->keep(probe->name, std::move(port));
}

envelope_ptr raw_test_node::ask_raw(std::string_view to, const typed_message& m,
                                    std::chrono::milliseconds deadline) {
  const auto answers = probe_named(questions);
  const auto question = std::to_string(++last_question_);
  (void)send_raw(to, m, questions, question);
  envelope_ptr found;
  (void)simulation_.advance_until(deadline, [&] {
    for (const auto& answer : answers->messages) {
      if (correlation_id_of(answer->properties()) == question) found = answer;
    }
    answers->messages.clear();
    return found != nullptr;
  });
  if (found) return found;
  if (has_crashed()) must_run();
  throw test_failure{"no answer of '" + std::string{to} + "' came within " +
                     std::to_string(deadline.count()) + " ms of virtual time"};
}

std::optional<actor_state> raw_test_node::stored(std::string_view name) {
  if (!broker_) must_run();
  auto read = broker_->context().journal.read_state(actor_house::path_of(name));
  if (!read) throw test_failure{read.error().text};
  return std::move(*read);
}

}  // namespace posthorn

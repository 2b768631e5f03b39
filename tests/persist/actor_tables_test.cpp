#include "persist/actor_tables.hpp"

#include "mailbox/mailbox.hpp"
#include "persist/keys.hpp"
#include "persist/record.hpp"
#include "persist/verify.hpp"
#include "tests/persist/scratch.hpp"

#include <algorithm>
#include <limits>
#include <tuple>

using namespace posthorn;

namespace {

using strings = std::vector<std::string>;
using bytes = std::vector<std::byte>;

constexpr mailbox_id one{1}, two{2}, three{3};
constexpr auto ever = std::numeric_limits<std::int64_t>::max();

bytes bytes_of(std::string_view text) {
  const auto from = std::as_bytes(std::span{text});
  return {from.begin(), from.end()};
}

actor_state state(std::string path, mailbox_id mailbox, std::uint64_t turn,
                  std::string_view content = "state", sequence used = {}) {
  return {std::move(path), mailbox, used, 7, turn, bytes_of(content)};
}

timer_record timer(std::string path, std::string name, std::int64_t due, std::string_view body = {}) {
  return {std::move(path), std::move(name), due, 50, body.empty() ? nullptr : message_of(body)};
}

// "path name due body", in order.
strings timers(const store& s, std::int64_t until = ever) {
  strings out;
  for (const auto& t : s.timers_due(until, 1000).value()) {
    out.push_back(t.path + " " + t.name + " " + std::to_string(t.due) +
                  (t.message ? " " + body_of(*t.message) : ""));
  }
  return out;
}

strings history(const store& s, std::string_view path, std::uint64_t from = 0, std::size_t count_max = 1000) {
  strings out;
  for (const auto& e : s.read_history(path, from, count_max).value()) {
    CHECK(e.path == path);
    out.push_back(std::to_string(e.number) + " " +
                  std::string{reinterpret_cast<const char*>(e.bytes.data()), e.bytes.size()});
  }
  return out;
}

// Two actors with a queue beside them; the first has three messages, and everything else that an actor can have.
std::unique_ptr<store> a_store(const scratch_directory& directory, std::uint64_t map_size = small_map) {
  auto s = open_store(directory, map_size);
  recover(*s);
  REQUIRE(write(*s, {a_queue(three, "three")}));
  atomic_writes turn;
  turn.states = {{state("/a", one, 1)}, {state("/b", two, 1, "")}};
  turn.timers = {{timer("/a", "tick", 100, "tick!")}, {timer("/a", "tock", 300)}, {timer("/ab", "x", 200)}};
  turn.events = {{"/a", 1, bytes_of("first")}, {"/a", 2, bytes_of("second")}, {"/a", 3, {}}, {"/ab", 1, {}}};
  REQUIRE(write(*s, turn, one, {{append(1, "m1"), append(2, "m2"), append(3, "m3")}, {}}));
  return s;
}

// One turn of "/a": handles its first message, and uses every kind of write.
struct a_turn {
  atomic_writes writes;
  journal_batch batch{{}, {{{1}, {1}}}};

  explicit a_turn(std::size_t size = 10) {
    const std::string wide(size, 'w');
    writes.transfers = {{two, {5}, message_of("to b " + wide), 99}, {three, {1}, message_of("to queue"), 0}};
    writes.states = {{state("/a", one, 2, wide, {3})}, {state("/c", {9}, 0, wide)}};
    writes.timers = {{timer("/a", "tick", 500, "again " + wide)},
                     {timer("/a", "tock", 0), true},
                     {timer("/a", "new", 150)}};
    writes.events = {{"/a", 4, bytes_of("fourth " + wide)}};
    writes.prune_events = {{"/a", 2}};
    writes.uses = {{"/b", two, {77}}};
  }
  result<void> commit(store& s) {
    const mailbox_write w{one, &batch, &writes};
    return s.commit({&w, 1});
  }
};

// Everything that the turn touches, as one value.
auto picture(const store& s) {
  return std::tuple{bodies(s, one),
                    bodies(s, two),
                    bodies(s, three),
                    s.read_state("/a").value(),
                    s.read_state("/b").value(),
                    s.read_state("/c").value(),
                    timers(s),
                    history(s, "/a"),
                    s.survey({9}).value().used};
}

}  // namespace

TEST_CASE("a turn's state, acknowledgement and everything that it sent are there together", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory);
    a_turn turn;
    REQUIRE(turn.commit(*s));
    CHECK(turn.batch.erasures.size() == 1);  // the batch stays its owner's
  }
  auto s = open_store(directory);
  const auto recovered = recover(*s);
  CHECK(bodies(*s, one) == strings{"m2", "m3"});
  CHECK(bodies(*s, two) == strings{"to b wwwwwwwwww"});
  CHECK(bodies(*s, three) == strings{"to queue"});
  CHECK(s->read_state("/a").value() == state("/a", one, 2, "wwwwwwwwww", {3}));
  CHECK(s->read_state("/b").value() == state("/b", two, 1, "", {77}));
  CHECK(s->read_state("/").value() == std::nullopt);
  CHECK(timers(*s) == strings{"/a new 150", "/ab x 200", "/a tick 500 again wwwwwwwwww"});
  CHECK(timers(*s, 200) == strings{"/a new 150", "/ab x 200"});
  CHECK(timers(*s, 149).empty());
  CHECK(s->timers_due(ever, 1).value().size() == 1);
  CHECK(s->timers_due(ever, 1).value().front().period == 50);
  CHECK(s->next_timer_due().value() == 150);
  CHECK(history(*s, "/a") == strings{"3 ", "4 fourth wwwwwwwwww"});
  CHECK(history(*s, "/a", 4) == strings{"4 fourth wwwwwwwwww"});
  CHECK(history(*s, "/a", 0, 1) == strings{"3 "});
  CHECK(history(*s, "/a", 5).empty());
  CHECK(history(*s, "/ab") == strings{"1 "});
  CHECK(recovered.message_count == 4);
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.actors == 3);
  CHECK(report.timers == 3);
  CHECK(report.actor_events == 3);
  CHECK(report.messages == 4);
  CHECK(report.buried == 0);
}

TEST_CASE("committing a turn again changes nothing, at once or after a restart", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory);
  a_turn turn;
  REQUIRE(turn.commit(*s));
  const auto after = picture(*s);
  REQUIRE(turn.commit(*s));
  CHECK(picture(*s) == after);
  s.reset();
  s = open_store(directory);
  recover(*s);
  REQUIRE(turn.commit(*s));
  CHECK(picture(*s) == after);
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.timers == 3);
  CHECK(report.actor_events == 3);
  CHECK(report.messages == 4);
}

// The map ends a page later every time, so that every write of the turn is the first one without room once.
TEST_CASE("a turn that finds no room at any of its writes leaves nothing behind", "[persist]") {
  scratch_directory made;
  a_store(made).reset();
  const auto content = made.content();
  std::size_t failures = 0;
  for (std::uint64_t pages = content.size() / 4096; failures < 500; ++pages) {
    scratch_directory directory;
    directory.set_content(content);
    auto s = open_store(directory, pages * 4096);
    recover(*s);
    const auto before = picture(*s);
    a_turn turn{20'000};
    const auto written = turn.commit(*s);
    const auto now = picture(*s);
    s.reset();
    CHECK(verify(directory.path()).value().clean());
    s = open_store(directory);
    recover(*s);
    CHECK(picture(*s) == now);
    if (written) {
      CHECK(std::get<0>(now) == strings{"m2", "m3"});
      break;
    }
    ++failures;
    CHECK(written.error().code == errc::overloaded);
    CHECK(now == before);
    // With room again, the same turn is written.
    REQUIRE(turn.commit(*s));
    CHECK(std::get<0>(picture(*s)) == strings{"m2", "m3"});
  }
  CHECK(failures >= 25);
  CHECK(failures < 500);
}

TEST_CASE("the erasures of a turn are not written without it", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory);
  REQUIRE(write(*s, three, {{append(1, "q1"), append(2, "q2")}, {}}));
  journal_batch plain{{}, {{{1}, {1}}}};
  a_turn turn;
  const mailbox_write writes[] = {{one, &turn.batch, &turn.writes}, {three, &plain}};
  REQUIRE(s->commit_erasures(writes));
  CHECK(bodies(*s, one) == strings{"m1", "m2", "m3"});
  CHECK(bodies(*s, three) == strings{"q2"});
  CHECK(s->read_state("/a").value()->turn == 1);
}

TEST_CASE("one refused turn refuses the commit that it stands in", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory);
  const auto before = picture(*s);
  a_turn turn;
  atomic_writes taking_a_mailbox, taking_a_path;
  taking_a_mailbox.states = {{state("/thief", one, 1)}};
  taking_a_path.states = {{state("/a", {77}, 1)}};
  for (const auto* other : {&taking_a_mailbox, &taking_a_path}) {
    const mailbox_write writes[] = {{one, &turn.batch, &turn.writes}, {{77}, nullptr, other}};
    const auto written = s->commit(writes);
    REQUIRE_FALSE(written);
    CHECK(written.error().code == errc::refused);
    CHECK(written.error().text.find("/a") != std::string::npos);
    CHECK(picture(*s) == before);
  }
}

// --- timers -------------------------------------------------------------------------------------------------------

TEST_CASE("a path and a name have at most one timer", "[persist]") {
  scratch_directory directory;
  auto s = open_store(directory);
  CHECK(s->next_timer_due().value() == std::nullopt);
  const auto set = [&](timer_record t, bool cancel = false) {
    atomic_writes turn;
    turn.timers = {{std::move(t), cancel}};
    for (int time = 0; time < 2; ++time) REQUIRE(write(*s, turn));
  };
  set(timer("/a", "t", 10));
  set(timer("/a", "t", 5, "other"));
  CHECK(timers(*s) == strings{"/a t 5 other"});
  set(timer("/a", "t", 5));
  CHECK(timers(*s) == strings{"/a t 5"});
  set(timer("/a", "tt", 5));
  set(timer("/at", "t", 0));
  CHECK(timers(*s) == strings{"/at t 0", "/a t 5", "/a tt 5"});
  CHECK(s->next_timer_due().value() == 0);
  set(timer("/a", "t", 77), true);
  set(timer("/a", "never set", 1), true);
  CHECK(timers(*s) == strings{"/at t 0", "/a tt 5"});
  set(timer("/a", std::string("n\0n", 3), ever));
  CHECK(s->timers_due(ever, 9).value().back().name == std::string("n\0n", 3));
  s.reset();
  CHECK(verify(directory.path()).value().clean());
}

TEST_CASE("a timer that is set and cancelled in one turn is as the last of both says", "[persist]") {
  scratch_directory directory;
  auto s = open_store(directory);
  atomic_writes turn;
  turn.timers = {
      {timer("/a", "x", 1)}, {timer("/a", "x", 1), true}, {timer("/a", "y", 1), true}, {timer("/a", "y", 1)}};
  REQUIRE(write(*s, turn));
  CHECK(timers(*s) == strings{"/a y 1"});
}

// --- forgetting ---------------------------------------------------------------------------------------------------

TEST_CASE("with a forgotten actor go its state, timers, events and messages, and nothing of others",
          "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory);
  atomic_writes turn;
  turn.states = {{state("/a", one, 0), true}};
  for (int time = 0; time < 2; ++time) {
    REQUIRE(write(*s, turn, one, {}));
    CHECK(s->read_state("/a").value() == std::nullopt);
    CHECK(timers(*s) == strings{"/ab x 200"});
    CHECK(history(*s, "/a").empty());
    CHECK(history(*s, "/ab") == strings{"1 "});
    CHECK(bodies(*s, one).empty());
    CHECK(s->survey(one).value().count == 0);
    CHECK(s->read_state("/b").value().has_value());
    while (s->has_graves()) REQUIRE(s->bury(1000));
  }
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.actors == 1);
  CHECK(report.messages == 0);
}

TEST_CASE("forgetting an actor again spares a newer one of its path", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory);
  atomic_writes forgetting, making;
  forgetting.states = {{state("/a", one, 0), true}};
  making.states = {{state("/a", {20}, 1, "new")}};
  making.timers = {{timer("/a", "new", 7)}};
  making.events = {{"/a", 1, bytes_of("new")}};
  REQUIRE(write(*s, forgetting));
  REQUIRE(write(*s, making));
  REQUIRE(write(*s, forgetting));
  CHECK(s->read_state("/a").value() == state("/a", {20}, 1, "new"));
  CHECK(timers(*s) == strings{"/a new 7", "/ab x 200"});
  CHECK(history(*s, "/a") == strings{"1 new"});
  s.reset();
  CHECK(verify(directory.path()).value().clean());
}

TEST_CASE("a turn may replace an actor by a new one of its path", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory);
  atomic_writes turn;
  turn.states = {{state("/a", {20}, 0, "new")}, {state("/a", one, 0), true}};
  turn.timers = {{timer("/a", "new", 7)}};
  turn.events = {{"/a", 1, bytes_of("new")}};
  turn.transfers = {{{20}, {1}, message_of("new"), 0}};
  for (int time = 0; time < 2; ++time) {
    REQUIRE(write(*s, turn));
    CHECK(s->read_state("/a").value() == state("/a", {20}, 0, "new"));
    CHECK(timers(*s) == strings{"/a new 7", "/ab x 200"});
    CHECK(history(*s, "/a") == strings{"1 new"});
    CHECK(bodies(*s, one).empty());
    CHECK(bodies(*s, {20}) == strings{"new"});
  }
  s.reset();
  CHECK(verify(directory.path()).value().clean());
  s = open_store(directory);
  CHECK(recover(*s).actors.at({20}) == "/a");
}

// --- recovery -----------------------------------------------------------------------------------------------------

TEST_CASE("actors with messages are recovered like queues, and sleeping ones are not", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory);
    atomic_writes turn;
    turn.states = {{state("/a", one, 2, "s", {1'000})}, {state("/far", {5'000}, 0)}, {state("/tr", {6}, 0)}};
    REQUIRE(write(*s, turn));
    REQUIRE(write(*s, {6}, {{append(4, "passing", true)}, {}}));
    REQUIRE(write(*s, {8}, {{append(1, "nobody's")}, {}}));
  }
  auto s = open_store(directory);
  const auto recovered = recover(*s);
  CHECK(recovered.actors == std::map<mailbox_id, std::string>{{one, "/a"}});
  REQUIRE(recovered.mailboxes.size() == 2);
  CHECK(recovered.mailboxes.contains(three));
  const auto& m = recovered.mailboxes.at(one);
  CHECK(m.count == 3);
  CHECK(m.size == 6);
  CHECK(m.first == sequence{1});
  CHECK(m.last == sequence{3});
  CHECK(m.used == sequence{1'000});
  CHECK(recovered.message_count == 3);
  CHECK(recovered.last_mailbox == mailbox_id{5'000});
  while (s->has_graves()) REQUIRE(s->bury(1000));
  CHECK(bodies(*s, one) == strings{"m1", "m2", "m3"});
  CHECK(bodies(*s, {6}).empty());
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.messages == 3);
  CHECK(report.transient == 0);
}

TEST_CASE("an actor's mailbox that is a queue too stays a queue when it is empty", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory);
    REQUIRE(write(*s, {a_queue(one, "a"), a_queue(two, "b")}));
  }
  auto s = open_store(directory);
  const auto recovered = recover(*s);
  CHECK(recovered.actors == std::map<mailbox_id, std::string>{{one, "/a"}});
  CHECK(recovered.mailboxes.at(one).count == 3);
  CHECK(recovered.mailboxes.at(two).count == 0);
}

TEST_CASE("a mailbox is surveyed as it is now", "[persist]") {
  constexpr std::uint64_t count = 6'000;
  scratch_directory directory;
  auto s = a_store(directory);
  CHECK(s->survey({99}).value().count == 0);
  CHECK(s->survey({99}).value().used == sequence{0});
  CHECK(s->survey(two).value().count == 0);
  journal_batch many;
  for (std::uint64_t n = 1; n <= count; ++n) many.appends.push_back(append(n, "x"));
  REQUIRE(write(*s, three, std::move(many)));
  REQUIRE(
      write(*s, three, {{append(count + 1, "yy", true), append(count + 2, "zzz")}, {{{1}, {count - 1}}}}));
  const auto look = [&] {
    const auto m = s->survey(three).value();
    CHECK(m.count == 3);
    CHECK(m.size == 6);
    CHECK(m.first == sequence{count});
    CHECK(m.last == sequence{count + 2});
    CHECK(m.used == sequence{count + 2});
  };
  look();
  REQUIRE(s->bury(1'000));
  look();
  while (s->has_graves()) REQUIRE(s->bury(1'000));
  look();
  // All that is left of them is a grave.
  REQUIRE(write(*s, three, {{}, {{{1}, {count + 50}}}}));
  CHECK(s->survey(three).value().count == 0);
  CHECK(s->survey(three).value().used == sequence{count + 50});
  // An actor's state remembers what was used even when nothing is left.
  atomic_writes turn;
  turn.states = {{state("/a", one, 2, "s", {70})}};
  REQUIRE(write(*s, turn));
  CHECK(s->survey(one).value().used == sequence{70});
  CHECK(s->survey(one).value().last == sequence{3});
}

// --- garbage ------------------------------------------------------------------------------------------------------

TEST_CASE("a record that is garbage is an error to whoever reads it, and verify names it", "[persist]") {
  const auto timer_key = actor_keys::timer(100, "/a", "tick");
  const auto index_key = name_key("/a", "tick");
  const auto event_key = actor_keys::event("/a", 2);
  struct fault {
    const char* table;
    std::string key, named;
  };
  const fault faults[] = {{"state", "/a", "actor /a"},
                          {"actors", std::string{as_text(id_key{1})}, "table actors"},
                          {"timers", timer_key, "timer 1"},
                          {"timer_names", index_key, "timer_names"},
                          {"history", event_key, "event 2"}};
  // Too short, without a valid checksum, and a sound record of which nothing is what it should be.
  std::string foreign(record::header_size + 20, 'g');
  for (const auto& f : faults) {
    for (int kind = 0; kind < 3; ++kind) {
      scratch_directory directory;
      a_store(directory).reset();
      auto value = kind == 0 ? std::string{"garbage"} : foreign;
      if (kind == 2) {
        seal_record(std::as_writable_bytes(std::span{value}), 1, seed_of_key(as_key(f.key)));
      }
      tamper(directory, f.table, f.key, value);
      const auto report = verify(directory.path()).value();
      REQUIRE(report.problem_count == 1);
      CHECK(report.problems.front().find(f.named) != std::string::npos);

      auto s = open_store(directory);
      const auto recovered = s->recover();
      const std::string_view table{f.table};
      const bool looked_at = table == "state" || table == "actors";  // of an actor with messages
      CHECK(recovered.has_value() == !looked_at);
      if (!recovered) {
        CHECK(recovered.error().code == errc::corrupted);
        CHECK(recovered.error().text.find(table == "state" ? "actor /a" : "mailbox 1") != std::string::npos);
      }
      if (looked_at) CHECK(s->survey(one).error().code == errc::corrupted);
      if (table == "state") CHECK(s->read_state("/a").error().code == errc::corrupted);
      if (table == "timers") CHECK(s->timers_due(ever, 9).error().code == errc::corrupted);
      if (table == "history") CHECK(s->read_history("/a", 0, 9).error().code == errc::corrupted);
      a_turn turn;
      const auto written = turn.commit(*s);
      if (table == "actors" || table == "timer_names") CHECK(written.error().code == errc::corrupted);
    }
  }
}

TEST_CASE("verify finds tables that contradict each other", "[persist]") {
  struct loss {
    const char* table;
    std::string key, named;
  };
  const loss losses[] = {
      {"actors", std::string{as_text(id_key{1})}, "its mailbox does not name it"},
      {"state", "/a", "mailbox 1 of actor /a: the actor has no state"},
      {"timers", actor_keys::timer(100, "/a", "tick"), "timer tick of actor /a: only the index names it"},
      {"timer_names", name_key("/a", "tick"), "timer tick of actor /a: the index does not name it"}};
  for (const auto& l : losses) {
    scratch_directory directory;
    a_store(directory).reset();
    tamper(directory, l.table, l.key, std::nullopt);
    const auto report = verify(directory.path()).value();
    REQUIRE(report.problem_count == 1);
    CHECK(report.problems.front().find(l.named) != std::string::npos);
    auto s = open_store(directory);
    const auto recovered = s->recover();
    if (l.table == std::string_view{"state"}) {
      REQUIRE_FALSE(recovered);
      CHECK(recovered.error().text.find("which has no state") != std::string::npos);
    }
  }
}

TEST_CASE("how far a mailbox was used can be written without the state, and never steps back", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory);
    const auto use = [&](std::string path, mailbox_id mailbox, std::uint64_t used) {
      atomic_writes writes;
      writes.uses = {{std::move(path), mailbox, {used}}};
      return write(*s, writes, mailbox);
    };
    REQUIRE(use("/a", one, 40));
    CHECK(s->read_state("/a").value()->used == sequence{40});
    CHECK(s->read_state("/a").value()->state == bytes_of("state"));
    REQUIRE(use("/a", one, 30));  // written again
    CHECK(s->read_state("/a").value()->used == sequence{40});
    CHECK(s->survey(one).value().used == sequence{40});
    // The later of the two counts, wherever it stands.
    atomic_writes turn;
    turn.states = {{state("/a", one, 2, "state", {50})}};
    REQUIRE(write(*s, turn, one));
    CHECK(s->read_state("/a").value()->used == sequence{50});
    REQUIRE(use("/a", one, 60));
    for (const auto& [path, mailbox] : {std::pair{"/a", two}, std::pair{"/nobody", mailbox_id{77}}}) {
      const auto refused_use = use(path, mailbox, 1);
      REQUIRE_FALSE(refused_use);
      CHECK(refused_use.error().code == errc::refused);
    }
    CHECK_FALSE(use("", one, 1));
    CHECK_FALSE(use("/a", {}, 1));
  }
  CHECK(verify(directory.path()).value().clean());
  auto s = open_store(directory, small_map);
  const auto recovered = recover(*s);
  CHECK(recovered.mailboxes.at(one).used == sequence{60});
  CHECK(recovered.actors.at(one) == "/a");
}

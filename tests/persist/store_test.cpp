#include "persist/store.hpp"

#include "mailbox/mailbox.hpp"
#include "mailbox/properties.hpp"
#include "persist/verify.hpp"
#include "tests/persist/scratch.hpp"

#include <catch2/generators/catch_generators.hpp>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

using namespace posthorn;

namespace {

using strings = std::vector<std::string>;

constexpr mailbox_id one{1}, two{2};

// Two queues, and `count` messages in the first.
std::unique_ptr<store> a_store(const scratch_directory& directory, std::uint64_t count = 0,
                               std::uint64_t map_size = small_map) {
  auto s = open_store(directory, map_size);
  recover(*s);
  REQUIRE(write(*s, {a_queue(one, "one"), a_queue(two, "two")}));
  journal_batch batch;
  for (std::uint64_t n = 1; n <= count; ++n) batch.appends.push_back(append(n, "body " + std::to_string(n)));
  if (count != 0) REQUIRE(write(*s, one, std::move(batch)));
  return s;
}

std::size_t bury_all(store& s, std::size_t slice) {
  std::size_t slices = 0;
  for (; s.has_graves() && slices < 1000; ++slices) REQUIRE(s.bury(slice));
  return slices;
}

}  // namespace

TEST_CASE("what was committed can be loaded, in order and within the limits of the request", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory, 5);
  REQUIRE(write(*s, two, {{append(3, "other")}, {}}));
  CHECK(bodies(*s, one) == strings{"body 1", "body 2", "body 3", "body 4", "body 5"});
  CHECK(bodies(*s, two) == strings{"other"});

  const auto load = [&](std::uint64_t first, std::uint64_t last, std::size_t count, std::size_t size) {
    return s->load(one, {{{first}, {last}}, count, size}).value().size();
  };
  CHECK(load(1, 5, 3, 1 << 20) == 3);
  CHECK(load(2, 4, 100, 1 << 20) == 3);
  CHECK(load(2, 2, 100, 1 << 20) == 1);
  CHECK(load(1, 5, 100, 0) == 1);  // at least one
  CHECK(load(1, 5, 0, 0) == 1);
  const auto footprint = message_of("body 1")->footprint();
  CHECK(load(1, 5, 100, footprint) == 1);
  CHECK(load(1, 5, 100, footprint + 1) == 2);
  const auto loaded = s->load(one, {{{4}, {5}}, 1, 0}).value();
  CHECK(loaded.front().at == sequence{4});
  CHECK(loaded.front().message->persistent());
  CHECK(loaded.front().message->exchange() == "x");
}

TEST_CASE("a message that the store does not have is an error, not an empty answer", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory, 2);
  const auto missing = s->load(one, {{{3}, {9}}, 10, 1000});
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code == errc::corrupted);
  CHECK_FALSE(s->load({77}, {{{1}, {9}}, 10, 1000}));
}

TEST_CASE("erasures take what they name and no more, and may name what was never there", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory, 9);
  REQUIRE(write(*s, two, {{append(4, "other")}, {}}));
  REQUIRE(write(*s, one, {{append(10, "ten")}, {{{2}, {4}}, {{7}, {7}}, {{9}, {9}}, {{100}, {200}}}}));
  CHECK(bodies(*s, one) == strings{"body 1", "body 5", "body 6", "body 8", "ten"});
  CHECK(bodies(*s, two) == strings{"other"});
  REQUIRE(write(*s, one, {{}, {{{8}, {2000}}}}));
  CHECK(bodies(*s, one) == strings{"body 1", "body 5", "body 6"});
  CHECK(bodies(*s, two) == strings{"other"});
}

TEST_CASE("a commit of several mailboxes and definitions is there as a whole after reopening", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory, 3);
    journal_batch first{{append(4, "four")}, {{{1}, {2}}}},
        second{{append(1, "uno"), append(2, "due", true)}, {}};
    const mailbox_write writes[] = {{one, &first}, {two, &second}};
    const std::vector<topology_change> changes{a_queue({5}, "five")};
    const store::topology_write topology{"/", changes};
    REQUIRE(s->commit(writes, {&topology, 1}));
    CHECK(first.appends.size() == 1);  // the batch stays its owner's
  }
  auto s = open_store(directory);
  const auto recovered = recover(*s);
  CHECK(recovered.message_count == 3);
  CHECK(recovered.vhosts.at("/").queues.size() == 3);
  const auto& m = recovered.mailboxes.at(one);
  CHECK(m.count == 2);
  CHECK(m.size == std::string{"body 3four"}.size());
  CHECK(m.first == sequence{3});
  CHECK(m.last == sequence{4});
  CHECK(recovered.mailboxes.at(two).count == 1);
  CHECK(recovered.mailboxes.at({5}).count == 0);
  CHECK(recovered.last_mailbox == mailbox_id{5});
}

TEST_CASE("what is recovered is counted by its priority, after a restart as well as before", "[persist]") {
  const auto with_priority = [](int priority) {
    basic_properties p;
    if (priority >= 0) p.priority = static_cast<std::uint8_t>(priority);
    std::string bytes;
    encode_properties(p, bytes);
    return make_envelope("x", "key", std::as_bytes(std::span{bytes}), true, std::vector<std::byte>(10));
  };
  const auto check = [](const recovered_mailbox& m) {
    CHECK(m.count == 5);
    REQUIRE(m.priorities.size() == 2);
    const auto& low = m.priorities.at(0);
    CHECK(low.count == 1);
    CHECK(low.first == sequence{3});
    const auto& high = m.priorities.at(9);
    CHECK(high.count == 2);
    CHECK(high.size == 20);
    CHECK(high.first == sequence{2});
    CHECK(high.last == sequence{5});
  };
  scratch_directory directory;
  {
    auto s = a_store(directory);
    journal_batch batch;
    std::uint64_t at = 0;
    for (const int priority : {-1, 9, 0, -1, 9}) batch.appends.push_back({{++at}, with_priority(priority)});
    REQUIRE(write(*s, one, std::move(batch)));
    check(s->survey(one).value());
  }
  auto s = open_store(directory);
  check(recover(*s).mailboxes.at(one));
}

TEST_CASE("a message that need not survive is there until the restart, and gone for good after it",
          "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory, 1);
    REQUIRE(
        write(*s, one, {{append(2, "passing", true), append(3, "staying"), append(4, "passing", true)}, {}}));
    CHECK(bodies(*s, one) == strings{"body 1", "passing", "staying", "passing"});
  }
  CHECK(verify(directory.path()).value().transient == 2);
  {
    auto s = open_store(directory);
    const auto recovered = recover(*s);
    CHECK(recovered.mailboxes.at(one).count == 2);
    CHECK(recovered.mailboxes.at(one).last == sequence{3});
    CHECK(bodies(*s, one) == strings{"body 1", "staying"});
  }
  const auto report = verify(directory.path()).value();
  CHECK(report.transient == 0);
  CHECK(report.messages == 2);
}

// --- burials ------------------------------------------------------------------------------------------------------

TEST_CASE("a wide erasure is one step, and is finished in slices", "[persist]") {
  constexpr std::uint64_t count = 6000;
  scratch_directory directory;
  auto s = a_store(directory, count);
  REQUIRE(write(*s, two, {{append(2000, "other")}, {}}));
  REQUIRE(write(*s, one, {{}, {{{2}, {count - 1}}}}));
  CHECK(s->has_graves());
  CHECK(bodies(*s, one) == strings{"body 1", "body 6000"});
  REQUIRE(s->bury(1000));
  CHECK(s->has_graves());
  CHECK(bodies(*s, one) == strings{"body 1", "body 6000"});
  CHECK(bury_all(*s, 1000) == 5);
  CHECK(bodies(*s, one) == strings{"body 1", "body 6000"});
  CHECK(bodies(*s, two) == strings{"other"});
  REQUIRE(s->bury(1000));  // nothing left to do
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.buried == 0);
  CHECK(report.messages == 3);
}

TEST_CASE("a burial that the end of the node interrupted is finished by the next one", "[persist]") {
  constexpr std::uint64_t count = 6000;
  scratch_directory directory;
  {
    auto s = a_store(directory, count);
    REQUIRE(write(*s, one, {{}, {{{1}, {count - 2}}}}));
    REQUIRE(s->bury(1000));
  }
  CHECK(verify(directory.path()).value().buried == count - 1002);
  auto s = open_store(directory);
  const auto recovered = recover(*s);
  CHECK(recovered.message_count == 2);
  CHECK(recovered.mailboxes.at(one).first == sequence{count - 1});
  CHECK(bodies(*s, one) == strings{"body 5999", "body 6000"});
  CHECK(s->has_graves());
  CHECK(bury_all(*s, 4000) == 2);
  CHECK(bodies(*s, one) == strings{"body 5999", "body 6000"});
  s.reset();
  CHECK(verify(directory.path()).value().messages == 2);
}

TEST_CASE("who reads while a burial goes on never sees what is buried", "[persist]") {
  constexpr std::uint64_t count = 6000;
  scratch_directory directory;
  auto s = a_store(directory, count);
  std::atomic<bool> over{false};
  std::uint64_t looks = 0, wrong = 0;
  for (int round = 0; round < 5; ++round) {
    if (round != 0) {
      journal_batch batch;
      for (std::uint64_t n = 1; n < count; ++n) batch.appends.push_back(append(n, "again"));
      REQUIRE(write(*s, one, std::move(batch)));
    }
    REQUIRE(write(*s, one, {{}, {{{1}, {count - 1}}}}));
    over = false;
    std::thread reader{[&] {
      do {
        const auto loaded = s->load(one, {{{1}, {count}}, 10, 10'000});
        const auto surveyed = s->survey(one);
        ++looks;
        if (!loaded || loaded->size() != 1 || loaded->front().at != sequence{count}) ++wrong;
        if (!surveyed || surveyed->count != 1) ++wrong;
      } while (!over);
    }};
    while (s->has_graves() && s->bury(500)) {
    }
    over = true;
    reader.join();
  }
  CHECK_FALSE(s->has_graves());
  CHECK(looks >= 5);
  CHECK(wrong == 0);
}

TEST_CASE("messages that come after a restart are not buried with what was purged before it", "[persist]") {
  constexpr std::uint64_t count = 6000;
  const std::uint64_t kept = GENERATE(0U, 10U);  // how many are left in front of what was purged
  scratch_directory directory;
  {
    auto s = a_store(directory, count);
    REQUIRE(write(*s, one, {{}, {{{kept + 1}, {count}}}}));
  }
  std::uint64_t published = 0;
  for (int restart = 0; restart < 3; ++restart) {
    auto s = open_store(directory);
    const auto recovered = recover(*s);
    REQUIRE(recovered.mailboxes.at(one).count == kept + published);
    mailbox box{true, {}, recovered.mailboxes.at(one)};
    effects fx;
    std::vector<arrival> arrivals{{message_of("new " + std::to_string(++published)), {1}, 1}};
    box.publish(arrivals, fx);
    REQUIRE(write(*s, one, box.take_batch()));
    if (restart == 1) bury_all(*s, 1000);
    const auto now = bodies(*s, one);
    REQUIRE(now.size() == kept + published);
    CHECK(now.back() == "new " + std::to_string(published));
  }
}

TEST_CASE("the messages of a removed queue go with it, and its id is not used again while they are there",
          "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory, 50);
    auto last = a_queue({9}, "nine");
    REQUIRE(write(*s, {last}));
    REQUIRE(write(*s, {9}, {{append(1, "a"), append(2, "b")}, {}}));
    REQUIRE(write(*s, {queue_removed{last.queue}}));
    CHECK(bodies(*s, {9}).empty());
  }
  {
    auto s = open_store(directory);
    const auto recovered = recover(*s);
    CHECK(recovered.vhosts.at("/").queues.size() == 2);
    CHECK(recovered.message_count == 50);
    CHECK(recovered.last_mailbox >= mailbox_id{9});
    REQUIRE(s->has_graves());
    bury_all(*s, 1000);
  }
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.buried == 0);
  CHECK(report.messages == 50);
}

TEST_CASE("messages without a queue are buried at the next start", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory, 3);
    REQUIRE(write(*s, {40}, {{append(1, "a"), append(2, "b")}, {}}));
    REQUIRE(write(*s, {41}, {{append(7, "c", true)}, {}}));
  }
  auto s = open_store(directory);
  const auto recovered = recover(*s);
  CHECK(recovered.message_count == 3);
  CHECK_FALSE(recovered.mailboxes.contains({40}));
  CHECK(recovered.last_mailbox == mailbox_id{41});
  CHECK(s->has_graves());
  bury_all(*s, 10);
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.buried == 0);
  CHECK(report.messages == 3);
}

// --- definitions --------------------------------------------------------------------------------------------------

TEST_CASE("durable definitions outlive a restart, and others are never written", "[persist]") {
  scratch_directory directory;
  exchange_definition logs{"logs", exchange_type::topic, true, true, false, {}};
  exchange_definition passing{"passing", exchange_type::fanout, false, false, false, {}};
  auto binding = std::make_shared<binding_definition>();
  *binding = {{7}, "logs", destination_kind::queue, "one", "a.*", {}, true, {}};
  auto passing_binding = std::make_shared<binding_definition>();
  *passing_binding = {{8}, "passing", destination_kind::queue, "one", "", {}, false, {}};
  auto exclusive = std::make_shared<queue_definition>();
  exclusive->id = {30};
  exclusive->name = "mine";
  exclusive->owner = connection_id{1};
  {
    auto s = a_store(directory);
    REQUIRE(write(*s, {exchange_added{logs}, exchange_added{passing}, binding_added{binding},
                       binding_added{passing_binding}, queue_added{exclusive}}));
    REQUIRE(write(*s, {exchange_added{logs}}, "other"));
    REQUIRE(
        write(*s, {exchange_removed{passing}, binding_removed{passing_binding}, queue_removed{exclusive}}));
  }
  {
    auto s = open_store(directory);
    const auto recovered = recover(*s);
    const auto& v = recovered.vhosts.at("/");
    REQUIRE(v.exchanges.size() == 1);
    CHECK(v.exchanges.front().name == "logs");
    CHECK(v.exchanges.front().type == exchange_type::topic);
    CHECK(v.exchanges.front().auto_delete);
    CHECK(v.exchanges.front().durable);
    REQUIRE(v.queues.size() == 2);
    CHECK(v.queues.front().id == one);
    CHECK(v.queues.front().name == "one");
    CHECK(v.queues.front().durable);
    REQUIRE(v.bindings.size() == 1);
    CHECK(v.bindings.front().id == binding_id{7});
    CHECK(v.bindings.front().routing_key == "a.*");
    CHECK(v.bindings.front().durable);
    CHECK(recovered.last_binding == binding_id{7});
    CHECK(recovered.vhosts.at("other").exchanges.size() == 1);
    REQUIRE(write(*s, {binding_removed{binding}, exchange_removed{logs}}));
  }
  auto s = open_store(directory);
  const auto recovered = recover(*s);
  CHECK(recovered.vhosts.at("/").exchanges.empty());
  CHECK(recovered.vhosts.at("/").bindings.empty());
  CHECK(recovered.vhosts.at("other").exchanges.size() == 1);
}

// --- what does not open -------------------------------------------------------------------------------------------

TEST_CASE("a store of a newer version is refused and left as it is", "[persist]") {
  scratch_directory directory;
  a_store(directory, 3).reset();
  tamper(directory, "meta", "version", version_value(store::version + 1));
  const auto before = directory.content();
  const auto opened = store::open({directory.path(), small_map, false});
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == errc::refused);
  CHECK(opened.error().text.find("version " + std::to_string(store::version + 1)) != std::string::npos);
  CHECK(directory.content() == before);
  const auto verified = verify(directory.path());
  REQUIRE_FALSE(verified);
  CHECK(verified.error().code == errc::refused);
  CHECK(directory.content() == before);
}

TEST_CASE("a store of the version before is raised to this one, and keeps what it holds", "[persist]") {
  scratch_directory directory;
  a_store(directory, 3).reset();
  for (const auto* table : {"actors", "state", "timers", "timer_names", "history", "events"})
    drop_table(directory, table);
  tamper(directory, "meta", "version", version_value(1));
  auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.version == 1);
  CHECK(report.messages == 3);
  {
    auto s = open_store(directory);
    s.reset();
    report = verify(directory.path()).value();
    CHECK(report.clean());
    CHECK(report.version == store::version);
  }
  auto s = open_store(directory);
  CHECK(recover(*s).message_count == 3);
  CHECK(bodies(*s, one) == strings{"body 1", "body 2", "body 3"});
  CHECK(s->read_state("/a").value() == std::nullopt);
}

TEST_CASE("opening and recovering a store that was closed cleanly does not change it", "[persist]") {
  scratch_directory directory;
  a_store(directory, 3).reset();
  const auto before = directory.content();
  {
    auto s = open_store(directory);
    recover(*s);
  }
  CHECK(directory.content() == before);
}

TEST_CASE("a store that is open is refused to everyone else", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory, 1);
  const auto again = store::open({directory.path(), small_map, false});
  REQUIRE_FALSE(again);
  CHECK(again.error().code == errc::refused);
  CHECK(again.error().text.find(std::to_string(::getpid())) != std::string::npos);
  CHECK_FALSE(verify(directory.path()));
  s.reset();
  CHECK(store::open({directory.path(), small_map, false}));
}

TEST_CASE("a directory that cannot be used is refused in a sentence that names it", "[persist]") {
  scratch_directory directory;
  directory.set_content("I am a file", "file");
  for (const auto& path : {directory.path() / "file", directory.path() / "file" / "below"}) {
    const auto opened = store::open({path, small_map, false});
    REQUIRE_FALSE(opened);
    CHECK(opened.error().code == errc::refused);
    CHECK(opened.error().text.find(path.string()) != std::string::npos);
  }
}

TEST_CASE("a file that is not a store, or only its beginning, is damaged and left as it is", "[persist]") {
  scratch_directory directory;
  a_store(directory, 2000).reset();
  const auto whole = directory.content();
  const std::string damaged = GENERATE_COPY(std::string(whole.size(), 'x'), whole.substr(0, whole.size() / 2),
                                            whole.substr(0, 3 * 4096), whole.substr(0, 100));
  directory.set_content(damaged);
  const auto opened = store::open({directory.path(), small_map, false});
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == errc::corrupted);
  CHECK(directory.content() == damaged);
  const auto report = verify(directory.path());
  CHECK((!report || !report->clean()));
  CHECK(directory.content() == damaged);
}

TEST_CASE("a store whose making was interrupted is made again", "[persist]") {
  scratch_directory directory;
  std::filesystem::create_directory(directory.path() / "new");
  std::ofstream{directory.path() / "new" / "data.mdb"} << "the begin of a first page";
  auto s = open_store(directory);
  CHECK(recover(*s).message_count == 0);
  CHECK_FALSE(std::filesystem::exists(directory.path() / "new"));
}

TEST_CASE("an empty file where a store should be is damaged: it may have held messages", "[persist]") {
  scratch_directory directory;
  directory.set_content("");
  const auto opened = store::open({directory.path(), 0, true});
  REQUIRE_FALSE(opened.has_value());
  CHECK(opened.error().code == errc::corrupted);
}

TEST_CASE("a flipped bit in a message is found at the start and by verify", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory, 30);
    REQUIRE(write(*s, one, {{append(31, "the body that is damaged"), append(32, "last")}, {}}));
  }
  auto bytes = directory.content();
  std::size_t places = 0;
  for (auto at = bytes.find("body that"); at != std::string::npos; at = bytes.find("body that", at + 1)) {
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    ++places;
  }
  REQUIRE(places >= 1);
  directory.set_content(bytes);

  const auto report = verify(directory.path()).value();
  CHECK_FALSE(report.clean());
  CHECK(report.problem_count == 1);
  CHECK(report.problems.front().find("message 31 of mailbox 1") != std::string::npos);
  CHECK(report.messages == 31);

  auto s = open_store(directory);
  const auto recovered = s->recover();
  REQUIRE_FALSE(recovered);
  CHECK(recovered.error().code == errc::corrupted);
  CHECK(recovered.error().text.find("message 31 of mailbox 1") != std::string::npos);
  CHECK_FALSE(s->load(one, {{{31}, {31}}, 1, 0}));
  CHECK(s->load(one, {{{32}, {32}}, 1, 0}));
  s.reset();
  CHECK(directory.content() == bytes);
}

TEST_CASE("a flipped bit in a definition is found at the start and by verify", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory);
    REQUIRE(write(*s, {a_queue({3}, "a-name-to-find")}));
  }
  auto bytes = directory.content();
  for (auto at = bytes.find("a-name-to-find"); at != std::string::npos;
       at = bytes.find("a-name-to-find", at + 1)) {
    bytes[at] = 'b';
  }
  directory.set_content(bytes);
  const auto report = verify(directory.path()).value();
  CHECK(report.problem_count == 1);
  auto s = open_store(directory);
  const auto recovered = s->recover();
  REQUIRE_FALSE(recovered);
  CHECK(recovered.error().code == errc::corrupted);
}

TEST_CASE("verify reports what a sound store holds, and that there is none", "[persist]") {
  scratch_directory directory;
  const auto none = verify(directory.path());
  REQUIRE_FALSE(none);
  CHECK(none.error().code == errc::refused);
  a_store(directory, 12).reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.version == store::version);
  CHECK(report.queues == 2);
  CHECK(report.messages == 12);
  CHECK(report.message_bytes == 9 * 6 + 3 * 7);
}

// --- a full store -------------------------------------------------------------------------------------------------

TEST_CASE("a full store says so, loses nothing, and takes messages again when some are gone", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory, 0, std::uint64_t{2} << 20);
  const std::string body(10'000, 'b');
  std::uint64_t written = 0;
  result<void> answer;
  while (written < 1000) {
    answer = write(*s, one, {{append(written + 1, body)}, {}});
    if (!answer) break;
    ++written;
  }
  REQUIRE_FALSE(answer);
  CHECK(answer.error().code == errc::overloaded);
  REQUIRE(written > 50);
  CHECK(bodies(*s, one).size() == written);
  answer = write(*s, {a_queue({3}, "three")});  // whether it fits or not, it says so
  CHECK((answer || answer.error().code == errc::overloaded));

  // The first commits only free pages; LMDB gives them out again in later ones.
  std::uint64_t erased = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    journal_batch batch{{append(500, body)}, {{{erased + 1}, {erased + 10}}}};
    const mailbox_write w{one, &batch};
    CHECK_FALSE(s->commit({&w, 1}));
    CHECK(bodies(*s, one).size() == written - erased);
    REQUIRE(s->commit_erasures({&w, 1}));
    erased += 10;
    CHECK(bodies(*s, one).size() == written - erased);
    if (write(*s, one, {{append(1000, body)}, {}})) break;
  }
  CHECK(bodies(*s, one).size() == written - erased + 1);
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.messages == written - erased + 1);
}

TEST_CASE("a commit that finds no room leaves no grave behind", "[persist]") {
  scratch_directory directory;
  auto s = a_store(directory, 5000, std::uint64_t{4} << 20);
  journal_batch batch{{}, {{{1}, {5000}}}};
  for (std::uint64_t n = 0; n < 600; ++n)
    batch.appends.push_back(append(10'000 + n, std::string(10'000, 'b')));
  REQUIRE_FALSE(write(*s, one, std::move(batch)));
  CHECK_FALSE(s->has_graves());
  CHECK(bodies(*s, one).size() == 5000);
  REQUIRE(s->bury(10'000));
  CHECK(bodies(*s, one).size() == 5000);
}

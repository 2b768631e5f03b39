#include "persist/message_record.hpp"

#include "persist/keys.hpp"
#include "persist/record.hpp"
#include "persist/verify.hpp"
#include "tests/persist/scratch.hpp"

using namespace posthorn;

namespace {

constexpr mailbox_id one{1};

std::vector<std::byte> record_of(std::uint32_t flags, std::span<const std::byte> content) {
  std::vector<std::byte> place(record::header_size + content.size());
  write_record(place, {flags, content}, seed_of(one, {1}));
  return place;
}

}  // namespace

TEST_CASE("a message that expires comes back with its time, in a batch and as a transfer", "[persist]") {
  constexpr std::int64_t at = 1'790'000'000'123;
  scratch_directory directory;
  {
    auto s = open_store(directory);
    recover(*s);
    REQUIRE(write(*s, {a_queue(one, "one"), a_queue({2}, "two")}));
    journal_batch batch;
    auto& expiring = batch.appends.emplace_back(append(1, "expires"));
    expiring.expires_at = at;
    batch.appends.push_back(append(2, "stays"));
    auto& passing = batch.appends.emplace_back(append(3, "expires and passes", true));
    passing.expires_at = at + 1;
    atomic_writes turn;
    turn.transfers.push_back({{2}, {1}, message_of("sent"), at + 2});
    REQUIRE(write(*s, turn, one, std::move(batch)));
    CHECK(s->load(one, {{{3}, {3}}, 1, 0}).value().front().expires_at == at + 1);
  }
  auto s = open_store(directory);
  const auto recovered = recover(*s);
  CHECK(recovered.mailboxes.at(one).count == 2);
  CHECK(recovered.mailboxes.at(one).size == std::string{"expiresstays"}.size());
  const auto loaded = s->load(one, {{{1}, {9}}, 9, 1000}).value();
  REQUIRE(loaded.size() == 2);
  CHECK(loaded[0].expires_at == at);
  CHECK(body_of(*loaded[0].message) == "expires");
  CHECK(loaded[1].expires_at == 0);
  CHECK(s->load({2}, {{{1}, {9}}, 9, 1000}).value().front().expires_at == at + 2);
}

TEST_CASE("a message as an older version wrote it does not expire", "[persist]") {
  const auto message = message_of("old");
  for (const auto flags : {0U, record::transient}) {
    const auto read = read_message(record_of(flags, message->bytes()), one, {1});
    REQUIRE(read);
    CHECK(read->expires_at == 0);
    CHECK(read->transient == (flags != 0));
    CHECK(body_of(*read->message) == "old");
  }
}

TEST_CASE("a message with flags that nobody knows, or without what its flags promise, is refused",
          "[persist]") {
  const auto message = message_of("body");
  const auto bytes = message->bytes();
  for (const auto flags : {8U, 16U, 0x8000'0000U, record::expires | 8U}) {
    const auto read = read_message(record_of(flags, bytes), one, {1});
    REQUIRE_FALSE(read);
    CHECK(read.error().code == errc::corrupted);
    CHECK(read.error().text.find("flags") != std::string::npos);
  }
  CHECK_FALSE(read_message(record_of(record::expires, bytes.first(7)), one, {1}));
  CHECK_FALSE(read_message(record_of(record::expires, bytes.first(8)), one, {1}));
  CHECK_FALSE(read_message(record_of(record::expires, bytes), one, {1}));
  CHECK_FALSE(read_message(record_of(0, bytes), one, {2}));
}

// --- messages in parts ---------------------------------------------------------------------------------------------

namespace {

// Of which no two parts are alike.
std::string long_body(std::size_t size) {
  std::string out;
  for (std::size_t n = 0; out.size() < size; ++n) out += std::to_string(n) + ' ';
  out.resize(size);
  return out;
}

std::unique_ptr<store> a_store(const scratch_directory& directory) {
  auto s = open_store(directory);
  recover(*s);
  REQUIRE(write(*s, {a_queue(one, "one"), a_queue({2}, "two")}));
  return s;
}

// The keys of the table of messages.
std::vector<std::string> keys(const scratch_directory& directory) {
  std::vector<std::string> out;
  const auto env = new_environment();
  REQUIRE(env);
  REQUIRE(mdb_env_open(env->get(), directory.path().c_str(), MDB_RDONLY | MDB_NOLOCK, 0640) == 0);
  const auto txn = read_transaction::begin(env->get());
  REQUIRE(txn);
  MDB_dbi id = 0;
  REQUIRE(mdb_dbi_open(txn->handle(), "messages", 0, &id) == 0);
  auto c = cursor::open(txn->handle(), id);
  REQUIRE(c);
  for (auto item = c->first(); item && *item; item = c->next()) out.emplace_back(as_text((*item)->key));
  return out;
}

std::string key_of(std::uint64_t at, std::uint32_t part) {
  const part_key key{one, {at}, part};
  return std::string{as_text(key)};
}

}  // namespace

TEST_CASE("bodies of every size around a page and its parts come back as they were", "[persist]") {
  std::vector<std::size_t> sizes;
  for (std::size_t n = 3900; n <= 4100; n += 4) sizes.push_back(n);
  for (std::size_t n = 8000; n <= 8250; n += 8) sizes.push_back(n);
  sizes.insert(sizes.end(), {0, 1, 64 << 10, (64 << 10) + 1, 1 << 20, 3'000'001});
  scratch_directory directory;
  {
    auto s = a_store(directory);
    std::uint64_t at = 0;
    for (const auto size : sizes) {
      journal_batch batch;
      batch.appends.push_back(append(++at, long_body(size)));
      if (at % 2 == 0) batch.appends.back().expires_at = 1'790'000'000'000;
      REQUIRE(write(*s, one, std::move(batch)));
    }
    for (std::uint64_t n = 1; n <= at; ++n) {
      const auto loaded = s->load(one, {{{n}, {n}}, 9, 0});
      REQUIRE(loaded);
      REQUIRE(loaded->size() == 1);
      CHECK(body_of(*loaded->front().message) == long_body(sizes[n - 1]));
      CHECK(loaded->front().expires_at == (n % 2 == 0 ? 1'790'000'000'000 : 0));
    }
  }
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.messages == sizes.size());
  CHECK(report.unfinished == 0);
  auto s = open_store(directory);
  const auto recovered = recover(*s);
  CHECK(recovered.message_count == sizes.size());
  std::size_t all = 0;
  for (const auto size : sizes) all += size;
  CHECK(recovered.mailboxes.at(one).size == all);
  CHECK(s->survey(one).value().count == sizes.size());
  CHECK(s->survey(one).value().size == all);
}

TEST_CASE("no record of a message takes more than one page", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory);
    for (std::uint64_t at = 1; at <= 40; ++at)
      REQUIRE(write(*s, one, {{append(at, long_body(3000 + at * 111))}, {}}));
    REQUIRE(write(*s, one, {{append(99, long_body(500'000))}, {}}));
  }
  const auto env = new_environment();
  REQUIRE(mdb_env_open(env->get(), directory.path().c_str(), MDB_RDONLY | MDB_NOLOCK, 0640) == 0);
  const auto txn = read_transaction::begin(env->get());
  MDB_dbi id = 0;
  REQUIRE(mdb_dbi_open(txn->handle(), "messages", 0, &id) == 0);
  MDB_stat stat{};
  REQUIRE(mdb_stat(txn->handle(), id, &stat) == 0);
  CHECK(stat.ms_overflow_pages <= stat.ms_entries);
}

TEST_CASE("an erasure takes all parts of a message, and a burial does", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory);
    for (std::uint64_t at = 1; at <= 3; ++at) REQUIRE(write(*s, one, {{append(at, long_body(50'000))}, {}}));
    REQUIRE(write(*s, one, {{}, {{{2}, {2}}}}));
    CHECK(bodies(*s, one) == std::vector<std::string>(2, long_body(50'000)));
    REQUIRE(write(*s, one, {{}, {{{3}, {9'000}}}}));  // wide: a grave
    CHECK(bodies(*s, one).size() == 1);
    REQUIRE(s->bury(3));  // in the middle of it
    CHECK(bodies(*s, one).size() == 1);
  }
  CHECK(verify(directory.path()).value().clean());
  {
    auto s = open_store(directory);
    CHECK(recover(*s).message_count == 1);
    while (s->has_graves()) REQUIRE(s->bury(5));
    CHECK(bodies(*s, one).size() == 1);
    REQUIRE(write(*s, one, {{}, {{{1}, {1}}}}));
  }
  CHECK(keys(directory).empty());
}

TEST_CASE("what one commit erases is bounded, and the rest is buried", "[persist]") {
  scratch_directory directory;
  auto s = open_store(directory, std::uint64_t{256} << 20);
  recover(*s);
  REQUIRE(write(*s, {a_queue(one, "one")}));
  const auto parts = part_count(*message_of(long_body(8 << 20)));
  const auto count = store::erased_at_once_max / parts + 3;
  for (std::uint64_t at = 1; at <= count; ++at)
    REQUIRE(write(*s, one, {{append(at, long_body(8 << 20))}, {}}));
  journal_batch batch;
  for (std::uint64_t at = 1; at <= count; ++at) batch.erasures.push_back({{at}, {at}});
  REQUIRE(write(*s, one, std::move(batch)));
  CHECK(s->has_graves());
  CHECK(s->survey(one).value().count == 0);
  while (s->has_graves()) REQUIRE(s->bury(2000));
  s.reset();
  CHECK(keys(directory).empty());
}

TEST_CASE("parts that were written ahead are nothing until the message is, and then they are its",
          "[persist]") {
  scratch_directory directory;
  const auto body = long_body(100'000);
  const auto message = message_of(body);
  const auto count = part_count(*message);
  REQUIRE(count > 20);
  const auto ahead = [&](store& s, std::uint32_t first, std::uint32_t n) {
    const part_write p{one, {5}, message.get(), first, n};
    REQUIRE(s.commit({}, {}, {}, {&p, 1}));
  };
  {
    auto s = a_store(directory);
    REQUIRE(write(*s, one, {{append(4, "before")}, {}}));
    ahead(*s, 1, 10);
    CHECK(bodies(*s, one) == std::vector<std::string>{"before"});
    CHECK(s->survey(one).value().count == 1);
    ahead(*s, 11, count - 10);
    journal_batch batch{{{{5}, message, false}}, {}};
    const mailbox_write w{one, &batch, nullptr, true};
    REQUIRE(s->commit({&w, 1}));
    CHECK(bodies(*s, one) == std::vector<std::string>{"before", body});
  }
  CHECK(verify(directory.path()).value().clean());
  auto s = open_store(directory);
  CHECK(recover(*s).message_count == 2);
  CHECK(bodies(*s, one) == std::vector<std::string>{"before", body});
}

TEST_CASE("what a crash leaves of an unfinished message goes at the next start", "[persist]") {
  scratch_directory directory;
  const auto message = message_of(long_body(100'000));
  {
    auto s = a_store(directory);
    const part_write p[] = {{one, {5}, message.get(), 1, 10}, {{2}, {8}, message.get(), 1, 3}};
    REQUIRE(s->commit({}, {}, {}, p));
    REQUIRE(write(*s, one, {{append(6, "after")}, {}}));
  }
  CHECK(keys(directory).size() == 14);
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.unfinished == 2);
  CHECK(report.messages == 1);
  {
    auto s = open_store(directory);
    CHECK(recover(*s).message_count == 1);
    CHECK(bodies(*s, one) == std::vector<std::string>{"after"});
  }
  CHECK(keys(directory).size() == 1);
  CHECK(verify(directory.path()).value().unfinished == 0);
}

TEST_CASE("a part that is missing, damaged or another's is found at the start, by a load and by verify",
          "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory);
    REQUIRE(write(*s, one, {{append(1, "before"), append(2, long_body(50'000)), append(3, "after")}, {}}));
  }
  const auto all = keys(directory);
  const auto last = part_count(*message_of(long_body(50'000)));
  REQUIRE(all.size() == 3 + last);
  SECTION("the first is missing") { tamper(directory, "messages", key_of(2, 1), std::nullopt); }
  SECTION("one in the middle is missing") { tamper(directory, "messages", key_of(2, 5), std::nullopt); }
  SECTION("the last is missing") { tamper(directory, "messages", key_of(2, last), std::nullopt); }
  SECTION("one is not a record") { tamper(directory, "messages", key_of(2, 5), std::string(100, 'x')); }
  SECTION("one is that of another place") {
    std::vector<std::byte> place(record::header_size + 8);
    const std::vector<std::byte> bytes(8);
    write_record(place, {0, bytes}, seed_of(one, {2}, 4));
    tamper(directory, "messages", key_of(2, 5), std::string{as_text(place)});
  }
  const auto report = verify(directory.path()).value();
  CHECK(report.problem_count == 1);
  REQUIRE_FALSE(report.problems.empty());
  CHECK(report.problems.front().find("message 2 of mailbox 1: its part") != std::string::npos);
  CHECK(report.messages == 2);
  CHECK(report.unfinished == 0);
  auto s = open_store(directory);
  const auto recovered = s->recover();
  REQUIRE_FALSE(recovered);
  CHECK(recovered.error().code == errc::corrupted);
  CHECK_FALSE(s->load(one, {{{2}, {2}}, 1, 0}));
  CHECK(s->load(one, {{{3}, {3}}, 1, 0}));
}

TEST_CASE("a message in parts that need not survive goes at the next start, with its parts", "[persist]") {
  scratch_directory directory;
  {
    auto s = a_store(directory);
    REQUIRE(write(*s, one, {{append(1, long_body(50'000), true), append(2, long_body(50'000))}, {}}));
    CHECK(bodies(*s, one).size() == 2);
  }
  {
    auto s = open_store(directory);
    CHECK(recover(*s).message_count == 1);
  }
  CHECK(keys(directory).size() == 1 + part_count(*message_of(long_body(50'000))));
}

TEST_CASE("a large body that an older version wrote as one value is read and erased as before", "[persist]") {
  scratch_directory directory;
  const auto body = long_body(100'000);
  a_store(directory).reset();
  const auto value = [&] {
    const auto message = message_of(body);
    std::vector<std::byte> place(record::header_size + message->bytes().size());
    write_record(place, {0, message->bytes()}, seed_of(one, {1}));
    return std::string{as_text(place)};
  }();
  const message_key key{one, {1}};
  tamper(directory, "messages", as_text(key), value);
  tamper(directory, "meta", "version", version_value(2));
  CHECK(verify(directory.path()).value().messages == 1);
  auto s = open_store(directory);
  CHECK(recover(*s).message_count == 1);
  CHECK(bodies(*s, one) == std::vector<std::string>{body});
  REQUIRE(write(*s, one, {{}, {{{1}, {1}}}}));
  CHECK(bodies(*s, one).empty());
}

#include "persist/message_record.hpp"

#include "persist/keys.hpp"
#include "persist/record.hpp"
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
  for (const auto flags : {4U, 8U, 0x8000'0000U, record::expires | 4U}) {
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

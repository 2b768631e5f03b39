// What a program, a client or a bad disk may do wrong: each ends in an error that says so, or in a dead letter with its
// reason. The actor and the node go on, and nothing is lost without a trace.
#include "bank.capnp.h"
#include "mailbox/properties.hpp"
#include "posthorn/node.hpp"
#include "tests/actors/probed_broker.hpp"

#include <caf/event_based_actor.hpp>

#include <capnp/schema.capnp.h>

#include <sys/mman.h>

#include <cstring>
#include <functional>
#include <future>
#include <new>
#include <set>
#include <stdexcept>
#include <utility>

using namespace posthorn;
using namespace std::chrono_literals;
using probed::eventually;

namespace {

constexpr auto soon = 10s;

// Throws when it goes, but for the sake of another exception.
struct rigged {
  ~rigged() noexcept(false) {
    if (std::uncaught_exceptions() == 0) throw std::runtime_error{"a destructor threw"};
  }
};

// What the handler of bank::Fail does, by its number.
const std::vector<std::pair<std::function<void()>, std::string>> ways_to_throw{
    {[] { throw std::runtime_error{"as it was told"}; }, "as it was told"},
    {[] { throw 42; }, "a handler threw something that is no std::exception"},
    {[] { throw "text"; }, "a handler threw something that is no std::exception"},
    {[] { throw std::bad_alloc{}; }, "std::bad_alloc"},
    {[] { const rigged one; }, "a destructor threw"},
    {[] { expects(false, "nothing is broken"); }, "nothing is broken"},
};

// Holds handlers up.
class gate {
public:
  void open() { opened_.store(true); }
  void pass() const {
    if (!eventually([this] { return opened_.load(); })) throw std::runtime_error{"the gate stays closed"};
  }

private:
  std::atomic<bool> opened_{false};
};

auto accounts(std::uint32_t delivery_limit = 2, const std::shared_ptr<gate>& holding = nullptr) {
  child_spec rules = actor_kind{}.supervision;
  rules.back_off = {.minimum = 1ms, .maximum = 5ms};
  return durable<bank::Account>("account")
      .on<bank::Deposit>([](turn<bank::Account>& t, bank::Deposit::Reader m) {
        t.state().setBalance(t.state().getBalance() + m.getAmount());
      })
      .on<bank::Transfer>([](turn<bank::Account>& t, bank::Transfer::Reader m) {
        t.state().setBalance(t.state().getBalance() - m.getAmount());
        t.send<bank::Deposit>(m.getTo().cStr(), [&](auto deposit) { deposit.setAmount(m.getAmount()); });
      })
      .on<bank::Ask>([](turn<bank::Account>& t, bank::Ask::Reader) {
        t.reply<bank::Balance>([&](auto balance) { balance.setAmount(t.state().getBalance()); });
      })
      .on<bank::Fail>([](turn<bank::Account>& t, bank::Fail::Reader m) {
        t.state().setBalance(1'000'000);
        t.send<bank::Deposit>("account/other", [](auto deposit) { deposit.setAmount(1'000'000); });
        ways_to_throw.at(m.getTimes()).first();
      })
      .on<bank::Remind>([](turn<bank::Account>& t, bank::Remind::Reader m) {
        t.remind<bank::Deposit>("interest", std::chrono::milliseconds{m.getAfter()},
                                [&](auto deposit) { deposit.setAmount(m.getAmount()); });
      })
      .on<bank::Announce>([holding](turn<bank::Account>& t, bank::Announce::Reader m) {
        if (holding) holding->pass();
        t.publish<bank::Balance>(m.getExchange().cStr(), m.getKey().cStr(), [](auto) {});
      })
      .delivery_limit(delivery_limit)
      .dead_letters_to("dead", "accounts")
      .idle_after(0ms)
      .supervision(rules);
}

// A node whose dead letters go to the queue "graves".
struct a_place {
  a_place() { open(); }

  void open() {
    auto started = node::start({.data_directory = directory.path()});
    REQUIRE(started);
    n = std::move(*started);
    REQUIRE(n->declare_exchange("dead", exchange_type::fanout));
    REQUIRE(n->declare_queue("graves"));
    REQUIRE(n->bind("graves", "dead"));
  }
  void reopen() {
    n.reset();
    open();
  }
  template <class Message>
  result<void> send(const std::string& to, const std::function<void(typename Message::Builder)>& fill) {
    auto sent = n->send<Message>(to, fill);
    REQUIRE(sent.wait_for(soon) == std::future_status::ready);
    return sent.get();
  }
  result<void> deposit(const std::string& to, std::int64_t amount) {
    return send<bank::Deposit>(to, [&](auto m) { m.setAmount(amount); });
  }
  // A message as an AMQP client would send it.
  void send_as_client(const std::string& to, const std::optional<std::string>& type,
                      const std::string& content_type, std::string_view body) {
    basic_properties properties;
    properties.content_type = content_type;
    properties.delivery_mode = std::uint8_t{2};
    properties.type = type;
    std::string encoded;
    encode_properties(properties, encoded);
    probed::client c{n->broker()};
    c.publish(n->broker().context().house->find(to), {make_envelope("", to, std::as_bytes(std::span{encoded}),
                                                                    true, std::as_bytes(std::span{body}))});
    REQUIRE(c.all_settled());
  }
  std::int64_t balance(const std::string& of) {
    auto answer = n->ask<bank::Ask, bank::Balance>(of, soon, [](auto) {});
    INFO((answer ? "" : answer.error().text));
    REQUIRE(answer);
    return (*answer)->get().getAmount();
  }

  // Why the next dead letter died, and of whom.
  struct grave {
    std::string reason, of;
    envelope_ptr message;
  };
  grave next_grave() {
    grave out;
    REQUIRE(eventually([&] { return (out.message = n->take("graves").value()) != nullptr; }));
    const auto properties = decode_properties(out.message->properties());
    REQUIRE(properties);
    REQUIRE(properties->headers);
    const auto text = [&](std::string_view name) {
      const auto* found = properties->headers->find(name);
      REQUIRE(found != nullptr);
      return std::string{as_string(*found).value()};
    };
    out.reason = text("x-first-death-reason");
    out.of = text("x-first-death-queue");
    return out;
  }
  [[nodiscard]] bool no_grave() const { return n->take("graves").value() == nullptr; }
  std::string last_failure(const std::string& path) {
    const auto report = n->tree().show(path);
    return report && report->last_failure ? report->last_failure->reason : "";
  }

  scratch_directory directory;
  std::unique_ptr<node> n;
};

}  // namespace

// --- handlers ---------------------------------------------------------------------------------------------------------

TEST_CASE("whatever a handler throws, its turn leaves no trace, and its message becomes a dead letter",
          "[bad_use]") {
  a_place p;
  REQUIRE(p.n->add(accounts()));
  for (std::size_t way = 0; way < ways_to_throw.size(); ++way) {
    const auto name = "account/" + std::to_string(way);
    INFO(ways_to_throw[way].second);
    // The first turn of its life, and one behind it.
    REQUIRE(p.send<bank::Fail>(name, [&](auto m) { m.setTimes(static_cast<std::uint32_t>(way)); }));
    REQUIRE(p.deposit(name, 1));
    const auto grave = p.next_grave();
    CHECK(grave.reason == "delivery_limit");
    CHECK(grave.of == name);
    CHECK(p.balance(name) == 1);
    CHECK(p.last_failure("/actors/" + name).find(ways_to_throw[way].second) != std::string::npos);
  }
  CHECK(p.balance("account/other") == 0);
  CHECK(p.no_grave());
}

TEST_CASE("a reminder's turn that throws is tried again, and then is a dead letter, too", "[bad_use]") {
  a_place p;
  auto rules = actor_kind{}.supervision;
  rules.back_off = {.minimum = 1ms, .maximum = 5ms};
  std::atomic<int> attempts{0};
  REQUIRE(p.n->add(durable<bank::Account>("clock")
                       .on<bank::Remind>([](turn<bank::Account>& t, bank::Remind::Reader) {
                         t.remind<bank::Deposit>("it", 1ms, [](auto) {});
                       })
                       .on<bank::Deposit>([&](turn<bank::Account>&, bank::Deposit::Reader) {
                         ++attempts;
                         throw std::runtime_error{"at its time"};
                       })
                       .delivery_limit(3)
                       .dead_letters_to("dead", "")
                       .supervision(rules)));
  REQUIRE(p.send<bank::Remind>("clock/1", [](auto) {}));
  const auto grave = p.next_grave();
  CHECK(grave.reason == "delivery_limit");
  CHECK(grave.of == "clock/1");
  CHECK(attempts == 4);
  CHECK(p.last_failure("/actors/clock/1") == "at its time");
  CHECK(p.last_failure("/actors/reminders").empty());
}

// --- messages that cannot be understood ---------------------------------------------------------------------------------

TEST_CASE("a message that its actor cannot understand is a dead letter, and the actor goes on", "[bad_use]") {
  a_place p;
  REQUIRE(p.n->add(accounts()));
  const auto deposit = type_of<bank::Deposit>();
  const std::string capnp = "application/x-capnp", json = "application/json";
  const std::string flat = detail::with_message<bank::Deposit>(
      [](bank::Deposit::Builder m) { m.setAmount(7); },
      [](const typed_message& m) {
        return std::string{reinterpret_cast<const char*>(m.body.data()), m.body.size()};
      });
  std::string astray = flat;  // its root is a pointer to somewhere outside
  astray[8] = '\x7c';

  struct wrong {
    std::string why;
    std::optional<std::string> type;
    std::string content_type, body;
  };
  const std::vector<wrong> at_once{
      {"an unknown type", type_of<bank::Balance>(), capnp, flat},
      {"a type that is none", "Deposite", json, "{}"},
      {"no type", std::nullopt, capnp, flat},
      {"an empty type", "", capnp, flat},
  };
  const std::vector<wrong> when_read{
      {"no body", deposit, capnp, ""},
      {"less than a word", deposit, capnp, flat.substr(0, 7)},
      {"half a message", deposit, capnp, flat.substr(0, 16)},
      {"a pointer that leads outside", deposit, capnp, astray},
      {"all ones", deposit, capnp, std::string(64, '\xff')},
      {"no JSON", "Deposit", json, "amount = 7"},
      {"half of JSON", "Deposit", json, R"({"amount": 7)"},
      {"a field that is not in the schema", "Deposit", json, R"({"amuont": 7})"},
      {"a value of another type", "Deposit", json, R"({"amount": [7]})"},
      {"a number that does not fit", "Deposit", json, R"({"amount": 99999999999999999999999})"},
      {"JSON that is no object", "Deposit", json, "7"},
      {"JSON as deep as a well", "Deposit", json, std::string(100'000, '[')},
  };
  for (const auto& w : at_once) {
    INFO(w.why);
    p.send_as_client("account/anna", w.type, w.content_type, w.body);
    const auto grave = p.next_grave();
    CHECK(grave.reason == "rejected");
    CHECK(grave.of == "account/anna");
    CHECK(probed::body_of({{}, {}, grave.message, false}) == w.body);
  }
  for (const auto& w : when_read) {
    INFO(w.why);
    p.send_as_client("account/anna", w.type, w.content_type, w.body);
    const auto grave = p.next_grave();
    CHECK((grave.reason == "delivery_limit" || grave.reason == "rejected"));
    CHECK(grave.of == "account/anna");
    CHECK(probed::body_of({{}, {}, grave.message, false}) == w.body);
  }
  CHECK(p.balance("account/anna") == 0);
  p.send_as_client("account/anna", deposit, capnp, flat);
  p.send_as_client("account/anna", "Deposit", json, R"({"amount": "5"})");
  CHECK(p.balance("account/anna") == 12);
  CHECK(p.no_grave());
}

TEST_CASE("a message that grows when it is read, or is nested deep, ends its turn and not the node",
          "[bad_use]") {
  a_place p;
  using type = capnp::schema::Type;
  using schema_node = capnp::schema::Node;
  std::atomic<std::uint64_t> depth_read{0};
  REQUIRE(p.n->add(durable<bank::Account>("reader")
                       .on<type>([&](turn<bank::Account>&, type::Reader m) {
                         std::uint64_t depth = 0;
                         while (m.isList()) {
                           m = m.getList().getElementType();
                           ++depth;
                         }
                         depth_read = depth;
                       })
                       .on<schema_node>([](turn<bank::Account>&, schema_node::Reader m) {
                         std::uint64_t size = 0;
                         for (const auto& nested : m.getNestedNodes()) size += nested.getName().size();
                         if (size == 0) throw std::logic_error{"nothing was read"};
                       })
                       .delivery_limit(0)
                       .dead_letters_to("dead", "")));
  const auto nested = [&](int depth) {
    return p.send<type>("reader/1", [&](type::Builder m) {
      for (int n = 0; n < depth; ++n) m = m.initList().initElementType();
    });
  };
  REQUIRE(nested(50));
  CHECK(eventually([&] { return depth_read == 50; }));
  REQUIRE(nested(1000));
  CHECK(p.next_grave().reason == "delivery_limit");
  CHECK(depth_read == 50);
  CHECK(p.last_failure("/actors/reader/1").find("nested") != std::string::npos);

  // 16,000 names, all of which are the same megabyte.
  constexpr std::uint64_t marker = 0x1122334455660000;
  constexpr unsigned count = 16'000;
  capnp::MallocMessageBuilder builder{(1 << 20) / 8 + 65'536, capnp::AllocationStrategy::FIXED_SIZE};
  auto root = builder.initRoot<schema_node>();
  const std::string text((1 << 20) - 1, 'Q');
  root.setDisplayName(text.c_str());
  auto names = root.initNestedNodes(count);
  for (unsigned n = 0; n < count; ++n) names[n].setId(marker + n);
  const auto words = capnp::messageToFlatArray(builder);
  std::vector<std::uint64_t> flat(words.size());
  std::memcpy(flat.data(), words.begin(), words.size() * sizeof(std::uint64_t));
  std::size_t text_at = 0, patched = 0;
  for (std::size_t at = 0; at < flat.size(); ++at) {
    if (text_at == 0 && flat[at] == 0x5151515151515151) text_at = at;
    if (flat[at] - marker >= count || text_at == 0) continue;
    const auto offset = static_cast<std::int64_t>(text_at) - static_cast<std::int64_t>(at + 2);
    flat[at + 1] = (static_cast<std::uint64_t>(text.size() + 1) << 35) | (std::uint64_t{2} << 32) |
                   (static_cast<std::uint32_t>(offset) << 2) | 1U;
    ++patched;
  }
  REQUIRE(patched == count);
  const std::string_view body{reinterpret_cast<const char*>(flat.data()), flat.size() * 8};
  p.send_as_client("reader/2", type_of<schema_node>(), "application/x-capnp", body);
  CHECK(p.next_grave().reason == "delivery_limit");
  CHECK(p.last_failure("/actors/reader/2").find("raversal limit") != std::string::npos);
}

// --- states of a newer program ------------------------------------------------------------------------------------------

TEST_CASE("a program that is too old for a state keeps its messages for one that is not", "[bad_use]") {
  a_place p;
  REQUIRE(p.n->add(accounts().schema_version(2)));
  REQUIRE(p.deposit("account/anna", 1));
  CHECK(p.balance("account/anna") == 1);
  p.reopen();
  REQUIRE(p.n->add(accounts().schema_version(1)));
  for (int n = 0; n < 10; ++n) REQUIRE(p.deposit("account/anna", 10));
  CHECK(eventually([&] { return p.last_failure("/actors/account/anna") != ""; }));
  CHECK(p.last_failure("/actors/account/anna")
            .find("written by version 2 of its schema; this program knows 1: start a newer program") !=
        std::string::npos);
  // Killed and started anew, it is no wiser.
  (void)p.n->tree().kill("/actors/account/anna");
  REQUIRE(p.deposit("account/anna", 10));
  CHECK(p.balance("account/bert") == 0);
  p.reopen();
  REQUIRE(p.n->add(accounts().schema_version(3)));
  CHECK(p.balance("account/anna") == 111);
  CHECK(p.no_grave());
}

TEST_CASE("an answer to a question of an earlier run of the program is not taken for that to a later one",
          "[bad_use]") {
  a_place p;
  REQUIRE(p.n->add(accounts().schema_version(2)));
  REQUIRE(p.deposit("account/anna", 1));
  CHECK(p.balance("account/anna") == 1);
  p.reopen();
  REQUIRE(p.n->add(accounts().schema_version(1)));
  CHECK_FALSE(
      p.n->ask<bank::Ask, bank::Balance>("account/anna", 100ms, [](auto) {}));  // waits in its mailbox
  REQUIRE(p.deposit("account/anna", 10));
  p.reopen();
  REQUIRE(p.n->add(accounts().schema_version(2)));
  CHECK(p.balance("account/anna") == 11);
}

// --- names that lead nowhere --------------------------------------------------------------------------------------------

TEST_CASE("a send to a name that does not exist fails where it was made, and says so", "[bad_use]") {
  a_place p;
  REQUIRE(p.n->add(accounts()));
  REQUIRE(p.deposit("account/anna", 5));
  for (const std::string to : {"acount/anna", "account/", "account", "/", "", "account/a b", "account/a/b",
                               "graves2", "account/%"}) {
    INFO(to);
    const auto refused = p.deposit(to, 1);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == errc::refused);
    CHECK(refused.error().text.find("nothing has the name '" + to + "'") == 0);

    const auto began = std::chrono::steady_clock::now();
    const auto unanswered = p.n->ask<bank::Ask, bank::Balance>(to, soon, [](auto) {});
    REQUIRE_FALSE(unanswered);
    CHECK(unanswered.error().text.find("nothing has the name '" + to + "'") == 0);
    CHECK(std::chrono::steady_clock::now() - began < soon);

    REQUIRE(p.send<bank::Transfer>("account/anna", [&](auto m) {
      m.setTo(to);
      m.setAmount(1);
    }));
    CHECK(p.next_grave().reason == "delivery_limit");
    CHECK(p.last_failure("/actors/account/anna").find("nothing has the name '" + to + "'") == 0);
  }
  const std::string long_name = "account/" + std::string(300, 'a');
  CHECK_FALSE(p.deposit(long_name, 1));
  REQUIRE(p.send<bank::Announce>("account/anna", [](auto m) { m.setExchange("no such exchange"); }));
  CHECK(p.next_grave().reason == "delivery_limit");
  CHECK(p.last_failure("/actors/account/anna").find("there is no exchange 'no such exchange'") == 0);
  CHECK(p.balance("account/anna") == 5);
}

TEST_CASE("a reminder of a kind that the program does not know waits for one that does", "[bad_use]") {
  a_place p;
  REQUIRE(p.n->add(accounts()));
  REQUIRE(p.send<bank::Remind>("account/anna", [](auto m) {
    m.setAfter(300);
    m.setAmount(4);
  }));
  REQUIRE(p.balance("account/anna") == 0);
  const auto due = p.n->broker().context().now() + 300;
  p.reopen();
  CHECK_FALSE(p.deposit("account/anna", 1));
  REQUIRE(eventually([&] { return p.n->broker().context().now() > due; }));
  CHECK(p.last_failure("/actors/reminders").empty());
  p.reopen();
  REQUIRE(p.n->add(accounts()));
  CHECK(eventually([&] { return p.balance("account/anna") == 4; }));
}

// --- mailboxes that are full --------------------------------------------------------------------------------------------

TEST_CASE("a full mailbox tells whoever sends, and keeps what it took", "[bad_use]") {
  a_place p;
  std::atomic<bool> able{false};
  std::atomic<int> handled{0};
  child_spec rules = actor_kind{}.supervision;
  rules.back_off = {.minimum = 200ms, .maximum = 200ms};
  REQUIRE(p.n->add(durable<bank::Account>("small")
                       .on<bank::Deposit>([&](turn<bank::Account>&, bank::Deposit::Reader) {
                         if (!able) throw std::runtime_error{"not yet"};
                         ++handled;
                       })
                       .mailbox_max(3)
                       .delivery_limit(1'000'000)
                       .idle_after(0ms)
                       .supervision(rules)));
  std::vector<std::future<result<void>>> sent;
  constexpr int count = 1000;
  for (int n = 0; n < count; ++n) sent.push_back(p.n->send<bank::Deposit>("small/1", [](auto) {}));
  int taken = 0, refused = 0;
  for (auto& s : sent) {
    REQUIRE(s.wait_for(soon) == std::future_status::ready);
    const auto done = s.get();
    ++(done ? taken : refused);
    if (done) continue;
    CHECK(done.error().code == errc::overloaded);
    CHECK(done.error().text == "the mailbox is full and refused the message");
  }
  CHECK(taken + refused == count);
  CHECK(taken >= 3);
  CHECK(taken <= 3 + 256);  // those that its actor has at hand are not counted
  able = true;
  CHECK(eventually([&] { return handled == taken; }));
}

TEST_CASE("a turn that sends to a full queue leaves no trace until there is room", "[bad_use]") {
  a_place p;
  REQUIRE(p.n->add(accounts(10'000)));
  mailbox_rules rules;
  rules.length_max = 2;
  rules.on_overflow = mailbox_rules::overflow::reject_publish;
  REQUIRE(p.n->declare_queue("narrow", rules));
  for (int n = 0; n < 2; ++n) REQUIRE(p.deposit("narrow", n));
  const auto full = p.deposit("narrow", 2);
  REQUIRE_FALSE(full);
  CHECK(full.error().code == errc::overloaded);

  REQUIRE(p.send<bank::Transfer>("account/anna", [](auto m) {
    m.setTo("narrow");
    m.setAmount(9);
  }));
  CHECK(eventually([&] {
    return p.last_failure("/actors/account/anna")
               .find("the mailbox of 'narrow' is full and refuses messages") == 0;
  }));
  // Room for one, and later for more: it comes once.
  std::multiset<std::int64_t> seen;
  CHECK(eventually([&] {
    const auto one = p.n->take("narrow").value();
    if (one) seen.insert(answer_of<bank::Deposit>{*one}.get().getAmount());
    return seen.size() == 3;
  }));
  CHECK(seen == std::multiset<std::int64_t>{0, 1, 9});
  CHECK(p.balance("account/anna") == -9);
  CHECK(p.n->take("narrow").value() == nullptr);
}

// --- kinds that cannot be -----------------------------------------------------------------------------------------------

TEST_CASE("a kind that cannot be is refused with the reason", "[bad_use]") {
  a_place p;
  const auto handler = [](turn<bank::Account>&, bank::Deposit::Reader) {};
  for (const std::string name : {"", "/", "a/b", "a b", "a%2Fb", "reminders", "clients", "a\tb"}) {
    INFO(name);
    const auto added = p.n->add(durable<bank::Account>(name).on<bank::Deposit>(handler));
    REQUIRE_FALSE(added);
    CHECK(added.error().code == errc::refused);
    CHECK(added.error().text.find("'" + name + "' cannot be the name of a kind of actors: use a word") == 0);
  }
  const auto without = p.n->add(durable<bank::Account>("idle"));
  REQUIRE_FALSE(without);
  CHECK(without.error().text.find("the kind 'idle' has no handlers: add one with on<Message>") == 0);
  REQUIRE(p.n->add(durable<bank::Account>("once").on<bank::Deposit>(handler)));
  const auto twice = p.n->add(durable<bank::Account>("once").on<bank::Deposit>(handler));
  REQUIRE_FALSE(twice);
  CHECK(twice.error().text == "a kind of actors named 'once' is there already");
  CHECK(p.deposit("once/1", 1));
}

// --- what is too large --------------------------------------------------------------------------------------------------

TEST_CASE("what is too large is refused, or fails its turn", "[bad_use]") {
  a_place p;
  // So much that reads as zeros, and takes no memory.
  constexpr std::size_t size = envelope::body_size_max + 8;
  void* zeros = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(zeros != MAP_FAILED);
  const typed_message large{
      type_of<bank::Deposit>(), {static_cast<const std::byte*>(zeros), size}, body_format::capnp};
  child_spec rules = actor_kind{}.supervision;
  rules.back_off = {.minimum = 1ms, .maximum = 1ms};
  REQUIRE(p.n->add(durable<bank::Account>("large")
                       .on<bank::Deposit>([&](turn<bank::Account>& t, bank::Deposit::Reader) {
                         t.raw().send_raw("large/other", large);
                       })
                       .on<bank::Remind>([](turn<bank::Account>& t, bank::Remind::Reader) {
                         t.remind<bank::Ask>(std::string(1000, 'r'), 1ms, [](auto) {});
                       })
                       .on<bank::Transfer>([](turn<bank::Account>& t, bank::Transfer::Reader) {
                         t.send<bank::Ask>("large/" + std::string(1000, 'n'), [](auto) {});
                       })
                       .delivery_limit(1)
                       .dead_letters_to("dead", "")
                       .supervision(rules)));
  REQUIRE(p.deposit("large/1", 1));
  CHECK(p.next_grave().reason == "delivery_limit");
  CHECK(p.last_failure("/actors/large/1").find("is larger than a message can be") != std::string::npos);
  REQUIRE(p.send<bank::Remind>("large/2", [](auto) {}));
  CHECK(p.next_grave().reason == "delivery_limit");
  CHECK(p.last_failure("/actors/large/2") != "");
  REQUIRE(p.send<bank::Transfer>("large/3", [](auto) {}));
  CHECK(p.next_grave().reason == "delivery_limit");
  CHECK(p.last_failure("/actors/large/3").find("more than 255 octets") != std::string::npos);
  ::munmap(zeros, size);
}

// --- plain actors under supervisors -------------------------------------------------------------------------------------

namespace {

struct tree_of_plain_actors {
  a_place p;
  std::mutex mutex;
  std::vector<supervision_event> events;

  std::shared_ptr<supervisor> make(supervisor_spec spec, std::vector<child_definition> children) {
    auto made = supervisor::make(p.n->system(), std::move(spec), std::move(children),
                                 [this](const supervision_event& e) {
                                   const std::lock_guard guard{mutex};
                                   events.push_back(e);
                                 });
    REQUIRE(made);
    return *made;
  }
  static child_definition place(const std::string& name, std::shared_ptr<supervisor> sub) {
    child_definition out;
    out.spec.name = name;
    out.as_supervisor = std::move(sub);
    return out;
  }
  // The reason of the first event of this kind that befell this path.
  std::optional<std::string> reason_of(supervision_effects::event_kind kind, const std::string& path) {
    const std::lock_guard guard{mutex};
    for (const auto& e : events) {
      if (e.kind == kind && e.path == path) return e.why.reason;
    }
    return std::nullopt;
  }
  ~tree_of_plain_actors() { p.n.reset(); }  // while the events can still be noted
};

struct throws_at_construction {
  throws_at_construction() { throw std::runtime_error{"a constructor threw"}; }
  static inline const char* name = "throws_at_construction";
};

using event_kind = supervision_effects::event_kind;

}  // namespace

TEST_CASE("an actor whose start throws, or whose state does, is an event with its reason", "[bad_use]") {
  tree_of_plain_actors t;
  child_definition thrower;
  thrower.spec.name = "thrower";
  thrower.start = []() -> caf::actor { throw std::runtime_error{"it cannot start"}; };
  child_definition stateful;
  stateful.spec.name = "stateful";
  stateful.spec.restart = restart_kind::temporary;
  stateful.start = [&]() -> caf::actor {
    return t.p.n->system().spawn(
        [](caf::stateful_actor<throws_at_construction>*) -> caf::behavior { return {[](int) {}}; });
  };
  child_definition late;
  late.spec.name = "late";
  late.spec.restart = restart_kind::temporary;
  late.start = [&]() -> caf::actor {
    return t.p.n->system().spawn([](caf::event_based_actor* self) -> caf::behavior {
      self->set_exception_handler([](std::exception_ptr& thrown) { return failure_of(thrown); });
      throw std::runtime_error{"its behaviour threw"};
    });
  };
  const auto group = t.make({.how = strategy::dynamic}, {});
  t.p.n->tree().add(tree_of_plain_actors::place("plain", group));
  for (auto* c : {&thrower, &stateful, &late}) group->add(*c);
  CHECK(eventually(
      [&] { return t.reason_of(event_kind::start_failed, "/plain/thrower") == "it cannot start"; }));
  // CAF makes the state when the actor first runs, or when it is spawned: the reason is told in either case.
  CHECK(eventually([&] {
    const auto at_spawn = t.reason_of(event_kind::start_failed, "/plain/stateful");
    const auto later = t.reason_of(event_kind::failed, "/plain/stateful");
    return (at_spawn && *at_spawn != "") || (later && *later != "");
  }));
  CHECK(eventually([&] { return t.reason_of(event_kind::failed, "/plain/late") == "its behaviour threw"; }));
  CHECK(eventually([&] { return !t.p.n->tree().show("/plain/thrower"); }));
}

TEST_CASE("a stopper that throws, and a listener to events that throws, keep no supervisor from its work",
          "[bad_use]") {
  a_place p;
  std::atomic<int> starts{0};
  child_definition child;
  child.spec.name = "child";
  child.start = [&]() -> caf::actor {
    ++starts;
    return p.n->system().spawn([](caf::event_based_actor*) -> caf::behavior { return {[](int) {}}; });
  };
  child.stop = [](const caf::actor&) { throw std::runtime_error{"no"}; };
  auto made = supervisor::make(p.n->system(), {.intensity = {100, 1s}}, {child},
                               [](const supervision_event&) { throw std::runtime_error{"not my business"}; });
  REQUIRE(made);
  const auto root = std::move(*made);
  root->start_as_root([](const failure&) {});
  REQUIRE(root->wait_until_started());
  for (int n = 2; n < 10; ++n) {
    REQUIRE(eventually([&] { return root->kill("/child").has_value(); }));
    CHECK(eventually([&] { return starts >= n; }));
  }
  root->shut_down();
  CHECK(root->wait_until_finished(soon));
}

TEST_CASE("a supervisor that was killed and is not started again takes its children with it", "[bad_use]") {
  tree_of_plain_actors t;
  const auto living = std::make_shared<std::atomic<int>>(0);
  child_definition worker;
  worker.spec.name = "worker";
  worker.start = [&t, living]() -> caf::actor {
    auto made = t.p.n->system().spawn([](caf::event_based_actor*) -> caf::behavior { return {[](int) {}}; });
    ++*living;
    made->attach_functor([living] { --*living; });
    return made;
  };
  SECTION("because its own supervisor gives up") {
    const auto inner = t.make({}, {worker});
    auto outer = tree_of_plain_actors::place(
        "outer", t.make({.intensity = {0, 1s}}, {tree_of_plain_actors::place("inner", inner)}));
    outer.spec.restart = restart_kind::temporary;
    t.p.n->tree().add(outer);
    REQUIRE(eventually([&] { return *living == 1; }));
    REQUIRE(
        eventually([&] { return t.p.n->tree().kill("/outer/inner").has_value(); }));  // as soon as it runs
    CHECK(eventually([&] { return !t.p.n->tree().show("/outer"); }));
  }
  SECTION("because it is temporary") {
    auto inner = tree_of_plain_actors::place("inner", t.make({}, {worker}));
    inner.spec.restart = restart_kind::temporary;
    t.p.n->tree().add(inner);
    REQUIRE(eventually([&] { return *living == 1; }));
    REQUIRE(eventually([&] { return t.p.n->tree().kill("/inner").has_value(); }));  // as soon as it runs
  }
  SECTION("because all is stopped while it waits for its turn") {
    auto inner = tree_of_plain_actors::place("inner", t.make({}, {worker}));
    inner.spec.back_off = {.minimum = 1h, .maximum = 1h};
    auto outer = tree_of_plain_actors::place("outer", t.make({}, {inner}));
    outer.spec.restart = restart_kind::temporary;
    t.p.n->tree().add(outer);
    REQUIRE(eventually([&] { return *living == 1; }));
    REQUIRE(
        eventually([&] { return t.p.n->tree().kill("/outer/inner").has_value(); }));  // as soon as it runs
    REQUIRE(eventually([&] {
      const auto now = t.p.n->tree().show("/outer/inner");
      return now && now->state == child_state::backing_off;
    }));
    CHECK(*living == 1);  // its successor would have found it
    t.p.n.reset();
  }
  CHECK(eventually([&] { return *living == 0; }));
}

TEST_CASE("an actor that was killed with its supervisor is gone before its successor starts", "[bad_use]") {
  tree_of_plain_actors t;
  gate holding;
  std::atomic<int> starts{0};
  child_definition worker;
  worker.spec.name = "worker";
  worker.start = [&, &system = t.p.n->system()]() -> caf::actor {
    ++starts;
    return system.spawn<caf::detached>(
        [&](caf::event_based_actor*) -> caf::behavior { return {[&](int) { holding.pass(); }}; });
  };
  auto group = tree_of_plain_actors::place("group", t.make({}, {worker}));
  group.spec.shutdown = shutdown_rule::brutal_kill();
  t.p.n->tree().add(group);
  REQUIRE(eventually([&] { return t.p.n->tree().find("/group/worker") != nullptr; }));
  caf::anon_send(t.p.n->tree().find("/group/worker"), 1);  // it is busy, and cannot end
  REQUIRE(t.p.n->tree().restart("/group"));
  REQUIRE(eventually([&] {
    const auto now = t.p.n->tree().show("/group/worker");
    return now && now->state == child_state::starting;
  }));
  CHECK(starts == 1);
  holding.open();
  CHECK(eventually([&] { return starts == 2; }));
}

TEST_CASE("a node that one thread has started is stopped by another", "[bad_use]") {
  scratch_directory directory;
  auto started = node::start({.data_directory = directory.path()});
  REQUIRE(started);
  auto stopping = std::async(std::launch::async, [n = std::move(*started)]() mutable { n.reset(); });
  // Which goes on all the while.
  const auto stopped = stopping.wait_for(soon);
  CHECK(stopped == std::future_status::ready);
}

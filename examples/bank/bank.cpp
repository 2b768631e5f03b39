// A bank whose accounts are durable actors. See README.md.
#include "bank.capnp.h"
#include "posthorn/http.hpp"
#include "posthorn/node.hpp"

#include <CLI/CLI.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <future>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;
using posthorn::turn;

#ifdef BANK_FAULTS
// Wrong on purpose, see tests/e2e/bank.py.
bool split_turn = false;  // the debit and the deposit are messages of a client, one after the other
#else
constexpr bool split_turn = false;
#endif

struct settings {
  std::string directory;
  std::uint32_t accounts = 1000, clients = 4;
  std::uint64_t transfers = 10'000;  // of each client; 0: until SIGTERM
  std::int64_t opening_balance = 100;
  std::uint64_t seed = 1;
  std::vector<std::uint64_t> resume;  // the number of each client's first order
  std::size_t window = 16;            // orders of a client that wait for their confirmation
  unsigned kill_every = 0;            // milliseconds; 0: nobody is killed
  unsigned idle_after = 60'000;       // milliseconds
  unsigned settle_within = 60;        // seconds
  bool check = false;
  std::optional<std::uint16_t> http_port;  // 0: any free one
};

std::string account(std::uint32_t n) { return "account/" + std::to_string(n); }

std::uint64_t mix(std::uint64_t x) {  // splitmix64's last steps
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

// What stands for a transfer in the sums of the accounts.
std::uint64_t mark_of(std::uint32_t client, std::uint64_t number, std::uint32_t to) {
  return mix(mix((std::uint64_t{client} << 32 | to) + 1) + number);
}

// ---- what an account does

std::uint32_t number_of(const turn<bank::Account>& t) {
  return static_cast<std::uint32_t>(std::stoul(std::string{t.id()}));
}

// True if the order is new; it is then the client's last.
bool is_new(bank::Account::Builder mine, std::uint32_t client, std::uint64_t number) {
  if (const auto known = mine.asReader().getLastOrders(); known.size() <= client) {
    std::vector<std::uint64_t> before;
    for (const std::uint64_t order : known) before.push_back(order);
    before.resize(client + 1);
    auto longer = mine.initLastOrders(client + 1);
    for (std::uint32_t n = 0; n <= client; ++n) longer.set(n, before[n]);
  }
  auto last = mine.getLastOrders();
  if (number <= last[client]) return false;
  last.set(client, number);
  return true;
}

void on_open(turn<bank::Account>& t, bank::Open::Reader m) {
  auto mine = t.state();
  if (mine.getOpen()) return;
  mine.setOpen(true);
  mine.setBalance(mine.getBalance() + m.getBalance());
}

// The debit, the deposit that is sent, the order's number and the end of the message: all of it or nothing.
void on_transfer(turn<bank::Account>& t, bank::Transfer::Reader m) {
  auto mine = t.state();
  const auto answer = [&](bool accepted) {
    t.reply<bank::Receipt>([&](auto receipt) {
      receipt.setAccepted(accepted);
      receipt.setBalance(mine.getBalance());
    });
  };
  if (!is_new(mine, m.getClient(), m.getNumber())) {
    mine.setRepeated(mine.getRepeated() + 1);
    return answer(true);
  }
  const auto mark = mark_of(m.getClient(), m.getNumber(), m.getTo());
  if (mine.getBalance() < m.getAmount()) {
    mine.setRefused(mine.getRefused() + 1);
    mine.setRefusedMark(mine.getRefusedMark() + mark);
    return answer(false);
  }
  mine.setBalance(mine.getBalance() - m.getAmount());
  mine.setSent(mine.getSent() + 1);
  mine.setSentMark(mine.getSentMark() + mark);
  if (!split_turn) {
    t.send<bank::Deposit>(account(m.getTo()), [&](auto deposit) {
      deposit.setClient(m.getClient());
      deposit.setNumber(m.getNumber());
      deposit.setAmount(m.getAmount());
    });
  }
  answer(true);
}

// Needs no number to be known by: what a turn sends arrives once.
void on_deposit(turn<bank::Account>& t, bank::Deposit::Reader m) {
  auto mine = t.state();
  mine.setBalance(mine.getBalance() + m.getAmount());
  mine.setReceived(mine.getReceived() + 1);
  mine.setReceivedMark(mine.getReceivedMark() + mark_of(m.getClient(), m.getNumber(), number_of(t)));
}

void on_inquiry(turn<bank::Account>& t, bank::Inquiry::Reader) {
  t.reply<bank::Statement>([&](auto statement) { statement.setAccount(t.state().asReader()); });
}

// ---- who gives the orders

std::atomic<bool> asked_to_end{false};

class bank_program {
public:
  bank_program(const settings& s, posthorn::node& n) : s_{s}, node_{n} {}

  int run() {
    if (!open_accounts()) return 1;
    say("ready\n");
    if (s_.clients > 0) {
      std::vector<std::jthread> clients;
      for (std::uint32_t c = 0; c < s_.clients; ++c) clients.emplace_back([this, c] { give_orders(c); });
      std::jthread killer;
      if (s_.kill_every > 0) killer = std::jthread{[this](const std::stop_token& end) { kill_actors(end); }};
      clients.clear();  // waits for them
    }
    if (failed_) return 1;
    return s_.check ? check() : 0;
  }

private:
  // What stdout has is what an outsider may rely on, whatever happens to this process afterwards.
  void say(const std::string& line) {
    const std::lock_guard guard{out_};
    std::fputs(line.c_str(), stdout);
    std::fflush(stdout);
  }
  bool fail(const std::string& why) {
    say("failed " + why + "\n");
    failed_ = true;
    return false;
  }

  bool open_accounts() {
    std::vector<std::future<posthorn::result<void>>> sent;
    for (std::uint32_t a = 0; a < s_.accounts; ++a) {
      sent.push_back(node_.send<bank::Open>(account(a), [&](auto m) { m.setBalance(s_.opening_balance); }));
    }
    for (auto& each : sent) {
      if (auto done = each.get(); !done) return fail(done.error().text);
    }
    return true;
  }

  // An order follows from its client and number alone, so that it can be given again after a crash.
  struct order {
    std::uint32_t from, to;
    std::int64_t amount;
  };
  [[nodiscard]] order order_of(std::uint32_t client, std::uint64_t number) const {
    const auto chance = mix(mix(s_.seed + client) + number);
    return {static_cast<std::uint32_t>(chance % s_.accounts),
            static_cast<std::uint32_t>((chance >> 24) % s_.accounts),
            static_cast<std::int64_t>((chance >> 56) % 50)};
  }

  void give_orders(std::uint32_t client) {
    const auto first = client < s_.resume.size() ? s_.resume[client] : 1;
    std::deque<std::future<posthorn::result<void>>> waiting;
    auto confirmed = first;
    const auto wait_for_one = [&] {
      if (auto done = waiting.front().get(); !done) return fail(done.error().text);
      waiting.pop_front();
      say("confirmed " + std::to_string(client) + " " + std::to_string(confirmed++) + "\n");
      return true;
    };
    for (auto n = first; (s_.transfers == 0 || n < first + s_.transfers) && !asked_to_end && !failed_; ++n) {
      if (split_turn) {
        if (!debit_then_deposit(client, n)) return;
        continue;
      }
      const auto o = order_of(client, n);
      waiting.push_back(node_.send<bank::Transfer>(account(o.from), [&](auto m) { fill(m, client, n, o); }));
      if (waiting.size() >= s_.window && !wait_for_one()) return;
    }
    while (!waiting.empty()) {
      if (!wait_for_one()) return;
    }
  }
  static void fill(bank::Transfer::Builder m, std::uint32_t client, std::uint64_t number, const order& o) {
    m.setClient(client);
    m.setNumber(number);
    m.setTo(o.to);
    m.setAmount(o.amount);
  }

  // What durable turns are there to prevent.
  bool debit_then_deposit(std::uint32_t client, std::uint64_t number) {
    const auto o = order_of(client, number);
    auto receipt = node_.ask<bank::Transfer, bank::Receipt>(account(o.from), 10s,
                                                            [&](auto m) { fill(m, client, number, o); });
    if (!receipt) return fail(receipt.error().text);
    say("confirmed " + std::to_string(client) + " " + std::to_string(number) + "\n");
    if (!(*receipt)->get().getAccepted()) return true;
    auto sent = node_.send<bank::Deposit>(account(o.to), [&](auto m) {
      m.setClient(client);
      m.setNumber(number);
      m.setAmount(o.amount);
    });
    if (auto done = sent.get(); !done) return fail(done.error().text);
    return true;
  }

  // Anybody in the tree, but in every other case first a kind and then one of it, or only accounts would ever die.
  void kill_actors(const std::stop_token& end) {
    std::mt19937_64 random{
        s_.seed ^ static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count())};
    std::mutex mutex;
    std::condition_variable_any due;
    std::unique_lock lock{mutex};
    while (!due.wait_for(lock, end, std::chrono::milliseconds{s_.kill_every}, [] { return false; })) {
      if (end.stop_requested()) return;
      std::map<std::string, std::vector<std::string>> by_kind;
      std::vector<std::string> all;
      (void)node_.tree().walk("/", 10'000, [&](const posthorn::actor_report& r) {
        by_kind[r.kind].push_back(r.path);
        all.push_back(r.path);
      });
      if (all.empty()) continue;
      const auto* from = &all;
      if (random() % 2 == 0) {
        auto kind = by_kind.begin();
        std::advance(kind, static_cast<std::ptrdiff_t>(random() % by_kind.size()));
        from = &kind->second;
      }
      const auto& path = (*from)[random() % from->size()];
      if (node_.tree().kill(path)) say("killed " + path + "\n");
    }
  }

  // Everything has settled when as many transfers have come in as have left. No orders are given any more, and an
  // inquiry stands behind all orders in its account's mailbox, so what has left is final in the first answers already.
  int check() {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds{s_.settle_within};
    for (;;) {
      std::vector<std::unique_ptr<posthorn::answer_of<bank::Statement>>> statements(s_.accounts);
      std::atomic<std::uint32_t> next{0};
      std::vector<std::jthread> askers(8);
      for (auto& each : askers) {
        each = std::jthread{[&] {
          for (std::uint32_t a = next++; a < s_.accounts && !failed_; a = next++) {
            auto answer = node_.ask<bank::Inquiry, bank::Statement>(account(a), 10s, [](auto) {});
            if (!answer) return (void)fail(answer.error().text);
            statements[a] = std::move(*answer);
          }
        }};
      }
      askers.clear();  // waits for them
      if (failed_) return 1;
      std::int64_t sum = 0;
      std::uint64_t sent = 0, received = 0;
      for (const auto& statement : statements) {
        const auto one = statement->get().getAccount();
        sum += one.getBalance();
        sent += one.getSent();
        received += one.getReceived();
      }
      const bool in_time = std::chrono::steady_clock::now() < until;
      if (sent != received && in_time) continue;
      for (std::uint32_t a = 0; a < s_.accounts; ++a) print(a, statements[a]->get().getAccount());
      say("sum " + std::to_string(sum) + " sent " + std::to_string(sent) + " received " +
          std::to_string(received) + "\n");
      return sent == received ? 0 : 3;
    }
  }
  void print(std::uint32_t number, bank::Account::Reader a) {
    std::string line = "account " + std::to_string(number);
    for (const auto value : {a.getSent(), a.getReceived(), a.getRefused(), a.getRepeated(), a.getSentMark(),
                             a.getReceivedMark(), a.getRefusedMark()}) {
      line += " " + std::to_string(value);
    }
    line += " " + std::to_string(a.getBalance());
    for (const auto last : a.getLastOrders()) line += " " + std::to_string(last);
    say(line + "\n");
  }

  const settings& s_;
  posthorn::node& node_;
  std::mutex out_;
  std::atomic<bool> failed_{false};
};

}  // namespace

int main(int argc, char** argv) {
  settings s;
  CLI::App app{"A bank whose accounts are durable actors."};
  app.add_option("--data-dir", s.directory, "where the bank keeps its books")->required();
  app.add_option("--accounts", s.accounts)->capture_default_str();
  app.add_option("--opening-balance", s.opening_balance)->capture_default_str();
  app.add_option("--clients", s.clients, "who give orders at the same time; 0: nobody")
      ->capture_default_str();
  app.add_option("--transfers", s.transfers, "of each client; 0: until SIGTERM")->capture_default_str();
  app.add_option("--seed", s.seed, "decides all orders")->capture_default_str();
  app.add_option("--resume", s.resume, "number of each client's first order, separated by commas")
      ->delimiter(',');
  app.add_option("--window", s.window, "orders of a client that wait for confirmation")
      ->capture_default_str();
  app.add_option("--kill-every", s.kill_every, "milliseconds between two kills of random actors; 0: none");
  app.add_option("--idle-after", s.idle_after, "milliseconds until an idle account leaves memory")
      ->capture_default_str();
  app.add_flag("--check", s.check, "wait until everything has settled, and print all accounts and their sum");
  app.add_option("--settle-within", s.settle_within, "seconds until --check gives up")->capture_default_str();
  app.add_option("--http-port", s.http_port,
                 "for `posthorn actors`, `status` and `list queues`; 0: any free one, which is printed");
  posthorn::broker_settings how;
#ifdef BANK_FAULTS
  app.add_flag("--split-turn", split_turn, "debit and deposit without a common turn");
  app.add_flag("--split-commit", how.faults.split_turn, "each turn in two transactions");
#endif
  CLI11_PARSE(app, argc, argv);
  if (s.accounts == 0 || s.window == 0) {
    std::fputs("bank: --accounts and --window are 1 or more\n", stderr);
    return 2;
  }
  std::signal(SIGTERM, [](int) { asked_to_end = true; });
  std::signal(SIGINT, [](int) { asked_to_end = true; });

  how.data_directory = s.directory;
  auto node = posthorn::node::start(std::move(how));
  if (!node) {
    std::fprintf(stderr, "bank: %s\n", node.error().text.c_str());
    return 1;
  }
  auto kind = posthorn::durable<bank::Account>("account")
                  .on<bank::Open>(on_open)
                  .on<bank::Transfer>(on_transfer)
                  .on<bank::Deposit>(on_deposit)
                  .on<bank::Inquiry>(on_inquiry)
                  .idle_after(std::chrono::milliseconds{s.idle_after});
  if (auto added = (*node)->add(kind); !added) {
    std::fprintf(stderr, "bank: %s\n", added.error().text.c_str());
    return 1;
  }
  std::unique_ptr<posthorn::http_door> door;
  if (s.http_port) {
    auto listening = posthorn::listen_for_http(**node, {.host = "127.0.0.1", .port = *s.http_port});
    if (!listening) {
      std::fprintf(stderr, "bank: %s\n", listening.error().text.c_str());
      return 1;
    }
    door = std::move(*listening);
    std::printf("http %u\n", door->port());
    std::fflush(stdout);
  }
  return bank_program{s, **node}.run();
}

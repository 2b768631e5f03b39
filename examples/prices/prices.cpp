// Request and response: deadlines, an actor that asks others, an answer that takes its time. See README.md.
#include "prices.capnp.h"

#include <posthorn/node.hpp>

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace prices;
using namespace std::chrono_literals;

// ---- answers in a later turn; `turn.reply` answers within the same one

template <class State>
void remember_asker(posthorn::turn<State>& t, Asker::Builder asker) {
  asker.setReplyTo(std::string{t.reply_to()});
  asker.setCorrelationId(std::string{t.correlation()});
}

template <class Message, class State, class Fill>
void answer(posthorn::turn<State>& t, Asker::Reader asker, Fill fill) {
  try {
    t.template send<Message>(asker.getReplyTo().cStr(), fill, asker.getCorrelationId().cStr());
  } catch (const posthorn::turn_error&) {  // whoever asked has gone
  }
}

// ---- a price

void on_set_price(posthorn::turn<Price>& t, SetPrice::Reader m) {
  t.state().setAmount(m.getAmount());
  t.state().setSlow(m.getSlow());
}

// A turn never waits. What takes time goes on in a later turn: here, when the reminder comes.
void on_ask_price(posthorn::turn<Price>& t, AskPrice::Reader m) {
  const auto price = t.state().asReader();
  if (price.getSlow() == 0) {
    return t.reply<Amount>([&](auto amount) { amount.setAmount(price.getAmount() * m.getCount()); });
  }
  t.remind<ThoughtAbout>(t.idempotency_key(), std::chrono::milliseconds{price.getSlow()}, [&](auto thought) {
    remember_asker(t, thought.initAsker());
    thought.setCount(m.getCount());
  });
}

void on_thought_about(posthorn::turn<Price>& t, ThoughtAbout::Reader m) {
  answer<Amount>(t, m.getAsker(),
                 [&](auto amount) { amount.setAmount(t.state().getAmount() * m.getCount()); });
}

// ---- a till

// Asks for all prices at once; the total is said in the turn that gets the last of them.
void on_ask_total(posthorn::turn<Till>& t, AskTotal::Reader m) {
  if (m.getItems().size() == 0) return t.reply<Total>([](auto) {});
  auto till = t.state();
  const auto number = till.getLastTicket() + 1;
  till.setLastTicket(number);

  const auto before = till.disownOpen();
  const auto others = before.getReader();
  auto open = till.initOpen(others.size() + 1);
  for (unsigned n = 0; n < others.size(); ++n) open.setWithCaveats(n, others[n]);
  auto ticket = open[others.size()];
  ticket.setNumber(number);
  ticket.setWaitsFor(m.getItems().size());
  remember_asker(t, ticket.initAsker());

  for (const auto item : m.getItems()) {
    t.send<AskPrice>(
        "price/" + std::string{item.getArticle().cStr()},
        [&](auto question) { question.setCount(item.getCount()); }, std::to_string(number));
  }
}

// The correlation id is the ticket's number, so that questions of many customers may be on their way at once.
void on_amount(posthorn::turn<Till>& t, Amount::Reader m) {
  auto till = t.state();
  const auto number = t.correlation();
  for (auto ticket : till.getOpen()) {
    if (std::to_string(ticket.getNumber()) != number) continue;
    ticket.setTotal(ticket.getTotal() + m.getAmount());
    ticket.setWaitsFor(ticket.getWaitsFor() - 1);
    if (ticket.getWaitsFor() != 0) return;
    answer<Total>(t, ticket.getAsker().asReader(), [&](auto total) { total.setAmount(ticket.getTotal()); });
  }
  // Tickets that wait for nothing any more are thrown away.
  const auto before = till.disownOpen();
  std::vector<Ticket::Reader> rest;
  for (const auto ticket : before.getReader()) {
    if (ticket.getWaitsFor() != 0) rest.push_back(ticket);
  }
  auto open = till.initOpen(static_cast<unsigned>(rest.size()));
  for (unsigned n = 0; n < rest.size(); ++n) open.setWithCaveats(n, rest[n]);
}

// ---- customers

template <class T>
T must(posthorn::result<T> r) {
  if (!r) throw std::runtime_error{r.error().text};
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

using basket = std::vector<std::pair<const char*, std::uint32_t>>;

void fill(AskTotal::Builder question, const basket& what) {
  auto items = question.initItems(static_cast<unsigned>(what.size()));
  for (unsigned n = 0; n < what.size(); ++n) {
    items[n].setArticle(what[n].first);
    items[n].setCount(what[n].second);
  }
}

// What the customer hears: the total in cents, or why there is none.
std::string ask_total(posthorn::node& node, const char* till, const basket& what,
                      std::chrono::milliseconds deadline) {
  const auto total = node.ask<AskTotal, Total>(till, deadline, [&](auto question) { fill(question, what); });
  return total ? std::to_string((*total)->get().getAmount()) + " cents" : total.error().text;
}

// What is heard begins as expected.
bool expect(const std::string& what, const std::string& heard, const std::string& expected) {
  std::printf("%s\n    %s\n", what.c_str(), heard.c_str());
  const bool right = heard.starts_with(expected);
  if (!right) std::printf("    which is WRONG; it should be\n    %s\n", expected.c_str());
  std::fflush(stdout);
  return right;
}

// A hundred questions to one till, before the first answer is waited for.
std::string ask_a_hundred(posthorn::node& node) {
  std::vector<std::future<posthorn::result<posthorn::envelope_ptr>>> answers;
  for (std::uint32_t n = 0; n < 100; ++n) {
    answers.push_back(node.ask_later<AskTotal>("till/1", 10s, [&](auto question) {
      fill(question, {{"apple", n}, {"pear", 1}, {"truffle", n % 2}});
    }));
  }
  unsigned right = 0;
  for (std::uint32_t n = 0; n < 100; ++n) {
    auto total = must(posthorn::node::answer_as<Total>("till/1", answers[n].get()));
    if (total->get().getAmount() == 30 * n + 45 + 90'000 * (n % 2)) ++right;
  }
  return std::to_string(right) + " got the answer to their own";
}

}  // namespace

int main(int argc, char** argv) {
  std::string directory = "prices-data";
  CLI::App app{"Request and response between durable actors."};
  app.add_option("--data", directory, "where prices and open questions are kept")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    const auto node = must(posthorn::node::start({.data_directory = directory}));
    // Together: what was under way goes on at once, and tills and prices must find each other.
    must(node->add(posthorn::durable<Till>("till").on<AskTotal>(on_ask_total).on<Amount>(on_amount),
                   posthorn::durable<Price>("price")
                       .on<SetPrice>(on_set_price)
                       .on<AskPrice>(on_ask_price)
                       .on<ThoughtAbout>(on_thought_about)));
    const auto set = [&](const char* price, std::int64_t cents, std::uint32_t slow) {
      must(node->send<SetPrice>(price,
                                [&](auto m) {
                                  m.setAmount(cents);
                                  m.setSlow(slow);
                                })
               .get());
    };
    set("price/apple", 30, 0);
    set("price/pear", 45, 0);
    set("price/truffle", 90'000, 300);  // nobody remembers it at once

    bool right = expect("3 apples and 2 pears:", ask_total(*node, "till/1", {{"apple", 3}, {"pear", 2}}, 10s),
                        "180 cents");
    right &= expect("A truffle, within 100 ms:", ask_total(*node, "till/1", {{"truffle", 1}}, 100ms),
                    "no answer of 'till/1' came within 100 ms; it may still come, and is then dropped");
    right &= expect("A truffle and an apple, within 10 s:",
                    ask_total(*node, "till/1", {{"truffle", 1}, {"apple", 1}}, 10s), "90030 cents");
    right &= expect("At a market that is not there:", ask_total(*node, "market/1", {{"apple", 1}}, 10s),
                    "nothing has the name 'market/1'");
    right &= expect("100 questions at once:", ask_a_hundred(*node), "100 got the answer to their own");
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "prices: %s\n", e.what());
    return EXIT_FAILURE;
  }
}

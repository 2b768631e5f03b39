// An order pipeline of durable actors: an exchange, retries with back-off, dead letters. See README.md.
#include "orders.capnp.h"

#include <posthorn/node.hpp>

#include <CLI/CLI.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>

namespace {

using namespace orders;
using namespace std::chrono_literals;
using order_turn = posthorn::turn<Order>;

#ifdef ORDERS_FAULTS
bool ship_twice = false;  // wrong on purpose, see tests/e2e/examples.py
#else
constexpr bool ship_twice = false;
#endif

constexpr std::array<const char*, 3> catalogue{"lamp", "chair", "table"};
constexpr std::uint32_t attempts_max = 5;  // at one payment

std::string order_name(std::uint32_t number) { return "order/" + std::to_string(number); }

// Each line is written at once, so that it is there whatever happens to the process.
void say(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

// ---- the world outside

// A card company that is often busy. It would be given the key, so that it charges once however often it is
// asked.
void charge_card(std::string_view order, std::uint32_t attempt, const std::string& /*idempotency_key*/) {
  const auto number = std::stoul(std::string{order.substr(order.find('/') + 1)});
  const bool declined = number % 10 == 7, busy = number % 4 == 0 && attempt < 3;
  if (!declined && !busy) return;
  say(std::string{order} + ": payment failed, attempt " + std::to_string(attempt));
  throw std::runtime_error{declined ? "the card was declined" : "the card company is busy"};
}

// ---- an order

// Whoever wants to know binds a queue or an actor to the exchange.
void walk_to(order_turn& t, Step step, const char* key) {
  t.state().setStep(step);
  t.publish<Event>("orders", key, [&](auto event) {
    event.setOrder(t.self());
    event.setStep(step);
  });
}

void on_place(order_turn& t, Place::Reader m) {
  if (t.state().getStep() != Step::NEW) return;  // placed again after a restart
  t.state().setArticle(m.getArticle());
  walk_to(t, Step::PLACED, "order.placed");
  t.send<Pay>(t.self(), [](auto) {});
}

// When this throws, nothing of the turn happens, and the message comes again after a while.
void on_pay(order_turn& t, Pay::Reader) {
  charge_card(t.self(), t.attempts() + 1, t.idempotency_key());
  walk_to(t, Step::PAID, "order.paid");
  t.send<Reserve>("stock/" + std::string{t.state().getArticle().cStr()},
                  [&](auto reserve) { reserve.setOrder(t.self()); });
}

void on_reserved(order_turn& t, Reserved::Reader) { walk_to(t, Step::RESERVED, "order.reserved"); }

void on_sold_out(order_turn& t, SoldOut::Reader) { t.reject("sold out"); }

void on_ship(order_turn& t, Ship::Reader) {
  t.state().setTimesShipped(t.state().getTimesShipped() + 1);
  walk_to(t, Step::SHIPPED, "order.shipped");
}

void on_failed(order_turn& t, Failed::Reader m) {
  t.state().setTimesFailed(t.state().getTimesFailed() + 1);
  t.state().setReason(m.getReason());
  walk_to(t, Step::FAILED, "order.failed");
}

void on_ask_order(order_turn& t, AskOrder::Reader) {
  t.reply<OrderStatus>([&](auto status) { status.setOrder(t.state().asReader()); });
}

// ---- those who work for it

void on_fill(posthorn::turn<Stock>& t, Fill::Reader m) { t.state().setSupply(m.getSupply()); }

// A reply would go to the order, too. But a reply may get lost where nobody waits for it any more; to send is to be
// sure, also right after a restart, when the orders are not there yet: then the turn fails, and is tried again.
void on_reserve(posthorn::turn<Stock>& t, Reserve::Reader m) {
  const char* order = m.getOrder().cStr();
  auto stock = t.state();
  if (stock.getTaken() >= stock.getSupply()) return t.send<SoldOut>(order, [](auto) {});
  stock.setTaken(stock.getTaken() + 1);
  t.send<Reserved>(order, [](auto) {});
}

void on_ask_stock(posthorn::turn<Stock>& t, AskStock::Reader) {
  t.reply<StockStatus>([&](auto status) { status.setStock(t.state().asReader()); });
}

// Bound to order.reserved: knows no orders but those that the exchange tells it about.
void on_ready_to_ship(posthorn::turn<Nothing>& t, Event::Reader event) {
  t.send<Ship>(event.getOrder().cStr(), [](auto) {});
  if (ship_twice) t.send<Ship>(event.getOrder().cStr(), [](auto) {});
}

// Bound to order.*: sees each step of each order.
void on_event(posthorn::turn<Board>& t, Event::Reader event) {
  auto board = t.state();
  switch (event.getStep()) {
    case Step::NEW: break;
    case Step::PLACED: board.setPlaced(board.getPlaced() + 1); break;
    case Step::PAID: board.setPaid(board.getPaid() + 1); break;
    case Step::RESERVED: board.setReserved(board.getReserved() + 1); break;
    case Step::SHIPPED: board.setShipped(board.getShipped() + 1); break;
    case Step::FAILED: board.setFailed(board.getFailed() + 1); break;
  }
}

void on_ask_board(posthorn::turn<Board>& t, AskBoard::Reader) {
  t.reply<BoardStatus>([&](auto status) { status.setBoard(t.state().asReader()); });
}

// ---- dead letters

struct obituary {
  std::string mailbox, reason;
};

// The newest entry of x-death: which mailbox gave the message up, and why.
obituary obituary_of(const posthorn::envelope& letter) {
  const auto headers = posthorn::decode_table(posthorn::headers_of(letter.properties()));
  const auto* deaths = headers ? headers->find("x-death") : nullptr;
  const auto* list = deaths != nullptr ? posthorn::as_array(*deaths) : nullptr;
  const auto* newest = list != nullptr && !list->empty() ? posthorn::as_table(list->front()) : nullptr;
  if (newest == nullptr) throw std::runtime_error{"a dead letter without x-death"};
  const auto text = [&](std::string_view name) {
    const auto* value = newest->find(name);
    return std::string{value != nullptr ? posthorn::as_string(*value).value_or("") : ""};
  };
  return {text("queue"), text("reason")};
}

// A dead letter is the message itself, of whatever type: here, of those that orders may die of.
template <class Message>
void on_dead_letter(posthorn::turn<Nothing>& t, typename Message::Reader) {
  const auto death = obituary_of(t.raw().message());
  t.send<Failed>(death.mailbox, [&](auto failed) { failed.setReason(death.reason); });
}

// ---- the program

template <class T>
T must(posthorn::result<T> r) {
  if (!r) throw std::runtime_error{r.error().text};
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

// Everything here is there already when the program is started again, which is no error.
void build_pipeline(posthorn::node& node) {
  must(node.declare_exchange("orders", posthorn::exchange_type::topic));
  must(node.declare_exchange("dead", posthorn::exchange_type::fanout));
  must(node.declare_queue("dead-orders"));
  must(node.bind("dead-orders", "dead"));

  // Orders come last: those that were under way go on at once, and want to find the others.
  must(node.add(posthorn::durable<Board>("board").on<Event>(on_event).on<AskBoard>(on_ask_board)));
  must(node.add(posthorn::durable<Nothing>("shipping").on<Event>(on_ready_to_ship)));
  must(node.add(posthorn::durable<Nothing>("complaints")
                    .on<Pay>(on_dead_letter<Pay>)
                    .on<SoldOut>(on_dead_letter<SoldOut>)));
  must(node.bind("board/all", "orders", "order.*"));
  must(node.bind("shipping/desk", "orders", "order.reserved"));
  must(node.bind("complaints/desk", "dead"));
  must(node.add(posthorn::durable<Stock>("stock")
                    .on<Fill>(on_fill)
                    .on<Reserve>(on_reserve)
                    .on<AskStock>(on_ask_stock)));
  posthorn::child_spec patience;
  patience.back_off = {.minimum = 20ms, .maximum = 500ms};
  patience.budget = posthorn::restart_intensity{100, 10s};
  must(node.add(posthorn::durable<Order>("order")
                    .on<Place>(on_place)
                    .on<Pay>(on_pay)
                    .on<Reserved>(on_reserved)
                    .on<SoldOut>(on_sold_out)
                    .on<Ship>(on_ship)
                    .on<Failed>(on_failed)
                    .on<AskOrder>(on_ask_order)
                    .delivery_limit(attempts_max - 1)
                    .dead_letters_to("dead", "order")
                    .supervision(patience)));
}

void place_orders(posthorn::node& node, std::uint32_t count) {
  for (const auto* article : catalogue) {
    // Not enough for everybody.
    must(node.send<Fill>(std::string{"stock/"} + article, [&](auto m) { m.setSupply(count * 29 / 100); })
             .get());
  }
  for (std::uint32_t n = 1; n <= count; ++n) {
    must(node.send<Place>(order_name(n), [&](auto m) { m.setArticle(catalogue[n % catalogue.size()]); })
             .get());
    if (n % 50 == 0 || n == count) say("placed " + std::to_string(n) + " orders");
  }
}

auto ask_board(posthorn::node& node) {
  return must(node.ask<AskBoard, BoardStatus>("board/all", 10s, [](auto) {}));
}

std::unique_ptr<posthorn::answer_of<OrderStatus>> when_done(
    posthorn::node& node, std::uint32_t number, std::chrono::steady_clock::time_point give_up_at) {
  for (;;) {
    auto answer = must(node.ask<AskOrder, OrderStatus>(order_name(number), 10s, [](auto) {}));
    const auto step = answer->get().getOrder().getStep();
    if (step == Step::SHIPPED || step == Step::FAILED) return answer;
    if (std::chrono::steady_clock::now() > give_up_at) {
      throw std::runtime_error{order_name(number) + " is still not done"};
    }
    std::this_thread::sleep_for(20ms);
  }
}

// True if each order was shipped once or has failed once, and the books of the stock say the same.
bool settle(posthorn::node& node, std::uint32_t count, std::chrono::seconds patience) {
  const auto give_up_at = std::chrono::steady_clock::now() + patience;
  std::uint32_t shipped = 0, wrong = 0;
  std::map<std::string, std::uint32_t> failed, shipped_of;  // by reason, by article
  for (std::uint32_t n = 1; n <= count; ++n) {
    const auto answer = when_done(node, n, give_up_at);
    const auto order = answer->get().getOrder();
    if (order.getTimesShipped() + order.getTimesFailed() != 1) {
      ++wrong;
      say(order_name(n) + ": shipped " + std::to_string(order.getTimesShipped()) + " times, failed " +
          std::to_string(order.getTimesFailed()) + " times");
    }
    shipped += order.getTimesShipped();
    shipped_of[order.getArticle().cStr()] += order.getTimesShipped();
    if (order.getTimesFailed() != 0) ++failed[order.getReason().cStr()];
  }

  // The dead letters stand in their queue for whoever looks after them. They are taken out as they are listed;
  // orders know by themselves what has become of them.
  while (const auto letter = must(node.take("dead-orders"))) {
    const auto death = obituary_of(*letter);
    say("dead letter of " + death.mailbox + ": " + death.reason);
  }

  for (const auto* article : catalogue) {
    const auto answer =
        must(node.ask<AskStock, StockStatus>(std::string{"stock/"} + article, 10s, [](auto) {}));
    const auto stock = answer->get().getStock();
    say(std::string{article} + "s: " + std::to_string(stock.getTaken()) + " of " +
        std::to_string(stock.getSupply()) + " taken, " + std::to_string(shipped_of[article]) + " shipped");
    if (stock.getTaken() != shipped_of[article]) ++wrong;
  }
  const auto seen = ask_board(node);
  const auto board = seen->get().getBoard();
  say("board: " + std::to_string(board.getPlaced()) + " placed, " + std::to_string(board.getPaid()) +
      " paid, " + std::to_string(board.getReserved()) + " reserved, " + std::to_string(board.getShipped()) +
      " shipped, " + std::to_string(board.getFailed()) + " failed");
  if (board.getPlaced() != count || board.getShipped() + board.getFailed() != count) ++wrong;

  std::string summary = std::to_string(count) + " orders: " + std::to_string(shipped) + " shipped";
  for (const auto& [reason, times] : failed) summary += ", " + std::to_string(times) + " " + reason;
  say(summary + (wrong == 0 ? "; all accounted for" : "; the books are WRONG"));
  return wrong == 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string directory = "orders-data";
  std::uint32_t count = 20, patience = 60;
  CLI::App app{"An order pipeline of durable actors."};
  app.add_option("--data", directory, "where the state is kept")->capture_default_str();
  app.add_option("--orders", count, "how many are placed; the same as before, if it goes on")
      ->capture_default_str();
  app.add_option("--within", patience, "seconds until it gives up")->capture_default_str();
  posthorn::broker_settings settings;
#ifdef ORDERS_FAULTS
  app.add_flag("--ship-twice", ship_twice, "each order");
  app.add_flag("--split-commit", settings.faults.split_turn, "each turn in two transactions");
#endif
  CLI11_PARSE(app, argc, argv);
  settings.data_directory = directory;
  try {
    const auto node = must(posthorn::node::start(settings));
    build_pipeline(*node);
    const auto before = ask_board(*node);
    if (const auto board = before->get().getBoard(); board.getPlaced() > 0) {
      say("goes on: " + std::to_string(board.getPlaced()) + " orders were placed, of which " +
          std::to_string(board.getShipped()) + " are shipped and " + std::to_string(board.getFailed()) +
          " have failed");
    }
    place_orders(*node, count);
    return settle(*node, count, std::chrono::seconds{patience}) ? EXIT_SUCCESS : EXIT_FAILURE;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "orders: %s\n", e.what());
    return EXIT_FAILURE;
  }
}

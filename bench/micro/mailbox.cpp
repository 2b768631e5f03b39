// The mailbox: publish, dispatch, acknowledge, and what the journal gets.
#include "mailbox/mailbox.hpp"

#include "bench/micro/meter.hpp"

#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace posthorn::bench {

namespace {

constexpr std::size_t batch_size = 100;  // messages that come together
constexpr consumer_id consumer{1};
constexpr std::int64_t now = 1'800'000'000'000;

enum class acknowledged { before_commit, after_commit, never };

struct way {
  bool has_consumer = true;
  bool is_persistent = true;
  bool is_automatic = false;  // deliveries need no acknowledgement
  acknowledged when = acknowledged::after_commit;
  mailbox_rules rules{};
  std::size_t waiting = 0;  // messages that stand before those that come
};

class load {
public:
  explicit load(const way& w)
      : way_{w},
        box_{true, {std::size_t{1} << 40}, {}, w.rules},
        message_{make_envelope("", "orders", {}, w.is_persistent, std::as_bytes(std::span{body_}))} {
    for (std::size_t n = 0; n < w.waiting; n += batch_size) publish();
    write();
    if (w.has_consumer)
      box_.add_consumer(
          {consumer, batch_size, !w.is_automatic, std::numeric_limits<std::int64_t>::max() / 2});
  }

  // One batch: from its arrival until it has left the mailbox, or is stored.
  void pass() {
    publish();
    box_.dispatch(out_, now);
    std::optional<sequence_range> delivered;
    if (!out_.deliveries.empty()) delivered = {out_.deliveries.front().at, out_.deliveries.back().at};
    out_.clear();
    if (way_.when == acknowledged::before_commit && delivered)
      box_.acknowledge(consumer, {&*delivered, 1}, out_);
    write();
    if (way_.when == acknowledged::after_commit && delivered && !way_.is_automatic) {
      box_.acknowledge(consumer, {&*delivered, 1}, out_);
      write();
    }
    keep(out_);
    out_.clear();
  }

private:
  void publish() {
    arrivals_.clear();
    for (std::size_t n = 0; n < batch_size; ++n) arrivals_.push_back({message_, publisher_id{1}, ++number_});
    box_.publish(arrivals_, out_, now);
  }
  void write() {
    auto batch = box_.take_batch();
    keep(batch);
    if (batch.empty()) return;
    box_.on_committed(out_);
  }

  way way_;
  std::string body_ = std::string(1024, 'x');
  mailbox box_;
  envelope_ptr message_;
  std::vector<arrival> arrivals_;
  std::uint64_t number_ = 0;
  effects out_;
};

void measure_way(meter& m, const std::string& name, const way& w) {
  constexpr std::uint64_t count = 100'000;
  m.measure_once_each(
      "mailbox: " + name, count, [&] { return std::make_unique<load>(w); },
      [](const std::unique_ptr<load>& l) {
        for (std::uint64_t n = 0; n < count; n += batch_size) l->pass();
      });
}

}  // namespace

void measure_mailbox(meter& m) {
  measure_way(m, "persistent, consumed, acknowledged before the commit",
              {.when = acknowledged::before_commit});
  measure_way(m, "persistent, consumed, committed, acknowledged, erased", {});
  measure_way(m, "persistent, no consumer: taken in and committed",
              {.has_consumer = false, .when = acknowledged::never});
  measure_way(m, "transient, consumed and acknowledged", {.is_persistent = false});
  measure_way(m, "transient, consumed without acknowledgements",
              {.is_persistent = false, .is_automatic = true});
  mailbox_rules rules;
  rules.message_ttl = std::chrono::hours{1};
  rules.length_max = 1'000'000;
  rules.dead_letter_exchange = "dead";
  rules.delivery_limit = 5;
  measure_way(m, "the second with a TTL, a length limit and a delivery limit", {.rules = rules});
  measure_way(m, "the second behind 1,000,000 waiting messages", {.waiting = 1'000'000});
  mailbox_rules bounded;
  bounded.length_max = 10'000;
  measure_way(m, "no consumer, full at 10,000: the oldest gives way",
              {.has_consumer = false, .when = acknowledged::never, .rules = bounded, .waiting = 10'000});
}

}  // namespace posthorn::bench

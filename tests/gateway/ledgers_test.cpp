#include "gateway/amqp091/ledgers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

using namespace posthorn;
using namespace posthorn::amqp091;

namespace {

// The sequences that the client's answer takes, or "refused".
std::string answered(delivery_ledger& l, std::uint64_t tag, bool multiple) {
  std::string text;
  const bool known = l.answer(tag, multiple, [&](const delivery_ledger::entry& e) {
    text += (text.empty() ? "" : " ") + std::to_string(e.holder) + ":" + std::to_string(e.at.value);
  });
  return known ? text : "refused";
}

}  // namespace

TEST_CASE("publishes are numbered from 1 and answered for in their order [25]", "[ledgers]") {
  publish_ledger l;
  CHECK(l.answered() == 0);
  CHECK(l.enter(1, 10) == 1);
  CHECK(l.enter(2, 20) == 2);
  CHECK(l.enter(1, 30) == 3);
  CHECK(l.last() == 3);
  CHECK(l.size() == 60);
  CHECK(l.settle(3, 3) == 30);
  CHECK(l.answered() == 0);
  CHECK(l.settle(1, 2) == 10);
  CHECK(l.answered() == 1);
  CHECK(l.settle(2, 2) == 20);
  CHECK(l.answered() == 3);
  CHECK(l.size() == 0);
  CHECK(l.settle(1, 9) == 0);  // not open any more, or not yet
  CHECK(l.enter(1, 5) == 4);
  CHECK(l.answered() == 3);
}

TEST_CASE("a publish that goes nowhere is answered for at once, but not before those in front of it",
          "[ledgers]") {
  publish_ledger l;
  CHECK(l.enter(0, 10) == 1);
  CHECK(l.answered() == 1);
  CHECK(l.enter(1, 10) == 2);
  CHECK(l.enter(0, 10) == 3);
  CHECK(l.answered() == 1);
  CHECK(l.settle(2, 2) == 10);
  CHECK(l.answered() == 3);
  CHECK(l.last() == 3);
}

TEST_CASE("only publishes on their way to a queue take memory", "[ledgers]") {
  publish_ledger l;
  l.enter(0, 100);
  CHECK(l.size() == 0);
  l.enter(1, 10);
  l.enter(0, 100);
  CHECK(l.size() == 10);
  l.settle(2, 2);
  CHECK(l.size() == 0);
}

TEST_CASE("a publish ledger answers for no publish that some queue has not settled, whatever the order",
          "[ledgers]") {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    publish_ledger l;
    std::vector<std::uint32_t> missing{0};  // by number
    std::vector<std::uint64_t> queues[3];   // what each still has to settle
    std::size_t in_flight = 0;
    for (int step = 0; step < 3000; ++step) {
      if (random() % 2 == 0) {
        const auto targets = 1 + static_cast<std::uint32_t>(random() % 3);
        const auto number = l.enter(targets, 7);
        REQUIRE(number == missing.size());
        missing.push_back(targets);
        in_flight += 7;
        for (std::uint32_t q = 0; q < targets; ++q) queues[q].push_back(number);
      } else if (auto& q = queues[random() % 3]; !q.empty()) {
        const auto at = static_cast<std::ptrdiff_t>(random() % q.size());
        const auto number = q[static_cast<std::size_t>(at)];
        q.erase(q.begin() + at);
        if (--missing[number] == 0) in_flight -= 7;
        l.settle(number, number);
      }
      std::uint64_t safe = 0;
      for (std::uint64_t n = l.answered() > 2 ? l.answered() - 2 : 1; n < missing.size() && missing[n] == 0;
           ++n)
        safe = n;
      REQUIRE(l.answered() == safe);
      REQUIRE(l.size() == in_flight);
    }
  }
}

TEST_CASE("delivery tags count from 1 and are answered once [41]", "[ledgers]") {
  delivery_ledger l;
  CHECK(answered(l, 1, false) == "refused");
  CHECK(answered(l, 0, false) == "refused");
  CHECK(l.enter(0, {10}) == 1);
  CHECK(l.enter(1, {20}) == 2);
  CHECK(l.enter(0, {11}) == 3);
  CHECK_FALSE(l.empty());
  CHECK(answered(l, 4, false) == "refused");
  CHECK(answered(l, 4, true) == "refused");
  CHECK(answered(l, 2, false) == "1:20");
  CHECK(answered(l, 2, false) == "refused");
  CHECK(answered(l, 2, true) == "refused");
  CHECK(answered(l, 3, true) == "0:10 0:11");
  CHECK(l.empty());
  CHECK(answered(l, 3, true) == "refused");
  CHECK(l.enter(0, {12}) == 4);
  CHECK(answered(l, 1, false) == "refused");
  CHECK(answered(l, 4, false) == "0:12");
}

TEST_CASE("multiple answers all up to the tag, and tag 0 all there is, be it nothing [41]", "[ledgers]") {
  delivery_ledger l;
  CHECK(answered(l, 0, true).empty());
  for (std::uint64_t n = 1; n <= 5; ++n) l.enter(0, {n});
  CHECK(answered(l, 3, true) == "0:1 0:2 0:3");
  CHECK(answered(l, 0, true) == "0:4 0:5");
  CHECK(answered(l, 0, true).empty());
  CHECK(l.enter(0, {6}) == 6);
}

TEST_CASE("deliveries that want no answer use up tags, and answering one is an error [46]", "[ledgers]") {
  delivery_ledger l;
  CHECK(l.pass() == 1);
  CHECK(l.enter(0, {1}) == 2);
  CHECK(l.pass() == 3);
  CHECK(l.enter(0, {2}) == 4);
  CHECK(l.pass() == 5);
  CHECK(answered(l, 1, false) == "refused");
  CHECK(answered(l, 3, false) == "refused");
  CHECK(answered(l, 2, false) == "0:1");
  CHECK(answered(l, 4, true) == "0:2");
  CHECK(l.empty());
  CHECK(l.pass() == 6);
  CHECK(l.enter(0, {3}) == 7);
  CHECK(answered(l, 0, true) == "0:3");
}

TEST_CASE("a delivery ledger behaves like a map of open tags", "[ledgers]") {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    delivery_ledger l;
    std::map<std::uint64_t, std::uint64_t> open;  // tag -> sequence
    std::uint64_t last = 0;
    for (int step = 0; step < 5000; ++step) {
      switch (random() % 5) {
        case 0: REQUIRE(l.pass() == ++last); break;
        case 1:
        case 2:
          REQUIRE(l.enter(3, {last * 10}) == last + 1);
          open[last + 1] = last * 10;
          ++last;
          break;
        default: {
          const auto tag = random() % 10 == 0 ? 0 : 1 + random() % (last + 2);
          const bool multiple = random() % 4 == 0;
          std::set<std::uint64_t> expected, got;
          const bool known = tag == 0 ? multiple : open.contains(tag);
          if (known) {
            for (const auto& [t, at] : open) {
              if (t == tag || (multiple && (tag == 0 || t < tag))) expected.insert(at);
            }
            std::erase_if(open, [&](const auto& o) { return expected.contains(o.second); });
          }
          REQUIRE(l.answer(tag, multiple, [&](const auto& e) { REQUIRE(got.insert(e.at.value).second); }) ==
                  known);
          REQUIRE(got == expected);
        }
      }
    }
  }
}

TEST_CASE("what is answered in a transaction is set aside until its end [27]", "[ledgers]") {
  delivery_ledger l;
  for (std::uint64_t n = 1; n <= 6; ++n) l.enter(0, {n});
  CHECK(l.set_aside(2, false) == tag_range{2, 2});
  CHECK_FALSE(l.set_aside(2, false));
  CHECK_FALSE(l.set_aside(2, true));
  CHECK(answered(l, 2, false) == "refused");
  CHECK_FALSE(l.set_aside(7, false));
  CHECK_FALSE(l.set_aside(0, false));
  CHECK(l.set_aside(4, true) == tag_range{1, 4});
  CHECK(answered(l, 0, true) == "0:5 0:6");  // recover takes only what is open
  CHECK(l.set_aside(0, true)->last >= 6);
  l.reopen_aside();
  CHECK(answered(l, 5, false) == "refused");
  CHECK(l.set_aside(1, false) == tag_range{1, 1});
  std::string taken;
  l.answer_aside({1, 9}, [&](const auto& e) { taken += std::to_string(e.at.value); });
  CHECK(taken == "1");
  CHECK(answered(l, 0, true) == "0:2 0:3 0:4");
  CHECK(l.empty());
  CHECK(l.set_aside(0, true)->empty());
}

TEST_CASE("a delivery ledger with transactions behaves like two maps", "[ledgers]") {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    delivery_ledger l;
    std::set<std::uint64_t> open, aside;  // tags; the sequence is ten times that
    std::vector<tag_range> answers;
    std::uint64_t last = 0;
    for (int step = 0; step < 5000; ++step) {
      switch (random() % 8) {
        case 0: REQUIRE(l.pass() == ++last); break;
        case 1:
        case 2:
        case 3:
          ++last;
          REQUIRE(l.enter(3, {last * 10}) == last);
          open.insert(last);
          break;
        case 4:
          l.reopen_aside();
          open.merge(aside);
          aside.clear();
          answers.clear();
          break;
        case 5: {
          std::set<std::uint64_t> got;
          for (const auto& which : answers) {
            l.answer_aside(which, [&](const auto& e) { REQUIRE(got.insert(e.at.value / 10).second); });
          }
          REQUIRE(got == aside);
          aside.clear();
          answers.clear();
          break;
        }
        default: {
          const auto tag = random() % 10 == 0 ? 0 : 1 + random() % (last + 2);
          const bool multiple = random() % 4 == 0, at_once = random() % 8 == 0;
          const bool known = tag == 0 ? multiple : open.contains(tag);
          std::set<std::uint64_t> expected, got;
          for (const auto t : open) {
            if (known && (t == tag || (multiple && (tag == 0 || t < tag)))) expected.insert(t);
          }
          if (at_once) {
            REQUIRE(l.answer(tag, multiple, [&](const auto& e) { got.insert(e.at.value / 10); }) == known);
            REQUIRE(got == expected);
          } else {
            const auto which = l.set_aside(tag, multiple);
            REQUIRE(which.has_value() == known);
            if (which && !which->empty()) answers.push_back(*which);
            aside.insert(expected.begin(), expected.end());
          }
          for (const auto t : expected) open.erase(t);
        }
      }
    }
  }
}

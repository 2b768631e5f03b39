#include "mailbox/recent_history.hpp"

#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>
#include <vector>

using namespace posthorn;
using strings = std::vector<std::string>;

namespace {

envelope_ptr message(const std::string& body, const field_table& headers = {}) {
  basic_properties p;
  p.headers = headers;
  std::string properties;
  encode_properties(p, properties);
  return make_envelope("x", "k", std::as_bytes(std::span{properties}), false, std::as_bytes(std::span{body}));
}

strings bodies(const recent_history& history) {
  strings out;
  for (const auto& m : history.messages())
    out.emplace_back(reinterpret_cast<const char*>(m->body().data()), m->body().size());
  return out;
}

}  // namespace

TEST_CASE("the last messages are remembered, oldest first", "[recent_history]") {
  recent_history history{3};
  CHECK(bodies(history).empty());
  for (const auto* body : {"a", "b", "c", "d", "e"}) history.remember(message(body));
  CHECK(bodies(history) == strings{"c", "d", "e"});
  recent_history usual;
  for (int n = 0; n < 50; ++n) usual.remember(message(std::to_string(n)));
  CHECK(usual.messages().size() == 20);
  CHECK(bodies(usual).front() == "30");
}

TEST_CASE("a history does not outgrow its bytes", "[recent_history]") {
  const auto size = message(std::string(1000, 'a'))->footprint();
  recent_history history{100, 3 * size};
  for (const char c : {'a', 'b', 'c', 'd'}) history.remember(message(std::string(1000, c)));
  CHECK(history.messages().size() == 3);
  CHECK(history.bytes() == 3 * size);
  history.remember(message(std::string(4000, 'z')));  // would leave nothing else
  CHECK(bodies(history) == strings{std::string(1000, 'b'), std::string(1000, 'c'), std::string(1000, 'd')});
  history.remember(message("small"));
  CHECK(history.messages().size() == 3);
  CHECK(bodies(history).back() == "small");
}

TEST_CASE("a message may ask not to be remembered", "[recent_history]") {
  recent_history history{10};
  history.remember(message("a", {{"x-recent-history-no-store", field_value::of_bool(true)}}));
  CHECK(bodies(history).empty());
  history.remember(message("b", {{"x-recent-history-no-store", field_value::of_bool(false)}}));
  history.remember(message("c", {{"x-recent-history-no-store", field_value::of_string("true")}}));
  history.remember(message("d", {{"note", field_value::of_string("x-recent-history-no-store")}}));
  CHECK(bodies(history) == strings{"b", "c", "d"});
}

TEST_CASE("an exchange says how much is remembered", "[recent_history]") {
  const auto length = [](field_value v) {
    return recent_history::length_of({{"x-recent-history-length", std::move(v)}});
  };
  CHECK(recent_history::length_of({}) == 20);
  CHECK(length(field_value::of_int(3)) == 3);
  CHECK(length(field_value::of_long(1'000'000'000'000)) == 1'000'000'000'000);
  CHECK(length(field_value::of_int(0)) == 20);
  CHECK(length(field_value::of_string("3")) == 20);
  CHECK_FALSE(recent_history::invalid({}));
  CHECK_FALSE(recent_history::invalid({{"x-recent-history-length", field_value::of_int(1)}}));
  CHECK(recent_history::invalid({{"x-recent-history-length", field_value::of_double(1.5)}}) ==
        "Invalid argument 1.5, 'x-recent-history-length' must be a positive integer");
}

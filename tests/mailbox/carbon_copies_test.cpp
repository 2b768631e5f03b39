// Numbers in brackets are those of docs/amqp.md.
#include "mailbox/carbon_copies.hpp"

#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>
#include <vector>

using namespace posthorn;
using strings = std::vector<std::string>;

namespace {

struct message {
  std::string octets;

  message(const field_table& headers) {  // NOLINT: said in one word
    basic_properties p;
    p.content_type = "CC";
    p.headers = headers;
    p.message_id = std::string{"\3BCC"};
    encode_properties(p, octets);
  }
  [[nodiscard]] std::span<const std::byte> properties() const { return std::as_bytes(std::span{octets}); }
};

field_value keys(const strings& names) {
  field_array out;
  for (const auto& name : names) out.push_back(field_value::of_string(name));
  return field_value::of_array(std::move(out));
}

}  // namespace

TEST_CASE("the keys of CC stand before those of BCC [31]", "[carbon_copies]") {
  const message m{{{"BCC", keys({"c"})}, {"CC", keys({"a", "b", "a", ""})}}};
  CHECK(may_name_copies(m.properties()));
  CHECK(copy_keys(m.properties()) == strings{"a", "b", "a", "", "c"});
  CHECK_FALSE(invalid_copies(m.properties()));
  const message long_key{{{"CC", keys({std::string(300, 'k')})}}};
  CHECK(copy_keys(long_key.properties()) == strings{std::string(300, 'k')});
}

TEST_CASE("messages without copies are told at once, whatever else they say", "[carbon_copies]") {
  basic_properties none;
  std::string octets;
  encode_properties(none, octets);
  CHECK_FALSE(may_name_copies(std::as_bytes(std::span{octets})));
  CHECK_FALSE(may_name_copies({}));
  for (const auto& headers :
       {field_table{}, field_table{{"cc", keys({"a"})}}, field_table{{"CCC", keys({"CCC"})}},
        field_table{{"xBCC", field_value::of_string("CCCC")}},
        field_table{{"ACC", field_value::of_int(1)}}}) {
    const message m{headers};
    CAPTURE(to_string(headers));
    CHECK_FALSE(may_name_copies(m.properties()));
    CHECK(copy_keys(m.properties()).empty());
    CHECK_FALSE(invalid_copies(m.properties()));
    CHECK_FALSE(without_blind_copies(m.properties()));
  }
  // What only looks like it costs a closer look, and is nothing.
  const message inside{
      {{"t", field_value::of_table({{"BCC", keys({"a"})}, {"CC", field_value::of_int(1)}})}}};
  CHECK(copy_keys(inside.properties()).empty());
  CHECK_FALSE(invalid_copies(inside.properties()));
  CHECK_FALSE(without_blind_copies(inside.properties()));
}

TEST_CASE("only an array names copies, and its strings only [31]", "[carbon_copies]") {
  const auto invalid = [](const field_table& headers) {
    return invalid_copies(message{headers}.properties()).value_or("");
  };
  const std::string start = "invalid message: {unacceptable_type_in_header,";
  CHECK(invalid({{"CC", field_value::of_string("a")}}) == start + "\"CC\",longstr}");
  CHECK(invalid({{"BCC", field_value::of_int(5)}}) == start + "\"BCC\",signedint}");
  CHECK(invalid({{"CC", field_value::nothing()}}) == start + "\"CC\",void}");
  CHECK(invalid({{"BCC", field_value::of_int(5)}, {"CC", field_value::of_bool(true)}}) ==
        start + "\"CC\",bool}");
  CHECK(copy_keys(message{{{"CC", field_value::of_string("a")}}}.properties()).empty());
  const field_array mixed{field_value::of_string("a"), field_value::of_int(5), field_value::of_bytes("b"),
                          field_value::nothing(), field_value::of_string("c")};
  CHECK(invalid({{"CC", field_value::of_array(mixed)}}).empty());
  CHECK(copy_keys(message{{{"CC", field_value::of_array(mixed)}}}.properties()) == strings{"a", "c"});
  // Of two with one name, the first counts.
  CHECK(copy_keys(message{{{"CC", keys({"a"})}, {"CC", keys({"b"})}}}.properties()) == strings{"a"});
}

TEST_CASE("BCC leaves no trace, and everything else stays as it is [31]", "[carbon_copies]") {
  const field_table rest{{"CC", keys({"a"})}, {"n", {'s', std::int64_t{7}}}, {"t", {'t', boolean{5}}}};
  auto with = rest;
  with.add("BCC", keys({"secret"}));
  with.add("BCC", keys({"more"}));
  CHECK(without_blind_copies(message{with}.properties()) == message{rest}.octets);
  CHECK_FALSE(without_blind_copies(message{rest}.properties()));
  CHECK(without_blind_copies(message{{{"BCC", keys({"a"})}}}.properties()) == message{field_table{}}.octets);
  CHECK(without_blind_copies(
            message{{{"BCC", field_value::of_array({field_value::of_int(1)})}}}.properties()) ==
        message{field_table{}}.octets);
}

TEST_CASE("headers that cannot be read name no copies", "[carbon_copies]") {
  message m{{{"CC", keys({"a"})}, {"BCC", keys({"b"})}}};
  const auto at = m.octets.find("BCC");
  REQUIRE(at != std::string::npos);
  m.octets[at + 3] = '?';  // no such type
  CHECK(copy_keys(m.properties()).empty());
  CHECK_FALSE(invalid_copies(m.properties()));
  CHECK_FALSE(without_blind_copies(m.properties()));
  for (std::size_t size = 0; size < m.octets.size(); ++size) {
    CHECK(copy_keys(m.properties().first(size)).empty());
  }
}

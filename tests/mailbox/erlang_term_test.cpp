#include "mailbox/erlang_term.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>

using namespace posthorn;

// What RabbitMQ 4.3.6 was seen to answer.
TEST_CASE("text is written as RabbitMQ prints a binary", "[erlang_term]") {
  CHECK(erlang_binary("") == "<<>>");
  CHECK(erlang_binary("some") == "<<\"some\">>");
  CHECK(erlang_binary("so\"me") == R"(<<"so\"me">>)");
  CHECK(erlang_binary("s\nme") == R"(<<"s\nme">>)");
  CHECK(erlang_binary("\xff\xfe") == "<<\"ÿþ\">>");
  CHECK(erlang_binary("é") == "<<\"é\"/utf8>>");
}

TEST_CASE("what cannot be printed is written in numbers", "[erlang_term]") {
  CHECK(erlang_binary(std::string_view{"\0a", 2}) == "<<0,97>>");
  CHECK(erlang_binary("\x7f") == "<<127>>");
  CHECK(erlang_binary("\x80") == "<<128>>");
  CHECK(erlang_binary("\xc0\x80") == "<<192,128>>");          // too long for what it says
  CHECK(erlang_binary("\xed\xa0\x80") == "<<237,160,128>>");  // half of a pair
  CHECK(erlang_binary("\xe2\x82") == "<<226,130>>");
  CHECK(erlang_string("\x01\x02") == "[1,2]");
  CHECK(erlang_string("") == "[]");
  CHECK(erlang_string("é\t") == R"("Ã©\t")");
}

TEST_CASE("values are written without their type, and elements with it", "[erlang_term]") {
  CHECK(erlang_term(field_value::of_int(-1)) == "-1");
  CHECK(erlang_term(field_value::of_bool(true)) == "true");
  CHECK(erlang_term(field_value::nothing()) == "undefined");
  CHECK(erlang_term(field_value::of_double(1.5)) == "1.5");
  CHECK(erlang_term(field_value::of_double(2)) == "2.0");
  CHECK(erlang_term(field_value::of_timestamp(3)) == "3");
  CHECK(erlang_term(field_value::of_bytes("all")) == "<<\"all\">>");
  CHECK(erlang_term(field_value::of_array({})) == "[]");
  CHECK(erlang_term(field_value::of_table({})) == "[]");
  CHECK(erlang_term(field_value::of_array({field_value::of_int(1), field_value::of_string("a")})) ==
        "[{signedint,1},{longstr,<<\"a\">>}]");
  CHECK(erlang_term(
            field_value::of_table({{"a", field_value::of_int(1)}, {"b", field_value::of_bool(false)}})) ==
        "[{<<\"a\">>,signedint,1},{<<\"b\">>,bool,false}]");
}

// A field value as RabbitMQ prints it where it puts a term of its own language into an error text: text as <<"text">>,
// a table as a list of tuples. Clients, and tests of clients, compare such texts.
//
// Everything here is a function of its arguments.
#pragma once

#include "mailbox/field_table.hpp"

#include <string>
#include <string_view>

namespace posthorn {

// <<"text">>; <<"é"/utf8>> when it is UTF-8 with more than ASCII in it; <<255,0>> when it cannot be printed.
[[nodiscard]] std::string erlang_binary(std::string_view octets);

// The same octets as a list of characters, each of its own: "text", or [1,2] when they cannot be printed.
[[nodiscard]] std::string erlang_string(std::string_view octets);

// The value without its type: 1, true, 1.5, <<"text">>, [{signedint,1}], [{<<"name">>,signedint,1}], undefined.
[[nodiscard]] std::string erlang_term(const field_value& value);

}  // namespace posthorn

// Values as RabbitMQ prints them in its error texts, which are Erlang terms: <<"text">>, [1,2], #{<<"a">> =>
// 1}.
//
// Long terms are on one line here. RabbitMQ breaks those that are wider than a terminal.
//
// Threads   everything here is a plain function.
#pragma once

#include <boost/json/value.hpp>

#include <string>
#include <string_view>

namespace posthorn {

[[nodiscard]] std::string erlang_term(const boost::json::value& value);

// A text, in RabbitMQ's words a binary.
[[nodiscard]] std::string erlang_binary(std::string_view text);

}  // namespace posthorn

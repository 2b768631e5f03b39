// JSON as RabbitMQ prints it in its error texts, which have Erlang terms in them: <<"text">>, [1,2],
// #{<<"a">> => 1}. The values of AMQP's tables are printed by mailbox/erlang_term.hpp.
//
// Long terms are on one line here. RabbitMQ breaks those that are wider than a terminal.
//
// Threads   a plain function.
#pragma once

#include <boost/json/value.hpp>

#include <string>

namespace posthorn {

[[nodiscard]] std::string erlang_term(const boost::json::value& value);

}  // namespace posthorn

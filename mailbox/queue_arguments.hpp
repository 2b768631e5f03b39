// The arguments of a queue: which ones there are, what they may hold, and when two declarations mean the same.
// Texts as RabbitMQ has them; numbers in brackets are those of docs/amqp.md.
#pragma once

#include "mailbox/field_table.hpp"
#include "mailbox/mailbox.hpp"

#include <optional>
#include <string>
#include <string_view>

namespace posthorn {

struct declare_queue;
struct refusal;

// Whether a new queue may have these arguments [3] [10]. An argument that promises something this version does not do
// is refused, rather than accepted and broken; an unknown one is ignored, as in RabbitMQ [2].
[[nodiscard]] std::optional<refusal> check_queue_arguments(const declare_queue& command,
                                                           const field_table& arguments,
                                                           std::string_view described);

// What the queue has to do, from arguments that were checked; what is not valid counts as not there. A quorum queue has a
// delivery limit of 20, unless it says otherwise [49].
[[nodiscard]] mailbox_rules rules_of(const field_table& arguments);

// The other way round: what declares a queue with these rules.
[[nodiscard]] field_table arguments_of(const mailbox_rules& rules);

// Whether a declaration of an existing queue asks for something else than it is [1] [2].
[[nodiscard]] std::optional<refusal> inequivalent_queue_arguments(const field_table& current,
                                                                  const field_table& received,
                                                                  std::string_view described);

// How the argument differs, in words, if it does. Values are equal whatever their types, as they are to RabbitMQ: integers
// of any width, a timestamp and its seconds, text and octets [2].
[[nodiscard]] std::optional<std::string> inequivalent_argument(const field_table& current,
                                                               const field_table& received,
                                                               std::string_view name);

}  // namespace posthorn

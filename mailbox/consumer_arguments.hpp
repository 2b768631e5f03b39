// The arguments of a consumer: which ones there are, and what they may hold. Texts as RabbitMQ has them; numbers in
// brackets are those of docs/amqp.md.
#pragma once

#include "mailbox/field_table.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace posthorn {

// What a consumer asks for; goes into its `consumer_spec`.
struct consumer_wishes {
  std::int64_t priority = 0;  // x-priority [53]
  std::uint32_t weight = 1;   // x-weight: for rules of dispatch that know weights, from 1 on
  // x-consumer-timeout: how long a delivery of a quorum queue may stay unanswered; 0: for ever [54]
  std::optional<std::chrono::milliseconds> timeout{};

  friend bool operator==(const consumer_wishes&, const consumer_wishes&) = default;
};

// The text of the refusal (406), if these arguments cannot be. What is not named above is ignored. `described` is the
// queue, as in "queue 'q' in vhost '/'".
[[nodiscard]] std::optional<std::string> check_consumer_arguments(const field_table& arguments,
                                                                  std::string_view described);

// The same, if one of them is for consumers of queues of another type [4]. `type` is "classic", "quorum" or "stream".
[[nodiscard]] std::optional<std::string> check_consumer_of_type(const field_table& arguments,
                                                                std::string_view type,
                                                                std::string_view described);

// From arguments that were checked; what is not valid counts as not there.
[[nodiscard]] consumer_wishes wishes_of(const field_table& arguments);

}  // namespace posthorn

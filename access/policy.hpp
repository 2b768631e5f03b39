// Policies: what an operator lays down for all queues and exchanges of a virtual host whose names match a
// pattern.
//
// Which one applies: of those that match, the one with the highest priority, and only that one. Of equal ones
// it is the first by name. (RabbitMQ has the same order as long as a virtual host has no more than 32
// policies, and none beyond.) An operator policy is found in the same way, beside it, and both together make
// the definition that is in force:
//
//   the smaller number   expires, message-ttl, max-length, max-length-bytes, max-in-memory-length,
//                        max-in-memory-bytes, delayed-retry-max
//   the larger number    delayed-retry-min, target-group-size
//   delivery-limit       the smaller one, but if either is negative, the larger one: any limit is less than
//                        none
//   the operator's       overflow, queue-version, delayed-retry-type
//
// Then come the arguments with which the queue was declared [20]. What RabbitMQ 4.3 does depends on the type
// of the queue:
//
//   the smaller number   expires, message-ttl, max-length, max-length-bytes of classic and quorum queues;
//                        consumer-timeout; consumer-disconnected-timeout, delayed-retry-min and -max;
//                        delivery-limit as above
//   the argument         dead-letter-exchange, dead-letter-routing-key, dead-letter-strategy; overflow of a
//                        classic queue; alternate-exchange of an exchange; dispatch and hash-header (ours)
//   the policy           overflow and delayed-retry-type of a quorum queue; everything of a stream;
//                        queue-leader-locator
//
// A policy with a key that a type of queue cannot have does not apply to queues of that type at all: the next
// one is looked for. So a policy with delivery-limit for `all` queues passes classic ones by, although they
// know the limit here; one that is for `classic_queues` applies, where RabbitMQ has nothing that would.
//
// Different from RabbitMQ 4.3: the keys of mirrored queues (ha-mode and its like), which it refuses, are
// accepted with a warning and do nothing; so are queue-mode, queue-version and max-in-memory-*, which it
// accepts and ignores. A priority that is no whole number is refused. dispatch and hash-header are ours.
// Times beyond ten years are cut down to that. A number that fits no 64 bits, or a max-age that is no text,
// is refused as not valid.
//
// Threads   everything here is a plain value.
#pragma once

#include "access/pattern.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/mailbox.hpp"
#include "mailbox/result.hpp"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

enum class policy_kind : std::uint8_t { ordinary, of_operator };

// As `apply-to` has it: "all", "queues", "classic_queues", …
enum class policy_target : std::uint8_t { all, queues, classic_queues, quorum_queues, streams, exchanges };
[[nodiscard]] std::string_view to_string(policy_target target) noexcept;

// What a policy may apply to.
enum class policy_subject : std::uint8_t { exchange, classic_queue, quorum_queue, stream };

// Of a queue with these arguments.
[[nodiscard]] policy_subject policy_subject_of(const field_table& queue_arguments);

struct policy {
  std::string name;
  pattern names;
  policy_target apply_to = policy_target::all;
  std::int64_t priority = 0;
  field_table definition;  // by key, in order; whole numbers are 'l', texts 'S', lists of ha-params 'A'

  // Whether it may apply to such a subject of that name.
  [[nodiscard]] bool applies_to(policy_subject subject, std::string_view subject_name) const;

  friend bool operator==(const policy&, const policy&) = default;
};

struct checked_policy {
  policy value;
  std::vector<std::string> warnings;  // sentences, for the answer and the log
};

// From {"pattern": …, "definition": {…}, "priority": …, "apply-to": …}, where the last two may be missing.
// Other names in it are not looked at. Everything that is wrong is said at once, in RabbitMQ's words:
// "Validation failed", an empty line, and a line for each complaint; of a definition, only the first.
[[nodiscard]] result<checked_policy> policy_of(policy_kind kind, std::string name,
                                               const boost::json::object& fields);

// The way back, without the name: as the value of an operator policy in a file of definitions.
[[nodiscard]] boost::json::object to_json(const policy& value);

// The policies of one kind in one virtual host. Cheap to copy.
class policy_set {
public:
  // Adds it, or replaces the one of that name.
  void set(policy value);
  bool erase(std::string_view name);

  // Null when none applies. Valid as long as this value, or a copy that was not changed since, lives.
  [[nodiscard]] const policy* match(policy_subject subject, std::string_view name) const;

  // Null when there is none.
  [[nodiscard]] const policy* find(std::string_view name) const;
  [[nodiscard]] std::size_t size() const noexcept { return policies_->size(); }

  // Those that come first when a subject is matched come first.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const auto& p : *policies_) visit(*p);
  }

private:
  using list = std::vector<std::shared_ptr<const policy>>;

  std::shared_ptr<const list> policies_ = std::make_shared<const list>();  // by priority, then by name
};

struct vhost_policies {
  policy_set ordinary, of_operator;
};

// What applies to one queue or exchange. The names are for queue listings.
struct applied_policy {
  std::optional<std::string> policy, operator_policy;
  field_table definition;  // of both together, by key, in order

  friend bool operator==(const applied_policy&, const applied_policy&) = default;
};

[[nodiscard]] applied_policy apply(const vhost_policies& policies, policy_subject subject,
                                   std::string_view name);

// The definition of both; either may be null.
[[nodiscard]] field_table merged_definition(const policy* ordinary, const policy* of_operator);

// The queue's arguments as they would be if what is in force had been declared: those of the definition that
// mean something to this type of queue are merged in, under their names as arguments ("x-max-length"). All
// others stay as they are. `rules_of` (mailbox/queue_arguments.hpp) and everybody else who reads arguments
// then reads this.
[[nodiscard]] field_table effective_arguments(const field_table& arguments, const field_table& definition);

// What the mailbox has to do.
[[nodiscard]] mailbox_rules effective_rules(const field_table& arguments, const field_table& definition);

// Where an exchange's unroutable messages go.
[[nodiscard]] std::optional<std::string> effective_alternate_exchange(const field_table& arguments,
                                                                      const field_table& definition);

// "7D", "12h": years, months of 30 days, days, hours, minutes, seconds. Nothing if it is none, or is not more
// than 0.
[[nodiscard]] std::optional<std::chrono::milliseconds> max_age_of(std::string_view text);

}  // namespace posthorn

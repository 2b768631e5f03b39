// A user, and what its tags let it do. Permissions in virtual hosts are another matter:
// access/permissions.hpp.
//
//   tag             in the management interface
//   none            nothing
//   management      what its own permissions reach
//   policymaker     management, and policies and parameters of its virtual hosts
//   monitoring      management, and everybody's connections, channels and the node's figures
//   administrator   all of it: users, virtual hosts, permissions, limits, closing connections
//   impersonator    nothing; over AMQP, it may set any user-id [28]
//
// As in RabbitMQ, other tags are kept and mean nothing, and the administrator's rights are not rights over
// AMQP.
//
// Threads   a plain value.
#pragma once

#include "access/limits.hpp"
#include "access/password.hpp"
#include "mailbox/result.hpp"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn {

struct user {
  static constexpr std::size_t tags_max = 32;

  std::string name;
  password_hash password;
  std::vector<std::string> tags;
  user_limits limits{};

  [[nodiscard]] bool has_tag(std::string_view tag) const noexcept;

  [[nodiscard]] bool may_administer() const noexcept { return has_tag("administrator"); }
  [[nodiscard]] bool may_monitor() const noexcept { return may_administer() || has_tag("monitoring"); }
  [[nodiscard]] bool may_make_policies() const noexcept { return may_administer() || has_tag("policymaker"); }
  [[nodiscard]] bool may_manage() const noexcept {
    return may_monitor() || may_make_policies() || has_tag("management");
  }
  [[nodiscard]] bool may_impersonate() const noexcept { return has_tag("impersonator"); }

  friend bool operator==(const user&, const user&) = default;
};

// Tags as they are given: without the blanks around them, without empty ones, each once; "none" is no tag.
// Refuses more than tags_max.
[[nodiscard]] result<std::vector<std::string>> user_tags_of(const std::vector<std::string>& given);
// The same of one text with commas, as RabbitMQ had it until 3.8: "administrator,monitoring".
[[nodiscard]] result<std::vector<std::string>> user_tags_of(std::string_view given);

}  // namespace posthorn

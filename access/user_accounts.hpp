// All users and what each may do: what has to be asked when somebody logs in and opens a virtual host.
//
// A plain value that is cheap to copy (mailbox/persistent_map.hpp). Its owner changes a copy, makes the
// change durable, and publishes the copy as the new snapshot; connections hold the `vhost_permissions` of
// their user and virtual host, and get new ones when the version is another one, as after
// connection.update-secret [77].
//
// Which virtual hosts and exchanges there are is not known here; whoever asks for a change has looked.
//
// Threads   a copy may be read by any number of threads.
#pragma once

#include "access/permissions.hpp"
#include "access/user.hpp"
#include "mailbox/persistent_map.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace posthorn {

using vhost_permissions_ptr = std::shared_ptr<const vhost_permissions>;

class user_accounts {
public:
  // Adds it, or replaces it and keeps its permissions. Refuses one without a name.
  result<void> set(user value);
  // With its permissions; says whether there was one.
  bool erase(std::string_view name);

  // Each refuses a user that is not there, "User u does not exist", and a pattern that is none.
  result<void> set_permissions(std::string_view user, std::string_view vhost, resource_permissions given);
  result<void> set_topic_permissions(std::string_view user, std::string_view vhost, std::string_view exchange,
                                     topic_permissions given);
  // Each says whether there was something.
  bool clear_permissions(std::string_view user, std::string_view vhost);
  bool clear_topic_permissions(std::string_view user, std::string_view vhost, std::string_view exchange);
  bool clear_topic_permissions(std::string_view user, std::string_view vhost);
  // When the virtual host is deleted: everybody's.
  void erase_vhost(std::string_view vhost);

  // Null when there is none.
  [[nodiscard]] std::shared_ptr<const user> find(std::string_view name) const;
  // Never null; of a user that is not there, or has none, they allow nothing.
  [[nodiscard]] vhost_permissions_ptr permissions(std::string_view user, std::string_view vhost) const;

  // What a login has to be checked against; the same work for a user that is not there.
  [[nodiscard]] password_check check(std::string_view user, secret password, password_cost cost = {}) const;

  // Grows with every change.
  [[nodiscard]] std::uint64_t version() const noexcept { return version_; }
  [[nodiscard]] std::size_t size() const noexcept { return accounts_.size(); }

  // In no particular order.
  template <class Visit>
  void for_each_user(Visit&& visit) const {
    accounts_.for_each([&](const std::string&, const account& a) { visit(*a.who); });
  }
  template <class Visit>
  void for_each_permissions(Visit&& visit) const {
    accounts_.for_each([&](const std::string&, const account& a) {
      for (const auto& [vhost, permissions] : *a.vhosts) visit(*permissions);
    });
  }
  // Of one user, by virtual host.
  template <class Visit>
  void for_each_permissions(std::string_view user, Visit&& visit) const {
    const auto* present = accounts_.find(user);
    if (present == nullptr) return;
    for (const auto& [vhost, permissions] : *present->vhosts) visit(*permissions);
  }

private:
  using by_vhost = std::map<std::string, vhost_permissions_ptr, std::less<>>;
  struct account {
    std::shared_ptr<const user> who;
    std::shared_ptr<const by_vhost> vhosts;
  };

  template <class Change>
  bool change(std::string_view user, std::string_view vhost, Change change);

  persistent_map<account> accounts_;
  std::uint64_t version_ = 1;
};

}  // namespace posthorn

#include "access/user_accounts.hpp"

#include <vector>

namespace posthorn {

result<void> user_accounts::set(user value) {
  if (value.name.empty()) return refused("a user must have a name");
  account next{nullptr, std::make_shared<const by_vhost>()};
  if (const auto* present = accounts_.find(value.name)) next.vhosts = present->vhosts;
  const std::string name = value.name;
  next.who = std::make_shared<const user>(std::move(value));
  accounts_.set(name, std::move(next));
  ++version_;
  return {};
}

bool user_accounts::erase(std::string_view name) {
  if (!accounts_.erase(name)) return false;
  ++version_;
  return true;
}

// Calls change with a copy of the user's permissions in the virtual host, and keeps the copy if it says so.
template <class Change>
bool user_accounts::change(std::string_view user, std::string_view vhost, Change change) {
  const auto* present = accounts_.find(user);
  if (present == nullptr) return false;
  const auto found = present->vhosts->find(vhost);
  auto copy = found == present->vhosts->end() ? vhost_permissions{std::string{user}, std::string{vhost}}
                                              : *found->second;
  if (!change(copy)) return false;
  auto vhosts = std::make_shared<by_vhost>(*present->vhosts);
  if (copy.empty()) {
    vhosts->erase(std::string{vhost});
  } else {
    (*vhosts)[std::string{vhost}] = std::make_shared<const vhost_permissions>(std::move(copy));
  }
  accounts_.set(user, account{present->who, std::move(vhosts)});
  ++version_;
  return true;
}

namespace {

error no_user(std::string_view name) { return refused("User " + std::string{name} + " does not exist"); }

}  // namespace

result<void> user_accounts::set_permissions(std::string_view user, std::string_view vhost,
                                            resource_permissions given) {
  if (accounts_.find(user) == nullptr) return no_user(user);
  result<void> done;
  change(user, vhost, [&](vhost_permissions& permissions) {
    done = permissions.set(std::move(given));
    return done.has_value();
  });
  return done;
}

result<void> user_accounts::set_topic_permissions(std::string_view user, std::string_view vhost,
                                                  std::string_view exchange, topic_permissions given) {
  if (accounts_.find(user) == nullptr) return no_user(user);
  result<void> done;
  change(user, vhost, [&](vhost_permissions& permissions) {
    done = permissions.set(exchange, std::move(given));
    return done.has_value();
  });
  return done;
}

bool user_accounts::clear_permissions(std::string_view user, std::string_view vhost) {
  return change(user, vhost, [](vhost_permissions& permissions) {
    if (!permissions.may_open()) return false;
    permissions.clear();
    return true;
  });
}

bool user_accounts::clear_topic_permissions(std::string_view user, std::string_view vhost,
                                            std::string_view exchange) {
  return change(user, vhost,
                [&](vhost_permissions& permissions) { return permissions.clear_topic(exchange); });
}

bool user_accounts::clear_topic_permissions(std::string_view user, std::string_view vhost) {
  return change(user, vhost, [](vhost_permissions& permissions) {
    bool some = false;
    permissions.for_each_topic([&](const auto&, const auto&) { some = true; });
    permissions.clear_topics();
    return some;
  });
}

void user_accounts::erase_vhost(std::string_view vhost) {
  std::vector<std::string> concerned;
  accounts_.for_each([&](const std::string& name, const account& a) {
    if (a.vhosts->contains(vhost)) concerned.push_back(name);
  });
  for (const auto& name : concerned) {
    change(name, vhost, [](vhost_permissions& permissions) {
      permissions.clear();
      permissions.clear_topics();
      return true;
    });
  }
}

std::shared_ptr<const user> user_accounts::find(std::string_view name) const {
  const auto* present = accounts_.find(name);
  return present == nullptr ? nullptr : present->who;
}

vhost_permissions_ptr user_accounts::permissions(std::string_view user, std::string_view vhost) const {
  if (const auto* present = accounts_.find(user)) {
    if (const auto found = present->vhosts->find(vhost); found != present->vhosts->end())
      return found->second;
  }
  return std::make_shared<const vhost_permissions>(std::string{user}, std::string{vhost});
}

password_check user_accounts::check(std::string_view user, secret password, password_cost cost) const {
  const auto found = find(user);
  return {found ? std::optional{found->password} : std::nullopt, std::move(password), cost};
}

}  // namespace posthorn

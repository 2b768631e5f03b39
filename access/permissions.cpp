#include "access/permissions.hpp"

#include <array>
#include <utility>

namespace posthorn {

namespace {

using answer = vhost_access::answer;

// RabbitMQ's: an empty pattern is not "everything", which it is for a regular expression, but only the empty
// name.
std::string effective(const std::string& given) { return given.empty() ? "^$" : given; }

result<pattern> compiled(const std::string& given, permission which) {
  auto out = pattern::compile(effective(given));
  if (!out) {
    return refused("the " + std::string{to_string(which)} + " permission '" + given +
                   "' is not a valid regular expression: " + out.error().text);
  }
  return out;
}

// In order of their names: a text that was put in is not looked at again.
std::string expanded(std::string_view text, std::string_view user, std::string_view vhost) {
  constexpr std::string_view username_place = "{username}", vhost_place = "{vhost}";
  std::string out;
  while (!text.empty()) {
    if (text.starts_with(username_place)) {
      out += pattern::quote(user);
      text.remove_prefix(username_place.size());
    } else if (text.starts_with(vhost_place)) {
      out += pattern::quote(vhost);
      text.remove_prefix(vhost_place.size());
    } else {
      out += text.front();
      text.remove_prefix(1);
    }
  }
  return out;
}

result<pattern> compiled_topic(const std::string& given, permission which, std::string_view user,
                               std::string_view vhost) {
  // As it was given it has to be short enough and a pattern; what it becomes may be longer.
  if (auto checked = compiled(given, which); !checked) return checked;
  return pattern::compile_of_any_length(expanded(effective(given), user, vhost));
}

std::string quoted(std::string_view text) { return "'" + std::string{text} + "'"; }

constexpr std::string_view name_of_default = "amq.default";

}  // namespace

std::string_view to_string(permission which) noexcept {
  switch (which) {
    case permission::configure: return "configure";
    case permission::write: return "write";
    case permission::read: return "read";
  }
  return "";
}

result<void> vhost_permissions::set(resource_permissions permissions) {
  auto configure = compiled(permissions.configure, permission::configure);
  if (!configure) return configure.error();
  auto write = compiled(permissions.write, permission::write);
  if (!write) return write.error();
  auto read = compiled(permissions.read, permission::read);
  if (!read) return read.error();
  resources_ =
      matched_resources{std::move(permissions), std::move(*configure), std::move(*write), std::move(*read)};
  return {};
}

result<void> vhost_permissions::set(std::string_view exchange, topic_permissions permissions) {
  auto write = compiled_topic(permissions.write, permission::write, user_, vhost_);
  if (!write) return write.error();
  auto read = compiled_topic(permissions.read, permission::read, user_, vhost_);
  if (!read) return read.error();
  topics_.insert_or_assign(std::string{exchange},
                           matched_topics{std::move(permissions), std::move(*write), std::move(*read)});
  return {};
}

bool vhost_permissions::clear_topic(std::string_view exchange) {
  const auto found = topics_.find(exchange);
  if (found == topics_.end()) return false;
  topics_.erase(found);
  return true;
}

bool vhost_permissions::allows(permission which, std::string_view name) const {
  if (!resources_) return false;
  switch (which) {
    case permission::configure: return resources_->configure.matches(name);
    case permission::write: return resources_->write.matches(name);
    case permission::read: return resources_->read.matches(name);
  }
  return false;
}

bool vhost_permissions::allows_topic(permission which, std::string_view exchange,
                                     std::string_view routing_key) const {
  const auto found = topics_.find(exchange);
  if (found == topics_.end()) return true;
  switch (which) {
    case permission::write: return found->second.write.matches(routing_key);
    case permission::read: return found->second.read.matches(routing_key);
    case permission::configure: break;
  }
  return false;
}

answer vhost_access::ask(permission which, resource_kind kind, std::string_view name) const {
  if (kind == resource_kind::exchange && name.empty()) name = name_of_default;
  if (permissions_->allows(which, name)) return std::nullopt;
  return refusal{refusal::kind::access_refused,
                 std::string{to_string(which)} + " access to " +
                     (kind == resource_kind::queue ? "queue " : "exchange ") + quoted(name) + " in vhost " +
                     quoted(permissions_->vhost()) + " refused for user " + quoted(permissions_->user())};
}

answer vhost_access::ask_any(resource_kind kind, std::string_view name) const {
  answer out;
  // The last one is what a client hears of.
  for (const auto which : {permission::read, permission::write, permission::configure}) {
    out = ask(which, kind, name);
    if (!out) break;
  }
  return out;
}

answer vhost_access::ask_topic(permission which, std::string_view exchange, std::string_view key) const {
  if (permissions_->allows_topic(which, exchange, key)) return std::nullopt;
  return refusal{refusal::kind::access_refused, std::string{to_string(which)} + " access to topic " +
                                                    quoted(key) + " in exchange " + quoted(exchange) +
                                                    " in vhost " + quoted(permissions_->vhost()) +
                                                    " refused for user " + quoted(permissions_->user())};
}

answer vhost_access::declare_queue(std::string_view queue) const {
  return ask(permission::configure, resource_kind::queue, queue);
}
answer vhost_access::dead_letter(std::string_view queue, std::string_view exchange) const {
  if (auto refused = ask(permission::read, resource_kind::queue, queue)) return refused;
  return ask(permission::write, resource_kind::exchange, exchange);
}
answer vhost_access::find_queue(std::string_view queue) const { return ask_any(resource_kind::queue, queue); }
answer vhost_access::delete_queue(std::string_view queue) const {
  return ask(permission::configure, resource_kind::queue, queue);
}
answer vhost_access::purge_queue(std::string_view queue) const {
  return ask(permission::read, resource_kind::queue, queue);
}
answer vhost_access::read_queue(std::string_view queue) const {
  return ask(permission::read, resource_kind::queue, queue);
}

answer vhost_access::declare_exchange(std::string_view exchange) const {
  return ask(permission::configure, resource_kind::exchange, exchange);
}
answer vhost_access::alternate(std::string_view exchange, std::string_view alternate) const {
  if (auto refused = ask(permission::read, resource_kind::exchange, exchange)) return refused;
  return ask(permission::write, resource_kind::exchange, alternate);
}
answer vhost_access::find_exchange(std::string_view exchange) const {
  return ask_any(resource_kind::exchange, exchange);
}
answer vhost_access::delete_exchange(std::string_view exchange) const {
  return ask(permission::configure, resource_kind::exchange, exchange);
}

answer vhost_access::bind_destination(resource_kind kind, std::string_view name) const {
  return ask(permission::write, kind, name);
}
answer vhost_access::bind_source(std::string_view exchange) const {
  return ask(permission::read, resource_kind::exchange, exchange);
}
answer vhost_access::bind_topic(std::string_view exchange, std::string_view routing_key) const {
  return ask_topic(permission::read, exchange, routing_key);
}

answer vhost_access::publish(std::string_view exchange) const {
  return ask(permission::write, resource_kind::exchange, exchange);
}
answer vhost_access::publish_topic(std::string_view exchange, std::string_view routing_key) const {
  return ask_topic(permission::write, exchange, routing_key);
}

refusal no_vhost(std::string_view vhost) {
  return {refusal::kind::not_allowed, "vhost " + std::string{vhost} + " not found"};
}

refusal vhost_refused(std::string_view vhost, std::string_view user) {
  return {refusal::kind::not_allowed,
          "access to vhost " + quoted(vhost) + " refused for user " + quoted(user)};
}

refusal login_refused(std::string_view mechanism) {
  return {refusal::kind::access_refused, "Login was refused using authentication mechanism " +
                                             std::string{mechanism} +
                                             ". For details see the broker logfile."};
}

}  // namespace posthorn

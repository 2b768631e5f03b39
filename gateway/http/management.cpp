#include "gateway/http/management.hpp"

#include "gateway/http/authorization.hpp"
#include "gateway/http/query.hpp"

#include <memory>
#include <utility>

namespace posthorn::http {

namespace {

struct management {
  const broker_view& broker;
  administration& node;
  request_handler api;
  run_later later;
};

response unauthorized(std::string_view reason) {
  auto answer = error_response(401, reason);
  answer.headers.emplace_back("WWW-Authenticate", "Basic realm=\"Posthorn\"");
  return answer;
}

// A browser that knows the password sends it with whatever a page of somebody else makes it send.
bool is_order_from_elsewhere(const request& asked) {
  if (asked.method == "GET" || asked.method == "HEAD" || asked.origin.empty()) return false;
  const auto scheme_end = asked.origin.find("://");
  return scheme_end == std::string::npos || asked.origin.substr(scheme_end + 3) != asked.host;
}

// By somebody who has shown who he is.
void go_on(const management& m, const std::string& name, const std::vector<std::string>& path, request& asked,
           const responder& answer) {
  const auto now = m.node.access();
  const auto who = now ? now->users().find(name) : nullptr;
  if (!who) return answer(unauthorized("wrong user or password"));
  if (is_administration(path)) return administrate(m.node, *who, path, asked, answer);
  const bool is_order = asked.method != "GET" && asked.method != "HEAD";
  if (is_order ? !who->may_administer() : !who->may_monitor()) {
    return answer(error_response(401, is_order ? "not allowed: the user has not the tag administrator"
                                               : "not allowed: the user has not the tag monitoring"));
  }
  if (is_about_delayed(path) && m.node.delayed() != nullptr) {
    return answer_about_delayed(*m.node.delayed(), path, asked, answer);
  }
  asked.is_authenticated = true;
  answer(m.api(asked));
}

void serve(const management& m, const request& asked, const responder& answer) {
  auto path = path_segments(asked.path);
  if (!path) return answer(error_response(400, "the path is not percent-encoded correctly"));
  const auto who = parse_basic_authorization(asked.authorization);
  // What needs no user, and what the API says to those who show none.
  const bool is_open = path->empty() || path->front() != "api";
  if (is_open || (!who && !is_administration(*path) && !is_about_delayed(*path))) return answer(m.api(asked));
  if (!who) return answer(unauthorized("a user and a password are needed"));
  if (is_order_from_elsewhere(asked)) {
    return answer(error_response(403, "a page of " + asked.origin + " may not give orders here"));
  }
  if (const auto reason = m.broker.unhealthy_reason()) return answer(error_response(503, *reason));
  m.broker.check_login(
      who->user, who->password, is_loopback(asked.remote),
      [&m, name = who->user, path = std::move(*path), asked, answer](login verdict) mutable {
        switch (verdict) {
          case login::accepted: break;
          case login::loopback_only:
            return answer(unauthorized("the user " + name + " may log in from the node's own machine only"));
          case login::refused: return answer(unauthorized("wrong user or password"));
          case login::overloaded:
            return answer(error_response(503, "too many passwords wait to be checked: try again"));
        }
        m.later([&m, name = std::move(name), path = std::move(path), asked = std::move(asked),
                 answer = std::move(answer)]() mutable { go_on(m, name, path, asked, answer); });
      });
}

}  // namespace

deferring_handler make_management(const broker_view& broker, actor_tree_view& tree, alarm_view* alarms,
                                  administration& node, run_later later) {
  const auto m = std::make_shared<management>(
      management{broker, node, make_api(broker, tree, alarms), std::move(later)});
  return [m](const request& asked, responder answer) { serve(*m, asked, std::move(answer)); };
}

body_gate make_body_gate(const broker_view& broker, administration& node, run_later later) {
  return [&broker, &node, later = std::move(later)](const request& head,
                                                    const std::function<void(bool)>& answer) {
    const auto path = path_segments(head.path);
    if (!path || !is_import(head.method, *path)) return answer(false);
    auto who = parse_basic_authorization(head.authorization);
    if (!who || is_order_from_elsewhere(head) || broker.unhealthy_reason()) return answer(false);
    const auto name = who->user;
    broker.check_login(std::move(who->user), std::move(who->password), is_loopback(head.remote),
                       [&node, later, name, answer](login verdict) {
                         if (verdict != login::accepted) return answer(false);
                         later([&node, name, answer] {
                           const auto now = node.access();
                           const auto user = now ? now->users().find(name) : nullptr;
                           answer(user && user->may_administer());
                         });
                       });
  };
}

}  // namespace posthorn::http

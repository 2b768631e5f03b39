#include "gateway/http/administration.hpp"

#include "gateway/http/query.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <utility>

namespace posthorn::http {

namespace {

namespace json = boost::json;

// The RabbitMQ whose behaviour this is: tools that import definitions look at it.
constexpr std::string_view rabbitmq_version = "4.3.6";
constexpr std::string_view close_reason = "Closed via management plugin";

json::string text_of(std::string_view text) { return json::string(text.data(), text.size()); }

json::array list_of(const std::vector<std::string>& texts) {
  json::array out;
  for (const auto& text : texts) out.push_back(text_of(text));
  return out;
}

response json_response(const json::value& body) {
  return {200, "application/json", json::serialize(body), {}};
}
response nothing() { return {204, "application/json", "", {}}; }
response not_found(std::string_view what) { return error_response(404, what); }

// A header has one line of ASCII.
void add_warnings(response& to, const std::vector<std::string>& warnings) {
  constexpr std::size_t told_max = 20;
  for (auto text : warnings) {
    if (to.headers.size() == told_max) {
      to.headers.emplace_back("Warning",
                              "299 - \"and " + std::to_string(warnings.size() - told_max) + " more\"");
      return;
    }
    for (char& c : text) {
      if (c < 0x20 || c > 0x7e || c == '"' || c == '\\') c = '?';
    }
    to.headers.emplace_back("Warning", "299 - \"" + text + '"');
  }
}

response response_to(const result<directory_answer>& done) {
  if (!done) return error_response(done.error());
  return *done == directory_answer::created ? response{201, "application/json", "", {}} : nothing();
}

// --- what is shown ------------------------------------------------------------------------------------------

json::object shown(const user& who) {
  return {{"name", text_of(who.name)},
          {"password_hash", text_of(who.password.text())},
          {"hashing_algorithm", text_of(who.password.algorithm())},
          {"tags", list_of(who.tags)},
          {"limits", to_json(who.limits)}};
}

json::object shown(const vhost_entry& entry) {
  const auto& v = entry.what;
  json::object metadata{{"description", text_of(v.description)}, {"tags", list_of(v.tags)}};
  json::object out{{"name", text_of(v.name)},
                   {"description", text_of(v.description)},
                   {"tags", list_of(v.tags)},
                   {"tracing", false}};
  if (v.default_queue_type) {
    metadata["default_queue_type"] = text_of(*v.default_queue_type);
    out["default_queue_type"] = text_of(*v.default_queue_type);
  }
  out["metadata"] = std::move(metadata);
  return out;
}

json::object shown(const vhost_permissions& p) {
  const auto& given = *p.resources();
  return {{"user", text_of(p.user())},
          {"vhost", text_of(p.vhost())},
          {"configure", text_of(given.configure)},
          {"write", text_of(given.write)},
          {"read", text_of(given.read)}};
}

json::object shown(const vhost_permissions& p, std::string_view exchange, const topic_permissions& given) {
  return {{"user", text_of(p.user())},
          {"vhost", text_of(p.vhost())},
          {"exchange", text_of(exchange)},
          {"write", text_of(given.write)},
          {"read", text_of(given.read)}};
}

json::object shown(std::string_view vhost, const policy& p) {
  auto out = to_json(p);
  out["vhost"] = text_of(vhost);
  out["name"] = text_of(p.name);
  return out;
}

// --- one call -------------------------------------------------------------------------------------------------

class call {
public:
  call(administration& node, const user& who, const std::vector<std::string>& path, const request& asked,
       responder answer)
      : node_{node}, who_{who}, path_{path}, asked_{asked}, answer_{std::move(answer)} {}

  void run() {
    now_ = node_.access();
    if (!now_) return answer_(error_response(503, "the node is starting: ask again when /healthz says ok"));
    const auto& what = path_[1];
    const auto size = path_.size() - 2;  // of what stands behind
    if (!who_.may_manage()) return answer_(not_allowed("a tag of the management interface"));
    if (what == "whoami") return read_only([&] { return whoami(); });
    if (what == "users" && size == 2 && path_[3] == "permissions") {
      if (path_[2] != who_.name && !may_administer()) return;
      return read_only([&] { return permissions_of_user(path_[2]); });
    }
    if (what == "vhosts" && size == 2 && path_[3] == "permissions") {
      if (!may_administer()) return;
      return read_only([&] { return permissions_in(path_[2]); });
    }
    if (what == "policies" || what == "operator-policies") {
      return policies(what == "policies" ? policy_kind::ordinary : policy_kind::of_operator, size);
    }
    if (what == "vhosts") return vhosts(size);
    if (!may_administer()) return;
    if (what == "users") return users(size);
    if (what == "permissions") return permissions(size);
    if (what == "topic-permissions") return topics(size);
    if (what == "vhost-limits" || what == "user-limits") return limits(what == "vhost-limits", size);
    if (what == "definitions" && size <= 1) return all_definitions(size);
    if (what == "connections" && size == 2) return connections();
    answer_(not_found("nothing is here"));
  }

private:
  // --- who may do it ---

  static response not_allowed(std::string_view needed) {
    auto out = error_response(401, "not allowed: the user has not " + std::string{needed});
    return out;
  }
  bool may_administer() {
    if (who_.may_administer()) return true;
    answer_(not_allowed("the tag administrator"));
    return false;
  }

  [[nodiscard]] bool is_read() const { return asked_.method == "GET" || asked_.method == "HEAD"; }
  void wrong_method(const std::string& allowed) {
    auto out = error_response(405, "only " + allowed + " are possible here");
    out.headers.emplace_back("Allow", allowed);
    answer_(std::move(out));
  }
  template <class Show>
  void read_only(Show show) {
    if (!is_read()) return wrong_method("GET, HEAD");
    answer_(show());
  }

  // --- what is asked for ---

  // Null, and answered, if it is none. Without a body, it is an empty object.
  [[nodiscard]] std::optional<json::object> body() {
    if (asked_.body.empty()) return json::object{};
    boost::system::error_code failed;
    auto parsed = json::parse(asked_.body, failed);
    if (!failed && parsed.is_object()) return std::move(parsed.get_object());
    answer_(error_response(400, failed ? "the body is not JSON: " + failed.message()
                                       : std::string{"the body is not a JSON object"}));
    return std::nullopt;
  }
  [[nodiscard]] static std::optional<std::string> text_in(const json::object& from, std::string_view key) {
    const auto* value = from.if_contains(key);
    if (value == nullptr || !value->is_string()) return std::nullopt;
    return std::string{std::string_view{value->get_string()}};
  }
  [[nodiscard]] std::optional<std::string> needed(const json::object& from, std::string_view key) {
    auto out = text_in(from, key);
    if (!out) answer_(error_response(400, "the field '" + std::string{key} + "' is missing or no text"));
    return out;
  }
  // Whether each of these fields is a text, null, or not there. Answered, if one is something else: who sends it means
  // something by it, and must not take it for done.
  [[nodiscard]] bool are_texts(const json::object& from, std::initializer_list<std::string_view> keys) {
    for (const auto key : keys) {
      const auto* value = from.if_contains(key);
      if (value == nullptr || value->is_string() || value->is_null()) continue;
      answer_(error_response(400, "the field '" + std::string{key} + "' is no text"));
      return false;
    }
    return true;
  }
  // A list of texts, or one text with commas. False, and answered, if they are none.
  [[nodiscard]] bool read_tags(const json::object& from, std::optional<std::vector<std::string>>& out) {
    const auto* value = from.if_contains("tags");
    if (value == nullptr || value->is_null()) return true;
    std::vector<std::string> texts;
    const auto* list = value->if_array();
    if (list != nullptr) {
      for (const auto& each : *list) {
        if (each.is_string()) texts.emplace_back(std::string_view{each.get_string()});
      }
    }
    if (!value->is_string() && (list == nullptr || texts.size() != list->size())) {
      answer_(error_response(400, "the field 'tags' is neither a text nor a list of texts"));
      return false;
    }
    auto tags = list != nullptr ? user_tags_of(texts) : user_tags_of(std::string_view{value->get_string()});
    if (!tags) {
      answer_(error_response(tags.error()));
      return false;
    }
    out = std::move(*tags);
    return true;
  }
  [[nodiscard]] bool only_if_new() const { return asked_.query == "if-new"; }

  void change(directory_command command) {
    node_.change(std::move(command),
                 [answer = answer_](const result<directory_answer>& done) { answer(response_to(done)); });
  }

  // --- users ---

  response whoami() {
    return json_response(json::object{{"name", text_of(who_.name)}, {"tags", list_of(who_.tags)}});
  }

  void users(std::size_t size) {
    if (size == 0) {
      return read_only([&] {
        json::array out;
        for (const auto& entry : now_->exported().users) out.push_back(shown(entry.value));
        return json_response(out);
      });
    }
    if (size != 1) return answer_(not_found("nothing is here"));
    const auto& name = path_[2];
    if (is_read()) {
      const auto found = now_->users().find(name);
      return answer_(found ? json_response(shown(*found)) : not_found("there is no user '" + name + "'"));
    }
    if (asked_.method == "DELETE") return change(remove_user{name});
    if (asked_.method != "PUT") return wrong_method("GET, HEAD, PUT, DELETE");
    const auto fields = body();
    if (fields) put_user_with(name, *fields);
  }

  void put_user_with(const std::string& name, const json::object& fields) {
    put_user command;
    command.name = name;
    if (!are_texts(fields, {"password", "password_hash", "hashing_algorithm"})) return;
    if (!read_tags(fields, command.tags)) return;
    const bool is_known = now_->users().find(name) != nullptr;
    if (only_if_new()) {
      command.condition = put_user::when::if_new;
      if (is_known) return answer_(error_response(400, "there is a user '" + name + "' already"));
    }
    if (asked_.query == "if-present") command.condition = put_user::when::if_present;
    const auto password = text_in(fields, "password"), hash = text_in(fields, "password_hash");
    if (password && hash) {
      return answer_(error_response(400, "give either a password or a password_hash, not both"));
    }
    if (hash) {
      auto imported = password_hash::imported(text_in(fields, "hashing_algorithm").value_or(""), *hash);
      if (!imported) return answer_(error_response(imported.error()));
      command.password = std::move(*imported);
      return change(std::move(command));
    }
    if (!password) {
      if (!is_known && !command.tags) {
        return answer_(error_response(400, "a new user needs a password, or a password_hash"));
      }
      return change(std::move(command));
    }
    node_.hash(secret{*password}, [&node = node_, answer = answer_,
                                   command = std::move(command)](result<password_hash> made) mutable {
      if (!made) return answer(error_response(made.error()));
      command.password = std::move(*made);
      node.change(std::move(command),
                  [answer](const result<directory_answer>& done) { answer(response_to(done)); });
    });
  }

  // --- permissions ---

  template <class Chosen>
  response all_permissions(Chosen chosen) const {
    json::array out;
    now_->users().for_each_permissions([&](const vhost_permissions& p) {
      if (p.may_open() && chosen(p)) out.push_back(shown(p));
    });
    return json_response(out);
  }
  response permissions_of_user(const std::string& name) {
    if (!now_->users().find(name)) return not_found("there is no user '" + name + "'");
    return all_permissions([&](const vhost_permissions& p) { return p.user() == name; });
  }
  response permissions_in(const std::string& vhost) {
    if (!now_->find_vhost(vhost)) return not_found("there is no virtual host '" + vhost + "'");
    return all_permissions([&](const vhost_permissions& p) { return p.vhost() == vhost; });
  }

  void permissions(std::size_t size) {
    if (size == 0) return read_only([&] { return all_permissions([](const auto&) { return true; }); });
    if (size != 2) return answer_(not_found("nothing is here"));
    const auto &vhost = path_[2], &name = path_[3];
    if (is_read()) {
      const auto found = now_->users().permissions(name, vhost);
      return answer_(found->may_open() ? json_response(shown(*found))
                                       : not_found("the user '" + name + "' has no permissions there"));
    }
    if (asked_.method == "DELETE") return change(remove_permissions{name, vhost});
    if (asked_.method != "PUT") return wrong_method("GET, HEAD, PUT, DELETE");
    const auto fields = body();
    if (!fields) return;
    const auto configure = needed(*fields, "configure");
    if (!configure) return;
    const auto write = needed(*fields, "write");
    if (!write) return;
    const auto read = needed(*fields, "read");
    if (!read) return;
    change(put_permissions{name, vhost, {*configure, *write, *read}});
  }

  void topics(std::size_t size) {
    if (size != 0 && size != 2) return answer_(not_found("nothing is here"));
    if (is_read()) {
      json::array out;
      now_->users().for_each_permissions([&](const vhost_permissions& p) {
        if (size == 2 && (p.vhost() != path_[2] || p.user() != path_[3])) return;
        p.for_each_topic([&](const std::string& exchange, const topic_permissions& given) {
          out.push_back(shown(p, exchange, given));
        });
      });
      return answer_(json_response(out));
    }
    if (size != 2) return wrong_method("GET, HEAD");
    const auto &vhost = path_[2], &name = path_[3];
    const auto fields = body();
    if (!fields) return;
    if (asked_.method == "DELETE") {
      return change(remove_topic_permissions{name, vhost, text_in(*fields, "exchange")});
    }
    if (asked_.method != "PUT") return wrong_method("GET, HEAD, PUT, DELETE");
    const auto exchange = needed(*fields, "exchange");
    if (!exchange) return;
    const auto write = needed(*fields, "write");
    if (!write) return;
    const auto read = needed(*fields, "read");
    if (!read) return;
    change(put_topic_permissions{name, vhost, *exchange, {*write, *read}});
  }

  // --- virtual hosts ---

  [[nodiscard]] bool may_see(std::string_view vhost) const {
    return who_.may_monitor() || now_->users().permissions(who_.name, vhost)->may_open();
  }

  void vhosts(std::size_t size) {
    if (size == 0) {
      return read_only([&] {
        json::array out;
        for (const auto& entry : now_->vhosts()) {
          if (!entry->closing && may_see(entry->what.name)) out.push_back(shown(*entry));
        }
        return json_response(out);
      });
    }
    if (size != 1) return answer_(not_found("nothing is here"));
    const auto& name = path_[2];
    if (is_read()) {
      const auto found = now_->find_vhost(name);
      return answer_(found && may_see(name) ? json_response(shown(*found))
                                            : not_found("there is no virtual host '" + name + "'"));
    }
    if (!may_administer()) return;
    if (asked_.method == "DELETE") return change(close_vhost{name});
    if (asked_.method != "PUT") return wrong_method("GET, HEAD, PUT, DELETE");
    const auto fields = body();
    if (!fields) return;
    put_vhost command;
    command.name = name;
    command.if_new = only_if_new();
    if (!are_texts(*fields, {"description", "default_queue_type"})) return;
    if (!read_tags(*fields, command.tags)) return;
    command.description = text_in(*fields, "description");
    command.default_queue_type = text_in(*fields, "default_queue_type");
    // Whoever makes a virtual host may use it, as in RabbitMQ.
    const bool is_new = now_->find_vhost(name) == nullptr;
    node_.change(std::move(command), [&node = node_, name, answer = answer_, is_new,
                                      user = who_.name](const result<directory_answer>& done) {
      if (!done || !is_new) return answer(response_to(done));
      const auto outcome = *done;
      node.change(put_permissions{user, name, {".*", ".*", ".*"}},
                  [answer, outcome](const auto&) { answer(response_to(outcome)); });
    });
  }

  // --- limits ---

  template <class Limits>
  static bool has_any(const Limits& limits) {
    return limits != Limits{};
  }

  void limits(bool of_vhosts, std::size_t size) {
    if (size <= 1 && is_read()) {
      json::array out;
      const auto add = [&](const char* what, std::string_view name, json::object value) {
        if (size == 1 && name != path_[2]) return;
        out.push_back(json::object{{what, text_of(name)}, {"value", std::move(value)}});
      };
      for (const auto& entry : now_->vhosts()) {
        if (of_vhosts && has_any(entry->what.limits))
          add("vhost", entry->what.name, to_json(entry->what.limits));
      }
      now_->users().for_each_user([&](const user& u) {
        if (!of_vhosts && has_any(u.limits)) add("user", u.name, to_json(u.limits));
      });
      return answer_(json_response(out));
    }
    if (size != 2) return answer_(not_found("nothing is here"));
    std::optional<std::int64_t> value;
    if (asked_.method == "PUT") {
      const auto fields = body();
      if (!fields) return;
      const auto* given = fields->if_contains("value");
      if (given == nullptr || !given->is_int64()) {
        return answer_(error_response(400, "the field 'value' is missing or no whole number"));
      }
      value = given->get_int64();
    } else if (asked_.method != "DELETE") {
      return wrong_method("PUT, DELETE");
    }
    if (of_vhosts) return change(put_vhost_limit{path_[2], path_[3], value});
    change(put_user_limit{path_[2], path_[3], value});
  }

  // --- policies ---

  static const policy_set& set_of(const vhost_entry& entry, policy_kind kind) {
    return kind == policy_kind::ordinary ? entry.policies.ordinary : entry.policies.of_operator;
  }

  void policies(policy_kind kind, std::size_t size) {
    if (size <= 1) {
      return read_only([&] {
        json::array out;
        for (const auto& entry : now_->vhosts()) {
          if ((size == 1 && entry->what.name != path_[2]) || !may_see(entry->what.name)) continue;
          set_of(*entry, kind).for_each([&](const policy& p) { out.push_back(shown(entry->what.name, p)); });
        }
        return json_response(out);
      });
    }
    if (size != 2) return answer_(not_found("nothing is here"));
    const auto &vhost = path_[2], &name = path_[3];
    if (is_read()) {
      const auto entry = now_->find_vhost(vhost);
      const auto* found = entry && may_see(vhost) ? set_of(*entry, kind).find(name) : nullptr;
      return answer_(found != nullptr ? json_response(shown(vhost, *found))
                                      : not_found("there is no policy '" + name + "' there"));
    }
    const bool allowed =
        who_.may_administer() || (kind == policy_kind::ordinary && who_.may_make_policies() &&
                                  now_->users().permissions(who_.name, vhost)->may_open());
    if (!allowed) {
      return answer_(not_allowed(kind == policy_kind::ordinary ? "the tag policymaker and permissions there"
                                                               : "the tag administrator"));
    }
    if (asked_.method == "DELETE") return change(remove_policy{kind, vhost, name});
    if (asked_.method != "PUT") return wrong_method("GET, HEAD, PUT, DELETE");
    const auto fields = body();
    if (!fields) return;
    auto checked = policy_of(kind, name, *fields);
    if (!checked) return answer_(error_response(checked.error()));
    node_.change(
        put_policy{kind, vhost, std::move(checked->value)},
        [answer = answer_, warnings = std::move(checked->warnings)](const result<directory_answer>& done) {
          auto out = response_to(done);
          add_warnings(out, warnings);
          answer(std::move(out));
        });
  }

  // --- definitions ---

  void all_definitions(std::size_t size) {
    const auto vhost = size == 1 ? std::optional<std::string_view>{path_[2]} : std::nullopt;
    if (vhost && !now_->find_vhost(*vhost)) {
      return answer_(not_found("there is no virtual host '" + path_[2] + "'"));
    }
    if (is_read()) {
      auto all = now_->exported(vhost);
      node_.export_topology(vhost ? std::optional{path_[2]} : std::nullopt, all);
      auto out = to_json(all, rabbitmq_version);
      if (vhost) forget_vhost_in(out);
      return answer_(json_response(out));
    }
    if (asked_.method != "POST") return wrong_method("GET, HEAD, POST");
    auto read = definitions_of(asked_.body, vhost);
    if (!read) return answer_(error_response(read.error()));
    auto topology = topology_of(*read, vhost);
    if (!topology) return answer_(error_response(topology.error()));
    for (const auto& [name, commands] : topology->commands) {
      const bool is_new = std::any_of(read->vhosts.begin(), read->vhosts.end(),
                                      [&, n = name](const virtual_host& v) { return v.name == n; });
      if (is_new || now_->find_vhost(name)) continue;
      return answer_(error_response(400, "there is no virtual host '" + name +
                                             "', which exchanges, queues or bindings of the file are in"));
    }
    read->warnings.insert(read->warnings.end(), topology->warnings.begin(), topology->warnings.end());
    read->exchanges.clear();
    read->queues.clear();
    read->bindings.clear();
    hash_next(std::make_shared<import>(import{node_, std::move(*read), std::move(*topology), answer_}), 0);
  }

  // What comes from one virtual host is for any: RabbitMQ leaves its name out.
  static void forget_vhost_in(json::object& all) {
    for (const auto* list : {"policies", "parameters", "exchanges", "queues", "bindings"}) {
      auto* entries = all.if_contains(list);
      if (entries == nullptr || !entries->is_array()) continue;
      for (auto& entry : entries->get_array()) entry.get_object().erase("vhost");
    }
    for (const auto* list : {"users", "vhosts", "permissions", "topic_permissions"}) all.erase(list);
    all.erase("global_parameters");
  }

  // What is under way of one: users and what is laid down first, then what is declared.
  struct import {
    administration& node;
    definitions all;
    imported_topology topology;
    responder answer;
  };

  // One password after the other, then all of it.
  static void hash_next(const std::shared_ptr<import>& file, std::size_t from) {
    auto& users = file->all.users;
    for (auto i = from; i < users.size(); ++i) {
      if (!users[i].password) continue;
      auto password = std::move(*std::exchange(users[i].password, std::nullopt));
      file->node.hash(std::move(password), [file, i](result<password_hash> made) {
        if (!made) return file->answer(error_response(made.error()));
        file->all.users[i].value.password = std::move(*made);
        hash_next(file, i + 1);
      });
      return;
    }
    const std::shared_ptr<const definitions> all{file, &file->all};
    file->node.change(import_definitions{all}, [file](const result<directory_answer>& done) {
      if (!done) return file->answer(response_to(done));
      file->node.import_topology(std::move(file->topology), [file](result<std::vector<std::string>> refused) {
        file->answer(response_to_import(refused, file->all.warnings));
      });
    });
  }

  static response response_to_import(const result<std::vector<std::string>>& refused,
                                     const std::vector<std::string>& warnings) {
    constexpr std::size_t told_max = 20;
    if (!refused) return error_response(refused.error());
    auto out = nothing();
    if (!refused->empty()) {
      std::string text = "all was imported but for " + std::to_string(refused->size()) + ": ";
      for (std::size_t i = 0; i < refused->size() && i < told_max; ++i)
        text += (i == 0 ? "" : "; ") + (*refused)[i];
      if (refused->size() > told_max) text += "; …";
      out = error_response(400, text);
    }
    add_warnings(out, warnings);
    return out;
  }

  // --- connections ---

  void connections() {
    if (asked_.method != "DELETE") return wrong_method("DELETE");
    const auto reason = asked_.reason.empty() ? std::string{close_reason} : asked_.reason;
    const auto &what = path_[2], &name = path_[3];
    if (what == "vhost") {
      if (!now_->find_vhost(name)) return answer_(not_found("there is no virtual host '" + name + "'"));
      node_.close_connections(name, std::nullopt, reason);
    } else if (what == "username") {
      node_.close_connections(std::nullopt, name, reason);
    } else {
      return answer_(not_found("nothing is here"));
    }
    answer_(nothing());
  }

  administration& node_;
  const user& who_;
  const std::vector<std::string>& path_;
  const request& asked_;
  const responder answer_;
  std::shared_ptr<const directory> now_;
};

}  // namespace

bool is_administration(const std::vector<std::string>& path) {
  static constexpr std::array names{"whoami",
                                    "users",
                                    "vhosts",
                                    "permissions",
                                    "policies",
                                    "operator-policies",
                                    "topic-permissions",
                                    "vhost-limits",
                                    "user-limits",
                                    "definitions",
                                    "connections"};
  return path.size() >= 2 && path[0] == "api" &&
         std::any_of(names.begin(), names.end(), [&](std::string_view name) { return path[1] == name; });
}

bool is_import(std::string_view method, const std::vector<std::string>& path) {
  return method == "POST" && path.size() >= 2 && path.size() <= 3 && path[0] == "api" &&
         path[1] == "definitions";
}

void administrate(administration& node, const user& who, const std::vector<std::string>& path,
                  const request& asked, responder answer) {
  call{node, who, path, asked, std::move(answer)}.run();
}

}  // namespace posthorn::http

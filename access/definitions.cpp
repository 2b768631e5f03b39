#include "access/definitions.hpp"

#include <boost/json/parse.hpp>

#include <algorithm>
#include <utility>

namespace posthorn {

namespace {

namespace json = boost::json;

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

// Reads the fields of one entry of one list, and knows where it is.
class entry {
public:
  entry(std::string_view list, std::size_t index, const json::object& fields)
      : where_(std::string{list} + "[" + std::to_string(index) + "]"), fields_(&fields) {}

  [[nodiscard]] error mistake(std::string_view what) const {
    return refused(where_ + ": " + std::string{what});
  }

  [[nodiscard]] const json::value* find(std::string_view name) const { return fields_->if_contains(name); }
  [[nodiscard]] const json::object& fields() const noexcept { return *fields_; }

  [[nodiscard]] result<std::string> text(std::string_view name) const {
    const auto* value = find(name);
    if (value == nullptr || value->is_null())
      return mistake("the field '" + std::string{name} + "' is missing");
    if (!value->is_string()) return mistake("the field '" + std::string{name} + "' is not a text");
    return std::string{view(value->get_string())};
  }
  // Empty when it is missing.
  [[nodiscard]] result<std::string> text_if_any(std::string_view name) const {
    const auto* value = find(name);
    if (value == nullptr || value->is_null()) return std::string{};
    return text(name);
  }

private:
  std::string where_;
  const json::object* fields_;
};

class reader {
public:
  reader(const json::object& from, std::optional<std::string_view> vhost) : from_(from), vhost_(vhost) {}

  result<definitions> run() {
    using step = result<void> (reader::*)(const entry&);
    struct list {
      std::string_view name;
      step read;
    };
    for (const auto& [name, read] : std::initializer_list<list>{
             {"users", &reader::on_user},
             {"vhosts", &reader::on_vhost},
             {"permissions", &reader::on_permissions},
             {"topic_permissions", &reader::on_topic_permissions},
             {"policies", &reader::on_policy},
             {"parameters", &reader::on_parameter},
         }) {
      const auto done = for_each(name, read);
      if (!done) return done.error();
    }
    struct kept {
      std::string_view name;
      json::array& to;
    };
    for (const auto& [name, to] :
         {kept{"global_parameters", out_.global_parameters}, kept{"queues", out_.queues},
          kept{"exchanges", out_.exchanges}, kept{"bindings", out_.bindings}}) {
      if (const auto* value = from_.if_contains(name)) {
        if (!value->is_array()) return refused(std::string{name} + " is not a list");
        to = value->get_array();
      }
    }
    return std::move(out_);
  }

private:
  result<void> for_each(std::string_view name, result<void> (reader::*read)(const entry&)) {
    const auto* value = from_.if_contains(name);
    if (value == nullptr || value->is_null()) return {};
    const auto* list = value->if_array();
    if (list == nullptr) return refused(std::string{name} + " is not a list");
    for (std::size_t i = 0; i < list->size(); ++i) {
      const auto* fields = (*list)[i].if_object();
      if (fields == nullptr)
        return refused(std::string{name} + "[" + std::to_string(i) + "] is not an object");
      if (auto done = (this->*read)(entry{name, i, *fields}); !done) return done;
    }
    return {};
  }

  [[nodiscard]] result<std::string> vhost_of(const entry& e) const {
    if (vhost_ && e.find("vhost") == nullptr) return std::string{*vhost_};
    return e.text("vhost");
  }

  result<void> on_user(const entry& e) {
    definitions::user_entry out;
    auto name = e.text("name");
    if (!name) return name.error();
    out.value.name = std::move(*name);
    if (out.value.name.empty()) return e.mistake("a user must have a name");

    auto tags = tags_of(e);
    if (!tags) return tags.error();
    out.value.tags = std::move(*tags);

    auto password = e.text_if_any("password");
    if (!password) return password.error();
    secret given{std::move(*password)};
    const bool has_password = e.find("password") != nullptr, has_hash = e.find("password_hash") != nullptr;
    if (has_password && has_hash) return e.mistake("both a password and a password hash are given");
    if (has_password && !given.empty()) out.password = std::move(given);
    auto algorithm = e.text_if_any("hashing_algorithm");
    if (!algorithm) return algorithm.error();
    auto text = e.text_if_any("password_hash");
    if (!text) return text.error();
    auto hash = password_hash::imported(*algorithm, *text);
    if (!hash) return e.mistake(hash.error().text);
    out.value.password = std::move(*hash);

    if (const auto* value = e.find("limits"); value != nullptr && !is_none(*value)) {
      auto limits = user_limits_of(*value);
      if (!limits) return e.mistake(limits.error().text);
      out.value.limits = *limits;
    }
    out_.users.push_back(std::move(out));
    return {};
  }

  static result<std::vector<std::string>> tags_of(const entry& e) {
    const auto* value = e.find("tags");
    if (value == nullptr) return e.mistake("the field 'tags' is missing");
    result<std::vector<std::string>> out;
    if (const auto* text = value->if_string()) {
      out = user_tags_of(view(*text));
    } else {
      auto list = texts_of(e, "tags", *value);
      if (!list) return list;
      out = user_tags_of(*list);
    }
    if (!out) return e.mistake(out.error().text);
    return out;
  }

  static result<std::vector<std::string>> texts_of(const entry& e, std::string_view name,
                                                   const json::value& value) {
    const auto* list = value.if_array();
    std::vector<std::string> out;
    if (list != nullptr) {
      for (const auto& element : *list) {
        if (!element.is_string()) break;
        out.emplace_back(view(element.get_string()));
      }
    }
    if (list == nullptr || out.size() != list->size()) {
      return e.mistake("the field '" + std::string{name} + "' is not a list of texts");
    }
    return out;
  }

  // RabbitMQ has exported "no limits" as an empty list, too.
  static bool is_none(const json::value& value) {
    return value.is_null() || (value.is_array() && value.get_array().empty());
  }

  result<void> on_vhost(const entry& e) {
    auto name = e.text("name");
    if (!name) return name.error();
    auto& out = vhost_named(std::move(*name));
    const auto* metadata = e.find("metadata");
    if (metadata != nullptr && !metadata->is_object())
      return e.mistake("the field 'metadata' is not an object");
    // What is said outside the metadata counts, as in RabbitMQ.
    for (const auto* fields : {metadata == nullptr ? nullptr : &metadata->get_object(), &e.fields()}) {
      if (fields == nullptr) continue;
      if (auto done = read_metadata(e, *fields, out); !done) return done;
    }
    if (const auto* value = e.find("limits"); value != nullptr && !is_none(*value)) {
      auto limits = vhost_limits_of(*value);
      if (!limits) return e.mistake(limits.error().text);
      out.limits = *limits;
    }
    return {};
  }

  static result<void> read_metadata(const entry& e, const json::object& fields, virtual_host& out) {
    const auto known = [&](std::string_view name) -> const json::value* {
      const auto* value = fields.if_contains(name);
      return value == nullptr || value->is_null() ? nullptr : value;
    };
    if (const auto* text = known("description")) {
      if (!text->is_string()) return e.mistake("the field 'description' is not a text");
      out.description = view(text->get_string());
    }
    if (const auto* text = known("default_queue_type")) {
      if (!text->is_string()) return e.mistake("the field 'default_queue_type' is not a text");
      // RabbitMQ 3.x wrote it so when there was none.
      if (view(text->get_string()) != "undefined")
        out.default_queue_type = std::string{view(text->get_string())};
    }
    if (const auto* list = known("tags")) {
      auto tags = texts_of(e, "tags", *list);
      if (!tags) return tags.error();
      out.tags = std::move(*tags);
    }
    return {};
  }

  virtual_host& vhost_named(std::string name) {
    const auto found = std::find_if(out_.vhosts.begin(), out_.vhosts.end(),
                                    [&](const virtual_host& present) { return present.name == name; });
    if (found != out_.vhosts.end()) return *found;
    virtual_host added;
    added.name = std::move(name);
    return out_.vhosts.emplace_back(std::move(added));
  }

  result<void> on_permissions(const entry& e) {
    definitions::permissions_entry out;
    auto user = e.text("user"), vhost = vhost_of(e), configure = e.text("configure"), write = e.text("write"),
         read = e.text("read");
    for (const auto* field : {&user, &vhost, &configure, &write, &read}) {
      if (!*field) return field->error();
    }
    out = {std::move(*user), std::move(*vhost), {std::move(*configure), std::move(*write), std::move(*read)}};
    if (auto checked = vhost_permissions{out.user, out.vhost}.set(out.given); !checked) {
      return e.mistake(checked.error().text);
    }
    out_.permissions.push_back(std::move(out));
    return {};
  }

  result<void> on_topic_permissions(const entry& e) {
    definitions::topic_permissions_entry out;
    auto user = e.text("user"), vhost = vhost_of(e), exchange = e.text("exchange"), write = e.text("write"),
         read = e.text("read");
    for (const auto* field : {&user, &vhost, &exchange, &write, &read}) {
      if (!*field) return field->error();
    }
    out = {std::move(*user), std::move(*vhost), std::move(*exchange), {std::move(*write), std::move(*read)}};
    if (auto checked = vhost_permissions{out.user, out.vhost}.set(out.exchange, out.given); !checked) {
      return e.mistake(checked.error().text);
    }
    out_.topic_permissions.push_back(std::move(out));
    return {};
  }

  result<void> on_policy(const entry& e) { return add_policy(e, policy_kind::ordinary, e.fields()); }

  result<void> add_policy(const entry& e, policy_kind kind, const json::object& fields) {
    auto vhost = vhost_of(e), name = e.text("name");
    if (!vhost) return vhost.error();
    if (!name) return name.error();
    auto checked = policy_of(kind, *name, fields);
    if (!checked)
      return e.mistake(checked.error().text + "\n(vhost: \"" + *vhost + "\" key: \"" + *name + "\")");
    for (const auto& warning : checked->warnings) {
      out_.warnings.push_back("policy '" + *name + "' in vhost '" + *vhost + "': " + warning);
    }
    out_.policies.push_back({kind, std::move(*vhost), std::move(checked->value)});
    return {};
  }

  result<void> on_parameter(const entry& e) {
    auto component = e.text("component");
    if (!component) return component.error();
    const auto* value = e.find("value");
    if (*component == "operator_policy") {
      if (value == nullptr || !value->is_object()) return e.mistake("the field 'value' is not an object");
      return add_policy(e, policy_kind::of_operator, value->get_object());
    }
    if (*component == "vhost-limits") {
      auto vhost = vhost_of(e);
      if (!vhost) return vhost.error();
      if (value == nullptr) return e.mistake("the field 'value' is missing");
      auto limits = vhost_limits_of(is_none(*value) ? json::value(json::object{}) : *value);
      if (!limits) return e.mistake(limits.error().text);
      vhost_named(std::move(*vhost)).limits = *limits;
      return {};
    }
    out_.parameters.push_back(e.fields());
    return {};
  }

  const json::object& from_;
  std::optional<std::string_view> vhost_;
  definitions out_;
};

json::string text_of(std::string_view text) { return json::string(text.data(), text.size()); }

json::array list_of(const std::vector<std::string>& texts) {
  json::array out;
  for (const auto& text : texts) out.push_back(text_of(text));
  return out;
}

json::array json_of_users(const definitions& all) {
  json::array out;
  for (const auto& [value, password] : all.users) {
    out.push_back(json::object{{"name", text_of(value.name)},
                               {"password_hash", text_of(value.password.text())},
                               {"hashing_algorithm", text_of(value.password.algorithm())},
                               {"tags", list_of(value.tags)},
                               {"limits", to_json(value.limits)}});
  }
  return out;
}

json::array json_of_vhosts(const definitions& all) {
  json::array out;
  for (const auto& vhost : all.vhosts) {
    json::object metadata{{"description", text_of(vhost.description)}, {"tags", list_of(vhost.tags)}};
    if (vhost.default_queue_type) metadata.emplace("default_queue_type", text_of(*vhost.default_queue_type));
    out.push_back(json::object{
        {"name", text_of(vhost.name)}, {"limits", to_json(vhost.limits)}, {"metadata", std::move(metadata)}});
  }
  return out;
}

json::array json_of_parameters(const definitions& all) {
  json::array out;
  for (const auto& vhost : all.vhosts) {
    if (vhost.limits == vhost_limits{}) continue;
    out.push_back(json::object{{"component", "vhost-limits"},
                               {"name", "limits"},
                               {"vhost", text_of(vhost.name)},
                               {"value", to_json(vhost.limits)}});
  }
  for (const auto& [kind, vhost, value] : all.policies) {
    if (kind != policy_kind::of_operator) continue;
    out.push_back(json::object{{"component", "operator_policy"},
                               {"name", text_of(value.name)},
                               {"vhost", text_of(vhost)},
                               {"value", to_json(value)}});
  }
  for (const auto& other : all.parameters) out.push_back(other);
  return out;
}

}  // namespace

result<definitions> definitions_of(std::string_view text, std::optional<std::string_view> vhost) {
  constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
  if (text.starts_with(byte_order_mark)) text.remove_prefix(byte_order_mark.size());
  boost::system::error_code wrong;
  const auto parsed = json::parse(json::string_view{text.data(), text.size()}, wrong);
  if (wrong) return refused("the definitions are not JSON: " + wrong.message());
  const auto* fields = parsed.if_object();
  if (fields == nullptr) return refused("the definitions are not a JSON object");
  return reader{*fields, vhost}.run();
}

json::object to_json(const definitions& all, std::string_view version) {
  json::object out;
  out.emplace("rabbit_version", text_of(version));
  out.emplace("rabbitmq_version", text_of(version));
  out.emplace("users", json_of_users(all));
  out.emplace("vhosts", json_of_vhosts(all));
  json::array permissions, topic_permissions, policies;
  for (const auto& [user, vhost, given] : all.permissions) {
    permissions.push_back(json::object{{"user", text_of(user)},
                                       {"vhost", text_of(vhost)},
                                       {"configure", text_of(given.configure)},
                                       {"write", text_of(given.write)},
                                       {"read", text_of(given.read)}});
  }
  for (const auto& [user, vhost, exchange, given] : all.topic_permissions) {
    topic_permissions.push_back(json::object{{"user", text_of(user)},
                                             {"vhost", text_of(vhost)},
                                             {"exchange", text_of(exchange)},
                                             {"write", text_of(given.write)},
                                             {"read", text_of(given.read)}});
  }
  for (const auto& [kind, vhost, value] : all.policies) {
    if (kind != policy_kind::ordinary) continue;
    auto fields = to_json(value);
    fields.emplace("vhost", text_of(vhost));
    fields.emplace("name", text_of(value.name));
    policies.push_back(std::move(fields));
  }
  out.emplace("permissions", std::move(permissions));
  out.emplace("topic_permissions", std::move(topic_permissions));
  out.emplace("parameters", json_of_parameters(all));
  out.emplace("global_parameters", all.global_parameters);
  out.emplace("policies", std::move(policies));
  out.emplace("queues", all.queues);
  out.emplace("exchanges", all.exchanges);
  out.emplace("bindings", all.bindings);
  return out;
}

}  // namespace posthorn

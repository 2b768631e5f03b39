#include "access/directory.hpp"

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>

#include <algorithm>
#include <tuple>
#include <utility>

namespace posthorn {

namespace {

namespace json = boost::json;

constexpr char of_user = 'u', of_vhost = 'v', of_node = 'g';

std::string record_name(char kind, std::string_view name) { return std::string(1, kind) + std::string{name}; }

std::string quoted(std::string_view name) { return "'" + std::string{name} + "'"; }

error no_user(std::string_view name) {
  return {errc::unreachable, "there is no user " + quoted(name) + ": check the name, or add it first"};
}
error no_vhost_named(std::string_view name) {
  return {errc::unreachable,
          "there is no virtual host " + quoted(name) + ": check the name, or add it first"};
}

// Records are JSON, and names are keys.
std::optional<error> fault_of(std::string_view what, std::string_view name) {
  const auto called = std::string{what};
  if (name.empty()) return refused("a " + called + " must have a name");
  if (name.size() > directory::name_size_max) {
    return refused("the name of a " + called + " has at most " + std::to_string(directory::name_size_max) +
                   " octets, not " + std::to_string(name.size()));
  }
  boost::system::error_code failed;
  (void)json::parse(json::serialize(json::string(name.data(), name.size())), failed);
  if (failed) return refused("the name of a " + called + " is UTF-8, and this one is not");
  if (std::any_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; })) {
    return refused("the name of a " + called + " has no control characters");
  }
  return std::nullopt;
}

error closing(std::string_view vhost) {
  return overloaded("the virtual host " + quoted(vhost) +
                    " is just being deleted: try again when that is done");
}

std::optional<std::int64_t>* limit_of(vhost_limits& limits, std::string_view name) {
  if (name == "max-connections") return &limits.connections_max;
  if (name == "max-queues") return &limits.queues_max;
  return nullptr;
}
std::optional<std::int64_t>* limit_of(user_limits& limits, std::string_view name) {
  if (name == "max-connections") return &limits.connections_max;
  if (name == "max-channels") return &limits.channels_max;
  return nullptr;
}

error no_limit(std::string_view what, std::string_view name, std::string_view known) {
  return refused("a " + std::string{what} + " has no limit " + quoted(name) + ": it has " +
                 std::string{known});
}

policy_set& policies_of(vhost_entry& entry, policy_kind kind) {
  return kind == policy_kind::of_operator ? entry.policies.of_operator : entry.policies.ordinary;
}

bool is_queue_type(std::string_view name) {
  return name == "classic" || name == "quorum" || name == "stream";
}

result<std::optional<std::string>> default_type_of(const std::optional<std::string>& given) {
  if (!given || given->empty() || *given == "undefined") return std::optional<std::string>{};
  // RabbitMQ takes the names of its modules, too.
  std::string name = *given;
  if (name.starts_with("rabbit_") && name.ends_with("_queue")) name = name.substr(7, name.size() - 13);
  if (!is_queue_type(name)) {
    return refused("the default queue type " + quoted(*given) +
                   " is not known: it is classic, quorum or stream");
  }
  return std::optional{name};
}

constexpr std::string_view closing_key = "posthorn-closing";

}  // namespace

result<directory_answer> directory::on(const directory_command& command, touched& out) {
  auto before = *this;
  touched mine;
  auto done = std::visit([&](const auto& c) { return apply(c, mine); }, command);
  if (!done) {
    *this = std::move(before);
    return done;
  }
  out.merge(mine);
  return done;
}

vhost_entry_ptr directory::find_vhost(std::string_view name) const {
  const auto* found = vhosts_.find(name);
  return found == nullptr ? nullptr : *found;
}

std::vector<vhost_entry_ptr> directory::vhosts() const {
  std::vector<vhost_entry_ptr> out;
  vhosts_.for_each([&](const std::string&, const vhost_entry_ptr& entry) { out.push_back(entry); });
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a->what.name < b->what.name; });
  return out;
}

result<vhost_entry_ptr> directory::open_vhost(std::string_view name) const {
  auto found = find_vhost(name);
  if (!found) return no_vhost_named(name);
  if (found->closing) return closing(name);
  return found;
}

template <class Edit>
result<void> directory::edit_vhost(std::string_view name, touched& out, Edit edit) {
  const auto present = open_vhost(name);
  if (!present) return present.error();
  auto copy = **present;
  if (!edit(copy)) return {};
  vhosts_.set(name, std::make_shared<const vhost_entry>(std::move(copy)));
  out.insert(record_name(of_vhost, name));
  return {};
}

// --- users and permissions ---------------------------------------------------------------------------------

result<directory_answer> directory::apply(const put_user& c, touched& out) {
  if (const auto fault = fault_of("user", c.name)) return *fault;
  const auto present = users_.find(c.name);
  if (present && c.condition == put_user::when::if_new) {
    return refused("there is a user " + quoted(c.name) + " already");
  }
  if (!present && c.condition == put_user::when::if_present) return no_user(c.name);
  auto next = present ? *present : user{};
  next.name = c.name;
  if (c.password) next.password = *c.password;
  if (c.tags) {
    auto tags = user_tags_of(*c.tags);
    if (!tags) return tags.error();
    next.tags = std::move(*tags);
  }
  if (auto set = users_.set(std::move(next)); !set) return set.error();
  out.insert(record_name(of_user, c.name));
  return present ? directory_answer::changed : directory_answer::created;
}

result<directory_answer> directory::apply(const remove_user& c, touched& out) {
  if (!users_.erase(c.name)) return no_user(c.name);
  out.insert(record_name(of_user, c.name));
  return directory_answer::removed;
}

result<directory_answer> directory::apply(const put_permissions& c, touched& out) {
  if (const auto vhost = open_vhost(c.vhost); !vhost) return vhost.error();
  if (!users_.find(c.user)) return no_user(c.user);
  const bool had = users_.permissions(c.user, c.vhost)->may_open();
  if (auto set = users_.set_permissions(c.user, c.vhost, c.given); !set) return set.error();
  out.insert(record_name(of_user, c.user));
  return had ? directory_answer::changed : directory_answer::created;
}

result<directory_answer> directory::apply(const remove_permissions& c, touched& out) {
  if (const auto vhost = open_vhost(c.vhost); !vhost) return vhost.error();
  if (!users_.find(c.user)) return no_user(c.user);
  if (!users_.clear_permissions(c.user, c.vhost)) {
    return error{errc::unreachable,
                 "the user " + quoted(c.user) + " has no permissions in virtual host " + quoted(c.vhost)};
  }
  out.insert(record_name(of_user, c.user));
  return directory_answer::removed;
}

result<directory_answer> directory::apply(const put_topic_permissions& c, touched& out) {
  if (const auto vhost = open_vhost(c.vhost); !vhost) return vhost.error();
  if (!users_.find(c.user)) return no_user(c.user);
  const bool had = users_.permissions(c.user, c.vhost)->has_topics(c.exchange);
  if (auto set = users_.set_topic_permissions(c.user, c.vhost, c.exchange, c.given); !set) return set.error();
  out.insert(record_name(of_user, c.user));
  return had ? directory_answer::changed : directory_answer::created;
}

result<directory_answer> directory::apply(const remove_topic_permissions& c, touched& out) {
  if (const auto vhost = open_vhost(c.vhost); !vhost) return vhost.error();
  if (!users_.find(c.user)) return no_user(c.user);
  const bool some = c.exchange ? users_.clear_topic_permissions(c.user, c.vhost, *c.exchange)
                               : users_.clear_topic_permissions(c.user, c.vhost);
  if (!some) {
    return error{errc::unreachable, "the user " + quoted(c.user) +
                                        " has no topic permissions in virtual host " + quoted(c.vhost)};
  }
  out.insert(record_name(of_user, c.user));
  return directory_answer::removed;
}

result<directory_answer> directory::apply(const put_user_limit& c, touched& out) {
  const auto present = users_.find(c.user);
  if (!present) return no_user(c.user);
  auto next = *present;
  auto* limit = limit_of(next.limits, c.name);
  if (limit == nullptr) return no_limit("user", c.name, "max-connections and max-channels");
  *limit = c.value;
  if (auto set = users_.set(std::move(next)); !set) return set.error();
  out.insert(record_name(of_user, c.user));
  return directory_answer::changed;
}

// --- virtual hosts -----------------------------------------------------------------------------------------

result<directory_answer> directory::apply(const put_vhost& c, touched& out) {
  if (const auto fault = fault_of("virtual host", c.name)) return *fault;
  const auto present = find_vhost(c.name);
  if (present && present->closing) return closing(c.name);
  if (present && c.if_new) return refused("there is a virtual host " + quoted(c.name) + " already");
  auto type = default_type_of(c.default_queue_type);
  if (!type) return type.error();
  auto next = present ? *present : vhost_entry{};
  next.what.name = c.name;
  if (c.description) next.what.description = *c.description;
  if (c.tags) next.what.tags = *c.tags;
  if (c.default_queue_type) next.what.default_queue_type = std::move(*type);
  vhosts_.set(c.name, std::make_shared<const vhost_entry>(std::move(next)));
  out.insert(record_name(of_vhost, c.name));
  return present ? directory_answer::changed : directory_answer::created;
}

result<directory_answer> directory::apply(const close_vhost& c, touched& out) {
  const auto present = find_vhost(c.name);
  if (!present) return no_vhost_named(c.name);
  if (present->closing) return closing(c.name);
  auto copy = *present;
  copy.closing = true;
  vhosts_.set(c.name, std::make_shared<const vhost_entry>(std::move(copy)));
  out.insert(record_name(of_vhost, c.name));
  users_.for_each_permissions([&](const vhost_permissions& p) {
    if (p.vhost() == c.name) out.insert(record_name(of_user, p.user()));
  });
  users_.erase_vhost(c.name);
  return directory_answer::changed;
}

result<directory_answer> directory::apply(const forget_vhost& c, touched& out) {
  if (!vhosts_.erase(c.name)) return no_vhost_named(c.name);
  out.insert(record_name(of_vhost, c.name));
  return directory_answer::removed;
}

result<directory_answer> directory::apply(const put_policy& c, touched& out) {
  if (const auto fault = fault_of("policy", c.value.name)) return *fault;
  bool had = false;
  const auto done = edit_vhost(c.vhost, out, [&](vhost_entry& entry) {
    auto& set = policies_of(entry, c.kind);
    had = set.find(c.value.name) != nullptr;
    set.set(c.value);
    return true;
  });
  if (!done) return done.error();
  return had ? directory_answer::changed : directory_answer::created;
}

result<directory_answer> directory::apply(const remove_policy& c, touched& out) {
  bool had = false;
  const auto done = edit_vhost(c.vhost, out, [&](vhost_entry& entry) {
    had = policies_of(entry, c.kind).erase(c.name);
    return had;
  });
  if (!done) return done.error();
  if (!had) {
    return error{errc::unreachable, "there is no policy " + quoted(c.name) + " in virtual host " +
                                        quoted(c.vhost) + ": see which with `posthorn policies list`"};
  }
  return directory_answer::removed;
}

result<directory_answer> directory::apply(const put_vhost_limit& c, touched& out) {
  bool known = false;
  const auto done = edit_vhost(c.vhost, out, [&](vhost_entry& entry) {
    auto* limit = limit_of(entry.what.limits, c.name);
    known = limit != nullptr;
    if (known) *limit = c.value;
    return known;
  });
  if (!done) return done.error();
  if (!known) return no_limit("virtual host", c.name, "max-connections and max-queues");
  return directory_answer::changed;
}

// --- definitions -------------------------------------------------------------------------------------------

result<directory_answer> directory::apply(const import_definitions& c, touched& out) {
  if (auto done = import_parts(*c.what, out); !done) return done.error();
  return directory_answer::changed;
}

result<void> directory::import_parts(const definitions& all, touched& out) {
  for (const auto& vhost : all.vhosts) {
    auto put =
        apply(put_vhost{vhost.name, vhost.description, vhost.tags, vhost.default_queue_type, false}, out);
    if (!put) return put.error();
    const auto limited = edit_vhost(vhost.name, out, [&](vhost_entry& entry) {
      if (vhost.limits != vhost_limits{}) entry.what.limits = vhost.limits;
      return true;
    });
    if (!limited) return limited;
  }
  for (const auto& entry : all.users) {
    if (const auto fault = fault_of("user", entry.value.name)) return *fault;
    if (auto set = users_.set(entry.value); !set) return set;
    out.insert(record_name(of_user, entry.value.name));
  }
  for (const auto& p : all.permissions) {
    if (auto put = apply(put_permissions{p.user, p.vhost, p.given}, out); !put) return put.error();
  }
  for (const auto& p : all.topic_permissions) {
    if (auto put = apply(put_topic_permissions{p.user, p.vhost, p.exchange, p.given}, out); !put) {
      return put.error();
    }
  }
  for (const auto& p : all.policies) {
    if (auto put = apply(put_policy{p.kind, p.vhost, p.value}, out); !put) return put.error();
  }
  for (const auto& parameter : all.parameters) {
    const auto* fields = parameter.if_object();
    const auto* vhost = fields == nullptr ? nullptr : fields->if_contains("vhost");
    if (vhost == nullptr || !vhost->is_string()) continue;
    const auto same = [&](const json::value& known) {
      const auto* a = known.if_object();
      if (a == nullptr) return false;
      const auto equal = [&](std::string_view key) {
        const auto *x = a->if_contains(key), *y = fields->if_contains(key);
        return x != nullptr && y != nullptr && *x == *y;
      };
      return equal("component") && equal("name");
    };
    const auto put = edit_vhost(std::string_view{vhost->get_string()}, out, [&](vhost_entry& entry) {
      auto& known = entry.parameters;
      known.erase(std::remove_if(known.begin(), known.end(), same), known.end());
      known.push_back(parameter);
      return true;
    });
    if (!put) return put;
  }
  if (!all.global_parameters.empty()) {
    for (const auto& parameter : all.global_parameters) {
      const auto* name = parameter.is_object() ? parameter.get_object().if_contains("name") : nullptr;
      const auto same = [&](const json::value& known) {
        const auto* its = known.is_object() ? known.get_object().if_contains("name") : nullptr;
        return its != nullptr && name != nullptr && *its == *name;
      };
      auto& known = global_parameters_;
      known.erase(std::remove_if(known.begin(), known.end(), same), known.end());
      known.push_back(parameter);
    }
    out.insert(record_name(of_node, ""));
  }
  return {};
}

void directory::export_user(std::string_view name, definitions& out) const {
  const auto who = users_.find(name);
  if (!who) return;
  out.users.push_back({*who, std::nullopt});
  users_.for_each_permissions(name, [&](const vhost_permissions& p) {
    if (const auto* given = p.resources()) out.permissions.push_back({p.user(), p.vhost(), *given});
    p.for_each_topic([&](const std::string& exchange, const topic_permissions& rules) {
      out.topic_permissions.push_back({p.user(), p.vhost(), exchange, rules});
    });
  });
}

namespace {

void export_vhost(const vhost_entry& entry, definitions& out) {
  out.vhosts.push_back(entry.what);
  entry.policies.ordinary.for_each([&](const policy& p) {
    out.policies.push_back({policy_kind::ordinary, entry.what.name, p});
  });
  entry.policies.of_operator.for_each([&](const policy& p) {
    out.policies.push_back({policy_kind::of_operator, entry.what.name, p});
  });
  out.parameters.insert(out.parameters.end(), entry.parameters.begin(), entry.parameters.end());
}

}  // namespace

definitions directory::exported(std::optional<std::string_view> vhost) const {
  definitions out;
  for (const auto& entry : vhosts()) {
    if (!entry->closing && (!vhost || entry->what.name == *vhost)) export_vhost(*entry, out);
  }
  users_.for_each_user([&](const user& who) {
    if (!vhost) out.users.push_back({who, std::nullopt});
  });
  users_.for_each_permissions([&](const vhost_permissions& p) {
    if (vhost && p.vhost() != *vhost) return;
    if (const auto* given = p.resources()) out.permissions.push_back({p.user(), p.vhost(), *given});
    p.for_each_topic([&](const std::string& exchange, const topic_permissions& rules) {
      out.topic_permissions.push_back({p.user(), p.vhost(), exchange, rules});
    });
  });
  if (!vhost) out.global_parameters = global_parameters_;
  const auto by_names = [](const auto& a, const auto& b) {
    return std::tie(a.vhost, a.user) < std::tie(b.vhost, b.user);
  };
  std::stable_sort(out.permissions.begin(), out.permissions.end(), by_names);
  std::stable_sort(out.topic_permissions.begin(), out.topic_permissions.end(), by_names);
  std::sort(out.users.begin(), out.users.end(),
            [](const auto& a, const auto& b) { return a.value.name < b.value.name; });
  return out;
}

// --- records -----------------------------------------------------------------------------------------------

std::optional<std::string> directory::record(std::string_view name) const {
  expects(!name.empty(), "a record has a name");
  definitions content;
  const auto rest = name.substr(1);
  bool is_closing = false;
  if (name.front() == of_user) {
    export_user(rest, content);
    if (content.users.empty()) return std::nullopt;
  } else if (name.front() == of_vhost) {
    const auto entry = find_vhost(rest);
    if (!entry) return std::nullopt;
    export_vhost(*entry, content);
    is_closing = entry->closing;
  } else {
    content.global_parameters = global_parameters_;
  }
  auto out = to_json(content, "");
  // What is empty need not be said.
  std::vector<std::string> unsaid;
  for (const auto& [key, value] : out) {
    if ((value.is_array() && value.get_array().empty()) || value.is_string()) unsaid.emplace_back(key);
  }
  for (const auto& key : unsaid) out.erase(key);
  if (is_closing) out.emplace(closing_key, true);
  return json::serialize(out);
}

result<void> directory::restore(std::string_view name, std::string_view text) {
  const auto damaged = [&](std::string_view why) {
    return corrupted("the record " + quoted(name) + " of the directory cannot be read: " + std::string{why});
  };
  auto content = definitions_of(text);
  if (!content) return damaged(content.error().text);
  const auto kind = name.empty() ? '\0' : name.front();
  if (kind == of_vhost) {
    for (const auto& vhost : content->vhosts) {
      vhost_entry entry;
      entry.what = vhost;
      entry.parameters = content->parameters;
      entry.closing =
          text.find(closing_key) != std::string_view::npos &&
          json::parse({text.data(), text.size()}).get_object().if_contains(closing_key) != nullptr;
      for (const auto& p : content->policies) policies_of(entry, p.kind).set(p.value);
      vhosts_.set(vhost.name, std::make_shared<const vhost_entry>(std::move(entry)));
    }
    return {};
  }
  if (kind == of_node) {
    global_parameters_ = content->global_parameters;
    return {};
  }
  if (kind != of_user) return damaged("it is of no kind that this version knows");
  for (const auto& entry : content->users) {
    if (auto set = users_.set(entry.value); !set) return damaged(set.error().text);
  }
  for (const auto& p : content->permissions) {
    if (auto set = users_.set_permissions(p.user, p.vhost, p.given); !set) return damaged(set.error().text);
  }
  for (const auto& p : content->topic_permissions) {
    if (auto set = users_.set_topic_permissions(p.user, p.vhost, p.exchange, p.given); !set) {
      return damaged(set.error().text);
    }
  }
  return {};
}

directory first_directory(std::string name, password_hash password, directory::touched& out) {
  directory made;
  const directory_command first[] = {
      put_vhost{"/", "Default virtual host", std::nullopt, std::nullopt, true},
      put_user{name, std::move(password), std::vector<std::string>{"administrator"}, put_user::when::if_new},
      put_permissions{name, "/", {".*", ".*", ".*"}}};
  for (const auto& command : first) {
    expects(made.on(command, out).has_value(), "a node can begin with its first user");
  }
  return made;
}

}  // namespace posthorn

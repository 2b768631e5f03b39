// The living directory of a node: its users and virtual hosts, and what is laid down for them.
//
// A plain value that is cheap to copy. Its owner (actors/directory.hpp) applies commands to a copy, makes the
// records that they touched durable, and publishes the copy as the new snapshot; if they cannot be made
// durable, it drops the copy, and nothing has happened.
//
//   record             holds                                               named
//   of a user          the user, and its permissions in all virtual hosts  "u" and the user's name
//   of a virtual host  its description, limits, policies and parameters    "v" and its name
//   of the node        global parameters                                   "g"
//
// A record's text is RabbitMQ's file of definitions (access/definitions.hpp), reduced to what it holds.
//
// Errors    `refused`: wrong, and why; `unreachable`: there is no such user, virtual host, …; `overloaded`: a
//           virtual host of that name is just being deleted.
// Threads   a copy may be read by any number of threads.
#pragma once

#include "access/definitions.hpp"
#include "access/policy.hpp"
#include "access/user_accounts.hpp"
#include "mailbox/persistent_map.hpp"

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace posthorn {

// --- commands ----------------------------------------------------------------------------------------------

struct put_user {
  enum class when : std::uint8_t { always, if_new, if_present };

  std::string name;
  std::optional<password_hash> password;         // nothing: as it was; of a new user: none
  std::optional<std::vector<std::string>> tags;  // nothing: as they were
  when condition = when::always;
};
struct remove_user {
  std::string name;
};
struct put_permissions {
  std::string user, vhost;
  resource_permissions given;
};
struct remove_permissions {
  std::string user, vhost;
};
struct put_topic_permissions {
  std::string user, vhost, exchange;
  topic_permissions given;
};
struct remove_topic_permissions {
  std::string user, vhost;
  std::optional<std::string> exchange;  // nothing: those of all
};
struct put_vhost {
  std::string name;
  std::optional<std::string> description;
  std::optional<std::vector<std::string>> tags;
  std::optional<std::string> default_queue_type;
  bool if_new = false;
};
// From here on nobody gets in, and nobody has permissions there; it is there until `forget_vhost`.
struct close_vhost {
  std::string name;
};
struct forget_vhost {
  std::string name;
};
struct put_policy {
  policy_kind kind = policy_kind::ordinary;
  std::string vhost;
  policy value;
};
struct remove_policy {
  policy_kind kind = policy_kind::ordinary;
  std::string vhost, name;
};
struct put_vhost_limit {
  std::string vhost, name;            // "max-connections", "max-queues"
  std::optional<std::int64_t> value;  // nothing: no limit
};
struct put_user_limit {
  std::string user, name;             // "max-connections", "max-channels"
  std::optional<std::int64_t> value;  // nothing: no limit
};
// Users, virtual hosts and what is laid down for them. Passwords are hashed by then. All of it, or nothing.
struct import_definitions {
  std::shared_ptr<const definitions> what;
};

using directory_command =
    std::variant<put_user, remove_user, put_permissions, remove_permissions, put_topic_permissions,
                 remove_topic_permissions, put_vhost, close_vhost, forget_vhost, put_policy, remove_policy,
                 put_vhost_limit, put_user_limit, import_definitions>;

// What became of a command.
enum class directory_answer : std::uint8_t { created, changed, removed };

// -----------------------------------------------------------------------------------------------------------

struct vhost_entry {
  virtual_host what;
  vhost_policies policies;
  boost::json::array parameters;  // of components that mean nothing here
  bool closing = false;           // it is being deleted
};
using vhost_entry_ptr = std::shared_ptr<const vhost_entry>;

class directory {
public:
  // Octets of the name of a user, virtual host or policy.
  static constexpr std::size_t name_size_max = 255;

  // The names of records that are to be written: those that `record` no longer knows are to be erased.
  using touched = std::set<std::string>;

  // Applies the command to this value, or changes nothing.
  result<directory_answer> on(const directory_command& command, touched& out);

  // Nothing: there is none of this name.
  [[nodiscard]] std::optional<std::string> record(std::string_view name) const;
  // Puts back what the store held. Refuses what is no record; then this value is not to be used.
  result<void> restore(std::string_view name, std::string_view text);

  [[nodiscard]] const user_accounts& users() const noexcept { return users_; }
  // Null when there is none. One that is being deleted is there.
  [[nodiscard]] vhost_entry_ptr find_vhost(std::string_view name) const;
  [[nodiscard]] std::size_t vhost_count() const noexcept { return vhosts_.size(); }
  // By name.
  [[nodiscard]] std::vector<vhost_entry_ptr> vhosts() const;

  // All of it, or of one virtual host and without users; without queues, exchanges and bindings.
  [[nodiscard]] definitions exported(std::optional<std::string_view> vhost = std::nullopt) const;

  // Tells published snapshots apart; never 0. Its owner counts it up before it publishes.
  [[nodiscard]] std::uint64_t version() const noexcept { return version_; }
  void count_version() noexcept { ++version_; }

private:
  result<directory_answer> apply(const put_user& c, touched& out);
  result<directory_answer> apply(const remove_user& c, touched& out);
  result<directory_answer> apply(const put_permissions& c, touched& out);
  result<directory_answer> apply(const remove_permissions& c, touched& out);
  result<directory_answer> apply(const put_topic_permissions& c, touched& out);
  result<directory_answer> apply(const remove_topic_permissions& c, touched& out);
  result<directory_answer> apply(const put_vhost& c, touched& out);
  result<directory_answer> apply(const close_vhost& c, touched& out);
  result<directory_answer> apply(const forget_vhost& c, touched& out);
  result<directory_answer> apply(const put_policy& c, touched& out);
  result<directory_answer> apply(const remove_policy& c, touched& out);
  result<directory_answer> apply(const put_vhost_limit& c, touched& out);
  result<directory_answer> apply(const put_user_limit& c, touched& out);
  result<directory_answer> apply(const import_definitions& c, touched& out);
  result<void> import_parts(const definitions& all, touched& out);
  // Calls `edit` with a copy of the entry, and keeps the copy if it returns true.
  template <class Edit>
  result<void> edit_vhost(std::string_view name, touched& out, Edit edit);
  [[nodiscard]] result<vhost_entry_ptr> open_vhost(std::string_view name) const;
  void export_user(std::string_view name, definitions& out) const;

  user_accounts users_;
  persistent_map<vhost_entry_ptr> vhosts_;
  boost::json::array global_parameters_;
  std::uint64_t version_ = 1;
};

// What a node that has none begins with: virtual host "/", in which this user may do everything, and which
// administrates.
[[nodiscard]] directory first_directory(std::string user, password_hash password, directory::touched& out);

}  // namespace posthorn

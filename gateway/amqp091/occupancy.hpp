// How many connections and channels there are of each user, and how many connections in each virtual host: what the limits
// are about (access/limits.hpp). Numbers in brackets are those of docs/amqp.md.
//
// Threads   any; a look takes less than a microsecond, and happens when a connection or a channel opens or ends.
#pragma once

#include "access/limits.hpp"
#include "access/user.hpp"
#include "mailbox/topology.hpp"

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace posthorn::amqp091 {

class occupancy {
public:
  // Counts a connection that opens a virtual host, or says why it may not [70].
  std::optional<refusal> enter(std::string_view vhost, const vhost_limits& of_vhost, const user& who) {
    const std::lock_guard guard{mutex_};
    if (auto full = check_connection(of_vhost, number(vhosts_, vhost), vhost, who.name)) return full;
    if (auto full = check_connection(who.limits, number(connections_, who.name), who.name)) return full;
    ++place(vhosts_, vhost);
    ++place(connections_, who.name);
    return std::nullopt;
  }
  void leave(std::string_view vhost, std::string_view user) {
    const std::lock_guard guard{mutex_};
    take(vhosts_, vhost, 1);
    take(connections_, user, 1);
  }

  // Counts a channel that is opened, or says why it may not be [70].
  std::optional<refusal> open_channel(const user& who) {
    const std::lock_guard guard{mutex_};
    if (auto full = check_channel(who.limits, number(channels_, who.name), who.name)) return full;
    ++place(channels_, who.name);
    return std::nullopt;
  }
  void close_channels(std::string_view user, std::uint64_t count) {
    const std::lock_guard guard{mutex_};
    take(channels_, user, count);
  }

private:
  using counts = std::map<std::string, std::uint64_t, std::less<>>;

  static std::uint64_t number(const counts& of, std::string_view name) {
    const auto found = of.find(name);
    return found == of.end() ? 0 : found->second;
  }
  static std::uint64_t& place(counts& of, std::string_view name) {
    const auto found = of.find(name);
    return found == of.end() ? of[std::string{name}] : found->second;
  }
  static void take(counts& of, std::string_view name, std::uint64_t count) {
    const auto found = of.find(name);
    if (found == of.end()) return;
    if (found->second <= count) {
      of.erase(found);
    } else {
      found->second -= count;
    }
  }

  std::mutex mutex_;  // guards all
  counts vhosts_, connections_, channels_;
};

}  // namespace posthorn::amqp091

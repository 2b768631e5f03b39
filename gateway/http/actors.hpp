// The tree of a node's actors over HTTP: seen, and steered. JSON, with basic authentication.
//
//   GET  /api/actors?path=/vhosts&depth=2&children_max=100   the actor and what is below it
//   GET  /api/actors/show?path=/vhosts                       one actor
//   GET  /api/actors/events?count=20                         what befell them, the newest first
//   POST /api/actors/kill?path=…                             } 204; what follows is up to its supervisor
//   POST /api/actors/restart?path=…                          }
//
// /api/actors answers with a flat array, parents before children, children in the order in which they start. Without
// `path` it is the whole tree, without `depth` all levels (0: the actor alone), without `children_max` no more than
// 1,000 children of any one supervisor; `children` always says how many there are. docs/supervision.md has the fields.
//
// A path that is no path, or a wrong query, is 400; a path that nothing has is 404; what cannot be done just now is 409.
// An actor's path has escapes of its own: /vhosts/%2F is path=/vhosts/%252F in a URL.
//
// Threads   called on the HTTP server's threads, several at a time.
#pragma once

#include "gateway/http/message.hpp"
#include "mailbox/result.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn::http {

struct actor_summary {
  struct failure {
    std::string kind, reason;
    std::int64_t at = 0;  // milliseconds since 1970
  };
  struct intensity {
    std::uint64_t restarts = 0;
    std::chrono::milliseconds period{0};
  };
  struct back_off {
    std::chrono::milliseconds minimum{0}, maximum{0}, reset_after{0};
    double jitter = 0;
  };
  // What it can tell about its work.
  struct figures {
    std::uint64_t mailbox_depth = 0, handled = 0;  // messages
    std::chrono::nanoseconds processing_time{0};   // for all that it has handled
    std::chrono::nanoseconds busy_for{0};          // with the present one; 0: it waits
  };
  // What its supervisor goes by.
  struct rules {
    std::string restart;                                            // permanent, transient, temporary
    std::string shutdown;                                           // brutal_kill, timeout, infinity
    std::chrono::milliseconds shutdown_time{0};                     // of timeout
    std::chrono::milliseconds start_deadline{0}, handler_limit{0};  // 0: none
    bool significant = false;
    std::optional<back_off> backs_off;
    std::optional<intensity> budget;
  };
  // What it goes by, if it is a supervisor.
  struct supervisor {
    std::string strategy, auto_shutdown;
    intensity limit;
    std::uint64_t children = 0;
  };

  std::string path, kind, state;
  std::uint64_t restarts = 0;
  std::optional<failure> last_failure;
  std::int64_t since = 0;  // milliseconds since 1970, when it came into this state; 0: nobody knows
  std::optional<figures> work;
  std::optional<rules> supervised_by;  // none: it is the root
  std::optional<supervisor> supervises;
};

// What befell an actor.
struct actor_event_summary {
  std::uint64_t number = 0;
  std::int64_t at = 0;  // milliseconds since 1970
  std::string path, kind, reason;
  std::uint64_t restarts = 0;
};

// What these calls need from the broker. Every function is called on the HTTP server's threads, and waits for no actor.
// Errors: `refused` when the path is none, `unreachable` when nothing has it, `overloaded` when it cannot be just now.
class actor_tree_view {
public:
  virtual ~actor_tree_view() = default;

  // The actor and what is down to `depth` levels below it; not more than `children_max` of any one supervisor, and
  // `count_max` in all.
  [[nodiscard]] virtual result<std::vector<actor_summary>> list_actors(std::string_view path,
                                                                       std::size_t depth,
                                                                       std::size_t children_max,
                                                                       std::size_t count_max) const = 0;
  [[nodiscard]] virtual result<actor_summary> show_actor(std::string_view path) const = 0;
  // The newest first.
  [[nodiscard]] virtual result<std::vector<actor_event_summary>> list_actor_events(
      std::size_t count_max) const = 0;
  virtual result<void> kill_actor(std::string_view path) = 0;
  virtual result<void> restart_actor(std::string_view path) = 0;
};

enum class actor_call : std::uint8_t { list, show, events, kill, restart };

// The call that a path asks for, split at its slashes: {"api", "actors", "show"}.
[[nodiscard]] std::optional<actor_call> actor_call_of(const std::vector<std::string>& path);
// It changes something: only POST will do.
[[nodiscard]] constexpr bool is_order(actor_call call) noexcept {
  return call == actor_call::kill || call == actor_call::restart;
}

// Of one who may ask, with the right method.
[[nodiscard]] response answer_about_actors(actor_tree_view& tree, actor_call call, const request& asked);

}  // namespace posthorn::http

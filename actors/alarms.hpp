// Why publishers have to wait: a resource of the node is low, or an operator says so, for a drill.
//
// While there is any reason, connections that publish are not read and are told so once; consumers go on. A drill changes
// nothing else: the node writes and takes as ever.
//
// Threads   everything from any. The listener is called under the lock, one call after the other: it must not wait, and
//           must not come back here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace posthorn {

enum class resource : std::uint8_t { memory, disk };

inline constexpr std::array<resource, 2> all_resources{resource::memory, resource::disk};

[[nodiscard]] std::string_view to_string(resource what) noexcept;
[[nodiscard]] std::optional<resource> parse_resource(std::string_view name) noexcept;

class resource_alarms {
public:
  struct state {
    bool is_low = false;   // as the node measured
    bool by_hand = false;  // an operator raised it
    [[nodiscard]] bool is_raised() const noexcept { return is_low || by_hand; }
  };
  // `reason` as clients are told [75]; empty: nobody has to wait any more.
  using listener = std::function<void(const std::string& reason)>;

  // True: that is news.
  bool measured(resource what, bool is_low);
  bool raised_by_hand(resource what, bool is_raised);

  [[nodiscard]] state of(resource what) const;
  // "", "low on memory", "low on disk" or "low on disk & memory".
  [[nodiscard]] std::string reason() const;

  // Told whenever the reason is another one, and now, if there is one. Null: nobody is told.
  void listen(listener told);

private:
  template <class Change>
  bool change(Change what);
  [[nodiscard]] std::string reason_now() const;

  mutable std::mutex mutex_;
  std::array<state, all_resources.size()> states_;
  listener listener_;
};

}  // namespace posthorn

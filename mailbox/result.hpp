// How a failure of the world travels below the actors: as a value, never as an exception.
//
// Threads   everything here is a plain value.
#pragma once

#include <boost/system/result.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace posthorn {

// Named by what to do next.
enum class errc : std::uint8_t {
  refused = 1,  // will never succeed: tell the client
  overloaded,   // may succeed later: back off, then ask again
  unreachable,  // the other side is gone: reconnect, then ask again
  corrupted,    // what is stored or was sent cannot be trusted: stop, and tell an operator
};

// As it is written here: "refused".
[[nodiscard]] std::string_view to_string(errc code) noexcept;

// What failed, and a sentence that says where, what, and with which values.
struct error {
  errc code;         // what to do next
  std::string text;  // a sentence

  friend bool operator==(const error&, const error&) = default;
};

// Called by `result::value()` when there is none: asking without looking first is a bug.
[[noreturn]] void throw_exception_from_error(const error& failure, const boost::source_location& where);

// A value, or an error that has to be looked at.
template <class T>
using result = boost::system::result<T, error>;

// An error of this code, with a sentence that says what failed.
[[nodiscard]] inline error refused(std::string text) { return {errc::refused, std::move(text)}; }
// The same.
[[nodiscard]] inline error overloaded(std::string text) { return {errc::overloaded, std::move(text)}; }
// The same.
[[nodiscard]] inline error corrupted(std::string text) { return {errc::corrupted, std::move(text)}; }

// A broken invariant is a bug: the actor that holds it ends, and its supervisor starts it again from disk.
void expects(bool condition, std::string_view what,
             const boost::source_location& where = BOOST_CURRENT_LOCATION);

}  // namespace posthorn

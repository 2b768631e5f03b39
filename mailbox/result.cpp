#include "mailbox/result.hpp"

#include <stdexcept>

namespace posthorn {

std::string_view to_string(errc code) noexcept {
  switch (code) {
    case errc::refused: return "refused";
    case errc::overloaded: return "overloaded";
    case errc::unreachable: return "unreachable";
    case errc::corrupted: return "corrupted";
  }
  return "unknown";
}

void throw_exception_from_error(const error& failure, const boost::source_location& where) {
  throw std::logic_error{"a result was used without looking at its error: " + failure.text + " at " +
                         where.to_string()};
}

void expects(bool condition, std::string_view what, const boost::source_location& where) {
  if (!condition) [[unlikely]] {
    throw std::logic_error{"broken invariant: " + std::string{what} + " at " + where.to_string()};
  }
}

}  // namespace posthorn

#include "node/commands/answer_field.hpp"

#include <boost/json/object.hpp>

namespace posthorn {

namespace json = boost::json;

const json::value& part(const json::value& from, std::string_view key) {
  static const json::value nothing;
  const auto* object = from.if_object();
  const auto* found =
      object == nullptr ? nullptr : object->if_contains(json::string_view{key.data(), key.size()});
  return found == nullptr ? nothing : *found;
}

std::uint64_t number_at(const json::value& from, std::string_view key) {
  boost::system::error_code failure;
  const auto number = part(from, key).to_number<std::uint64_t>(failure);
  return failure ? 0 : number;
}

std::string text_at(const json::value& from, std::string_view key) {
  const auto* text = part(from, key).if_string();
  return text == nullptr ? std::string{} : std::string{text->data(), text->size()};
}

std::optional<double> decimal_at(const json::value& from, std::string_view key) {
  boost::system::error_code failure;
  const auto number = part(from, key).to_number<double>(failure);
  return failure ? std::nullopt : std::optional{number};
}

}  // namespace posthorn

#include "mailbox/properties.hpp"

#include <utility>

namespace posthorn {

std::optional<property_offsets> property_offsets::scan(std::span<const std::byte> properties) noexcept {
  property_offsets out;
  if (properties.empty()) return out;
  if (properties.size() < 2 || properties.size() > UINT32_MAX) return std::nullopt;
  const auto flags = big_endian::load<std::uint16_t>(properties.data());
  if ((flags & 3U) != 0) return std::nullopt;
  out.flags_ = flags;
  std::size_t at = 2;
  for (auto todo = flags; todo != 0;) {
    const auto index = static_cast<unsigned>(std::countl_zero(todo));
    todo = static_cast<std::uint16_t>(todo & ~(0x8000U >> index));
    const auto left = properties.size() - at;
    std::size_t size = 0;
    switch (static_cast<property>(index)) {
      case property::headers:
        if (left < 4) return std::nullopt;
        size = big_endian::load<std::uint32_t>(properties.data() + at);
        at += 4;
        break;
      case property::delivery_mode:
      case property::priority: size = 1; break;
      case property::timestamp: size = 8; break;
      default:
        if (left < 1) return std::nullopt;
        size = std::to_integer<std::size_t>(properties[at]);
        at += 1;
        break;
    }
    if (properties.size() - at < size) return std::nullopt;
    out.places_[index] = {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(size)};
    at += size;
  }
  if (at != properties.size()) return std::nullopt;
  return out;
}

namespace {

error damaged(std::span<const std::byte> properties) {
  if (properties.size() < 2) return corrupted("message properties: the flags are cut short");
  const auto flags = big_endian::load<std::uint16_t>(properties.data());
  if ((flags & 3U) != 0) {
    return corrupted("message properties: the flags " + std::to_string(flags) +
                     " name a property that there is not");
  }
  return corrupted("message properties: the " + std::to_string(properties.size()) +
                   " octets are not what the flags " + std::to_string(flags) + " announce");
}

std::optional<std::string> text_of(std::optional<std::string_view> text) {
  if (!text) return std::nullopt;
  return std::string{*text};
}

// Appends the values in the order of their flags, and fills in the flags at the end.
class property_writer {
public:
  explicit property_writer(std::string& out) : out_{out}, begin_{out.size()} { out.append(2, '\0'); }

  void text(property which, const std::optional<std::string>& value) {
    if (!value) return;
    expects(value->size() <= 0xFF, "a property that is text has at most 255 octets");
    flags_ |= flag_of(which);
    big_endian::append(out_, static_cast<std::uint8_t>(value->size()));
    out_.append(*value);
  }

  template <class Number>
  void number(property which, std::optional<Number> value) {
    if (!value) return;
    flags_ |= flag_of(which);
    big_endian::append(out_, *value);
  }

  void table(property which, const std::optional<field_table>& value) {
    if (!value) return;
    flags_ |= flag_of(which);
    encode_table(*value, out_);
  }

  void finish() { big_endian::store(out_.data() + begin_, static_cast<std::uint16_t>(flags_)); }

private:
  std::string& out_;
  std::size_t begin_;
  unsigned flags_ = 0;
};

}  // namespace

result<void> check_properties(std::span<const std::byte> properties) {
  if (!property_offsets::scan(properties)) return damaged(properties);
  return {};
}

result<basic_properties> decode_properties(std::span<const std::byte> properties) {
  const auto found = property_offsets::scan(properties);
  if (!found) return damaged(properties);
  const auto text = [&](property which) { return text_of(found->text(properties, which)); };
  const auto octet = [&](property which) -> std::optional<std::uint8_t> {
    if (!found->has(which)) return std::nullopt;
    return std::to_integer<std::uint8_t>(found->value(properties, which)[0]);
  };
  basic_properties out;
  out.content_type = text(property::content_type);
  out.content_encoding = text(property::content_encoding);
  if (found->has(property::headers)) {
    auto headers = decode_table(found->value(properties, property::headers));
    if (!headers) return headers.error();
    out.headers = *std::move(headers);
  }
  out.delivery_mode = octet(property::delivery_mode);
  out.priority = octet(property::priority);
  out.correlation_id = text(property::correlation_id);
  out.reply_to = text(property::reply_to);
  out.expiration = text(property::expiration);
  out.message_id = text(property::message_id);
  if (found->has(property::timestamp)) {
    out.timestamp = big_endian::load<std::uint64_t>(found->value(properties, property::timestamp).data());
  }
  out.type = text(property::type);
  out.user_id = text(property::user_id);
  out.app_id = text(property::app_id);
  out.cluster_id = text(property::cluster_id);
  return out;
}

void encode_properties(const basic_properties& properties, std::string& out) {
  property_writer to{out};
  to.text(property::content_type, properties.content_type);
  to.text(property::content_encoding, properties.content_encoding);
  to.table(property::headers, properties.headers);
  to.number(property::delivery_mode, properties.delivery_mode);
  to.number(property::priority, properties.priority);
  to.text(property::correlation_id, properties.correlation_id);
  to.text(property::reply_to, properties.reply_to);
  to.text(property::expiration, properties.expiration);
  to.text(property::message_id, properties.message_id);
  to.number(property::timestamp, properties.timestamp);
  to.text(property::type, properties.type);
  to.text(property::user_id, properties.user_id);
  to.text(property::app_id, properties.app_id);
  to.text(property::cluster_id, properties.cluster_id);
  to.finish();
}

result<void> rewrite_properties(std::span<const std::byte> properties, const property_changes& changes,
                                std::string& out) {
  const auto found = property_offsets::scan(properties);
  if (!found) return damaged(properties);
  const auto begin = out.size();
  out.append(2, '\0');
  unsigned flags = 0;
  std::size_t at = properties.empty() ? 0 : 2;  // where the next value begins, its length included
  for (std::size_t i = 0; i < property_count; ++i) {
    const auto which = static_cast<property>(i);
    auto raw = properties.subspan(at, 0);
    if (found->has(which)) {
      const auto value = found->value(properties, which);
      const auto end = static_cast<std::size_t>(value.data() + value.size() - properties.data());
      raw = properties.subspan(at, end - at);
      at = end;
    }
    if (which == property::headers && changes.headers != nullptr) {
      flags |= flag_of(which);
      encode_table(*changes.headers, out);
    } else if (found->has(which) && !(which == property::expiration && changes.without_expiration)) {
      flags |= flag_of(which);
      out.append(reinterpret_cast<const char*>(raw.data()), raw.size());
    }
  }
  big_endian::store(out.data() + begin, static_cast<std::uint16_t>(flags));
  return {};
}

}  // namespace posthorn

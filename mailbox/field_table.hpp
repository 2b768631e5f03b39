// The field table: the list of named, typed values that AMQP 0-9-1 uses for headers and arguments, in the
// dialect that RabbitMQ speaks and every client therefore writes.
//
//   letter  value                      letter  value
//   t       boolean, one octet         f, d    float of 32, 64 bits
//   b, B    8 bits, signed, unsigned   D       decimal: scale, then 32 bits
//   s, u    16 bits                    S, x    text, bytes; 32 bits of length before them
//   I, i    32 bits                    A, F    array, table; 32 bits of length before them
//   l, L    64 bits, both signed       T       timestamp, 64 bits of seconds
//                                      V       nothing
//
// The letter is kept with the value, so that what was decoded encodes to the same bytes again.
//
// Threads   everything here is a plain value.
#pragma once

#include "mailbox/result.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace posthorn {

// Numbers as they travel: most significant octet first, at any alignment.
namespace big_endian {

template <class T>
[[nodiscard]] inline T load(const std::byte* from) noexcept {
  static_assert(std::is_unsigned_v<T>);
  T raw;
  std::memcpy(&raw, from, sizeof(T));
  if constexpr (sizeof(T) == 8) {
    return static_cast<T>(__builtin_bswap64(raw));
  } else if constexpr (sizeof(T) == 4) {
    return static_cast<T>(__builtin_bswap32(raw));
  } else if constexpr (sizeof(T) == 2) {
    return static_cast<T>(__builtin_bswap16(raw));
  } else {
    return raw;
  }
}

template <class T>
inline void store(char* to, T value) noexcept {
  static_assert(std::is_unsigned_v<T>);
  std::byte raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof(T));
  const T swapped = load<T>(raw);
  std::memcpy(to, &swapped, sizeof(T));
}

template <class T>
inline void append(std::string& out, T value) {
  char raw[sizeof(T)];
  store(raw, value);
  out.append(raw, sizeof(T));
}

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "load and store swap unconditionally");

}  // namespace big_endian

struct field_value;

// Names and values in the order in which they were sent. A name may stand there twice; the first one counts.
class field_table {
public:
  using entry = std::pair<std::string, field_value>;

  field_table() noexcept;
  field_table(std::initializer_list<entry> entries);
  field_table(const field_table& other);
  field_table(field_table&& other) noexcept;
  field_table& operator=(const field_table& other);
  field_table& operator=(field_table&& other) noexcept;
  ~field_table();

  [[nodiscard]] bool empty() const noexcept;
  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] const entry* begin() const noexcept;
  [[nodiscard]] const entry* end() const noexcept;

  // Null when there is none. Valid until the table changes.
  [[nodiscard]] const field_value* find(std::string_view name) const noexcept;
  [[nodiscard]] bool contains(std::string_view name) const noexcept { return find(name) != nullptr; }

  // Appends, whether or not the name is there already.
  void add(std::string name, field_value value);
  // Replaces the first value of that name, or appends.
  void set(std::string_view name, field_value value);
  // Every value of that name; says whether there was one.
  bool erase(std::string_view name);

  // The same entries ordered by name, to compare tables whatever the order in which they were sent.
  [[nodiscard]] field_table sorted() const;

  // Entry by entry, in order.
  friend bool operator==(const field_table& a, const field_table& b) noexcept;

private:
  std::vector<entry> entries_;
};

// `mantissa` divided by ten to the power of `scale`.
struct decimal {
  std::uint8_t scale = 0;
  std::uint32_t mantissa = 0;

  friend bool operator==(const decimal&, const decimal&) = default;
};

// The octet is kept, because any other than zero is true and has to leave as it came.
struct boolean {
  std::uint8_t octet = 0;

  explicit operator bool() const noexcept { return octet != 0; }
  friend bool operator==(boolean a, boolean b) noexcept { return bool{a} == bool{b}; }
};

using field_array = std::vector<field_value>;

struct field_value {
  // Which alternative a letter has:
  //   V monostate   t boolean   b B s u I i l L T int64   f float   d double   D decimal   S x string
  //   A field_array   F field_table
  // A timestamp is unsigned on the wire. All of its 64 bits are kept; 2^63 and more as a negative number.
  using variant = std::variant<std::monostate, boolean, std::int64_t, float, double, decimal, std::string,
                               field_array, field_table>;

  char type = 'V';
  variant value;

  static field_value nothing() { return {}; }
  static field_value of_bool(bool value) { return {'t', boolean{value ? std::uint8_t{1} : std::uint8_t{0}}}; }
  static field_value of_int(std::int32_t value) { return {'I', std::int64_t{value}}; }
  static field_value of_long(std::int64_t value) { return {'l', value}; }
  static field_value of_timestamp(std::uint64_t seconds) { return {'T', static_cast<std::int64_t>(seconds)}; }
  static field_value of_double(double value) { return {'d', value}; }
  static field_value of_string(std::string value) { return {'S', std::move(value)}; }
  static field_value of_string(std::string_view value) { return {'S', std::string{value}}; }
  static field_value of_string(const char* value) { return {'S', std::string{value}}; }
  static field_value of_bytes(std::string value) { return {'x', std::move(value)}; }
  static field_value of_array(field_array values) { return {'A', std::move(values)}; }
  static field_value of_table(field_table values) { return {'F', std::move(values)}; }

  // Same type and same value. Floats are compared by their bits, so that every value equals itself.
  friend bool operator==(const field_value& a, const field_value& b) noexcept;
};

inline bool field_table::empty() const noexcept { return entries_.empty(); }
inline std::size_t field_table::size() const noexcept { return entries_.size(); }
inline const field_table::entry* field_table::begin() const noexcept { return entries_.data(); }
inline const field_table::entry* field_table::end() const noexcept {
  return entries_.data() + entries_.size();
}

// Any of the nine integer types; not a timestamp and not a boolean.
[[nodiscard]] std::optional<std::int64_t> as_integer(const field_value& value) noexcept;
// Text or bytes. Valid as long as the value is.
[[nodiscard]] std::optional<std::string_view> as_string(const field_value& value) noexcept;
[[nodiscard]] std::optional<bool> as_bool(const field_value& value) noexcept;
[[nodiscard]] const field_table* as_table(const field_value& value) noexcept;
[[nodiscard]] const field_array* as_array(const field_value& value) noexcept;

// RabbitMQ's word for a type, as its error texts have it: "signedint" for 'I'. Empty for an unknown letter.
[[nodiscard]] std::string_view type_name(char type) noexcept;

// For logs and error texts: text as it is, numbers in decimal, arrays as [1,2], tables as {name: value}.
[[nodiscard]] std::string to_string(const field_value& value);
[[nodiscard]] std::string to_string(const field_table& table);

// How deep arrays and tables may stand in each other, the outermost table included.
inline constexpr int field_depth_max = 64;

// `body` is the table without the four octets of length before it. All of it has to be used up.
[[nodiscard]] result<field_table> decode_table(std::span<const std::byte> body);

// Whether decode_table would succeed; allocates nothing then.
[[nodiscard]] result<void> check_table(std::span<const std::byte> body);

// Appends four octets of length and the table. A name of more than 255 octets, or a number that does not fit
// its letter, is a bug of the caller.
void encode_table(const field_table& table, std::string& out);

}  // namespace posthorn

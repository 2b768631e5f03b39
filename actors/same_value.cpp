#include "actors/same_value.hpp"

#include <capnp/any.h>
#include <capnp/schema.h>

#include <cstring>

namespace posthorn {

namespace {

bool same_struct(const capnp::DynamicStruct::Reader& a, const capnp::DynamicStruct::Reader& b) {
  const auto schema = a.getSchema();
  for (const auto field : schema.getNonUnionFields()) {
    if (!same_value(a.get(field), b.get(field))) return false;
  }
  if (schema.getUnionFields().size() == 0) return true;
  const auto of_a = a.which(), of_b = b.which();
  // A variant that this program does not know cannot be looked into.
  if (of_a == nullptr || of_b == nullptr) return false;
  bool same = false;
  KJ_IF_MAYBE (field_a, of_a) {
    KJ_IF_MAYBE (field_b, of_b) {
      same = *field_a == *field_b && same_value(a.get(*field_a), b.get(*field_b));
    }
  }
  return same;
}

bool same_list(const capnp::DynamicList::Reader& a, const capnp::DynamicList::Reader& b) {
  if (a.size() != b.size()) return false;
  for (capnp::uint i = 0; i < a.size(); ++i) {
    if (!same_value(a[i], b[i])) return false;
  }
  return true;
}

}  // namespace

bool same_value(const capnp::DynamicValue::Reader& a, const capnp::DynamicValue::Reader& b) {
  using value = capnp::DynamicValue;
  if (a.getType() != b.getType()) return false;
  switch (a.getType()) {
    case value::UNKNOWN:
    case value::VOID: return true;
    case value::BOOL: return a.as<bool>() == b.as<bool>();
    case value::INT: return a.as<std::int64_t>() == b.as<std::int64_t>();
    case value::UINT: return a.as<std::uint64_t>() == b.as<std::uint64_t>();
    case value::FLOAT: {
      const auto x = a.as<double>(), y = b.as<double>();
      return std::memcmp(&x, &y, sizeof x) == 0;
    }
    case value::TEXT: return a.as<capnp::Text>() == b.as<capnp::Text>();
    case value::DATA: return a.as<capnp::Data>() == b.as<capnp::Data>();
    case value::LIST: return same_list(a.as<capnp::DynamicList>(), b.as<capnp::DynamicList>());
    case value::ENUM: return a.as<capnp::DynamicEnum>().getRaw() == b.as<capnp::DynamicEnum>().getRaw();
    case value::STRUCT: return same_struct(a.as<capnp::DynamicStruct>(), b.as<capnp::DynamicStruct>());
    case value::CAPABILITY: return true;
    case value::ANY_POINTER: return a.as<capnp::AnyPointer>() == b.as<capnp::AnyPointer>();
  }
  return false;
}

}  // namespace posthorn

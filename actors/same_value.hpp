// Whether two Cap'n Proto structs say the same. Unlike their bytes, what is absent equals its default here: reading a
// field of a builder may put its default in place.
#pragma once

#include <capnp/dynamic.h>

namespace posthorn {

[[nodiscard]] bool same_value(const capnp::DynamicValue::Reader& a, const capnp::DynamicValue::Reader& b);

}  // namespace posthorn

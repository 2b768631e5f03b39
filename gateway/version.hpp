// The version of this build, as the build says it.
#pragma once

#include <string_view>

#ifndef POSTHORN_VERSION
#error "the build defines POSTHORN_VERSION"
#endif

namespace posthorn {

inline constexpr std::string_view product_version = POSTHORN_VERSION;

}  // namespace posthorn

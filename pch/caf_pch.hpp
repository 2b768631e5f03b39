// What every file that uses CAF or Asio reads first, compiled once for each target (see the top of meson.build).
// It only makes builds fast: each file still includes what it uses. A guard, because a precompiled header is a main
// file, where #pragma once is a warning.
#ifndef POSTHORN_PCH_CAF_PCH_HPP
#define POSTHORN_PCH_CAF_PCH_HPP

#include <boost/asio.hpp>
#include <caf/all.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#endif

// How Catch prints a `result`: with its error, which is what a failed check wants to say.
#pragma once

#include "mailbox/result.hpp"

#include <catch2/catch_tostring.hpp>

#include <string>

template <class T>
struct Catch::StringMaker<boost::system::result<T, posthorn::error>> {
  static std::string convert(const boost::system::result<T, posthorn::error>& r) {
    return r.has_value() ? "a value" : "the error '" + r.error().text + "'";
  }
};

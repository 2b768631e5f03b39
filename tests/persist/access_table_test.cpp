#include "persist/access_table.hpp"

#include "persist/record.hpp"
#include "persist/verify.hpp"
#include "tests/persist/scratch.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

using namespace posthorn;

namespace {

std::vector<access_record> stored_in(const scratch_directory& directory) {
  auto s = open_store(directory, small_map);
  return recover(*s).access;
}

}  // namespace

TEST_CASE("records of the directory are there again after a restart, until they are erased", "[persist]") {
  scratch_directory directory;
  {
    auto s = open_store(directory, small_map);
    CHECK(recover(*s).access.empty());
    const std::vector<access_record> two{{"valpha", "{}"}, {"ubob", R"({"users": []})"}};
    REQUIRE(s->commit({}, {}, {}, {}, two).has_value());
  }
  CHECK(stored_in(directory) == std::vector<access_record>{{"ubob", R"({"users": []})"}, {"valpha", "{}"}});
  {
    auto s = open_store(directory, small_map);
    recover(*s);
    const std::vector<access_record> changes{{"ubob", std::nullopt}, {"valpha", "{\"a\": 1}"}};
    REQUIRE(s->commit({}, {}, {}, {}, changes).has_value());
  }
  CHECK(stored_in(directory) == std::vector<access_record>{{"valpha", "{\"a\": 1}"}});
  const auto report = verify(directory.path());
  REQUIRE(report.has_value());
  CHECK(report->clean());
  CHECK(report->access == 1);
}

TEST_CASE("a record of the directory under another name is as wrong as a damaged one", "[persist]") {
  std::vector<std::byte> value(record::header_size + 2);
  const std::string name = "ualice", other = "ubob";
  write_record(value, {0, std::as_bytes(std::span{"{}", 2})}, seed_of_key(std::as_bytes(std::span{name})));
  CHECK(read_access_record(std::as_bytes(std::span{name}), value).has_value());
  CHECK_FALSE(read_access_record(std::as_bytes(std::span{other}), value).has_value());
}

// A name that leads to one of several durable actors and queues, or to all of them.
//
//   node.add(posthorn::router("resizers", posthorn::routing::round_robin)
//                .over({"resizer/1", "resizer/2", "a-queue"}));
//   node.send<Resize>("routers/resizers", …);
//
// Weights stand with the members: `.over({{"resizer/1", 3}, {"resizer/2", 1}})`. With `routing::consistent_hash`, the key
// of a message can be written into its address: `posthorn::router_address("resizers", "anna")`; what else may be the key
// says actors/router.hpp.
//
// Ownership   a value, until it is added.
// Threads     any, once it is added.
// Errors      node.add and node.resize_router refuse members that are not there.
#pragma once

#include "actors/router.hpp"

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

// The name under which a router is sent to; with a key, for a consistent hash. All of it has at most 255 octets.
[[nodiscard]] inline std::string router_address(std::string_view name) {
  return "routers/" + std::string{name};
}
// The same, for all messages with this key.
[[nodiscard]] inline std::string router_address(std::string_view name, std::string_view key) {
  return router_address(name) + "/" + std::string{key};
}

class router {
public:
  // `name`: not empty, without '/'. `how`: which member gets the next message.
  router(std::string name, routing how) {
    definition_.name = std::move(name);
    definition_.how = how;
  }

  // Durable actors ("kind/id") and queues of the vhost "/", all of them known to the node by now. None at all is no
  // error, but nothing can be sent then.
  router&& over(std::vector<router_member> members) && {
    definition_.members = std::move(members);
    return std::move(*this);
  }
  // Consistent hash: the header whose value is the key. Default: "x-routing-hash".
  router&& key_header(std::string header) && {
    definition_.key_header = std::move(header);
    return std::move(*this);
  }
  // Consistent hash: how often a member of weight 1 stands on the ring; more is more even. Default: 100.
  router&& virtual_nodes(std::uint32_t count) && {
    definition_.virtual_nodes = count;
    return std::move(*this);
  }
  // Least response time: how long until a member's time counts half, while it is not chosen. Default: 5 seconds.
  router&& half_life(std::chrono::milliseconds time) && {
    definition_.half_life = time;
    return std::move(*this);
  }

  // What a node is given of it.
  [[nodiscard]] const router_definition& definition() const noexcept { return definition_; }

private:
  router_definition definition_;
};

}  // namespace posthorn

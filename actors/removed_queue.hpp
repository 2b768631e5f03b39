// Answers for a queue that is not there any more, as it would have: whoever had its port may still send to it.
#pragma once

#include "actors/messages.hpp"

#include <string>
#include <utility>

namespace posthorn {

// A target that goes while a publish is pending counts as positive: [26]. An actor whose kind this program does not know
// may come back with a program that does: its senders are told.
struct removed_queue {
  const std::string& described;
  bool rejects = false;

  void operator()(const arrived&) const {}
  void operator()(const change_rules&) const {}
  void operator()(const ask_keeper&) const {}
  void operator()(const publish_batch& message) const {
    settled answer;
    for (const auto& m : message.messages) {
      answer.settlements.push_back({m.from, m.number, m.number, rejects});
    }
    caf::anon_send(message.from, std::move(answer));
  }
  void operator()(const cancel_consumer& request) const {
    caf::anon_send(request.from, reply{request.token, done{}});
  }
  void operator()(const delete_queue& request) const {
    caf::anon_send(request.from, reply{request.token, messages_removed{0}});
  }
  template <class Message>
  void operator()(const Message& message) const {
    if constexpr (requires { message.token; }) {
      caf::anon_send(message.from,
                     reply{message.token, refusal{refusal::kind::not_found, "no " + described}});
    }
  }
};

}  // namespace posthorn

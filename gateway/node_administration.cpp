#include "gateway/node_administration.hpp"

#include <utility>

namespace posthorn {

namespace {

error not_yet() { return overloaded("the node is starting: ask again when /healthz says ok"); }

}  // namespace

std::shared_ptr<const directory> node_administration::access() const {
  broker* const running = broker_;
  return running == nullptr ? nullptr : running->access();
}

void node_administration::change(directory_command command,
                                 std::function<void(const result<directory_answer>&)> answer) {
  broker* const running = broker_;
  if (running == nullptr) return answer(not_yet());
  running->administrate(std::move(command), std::move(answer));
}

void node_administration::hash(secret password, std::function<void(result<password_hash>)> answer) {
  broker* const running = broker_;
  if (running == nullptr) return answer(not_yet());
  running->hash(std::move(password), std::move(answer));
}

void node_administration::close_connections(const std::optional<std::string>& vhost,
                                            const std::optional<std::string>& user,
                                            const std::string& reason) {
  broker* const running = broker_;
  if (running != nullptr) running->evict({vhost, user, reason});
}

}  // namespace posthorn

// What the management API may change of this node, done by the broker.
//
// Threads   `attach` from the thread that starts the broker; everything else from any.
#pragma once

#include "actors/broker.hpp"
#include "gateway/http/administration.hpp"

#include <atomic>

namespace posthorn {

class node_administration final : public http::administration {
public:
  // From here on there is something to change. It stays until the HTTP server no longer calls its handler.
  void attach(broker& running) noexcept { broker_ = &running; }

  [[nodiscard]] std::shared_ptr<const directory> access() const override;
  void change(directory_command command,
              std::function<void(const result<directory_answer>&)> answer) override;
  void hash(secret password, std::function<void(result<password_hash>)> answer) override;
  void close_connections(const std::optional<std::string>& vhost, const std::optional<std::string>& user,
                         const std::string& reason) override;

private:
  std::atomic<broker*> broker_ = nullptr;  // null while the store is read
};

}  // namespace posthorn

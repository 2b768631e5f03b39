// What the management API may change of this node, done by the broker.
//
// Threads   `attach` from the thread that starts the broker; everything else from any.
#pragma once

#include "actors/broker.hpp"
#include "gateway/http/administration.hpp"

#include <atomic>

namespace posthorn {

class node_administration final : public http::administration, public http::delayed_view {
public:
  // From here on there is something to change. It stays until the HTTP server no longer calls its handler.
  void attach(broker& running) noexcept { broker_ = &running; }

  [[nodiscard]] std::shared_ptr<const directory> access() const override;
  void change(directory_command command,
              std::function<void(const result<directory_answer>&)> answer) override;
  void hash(secret password, std::function<void(result<password_hash>)> answer) override;
  void close_connections(const std::optional<std::string>& vhost, const std::optional<std::string>& user,
                         const std::string& reason) override;
  void export_topology(const std::optional<std::string>& vhost, definitions& to) const override;
  void import_topology(imported_topology what,
                       std::function<void(result<std::vector<std::string>>)> answer) override;

  [[nodiscard]] http::delayed_view* delayed() override { return this; }
  void list_delayed(const std::string& vhost, const std::string& exchange, const delayed_id& from,
                    std::size_t count_max,
                    std::function<void(result<std::vector<http::delayed_summary>>)> answer) override;
  void cancel_delayed(const std::string& vhost, const std::string& exchange,
                      const std::optional<delayed_id>& which,
                      std::function<void(result<std::uint64_t>)> answer) override;

private:
  // Where the exchange's messages wait, or why nobody can be asked.
  [[nodiscard]] result<std::shared_ptr<queue_port>> keeper_of(const std::string& vhost,
                                                              const std::string& exchange) const;

  std::atomic<broker*> broker_ = nullptr;  // null while the store is read
};

}  // namespace posthorn

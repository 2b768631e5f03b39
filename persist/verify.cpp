#include "persist/verify.hpp"

#include "mailbox/envelope.hpp"
#include "persist/definitions.hpp"
#include "persist/directory_lock.hpp"
#include "persist/keys.hpp"
#include "persist/record.hpp"
#include "persist/store.hpp"
#include "persist/transaction.hpp"
#include "persist/trial_read.hpp"

#include <cstring>
#include <map>
#include <memory>
#include <set>

namespace posthorn {

namespace {

constexpr std::size_t problems_listed_max = 100;

class verifier {
public:
  explicit verifier(MDB_txn* txn) noexcept : txn_{txn} {}

  verify_report run() {
    read_version();
    read_graves();
    read_definitions("exchanges", report_.exchanges, [](std::uint64_t, auto bytes) -> result<void> {
      const auto made = decode_exchange(bytes);
      if (!made) return made.error();
      return {};
    });
    read_definitions("queues", report_.queues, [this](std::uint64_t id, auto bytes) -> result<void> {
      const auto made = decode_queue(bytes);
      if (!made) return made.error();
      mailboxes_.insert({id});
      return {};
    });
    read_definitions("bindings", report_.bindings, [](std::uint64_t, auto bytes) -> result<void> {
      const auto made = decode_binding(bytes);
      if (!made) return made.error();
      return {};
    });
    read_messages();
    return std::move(report_);
  }

private:
  void problem(std::string text) {
    ++report_.problem_count;
    if (report_.problems.size() < problems_listed_max) report_.problems.push_back(std::move(text));
  }

  template <class Visit>
  void each(const char* table, Visit visit) {
    MDB_dbi id = 0;
    const int opened = mdb_dbi_open(txn_, table, 0, &id);
    if (opened == MDB_NOTFOUND) return;
    if (auto r = check_lmdb(opened, std::string{"table "} + table); !r) return problem(r.error().text);
    auto c = cursor::open(txn_, id);
    if (!c) return problem(c.error().text);
    auto item = c->first();
    for (; item && *item; item = c->next()) visit(**item);
    if (!item) problem(std::string{"table "} + table + " cannot be read to its end: " + item.error().text);
  }

  void read_version() {
    each("meta", [&](const cursor::item& item) {
      const std::string_view key{reinterpret_cast<const char*>(item.key.data()), item.key.size()};
      if (key != "version") return;
      if (item.value.size() != sizeof report_.version) return problem("the version has an odd size");
      std::memcpy(&report_.version, item.value.data(), sizeof report_.version);
    });
    if (report_.version == 0) problem("the store has no version");
  }

  void read_graves() {
    each("graves", [&](const cursor::item& item) {
      if (item.key.size() != message_key::size || item.value.size() != 8)
        return problem("a grave has an odd size");
      graves_[{message_key::mailbox_of(item.key), message_key::sequence_of(item.key)}] = {
          id_key::read(item.value)};
    });
  }

  bool buried(mailbox_id mailbox, sequence at) const {
    auto found = graves_.upper_bound({mailbox, at});
    if (found == graves_.begin()) return false;
    --found;
    return found->first.first == mailbox && at <= found->second;
  }

  template <class Decode>
  void read_definitions(const char* table, std::uint64_t& count, Decode decode) {
    const bool by_id = std::string_view{table} != "exchanges";
    each(table, [&](const cursor::item& item) {
      ++count;
      const auto where = std::string{"table "} + table + ", record " + std::to_string(count) + ": ";
      if (by_id && item.key.size() != 8) return problem(where + "its key has an odd size");
      const auto id = by_id ? id_key::read(item.key) : 0;
      const auto r = read_record(item.value, seed_of(id));
      if (!r) return problem(where + r.error().text);
      if (const auto decoded = decode(id, r->bytes); !decoded) problem(where + decoded.error().text);
    });
  }

  void read_messages() {
    each("messages", [&](const cursor::item& item) {
      if (item.key.size() != message_key::size) return problem("a message's key has an odd size");
      const auto mailbox = message_key::mailbox_of(item.key);
      const auto at = message_key::sequence_of(item.key);
      const auto where =
          "message " + std::to_string(at.value) + " of mailbox " + std::to_string(mailbox.value) + ": ";
      const auto r = read_record(item.value, seed_of(mailbox, at));
      if (!r) return problem(where + r.error().text);
      const auto message = envelope::read(r->bytes);
      if (!message) return problem(where + message.error().text);
      if (buried(mailbox, at) || !mailboxes_.contains(mailbox)) {
        ++report_.buried;
      } else if ((r->flags & record::transient) != 0) {
        ++report_.transient;
      } else {
        ++report_.messages;
        report_.message_bytes += (*message)->body().size();
      }
    });
  }

  MDB_txn* txn_;
  verify_report report_;
  std::set<mailbox_id> mailboxes_;
  std::map<std::pair<mailbox_id, sequence>, sequence> graves_;
};

}  // namespace

result<verify_report> verify(const std::filesystem::path& directory) {
  std::error_code failed;
  if (!std::filesystem::exists(directory / "data.mdb", failed)) {
    return refused("there is no store in " + directory.string() + (failed ? ": " + failed.message() : ""));
  }
  const auto lock = directory_lock::take(directory);
  if (!lock) return lock.error();
  const auto environment = new_environment();
  if (!environment) return environment.error();
  auto* made = environment->get();
  const int opened = mdb_env_open(made, directory.c_str(), MDB_RDONLY | MDB_NOLOCK, 0640);
  verify_report damaged;
  if (opened == MDB_INVALID || opened == MDB_CORRUPTED || opened == MDB_VERSION_MISMATCH) {
    damaged.problem_count = 1;
    damaged.problems.emplace_back("the first pages of data.mdb are not LMDB's");
    return damaged;
  }
  if (auto r = check_lmdb(opened, "opening " + (directory / "data.mdb").string()); !r) return r.error();
  if (!readable_to_its_end(made, directory)) {
    damaged.problem_count = 1;
    damaged.problems.emplace_back("data.mdb is shorter than its content");
    return damaged;
  }
  auto txn = read_transaction::begin(made);
  if (!txn) return txn.error();
  auto report = verifier{txn->handle()}.run();
  if (report.version > store::version) {
    return refused("the store in " + directory.string() + " has version " + std::to_string(report.version) +
                   ", newer than this program, which knows versions up to " + std::to_string(store::version));
  }
  return report;
}

}  // namespace posthorn

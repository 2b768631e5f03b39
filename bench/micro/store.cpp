// The store: commits, with and without fsync, reading back, and recovery.
#include "persist/store.hpp"

#include "bench/micro/meter.hpp"

#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace posthorn::bench {

namespace {

constexpr std::uint64_t map_size = std::uint64_t{4} << 30;
constexpr mailbox_id queue{1};

// A store on a directory of its own, which goes with it.
class scratch_store {
public:
  scratch_store(const std::filesystem::path& parent, bool sync)
      : path_{parent / ("posthorn-bench-micro-" + std::to_string(::getpid()))}, sync_{sync} {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
    open();
    if (!store_->recover()) throw std::runtime_error{"recover"};
    auto definition = std::make_shared<queue_definition>();
    definition->id = queue;
    definition->name = "orders";
    definition->durable = true;
    const std::vector<topology_change> changes{queue_added{definition}};
    const store::topology_write write{"/", changes};
    check(store_->commit({}, {&write, 1}));
  }
  ~scratch_store() {
    store_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  scratch_store(const scratch_store&) = delete;
  scratch_store& operator=(const scratch_store&) = delete;

  // The next `count` messages in one transaction, which also erases those of `erased`.
  void append(std::uint64_t count, std::vector<sequence_range> erased = {}) {
    journal_batch batch;
    for (std::uint64_t n = 0; n < count; ++n) batch.appends.push_back({{++last_}, message_});
    batch.erasures = std::move(erased);
    const mailbox_write write{queue, &batch};
    check(store_->commit({&write, 1}));
  }
  void reopen() {
    store_.reset();
    open();
  }
  [[nodiscard]] store& get() noexcept { return *store_; }
  [[nodiscard]] std::uint64_t last() const noexcept { return last_; }

private:
  void open() {
    auto opened = store::open({path_, map_size, sync_});
    if (!opened) throw std::runtime_error{opened.error().text};
    store_ = std::move(*opened);
  }
  static void check(const result<void>& done) {
    if (!done) throw std::runtime_error{done.error().text};
  }

  std::filesystem::path path_;
  bool sync_;
  std::unique_ptr<store> store_;
  std::string body_ = std::string(1024, 'x');
  envelope_ptr message_ = make_envelope("", "orders", {}, true, std::as_bytes(std::span{body_}));
  std::uint64_t last_ = 0;
};

}  // namespace

void measure_store(meter& m) {
  for (const bool sync : {true, false}) {
    const std::string with = sync ? "with fsync" : "without fsync";
    for (const std::uint64_t count : {std::uint64_t{1}, std::uint64_t{1000}}) {
      const auto name = "store: a commit of " + std::to_string(count) + " messages of 1 KiB, " + with;
      if (!m.wants(name)) continue;
      scratch_store s{m.directory(), sync};
      // What was written two commits ago is erased, so that the store stays as large as it is.
      m.measure(name + ", per commit", [&](std::uint64_t times) {
        for (std::uint64_t n = 0; n < times; ++n) {
          const auto last = s.last();
          s.append(count, last < 2 * count
                              ? std::vector<sequence_range>{}
                              : std::vector<sequence_range>{{{last - 2 * count + 1}, {last - count}}});
        }
      });
    }
  }
  constexpr std::uint64_t stored = 100'000;
  if (!m.wants("store: recovery of 100,000 messages, per message") &&
      !m.wants("store: read back 1,000 messages, per message"))
    return;
  scratch_store s{m.directory(), false};
  for (std::uint64_t n = 0; n < stored; n += 1000) s.append(1000);
  m.measure_once_each(
      "store: recovery of 100,000 messages, per message", stored,
      [&] {
        s.reopen();
        return 0;
      },
      [&](int) {
        const auto recovered = s.get().recover();
        if (!recovered || recovered->message_count != stored) std::abort();
      });
  m.measure("store: read back 1,000 messages, per message", [&](std::uint64_t count) {
    for (std::uint64_t n = 0; n < count; n += 1000) {
      const std::uint64_t first = 1 + n % (stored - 1000);
      const auto loaded = s.get().load(queue, {{{first}, {first + 999}}, 1000, std::size_t{1} << 30});
      if (!loaded || loaded->size() != 1000) std::abort();
    }
  });
}

}  // namespace posthorn::bench

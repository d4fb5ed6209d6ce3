// The superkernel's protocol without a GPU: every device thread is a host thread, and the code under test is the code
// that runs on the device (superkernel.hpp) and beside it (ring_host.hpp). Tiles write plain memory, so a missing
// release or acquire anywhere is a data race that the thread sanitizer reports.
#include <doctest/doctest.h>

#include <cohort/device/ring.hpp>
#include <cohort/device/ring_host.hpp>
#include <cohort/device/superkernel.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include "support/protocol_packets.hpp"

#include <sched.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace {

namespace detail = cohort::detail;
using namespace std::chrono_literals;

// ---- ops ----

thread_local std::uint32_t this_multiprocessor = 0;
thread_local std::uint32_t this_block = 0;

/// What an op sees of the emulated block.
struct team {
  std::uint32_t rank_;
  std::uint32_t size_;
  std::barrier<>* all_;
  std::uint32_t rank() const { return rank_; }
  std::uint32_t size() const { return size_; }
  void sync() const { all_->arrive_and_wait(); }
};

/// Does whatever a test wants, in the first thread of the block.
struct alignas(16) call_op {
  static constexpr const char* name = "call";
  void (*function)(void*, std::uint32_t tile);
  void* argument;
  std::uint32_t count;
  std::uint32_t unused[3] = {};

  std::uint32_t tiles() const { return count; }
  template <class Context>
  void run(Context& context, std::uint32_t tile) const {
    if (context.rank() == 0) function(argument, tile);
  }
};

using cohort::testing::add_op;
using cohort::testing::fused_op;
using cohort::testing::outcome;
using cohort::testing::wide_op;
using ops = cohort::op_set<add_op, fused_op, wide_op, call_op>;

struct packet_source : cohort::testing::packet_source<ops> {
  void call(void (*function)(void*, std::uint32_t), void* argument, std::uint32_t tiles = 1) {
    append(call_op{function, argument, tiles});
  }
};

// ---- the emulated device ----

struct machine_options {
  std::uint32_t multiprocessors = 2;
  std::uint32_t blocks_each = 2;
  std::uint32_t budget = 1000;
  std::chrono::nanoseconds linger = 500us;
  std::chrono::nanoseconds limit = 20s;
  std::chrono::nanoseconds longest = 0ns;
  std::uint32_t missing_blocks = 0;  ///< blocks that never become resident
  /// Called by thread 0 of a worker before each look at the announcements, with the block's index.
  std::function<void(std::uint32_t)> before_look{};
  /// Called by the relay's thread 0 before each look at the ring.
  std::function<void()> before_poll{};
};

template <std::uint32_t PollThreads, std::uint32_t Movers, std::uint32_t MoverThreads>
class machine {
public:
  static constexpr std::uint32_t block_threads = PollThreads + 1 + Movers * MoverThreads;

  class grid;

  struct block_state {
    std::barrier<> all{block_threads};
    std::barrier<> poll{PollThreads};
    std::deque<std::barrier<>> meetings;
    std::deque<std::barrier<>> teams;
    std::uint32_t word = 0;
    std::array<bool, PollThreads> votes{};
    detail::superkernel_shared<ops> shared;

    block_state() {
      for (std::uint32_t i = 0; i < Movers; ++i) {
        meetings.emplace_back(PollThreads + MoverThreads);
        teams.emplace_back(MoverThreads);
      }
    }
  };

  explicit machine(machine_options options)
      : options_(std::move(options)),
        ring_(std::make_unique<detail::host_ring>()),
        device_(std::make_unique<detail::device_ring>()) {
    std::memset(device_.get(), 0, sizeof *device_);
  }

  ~machine() {
    if (runner_.joinable()) runner_.join();
  }

  detail::host_ring& ring() { return *ring_; }
  detail::device_ring& device() { return *device_; }
  machine_options& options() { return options_; }
  std::uint32_t launches() const { return launches_; }

  cohort::error_code launch(const detail::residency& asked) {
    if (refuse_launches_) return cohort::errc::out_of_memory;
    detail::residency parameters = asked;
    parameters.host = ring_.get();
    parameters.device = device_.get();
    parameters.linger = static_cast<std::uint64_t>(options_.linger.count());
    parameters.limit = static_cast<std::uint64_t>(options_.limit.count());
    parameters.longest = static_cast<std::uint64_t>(options_.longest.count());
    parameters.sm_budget = options_.budget;
    ++launches_;
    running_.fetch_add(1, std::memory_order_relaxed);
    runner_ = std::thread([this, parameters, before = std::move(runner_)]() mutable {
      if (before.joinable()) before.join();
      run_grid(parameters);
      running_.fetch_sub(1, std::memory_order_release);
    });
    return {};
  }

  detail::launch_state state(cohort::error_code& why) {
    if (fail_state_) {
      why = cohort::errc::stopped;
      return detail::launch_state::failed;
    }
    return running_.load(std::memory_order_acquire) == 0 ? detail::launch_state::idle : detail::launch_state::running;
  }

  void refuse_launches() { refuse_launches_ = true; }
  void fail_state() { fail_state_ = true; }

private:
  void run_grid(const detail::residency& parameters) {
    const std::uint32_t blocks = options_.multiprocessors * options_.blocks_each;
    std::deque<block_state> states(blocks);
    std::vector<std::thread> threads;
    for (std::uint32_t block = 0; block + options_.missing_blocks < blocks; ++block) {
      for (std::uint32_t thread = 0; thread < block_threads; ++thread) {
        threads.emplace_back([&, block, thread] {
          this_block = block;
          // Consecutive blocks share a multiprocessor, as they do on a device; numbers are not dense.
          this_multiprocessor = 3 * (block / options_.blocks_each) + 1;
          grid g(*this, states[block], block, thread);
          detail::superkernel<ops, grid>(g, parameters, states[block].shared).run();
        });
      }
    }
    for (std::thread& thread : threads) thread.join();
  }

  machine_options options_;
  std::unique_ptr<detail::host_ring> ring_;
  std::unique_ptr<detail::device_ring> device_;
  std::thread runner_;
  std::atomic<std::uint32_t> running_{0};
  std::uint32_t launches_ = 0;
  bool refuse_launches_ = false;
  bool fail_state_ = false;
};

template <std::uint32_t PollThreads, std::uint32_t Movers, std::uint32_t MoverThreads>
class machine<PollThreads, Movers, MoverThreads>::grid {
public:
  static constexpr std::uint32_t poll_threads = PollThreads;
  static constexpr std::uint32_t movers = Movers;
  static constexpr std::uint32_t mover_threads = MoverThreads;
  static constexpr std::uint32_t copy_rows = 3;

  grid(machine& owner, block_state& state, std::uint32_t block, std::uint32_t thread)
      : owner_(owner), state_(state), block_(block), thread_(thread) {}

  std::uint32_t thread() const { return thread_; }
  std::uint32_t threads() const { return block_threads; }
  std::uint32_t block() const { return block_; }
  std::uint32_t blocks() const { return owner_.options_.multiprocessors * owner_.options_.blocks_each; }
  std::uint32_t multiprocessor() const { return this_multiprocessor; }
  std::uint32_t multiprocessors() const { return 3 * owner_.options_.multiprocessors; }
  bool is_poller() const { return thread_ < PollThreads; }
  bool is_watcher() const { return thread_ == PollThreads; }
  bool is_mover() const { return thread_ > PollThreads; }
  std::uint32_t mover() const { return (thread_ - PollThreads - 1) / MoverThreads; }
  std::uint32_t mover_rank() const { return (thread_ - PollThreads - 1) % MoverThreads; }

  void sync() { state_.all.arrive_and_wait(); }
  void meet(std::uint32_t team) { state_.meetings[team].arrive_and_wait(); }
  void mover_sync() { state_.teams[mover()].arrive_and_wait(); }
  void poll_sync() { state_.poll.arrive_and_wait(); }
  bool poll_all(bool vote) {
    state_.votes[thread_] = vote;
    poll_sync();
    const bool all = std::ranges::all_of(state_.votes, [](bool each) { return each; });
    poll_sync();
    return all;
  }
  std::uint32_t poll_broadcast(std::uint32_t value) {
    if (thread_ == 0) state_.word = value;
    poll_sync();
    const std::uint32_t result = state_.word;
    poll_sync();
    return result;
  }

  std::uint64_t load_acquire_system(std::uint64_t* word) { return load(*word); }
  void load_acquire_system_pair(std::uint64_t* words, std::uint64_t (&out)[2]) {
    if (thread_ == 0 && owner_.options_.before_poll) owner_.options_.before_poll();
    // Backwards: nothing may depend on the order within a look.
    out[1] = load(words[1]);
    out[0] = load(words[0]);
    sched_yield();
  }
  void load_relaxed_system_pair(std::uint64_t* words, std::uint64_t (&out)[2]) {
    for (std::uint32_t i = 0; i < 2; ++i) {
      out[i] = std::atomic_ref<std::uint64_t>(words[i]).load(std::memory_order_relaxed);
    }
  }
  void store_release_system(std::uint64_t* word, std::uint64_t value) {
    std::atomic_ref<std::uint64_t>(*word).store(value, std::memory_order_release);
  }
  std::uint32_t load_acquire_device(std::uint32_t* word) {
    return std::atomic_ref<std::uint32_t>(*word).load(std::memory_order_acquire);
  }
  void load_acquire_device_pair(std::uint64_t* words, std::uint64_t (&out)[2]) {
    if (owner_.options_.before_look) owner_.options_.before_look(block_);
    out[1] = load(words[1]);
    out[0] = load(words[0]);
  }
  void store_release_device_pair(std::uint64_t* words, std::uint64_t first, std::uint64_t second) {
    store_release_system(&words[0], first);
    sched_yield();  // lets others see half of it
    store_release_system(&words[1], second);
  }
  std::uint32_t add_device(std::uint32_t* word, std::uint32_t value) {
    return std::atomic_ref<std::uint32_t>(*word).fetch_add(value, std::memory_order_acq_rel);
  }
  std::uint32_t load_shared(std::uint32_t* word) {
    return std::atomic_ref<std::uint32_t>(*word).load(std::memory_order_relaxed);
  }
  void store_shared(std::uint32_t* word, std::uint32_t value) {
    std::atomic_ref<std::uint32_t>(*word).store(value, std::memory_order_relaxed);
  }
  void copy16_device(std::byte* to, const std::byte* from) { std::memcpy(to, from, 16); }
  void copy_rows_system(std::byte* to, const std::byte* from, std::uint32_t row, std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i) std::memcpy(to + i * row, from + i * row, 16);
  }

  std::uint64_t now() const {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
            .count());
  }
  void relax() { sched_yield(); }
  void back_off() { std::this_thread::sleep_for(50us); }

  template <class Ops>
  void run(std::uint16_t op, const cohort::tile_work* works, std::uint32_t count) {
    team context{thread_, block_threads, &state_.all};
    Ops::run(op, context, works, count);
  }

private:
  static std::uint64_t load(std::uint64_t& word) {
    return std::atomic_ref<std::uint64_t>(word).load(std::memory_order_acquire);
  }

  machine& owner_;
  block_state& state_;
  std::uint32_t block_;
  std::uint32_t thread_;
};

using small_machine = machine<1, 1, 1>;
using wide_machine = machine<2, 2, 2>;

// ---- the host's half on top ----

/// A machine with the host's half on top, and a ledger of what completed.
template <class Machine>
struct bench {
  explicit bench(machine_options machine_options = {}, detail::ring_host_options host_options = {.time_limit = 60s})
      : device(std::move(machine_options)), host(device.ring(), device, host_options) {}

  ~bench() { CHECK(host.shut_down()); }

  void start() { REQUIRE_FALSE(host.prove()); }

  void commit(std::span<const std::byte> packet) {
    while (!host.has_room()) poll();
    REQUIRE_FALSE(host.commit(packet));
    ++committed;
  }

  void poll() {
    std::array<cohort::packet_completion, 3> out;  // fewer than can be complete: the rest must not get lost
    const std::size_t count = host.poll(out);
    for (std::size_t i = 0; i < count; ++i) {
      CHECK(seen.insert(out[i].sequence).second);
      if (out[i].result) {
        CHECK(out[i].result == cohort::errc::device_lost);
        ++lost;
      } else if (source.check(out[i].sequence) != outcome::done) {
        FAIL_CHECK("packet " << out[i].sequence << " reported as complete is not");
      }
      // A worker may still run what was lost: the buffers stay until the machine has come to rest.
      if (!keep && !out[i].result) source.forget(out[i].sequence);
    }
    if (count == 0) sched_yield();
  }

  void drain() {
    while (host.in_flight() != 0) poll();
    CHECK(seen.size() == committed);
  }

  packet_source source;  // first: it outlives whatever still runs its packets
  Machine device;
  detail::ring_host<Machine> host;
  std::set<std::uint32_t> seen;
  std::uint32_t committed = 0;
  std::uint32_t lost = 0;
  bool keep = false;
};

template <class Bench>
void random_packets(Bench& bench, std::uint32_t count, unsigned seed) {
  std::mt19937 random(seed);
  for (std::uint32_t i = 0; i < count; ++i) {
    bench.commit(bench.source.random(random));
    if (random() % 4 == 0) bench.poll();
    if (random() % 64 == 0) bench.drain();
  }
  bench.drain();
}

TEST_CASE("every tile runs once and every packet completes once, across every wrap of slots, stamps and tickets") {
  for (const std::uint32_t first : {1u, 65536u * 3 - 100u, 0u - 100u, (1u << 20) - 100u}) {
    CAPTURE(first);
    bench<small_machine> b({}, {.time_limit = 60s, .first_ticket = first});
    b.start();
    CHECK(b.host.workers() == 3);
    random_packets(b, 800, first);
    CHECK(b.lost == 0);
  }
}

TEST_CASE("several pollers and helpers bring whole packets") {
  bench<wide_machine> b;
  b.start();
  random_packets(b, 200, 7);
  b.source.begin();  // the largest packet that fits
  while (b.source.room_for(sizeof(add_op))) b.source.add<add_op>(1);
  b.commit(b.source.finish());
  b.source.begin();
  b.source.add<wide_op>(2);
  while (b.source.room_for(sizeof(wide_op))) b.source.add<wide_op>(1);
  b.commit(b.source.finish());
  b.drain();
  CHECK(b.lost == 0);
}

TEST_CASE("bounded residencies take exactly what is in the ring") {
  bench<small_machine> b({}, {.time_limit = 60s, .bounded = true, .first_ticket = 65530});
  b.start();
  const std::uint32_t before = b.device.launches();
  for (int i = 0; i < 8; ++i) b.commit(b.source.one(2));
  CHECK(b.device.launches() == before);
  b.drain();
  CHECK(b.device.launches() == before + 1);
  random_packets(b, 60, 3);
}

TEST_CASE("a residency that lingers out while a doorbell rings comes back") {
  std::mt19937 random(11);
  for (const auto linger : {0us, 30us, 300us}) {
    bench<small_machine> b({.linger = linger});
    b.start();
    for (int i = 0; i < 40; ++i) {
      b.commit(b.source.random(random));
      if (random() % 3 == 0) b.drain();
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 400));
    }
    b.drain();
    CHECK(b.device.launches() > 2);
    CHECK(b.lost == 0);
  }
}

TEST_CASE("a residency leaves after its longest time though there is work, and the next one goes on") {
  bench<small_machine> b({.linger = 1s, .longest = 1ms});
  b.start();
  random_packets(b, 150, 5);
  CHECK(b.device.launches() > 2);
}

TEST_CASE("pause completes what was committed, frees the device and keeps the completions for poll") {
  bench<small_machine> b({.linger = 10s});
  b.start();
  std::mt19937 random(23);
  for (int round = 0; round < 6; ++round) {
    for (int i = 0; i < 1 + round; ++i) b.commit(b.source.random(random));
    REQUIRE_FALSE(b.host.pause());
    cohort::error_code why;
    CHECK(b.device.state(why) == detail::launch_state::idle);
    CHECK(b.host.in_flight() == static_cast<std::uint32_t>(1 + round));
    b.drain();
  }
  REQUIRE_FALSE(b.host.pause());
}

TEST_CASE("shutting down with work in flight runs each packet wholly or not at all") {
  for (unsigned seed = 0; seed < 8; ++seed) {
    machine_options options{.linger = 10s};
    small_machine device(options);
    detail::ring_host<small_machine> host(device.ring(), device, {.time_limit = 60s});
    REQUIRE_FALSE(host.prove());
    packet_source source;
    std::mt19937 random(seed);
    for (int i = 0; i < 8; ++i) REQUIRE_FALSE(host.commit(source.random(random)));
    std::this_thread::sleep_for(std::chrono::microseconds(300 * seed));
    REQUIRE(host.shut_down());
    bool taken = true;
    for (std::uint32_t sequence = 1; sequence <= source.last(); ++sequence) {
      const outcome seen = source.check(sequence);
      CHECK(seen != outcome::broken);
      if (seen == outcome::untouched) taken = false;
      // In order: nothing behind a packet that was left in the ring.
      if (!taken) CHECK(seen == outcome::untouched);
    }
  }
}

TEST_CASE("a worker that sleeps through announcements without tiles for it catches up") {
  // 23 workers; packets of one tile go to them in turn. Worker 21 does not look until those for 0 to 20 are complete:
  // by then the places where it looks hold later announcements.
  std::atomic<bool> asleep{true};
  machine_options options{.multiprocessors = 24, .blocks_each = 1, .linger = 10s};
  options.before_look = [&](std::uint32_t block) {
    // One block per multiprocessor: its number is its index, and the last one relays.
    while (block == 21 && asleep.load(std::memory_order_relaxed)) std::this_thread::sleep_for(100us);
  };
  asleep = false;
  bench<small_machine> b(std::move(options));
  b.start();
  CHECK(b.host.workers() == 23);
  asleep = true;
  for (int i = 0; i < 21; ++i) b.commit(b.source.one());
  b.drain();
  b.commit(b.source.one());
  std::this_thread::sleep_for(2ms);
  CHECK(b.host.in_flight() == 1);  // that one is worker 21's
  asleep = false;
  b.drain();
  for (int i = 0; i < 60; ++i) b.commit(b.source.one(1 + i % 30));
  b.drain();
}

TEST_CASE("a slow worker delays packets but breaks nothing, in residencies that end early as well") {
  machine_options options{.linger = 100us};
  options.before_look = [](std::uint32_t block) {
    if (block == 1) std::this_thread::sleep_for(300us);
  };
  bench<small_machine> b(std::move(options), {.time_limit = 60s, .first_ticket = 0u - 40u});
  b.start();
  random_packets(b, 100, 17);
}

struct placement {
  std::array<std::atomic<std::uint32_t>, 64> multiprocessor{};
  static void note(void* self, std::uint32_t tile) {
    // Relaxed: read after the packet completed.
    static_cast<placement*>(self)->multiprocessor[tile].store(this_multiprocessor, std::memory_order_relaxed);
  }
};

TEST_CASE("small packets in a row land on different multiprocessors, tiles of one packet too") {
  bench<small_machine> b({.multiprocessors = 4, .blocks_each = 2, .linger = 10s});
  b.start();
  std::array<placement, 4> single;
  for (placement& each : single) {
    b.source.begin();
    b.source.call(&placement::note, &each);
    b.commit(b.source.finish());
  }
  b.drain();
  std::set<std::uint32_t> used;
  for (const placement& each : single) used.insert(each.multiprocessor[0].load());
  CHECK(used.size() == 4);

  // The workers go on where the packets before ended: 3 more tiles exhaust the 7 workers, then the next 4 start over.
  placement three;
  placement four;
  b.source.begin();
  b.source.call(&placement::note, &three, 3);
  b.commit(b.source.finish());
  b.source.begin();
  b.source.call(&placement::note, &four, 4);
  b.commit(b.source.finish());
  b.drain();
  used.clear();
  for (int tile = 0; tile < 4; ++tile) used.insert(four.multiprocessor[tile].load());
  CHECK(used.size() == 4);
}

TEST_CASE("multiprocessors beyond the budget are left to others") {
  bench<small_machine> b({.multiprocessors = 4, .blocks_each = 2, .budget = 2, .linger = 10s});
  b.start();
  CHECK(b.host.workers() == 3);
  placement all;
  b.source.begin();
  b.source.call(&placement::note, &all, 64);
  b.commit(b.source.finish());
  b.drain();
  std::set<std::uint32_t> used;
  for (const auto& each : all.multiprocessor) used.insert(each.load());
  CHECK(used == std::set<std::uint32_t>{1, 4});
}

// ---- when things go wrong ----

template <class Bench>
void expect_lost(Bench& b, std::uint32_t packets) {
  b.drain();
  CHECK(b.lost == packets);
  CHECK(b.host.lost());
  CHECK_FALSE(b.host.has_room());
  CHECK(b.host.commit(b.source.one()) == cohort::errc::device_lost);
  CHECK(b.host.pause() == cohort::errc::device_lost);
  b.poll();
  CHECK(b.seen.size() == packets);
}

TEST_CASE("a packet that arrives in part ends in an error word") {
  bench<small_machine> b({.linger = 10s, .limit = 500ms});
  b.start();
  b.commit(b.source.one());
  b.drain();
  // A host that stops in the middle of a doorbell: the size is there, the rest is not.
  std::uint64_t& size = b.device.ring().slots[2].elements[1];
  std::atomic_ref<std::uint64_t>(size).store(detail::make_element(2, 64), std::memory_order_release);
  for (int i = 0; i < 10000 && b.host.fault() == 0; ++i) std::this_thread::sleep_for(1ms);
  CHECK(detail::fault_code(b.host.fault()) == detail::ring_fault::torn_packet);
  CHECK(static_cast<std::uint32_t>(b.host.fault()) == 2);
  b.commit(b.source.one());
  b.drain();
  CHECK(b.lost == 1);
}

TEST_CASE("a header that contradicts itself ends in an error word") {
  bench<small_machine> b({.linger = 10s});
  b.start();
  alignas(16) std::array<std::byte, 48> packet{};
  const cohort::packet_header header{.sequence = 1, .bytes = 40, .tiles = 1, .records = 1};
  std::memcpy(packet.data(), &header, sizeof header);
  b.commit(packet);
  expect_lost(b, 1);
  CHECK(detail::fault_code(b.host.fault()) == detail::ring_fault::bad_packet);
}

TEST_CASE("workers that hear nothing from the relay leave with an error word") {
  std::atomic<bool> stuck{false};
  machine_options options{.linger = 1ms, .limit = 400ms};
  options.before_poll = [&] {
    while (stuck.load(std::memory_order_relaxed)) std::this_thread::sleep_for(1ms);
  };
  bench<small_machine> b(std::move(options));
  b.start();
  stuck = true;
  b.commit(b.source.one());
  expect_lost(b, 1);
  CHECK(detail::fault_code(b.host.fault()) == detail::ring_fault::silent_relay);
  stuck = false;
}

TEST_CASE("a grid that does not become resident as a whole ends in an error word") {
  bench<small_machine> b({.limit = 200ms, .missing_blocks = 1});
  CHECK(b.host.prove());
  CHECK(b.host.lost());
  CHECK(detail::fault_code(b.host.fault()) == detail::ring_fault::start_barrier);
}

TEST_CASE("a grid without a worker is refused") {
  bench<small_machine> b({.multiprocessors = 1, .blocks_each = 1});
  const cohort::error_code failed = b.host.prove();
  CHECK(failed == make_error_code(detail::ring_fault::no_workers));
  CHECK(failed == boost::system::errc::no_such_device);
  CHECK(failed.message().find("two blocks") != std::string::npos);
}

TEST_CASE("a tile that does not end loses the device after the time limit, and the packets behind it with it") {
  std::atomic<bool> stuck{true};
  {
    bench<small_machine> b({.linger = 1ms}, {.time_limit = 1s});
    b.start();
    b.source.begin();
    b.source.call(
        [](void* flag, std::uint32_t) {
          while (static_cast<std::atomic<bool>*>(flag)->load(std::memory_order_relaxed)) {
            std::this_thread::sleep_for(1ms);
          }
        },
        &stuck);
    b.commit(b.source.finish());
    b.drain();
    CHECK(b.lost == 1);
    CHECK(b.host.reason() == cohort::errc::device_lost);
    CHECK_FALSE(b.host.shut_down());  // still running: the memory must stay
    stuck = false;
  }
}

TEST_CASE("a launch that fails loses the device with the launcher's reason") {
  bench<small_machine> b({.linger = 0us});
  b.start();
  b.device.refuse_launches();
  b.commit(b.source.one());
  expect_lost(b, 1);
  CHECK(b.host.reason() == cohort::errc::out_of_memory);
}

TEST_CASE("a launcher that reports a failure loses the device") {
  std::atomic<bool> stuck{true};
  bench<small_machine> b({.linger = 1ms});
  b.start();
  b.source.begin();
  b.source.call(
      [](void* flag, std::uint32_t) {
        while (static_cast<std::atomic<bool>*>(flag)->load(std::memory_order_relaxed)) {
          std::this_thread::sleep_for(1ms);
        }
      },
      &stuck);
  b.commit(b.source.finish());
  b.device.fail_state();
  b.drain();
  CHECK(b.lost == 1);
  CHECK(b.host.reason() == cohort::errc::stopped);
  stuck = false;
}

}  // namespace

// A device without a GPU: every device thread is a host thread, and what runs on them is the code that runs on the
// device (superkernel.hpp) and beside it (ring_host.hpp). Tiles write plain memory, so a missing release or acquire
// anywhere is a data race that the thread sanitizer reports. Tests only.
#pragma once

#include "packet_ledger.hpp"
#include "protocol_packets.hpp"

#include <cohort/device/ring.hpp>
#include <cohort/device/ring_host.hpp>
#include <cohort/device/superkernel.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include <doctest/doctest.h>

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
#include <span>
#include <thread>
#include <vector>

namespace cohort::testing {

using namespace std::chrono_literals;

// ---- ops ----

inline thread_local std::uint32_t this_multiprocessor = 0;
inline thread_local std::uint32_t this_block = 0;

/// What an op sees of the emulated block.
struct team {
  std::uint32_t rank_;
  std::uint32_t size_;
  std::barrier<>* all_;
  std::uint32_t rank() const { return rank_; }
  std::uint32_t size() const { return size_; }
  void sync() const { all_->arrive_and_wait(); }
};

using protocol_ops = op_set<add_op, fused_op, wide_op, follow_op, call_op>;

// ---- the emulated device ----

struct machine_options {
  std::uint32_t multiprocessors = 2;
  std::uint32_t blocks_each = 2;
  std::uint32_t budget = 1000;
  std::chrono::nanoseconds linger = 500us;
  std::chrono::nanoseconds limit = 20s;
  std::chrono::nanoseconds longest = 0ns;
  std::uint32_t missing_blocks = 0;  ///< blocks that never become resident
  bool device_results = false;       ///< as `cuda_options::results_stay_on_device`
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
    detail::superkernel_shared<protocol_ops> shared;

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
    parameters.device_results = options_.device_results ? 1 : 0;
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
          detail::superkernel<protocol_ops, grid>(g, parameters, states[block].shared).run();
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
  // Threads that emulate a device have no memory of their own: what is in order on it must be so for the host, too.
  void store_relaxed_system(std::uint64_t* word, std::uint64_t value) { store_release_system(word, value); }
  void fence_device() {}
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
struct bench : packet_ledger {
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
    enter(std::span(out).first(count), source);
    if (count == 0) sched_yield();
  }

  void drain() {
    while (host.in_flight() != 0) poll();
    CHECK(seen.size() == committed);
  }

  packet_source<protocol_ops> source;  // first: it outlives whatever still runs its packets
  Machine device;
  detail::ring_host<Machine> host;
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

}  // namespace cohort::testing

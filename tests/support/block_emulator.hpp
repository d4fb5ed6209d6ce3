// A thread block without a GPU: runs the cooperative form of an op's tiles on host threads with real barriers, so that
// a missing sync() is a data race that the thread sanitizer reports. Tests only.
#pragma once

#include <cohort/detail/combine.hpp>
#include <cohort/tile_context.hpp>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace cohort::testing {

/// `Threads` threads in groups of `GroupSize`. The threads live as long as the emulator; `run` is called by one thread
/// at a time.
template <std::uint32_t Threads = 64, std::uint32_t GroupSize = 32>
class block_emulator {
  static_assert(Threads % GroupSize == 0 && Threads > 0);

  static constexpr std::size_t exchange_bytes = 8192;

  /// What the threads of a team share.
  struct team_state {
    explicit team_state(std::ptrdiff_t threads) : barrier(threads), partial(static_cast<std::size_t>(threads)) {}

    std::barrier<> barrier;
    std::vector<float> partial;
    alignas(128) std::byte exchange[exchange_bytes];
  };

  class team {
  public:
    team(team_state& state, std::uint32_t rank, std::uint32_t size) : state_(&state), rank_(rank), size_(size) {}

    std::uint32_t rank() const { return rank_; }
    std::uint32_t size() const { return size_; }
    void sync() const { state_->barrier.arrive_and_wait(); }

    template <class F>
    void for_each(std::uint32_t n, F f) const {
      for (std::uint32_t i = rank_; i < n; i += size_) f(i);
    }

    template <class Value, class Combine>
    float reduce(std::uint32_t n, float identity, Value value, Combine combine) const {
      float partial = identity;
      for (std::uint32_t i = rank_; i < n; i += size_) partial = combine(partial, value(i));
      state_->partial[rank_] = partial;
      sync();
      float total = identity;
      for (const float each : state_->partial) total = combine(total, each);
      sync();  // nobody overwrites a partial result that another thread still reads
      return total;
    }

    template <class Value>
    float sum(std::uint32_t n, Value value) const {
      return reduce(n, 0.0f, value, detail::add{});
    }

    template <class Value>
    float max(std::uint32_t n, Value value) const {
      return reduce(n, detail::minus_infinity(), value, detail::larger{});
    }

    /// 8 KB shared by the team's threads, aligned to 128 bytes; `sync()` orders the accesses. For the emulation of
    /// instructions in which a warp's threads exchange registers.
    std::byte* exchange() const { return state_->exchange; }

  private:
    team_state* state_;
    std::uint32_t rank_;
    std::uint32_t size_;
  };

public:
  class context : public team {
  public:
    static constexpr bool cooperative = true;
    static constexpr std::uint32_t threads = Threads;

    context(block_emulator& block, std::uint32_t thread)
        : team(block.block_, thread, Threads),
          scratch_(block.scratch_),
          last_(&block.last_),
          thread_(thread),
          group_(*block.groups_[thread / GroupSize], thread % GroupSize, GroupSize) {}

    std::byte* scratch() const { return scratch_; }

    bool arrive_last(std::uint32_t* counter, std::uint32_t teams) const {
      this->sync();
      if (thread_ == 0) {
        // Acquire and release: as on the device.
        const std::uint32_t before = std::atomic_ref(*counter).fetch_add(1, std::memory_order_acq_rel);
        *last_ = before + 1 == teams;
        if (*last_) std::atomic_ref(*counter).store(0, std::memory_order_relaxed);  // nobody else comes any more
      }
      this->sync();
      return *last_;
    }

    std::uint32_t group_index() const { return thread_ / GroupSize; }
    std::uint32_t group_count() const { return Threads / GroupSize; }
    const team& group() const { return group_; }

  private:
    std::byte* scratch_;
    bool* last_;
    std::uint32_t thread_;
    team group_;
  };

  explicit block_emulator(std::size_t scratch_bytes = 52 * 1024)
      : block_(Threads),
        turn_(Threads + 1),
        scratch_bytes_(scratch_bytes),
        scratch_(static_cast<std::byte*>(::operator new(scratch_bytes + 128, std::align_val_t(128)))) {
    for (std::uint32_t group = 0; group < Threads / GroupSize; ++group) {
      groups_.push_back(std::make_unique<team_state>(GroupSize));
    }
    for (std::uint32_t thread = 0; thread < Threads; ++thread) threads_.emplace_back([this, thread] { serve(thread); });
  }

  ~block_emulator() {
    work_ = nullptr;
    turn_.arrive_and_wait();
    for (std::thread& thread : threads_) thread.join();
    ::operator delete(scratch_, std::align_val_t(128));
  }

  block_emulator(const block_emulator&) = delete;
  block_emulator& operator=(const block_emulator&) = delete;

  /// Calls `f(context, tile)` for tiles 0 to `tiles` - 1 on all threads, with the barrier between tiles that executors
  /// put there. Returns when all threads have finished. `f` must not throw.
  template <class F>
  void run(std::uint32_t tiles, F f) {
    std::function<void(context&, std::uint32_t)> work = std::move(f);
    work_ = &work;
    tiles_ = tiles;
    turn_.arrive_and_wait();
    turn_.arrive_and_wait();
    work_ = nullptr;
  }

  /// Calls `f(context)` on all threads.
  template <class F>
    requires std::is_invocable_v<F&, context&>
  void operator()(F f) {
    run(1, [&f](context& c, std::uint32_t) { f(c); });
  }

private:
  void serve(std::uint32_t thread) {
    context own(*this, thread);
    for (;;) {
      turn_.arrive_and_wait();
      if (work_ == nullptr) return;
      for (std::uint32_t tile = 0; tile < tiles_; ++tile) {
        poison(thread);
        own.sync();
        (*work_)(own, tile);
        own.sync();
      }
      turn_.arrive_and_wait();
    }
  }

  /// Bytes of ones are NaN in every element type: an op that reads scratch it did not write shows it.
  void poison(std::uint32_t thread) {
    const std::size_t part = scratch_bytes_ / Threads + 1;
    const std::size_t begin = std::min(scratch_bytes_, thread * part);
    std::memset(scratch_ + begin, 0xff, std::min(part, scratch_bytes_ - begin));
  }

  team_state block_;
  std::barrier<> turn_;
  std::size_t scratch_bytes_;
  std::byte* scratch_;
  bool last_ = false;
  std::vector<std::unique_ptr<team_state>> groups_;
  std::vector<std::thread> threads_;
  const std::function<void(context&, std::uint32_t)>* work_ = nullptr;
  std::uint32_t tiles_ = 0;
};

static_assert(tile_context<block_emulator<>::context>);

}  // namespace cohort::testing

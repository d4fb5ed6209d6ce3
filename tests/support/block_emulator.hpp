// A thread block without a GPU: runs the cooperative form of an op's tiles on fibers that meet at barriers, so that a
// missing sync() is a data race that the thread sanitizer reports. Tests only.
#pragma once

#include "fiber_crew.hpp"

#include <cohort/detail/combine.hpp>
#include <cohort/tile_context.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace cohort::testing {

/// `Threads` threads in groups of `GroupSize`, which are fibers of the thread that calls `run`: one at a time.
template <std::uint32_t Threads = 64, std::uint32_t GroupSize = 32>
class block_emulator {
  static_assert(Threads % GroupSize == 0 && Threads > 0);

  static constexpr std::size_t exchange_bytes = 8192;

  /// What the threads of a team share.
  struct team_state {
    explicit team_state(std::uint32_t threads) : barrier(threads), partial(threads) {}

    fiber_crew::barrier barrier;
    std::vector<float> partial;
    alignas(128) std::byte exchange[exchange_bytes];
  };

  class team {
  public:
    /// Of `size` fibers of `crew`, the first of which is `first`.
    team(fiber_crew& crew, team_state& state, std::uint32_t first, std::uint32_t rank, std::uint32_t size)
        : crew_(&crew), state_(&state), first_(first), rank_(rank), size_(size) {}

    std::uint32_t rank() const { return rank_; }
    std::uint32_t size() const { return size_; }
    void sync() const { crew_->wait(state_->barrier, first_ + rank_); }

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
    fiber_crew* crew_;
    team_state* state_;
    std::uint32_t first_;
    std::uint32_t rank_;
    std::uint32_t size_;
  };

public:
  class context : public team {
  public:
    static constexpr bool cooperative = true;
    static constexpr std::uint32_t threads = Threads;

    context(block_emulator& block, std::uint32_t thread)
        : team(block.crew_, block.block_, 0, thread, Threads),
          scratch_(block.scratch_),
          last_(&block.last_),
          thread_(thread),
          group_(block.crew_, *block.groups_[thread / GroupSize], thread / GroupSize * GroupSize, thread % GroupSize,
                 GroupSize) {}

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
      : crew_(Threads),
        block_(Threads),
        scratch_bytes_(scratch_bytes),
        scratch_(static_cast<std::byte*>(::operator new(scratch_bytes + 128, std::align_val_t(128)))) {
    for (std::uint32_t group = 0; group < Threads / GroupSize; ++group) {
      groups_.push_back(std::make_unique<team_state>(GroupSize));
    }
  }

  ~block_emulator() { ::operator delete(scratch_, std::align_val_t(128)); }

  block_emulator(const block_emulator&) = delete;
  block_emulator& operator=(const block_emulator&) = delete;

  /// Calls `f(context, tile)` for tiles 0 to `tiles` - 1 on all threads, with the barrier between tiles that executors
  /// put there. Returns when all threads have finished. `f` must not throw.
  template <class F>
  void run(std::uint32_t tiles, F f) {
    crew_.run([this, tiles, &f](std::uint32_t thread) {
      context own(*this, thread);
      for (std::uint32_t tile = 0; tile < tiles; ++tile) {
        poison(thread);
        own.sync();
        f(own, tile);
        own.sync();
      }
    });
  }

  /// From now on the threads of `group` fall behind: they run only while all others wait or are done, so that the
  /// others run into what they still read if a barrier is missing.
  void let_lag(std::uint32_t group) { crew_.let_lag(group * GroupSize, (group + 1) * GroupSize); }
  void let_none_lag() { crew_.let_lag(0, 0); }

  /// Calls `f(context)` on all threads.
  template <class F>
    requires std::is_invocable_v<F&, context&>
  void operator()(F f) {
    run(1, [&f](context& c, std::uint32_t) { f(c); });
  }

private:
  /// Bytes of ones are NaN in every element type: an op that reads scratch it did not write shows it.
  void poison(std::uint32_t thread) {
    const std::size_t part = scratch_bytes_ / Threads + 1;
    const std::size_t begin = std::min(scratch_bytes_, thread * part);
    std::memset(scratch_ + begin, 0xff, std::min(part, scratch_bytes_ - begin));
  }

  fiber_crew crew_;
  team_state block_;
  std::size_t scratch_bytes_;
  std::byte* scratch_;
  bool last_ = false;
  std::vector<std::unique_ptr<team_state>> groups_;
};

static_assert(tile_context<block_emulator<>::context>);

}  // namespace cohort::testing

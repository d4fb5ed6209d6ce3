// When a burst of submissions is worth a packet though it still goes on. The engine enters; a pure function of what it
// is told.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>

namespace cohort::inline COHORT_ABI::detail {

/// A hundred coroutines that are resumed together submit again one by one, and an idle device would wait for the last
/// of them. It need not: once a packet has a tile for every fourth worker it is worth sending, and by the time
/// it is through the next is there. So the first of a burst may leave while the others come. Not so when they share
/// weights: they shall fuse, and be read once.
///
/// How many submissions make such a packet, and whether they fuse, is taken from the last packet; how many come
/// together, from the last burst. Both may be wrong for a burst, which costs it a little and no result.
class burst_wave {
public:
  /// Host workers live on the cores of those who submit: nothing is gained by waking them early.
  explicit burst_wave(const machine_shape& shape) noexcept : workers_(shape.host ? 0 : shape.workers) {}

  /// One more submission of the burst is there. True when the policy is to be asked: with the first wave, and with each
  /// half of one after it, if that is worth a packet.
  bool is_wave_with_one_more() noexcept {
    if (++burst_ < next_) return false;
    wait_for(next_ + std::max(least_behind, size_ / 2));
    in_parts_ = true;
    return true;
  }

  /// How many times as many it will be when all are in.
  double growth() const noexcept {
    return expected_ > burst_ ? static_cast<double>(expected_) / static_cast<double>(burst_) : 1.0;
  }

  /// All of the burst are in. True when a part of it may have left.
  bool burst_is_over() noexcept {
    if (burst_ == 0) return false;
    expected_ = std::exchange(burst_, 0);
    wait_for(size_);
    return std::exchange(in_parts_, false);
  }

  /// What a packet was made of.
  void learn(std::size_t submissions, std::uint32_t records, std::uint32_t tiles) noexcept {
    const bool fused = submissions != records;
    const bool apart = workers_ != 0 && tiles != 0 && !fused;
    size_ = apart ? std::max(least, (workers_ * submissions + tiles - 1) / tiles / 4) : never;
  }

private:
  /// What is left behind must be worth a packet, too: one that leaves many workers idle costs more than the wait.
  void wait_for(std::size_t submissions) noexcept {
    next_ = submissions + size_ / 4 * 3 <= expected_ ? submissions : never;
  }

  static constexpr std::size_t never = std::numeric_limits<std::size_t>::max() / 4;
  static constexpr std::size_t least = 16;  // fewer submissions than that are not worth a packet's cost
  // The first packet finds the device idle. Those behind it come faster than the relay takes them if they are as small.
  static constexpr std::size_t least_behind = 24;

  std::size_t workers_;
  std::size_t size_ = never;
  std::size_t next_ = never;
  std::size_t burst_ = 0;
  std::size_t expected_ = 0;
  bool in_parts_ = false;
};

}  // namespace cohort::inline COHORT_ABI::detail

// The policies of today's servers, to compare with and to choose from: fixed windows, preferred sizes, additive
// increase, deferral. Each may fuse and pack as the others do; they differ in when and how much.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/policy.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <limits>

namespace cohort::inline COHORT_ABI {

/// Waits until the oldest submission has waited for `window`, then commits all there is, up to `most`.
struct fixed_window {
  std::chrono::nanoseconds window = std::chrono::microseconds(100);
  std::uint32_t most = std::numeric_limits<std::uint32_t>::max();

  decision decide(const queue_view& queue, time_point now) const noexcept {
    if (!detail::has_room(queue)) return decision::hold();
    const time_point ripe = queue.oldest_arrival + window;
    const bool full = queue.pending >= most;
    if (!full && !queue.draining && now < ripe) return decision::hold_until(ripe);
    decision verdict = decision::commit_now(full             ? commit_reason::has_room
                                            : queue.draining ? commit_reason::draining
                                                             : commit_reason::waited_enough);
    verdict.max_submissions = most;
    return verdict;
  }
};

/// Commits the largest preferred size that the queue can fill; what fills none waits at most `delay`. This is how the
/// dynamic batchers of common inference servers are configured.
struct preferred_sizes {
  std::array<std::uint32_t, 4> sizes{8, 16, 32, 64};  ///< ascending
  std::chrono::nanoseconds delay = std::chrono::microseconds(100);

  decision decide(const queue_view& queue, time_point now) const noexcept {
    if (!detail::has_room(queue)) return decision::hold();
    decision verdict = decision::commit_now(commit_reason::has_room);
    for (const std::uint32_t size : sizes) {
      if (queue.pending >= size) verdict.max_submissions = size;
    }
    if (queue.pending >= sizes.front()) return verdict;
    const time_point ripe = queue.oldest_arrival + delay;
    if (queue.draining) return decision::commit_now(commit_reason::draining);
    return now < ripe ? decision::hold_until(ripe) : decision::commit_now(commit_reason::waited_enough);
  }
};

/// Commits at once, up to a size that grows by `step` with every packet in time and shrinks to `back_off` of itself
/// with every packet that held a late one (additive increase, multiplicative decrease, as in Clipper, NSDI 2017).
struct aimd {
  double size = 8;
  double step = 1;
  double back_off = 0.9;

  decision decide(const queue_view& queue, time_point) const noexcept {
    if (!detail::has_room(queue)) return decision::hold();
    decision verdict = decision::commit_now(commit_reason::has_room);
    verdict.max_submissions = static_cast<std::uint32_t>(size);
    return verdict;
  }

  void completed(const packet_outcome& packet) noexcept {
    if (packet.missed > 0) {
      size = std::max(size * back_off, 1.0);
    } else if (packet.submissions >= static_cast<std::uint32_t>(size)) {
      size = std::min(size + step, 65'536.0);
    }
  }
};

/// Waits for company until the most urgent submission must start, less `margin` and the work in flight, even while the
/// device idles (after Symphony, 2023): the largest batches that the targets allow.
struct deferred_window {
  static constexpr ordering order = ordering::urgency;

  std::chrono::nanoseconds margin = std::chrono::microseconds(20);

  decision decide(const queue_view& queue, time_point now) const noexcept {
    if (!detail::has_room(queue)) return decision::hold();
    if (queue.draining) return decision::commit_now(commit_reason::draining);
    const time_point start = queue.latest_start - margin - queue.ahead();
    return now < start ? decision::hold_until(start) : decision::commit_now(commit_reason::waited_enough);
  }
};

static_assert(policy<fixed_window> && policy<preferred_sizes> && policy<aimd> && policy<deferred_window>);

}  // namespace cohort::inline COHORT_ABI

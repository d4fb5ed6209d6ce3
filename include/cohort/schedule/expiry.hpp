// Who leaves by the clock: submissions that may be dropped or may time out, by the time at which that is due. Private
// to the scheduler.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/forecast.hpp>
#include <cohort/schedule/indexed_heap.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

namespace cohort::inline COHORT_ABI::detail {

/// A heap by `submission::latest_start`. Allocates in `reserve_one` alone.
class expiry {
public:
  /// Makes sure that one more `add` does not allocate. Strong guarantee.
  void reserve_one() { heap_.reserve_one(); }

  /// Who leaves first; null: nobody.
  submission* front() const noexcept { return heap_.front(); }

  /// When somebody has to leave.
  std::optional<time_point> due() const noexcept {
    const submission* const first = front();
    if (first == nullptr) return std::nullopt;
    return time_point{std::chrono::nanoseconds{first->latest_start + 1}};
  }

  void add(submission& one) noexcept {
    const std::int64_t limit = since_epoch(one.expires) - 1;
    one.latest_start = one.droppable ? std::min(one.latest_start, limit) : limit;
    heap_.insert(one);
    one.expiring = true;
  }

  /// From now on it is neither dropped nor does it time out.
  void remove(submission& one) noexcept {
    if (one.expiring) heap_.erase(one);
    one.expiring = one.droppable = false;
  }

  /// Whoever is committed is not dropped any more, and may still time out.
  [[gnu::noinline]] void keep_limit(submission& one) noexcept {
    remove(one);
    if (one.expires != time_point::max()) add(one);
  }

  /// Fetches what `remove` looks at first.
  void prefetch(submission& one) const noexcept { heap_.prefetch(one); }

private:
  struct place_of {
    std::uint32_t& operator()(submission& one) const noexcept { return one.expiry; }
  };
  struct leaving {
    rank operator()(const submission& one) const noexcept { return {one.latest_start, one.id}; }
  };

  indexed_heap<submission, place_of, leaving> heap_;
};

}  // namespace cohort::inline COHORT_ABI::detail

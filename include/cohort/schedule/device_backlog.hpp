// A model of a device that works on packets one after the other: how long it will be busy. A pure function of what it
// is told.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <chrono>

namespace cohort::inline COHORT_ABI::detail {

/// What is left of the committed work. Packets are taken to run one after the other. Each needs a lead before its work
/// begins to count, which the work of those ahead of it hides.
class device_backlog {
public:
  void committed(std::chrono::nanoseconds work, time_point now, std::chrono::nanoseconds lead = {}) noexcept {
    newest_ends_ = now + lead + work;
    idle_at_ = std::max(idle_at_ + work, newest_ends_);
    sum_ += work;
    lead_ = lead;
  }

  /// A packet that is complete leaves at most the whole of the others ahead, however wrong the estimate was.
  void completed(std::chrono::nanoseconds work, time_point now) noexcept {
    sum_ -= work;
    idle_at_ = std::min(idle_at_, now + sum_);
    if (sum_.count() > 0) idle_at_ = std::max(idle_at_, newest_ends_);
  }

  /// Time until all that was committed is seen complete. Never negative. 0 while packets are in flight means that they
  /// take longer than estimated.
  std::chrono::nanoseconds left(time_point now) const noexcept {
    if (sum_.count() <= 0) return std::chrono::nanoseconds{0};
    return std::clamp<std::chrono::nanoseconds>(idle_at_ - now, std::chrono::nanoseconds{0}, sum_ + lead_);
  }

private:
  time_point idle_at_{};
  time_point newest_ends_{};
  std::chrono::nanoseconds sum_{0};
  std::chrono::nanoseconds lead_{0};
};

}  // namespace cohort::inline COHORT_ABI::detail

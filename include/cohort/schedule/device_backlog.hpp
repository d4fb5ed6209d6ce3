// A model of a device that works on packets one after the other: how long it will be busy. A pure function of what it
// is told.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <chrono>

namespace cohort::inline COHORT_ABI::detail {

/// What is left of the committed work: packets are taken to run one after the other from the moment they are committed.
class device_backlog {
public:
  void committed(std::chrono::nanoseconds work, time_point now) noexcept {
    idle_at_ = std::max(idle_at_, now) + work;
    sum_ += work;
  }

  /// A packet that is complete leaves at most the whole of the others ahead, however wrong the estimate was.
  void completed(std::chrono::nanoseconds work, time_point now) noexcept {
    sum_ -= work;
    idle_at_ = std::min(idle_at_, now + sum_);
  }

  /// Never negative. 0 while packets are in flight means that they take longer than estimated.
  std::chrono::nanoseconds left(time_point now) const noexcept {
    return std::clamp<std::chrono::nanoseconds>(idle_at_ - now, std::chrono::nanoseconds{0}, sum_);
  }

private:
  time_point idle_at_{};
  std::chrono::nanoseconds sum_{0};
};

}  // namespace cohort::inline COHORT_ABI::detail

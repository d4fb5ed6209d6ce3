// How long the device will be busy: op costs turned into time by the measured rates, and a model of a device that works
// on packets one after the other. A pure function of what it is told.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace cohort::inline COHORT_ABI::detail {

/// Device time by the roofline: a record takes the longer of its arithmetic and its memory traffic, and records add up.
///
/// Flops of fused members add up. Bytes of a fused record are those of its largest member: `op_cost` does not say how
/// many of its bytes are shared weights, and the ops worth fusing are those whose weights outweigh the rest. That is
/// exact for the weights, counts activations once instead of once per member, and errs towards keeping the device busy.
class work_estimate {
public:
  explicit work_estimate(const device_rates& rates) noexcept
      : ns_per_flop_(inverse(rates.flops_per_ns)),
        ns_per_byte_(inverse(rates.bytes_per_ns)),
        overhead_ns_(static_cast<double>(rates.packet_overhead.count())) {}

  void begin_packet() noexcept { packet_ns_ = overhead_ns_; }
  void begin_record() noexcept { flops_ = bytes_ = 0; }

  void add_member(const op_cost& cost) noexcept {
    flops_ += static_cast<double>(cost.flops);  // in double: sums of hostile costs must not wrap
    bytes_ = std::max(bytes_, static_cast<double>(cost.bytes));
  }

  void end_record() noexcept { packet_ns_ += std::max(flops_ * ns_per_flop_, bytes_ * ns_per_byte_); }

  /// Of one op, without the packet's overhead.
  double alone_ns(const op_cost& cost) const noexcept {
    return std::max(static_cast<double>(cost.flops) * ns_per_flop_, static_cast<double>(cost.bytes) * ns_per_byte_);
  }

  std::chrono::nanoseconds packet() const noexcept {
    return std::chrono::nanoseconds{static_cast<std::int64_t>(std::clamp(packet_ns_, 0.0, longest_ns))};
  }

private:
  /// An hour: costs beyond it are mistakes, and sums of a few such packets must stay far from overflow.
  static constexpr double longest_ns = 3.6e12;

  /// A rate that is not a positive number means "unknown"; such work is taken for free instead of endless.
  static double inverse(double rate) noexcept { return rate > 0 ? 1 / rate : 0; }

  double ns_per_flop_;
  double ns_per_byte_;
  double overhead_ns_;
  double packet_ns_ = 0;
  double flops_ = 0;
  double bytes_ = 0;
};

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

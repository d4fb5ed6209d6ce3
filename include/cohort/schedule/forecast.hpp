// What is to be expected: how long a submission takes, when a packet would begin that is committed now, and how long
// the device has been at work. It is told of every packet, and learns from those that are complete. No clock; private
// to the scheduler.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/device_backlog.hpp>
#include <cohort/schedule/flight.hpp>
#include <cohort/schedule/latency_model.hpp>
#include <cohort/schedule/submission.hpp>
#include <cohort/schedule/work_share.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI::detail {

inline std::int64_t since_epoch(time_point t) noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(t.time_since_epoch()).count();
}

inline std::chrono::nanoseconds to_nanoseconds(double ns) noexcept {
  return std::chrono::nanoseconds{static_cast<std::int64_t>(std::clamp(ns, 0.0, 3.6e12))};
}

/// Predictions, and the state of the device that they rest on.
class forecast {
public:
  forecast(const device_rates& rates, std::size_t ops) : model_(rates, ops) {}

  const latency_model& model() const noexcept { return model_; }
  std::chrono::nanoseconds lead() const noexcept { return to_nanoseconds(model_.lead()); }

  // -- of submissions

  /// Notes what is expected of a submission that is due at `deadline`, in ns since the epoch.
  void assess(submission& one, std::int64_t deadline) noexcept {
    const estimate& expected = estimate_of(one);
    one.weight = expected.weight;
    one.charged_ns = expected.charged_ns;
    one.work_ns = expected.work_ns;
    one.latest_start = deadline - expected.at_best_ns;
  }

  // -- of the device

  /// What holds for all that are submitted at one time, between packets: a burst mostly is.
  struct moment {
    time_point now = time_point::min();
    std::int64_t begins = 0;  // when a packet would that is committed now, in ns since the epoch
    std::int64_t busy = 0;
  };

  const moment& moment_of(time_point now) noexcept {
    if (now != moment_.now) [[unlikely]]
      moment_ = {.now = now, .begins = since_epoch(now) + ahead(now).count(), .busy = busy(now)};
    return moment_;
  }

  /// Nanoseconds in which packets were in flight.
  std::int64_t busy(time_point now) const noexcept {
    return in_flight_ == 0 ? busy_sum_ : busy_sum_ + (now - busy_since_).count();
  }

  /// Device time until everything committed is complete.
  std::chrono::nanoseconds left(time_point now) const noexcept { return backlog_.left(now); }

  // -- of packets

  /// A packet is committed that takes `work`.
  void committed(std::chrono::nanoseconds work, time_point now) noexcept {
    moment_ = {};
    if (in_flight_++ == 0) busy_since_ = now;
    backlog_.committed(work, now, lead());
  }

  /// How a packet that is complete compares.
  struct outcome {
    time_point began{};
    std::chrono::nanoseconds measured{};
    double predicted_ns = 0;
  };

  /// A packet left the device, and teaches something if it was a `success`: see `learn`.
  outcome completed(const flight& packet, bool success, time_point now) noexcept {
    learn();
    moment_ = {};
    if (--in_flight_ == 0) busy_sum_ += (now - busy_since_).count();
    backlog_.completed(to_nanoseconds(packet.work_ns), now);
    // Packets run one after the other: this one began when it was committed, or when the one before it was through.
    const time_point began = std::min(std::max(packet.committed, last_completion_), now);
    const bool led = last_completion_ < packet.committed + lead();
    const double predicted =
        packet.work_ns + (led ? model_.lead() - static_cast<double>((began - packet.committed).count()) : 0);
    last_completion_ = std::max(now, last_completion_);
    if (success) {
      lesson_.parts = packet.part_count;
      std::copy_n(packet.parts.begin(), packet.part_count, lesson_.of_part.begin());
      lesson_.predicted_ns = packet.work_ns;
      lesson_.led = led;
      lesson_.measured_ns = static_cast<double>((now - (led ? std::min(packet.committed, now) : began)).count());
    }
    return {.began = began, .measured = now - began, .predicted_ns = predicted};
  }

  /// The model learns from the packet that was complete last, unless it has. What comes between is predicted without.
  void learn() noexcept {
    if (lesson_.parts == 0) return;
    estimate_.op = no_op_index;
    model_.measured(lesson_.of_part.data(), lesson_.parts, lesson_.predicted_ns, lesson_.led, lesson_.measured_ns);
    lesson_.parts = 0;
  }

  /// When the newest packet was complete. It is put back for one that never ran: others did not wait for it.
  time_point last_completion() const noexcept { return last_completion_; }
  void put_back(time_point last_completion) noexcept { last_completion_ = last_completion; }

private:
  /// What the model says of a submission. Kept until the model learns: a burst is mostly of one kind.
  struct estimate {
    std::uint16_t op = no_op_index;
    op_cost cost{};
    std::int64_t weight = 0;
    double charged_ns = 0;
    double work_ns = 0;
    std::int64_t at_best_ns = 0;
  };

  const estimate& estimate_of(const submission& one) noexcept {
    if (one.op_index == estimate_.op && one.cost == estimate_.cost) return estimate_;
    const double roofline = model_.roofline(one.cost);
    const double charged = model_.predict(one.op_index, roofline, false);
    const double work = charged + model_.overhead() + model_.lead();
    estimate_ = {.op = one.op_index,
                 .cost = one.cost,
                 .weight = work_share::weight(roofline),
                 .charged_ns = charged,
                 .work_ns = work,
                 // Late is what would be late even if the prediction is too long by as much as predictions usually err.
                 .at_best_ns = static_cast<std::int64_t>(model_.at_best(work))};
    return estimate_;
  }

  /// How much later than on an idle device a packet begins that is committed now.
  std::chrono::nanoseconds ahead(time_point now) const noexcept {
    if (in_flight_ == 0) return std::chrono::nanoseconds{0};
    return std::max(backlog_.left(now) - lead(), std::chrono::nanoseconds{0});
  }

  /// What a packet teaches; nothing when it has no parts.
  struct lesson {
    std::uint32_t parts = 0;
    bool led = false;
    double predicted_ns = 0;
    double measured_ns = 0;
    decltype(flight::parts) of_part{};
  };

  latency_model model_;
  lesson lesson_{};
  estimate estimate_{};
  moment moment_{};
  device_backlog backlog_;
  std::size_t in_flight_ = 0;  // packets
  time_point last_completion_{};
  time_point busy_since_{};
  std::int64_t busy_sum_ = 0;
};

}  // namespace cohort::inline COHORT_ABI::detail

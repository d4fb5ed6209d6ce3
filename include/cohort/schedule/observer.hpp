// Who watches a scheduler: the one seam through which traces, metrics, profilers and tests are told what it does.
// Whoever wants to know may derive from it; the scheduler knows nothing of who listens.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/submission.hpp>
#include <cohort/schedule/tenant_table.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// How a submission ended that never was in a packet, or that its waiter gave up in one. Its `result` says more.
enum class ending : std::uint8_t {
  cancelled,  ///< its owner withdrew it
  timed_out,  ///< the time limit of its request was over
  refused,    ///< at submission
  dropped,    ///< from the queue, because its deadline could no longer be met
  aborted,    ///< the scheduler was stopped
  settled,    ///< there was nothing to do, or it was too large for any packet
};

/// Number of values of `ending`.
inline constexpr std::size_t endings = 6;

constexpr const char* to_string(ending how) noexcept {
  switch (how) {
    case ending::cancelled: return "cancelled";
    case ending::timed_out: return "timed_out";
    case ending::refused: return "refused";
    case ending::dropped: return "dropped";
    case ending::aborted: return "aborted";
    case ending::settled: return "settled";
  }
  return "unknown";
}

/// One packet, told when it has left the device, or when the backend did not take it (`result` says which).
struct packet_result {
  std::uint32_t sequence = 0;
  error_code result{};
  time_point committed{};
  time_point began{};  ///< when it was committed, or when the packet before it was through
  time_point ended{};
  std::chrono::nanoseconds predicted{0};  ///< of `ended - began`, when it was committed
  std::uint32_t submissions = 0;
  std::uint32_t missed = 0;  ///< of them, after their deadline
  /// Linked by `next`. Each has its own `result`: an orphan's is what its waiter was told while the packet ran.
  const submission* members = nullptr;
  /// Device time over predicted device time of the records, with which members are charged.
  double service_scale = 0;

  std::chrono::nanoseconds measured() const noexcept { return ended - began; }

  /// A member's share of the measured device time.
  std::chrono::nanoseconds service(const submission& member) const noexcept {
    return std::chrono::nanoseconds{static_cast<std::int64_t>(member.work_ns * service_scale)};
  }
};

/// Told by the scheduler's owner, inside the scheduler's functions: a function of it must not throw (but for
/// `observing` and `tenant_set`), block, or call the scheduler. What it is given is valid during the call. Each
/// submission has an `id` of its own and is told as `arrived`, then either in one `formed` and one `completed`, or by
/// one `ended`. What is cancelled or times out on the device stays a member of its packet until `completed`: as another
/// object, with the same `id` and `orphan` set.
class schedule_observer {
public:
  virtual ~schedule_observer() = default;

  /// First of all: what the indices of ops mean.
  virtual void observing(std::span<const op_info> /*ops*/) {}

  /// A tenant was added, or has other options. The default tenant is told of only when its options change.
  virtual void tenant_set(tenant_id, const tenant_options&) {}

  virtual void arrived(const submission&, time_point /*now*/) noexcept {}

  /// \param members linked by `next`; `packet.submissions` of them
  virtual void formed(const packet_report& /*packet*/, const submission* /*members*/) noexcept {}

  virtual void completed(const packet_result&) noexcept {}

  virtual void ended(const submission&, ending, time_point /*now*/) noexcept {}

  /// Whether the owner shall measure how long the scheduler takes for each decision and tell `decided`. Asked once.
  virtual bool times_decisions() const noexcept { return false; }

  /// Asked for a packet, the scheduler gave one or none after `took`.
  virtual void decided(std::chrono::nanoseconds /*took*/) noexcept {}

protected:
  schedule_observer() = default;
  schedule_observer(const schedule_observer&) = default;
  schedule_observer& operator=(const schedule_observer&) = default;
};

/// Several observers in place of one, told in order. They must outlive it.
class observer_group final : public schedule_observer {
public:
  explicit observer_group(std::vector<schedule_observer*> all) noexcept : all_(std::move(all)) {}

  void observing(std::span<const op_info> ops) override {
    for (auto* one : all_) one->observing(ops);
  }
  void tenant_set(tenant_id id, const tenant_options& options) override {
    for (auto* one : all_) one->tenant_set(id, options);
  }
  void arrived(const submission& what, time_point now) noexcept override {
    for (auto* one : all_) one->arrived(what, now);
  }
  void formed(const packet_report& packet, const submission* members) noexcept override {
    for (auto* one : all_) one->formed(packet, members);
  }
  void completed(const packet_result& packet) noexcept override {
    for (auto* one : all_) one->completed(packet);
  }
  void ended(const submission& what, ending how, time_point now) noexcept override {
    for (auto* one : all_) one->ended(what, how, now);
  }
  bool times_decisions() const noexcept override {
    for (const auto* one : all_) {
      if (one->times_decisions()) return true;
    }
    return false;
  }
  void decided(std::chrono::nanoseconds took) noexcept override {
    for (auto* one : all_) one->decided(took);
  }

private:
  std::vector<schedule_observer*> all_;
};

}  // namespace cohort::inline COHORT_ABI

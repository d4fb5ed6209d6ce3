// Tenants as the scheduler sees them: what each was promised, what it holds, and how far its share of the device is
// spent. Data and arithmetic alone.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/published.hpp>
#include <cohort/schedule/intrusive_list.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// What happens to a submission that finds its tenant's queue full.
enum class full_queue : std::uint8_t {
  reject,   ///< it ends with `errc::tenant_queue_full`
  suspend,  ///< it waits before the queue until there is room: back-pressure, for the coroutine is suspended anyway
};

/// What happens to work that cannot meet its deadline.
enum class late_work : std::uint8_t {
  run,   ///< it runs, late
  drop,  ///< it is refused when that is known at submission, and else leaves the queue as soon as it is known
};

/// Nobody said how soon results are wanted: work is ordered as if within 10 ms, and is no reason to make a packet
/// short.
inline constexpr std::chrono::nanoseconds no_latency_target = std::chrono::nanoseconds::max();

/// What a tenant is made with.
struct tenant_options {
  std::string name = "default";
  /// Time from submission to completion that the tenant wants to stay below.
  std::chrono::nanoseconds latency_target = no_latency_target;
  /// Share of the device relative to the other tenants; above 0.
  double weight = 1.0;
  /// Submissions that may be pending together, without those that are suspended before the queue.
  std::size_t queue_capacity = std::numeric_limits<std::size_t>::max();
  full_queue when_full = full_queue::reject;
  late_work when_late = late_work::run;
  /// Most device time that the tenant may have committed at once, predicted. One submission is always allowed.
  std::chrono::nanoseconds in_flight_cap = std::chrono::nanoseconds::max();

  /// What makes no sense in them; null when all is well.
  const char* check() const noexcept {
    if (!(weight > 0) || !std::isfinite(weight)) return "the weight must be a finite number above 0";
    if (latency_target.count() <= 0) return "the latency target must be above 0";
    if (queue_capacity == 0) return "the queue must hold at least one submission";
    if (in_flight_cap.count() < 0) return "the cap of work in flight must not be below 0";
    if (when_full != full_queue::reject && when_full != full_queue::suspend) return "unknown choice for a full queue";
    if (when_late != late_work::run && when_late != late_work::drop) return "unknown choice for late work";
    return nullptr;
  }
};

/// Counters of one tenant since it was added.
struct tenant_statistics {
  std::uint64_t submitted = 0;
  std::uint64_t completed = 0;  ///< left the device while they were waited for
  std::uint64_t missed = 0;     ///< of those, after their deadline
  std::uint64_t refused = 0;    ///< at submission: full queue, unreachable or past deadline, removed tenant
  std::uint64_t dropped = 0;    ///< from the queue
  std::uint64_t cancelled = 0;  ///< pending or on the device
  std::uint64_t timed_out = 0;  ///< pending or on the device
  std::size_t pending = 0;
  std::chrono::nanoseconds service{0};  ///< measured device time
};

namespace detail {

/// Of a tenant that has no target, see `no_latency_target`.
inline constexpr std::int64_t untold_target_ns = 10'000'000;

/// Eleven days: sums with it stay far from overflow.
inline constexpr std::int64_t farthest_target_ns = 1'000'000'000'000'000;

/// What `tenant_statistics` has, while it is counted.
struct tenant_counters {
  published<std::uint64_t> submitted;
  published<std::uint64_t> completed;
  published<std::uint64_t> missed;
  published<std::uint64_t> refused;
  published<std::uint64_t> dropped;
  published<std::uint64_t> cancelled;
  published<std::uint64_t> timed_out;
};

/// What every submission touches lies on two cache lines: with thousands of tenants none of it is in a near cache.
struct alignas(64) tenant_state {
  double weight = 1;
  double per_weight = 1;  // its inverse
  std::int64_t target_ns = untold_target_ns;
  bool wants = false;  // has a target
  std::size_t queue_capacity = std::numeric_limits<std::size_t>::max();
  double paid_until_ns = 0;   // time by which the tenant's share will have served all it has submitted
  std::int64_t last_due = 0;  // of its newest submission without a deadline of its own
  double efficiency = 1;      // measured service over predicted service alone: below 1 for work that is fused
  double in_flight_ns = 0;    // predicted
  full_queue when_full = full_queue::reject;
  late_work when_late = late_work::run;
  bool known = false;
  bool to_look_at = false;
  // The second line.
  published<std::size_t> pending;  // in the coalescer
  std::size_t in_flight = 0;
  intrusive_list<submission, &submission::previous, &submission::next> aside{};  // suspended, or over the cap
  tenant_state* next_to_look_at = nullptr;  // in a list of the scheduler's, while `to_look_at`
  published<double> service_ns;
  tenant_counters counters{};  // from here on seldom, but for the first two
  double in_flight_cap_ns = std::numeric_limits<double>::infinity();

  bool active() const noexcept { return pending + in_flight > 0 || aside.front() != nullptr; }

  /// From any thread.
  tenant_statistics statistics() const noexcept {
    return {.submitted = counters.submitted,
            .completed = counters.completed,
            .missed = counters.missed,
            .refused = counters.refused,
            .dropped = counters.dropped,
            .cancelled = counters.cancelled,
            .timed_out = counters.timed_out,
            .pending = pending,
            .service = std::chrono::nanoseconds{static_cast<std::int64_t>(service_ns)}};
  }
};

/// Tenants by id. A virtual token counter for each, counted in time: `paid_until` is when the tenant's share of the
/// device, its weight over that of all active tenants, will have served what it submitted. It is charged with predicted
/// time at submission and corrected by measured time at completion. An idle tenant saves nothing up.
class tenant_table {
public:
  tenant_table() { set(0, {}); }

  /// Adds a tenant, or gives it other options. What it has inside stays.
  void set(tenant_id id, const tenant_options& options) {
    while (id >= all_.size()) all_.push_back(std::make_unique<tenant_state>());
    tenant_state& one = *all_[id];
    if (one.active()) active_weight_ += options.weight - one.weight;  // also of one that was removed and is back
    one.weight = options.weight;
    one.per_weight = 1 / options.weight;
    one.wants = options.latency_target != no_latency_target;
    if (one.wants)
      one.target_ns = std::min<std::int64_t>(options.latency_target.count(), farthest_target_ns);
    else
      one.target_ns = untold_target_ns;
    one.queue_capacity = std::max<std::size_t>(options.queue_capacity, 1);
    one.in_flight_cap_ns = options.in_flight_cap == std::chrono::nanoseconds::max()
                               ? std::numeric_limits<double>::infinity()
                               : static_cast<double>(options.in_flight_cap.count());
    any_cap_ = any_cap_ || one.in_flight_cap_ns < std::numeric_limits<double>::infinity();
    one.when_full = options.when_full;
    one.when_late = options.when_late;
    one.known = true;
  }

  /// From now on its submissions are refused; what it has inside completes as usual.
  void remove(tenant_id id) noexcept {
    if (id < all_.size()) all_[id]->known = false;
  }

  /// Null for one that was never added, or was removed.
  tenant_state* find(tenant_id id) const noexcept {
    return id < all_.size() && all_[id]->known ? all_[id].get() : nullptr;
  }
  std::size_t size() const noexcept { return all_.size(); }
  /// Whether a tenant ever had a cap on what it has in flight.
  bool any_cap() const noexcept { return any_cap_; }
  /// Whether one must wait until something of its tenant's has left the device.
  bool over_cap(const submission& one) const noexcept {
    if (!any_cap_) return false;
    const tenant_state& tenant = *one.account;
    return tenant.in_flight > 0 && tenant.in_flight_ns + one.charged_ns > tenant.in_flight_cap_ns;
  }
  tenant_state& operator[](tenant_id id) noexcept { return *all_[id]; }
  const tenant_state& operator[](tenant_id id) const noexcept { return *all_[id]; }

  /// A submission with `work_ns` of predicted device time enters: returns the time by which the tenant's share will
  /// have served it.
  double charge(tenant_state& one, double work_ns, double now_ns) noexcept {
    if (!one.active()) {
      active_weight_ += one.weight;
      one.paid_until_ns = now_ns;
      one.last_due = 0;
    }
    one.paid_until_ns =
        std::max(one.paid_until_ns, now_ns) + work_ns * one.efficiency * (active_weight_ * one.per_weight);
    return one.paid_until_ns;
  }

  /// A submission left without service: its charge is taken back.
  void refund(tenant_state& one, double work_ns) noexcept {
    one.paid_until_ns -= work_ns * one.efficiency * (active_weight_ * one.per_weight);
  }

  /// To be called after a tenant's last submission may have left.
  void left(const tenant_state& one) noexcept {
    if (!one.active()) active_weight_ = std::max(active_weight_ - one.weight, 0.0);
  }

private:
  friend class service_of;

  std::vector<std::unique_ptr<tenant_state>> all_;  // a state never moves: submissions wait in its list
  double active_weight_ = 0;
  bool any_cap_ = false;
};

/// Service for several submissions of one tenant, in registers until `settle`.
class service_of {
public:
  service_of(const tenant_table& all, tenant_state& one) noexcept
      : tenant_(one),
        price_(all.active_weight_ * one.per_weight),
        service_ns_(one.service_ns),
        paid_until_ns_(one.paid_until_ns),
        efficiency_(one.efficiency) {}

  /// One that was charged with `work_ns` at submission was served in `service_ns`.
  void add(double work_ns, double service_ns) noexcept {
    service_ns_ += service_ns;
    if (!(work_ns > 0) || !(service_ns > 0)) return;
    paid_until_ns_ -= (work_ns * efficiency_ - service_ns) * price_;
    efficiency_ = std::clamp(efficiency_ + (service_ns / work_ns - efficiency_) / 16, 1. / 1024, 16.);
  }

  void settle() noexcept {
    tenant_.service_ns = service_ns_;
    tenant_.paid_until_ns = paid_until_ns_;
    tenant_.efficiency = efficiency_;
  }

private:
  tenant_state& tenant_;
  double price_;
  double service_ns_;
  double paid_until_ns_;
  double efficiency_;
};

}  // namespace detail

}  // namespace cohort::inline COHORT_ABI

// How much of the device a record may count on: its share of all the work that is pending or in flight. A pure function
// of what it is told; the scheduler enters.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/work_estimate.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace cohort::inline COHORT_ABI::detail {

/// Ops cut themselves into tiles by `machine_shape::workers`. An op that has the device for itself wants small tiles,
/// to keep every worker busy; among a hundred others it wants large ones, which read less memory for the same product.
/// So a record is planned for its share of the workers, by the work of its members against that of everything around
/// it, each taken as if it were alone (so that fused members and others are counted in one unit).
class work_share {
public:
  explicit work_share(const device_rates& rates) noexcept : estimate_(rates) {}

  /// Picoseconds that an op takes alone, at least one: what costs nothing counts by its number.
  std::int64_t weight(const op_cost& cost) const noexcept {
    return 1 + static_cast<std::int64_t>(1e3 * std::min(estimate_.alone_ns(cost), 1e9));
  }

  void pending(const op_cost& cost) noexcept { around_ += weight(cost); }
  /// Left without having run, or its packet is complete.
  void gone(std::int64_t weight) noexcept { around_ -= weight; }

  /// Workers for a record whose members weigh `own` together and are counted among what is around.
  std::uint32_t of(std::uint32_t workers, std::int64_t own) const noexcept {
    if (around_ <= own) return workers;
    const double share = static_cast<double>(own) / static_cast<double>(around_);
    return std::clamp(static_cast<std::uint32_t>(std::lround(workers * share)), 1u, workers);
  }

private:
  work_estimate estimate_;
  std::int64_t around_ = 0;
};

}  // namespace cohort::inline COHORT_ABI::detail

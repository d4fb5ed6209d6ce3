// How much of the device a record may count on: its share of all the work that is pending or in flight. A pure function
// of what it is told; the scheduler enters.
#pragma once

#include <cohort/config.hpp>

#include <algorithm>
#include <cstdint>

namespace cohort::inline COHORT_ABI::detail {

/// Ops cut themselves into tiles by `machine_shape::workers`. An op that has the device for itself wants small tiles,
/// to keep every worker busy; among a hundred others it wants large ones, which read less memory for the same product.
/// So a record is planned for its share of the workers, by the work of its members against that of everything around
/// it, each taken as if it were alone (so that fused members and others are counted in one unit).
class work_share {
public:
  /// What an op counts that takes `ns` alone: picoseconds, at least one, so that what costs nothing counts by number.
  static std::int64_t weight(double ns) noexcept { return 1 + static_cast<std::int64_t>(1e3 * std::min(ns, 1e9)); }

  void pending(std::int64_t weight) noexcept { around_ += weight; }
  /// Left without having run, or its packet is complete.
  void gone(std::int64_t weight) noexcept { around_ -= weight; }

  /// What a unit of weight is worth of `workers`, for the records of a packet: a division for each would cost more than
  /// the rest.
  /// \param growth how many times as much will be around when all have come who are on their way
  double rate(std::uint32_t workers, double growth) const noexcept {
    return workers / (static_cast<double>(std::max<std::int64_t>(around_, 1)) * growth);
  }

  /// Workers for a record whose members weigh `own` together and are counted among what is around.
  static std::uint32_t of(std::uint32_t workers, std::int64_t own, double rate) noexcept {
    return std::clamp(static_cast<std::uint32_t>(static_cast<double>(own) * rate + 0.5), 1u, workers);
  }

private:
  std::int64_t around_ = 0;
};

}  // namespace cohort::inline COHORT_ABI::detail

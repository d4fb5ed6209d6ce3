// A scheduler on a virtual clock whose device is easy to foretell, for the tests of tenants, policies and what is
// learned of a device.
#pragma once

#include "schedule_fixtures.hpp"

#include <cohort/schedule/scheduler.hpp>

#include <chrono>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace schedule_test {

/// 1 ns per flop, no overhead, and packets of one record once 1000 ns are in it.
inline constexpr cohort::device_rates rates{
    .flops_per_ns = 1, .bytes_per_ns = 1, .packet_overhead = 0ns, .busy_target = 1000ns, .max_packets = 4};

using ids = std::vector<std::uint64_t>;

template <class Policy>
Policy usual() {
  if constexpr (std::is_same_v<Policy, cohort::late_binding>) {
    return {.packet_work = 1000ns};
  } else {
    return {};
  }
}

template <class Policy = cohort::late_binding>
struct house : workshop {
  cohort::scheduler<Policy> s;
  explicit house(const cohort::scheduler_options& options = {}, Policy policy = usual<Policy>())
      : s(op_table, cohort::machine_shape{}, rates, options, policy) {}

  node& submit(cohort::tenant_id tenant, std::chrono::nanoseconds now, std::uint64_t flops = 1000,
               std::uint64_t key = 0, std::chrono::nanoseconds deadline = std::chrono::nanoseconds::max()) {
    node& one = make(key == 0 ? odd : fused, 1, key);
    one.tenant = tenant;
    one.cost.flops = flops;
    if (deadline != std::chrono::nanoseconds::max()) one.deadline = at(deadline);
    s.submit(one, at(now));
    return one;
  }

  /// The members of the next packet; empty when there is none.
  ids next(std::chrono::nanoseconds now) {
    const auto bytes = s.next(at(now), storage);
    return bytes.empty() ? ids{} : decode(bytes, op_table).ids();
  }

  /// Runs one packet after the other, each for its estimated time, until nothing is pending; returns the order.
  ids run(std::chrono::nanoseconds now) {
    ids all;
    for (std::uint32_t sequence = 1;; ++sequence) {
      const ids some = next(now);
      if (some.empty()) return all;
      all.insert(all.end(), some.begin(), some.end());
      now += s.work_in_flight(at(now));
      s.complete(sequence, {}, at(now));
    }
  }
};

}  // namespace schedule_test

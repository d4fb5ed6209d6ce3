// Each policy is a type, so each has a simulation of its own; from here on they are names and functions.
#include "contenders.hpp"

#include <cohort/schedule/batching_policies.hpp>
#include <cohort/schedule/policy.hpp>

#include <chrono>
#include <cstdint>
#include <memory>

namespace cohort_sim {
namespace {

using namespace std::chrono_literals;

/// \param depth packets in flight; 0: as many as the device's rates say
template <class Policy>
contender make(std::string family, std::string setting, Policy policy, std::uint32_t depth = 0) {
  std::string name = family;
  if (!setting.empty()) name += " " + setting;
  if (depth != 0) name += ", " + std::to_string(depth) + " in flight";
  return {std::move(family), std::move(name), [policy, depth](const workload& load, const setup& how) {
            setup mine = how;
            if (depth != 0) mine.rates.max_packets = depth;
            return std::make_unique<simulation<Policy>>(load, mine, policy)->run();
          }};
}

std::string microseconds(std::chrono::nanoseconds t) { return std::to_string(t / 1us) + " us"; }

}  // namespace

std::vector<contender> contenders() {
  std::vector<contender> all{make("late_binding", "", cohort::late_binding{})};
  for (const std::uint32_t depth : {0u, 4u, 3u, 2u, 1u})
    all.push_back(make("immediate", "", cohort::immediate{}, depth));
  for (const auto window : {5us, 10us, 20us, 50us, 100us, 200us, 500us, 1000us}) {
    // A window with fewer packets in flight is a stronger rival: what waits behind it waits less on the device. One
    // that is much longer than a round trip seldom has two.
    for (const std::uint32_t depth : {0u, 4u, 3u, 2u, 1u}) {
      if (depth != 0 && window > 100us) continue;
      all.push_back(make("fixed_window", microseconds(window), cohort::fixed_window{.window = window}, depth));
    }
  }
  for (const auto delay : {0us, 20us, 100us, 500us}) {
    all.push_back(make("preferred_sizes", microseconds(delay), cohort::preferred_sizes{.delay = delay}));
  }
  all.push_back(make("aimd", "", cohort::aimd{}));
  for (const auto margin : {20us, 50us, 100us}) {
    all.push_back(make("deferred_window", microseconds(margin), cohort::deferred_window{.margin = margin}));
  }
  return all;
}

}  // namespace cohort_sim

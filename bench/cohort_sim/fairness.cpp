// fairness: equal tenants must fare equally, and one that floods must not hurt the others.
#include "command.hpp"
#include "contenders.hpp"

#include "../cohort_bench/statistics.hpp"

#include <boost/json/object.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

namespace cohort_sim {
namespace {

using cohort_bench::number;
using cohort_bench::summary;

constexpr std::uint32_t tenants = 32;

/// Tenants of one kind, each with weights of its own.
workload equal_tenants(model_kind kind, const setup& how) {
  workload all;
  const std::chrono::nanoseconds target{std::llround(10 * time_alone(kind, how))};
  for (std::uint32_t t = 0; t < tenants; ++t) {
    all.models.push_back({kind, target});
    all.tenants.push_back({.latency_target = target});
  }
  return all;
}

std::vector<cohort_load::arrival> stream(std::span<const cohort_load::source> from, double rate, double seconds,
                                         std::uint64_t seed) {
  return cohort_load::generate({}, rate, std::chrono::nanoseconds{std::llround(1e9 * seconds)}, from, seed);
}

double mean(const std::vector<double>& all) {
  return std::accumulate(all.begin(), all.end(), 0.0) / static_cast<double>(all.size());
}

}  // namespace

void run_fairness(const arguments& given, cohort_bench::report& to) {
  const setup how{.seed = given.seed};
  const std::vector<contender> all = contenders();
  const contender* const wanted[] = {
      &all.front(), &*std::find_if(all.begin(), all.end(), [](const contender& c) { return c.family == "immediate"; }),
      &*std::find_if(all.begin(), all.end(), [](const contender& c) { return c.name == "fixed_window 100 us"; }),
      &*std::find_if(all.begin(), all.end(), [](const contender& c) { return c.name == "preferred_sizes 100 us"; })};
  const auto each = static_cast<double>(given.requests > 0 ? given.requests : given.quick ? 50 : 4'000);
  // Half of what the device does when it is kept full without much company.
  constexpr double share = 100e3 / tenants;  // per second
  const auto sources = cohort_load::sources_of(tenants);
  const double seconds = each / share;

  const cohort_bench::table_printer printer({{"policy", 26},
                                             {"slowest/fastest", 16, 3},
                                             {"p99 us", 9, 1},
                                             {"flooded p99", 12, 1},
                                             {"ratio", 8, 2},
                                             {"flood p99", 12, 1}});
  printer.header();
  for (const contender* who : wanted) {
    workload load = equal_tenants(model_kind::perceptron, how);
    load.arrivals = stream(sources, share * tenants, seconds, given.seed);
    const outcome calm = who->run(load, how);
    check(calm, who->name, to);
    std::vector<double> means;
    for (std::uint32_t t = 0; t < tenants; ++t) means.push_back(mean(calm.latencies(t)));
    const double spread = *std::max_element(means.begin(), means.end()) / *std::min_element(means.begin(), means.end());

    const std::vector<cohort_load::source> flooding{{0, 0, 1}};
    const std::vector<std::vector<cohort_load::arrival>> both{load.arrivals,
                                                              stream(flooding, 9 * share, seconds, given.seed + 1)};
    load.arrivals = cohort_load::merged(both);
    const outcome flooded = who->run(load, how);
    check(flooded, who->name, to);
    const auto others = [](const verdict& v) { return v.tenant != 0; };
    const double before = summary(calm.latencies_of(others)).p99() * 1e-3;
    const double after = summary(flooded.latencies_of(others)).p99() * 1e-3;
    const double own = summary(flooded.latencies(0)).p99() * 1e-3;
    printer.row({who->name, spread, before, after, after / before, own});
    to.row({{"part", "fairness"},
            {"policy", who->name},
            {"slowest_over_fastest_mean", number(spread)},
            {"p99_us", number(before)},
            {"p99_us_flooded", number(after)},
            {"p99_us_of_the_flood", number(own)},
            {"attainment_flooded", number(flooded.attainment())},
            {"drop_rate_flooded", number(flooded.drop_rate())}});
    if (who != wanted[0]) continue;
    to.target("equal tenants: slowest over fastest mean latency", given.quick ? 1.5 : 1.05, spread,
              cohort_bench::bound::at_most);
    to.target("one tenant at 10 times its share: p99 of the others over what it was", 1.5, after / before,
              cohort_bench::bound::at_most);
  }
}

}  // namespace cohort_sim

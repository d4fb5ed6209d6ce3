// rates: how much load each policy carries while 99 % of all offered requests are in time.
#include "command.hpp"
#include "contenders.hpp"

#include "../cohort_bench/statistics.hpp"

#include <boost/json/object.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace cohort_sim {
namespace {

using cohort_bench::missing;
using cohort_bench::number;

/// By bisection of the rate's logarithm; missing when the lowest rate is too much already, or the highest, which is
/// more than the device can do, is not: then the run is too short for such patient requests.
double largest_rate(const contender& who, const scene& what, const setup& how, double capacity, std::size_t requests,
                    int steps, std::uint64_t seed) {
  const auto carries = [&](double load) {
    return who.run(workload_of(what, how, load * capacity, requests, seed), how).attainment() >= 0.99;
  };
  double low = std::log(0.005);
  double high = std::log(1.3);
  if (!carries(std::exp(low)) || carries(std::exp(high))) return missing;
  for (int i = 0; i < steps; ++i) {
    const double middle = (low + high) / 2;
    (carries(std::exp(middle)) ? low : high) = middle;
  }
  return std::exp(low) * capacity;
}

}  // namespace

void run_rates(const arguments& given, cohort_bench::report& to) {
  const setup how{.seed = given.seed};
  const std::vector<contender> all = contenders();
  const std::size_t requests = given.requests > 0 ? given.requests : given.quick ? 400 : 4'000;
  std::vector<scene> scenes;
  for (const auto& [name, law] : cohort_load::measured_laws) {
    if (given.quick && law.kind != cohort_load::law::poisson) continue;
    for (const std::uint32_t tenants : {1u, 32u, 1000u}) {
      for (const double target : {2.0, 5.0, 10.0, 30.0, 0.0}) {
        if (given.quick && target != 10 && target != 0) continue;
        scenes.push_back({law, tenants, target, cohort::late_work::run});
      }
    }
  }
  std::vector<std::vector<double>> rates(scenes.size(), std::vector<double>(all.size(), missing));
  for_each_index(scenes.size(), given.threads, [&](std::size_t i) {
    const double capacity = capacity_of({.tenants = scenes[i].tenants}, how);
    const std::size_t count = std::max<std::size_t>(requests, 2 * scenes[i].tenants);
    for (std::size_t c = 0; c < all.size(); ++c) {
      if (given.quick && all[c].family != "late_binding" && all[c].family != "fixed_window") continue;
      rates[i][c] = largest_rate(all[c], scenes[i], how, capacity, count, given.quick ? 6 : 9, given.seed);
    }
  });

  const cohort_bench::table_printer printer({{"largest rate at 99 %, 1000/s", 30},
                                             {"ours", 9, 1},
                                             {"fixed", 9, 1},
                                             {"ratio", 7, 2},
                                             {"any", 9, 1},
                                             {"ratio", 7, 2},
                                             {"which", 30}});
  printer.header();
  std::vector<double> over_window, over_others;
  std::size_t above = 0;
  std::size_t counted = 0;
  for (std::size_t i = 0; i < scenes.size(); ++i) {
    double window = missing;
    double other = missing;
    std::string which;
    boost::json::object row{{"part", "rates"},
                            {"law", name_of(scenes[i].law)},
                            {"tenants", scenes[i].tenants},
                            {"target", target_name(scenes[i].target)}};
    boost::json::object per_policy;
    for (std::size_t c = 0; c < all.size(); ++c) {
      const double rate = rates[i][c];
      per_policy[all[c].name] = number(std::round(rate));
      if (std::isnan(rate) || c == 0) continue;
      if (all[c].family == "fixed_window") window = std::isnan(window) ? rate : std::max(window, rate);
      if (std::isnan(other) || rate > other) {
        other = rate;
        which = all[c].name;
      }
    }
    const double ours = rates[i][0];
    row["rates"] = std::move(per_policy);
    row["over_best_fixed_window"] = number(ours / window);
    row["over_best_of_all_others"] = number(ours / other);
    to.row(std::move(row));
    over_window.push_back(ours / window);
    over_others.push_back(ours / other);
    above += ours / window >= 1.3;
    counted += std::isfinite(ours / window);
    printer.row(
        {name_of(scenes[i].law) + ", " + std::to_string(scenes[i].tenants) + ", " + target_name(scenes[i].target),
         ours * 1e-3, window * 1e-3, ours / window, other * 1e-3, ours / other, which});
  }
  to.note("at least 1.3 times the best fixed window in " + std::to_string(above) + " of " + std::to_string(counted) +
          " workloads");
  if (!given.quick) {
    const double mean = cohort_bench::geometric_mean(over_others);
    char text[128];
    std::snprintf(
        text, sizeof text,
        "rate over the best of all other policies and settings, chosen in each workload, geometric mean: %.3f", mean);
    to.note(text);
    to.row({{"part", "rates_mean"}, {"over_best_of_all_others", number(mean)}});
  }
  to.target("rate at 99 % attainment over the fixed window that is best in each workload, geometric mean", 1.3,
            cohort_bench::geometric_mean(over_window));
}

}  // namespace cohort_sim

// cells: attainment over offered of every policy, in every cell.
#include "command.hpp"
#include "contenders.hpp"

#include "../cohort_bench/statistics.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace cohort_sim {
namespace {

using cohort_bench::missing;
using cohort_bench::number;

struct cell {
  scene what;
  double load = 0;  // of the capacity
  double rate = 0;
};

/// What is kept of one run.
struct score {
  double attainment = 0, goodput = 0, drop_rate = 0, p50 = 0, p99 = 0;
};

score score_of(const outcome& one) {
  const cohort_bench::summary latency(one.latencies());
  return {one.attainment(), one.goodput(), one.drop_rate(), latency.p50() * 1e-3, latency.p99() * 1e-3};
}

std::vector<cell> cells_of(bool quick, const setup& how) {
  using cohort::late_work;
  std::vector<cell> all;
  std::map<std::uint32_t, double> capacity;
  const auto add = [&](const cohort_load::gaps& law, std::uint32_t tenants, double load, double target) {
    if (!capacity.contains(tenants)) capacity[tenants] = capacity_of({.tenants = tenants}, how);
    for (const late_work late : {late_work::run, late_work::drop}) {
      all.push_back({{law, tenants, target, late}, load, load * capacity[tenants]});
    }
  };
  const std::vector<double> loads = quick ? std::vector{0.1, 0.7} : std::vector{0.05, 0.1, 0.3, 0.5, 0.85, 1.1};
  const std::vector<double> targets =
      quick ? std::vector{2.0, 10.0, 0.0} : std::vector{1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 0.0};
  for (const auto& [name, law] : cohort_load::measured_laws) {
    if (quick && law.kind != cohort_load::law::poisson && law.kind != cohort_load::law::gamma) continue;
    for (const std::uint32_t tenants : {1u, 32u, 1000u}) {
      for (const double load : loads) {
        for (const double target : targets) add(law, tenants, load, target);
      }
    }
  }
  if (!quick) {
    for (const auto& law : {cohort_load::measured_laws[0].law, cohort_load::measured_laws[1].law}) {
      for (const double load : {0.3, 0.7, 1.1}) {
        for (const double target : {10.0, 0.0}) add(law, 10'000, load, target);
      }
    }
  }
  return all;
}

}  // namespace

void run_cells(const arguments& given, cohort_bench::report& to) {
  const setup how{.seed = given.seed};
  const std::vector<contender> all = contenders();
  const std::vector<cell> cells = cells_of(given.quick, how);
  const std::size_t usual = given.requests > 0 ? given.requests : given.quick ? 400 : 4'000;
  std::vector<std::vector<score>> scores(cells.size(), std::vector<score>(all.size()));
  double waited = 0;
  double hidden = 0;
  double least_hidden = 1;
  std::mutex shared;
  for_each_index(cells.size(), given.threads, [&](std::size_t i) {
    const cell& one = cells[i];
    const workload load =
        workload_of(one.what, how, one.rate, std::max<std::size_t>(usual, one.what.tenants), given.seed);
    for (std::size_t c = 0; c < all.size(); ++c) {
      const outcome result = all[c].run(load, how);
      scores[i][c] = score_of(result);
      const std::lock_guard lock(shared);
      check(result, all[c].name, to);
      if (c == 0) {
        waited += static_cast<double>(result.counters.waited.count());
        hidden += static_cast<double>(result.counters.waited_hidden.count());
        least_hidden = std::min(least_hidden, result.wait_hidden());
      }
    }
  });

  // A thousandth of the offered requests is less than another seed makes of it.
  constexpr double resolution = 0.001;
  const auto near = [](double value, double best) { return value >= 0.98 * best || best - value < resolution; };
  std::vector<std::size_t> good(all.size()), good_contested(all.size());
  std::vector<double> sum(all.size());
  std::size_t contested = 0;
  std::map<std::string, std::pair<std::size_t, std::size_t>> by;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const auto less = [](const score& a, const score& b) { return a.attainment < b.attainment; };
    const double best = std::max_element(scores[i].begin(), scores[i].end(), less)->attainment;
    const double worst = std::min_element(scores[i].begin(), scores[i].end(), less)->attainment;
    const bool differ = !near(worst, best);
    contested += differ;
    for (std::size_t c = 0; c < all.size(); ++c) {
      sum[c] += scores[i][c].attainment;
      good[c] += near(scores[i][c].attainment, best);
      good_contested[c] += differ && near(scores[i][c].attainment, best);
    }
    const cell& one = cells[i];
    char load[32];
    std::snprintf(load, sizeof load, "load %3.0f %%", 100 * one.load);
    for (const std::string& key :
         {std::string(load), "target " + target_name(one.what.target), name_of(one.what.law),
          std::to_string(one.what.tenants) + " tenants",
          std::string(one.what.when_late == cohort::late_work::drop ? "late work is dropped" : "late work runs")}) {
      by[key].first += near(scores[i][0].attainment, best);
      by[key].second += 1;
    }
    boost::json::object row{{"part", "cells"},
                            {"law", name_of(one.what.law)},
                            {"tenants", one.what.tenants},
                            {"load", one.load},
                            {"rate", std::round(one.rate)},
                            {"target", target_name(one.what.target)},
                            {"late", one.what.when_late == cohort::late_work::drop ? "drop" : "run"}};
    // Of each family its best setting in this cell.
    std::map<std::string, std::size_t> best_of;
    for (std::size_t c = 0; c < all.size(); ++c) {
      const auto [had, fresh] = best_of.try_emplace(all[c].family, c);
      if (!fresh && scores[i][c].attainment > scores[i][had->second].attainment) had->second = c;
    }
    boost::json::object families;
    for (const auto& [family, c] : best_of) {
      const score& s = scores[i][c];
      const auto whole = [](double value) {
        return std::isfinite(value) ? boost::json::value(std::llround(value)) : boost::json::value(nullptr);
      };
      families[family] = boost::json::array{
          all[c].name.substr(family.size()), s.attainment, s.drop_rate, whole(s.goodput), whole(s.p50), whole(s.p99)};
    }
    row["policies"] = std::move(families);
    to.row(std::move(row));
  }

  const auto share = [](std::size_t part, std::size_t whole) {
    return whole == 0 ? missing : static_cast<double>(part) / static_cast<double>(whole);
  };
  to.note(
      "cells: of each family its best setting there, attainment over offered, drop rate, goodput/s, p50 us, p99 us");
  to.note(std::to_string(cells.size()) + " cells; in " + std::to_string(contested) +
          " of them policies differ by more than 2 %");
  const cohort_bench::table_printer printer(
      {{"policy", 28}, {"attainment", 10, 4}, {"best or within 2 %", 18, 3}, {"where they differ", 17, 3}});
  printer.header();
  for (std::size_t c = 0; c < all.size(); ++c) {
    const double mean = sum[c] / static_cast<double>(cells.size());
    printer.row({all[c].name, mean, share(good[c], cells.size()), share(good_contested[c], contested)});
    to.row({{"part", "policies"},
            {"policy", all[c].name},
            {"mean_attainment", number(mean)},
            {"within_2_percent", number(share(good[c], cells.size()))},
            {"within_2_percent_where_they_differ", number(share(good_contested[c], contested))}});
  }
  const cohort_bench::table_printer where({{"ours is best or within 2 %", 28}, {"of", 6, 0}, {"share", 8, 3}});
  where.header();
  for (const auto& [key, count] : by)
    where.row({key, static_cast<double>(count.second), share(count.first, count.second)});
  to.target("cells in which ours is the best or within 2 % of the best, share", 0.95, share(good[0], cells.size()));
  to.target("wait of ours that is hidden behind device work, all cells", 0.95, waited > 0 ? hidden / waited : missing);
  to.target("the same in the cell in which least is hidden", 0.95, least_hidden);
}

}  // namespace cohort_sim

// --trace: the same recorded arrivals under every policy.
#include "../load/trace_file.hpp"
#include "command.hpp"
#include "contenders.hpp"

#include "../cohort_bench/statistics.hpp"

#include <boost/json/object.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <fstream>
#include <stdexcept>
#include <vector>

namespace cohort_sim {

void run_trace(const arguments& given, cohort_bench::report& to) {
  std::ifstream file(given.trace);
  if (!file) throw std::runtime_error("cannot open " + given.trace);
  const setup how{.seed = given.seed};
  workload load;
  load.arrivals = cohort_load::read_trace(file);
  std::array<std::chrono::nanoseconds, model_kinds.size()> targets{};
  for (std::size_t i = 0; i < targets.size(); ++i) {
    targets[i] = std::chrono::nanoseconds{std::llround(given.target * time_alone(model_kinds[i], how))};
  }
  constexpr std::uint32_t most = 1u << 20;
  for (const cohort_load::arrival& one : load.arrivals) {
    if (one.tenant >= most || one.model >= most)
      throw std::runtime_error("the trace names a tenant or model beyond 2^20");
    while (load.models.size() <= one.model) {
      const std::size_t kind = load.models.size() % model_kinds.size();
      load.models.push_back({model_kinds[kind], targets[kind]});
    }
    if (load.tenants.size() <= one.tenant) {
      load.tenants.resize(one.tenant + 1, {.latency_target = *std::max_element(targets.begin(), targets.end())});
    }
  }
  const cohort_bench::table_printer printer({{"policy", 28},
                                             {"attainment", 10, 4},
                                             {"goodput/s", 10, 0},
                                             {"dropped", 8, 4},
                                             {"p50 us", 9, 1},
                                             {"p99 us", 9, 1}});
  printer.header();
  for (const contender& who : contenders()) {
    const outcome one = who.run(load, how);
    check(one, who.name, to);
    const cohort_bench::summary latency(one.latencies());
    printer.row(
        {who.name, one.attainment(), one.goodput(), one.drop_rate(), latency.p50() * 1e-3, latency.p99() * 1e-3});
    to.row({{"part", "trace"},
            {"policy", who.name},
            {"attainment", one.attainment()},
            {"goodput", one.goodput()},
            {"drop_rate", one.drop_rate()},
            {"p50_us", cohort_bench::number(latency.p50() * 1e-3)},
            {"p99_us", cohort_bench::number(latency.p99() * 1e-3)}});
  }
}

}  // namespace cohort_sim

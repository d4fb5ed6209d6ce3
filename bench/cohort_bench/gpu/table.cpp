// table: R independent products of one shape, ours against every way cuBLAS has to compute them.
#include "../command.hpp"
#include "../problem.hpp"
#include "../report.hpp"
#include "../statistics.hpp"
#include "ceilings.hpp"
#include "contest.hpp"
#include "operands.hpp"
#include "peers.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

namespace cohort_bench {
namespace {

constexpr std::array<std::string_view, 6> arms = {"time-only", "one stream", "streams", "graph", "batched", "grouped"};

struct cell {
  element_type type{};
  problem shape;
  std::uint32_t r = 0;
  bool rotating = false;
  double us = missing;
  double least_us = missing;  ///< the floor, with the way there and back
  double tflops = missing;
  std::array<double, arms.size()> over{};  ///< in the order of `arms`

  double over_named(std::string_view name) const {
    return over[static_cast<std::size_t>(std::find(arms.begin(), arms.end(), name) - arms.begin())];
  }
};

/// The same if ours took no longer than the floor.
cell at_floor(cell one) {
  const double faster = one.us / one.least_us;
  for (double& over : one.over) over *= faster;
  one.tflops *= faster;
  one.us = one.least_us;
  return one;
}

const char* variant_name(bool rotating) { return rotating ? "rotating" : "in L2"; }

const table_printer& printer() {
  static const table_printer one({{"type", 4},
                                  {"M x N x K", 12},
                                  {"operands", 8},
                                  {"R", 4, 0},
                                  {"/time", 7},
                                  {"/1 strm", 7},
                                  {"/streams", 8},
                                  {"/graph", 7},
                                  {"/batched", 8},
                                  {"/grouped", 8},
                                  {"of floor", 8},
                                  {"TFLOP/s", 8},
                                  {"us", 8},
                                  {"p99 us", 8},
                                  {"packets", 7, 1}});
  return one;
}

template <class T>
void measure(const options& chosen, const ceilings& most, const cublas_streams& cublas, std::vector<cell>& cells,
             report& to) {
  constexpr element_type type = type_of<T>;
  linear_executor<T> gpu;
  std::vector<std::unique_ptr<peer>> all;
  if (!chosen.skip_peers) {
    all.push_back(make_one_at_a_time(cublas));
    all.push_back(make_one_stream(cublas));
    all.push_back(make_streams(cublas));
    all.push_back(make_graph(cublas));
    all.push_back(make_batched(cublas));
    all.push_back(make_grouped(cublas));
  }
  std::vector<peer*> peers;
  for (const auto& one : all) peers.push_back(one.get());
  const contest_plan plan = plan_for(chosen);

  for (const problem& shape : table_problems) {
    if (!chosen.problem.empty() && chosen.problem != shape.name()) continue;
    const std::size_t rotation = operand_pool::slots_for_rotation(shape, type);
    const std::size_t slots = rotation + table_grid.back();
    const operand_pool pool(shape, type, slots);
    verifier check(type, pool.sets(1, slots));
    for (const bool rotating : {true, false}) {
      for (const std::uint32_t r : table_grid) {
        const std::vector<batch> sets = pool.sets(rotating ? (rotation + r - 1) / r : 1, r);
        const std::string where =
            std::string(name_of(type)) + " " + shape.name() + " R=" + std::to_string(r) + " " + variant_name(rotating);
        const contest_result found = run_contest(gpu, peers, {sets, sets}, check, plan, where, to);
        const double flops = flops_of(sets.front());
        const double floor = most.floor_us(flops, bytes_of(sets.front(), type), type, !rotating);
        const arm_result& mine = *found.find(ours);
        cell c{.type = type, .shape = shape, .r = r, .rotating = rotating, .us = mine.us.p50()};
        c.least_us = most.least_us(floor);
        c.tflops = flops / c.us * 1e-6;
        for (std::size_t i = 0; i < arms.size(); ++i) c.over[i] = found.over(arms[i]);
        cells.push_back(c);
        printer().row({name_of(type), shape.name(), variant_name(rotating), double(r), c.over[0], c.over[1], c.over[2],
                       c.over[3], c.over[4], c.over[5], floor / c.us, c.tflops, c.us, mine.us.p99(),
                       found.packets_per_batch});
        boost::json::object tflops;
        for (const arm_result& one : found.arms) tflops[one.name] = number(flops / one.us.p50() * 1e-6);
        to.row({{"type", name_of(type)},
                {"problem", shape.name()},
                {"operands", variant_name(rotating)},
                {"r", r},
                {"sets", sets.size()},
                {"arms", found.json()},
                {"tflops", std::move(tflops)},
                {"floor_us", number(floor)},
                {"share_of_floor", number(floor / c.us)},
                {"packets_per_batch", number(found.packets_per_batch)}});
      }
    }
  }
}

/// Geometric mean over the cells of one problem that `value` speaks of.
template <class Value>
double over_grid(const std::vector<cell>& cells, element_type type, const problem& shape, bool rotating,
                 Value&& value) {
  std::vector<double> values;
  for (const cell& one : cells) {
    if (one.type == type && one.shape == shape && one.rotating == rotating) values.push_back(value(one));
  }
  return geometric_mean(values);
}

/// The least of a value over all problems, and where it is.
struct worst {
  double value = missing;
  std::string where = "none measured";

  void see(double v, std::string place) {
    if (std::isnan(v) || (!std::isnan(value) && v >= value)) return;
    value = v;
    where = std::move(place);
  }
};

/// A target before it is known what the floor would give.
struct found_target {
  std::string name;
  double wanted;
  double measured;
};

void targets_of_papers(const std::vector<cell>& cells, bool rotating, std::vector<found_target>& to) {
  const std::string end = std::string(", ") + variant_name(rotating);
  const auto time = [](const cell& c) { return c.over_named("time-only"); };
  const auto streams = [](const cell& c) { return c.over_named("streams"); };
  const auto better = [](const cell& c) { return least(c.over_named("time-only"), c.over_named("streams")); };
  const auto mean = [&](const problem& p, auto&& value) {
    return over_grid(cells, element_type::fp32, p, rotating, value);
  };
  to.push_back({"fp32 256x128x1152 over time-only (paper 7.71)" + end, 10, mean({256, 128, 1152}, time)});
  to.push_back({"fp32 256x128x1152 over streams (paper 3.23)" + end, 6, mean({256, 128, 1152}, streams)});
  to.push_back(
      {"fp32 512x1x512 over the better of time-only and streams (paper 2.48)" + end, 10, mean({512, 1, 512}, better)});
  to.push_back({"fp32 256x256x256 over the better of time-only and streams (paper 4.93)" + end, 8,
                mean({256, 256, 256}, better)});
}

void targets_of_peers(const std::vector<cell>& cells, element_type type, bool rotating, std::vector<found_target>& to) {
  worst graph, batched, batched_cell, best, alone, alone_graph, step;
  const auto place = [](const cell& c) { return c.shape.name() + " R=" + std::to_string(c.r); };
  for (const problem& p : table_problems) {
    const auto mean = [&](auto&& value) { return over_grid(cells, type, p, rotating, value); };
    const auto packed = [](const cell& c, double value) { return c.r >= 2 ? value : missing; };
    graph.see(mean([](const cell& c) { return c.over_named("graph"); }), p.name());
    batched.see(mean([&](const cell& c) { return packed(c, c.over_named("batched")); }), p.name());
    best.see(mean([&](const cell& c) {
               return packed(
                   c, least(std::array{c.over_named("batched"), c.over_named("grouped"), c.over_named("graph")}));
             }),
             p.name());
  }
  const cell* before = nullptr;
  for (const cell& c : cells) {
    if (c.type != type || c.rotating != rotating) continue;
    if (c.r == 1) {
      alone.see(c.over_named("time-only"), place(c));
      alone_graph.see(c.over_named("graph"), place(c));
    } else {
      batched_cell.see(c.over_named("batched"), place(c));
    }
    if (before != nullptr && before->shape == c.shape) step.see(c.tflops / before->tflops, place(c));
    before = &c;
  }
  const std::string begin = std::string(name_of(type)) + ", every problem, ";
  const auto say = [&](const char* what, double wanted, const worst& found) {
    to.push_back({begin + what + ", " + variant_name(rotating) + " (least: " + found.where + ")", wanted, found.value});
  };
  say("over the CUDA graph", type == element_type::fp32 ? 2 : 4, graph);
  say("R >= 2, over cuBLAS batched", 1.25, batched);
  say("R >= 2, over cuBLAS batched, each cell", 1.0, batched_cell);
  say("R >= 2, over the best of batched, grouped and graph", 1.15, best);
  say("R = 1, over cuBLAS and synchronize", 1.7, alone);
  say("R = 1, over the graph", 1.0, alone_graph);
  say("throughput at this R over the one before", 0.95, step);
}

std::vector<found_target> all_targets(const options& chosen, const std::vector<cell>& cells) {
  std::vector<found_target> all;
  for (const bool rotating : {true, false}) {
    if (chosen.type != "bf16") {
      targets_of_papers(cells, rotating, all);
      targets_of_peers(cells, element_type::fp32, rotating, all);
    }
    if (chosen.type != "fp32") targets_of_peers(cells, element_type::bf16, rotating, all);
  }
  return all;
}

int run_table(const options& chosen) {
  if (!device_present()) return skipped;
  report to("table", chosen);
  describe_device(to);
  const cublas_streams cublas;
  const ceilings most = measure_ceilings(cublas, to);
  to.note(
      "wall time from the first call or submission until all results are known; /arm: how many times as long as ours");
  to.note(
      "rotating: operands over more than 220 MB; in L2: the same operands each time (118 x fp32 256x256x256 is 93 MB)");
  to.note(
      "floor: the longer of traffic (at the copy's rate, or the L2's) and arithmetic (at the rate of a large GEMM); "
      "that of a target with the way there and back, of the raw mailbox behind a relay");
  to.note("peers are timed while the executor is paused; ours after resume and warm-up");
  printer().header();
  std::vector<cell> cells;
  if (chosen.type != "bf16") measure<float>(chosen, most, cublas, cells, to);
  if (chosen.type != "fp32") measure<cohort::bf16>(chosen, most, cublas, cells, to);
  if (!chosen.skip_peers && chosen.problem.empty()) {
    std::vector<cell> best;
    for (const cell& one : cells) best.push_back(at_floor(one));
    const auto found = all_targets(chosen, cells);
    const auto possible = all_targets(chosen, best);
    for (std::size_t i = 0; i < found.size(); ++i) {
      to.target(found[i].name, found[i].wanted, found[i].measured, bound::at_least, possible[i].measured);
    }
  }
  return to.finish();
}

const registration announced({"table", place::gpu, "R independent products of one shape against every form of cuBLAS",
                              &run_table});

}  // namespace
}  // namespace cohort_bench

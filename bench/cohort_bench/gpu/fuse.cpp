// fuse: requests that share weights, one row each, against one cuBLAS product of that height: what a server would do
// that had gathered the batch by hand. Alone, and kept full with four batches in flight.
#include "../command.hpp"
#include "../crew.hpp"
#include "../report.hpp"
#include "../statistics.hpp"
#include "ceilings.hpp"
#include "contest.hpp"
#include "operands.hpp"
#include "peers.hpp"

#include <array>
#include <cstddef>
#include <string>
#include <vector>

namespace cohort_bench {
namespace {

constexpr std::size_t in_flight = 4;
constexpr std::size_t calls_in_graph = 40;

struct weights {
  std::uint32_t n, k;
};
constexpr std::array shapes = {weights{1024, 1024}, weights{4096, 4096}, weights{4096, 11008}};

/// The rows of each product as products of their own, with the same weights.
std::vector<batch> cut_into_rows(const std::vector<batch>& tall, element_type type) {
  std::vector<batch> result;
  for (const batch& set : tall) {
    const gemm& whole = set.front();
    batch& rows = result.emplace_back();
    for (std::size_t i = 0; i < whole.shape.n; ++i) {
      rows.push_back({{whole.shape.m, 1, whole.shape.k},
                      whole.w,
                      static_cast<const std::byte*>(whole.x) + i * whole.shape.k * size_of(type),
                      static_cast<std::byte*>(whole.y) + i * whole.shape.m * size_of(type)});
    }
  }
  return result;
}

/// us of one product when many stand in a graph, one behind the other.
double in_one_graph(const cublas_streams& cublas, element_type type, const std::vector<batch>& tall, int times) {
  const graph_exec many = capture(cublas.at(0), [&] {
    for (std::size_t i = 0; i < calls_in_graph; ++i) enqueue(cublas.handle(0), tall[i % tall.size()].front(), type);
  });
  std::vector<double> samples;
  for (int i = -1; i < times; ++i) {
    const auto begin = clock::now();
    cuda_check(cudaGraphLaunch(many.get(), cublas.at(0).get()), "cudaGraphLaunch");
    synchronize(cublas.at(0));
    if (i >= 0) samples.push_back(microseconds_since(begin) / calls_in_graph);
  }
  return median(samples);
}

template <class T>
void measure(const options& chosen, const ceilings& most, const cublas_streams& cublas, report& to) {
  constexpr element_type type = type_of<T>;
  linear_executor<T> gpu;
  linear_executor<T> beside({}, {.side_by_side = true});
  const auto alone = make_one_at_a_time(cublas);
  const auto graph = make_graph(cublas);
  const std::vector<peer*> peers =
      chosen.skip_peers ? std::vector<peer*>{} : std::vector<peer*>{alone.get(), graph.get()};
  const contest_plan plan = plan_for(chosen);
  const std::vector<std::uint32_t> grid = chosen.quick ? std::vector<std::uint32_t>{1, 16, 64, 256}
                                                       : std::vector<std::uint32_t>{1, 2, 4, 8, 16, 32, 64, 128, 256};
  const table_printer printer({{"type", 4},
                               {"N x K", 12},
                               {"rows", 4, 0},
                               {"/synchr.", 8},
                               {"/graph", 7},
                               {"full/graph", 10},
                               {"full floor", 10},
                               {"default us", 10},
                               {"us", 8},
                               {"p99 us", 8},
                               {"full us", 8},
                               {"packets", 7, 2}});
  printer.header();
  for (const weights& w : shapes) {
    for (const std::uint32_t rows : grid) {
      const std::vector<problem> tall_shape{{w.n, rows, w.k}};
      const std::size_t count = std::max(operand_sets::sets_for_rotation(tall_shape, type), 2 * in_flight);
      const operand_sets operands(tall_shape, type, count);
      const std::vector<batch> tall = operands.sets(count);
      const std::vector<batch> cut = cut_into_rows(tall, type);
      verifier check(type, tall);
      const std::string shape = std::to_string(w.n) + "x" + std::to_string(w.k);
      const std::string where = std::string(name_of(type)) + " " + shape + " rows=" + std::to_string(rows);
      const contest_result found = run_contest(gpu, peers, {tall, cut}, check, plan, where, to);
      const arm_result& mine = *found.find(ours);

      const auto ops = as_ops<T>(cut);
      std::vector<double> by_default, kept_full, theirs_full;
      const std::size_t batches = chosen.quick ? 50 : 200;
      const auto keep_full = [&](linear_executor<T>& executor) {
        const typename linear_executor<T>::residency on(executor);
        (void)time_kept_full(executor.get(), ops, in_flight, 5);
        return time_kept_full(executor.get(), ops, in_flight, batches) / static_cast<double>(batches * in_flight);
      };
      for (int round = 0; round < plan.rounds; ++round) {
        if (!chosen.skip_peers) theirs_full.push_back(in_one_graph(cublas, type, tall, chosen.quick ? 3 : 10));
        by_default.push_back(keep_full(gpu));
        kept_full.push_back(keep_full(beside));
      }
      const double full = median(kept_full);
      const double theirs = chosen.skip_peers ? missing : median(theirs_full);
      const double floor = most.floor_us(flops_of(tall.front()), bytes_of(tall.front(), type), type, false);
      printer.row({name_of(type), shape, double(rows), found.over("time-only"), found.over("graph"), theirs / full,
                   floor / full, median(by_default), mine.us.p50(), mine.us.p99(), full, found.packets_per_batch});
      to.row({{"type", name_of(type)},
              {"weights", shape},
              {"rows", rows},
              {"sets", count},
              {"arms", found.json()},
              {"kept_full_us", number(full)},
              {"kept_full_by_default_us", number(median(by_default))},
              {"cublas_graph_of_40_us", number(theirs)},
              {"floor_us", number(floor)},
              {"kept_full_share_of_floor", number(floor / full)},
              {"packets_per_batch", number(found.packets_per_batch)}});
      if (type == element_type::bf16 && rows == 64 && w.n == 4096 && w.k == 4096) {
        const double alone = found.over("time-only");
        to.target("fuse, 64 rows, N = K = 4096, bf16, over cuBLAS and synchronize", 1.25, alone, bound::at_least,
                  alone * mine.us.p50() / most.least_us(floor));
        to.target("the same kept full, over cuBLAS in a graph", 1.1, theirs / full, bound::at_least, theirs / floor);
        to.target("the same kept full, share of the byte floor", 0.8, floor / full);
      }
    }
  }
}

int run_fuse(const options& chosen) {
  if (!device_present()) return skipped;
  report to("fuse", chosen);
  describe_device(to);
  const cublas_streams cublas;
  const ceilings most = measure_ceilings(cublas, to);
  to.note("requests of one row each that share weights; weights rotate over more than 220 MB; theirs is one product");
  to.note(
      "kept full: four batches with different weights in flight, packets side by side (default us: without), against "
      "a graph of 40 products in one stream");
  if (chosen.type != "bf16") measure<float>(chosen, most, cublas, to);
  if (chosen.type != "fp32") measure<cohort::bf16>(chosen, most, cublas, to);
  return to.finish();
}

const registration announced({"fuse", place::gpu,
                              "requests that share weights, against one cuBLAS product of that height", &run_fuse});

}  // namespace
}  // namespace cohort_bench

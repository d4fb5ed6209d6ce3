// small: the device kept full with small batches, against batched calls of cuBLAS that nobody waits for.
#include "../command.hpp"
#include "../crew.hpp"
#include "../report.hpp"
#include "../statistics.hpp"
#include "ceilings.hpp"
#include "contest.hpp"
#include "operands.hpp"
#include "peers.hpp"

#include <string>
#include <vector>

namespace cohort_bench {
namespace {

constexpr std::size_t in_flight = 4;
constexpr std::size_t set_count = 2 * in_flight;

/// Pointer arrays on the device, and calls without a wait.
template <class T>
double time_asynchronous(const cublas_streams& cublas, const std::vector<batch>& sets, int calls) {
  std::vector<device_memory> arrays;
  for (const batch& set : sets) {
    std::vector<const void*> all;
    for (const gemm& one : set) all.push_back(one.w);
    for (const gemm& one : set) all.push_back(one.x);
    for (const gemm& one : set) all.push_back(one.y);
    arrays.push_back(upload(all));
  }
  constexpr cudaDataType_t data = std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_16BF;
  const problem& p = sets.front().front().shape;
  const auto m = static_cast<int>(p.m);
  const auto n = static_cast<int>(p.n);
  const auto k = static_cast<int>(p.k);
  const std::size_t r = sets.front().size();
  const float one = 1;
  const float zero = 0;
  clock::time_point begin{};
  for (int i = -20; i < calls; ++i) {
    if (i == 0) {
      synchronize(cublas.at(0));
      begin = clock::now();
    }
    auto* const from = static_cast<void**>(arrays[static_cast<std::size_t>(i + 20) % arrays.size()].get());
    cublas_check(
        cublasGemmBatchedEx(cublas.handle(0), CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one, from, data, k, from + r, data, k,
                            &zero, from + 2 * r, data, m, static_cast<int>(r), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmBatchedEx");
  }
  synchronize(cublas.at(0));
  return microseconds_since(begin) / calls;
}

/// One way of scheduling: by default small batches may share a packet; without coalescing each op is a packet.
struct setting {
  const char* name;
  cohort::scheduler_options scheduling;
  cohort::late_binding policy;
};

template <class T>
void measure(const options& chosen, const cublas_streams& cublas, report& to) {
  constexpr element_type type = type_of<T>;
  const problem shape{256, 256, 256};
  const int rounds = chosen.quick ? 3 : 9;
  const std::size_t batches = chosen.quick ? 250 : 1'000;
  const table_printer printer({{"type", 4},
                               {"R", 3, 0},
                               {"scheduling", 24},
                               {"/async", 7},
                               {"batches/s", 10, 0},
                               {"packets/s", 10, 0},
                               {"async/s", 10, 0},
                               {"us", 7},
                               {"async us", 8}});
  printer.header();
  const setting settings[] = {{"default", {}, {}},
                              {"side by side", {}, {.side_by_side = true}},
                              {"one op to a packet", {.coalesce = cohort::coalescing::none}, {}}};
  for (const setting& s : settings) {
    linear_executor<T> gpu(s.scheduling, s.policy);
    for (const std::size_t r : {1, 16}) {
      if (r > 1 && s.scheduling.coalesce == cohort::coalescing::none) continue;
      const operand_pool pool(shape, type, set_count * r);
      const std::vector<batch> sets = pool.sets(set_count, r);
      const auto ops = as_ops<T>(sets);
      verifier check(type, sets);
      check.poison(check.size());
      {
        const typename linear_executor<T>::residency on(gpu);
        (void)time_kept_full(gpu.get(), ops, in_flight, set_count / in_flight);
      }
      const double error = check.error(check.size());
      if (!check.right(error)) to.wrong("kept full: a relative error of " + std::to_string(error));

      std::vector<double> mine, theirs, packets;
      for (int round = 0; round < rounds; ++round) {
        if (!chosen.skip_peers) theirs.push_back(time_asynchronous<T>(cublas, sets, chosen.quick ? 500 : 2'000));
        const typename linear_executor<T>::residency on(gpu);
        (void)time_kept_full(gpu.get(), ops, in_flight, 20);
        const auto before = gpu.get().statistics().packets;
        const double us = time_kept_full(gpu.get(), ops, in_flight, batches);
        const auto all = static_cast<double>(batches * in_flight);
        mine.push_back(us / all);
        packets.push_back(static_cast<double>(gpu.get().statistics().packets - before) / us * 1e6);
      }
      const double us = median(mine);
      const double async = median(theirs);
      printer.row({name_of(type), double(r), s.name, async / us, 1e6 / us, median(packets), 1e6 / async, us, async});
      to.row({{"type", name_of(type)},
              {"problem", shape.name()},
              {"r", r},
              {"scheduling", s.name},
              {"ratio", number(async / us)},
              {"batches_per_s", number(1e6 / us)},
              {"packets_per_s", number(median(packets))},
              {"cublas_calls_per_s", number(1e6 / async)}});
      if (type == element_type::bf16) {
        to.target("kept full, bf16 256x256x256, R = " + std::to_string(r) +
                      ", batches per second over asynchronous cuBLAS batched, " + s.name,
                  2, async / us);
      }
    }
  }
}

int run_small(const options& chosen) {
  if (!device_present()) return skipped;
  report to("small", chosen);
  describe_device(to);
  const cublas_streams cublas;
  to.note("four batches of R coroutines in flight that do not wait for one another; 8 sets of operands, in L2");
  to.note("cuBLAS: batched calls one after the other, pointer arrays ready, one synchronize at the end");
  if (chosen.type != "bf16") measure<float>(chosen, cublas, to);
  if (chosen.type != "fp32") measure<cohort::bf16>(chosen, cublas, to);
  return to.finish();
}

const registration announced({"small", place::gpu,
                              "small batches that keep the device full, against asynchronous batched calls",
                              &run_small});

}  // namespace
}  // namespace cohort_bench

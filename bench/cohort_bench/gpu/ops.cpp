// ops: every op but linear, 1 and 64 requests at once, against its floor and the obvious peer: a copy of as many bytes,
// CUB for a reduction, cudaMemcpyAsync for a copy.
#include "../command.hpp"
#include "../crew.hpp"
#include "../report.hpp"
#include "../statistics.hpp"
#include "ceilings.hpp"
#include "contest.hpp"
#include "cub_sum.hpp"
#include "kernels.hpp"
#include "op_cases.hpp"
#include "operands.hpp"
#include "paused_executor.hpp"

#include <cohort/backend/host.hpp>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

namespace cohort_bench {
namespace {

constexpr std::size_t in_flight = 4;

/// Blocks of requests on the device.
template <class Case>
class requests {
public:
  explicit requests(std::size_t count)
      : memory_(make_device_memory(count * pitch)), shared_(make_device_memory(Case::layout.shared_bytes)) {
    launch_fill(memory_.get(), count * pitch / 2, element_type::bf16, 5, nullptr);
    launch_fill(shared_.get(), Case::layout.shared_bytes / 2, element_type::bf16, 6, nullptr);
    synchronize_device();
    if constexpr (requires { &Case::prepare; }) {
      std::vector<std::byte> head(Case::layout.out);
      for (std::size_t i = 0; i < count; ++i) {
        Case::prepare(head.data(), i);
        cuda_check(cudaMemcpy(block(i), head.data(), head.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
      }
    }
  }

  std::byte* block(std::size_t i) const { return static_cast<std::byte*>(memory_.get()) + i * pitch; }
  std::byte* shared() const { return static_cast<std::byte*>(shared_.get()); }
  auto op_at(std::size_t i) const { return Case::make(block(i), shared()); }

  static constexpr std::size_t pitch = (Case::layout.block_bytes + 255) / 256 * 256;

private:
  device_memory memory_, shared_;
};

double value_at(const std::vector<std::byte>& from, std::size_t i, bool is_float) {
  float value = 0;
  if (is_float) {
    std::memcpy(&value, from.data() + 4 * i, 4);
  } else {
    cohort::bf16 half;
    std::memcpy(&half, from.data() + 2 * i, 2);
    value = cohort::detail::bits_to_float(std::uint32_t{half.bits} << 16);
  }
  return double{value};
}

/// Relative error of a request's output against the same op on the host backend, which tests hold against float64.
template <class Case>
double error_of(const requests<Case>& all, std::size_t i, cohort::executor<other_ops>& host) {
  constexpr op_layout l = Case::layout;
  std::vector<std::byte> block(l.block_bytes + 256);
  std::vector<std::byte> shared(l.shared_bytes + 256);
  const auto aligned = [](std::vector<std::byte>& v) {
    return reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(v.data()) + 255) / 256 * 256);
  };
  std::byte* const base = aligned(block);
  cuda_check(cudaMemcpy(base, all.block(i), l.block_bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
  cuda_check(cudaMemcpy(aligned(shared), all.shared(), l.shared_bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
  const std::size_t out_bytes = l.out_count * (l.out_is_float ? 4 : 2);
  const std::vector<std::byte> device(base + l.out, base + l.out + out_bytes);
  std::memset(base + l.out, 0xff, out_bytes);
  const std::vector<std::vector<decltype(all.op_at(0))>> one{{Case::make(base, aligned(shared))}};
  (void)time_batches(host, one, {.warm_up = 0, .fewest = 1, .most = 1, .budget_us = 0});
  const std::vector<std::byte> expected(base + l.out, base + l.out + out_bytes);
  double error = 0;
  double norm = 0;
  for (std::size_t e = 0; e < l.out_count; ++e) {
    const double wanted = value_at(expected, e, l.out_is_float);
    const double difference = value_at(device, e, l.out_is_float) - wanted;
    error += difference * difference;
    norm += wanted * wanted;
  }
  return std::sqrt(error / norm);
}

struct op_peer {
  std::string name;
  std::function<void(std::size_t set)> run;
};

/// The obvious peer, if there is one.
template <class Case>
std::vector<op_peer> peers_of(const requests<Case>& all, const stream& in, std::size_t r) {
  std::vector<op_peer> result;
  if constexpr (std::is_same_v<Case, copy_case>) {
    result.push_back({"cudaMemcpyAsync", [&all, &in, r](std::size_t set) {
                        for (std::size_t i = set * r; i < set * r + r; ++i) {
                          cuda_check(cudaMemcpyAsync(all.block(i) + Case::layout.out, all.block(i), elements * 2,
                                                     cudaMemcpyDeviceToDevice, in.get()),
                                     "cudaMemcpyAsync");
                        }
                        synchronize(in);
                      }});
  }
  if constexpr (std::is_same_v<Case, reduction_case>) {
    result.push_back({"cub::DeviceReduce", [&all, &in, r, sum = std::make_shared<cub_sum>(elements)](std::size_t set) {
                        for (std::size_t i = set * r; i < set * r + r; ++i) {
                          auto* const block = all.block(i);
                          sum->enqueue(reinterpret_cast<const float*>(block),
                                       reinterpret_cast<float*>(block + Case::layout.out), in);
                        }
                        synchronize(in);
                      }});
  }
  return result;
}

std::vector<double> time_op_peer(const op_peer& one, std::size_t sets, const limits& l) {
  std::vector<double> samples;
  std::size_t set = 0;
  for (sampling still(l); still.more(); set = (set + 1) % sets) {
    const auto begin = clock::now();
    one.run(set);
    const double us = microseconds_since(begin);
    if (!still.warming()) samples.push_back(us);
    still.took(us);
  }
  return samples;
}

class ops_benchmark {
public:
  explicit ops_benchmark(const options& chosen)
      : chosen_(chosen),
        report_("ops", chosen),
        host_(io_, std::make_unique<cohort::host_backend<other_ops>>(), {.driven_by = cohort::drive::caller}) {
    describe_device(report_);
    most_ = measure_ceilings(cublas_, report_);
    gpu_ = std::make_unique<paused_executor<other_ops>>(make_other_backend(benchmark_options()));
    report_.note(
        "bf16, 128 tokens of 768; operands rotate over more than 220 MB; floor: cost() over measured ceilings");
    report_.note("the copy moves as many bytes with one launch and a synchronize; full: four batches in flight");
    printer_.header();
  }

  template <class Case>
  void measure() {
    if (!chosen_.problem.empty() && chosen_.problem != Case::name) return;
    for (const std::size_t r : {1, 64}) {
      const std::size_t sets = std::max(rotating_bytes / (r * requests<Case>::pitch) + 1, 2 * in_flight);
      const requests<Case> all(sets * r);
      std::vector<std::vector<decltype(all.op_at(0))>> ops(sets);
      for (std::size_t i = 0; i < sets * r; ++i) ops[i / r].push_back(all.op_at(i));
      {
        const residency on(*gpu_);
        const auto once = static_cast<int>(sets);
        (void)time_batches(gpu_->get(), ops, {.warm_up = 0, .fewest = once, .most = once, .budget_us = 0});
      }
      double error = 0;
      for (const std::size_t i : {std::size_t{0}, sets * r - 1}) error = std::max(error, error_of(all, i, host_));
      if (!(error <= (Case::layout.out_is_float ? 1e-4 : 1e-2))) {
        report_.wrong(std::string(Case::name) + ": a relative error of " + std::to_string(error));
      }
      time(Case::name, r, ops, peers_of(all, cublas_.at(0), r), error);
    }
  }

  int finish() { return report_.finish(); }

private:
  using residency = paused_executor<other_ops>::residency;

  template <class Op>
  void time(const char* name, std::size_t r, const std::vector<std::vector<Op>>& ops, std::vector<op_peer> peers,
            double error) {
    const cohort::op_cost cost = ops.front().front().cost();
    const double bytes = static_cast<double>(cost.bytes) * static_cast<double>(r);
    const double flops = static_cast<double>(cost.flops) * static_cast<double>(r);
    const std::size_t copied = static_cast<std::size_t>(bytes / 2) / 256 * 256;
    const std::size_t places = rotating_bytes / (2 * copied) + 1;
    const device_memory from = make_device_memory(places * copied);
    const device_memory into = make_device_memory(places * copied);
    peers.push_back({"copy of the bytes", [&, at = std::size_t{0}](std::size_t) mutable {
                       at = (at + 1) % places;
                       launch_copy(static_cast<std::byte*>(from.get()) + at * copied,
                                   static_cast<std::byte*>(into.get()) + at * copied, copied, cublas_.at(0).get());
                       synchronize(cublas_.at(0));
                     }});
    const contest_plan plan = plan_for(chosen_);
    std::vector<std::vector<double>> theirs(peers.size());
    std::vector<double> mine, full;
    for (int round = 0; round < plan.rounds; ++round) {
      for (std::size_t i = 0; i < peers.size() && !chosen_.skip_peers; ++i) {
        const auto some = time_op_peer(peers[i], ops.size(), plan.each);
        theirs[i].insert(theirs[i].end(), some.begin(), some.end());
      }
      const residency on(*gpu_);
      (void)time_batches(gpu_->get(), ops, {.warm_up = 0, .fewest = 3, .most = 3, .budget_us = 0});
      const auto some = time_batches(gpu_->get(), ops, plan.each);
      mine.insert(mine.end(), some.begin(), some.end());
      const std::size_t batches = chosen_.quick ? 25 : 100;
      full.push_back(time_kept_full(gpu_->get(), ops, in_flight, batches) / static_cast<double>(batches * in_flight));
    }
    const summary us(std::move(mine));
    const double full_us = median(full);
    const double floor = most_.floor_us(flops, bytes, element_type::bf16, false);
    boost::json::object arms;
    for (std::size_t i = 0; i < peers.size(); ++i) arms[peers[i].name] = number(median(theirs[i]));
    const bool special = peers.size() > 1;
    printer_.row({name, double(r), median(theirs.back()) / us.p50(), special ? peers[0].name : std::string("-"),
                  special ? median(theirs[0]) / us.p50() : missing, floor / us.p50(), floor / full_us, us.p50(),
                  us.p99(), full_us, error});
    report_.row({{"op", name},
                 {"r", r},
                 {"us", number(us.p50())},
                 {"p99_us", number(us.p99())},
                 {"kept_full_us", number(full_us)},
                 {"floor_us", number(floor)},
                 {"share_of_floor", number(floor / us.p50())},
                 {"kept_full_share_of_floor", number(floor / full_us)},
                 {"bytes", bytes},
                 {"flops", flops},
                 {"peers_us", std::move(arms)},
                 {"error", number(error)}});
  }

  const options& chosen_;
  report report_;
  cublas_streams cublas_;
  ceilings most_;
  std::unique_ptr<paused_executor<other_ops>> gpu_;
  boost::asio::io_context io_;
  cohort::executor<other_ops> host_;
  table_printer printer_{{{"op", 13},
                          {"R", 3, 0},
                          {"/copy", 7},
                          {"peer", 18},
                          {"/peer", 7},
                          {"of floor", 8},
                          {"full", 6},
                          {"us", 8},
                          {"p99 us", 8},
                          {"full us", 8},
                          {"error", 9, 7}}};
};

int run_ops(const options& chosen) {
  if (!device_present()) return skipped;
  ops_benchmark all(chosen);
  all.measure<layer_norm_case>();
  all.measure<rms_norm_case>();
  all.measure<softmax_case>();
  all.measure<attention_case>();
  all.measure<embedding_case>();
  all.measure<pooling_case>();
  all.measure<reduction_case>();
  all.measure<elementwise_case>();
  all.measure<copy_case>();
  return all.finish();
}

const registration announced({"ops", place::gpu, "every op but linear against its floor and the obvious peer",
                              &run_ops});

}  // namespace
}  // namespace cohort_bench

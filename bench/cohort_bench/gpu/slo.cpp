// slo: 32 tenants with models of their own under open-loop load, ours against a stream per request and a dynamic
// batcher per model, in one process, in turn.
#include "../command.hpp"
#include "../report.hpp"
#include "../slo/arrivals_of.hpp"
#include "../slo/checker.hpp"
#include "../slo/cohort_arm.hpp"
#include "../slo/contest.hpp"
#include "../slo/trace.hpp"
#include "ceilings.hpp"
#include "slo_kernels.hpp"
#include "slo_peers.hpp"
#include "superkernels.hpp"

#include <cohort/schedule/policy.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <vector>

namespace cohort_bench {
namespace {

using namespace slo;
using cohort::bf16;

/// Blocks of device memory, handed out from front to back.
class device_store final : public store {
public:
  void* take(std::size_t bytes) override {
    bytes = (bytes + 255) / 256 * 256;
    if (bytes > left_) {
      left_ = std::max(bytes, block);
      all_.push_back(make_device_memory(left_));
      next_ = static_cast<std::byte*>(all_.back().get());
      cuda_check(cudaMemset(next_, 0, left_), "cudaMemset");
    }
    left_ -= bytes;
    return std::exchange(next_, next_ + bytes);
  }
  void write(void* to, const void* from, std::size_t bytes) override {
    cuda_check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  void read(void* to, const void* from, std::size_t bytes) override {
    cuda_check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
  }

private:
  static constexpr std::size_t block = std::size_t{256} << 20;

  std::vector<device_memory> all_;
  std::byte* next_ = nullptr;
  std::size_t left_ = 0;
};

/// Lingers through the pauses of a light load; a device that is lost is found out soon.
std::unique_ptr<cohort::backend> make_device(std::uint32_t packets = cohort::cuda_options().packets) {
  cohort::cuda_options settings = benchmark_options();
  settings.packets = packets;
  settings.time_limit = std::chrono::seconds(2);
  return make_slo_backend(settings);
}

int run_slo(const options& chosen) {
  // As many hardware queues as the peers have streams. Before CUDA is first used.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  if (!device_present()) return skipped;
  report to("slo", chosen);
  describe_device(to);
  load_slo_kernels();
  constexpr std::uint32_t tenants = 32;
  constexpr std::uint32_t slots = 64;
  to.note(
      "bf16, 32 tenants with weights of their own: MLP 512-1024-512, BERT-like 2 layers of hidden 384 with 16 "
      "tokens, LSTM of 512 with 4 steps of 256 inputs; one thread drives each arm; inputs and outputs stay on the "
      "device");
  contest_plan plan{.search = {.first_rate = 20'000, .doublings = 8, .bisections = 5}};
  choose_arrivals(chosen, plan, to);
  to.note("a tenant has 64 buffers, and a request that finds none is dropped");
  to.environment()["tenants"] = tenants;
  to.environment()["buffers_per_tenant"] = slots;

  std::printf("# weights and buffers\n");
  device_store memory;
  const fleet<bf16> all(sizes_on_gpu, tenants, slots, memory);
  std::printf("# references\n");
  checker<bf16> check(all, memory);
  std::vector<std::unique_ptr<arm>> owned;
  owned.push_back(std::make_unique<cohort_arm<bf16>>("cohort", all, make_device()));
  const auto add = [&](const char* what, auto&& make) {
    std::printf("# preparing %s\n", what);
    try {
      owned.push_back(make());
    } catch (const std::exception& error) {
      to.wrong(std::string("preparing ") + what + ": " + error.what());
    }
  };
  std::unique_ptr<cublas_linear> cublas;
  if (!chosen.skip_peers) {
    add("one stream per request, graphs", [&] {
      cublas = std::make_unique<cublas_linear>();
      return make_stream_per_request(by::graphs, all, *cublas, memory);
    });
    add("one stream per request, launches", [&] {
      if (cublas == nullptr) cublas = std::make_unique<cublas_linear>();
      return make_stream_per_request(by::launches, all, *cublas, memory);
    });
    add("batcher, graphs", [&] {
      if (cublas == nullptr) cublas = std::make_unique<cublas_linear>();
      return make_batcher(by::graphs, all, *cublas, memory);
    });
    add("batcher, launches", [&] {
      if (cublas == nullptr) cublas = std::make_unique<cublas_linear>();
      return make_batcher(by::launches, all, *cublas, memory);
    });
  }
  if (cublas != nullptr) {
    to.note("peers: of " + std::to_string(cublas->tuned()) + " shapes of linear layers " +
            std::to_string(cublas->fused()) + " are one call of cublasLt, the others cuBLAS and a kernel");
  }
  std::vector<arm*> arms;
  for (const auto& one : owned) arms.push_back(one.get());

  if (chosen.quick) {
    plan.trial_seconds = 0.12;
    plan.steady_seconds = 1.5;
    plan.extras = false;
  }
  contest all_of_it(to, arms, tenants, plan, [&](arm& one) { return check.error(one); }, check.tolerance);
  cohort_arm<bf16> few("4 packets in flight", all, make_device(4));
  cohort_arm<bf16> many("16 packets in flight", all, make_device(16));
  cohort_arm<bf16> packing("no fusing", all, make_device(),
                           {.scheduling = {.coalesce = cohort::coalescing::pack_only}});
  cohort_arm<bf16, cohort::immediate> hasty("no waiting", all, make_device());
  cohort_arm<bf16> op_by_op("op by op", all, make_device(), {}, {}, requests::op_by_op);
  all_of_it.add_variant(op_by_op);
  all_of_it.add_variant(few);
  all_of_it.add_variant(many);
  all_of_it.add_variant(packing);
  all_of_it.add_variant(hasty);
  all_of_it.run();
  if (!chosen.trace.empty()) {
    try {
      record_trace(all, make_device(), all_of_it.targets(), all_of_it.own_rate(), plan.polite, chosen.trace);
    } catch (const std::exception& error) {
      to.wrong(std::string("the trace: ") + error.what());
    }
  }
  return to.finish();
}

const registration announced({"slo", place::gpu,
                              "32 tenants' models under open-loop load, against streams and a batcher", &run_slo});

}  // namespace
}  // namespace cohort_bench

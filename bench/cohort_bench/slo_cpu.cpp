// slo_cpu: the contest of `slo` between policies, against a device that takes no time: the rate that the CPU carries,
// and how tenants fare when it is the CPU that they share. Nothing is computed.
#include "command.hpp"
#include "immediate_backend.hpp"
#include "report.hpp"
#include "slo/cohort_arm.hpp"
#include "slo/contest.hpp"
#include "slo/host_store.hpp"

#include <cohort/schedule/policy.hpp>

#include <cstdint>
#include <memory>

namespace cohort_bench {
namespace {

using namespace slo;

std::unique_ptr<cohort::backend> make_device() { return std::make_unique<immediate_backend<slo_ops<float>>>(); }

int run_slo_on_cpu(const options& chosen) {
  report to("slo_cpu", chosen);
  to.environment()["backend"] = "none: packets are complete at once";
  constexpr std::uint32_t tenants = 32;
  host_store memory;
  const fleet<float> all(sizes_on_host, tenants, 64, memory);
  cohort_arm<float> late("late_binding", all, make_device());
  cohort_arm<float, cohort::immediate> immediate("immediate", all, make_device());
  cohort_arm<float> op_by_op("late_binding, op by op", all, make_device(), {}, {}, requests::op_by_op);
  contest_plan plan{
      .timed = false, .search = {.first_rate = 100'000, .doublings = 6, .bisections = 5}, .rounds = 5, .extras = false};
  if (chosen.quick) {
    plan.search = {.first_rate = 20'000, .doublings = 8, .bisections = 2};
    plan.rounds = 1;
    plan.trial_seconds = 0.1;
    plan.steady_seconds = 0.3;
  }
  contest(to, {&late, &immediate, &op_by_op}, tenants, plan, [](arm&) { return 0.0; }, 0).run();
  return to.finish();
}

const registration announced({"slo_cpu", place::host,
                              "the load of slo on a device that takes no time: what the CPU carries", &run_slo_on_cpu});

}  // namespace
}  // namespace cohort_bench

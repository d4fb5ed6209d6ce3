// slo --backend host: small models over worker threads, so that the driver, the search and the models are run where
// there is no GPU. Results are checked; times are of no interest.
#include "command.hpp"
#include "report.hpp"
#include "slo/arrivals_of.hpp"
#include "slo/checker.hpp"
#include "slo/cohort_arm.hpp"
#include "slo/contest.hpp"
#include "slo/host_store.hpp"
#include "slo/trace.hpp"

#include <cohort/backend/host.hpp>
#include <cohort/schedule/policy.hpp>

#include <cstddef>
#include <memory>

namespace cohort_bench {
namespace {

using namespace slo;

std::unique_ptr<cohort::backend> make_device() {
  return std::make_unique<cohort::host_backend<slo_ops<float>>>(
      cohort::host_options{.device_bytes = std::size_t{1} << 20, .pinned_bytes = std::size_t{1} << 20});
}

int run_slo_on_host(const options& chosen) {
  report to("slo", chosen);
  to.environment()["backend"] = "host";
  to.note("fp32, 6 tenants with weights of their own; an executor against one without company, both on the host");
  constexpr std::uint32_t tenants = 6;
  host_store memory;
  const fleet<float> all(sizes_on_host, tenants, 32, memory);
  cohort_arm<float> ours("cohort", all, make_device());
  cohort_arm<float, cohort::immediate> alone("one op to a packet", all, make_device(),
                                             {.scheduling = {.coalesce = cohort::coalescing::none}});
  checker<float> check(all, memory);
  contest_plan plan{.timed = false,
                    .polite = true,
                    .search = {.first_rate = 1000, .doublings = 8, .bisections = 3},
                    .rounds = 1,
                    .trial_seconds = 0.2,
                    .steady_seconds = 1,
                    .least_target_us = 5'000};
  choose_arrivals(chosen, plan, to);
  if (chosen.quick) {
    plan.search = {.first_rate = 1000, .doublings = 3, .bisections = 1};
    plan.trial_seconds = 0.05;
    plan.steady_seconds = 0.2;
    plan.extras = false;
  }
  contest all_of_it(to, {&ours, &alone}, tenants, plan, [&](arm& one) { return check.error(one); }, check.tolerance);
  cohort_arm<float> packing("no fusing", all, make_device(),
                            {.scheduling = {.coalesce = cohort::coalescing::pack_only}});
  cohort_arm<float> op_by_op("op by op", all, make_device(), {}, {}, requests::op_by_op);
  all_of_it.add_variant(op_by_op);
  all_of_it.add_variant(packing);
  all_of_it.run();
  if (!chosen.trace.empty()) {
    record_trace(all, make_device(), all_of_it.targets(), all_of_it.own_rate(), plan.polite, chosen.trace);
  }
  return to.finish();
}

const registration announced({"slo", place::host, "the same on the host backend, to see that it runs",
                              &run_slo_on_host});

}  // namespace
}  // namespace cohort_bench

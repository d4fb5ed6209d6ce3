// Workloads made from scenes.
#include "scenes.hpp"

#include <cohort/schedule/policy.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>

namespace cohort_sim {
namespace {

using std::chrono::nanoseconds;

std::vector<cohort_load::source> sources_of(const workload& servers) {
  if (servers.tenants.size() > 1) return cohort_load::sources_of(static_cast<std::uint32_t>(servers.tenants.size()));
  std::vector<cohort_load::source> all;
  for (std::uint32_t m = 0; m < servers.models.size(); ++m) all.push_back({0, m, 1});
  return all;
}

}  // namespace

std::string target_name(double target) {
  if (target == 0) return "mixed";
  char text[32];
  std::snprintf(text, sizeof text, "%gx", target);
  return text;
}

double time_alone(model_kind kind, const setup& how) {
  workload one;
  one.tenants = {{.latency_target = std::chrono::seconds(1)}};
  one.models = {{kind, std::chrono::seconds(1)}};
  one.arrivals = {{}};
  setup quiet = how;
  quiet.device.noise = 0;
  return std::make_unique<simulation<cohort::immediate>>(one, quiet, cohort::immediate{})->run().requests[0].latency;
}

workload servers_of(const scene& what, const setup& how) {
  constexpr std::array mixed{2.0, 5.0, 10.0, 30.0, 100.0};
  std::array<double, model_kinds.size()> alone{};
  for (std::size_t i = 0; i < alone.size(); ++i) alone[i] = time_alone(model_kinds[i], how);
  workload all;
  const std::uint32_t models = what.tenants == 1 ? static_cast<std::uint32_t>(model_kinds.size()) : what.tenants;
  for (std::uint32_t m = 0; m < models; ++m) {
    const std::size_t kind = m % model_kinds.size();
    // The factors change when every kind has had one, so that each kind meets each factor.
    const double factor = what.target > 0 ? what.target : mixed[(m / model_kinds.size() + m) % mixed.size()];
    all.models.push_back({model_kinds[kind], nanoseconds{std::llround(factor * alone[kind])}});
  }
  for (std::uint32_t t = 0; t < what.tenants; ++t) {
    all.tenants.push_back({.when_late = what.when_late});
    all.tenants.back().latency_target = all.models[t].target;
    if (what.tenants == 1) {
      for (const served_model& one : all.models) {
        all.tenants.back().latency_target = std::max(all.tenants.back().latency_target, one.target);
      }
    }
  }
  return all;
}

workload workload_of(const scene& what, const setup& how, double rate, std::size_t requests, std::uint64_t seed) {
  workload all = servers_of(what, how);
  // Of heavy tails, the first million mean gaps may hold fewer arrivals than their mean says.
  const std::vector<cohort_load::source> sources = sources_of(all);
  for (double factor = 1.2;; factor *= 2) {
    const nanoseconds duration{std::llround(factor * static_cast<double>(requests) / rate * 1e9)};
    all.arrivals = cohort_load::generate(what.law, rate, duration, sources, seed);
    if (all.arrivals.size() >= requests) break;
  }
  all.arrivals.resize(requests);
  return all;
}

double capacity_of(const scene& what, const setup& how) {
  scene patient = what;
  patient.target = 1e6;
  patient.law = {};
  workload backlog = workload_of(patient, how, 1e6, 8192, 7);
  for (auto& one : backlog.arrivals) one.at = nanoseconds{0};
  const outcome all = std::make_unique<simulation<cohort::immediate>>(backlog, how, cohort::immediate{})->run();
  double last = 0;
  for (const verdict& one : all.requests) last = std::max(last, one.latency);
  return static_cast<double>(all.requests.size()) / last * 1e9;
}

}  // namespace cohort_sim

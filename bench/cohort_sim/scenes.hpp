// The workloads of the contest, by what is varied: the law of arrivals, how many tenants there are, how soon they want
// their results, and whether what comes too late is dropped.
#pragma once

#include "simulation.hpp"
#include "workload.hpp"

#include <cohort/schedule/tenant_table.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cohort_sim {

struct scene {
  cohort_load::gaps law{};
  std::uint32_t tenants = 32;
  double target = 10;  ///< in times of the request alone; 0: tenants differ, from 2 to 100
  cohort::late_work when_late = cohort::late_work::run;
};

std::string target_name(double target);

/// From arrival to completion, of one request on an idle device without noise.
double time_alone(model_kind kind, const setup& how);

/// Tenants and models of a scene. Each tenant has a model of its own, of the three kinds in turn; a single tenant has
/// one of each.
workload servers_of(const scene& what, const setup& how);

/// With `requests` arrivals at `rate` per second in the mean. Equal seeds give equal gaps at any rate, but for their
/// scale.
workload workload_of(const scene& what, const setup& how, double rate, std::size_t requests, std::uint64_t seed);

/// Requests per second of a backlog of 8,192: with all the company there could be.
double capacity_of(const scene& what, const setup& how);

}  // namespace cohort_sim

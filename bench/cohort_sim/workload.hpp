// A workload: requests with their intended arrivals, whose they are, which model they ask for and how soon they are
// wanted. Known before a run begins, and the same for every policy.
#pragma once

#include "../load/arrivals.hpp"
#include "models.hpp"

#include <cohort/schedule/tenant_table.hpp>

#include <algorithm>
#include <chrono>
#include <vector>

namespace cohort_sim {

/// A model with weights of its own, and how soon a request for it is to be through all of its stages.
struct served_model {
  model_kind kind = model_kind::perceptron;
  std::chrono::nanoseconds target = std::chrono::milliseconds(10);
};

struct workload {
  /// By `arrival::tenant`. Their `latency_target` bounds that of the models.
  std::vector<cohort::tenant_options> tenants;
  std::vector<served_model> models;  ///< by `arrival::model`
  std::vector<cohort_load::arrival> arrivals;

  std::chrono::nanoseconds target_of(const cohort_load::arrival& one) const {
    return std::min(models[one.model].target, tenants[one.tenant].latency_target);
  }
};

}  // namespace cohort_sim

// The policies that compete, each with the settings that a user would try.
#pragma once

#include "outcome.hpp"
#include "simulation.hpp"
#include "workload.hpp"

#include <functional>
#include <string>
#include <vector>

namespace cohort_sim {

struct contender {
  std::string family;  ///< "late_binding", "fixed_window", ...
  std::string name;    ///< with its settings
  std::function<outcome(const workload&, const setup&)> run;
};

/// Ours first, with nothing set; then the others.
std::vector<contender> contenders();

}  // namespace cohort_sim

// Which arrivals a run of `slo` has, as its command line says: a law, or a recorded trace.
#pragma once

#include "../../load/arrivals.hpp"
#include "../../load/trace_file.hpp"
#include "../command.hpp"
#include "../report.hpp"
#include "contest.hpp"

#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace cohort_bench::slo {

/// The law of that name. \throws std::runtime_error, with the names that there are
inline cohort_load::gaps law_of(const std::string& name) {
  std::string names;
  for (const auto& [known, law] : cohort_load::measured_laws) {
    if (known == name) return law;
    names.append(" ").append(known);
  }
  throw std::runtime_error("no law of arrivals has the name " + name + "; there are:" + names);
}

/// \throws std::runtime_error for a file that cannot be opened, read as a trace, or is empty
inline std::vector<cohort_load::arrival> recorded_in(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot open " + path);
  std::vector<cohort_load::arrival> all = cohort_load::read_trace(file);
  if (all.empty()) throw std::runtime_error(path + " has no requests");
  return all;
}

/// Puts what was asked for into the plan, and says it in the report.
inline void choose_arrivals(const options& chosen, contest_plan& plan, report& to) {
  if (!chosen.law.empty()) plan.law = law_of(chosen.law);
  if (!chosen.replay.empty()) plan.recorded = recorded_in(chosen.replay);
  const std::string what =
      plan.recorded.empty() ? name_of(plan.law) : std::to_string(plan.recorded.size()) + " recorded requests";
  to.environment()["arrivals"] = what;
  to.note("open loop, " + what + ", latency from the intended arrival; attainment is over all that were offered");
}

}  // namespace cohort_bench::slo

// A picture of ours at work: a short piece of open-loop load, recorded op by op.
#pragma once

#include "../../load/arrivals.hpp"
#include "cohort_arm.hpp"
#include "open_loop.hpp"

#include <cohort/observe/chrome_trace.hpp>
#include <cohort/observe/trace.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace cohort_bench::slo {

/// Serves `rate` requests per second, at least 1000, of six tenants, two of each kind, for 50 ms, and writes the last
/// 1500 ops as a Chrome trace. On an executor of its own: observing costs time. Throws when the file cannot be written.
template <class T>
void record_trace(const fleet<T>& all, std::unique_ptr<cohort::backend> device, const target_times& targets,
                  double rate, bool polite, const std::string& path) {
  rate = std::max(rate, 1000.0);
  cohort::trace_recorder recorder(1500);
  {
    cohort_arm<T> ours("traced", all, std::move(device), {.observer = &recorder});
    ours.aim(targets);
    const auto end = std::chrono::milliseconds(50);
    trial one(cohort_load::generate({}, rate, end, cohort_load::sources_of(2 * kinds), 1), end / 2, end);
    ours.enter();
    one.run(ours, polite);
    ours.leave();
  }
  std::ofstream file(path);
  cohort::write_chrome_trace(file, recorder.snapshot());
  file.close();
  if (!file) throw std::runtime_error("the trace cannot be written to " + path);
  std::printf("# a trace of six tenants at %.0f requests/s is in %s\n", rate, path.c_str());
}

}  // namespace cohort_bench::slo

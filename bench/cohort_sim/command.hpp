// What may be said to cohort_sim, and its parts.
#pragma once

#include "../cohort_bench/report.hpp"
#include "scenes.hpp"
#include "simulation.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace cohort_sim {

struct arguments {
  std::string part;  ///< empty: all
  std::string trace;
  double target = 10;  ///< of a trace's requests
  bool quick = false;
  std::uint64_t seed = 1;
  std::size_t requests = 0;  ///< in each run; 0: as the part thinks right
  unsigned threads = 1;
};

/// Everyone against everyone, in every cell of law, tenants, load, target and what becomes of late work.
void run_cells(const arguments&, cohort_bench::report&);

/// The largest rate at which 99 % of all offered requests are in time.
void run_rates(const arguments&, cohort_bench::report&);

/// Equal tenants, and one that floods.
void run_fairness(const arguments&, cohort_bench::report&);

/// A recorded load.
void run_trace(const arguments&, cohort_bench::report&);

/// Calls `work(i)` for every i below `count`, from several threads. Each result has a place of its own, so that the
/// order does not matter.
inline void for_each_index(std::size_t count, unsigned threads, const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next{0};
  const auto run = [&] {
    // relaxed: it hands out numbers; the join orders the results
    for (std::size_t i = 0; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
  };
  std::vector<std::jthread> others;
  for (unsigned t = 1; t < threads; ++t) others.emplace_back(run);
  run();
}

/// Every request must end once.
inline void check(const outcome& one, const std::string& what, cohort_bench::report& to) {
  if (one.ended_twice > 0) to.wrong(what + ": a request ended twice");
  if (one.share(fate::waiting) > 0) to.wrong(what + ": a request never ended");
}

}  // namespace cohort_sim

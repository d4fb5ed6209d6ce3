// The contest of `slo`: which arm carries the largest rate of requests in time, and how it treats its tenants. The same
// code for every place; which arms there are is the place's affair.
#pragma once

#include "../../load/arrivals.hpp"
#include "../report.hpp"
#include "arm.hpp"
#include "open_loop.hpp"
#include "rate_search.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace cohort_bench::slo {

struct contest_plan {
  bool timed = true;    ///< false: a run for the sake of running; no targets are judged
  bool polite = false;  ///< arms need this thread's processor
  search_plan search{};
  cohort_load::gaps law{};                       ///< of the gaps between arrivals, everywhere but in the extras
  std::vector<cohort_load::arrival> recorded{};  ///< where there are any, these are replayed and nothing is searched
  int rounds = 3;                                ///< searches of each arm; the median counts
  double trial_seconds = 0.35;                   ///< of one load in a search, after its warm-up
  int pieces = 5;                ///< of an even load and of a flood, in turn; a stop of the host spoils few of them
  double steady_seconds = 3;     ///< of each of the two in all, longer where that is
  double fair_requests = 2'000;  ///< fewer than so many of each tenant of ours: few tell chance, not favour
  double most_seconds = 20;      ///< but no longer than this: a slow machine gives few in any time
  double times_alone = 10;       ///< a target is so many times the least time alone of any arm,
  double least_target_us = 500;  ///< but no shorter: five windows of a batcher
  bool extras = true;            ///< other targets, and the other laws of arrivals, if there is time
  double budget_seconds = 110;   ///< no extra begins after so long
};

class contest {
public:
  /// \param arms the first is ours; names must differ
  /// \param check the largest error of what an arm computes
  contest(report& to, std::vector<arm*> arms, std::uint32_t tenants, contest_plan plan,
          std::function<double(arm&)> check, double tolerance);

  /// One more way of ours, before `run`: its rate is searched once, beside the rest.
  void add_variant(arm& one) { variants_.push_back({.who = &one}); }

  /// All stages, one after the other. An arm that fails is out, and the others go on; what is known is written after
  /// each stage.
  void run();

  /// For whoever wants one more look at ours: a rate that it carries with ease, 0 without one, and the targets.
  double own_rate() const { return own_rate_; }
  const target_times& targets() const { return targets_; }

private:
  /// How tenants fared at one load: medians over its pieces.
  struct treatment {
    double spread = missing;     ///< slowest over fastest mean latency of equal tenants, the worst kind
    double by_chance = missing;  ///< what it would be if the same latencies had been dealt out to them at random
    double flooded = missing;    ///< p99 of the others under a flood over that before, the worst kind
    double hidden = missing;     ///< share of the wait for company that other work covered
  };
  struct contestant {
    arm* who = nullptr;
    std::string excuse{};
    std::vector<double> rates{};  ///< at 99 % attainment, one of each round
    treatment at_common{}, at_own{};

    double rate() const { return median(rates); }
  };

  template <class Body>
  void attempt(const char* stage, contestant& one, Body&& body);
  template <class Stage>
  void each(const char* stage, Stage&& body);
  trial load(arm& on, double rate, double seconds, const std::vector<cohort_load::source>& sources, std::uint64_t seed,
             const cohort_load::gaps& law) const;
  verdict show(const char* stage, const arm& on, double rate, const trial& one, const target_times& targets);
  void search(const char* stage, const std::vector<contestant*>& all, const target_times& targets,
              const cohort_load::gaps& law, std::uint64_t seed, const std::function<void(contestant&, double)>& found);
  std::vector<contestant*> everyone();

  void check();
  void time_alone();
  void replay();
  void search_rates();
  treatment treat(const char* stage, arm& on, double rate);
  void steady_loads();
  void search_variants();
  void other_targets();
  void judge_targets();
  double elapsed() const { return microseconds_since(begin_) * 1e-6; }

  report& to_;
  std::vector<contestant> all_, variants_;
  std::uint32_t tenants_;
  contest_plan plan_;
  std::function<double(arm&)> check_;
  double tolerance_;
  clock::time_point begin_ = clock::now();
  std::array<double, kinds> alone_us_{};
  target_times targets_{};
  double own_rate_ = 0;
  table_printer printer_;
};

}  // namespace cohort_bench::slo

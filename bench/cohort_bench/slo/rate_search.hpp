// The largest rate that attains, found trial by trial, so that several searches can take turns: a machine whose speed
// changes over seconds then changes for all of them.
#pragma once

#include <cmath>
#include <utility>

namespace cohort_bench::slo {

struct search_plan {
  double first_rate = 1000;
  int doublings = 10;  ///< how often the rate doubles, or halves, until one attains and one does not
  int bisections = 5;  ///< how many follow
  int trials = 3;      ///< a rate attains when one of so many does: a host that stops for some ms fails any arm
};

class rate_search {
public:
  explicit rate_search(const search_plan& plan) : plan_(plan), rate_(plan.first_rate) {}

  bool done() const { return steps_ == 0; }

  /// To be tried next, while not `done`.
  double rate() const { return rate_; }

  /// What came of a trial at `rate`.
  void tried(bool attained) {
    if (!attained && ++failures_ < plan_.trials) return;
    failures_ = 0;
    (attained ? good_ : bad_) = rate_;
    --steps_;
    const bool enclosed = good_ != 0 && bad_ != 0;
    if (enclosed && !std::exchange(enclosed_, true)) steps_ = plan_.bisections;
    rate_ = enclosed ? std::sqrt(good_ * bad_) : attained ? 2 * rate_ : rate_ / 2;
  }

  /// When `done`: to a factor of 2^(1/2^bisections); 0 when even the least that was tried does not attain. When a rate
  /// attains, all below it are taken to.
  double found() const { return good_; }

private:
  search_plan plan_;
  double rate_;
  double good_ = 0, bad_ = 0;
  bool enclosed_ = false;  // both are known
  int failures_ = 0;       // at this rate
  int steps_ = plan_.doublings;
};

}  // namespace cohort_bench::slo

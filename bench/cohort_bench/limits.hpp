// How long a thing is measured.
#pragma once

#include <chrono>

namespace cohort_bench {

using clock = std::chrono::steady_clock;

inline double microseconds(clock::duration time) { return std::chrono::duration<double, std::micro>(time).count(); }
inline double microseconds_since(clock::time_point begin) { return microseconds(clock::now() - begin); }

/// Samples of one arm in one round: `warm_up` that do not count, then until `most` are there or `budget_us` is spent,
/// but never fewer than `fewest`.
struct limits {
  int warm_up = 3;
  int fewest = 3;
  int most = 40;
  double budget_us = 6'000;
};

/// Whether one more sample is to be taken.
class sampling {
public:
  explicit sampling(const limits& l) : limits_(l) {}

  bool warming() const { return taken_ < limits_.warm_up; }
  bool more() const {
    const int counted = taken_ - limits_.warm_up;
    return counted < limits_.fewest || (counted < limits_.most && spent_us_ < limits_.budget_us);
  }
  void took(double us) {
    if (!warming()) spent_us_ += us;
    ++taken_;
  }

private:
  limits limits_;
  int taken_ = 0;
  double spent_us_ = 0;
};

}  // namespace cohort_bench

// Numbers about samples. Plain functions; a value that is not there is a NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace cohort_bench {

inline constexpr double missing = std::numeric_limits<double>::quiet_NaN();

/// Quantiles by rank, without interpolation.
class summary {
public:
  summary() = default;
  explicit summary(std::vector<double> samples) : sorted_(std::move(samples)) {
    std::sort(sorted_.begin(), sorted_.end());
  }

  double at(double share) const {
    if (sorted_.empty()) return missing;
    return sorted_[static_cast<std::size_t>(share * static_cast<double>(sorted_.size() - 1))];
  }
  double p50() const { return at(0.5); }
  double p99() const { return at(0.99); }
  double p999() const { return at(0.999); }
  std::size_t count() const { return sorted_.size(); }

private:
  std::vector<double> sorted_;
};

inline double median(std::vector<double> samples) { return summary(std::move(samples)).p50(); }

/// Of the values that are there; missing when none is.
inline double geometric_mean(std::span<const double> values) {
  double sum = 0;
  std::size_t count = 0;
  for (const double value : values) {
    if (std::isnan(value)) continue;
    sum += std::log(value);
    ++count;
  }
  return count == 0 ? missing : std::exp(sum / static_cast<double>(count));
}

/// The smaller of those that are there.
inline double least(double a, double b) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  return std::min(a, b);
}

inline double least(std::span<const double> values) {
  double result = missing;
  for (const double value : values) result = least(result, value);
  return result;
}

}  // namespace cohort_bench

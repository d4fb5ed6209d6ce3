// What the reductions of every tile context combine with. Contexts and ops may enter.
#pragma once

#include <cohort/config.hpp>

namespace cohort::inline COHORT_ABI::detail {

/// Neutral element of `larger`.
COHORT_HD
inline float minus_infinity() { return -__builtin_huge_valf(); }

struct add {
  COHORT_HD
  float operator()(float a, float b) const { return a + b; }
};

/// The larger one; NaN if any is NaN, so that a mistake upstream stays visible. One condition, without a branch: loops
/// over it vectorise.
struct larger {
  COHORT_HD
  float operator()(float a, float b) const { return ((a > b) | (a != a)) ? a : b; }
};

/// The smaller one; NaN if any is NaN.
struct smaller {
  COHORT_HD
  float operator()(float a, float b) const { return ((a < b) | (a != a)) ? a : b; }
};

}  // namespace cohort::inline COHORT_ABI::detail

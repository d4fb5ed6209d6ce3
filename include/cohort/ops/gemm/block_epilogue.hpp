// What remains of a GEMM tile when its sums are complete, in registers: parts that the block engines of this folder
// share.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/activation.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/types.hpp>

#include <cstdint>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// Bias of feature `feature`, 0 where there is none.
template <class T>
COHORT_HD
inline float bias_of(const layer_view<T>& layer, std::uint32_t feature) {
  return layer.bias != nullptr && feature < layer.n ? to_float(layer.bias[feature]) : 0.0f;
}

/// Applies an activation to all sums of a thread. The loop is not unrolled, so that the code of erf or tanh appears a
/// few times for each activation and not for each sum; the sums move past it, because registers have no index.
template <std::uint32_t Turns, std::uint32_t Each>
COHORT_HD
void activate(activation which, float (&sums)[Turns][Each]) {
  if (which == activation::none) return;
  with_activation(which, [&](auto function) {
    COHORT_GEMM_ROLLED
    for (std::uint32_t turn = 0; turn < Turns; ++turn) {
      float done[Each];
      COHORT_GEMM_UNROLLED
      for (std::uint32_t e = 0; e < Each; ++e) done[e] = function(sums[0][e]);
      COHORT_GEMM_UNROLLED
      for (std::uint32_t t = 0; t + 1 < Turns; ++t) {
        COHORT_GEMM_UNROLLED
        for (std::uint32_t e = 0; e < Each; ++e) sums[t][e] = sums[t + 1][e];
      }
      COHORT_GEMM_UNROLLED
      for (std::uint32_t e = 0; e < Each; ++e) sums[Turns - 1][e] = done[e];
    }
  });
}

/// Stores one element: its sum with bias and activation, plus the residual.
template <class T>
COHORT_HD
inline void store_element(const tile_row<T>& to, std::uint32_t feature, float sum) {
  if (to.residual != nullptr) sum = add(sum, to_float(to.residual[feature]));
  to.y[feature] = from_float<T>(sum);
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

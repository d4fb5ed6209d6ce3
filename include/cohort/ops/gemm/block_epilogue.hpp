// The last part of a GEMM tile that a team of threads computes: from fp32 sums in shared memory to rows in global
// memory. One form for all engines and element types. The block engines of this folder enter.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/activation.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/types.hpp>

#include <cstdint>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// Floats from one row of a tile of sums to the next. The four of padding put the lanes that write a tile, and those
/// that read it, into different banks.
template <std::uint32_t Columns>
inline constexpr std::uint32_t sum_pitch = Columns + 4;

/// Bias of feature `feature`, 0 where there is none.
template <class T>
COHORT_HD
inline float bias_of(const layer_view<T>& layer, std::uint32_t feature) {
  return layer.bias != nullptr && feature < layer.n ? to_float(layer.bias[feature]) : 0.0f;
}

/// y = act(sums) + residual for a tile of Rows x Columns at feature `first`; the sums have the bias in them. Begins
/// with a barrier. An element gets the same bits whether its row is stored in 16-byte pieces or not: alignment chooses
/// only how memory is read and written.
template <std::uint32_t Rows, std::uint32_t Columns, class Context, class T>
COHORT_HD
void store_tile(const Context& context, const layer_view<T>& layer, std::uint32_t first, float* sums,
                const tile_row<T>* rows) {
  constexpr std::uint32_t piece = 16 / sizeof(T);
  constexpr std::uint32_t pieces = Columns / piece;
  constexpr std::uint32_t pitch = sum_pitch<Columns>;
  const std::uint32_t rank = context.rank();
  context.sync();
  if (layer.act != activation::none) {
    // A pass of its own, not unrolled: the code of erf or tanh appears once for each activation.
    with_activation(layer.act, [&](auto function) {
      COHORT_GEMM_ROLLED
      for (std::uint32_t i = rank; i < Rows * Columns; i += block_threads) {
        const std::uint32_t row = i / Columns;
        if (rows[row].y == nullptr) break;
        float& sum = sums[row * pitch + i % Columns];
        sum = function(sum);
      }
    });
    context.sync();
  }
  COHORT_GEMM_ROLLED
  for (std::uint32_t i = rank; i < Rows * pieces; i += block_threads) {
    const std::uint32_t row = i / pieces;
    const std::uint32_t column = i % pieces * piece;
    const tile_row<T> to = rows[row];
    if (to.y == nullptr) break;  // rows without a member are the last ones
    const std::uint32_t feature = first + column;
    if (feature >= layer.n) continue;
    const std::uint32_t width = layer.n - feature < piece ? layer.n - feature : piece;

    alignas(16) T residual[piece] = {};
    if (to.residual != nullptr) {
      const T* const from = to.residual + feature;
      if (width == piece && aligned_16(from)) {
        copy_16(residual, from);
      } else {
        COHORT_GEMM_UNROLLED
        for (std::uint32_t j = 0; j < piece; ++j) {
          if (j < width) residual[j] = from[j];
        }
      }
    }
    alignas(16) T values[piece];
    COHORT_GEMM_UNROLLED
    for (std::uint32_t quad = 0; quad < piece; quad += 4) {
      float four[4];
      load_quad(sums + row * pitch + column + quad, four);
      COHORT_GEMM_UNROLLED
      for (std::uint32_t j = 0; j < 4; ++j) {
        if (to.residual != nullptr) four[j] = add(four[j], to_float(residual[quad + j]));
        values[quad + j] = from_float<T>(four[j]);
      }
    }
    T* const out = to.y + feature;
    if (width == piece && aligned_16(out)) {
      copy_16(out, values);
    } else {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t j = 0; j < piece; ++j) {
        if (j < width) out[j] = values[j];
      }
    }
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

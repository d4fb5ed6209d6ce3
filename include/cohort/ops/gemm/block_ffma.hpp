// The GEMM engine of a thread block without tensor cores: true fp32 multiply-adds, and the fallback for 16-bit types
// on devices whose tensor cores do not take them. ops/gemm/block.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/gemm/block_epilogue.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// Four k-values of one row, widened to fp32. `row` is null outside of the matrix.
template <class T>
COHORT_HD
inline void load_quarter(async_copies& copies, float* to, const T* row, std::uint32_t k, std::uint32_t depth) {
  if (row == nullptr || k >= depth) return zero_16(to);
  const std::uint32_t left = depth - k;
  if constexpr (std::is_same_v<T, float>) {
    if (aligned_16(row)) return copies.copy(to, row + k, (left < 4 ? left : 4) * sizeof(float));
  }
  (void)copies;
  COHORT_GEMM_ROLLED
  for (std::uint32_t j = 0; j < 4; ++j) to[j] = j < left ? to_float(row[k + j]) : 0.0f;
}

/// One tile of 8 RowsPerThread x 16 FeaturesPerThread. The 4 warps form 2 x 2; in a warp 8 lanes lie along the features
/// and 4 along the rows, so that a 16-byte load of a warp touches 8 (or 4) different pieces of shared memory, all in
/// different banks. Shared memory holds slices of `slice` k-values: the x rows of the tile, then its weight rows.
///
/// Every sum is one chain of multiply-adds in ascending k, whatever the tile's shape.
template <std::uint32_t RowsPerThread, std::uint32_t FeaturesPerThread, std::uint32_t Stages>
struct ffma_tile {
  static constexpr std::uint32_t rows = 8 * RowsPerThread;
  static constexpr std::uint32_t columns = 16 * FeaturesPerThread;
  static constexpr std::uint32_t slice = 32;
  static constexpr std::uint32_t pitch = slice + 4;  // in floats: neighbouring rows begin in different banks
  static constexpr std::uint32_t stage_floats = (rows + columns) * pitch;
  static constexpr std::uint32_t stage_bytes = stage_floats * sizeof(float);
  static constexpr std::uint32_t scratch_bytes = Stages * stage_bytes;
  static_assert(rows * sum_pitch<columns> * sizeof(float) <= scratch_bytes, "the sums take the place of the stages");

  template <class T>
  COHORT_HD
  static void load_stage(async_copies& copies, float* stage, const layer_view<T>& layer, const tile_row<T>* table,
                         std::uint32_t first, std::uint32_t k0, std::uint32_t thread) {
    constexpr std::uint32_t quarters = slice / 4;
    constexpr std::uint32_t step = block_threads / quarters;
    const std::uint32_t k = thread % quarters * 4;
    COHORT_GEMM_UNROLLED
    for (std::uint32_t begin = 0; begin < rows + columns; begin += step) {
      const std::uint32_t row = begin + thread / quarters;
      if (row >= rows + columns) break;
      const T* from = nullptr;
      if (row < rows) {
        from = table[row].x;
      } else if (first + (row - rows) < layer.n) {
        from = layer.w + static_cast<std::size_t>(first + (row - rows)) * layer.k;
      }
      load_quarter(copies, stage + row * pitch + k, from, k0 + k, layer.k);
    }
  }

  template <class Context, class T>
  COHORT_HD
  static void run(const Context& context, const layer_view<T>& layer, std::uint32_t first, const tile_row<T>* table,
                  std::byte* scratch) {
    const std::uint32_t thread = context.rank();
    const std::uint32_t lane = thread % 32;
    const std::uint32_t warp = thread / 32;
    const std::uint32_t my_row = warp / 2 * (rows / 2) + lane / 8;         // and every 4th after it
    const std::uint32_t my_feature = warp % 2 * (columns / 2) + lane % 8;  // and every 8th after it
    float* const stages = reinterpret_cast<float*>(scratch);
    const std::uint32_t slices = (layer.k + slice - 1) / slice;

    async_copies copies;
    for (std::uint32_t s = 0; s + 1 < Stages; ++s) {
      if (s < slices) load_stage(copies, stages + s * stage_floats, layer, table, first, s * slice, thread);
      copies.commit();
    }

    float sums[RowsPerThread][FeaturesPerThread] = {};
    std::uint32_t stage = 0;
    std::uint32_t free_stage = Stages - 1;
    COHORT_GEMM_ROLLED
    for (std::uint32_t s = 0; s < slices; ++s) {
      copies.template wait<Stages - 2>();
      // Shows slice s to all, and that all have finished slice s - 1, whose stage is filled next.
      context.sync();
      if (s + Stages - 1 < slices) {
        load_stage(copies, stages + free_stage * stage_floats, layer, table, first, (s + Stages - 1) * slice, thread);
      }
      copies.commit();
      const float* const x = stages + stage * stage_floats + my_row * pitch;
      const float* const w = stages + stage * stage_floats + (rows + my_feature) * pitch;
      COHORT_GEMM_ROLLED  // unrolled, the largest tile spills
          for (std::uint32_t k = 0; k < slice; k += 4) {
        float xs[RowsPerThread][4];
        float ws[FeaturesPerThread][4];
        COHORT_GEMM_UNROLLED
        for (std::uint32_t i = 0; i < RowsPerThread; ++i) load_quad(x + i * 4 * pitch + k, xs[i]);
        COHORT_GEMM_UNROLLED
        for (std::uint32_t j = 0; j < FeaturesPerThread; ++j) load_quad(w + j * 8 * pitch + k, ws[j]);
        COHORT_GEMM_UNROLLED
        for (std::uint32_t each = 0; each < 4; ++each) {
          COHORT_GEMM_UNROLLED
          for (std::uint32_t i = 0; i < RowsPerThread; ++i) {
            COHORT_GEMM_UNROLLED
            for (std::uint32_t j = 0; j < FeaturesPerThread; ++j) {
              sums[i][j] = multiply_add(xs[i][each], ws[j][each], sums[i][j]);
            }
          }
        }
      }
      stage = stage + 1 == Stages ? 0 : stage + 1;
      free_stage = free_stage + 1 == Stages ? 0 : free_stage + 1;
    }

    copies.template wait<0>();
    context.sync();  // the sums are about to overwrite the stages
    COHORT_GEMM_UNROLLED
    for (std::uint32_t j = 0; j < FeaturesPerThread; ++j) {
      const std::uint32_t feature = my_feature + 8 * j;
      const float bias = bias_of(layer, first + feature);
      COHORT_GEMM_UNROLLED
      for (std::uint32_t i = 0; i < RowsPerThread; ++i) {
        stages[(my_row + 4 * i) * sum_pitch<columns> + feature] = add(sums[i][j], bias);
      }
    }
    store_tile<rows, columns>(context, layer, first, stages, table);
  }
};

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

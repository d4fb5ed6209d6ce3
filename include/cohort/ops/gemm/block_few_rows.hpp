// The GEMM engine of a thread block for very few rows without tensor cores: what remains of a product when a request
// comes alone. ops/gemm/block.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/gemm/block_epilogue.hpp>
#include <cohort/ops/gemm/block_ffma.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// One tile of 4 rows x 32 features: a warp has a row and each of its lanes a feature, so that a weight is read from
/// shared memory once per row that exists; warps without a row only load. All threads bring slices of `Slice` k-values.
///
/// Every sum is one chain of multiply-adds in ascending k, as in `ffma_tile`: same bits.
template <std::uint32_t Slice, std::uint32_t Stages>
struct few_rows_tile {
  static constexpr std::uint32_t rows = block_threads / 32;
  static constexpr std::uint32_t columns = 32;
  static constexpr std::uint32_t pitch = Slice + 4;  // in floats: eight neighbouring rows cover all banks
  static constexpr std::uint32_t stage_floats = (rows + columns) * pitch;
  static constexpr std::uint32_t stage_bytes = stage_floats * sizeof(float);
  static constexpr std::uint32_t scratch_bytes = Stages * stage_bytes;
  static_assert(rows * sum_pitch<columns> * sizeof(float) <= scratch_bytes, "the sums take the place of the stages");

  template <class T>
  COHORT_HD
  static void load_stage(async_copies& copies, float* stage, const layer_view<T>& layer, const tile_row<T>* table,
                         std::uint32_t first, std::uint32_t k0, std::uint32_t thread) {
    constexpr std::uint32_t quarters = Slice / 4;
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
    const std::uint32_t my_row = thread / 32;
    const std::uint32_t my_feature = thread % 32;
    const bool working = table[my_row].y != nullptr;
    float* const stages = reinterpret_cast<float*>(scratch);
    const std::uint32_t slices = (layer.k + Slice - 1) / Slice;

    async_copies copies;
    for (std::uint32_t s = 0; s + 1 < Stages; ++s) {
      if (s < slices) load_stage(copies, stages + s * stage_floats, layer, table, first, s * Slice, thread);
      copies.commit();
    }

    float sum = 0;
    std::uint32_t stage = 0;
    std::uint32_t free_stage = Stages - 1;
    COHORT_GEMM_ROLLED
    for (std::uint32_t s = 0; s < slices; ++s) {
      copies.template wait<Stages - 2>();
      // Shows slice s to all, and that all have finished slice s - 1, whose stage is filled next.
      context.sync();
      if (s + Stages - 1 < slices) {
        load_stage(copies, stages + free_stage * stage_floats, layer, table, first, (s + Stages - 1) * Slice, thread);
      }
      copies.commit();
      if (working) {
        const float* const x = stages + stage * stage_floats + my_row * pitch;
        const float* const w = stages + stage * stage_floats + (rows + my_feature) * pitch;
        COHORT_GEMM_UNROLLED
        for (std::uint32_t k = 0; k < Slice; k += 4) {
          float xs[4];
          float ws[4];
          load_quad(x + k, xs);
          load_quad(w + k, ws);
          COHORT_GEMM_UNROLLED
          for (std::uint32_t each = 0; each < 4; ++each) sum = multiply_add(xs[each], ws[each], sum);
        }
      }
      stage = stage + 1 == Stages ? 0 : stage + 1;
      free_stage = free_stage + 1 == Stages ? 0 : free_stage + 1;
    }

    copies.template wait<0>();
    context.sync();  // the sums are about to overwrite the stages
    stages[my_row * sum_pitch<columns> + my_feature] = add(sum, bias_of(layer, first + my_feature));
    store_tile<rows, columns>(context, layer, first, stages, table);
  }
};

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

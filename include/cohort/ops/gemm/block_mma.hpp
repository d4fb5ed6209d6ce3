// The GEMM engine of a thread block for bf16 and fp16 on tensor cores: mma.m16n8k16 with fp32 sums. The weights are the
// 16-row operand and the rows of x the 8-column one, so that few rows waste little. ops/gemm/block.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/gemm/block_epilogue.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

#if COHORT_GEMM_HAS_MMA

/// One tile of Rows (of x) x Columns (features). The 4 warps form 2 x 2; a warp computes Columns/2 features times
/// Rows/2 rows in fragments of 16 x 8. Shared memory holds `Stages` slices of `Slice` k-values: the x rows of the tile,
/// then its weight rows.
///
/// Every sum is one chain of mma in ascending k, of ceil(K / 16) links, whatever the tile's shape or slice.
template <std::uint32_t Rows, std::uint32_t Columns, std::uint32_t Slice, std::uint32_t Stages>
struct mma_tile {
  static constexpr std::uint32_t rows = Rows;
  static constexpr std::uint32_t columns = Columns;
  static constexpr std::uint32_t row_bytes = Slice * 2;
  static constexpr std::uint32_t pieces = row_bytes / 16;  // 16-byte pieces of a row: what copies and ldmatrix move
  static constexpr std::uint32_t stage_bytes = (Rows + Columns) * row_bytes;
  static constexpr std::uint32_t scratch_bytes = Stages * stage_bytes;
  static constexpr int feature_fragments = Columns / 32;
  static constexpr int row_fragments = Rows / 16;
  static_assert(Rows % 16 == 0 && Columns % 32 == 0 && (Slice == 32 || Slice == 64));
  static_assert(row_fragments == 1 || row_fragments % 2 == 0);
  static_assert(rows * sum_pitch<columns> * sizeof(float) <= scratch_bytes, "the sums take the place of the stages");

  /// Where piece `piece` of row `row` lies. The pieces of a row are permuted so that one piece of 8 successive rows,
  /// which is what ldmatrix reads at a time, covers all 32 banks: with 128-byte rows by the row, with 64-byte rows,
  /// two of which share 128 bytes, by the pair of rows.
  COHORT_HD
  static constexpr std::uint32_t place(std::uint32_t row, std::uint32_t piece) {
    const std::uint32_t twist = pieces == 8 ? row % 8 : row / 2 % 4;
    return row * row_bytes + (piece ^ twist) * 16;
  }

  /// Eight k-values of one row. `row` is null outside of the matrix.
  template <class T>
  COHORT_HD
  static void load_piece(async_copies& copies, std::byte* to, const T* row, std::uint32_t k, std::uint32_t depth) {
    if (row == nullptr || k >= depth) return zero_16(to);
    const std::uint32_t left = depth - k;
    if (aligned_16(row)) return copies.copy(to, row + k, (left < 8 ? left : 8) * 2);
    auto* const elements = reinterpret_cast<T*>(to);
    COHORT_GEMM_ROLLED
    for (std::uint32_t j = 0; j < 8; ++j) elements[j] = j < left ? row[k + j] : T{};
  }

  template <class T>
  COHORT_HD
  static void load_stage(async_copies& copies, std::byte* stage, const layer_view<T>& layer, const tile_row<T>* table,
                         std::uint32_t first, std::uint32_t k0, std::uint32_t thread) {
    constexpr std::uint32_t step = block_threads / pieces;
    const std::uint32_t piece = thread % pieces;
    const std::uint32_t k = k0 + piece * 8;
    COHORT_GEMM_UNROLLED
    for (std::uint32_t begin = 0; begin < Rows + Columns; begin += step) {
      const std::uint32_t row = begin + thread / pieces;
      if (row >= Rows + Columns) break;
      const T* from = nullptr;
      if (row < Rows) {
        from = table[row].x;
      } else if (first + (row - Rows) < layer.n) {
        from = layer.w + static_cast<std::size_t>(first + (row - Rows)) * layer.k;
      }
      load_piece(copies, stage + place(row, piece), from, k, layer.k);
    }
  }

  template <class Context, class T>
  COHORT_HD
  static void run(const Context& context, const layer_view<T>& layer, std::uint32_t first, const tile_row<T>* table,
                  std::byte* scratch) {
    constexpr int row_loads = (row_fragments + 1) / 2;
    const auto group = context.group();
    const std::uint32_t thread = context.rank();
    const std::uint32_t lane = group.rank();
    const std::uint32_t warp = context.group_index();
    const std::uint32_t warp_feature = warp % 2 * (Columns / 2);
    const std::uint32_t warp_row = warp / 2 * (Rows / 2);
    // The four 8x8 matrices of a load, in the order of the fragment's registers. Weights: features 0-7 and 8-15 of the
    // first 8 k-values, then of the second. Rows of x: both k-halves of rows 0-7, then of rows 8-15 (the next
    // fragment).
    const std::uint32_t w_row = Rows + warp_feature + lane % 16;
    const std::uint32_t w_piece = lane / 16;
    const std::uint32_t x_row = warp_row + lane % 8 + (row_fragments == 1 ? 0 : lane / 16 * 8);
    const std::uint32_t x_piece = lane / 8 % 2;
    const std::uint32_t slices = (layer.k + Slice - 1) / Slice;

    async_copies copies;
    for (std::uint32_t s = 0; s + 1 < Stages; ++s) {
      if (s < slices) load_stage(copies, scratch + s * stage_bytes, layer, table, first, s * Slice, thread);
      copies.commit();
    }

    float sums[feature_fragments][row_fragments][4] = {};
    std::uint32_t stage = 0;
    std::uint32_t free_stage = Stages - 1;
    COHORT_GEMM_ROLLED
    for (std::uint32_t s = 0; s < slices; ++s) {
      copies.template wait<Stages - 2>();
      // Shows slice s to all, and that all have finished slice s - 1, whose stage is filled next.
      context.sync();
      if (s + Stages - 1 < slices) {
        load_stage(copies, scratch + free_stage * stage_bytes, layer, table, first, (s + Stages - 1) * Slice, thread);
      }
      copies.commit();
      const std::byte* const base = scratch + stage * stage_bytes;
      const std::uint32_t left = layer.k - s * Slice;
      COHORT_GEMM_UNROLLED
      for (std::uint32_t k = 0; k < Slice; k += 16) {
        if (k >= left) break;  // the same number of links for every slice length
        const std::byte* from[feature_fragments + row_loads];
        COHORT_GEMM_UNROLLED
        for (std::uint32_t i = 0; i < feature_fragments; ++i) from[i] = base + place(w_row + i * 16, k / 8 + w_piece);
        COHORT_GEMM_UNROLLED
        for (std::uint32_t i = 0; i < row_loads; ++i) {
          from[feature_fragments + i] = base + place(x_row + i * 16, k / 8 + x_piece);
        }
        std::uint32_t loaded[feature_fragments + row_loads][4];
        load_matrices(group, from, loaded);
        std::uint32_t a[feature_fragments][4];
        std::uint32_t b[row_fragments][2];
        COHORT_GEMM_UNROLLED
        for (std::uint32_t i = 0; i < feature_fragments; ++i) {
          COHORT_GEMM_UNROLLED
          for (std::uint32_t m = 0; m < 4; ++m) a[i][m] = loaded[i][m];
        }
        COHORT_GEMM_UNROLLED
        for (std::uint32_t i = 0; i < row_fragments; ++i) {
          b[i][0] = loaded[feature_fragments + i / 2][i % 2 * 2];
          b[i][1] = loaded[feature_fragments + i / 2][i % 2 * 2 + 1];
        }
        multiply_fragments<T>(group, a, b, sums);
      }
      stage = stage + 1 == Stages ? 0 : stage + 1;
      free_stage = free_stage + 1 == Stages ? 0 : free_stage + 1;
    }

    copies.template wait<0>();
    context.sync();  // the sums are about to overwrite the stages
    float* const tile = reinterpret_cast<float*>(scratch);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < feature_fragments; ++i) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t half = 0; half < 2; ++half) {
        const std::uint32_t feature = warp_feature + i * 16 + half * 8 + lane / 4;
        const float bias = bias_of(layer, first + feature);
        COHORT_GEMM_UNROLLED
        for (std::uint32_t j = 0; j < row_fragments; ++j) {
          const std::uint32_t row = warp_row + j * 8 + lane % 4 * 2;
          tile[row * sum_pitch<Columns> + feature] = add(sums[i][j][half * 2], bias);
          tile[(row + 1) * sum_pitch<Columns> + feature] = add(sums[i][j][half * 2 + 1], bias);
        }
      }
    }
    store_tile<Rows, Columns>(context, layer, first, tile, table);
  }
};

#endif  // COHORT_GEMM_HAS_MMA

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

// The GEMM engine of a thread block for bf16 and fp16 on tensor cores, with fp32 sums. The weights are the operand with
// 64 rows and the rows of x the other one, so that few rows waste little. ops/gemm/block.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/gemm/block_epilogue.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/ops/gemm/warpgroup.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

#if COHORT_GEMM_HAS_MMA

/// One slice of 16 features at `w` times 8 Fragments rows at `x`, by a warp. Layout: `slice` and `place`, as in an
/// engine.
template <class T, class Layout, std::uint32_t Fragments, class Group>
COHORT_HD
void multiply_slice(const Group& group, const std::byte* w, const std::byte* x, float (&sum)[Fragments][4]) {
  static_assert(Fragments % 2 == 0);
  const std::uint32_t lane = group.rank();
  // The four 8x8 matrices of a load, in the order of the fragment's registers. Weights: rows 0-7 and 8-15 of the first
  // 8 k-values, then of the second. Rows of x: both k-halves of rows 0-7, then of rows 8-15.
  const std::uint32_t x_row = lane % 8 + lane / 16 * 8;
  COHORT_GEMM_UNROLLED
  for (std::uint32_t k = 0; k < Layout::slice; k += 16) {
    const std::byte* from[1 + Fragments / 2];
    from[0] = w + Layout::place(lane % 16, k / 8 + lane / 16);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < Fragments / 2; ++i) {
      from[1 + i] = x + Layout::place(x_row + i * 16, k / 8 + lane / 8 % 2);
    }
    std::uint32_t loaded[1 + Fragments / 2][4];
    load_matrices(group, from, loaded);
    std::uint32_t a[1][4];
    std::uint32_t b[Fragments][2];
    COHORT_GEMM_UNROLLED
    for (std::uint32_t m = 0; m < 4; ++m) a[0][m] = loaded[0][m];
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < Fragments; ++i) {
      b[i][0] = loaded[1 + i / 2][i % 2 * 2];
      b[i][1] = loaded[1 + i / 2][i % 2 * 2 + 1];
    }
    multiply_fragments<T>(group, a, b, reinterpret_cast<float(&)[1][Fragments][4]>(sum));
  }
}

/// Weight rows are permuted within 16, so that a lane ends with four neighbouring features: see `store_fragments`.
COHORT_HD
constexpr std::uint32_t feature_of_row(std::uint32_t row) { return row % 8 / 2 * 4 + row / 8 * 2 + row % 2; }

/// Adds what a residual has for the sums of this lane: read as they are stored, and transposed back.
template <class Group, class T, std::uint32_t Fragments>
COHORT_HD
void add_residuals(const Group& group, std::uint32_t feature, std::uint32_t width, const tile_row<T>* table,
                   float (&sum)[Fragments][4]) {
  const std::uint32_t lane = group.rank();
  COHORT_GEMM_UNROLLED
  for (std::uint32_t j = 0; j < Fragments; ++j) {
    const T* const from = table[j * 8 + lane / 4].residual;
    std::uint32_t pairs[2] = {};
    if (from != nullptr) {
      if (width == 4 && aligned_8(from)) {
        load_8(from + feature, pairs);
      } else {
        T values[4] = {};
        copy_few(values, from + feature, width);
        load_pairs(values, pairs);
      }
    }
    COHORT_GEMM_UNROLLED
    for (std::uint32_t half = 0; half < 2; ++half) {
      const std::uint32_t pair = transpose_pairs(group, pairs[half]);
      sum[j][half * 2] = add(sum[j][half * 2], half_of<T>(pair, false));
      sum[j][half * 2 + 1] = add(sum[j][half * 2 + 1], half_of<T>(pair, true));
    }
  }
}

/// y = act(sums + bias) + residual for a warp's 16 features from `first` on and the 8 Fragments rows at `table`,
/// straight from registers. A lane has sums of two features for pairs of rows; transposed, it has four neighbouring
/// features of one row.
template <class Group, class T, std::uint32_t Fragments>
COHORT_HD
void store_fragments(const Group& group, const layer_view<T>& layer, std::uint32_t first, const tile_row<T>* table,
                     float (&sum)[Fragments][4]) {
  const std::uint32_t lane = group.rank();
  const float bias[2] = {bias_of(layer, first + feature_of_row(lane / 4)),
                         bias_of(layer, first + feature_of_row(lane / 4 + 8))};
  COHORT_GEMM_UNROLLED
  for (std::uint32_t j = 0; j < Fragments; ++j) {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t e = 0; e < 4; ++e) sum[j][e] = add(sum[j][e], bias[e / 2]);
  }
  activate(layer.act, sum);
  const std::uint32_t feature = first + lane % 4 * 4;
  const std::uint32_t width = feature < layer.n ? (layer.n - feature < 4 ? layer.n - feature : 4) : 0;
  if (table[0].residual != nullptr) add_residuals(group, feature, width, table, sum);  // all rows have one, or none
  // Everything of one kind before the next: what these instructions take overlaps then.
  std::uint32_t pairs[Fragments][2];
  T* to[Fragments];
  bool whole = width == 4;
  COHORT_GEMM_UNROLLED
  for (std::uint32_t j = 0; j < Fragments; ++j) {
    to[j] = table[j * 8 + lane / 4].y;
    whole = whole && aligned_8(to[j]);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t half = 0; half < 2; ++half) {
      pairs[j][half] = transpose_pairs(group, pack_pair<T>(sum[j][half * 2], sum[j][half * 2 + 1]));
    }
  }
  if (whole) {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t j = 0; j < Fragments; ++j) {
      if (to[j] != nullptr) store_8(to[j] + feature, pairs[j]);
    }
  } else {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t j = 0; j < Fragments; ++j) {
      if (to[j] == nullptr) continue;
      T values[4];
      store_pairs(pairs[j], values);
      copy_few(to[j] + feature, values, width);
    }
  }
}

/// Tiles of Rows (of x) x 64 (features) in slices of 64 k-values: rows of 128 bytes, those of the weights first. A warp
/// computes 16 features times all rows.
///
/// Every segment's sum is one chain of steps of 16 k-values in ascending order, zeros behind the end of K, whatever the
/// tile's shape.
template <std::uint32_t Rows, std::uint32_t Stages, arithmetic Units>
struct tensor_tile {
  static constexpr std::uint32_t rows = Rows;
  static constexpr std::uint32_t columns = 64;
  static constexpr std::uint32_t slice = 64;
  static constexpr std::uint32_t stages = Stages;
  static constexpr std::uint32_t row_bytes = slice * 2;
  static constexpr std::uint32_t w_offset = 0;
  static constexpr std::uint32_t x_offset = columns * row_bytes;
  static constexpr std::uint32_t stage_bytes = (columns + Rows) * row_bytes;
  static constexpr std::uint32_t fragments = Rows / 8;
  static_assert(Rows % 16 == 0 && x_offset % 1024 == 0 && stage_bytes % 1024 == 0, "swizzled_place repeats after 1024");
  template <class T>
  using element = T;
  using sums = float[fragments][4];

  COHORT_HD
  static constexpr std::uint32_t place(std::uint32_t row, std::uint32_t piece) { return swizzled_place(row, piece); }

  COHORT_HD
  static constexpr std::uint32_t feature_of(std::uint32_t row) { return feature_of_row(row); }

  COHORT_HD
  static void arrived() {
    if constexpr (Units == arithmetic::wgmma) show_to_tensor_cores();
  }

  template <class T, class Context>
  COHORT_HD
  static void begin(const Context& context, const std::byte* stage, sums& sum) {
    if constexpr (Units == arithmetic::wgmma) begin_slice<T>(context, stage + w_offset, stage + x_offset, sum);
  }

  template <class T, bool Cut, class Context>
  COHORT_HD
  static void end(const Context& context, const std::byte* stage, const tile_row<T>*, sums& sum) {
    if constexpr (Units == arithmetic::wgmma) {
      end_slice(sum);
    } else {
      const std::uint32_t w = w_offset + context.group_index() * 16 * row_bytes;
      multiply_slice<T, tensor_tile>(context.group(), stage + w, stage + x_offset, sum);
    }
  }

  /// y of the 16 features of this warp.
  template <class Context, class T>
  COHORT_HD
  static void store(const Context& context, const layer_view<T>& layer, std::uint32_t tile_feature,
                    const tile_row<T>* table, sums& sum) {
    store_fragments(context.group(), layer, tile_feature + context.group_index() * 16, table, sum);
  }
};

#endif  // COHORT_GEMM_HAS_MMA

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

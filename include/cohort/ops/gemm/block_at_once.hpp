// GEMM tiles of few rows and few features whose K is short: all that a tile reads is on its way at once, so that it
// waits for memory once. For products that come alone, where a pipeline of few slices waits again and again.
// ops/gemm/block.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/gemm/block_tensor.hpp>
#include <cohort/ops/gemm/pipeline.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/ops/gemm/warpgroup.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// k-values that such a tile has room for.
inline constexpr std::uint32_t at_once_depth = 512;

#if COHORT_GEMM_HAS_MMA

/// Tensor cores for 16 rows x 32 features and all of K, in slices of 64 k-values that arrive one after the other. A
/// warp computes 8 rows times 16 features, with the steps of `tensor_tile`: same bits.
struct tensor_at_once {
  static constexpr std::uint32_t rows = 16;
  static constexpr std::uint32_t columns = 32;
  static constexpr std::uint32_t slice = 64;
  static constexpr std::uint32_t stages = at_once_depth / slice;
  static constexpr std::uint32_t row_bytes = slice * 2;
  static constexpr std::uint32_t w_offset = 0;
  static constexpr std::uint32_t x_offset = columns * row_bytes;
  static constexpr std::uint32_t stage_bytes = (columns + rows) * row_bytes;
  template <class T>
  using element = T;
  using sums = float[1][4];

  COHORT_HD
  static constexpr std::uint32_t place(std::uint32_t row, std::uint32_t piece) { return swizzled_place(row, piece); }
  COHORT_HD
  static constexpr std::uint32_t feature_of(std::uint32_t row) { return feature_of_row(row); }

  /// Of the warp: its first feature and its first row.
  COHORT_HD
  static constexpr std::uint32_t first_feature(std::uint32_t warp) { return warp % 2 * 16; }
  COHORT_HD
  static constexpr std::uint32_t first_row(std::uint32_t warp) { return warp / 2 * 8; }

  template <class T, class Context>
  COHORT_HD
  static void multiply(const Context& context, const std::byte* stage, sums& sum) {
    const auto group = context.group();
    const std::uint32_t lane = group.rank();
    const std::byte* const w = stage + w_offset + first_feature(context.group_index()) * row_bytes;
    const std::byte* const x = stage + x_offset + first_row(context.group_index()) * row_bytes;
    COHORT_GEMM_UNROLLED
    for (std::uint32_t k = 0; k < slice; k += 32) {
      // Two steps: their weights as in `multiply_slice`, and the four k-quarters of the rows of x.
      const std::uint32_t piece = k / 8 + lane / 16;
      const std::byte* const from[3] = {w + place(lane % 16, piece), w + place(lane % 16, piece + 2),
                                        x + place(lane % 8, k / 8 + lane / 8)};
      std::uint32_t loaded[3][4];
      load_matrices(group, from, loaded);
      COHORT_GEMM_UNROLLED
      for (std::uint32_t step = 0; step < 2; ++step) {
        std::uint32_t a[1][4];
        COHORT_GEMM_UNROLLED
        for (std::uint32_t m = 0; m < 4; ++m) a[0][m] = loaded[step][m];
        const std::uint32_t b[1][2] = {{loaded[2][step * 2], loaded[2][step * 2 + 1]}};
        multiply_fragments<T>(group, a, b, reinterpret_cast<float(&)[1][1][4]>(sum));
      }
    }
  }

  template <class Context, class T>
  COHORT_HD
  static void store(const Context& context, const layer_view<T>& layer, std::uint32_t tile_feature,
                    const tile_row<T>* table, sums& sum) {
    const std::uint32_t warp = context.group_index();
    store_fragments(context.group(), layer, tile_feature + first_feature(warp), table + first_row(warp), sum);
  }
};

/// Shared memory of the engine: the slices, the rows of a tile, and what `find_rows` needs.
template <class T>
inline constexpr std::uint32_t at_once_bytes =
    tensor_at_once::stages * tensor_at_once::stage_bytes + tensor_at_once::rows * (sizeof(tile_row<T>) + 4);

/// Runs tiles one after the other, of products whose K is not cut and at most `at_once_depth`. Begins without a
/// barrier.
template <class Op, class Context>
COHORT_HD
void run_at_once(const Context& context, const tile_work* works, std::uint32_t count) {
  using T = typename Op::value_type;
  using engine = tensor_at_once;
  std::byte* const scratch = context.scratch();
  auto* const table = reinterpret_cast<tile_row<T>*>(scratch + engine::stages * engine::stage_bytes);
  auto* const owner = reinterpret_cast<std::uint32_t*>(table + engine::rows);

  COHORT_GEMM_ROLLED
  for (std::uint32_t tile = 0; tile < count; ++tile) {
    if (tile != 0) context.sync();
    const Op lead = *static_cast<const Op*>(works[tile].members);  // all of it in one wait
    const auto place = place_of<Op, engine::rows, engine::columns>(works[tile], lead);
    const layer_view<T> layer = layer_of(lead);
    find_rows<engine::rows>(context, place, lead, table, owner);
    context.sync();
    feeder<engine, T> feed;
    feed.open(layer, place.feature, 0, table, context.rank());
    const std::uint32_t slices = (layer.k + engine::slice - 1) / engine::slice;
    async_copies copies;
    COHORT_GEMM_ROLLED
    for (std::uint32_t s = 0; s < engine::stages; ++s) {
      if (s < slices) feed.load(copies, scratch + s * engine::stage_bytes);
      copies.commit();
    }
    engine::sums sums = {};
    COHORT_GEMM_ROLLED
    for (std::uint32_t s = 0; s < slices; ++s) {
      copies.template wait<engine::stages - 1>();
      copies.commit();
      context.sync();  // shows slice s to all
      engine::template multiply<T>(context, scratch + s * engine::stage_bytes, sums);
    }
    engine::store(context, layer, place.feature, table, sums);
  }
}

#endif  // COHORT_GEMM_HAS_MMA

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

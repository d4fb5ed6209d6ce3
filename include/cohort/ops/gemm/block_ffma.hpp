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

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// Tiles of 8 RowsPerThread x 16 FeaturesPerThread. The 4 warps form 2 x 2; in a warp 8 lanes lie along the features
/// and 4 along the rows, so that a 16-byte load of a warp touches 8 (or 4) different pieces of shared memory, all in
/// different banks, and a store of a warp fills whole sectors of 32 bytes. Neighbours differ in their feature first,
/// then in their row: such a load takes shared memory two cycles, but four where each of four neighbours reads another
/// piece (as measured on an H100).
///
/// Every segment's sum is one chain of multiply-adds in ascending k, whatever the tile's shape.
template <std::uint32_t RowsPerThread, std::uint32_t FeaturesPerThread, std::uint32_t Slice, std::uint32_t Stages>
struct ffma_tile {
  static constexpr std::uint32_t rows = 8 * RowsPerThread;
  static constexpr std::uint32_t columns = 16 * FeaturesPerThread;
  static constexpr std::uint32_t slice = Slice;
  static constexpr std::uint32_t stages = Stages;
  static constexpr std::uint32_t pitch = slice + 4;  // in floats: neighbouring rows begin in different banks
  static constexpr std::uint32_t row_bytes = pitch * sizeof(float);
  static constexpr std::uint32_t x_offset = 0;
  static constexpr std::uint32_t w_offset = rows * row_bytes;
  static constexpr std::uint32_t stage_bytes = (rows + columns) * row_bytes;
  template <class T>
  using element = float;
  using sums = float[RowsPerThread][FeaturesPerThread];

  COHORT_HD
  static constexpr std::uint32_t place(std::uint32_t row, std::uint32_t piece) { return row * row_bytes + piece * 16; }
  COHORT_HD
  static constexpr std::uint32_t feature_of(std::uint32_t row) { return row; }

  /// This thread's first row and every 4th after it; its first feature and every 8th after it.
  template <class Context>
  COHORT_HD
  static std::uint32_t row_of(const Context& context) {
    return context.rank() / 64 * (rows / 2) + context.rank() / 2 % 4;
  }
  template <class Context>
  COHORT_HD
  static std::uint32_t feature_of(const Context& context) {
    const std::uint32_t lane = context.rank() % 32;
    return context.rank() / 32 % 2 * (columns / 2) + lane % 2 + lane / 8 * 2;
  }

  /// Four k-values each of rows that lie Apart rows apart.
  template <std::uint32_t Apart, std::uint32_t Count>
  COHORT_HD
  static void read(const float* from, float (&to)[Count][4]) {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < Count; ++i) load_quad(from + i * Apart * pitch, to[i]);
  }

  /// Adds four k-values of some rows, from this thread's row `first` on.
  template <std::uint32_t Count>
  COHORT_HD
  static void multiply(const float (&xs)[Count][4], const float (&ws)[FeaturesPerThread][4], sums& sum,
                       std::uint32_t first) {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t each = 0; each < 4; ++each) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t i = 0; i < Count; ++i) {
        COHORT_GEMM_UNROLLED
        for (std::uint32_t j = 0; j < FeaturesPerThread; ++j) {
          sum[first + i][j] = multiply_add(xs[i][each], ws[j][each], sum[first + i][j]);
        }
      }
    }
  }

  COHORT_HD
  static void arrived() {}
  template <class T, class Context>
  COHORT_HD
  static void begin(const Context&, const std::byte*, sums&) {}

  template <class T, bool Cut, class Context>
  COHORT_HD
  static void end(const Context& context, const std::byte* stage, const tile_row<T>*, sums& sum) {
    // Reads overlap as far as registers reach. Two sums for each output of the largest tile leave little of them.
    constexpr bool has_few = Cut && RowsPerThread * FeaturesPerThread > 16;
    constexpr std::uint32_t rows_at_once = has_few ? 2 : RowsPerThread;
    [[maybe_unused]] constexpr std::uint32_t unrolled = has_few ? 1 : RowsPerThread * FeaturesPerThread <= 8 ? 8 : 2;
    const auto* x = reinterpret_cast<const float*>(stage + x_offset) + row_of(context) * pitch;
    const auto* w = reinterpret_cast<const float*>(stage + w_offset) + feature_of(context) * pitch;
    COHORT_GEMM_UNROLLED_BY(unrolled)
    for (std::uint32_t k = 0; k < slice; k += 4) {
      float xs[rows_at_once][4];
      float ws[FeaturesPerThread][4];
      read<4>(x, xs);
      read<8>(w, ws);
      multiply(xs, ws, sum, 0);
      COHORT_GEMM_UNROLLED
      for (std::uint32_t row = rows_at_once; row < RowsPerThread; row += rows_at_once) {
        // Not before what is above: there are no registers for it.
        compiler_barrier();
        read<4>(x + row * 4 * pitch, xs);
        multiply(xs, ws, sum, row);
      }
      x += 4;
      w += 4;
    }
  }

  template <class Context, class T>
  COHORT_HD
  static void store(const Context& context, const layer_view<T>& layer, std::uint32_t first, const tile_row<T>* table,
                    sums& sum) {
    const std::uint32_t feature = first + feature_of(context);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t j = 0; j < FeaturesPerThread; ++j) {
      const float bias = bias_of(layer, feature + 8 * j);
      COHORT_GEMM_UNROLLED
      for (std::uint32_t i = 0; i < RowsPerThread; ++i) sum[i][j] = add(sum[i][j], bias);
    }
    activate(layer.act, sum);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < RowsPerThread; ++i) {
      const tile_row<T> to = table[row_of(context) + 4 * i];
      if (to.y == nullptr) break;  // rows without a member are the last ones
      COHORT_GEMM_UNROLLED
      for (std::uint32_t j = 0; j < FeaturesPerThread; ++j) {
        if (feature + 8 * j < layer.n) store_element(to, feature + 8 * j, sum[i][j]);
      }
    }
  }
};

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

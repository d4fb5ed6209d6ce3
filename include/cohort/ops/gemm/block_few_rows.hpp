// The GEMM engine of a thread block for very few rows without tensor cores: what remains of a product when a request
// comes alone. ops/gemm/block.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/gemm/block_epilogue.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// Tiles of 4 rows x 32 features: a warp has a row and each of its lanes a feature, so that a weight is read from
/// shared memory once per row that exists; warps without a row only load.
///
/// Every segment's sum is one chain of multiply-adds in ascending k, as in `ffma_tile`: same bits.
template <std::uint32_t Slice, std::uint32_t Stages>
struct few_rows_tile {
  static constexpr std::uint32_t rows = block_threads / 32;
  static constexpr std::uint32_t columns = 32;
  static constexpr std::uint32_t slice = Slice;
  static constexpr std::uint32_t stages = Stages;
  static constexpr std::uint32_t pitch = Slice + 4;  // in floats: eight neighbouring rows cover all banks
  static constexpr std::uint32_t row_bytes = pitch * sizeof(float);
  static constexpr std::uint32_t x_offset = 0;
  static constexpr std::uint32_t w_offset = rows * row_bytes;
  static constexpr std::uint32_t stage_bytes = (rows + columns) * row_bytes;
  template <class T>
  using element = float;
  using sums = float[1][1];
  static constexpr bool total_in_registers = true;

  COHORT_HD
  static constexpr std::uint32_t place(std::uint32_t row, std::uint32_t piece) { return row * row_bytes + piece * 16; }
  COHORT_HD
  static constexpr std::uint32_t feature_of(std::uint32_t row) { return row; }

  COHORT_HD
  static void arrived() {}
  template <class T, class Context>
  COHORT_HD
  static void begin(const Context&, const std::byte*, sums&) {}

  template <class T, class Context>
  COHORT_HD
  static void end(const Context& context, const std::byte* stage, const tile_row<T>* table, sums& sum) {
    const std::uint32_t row = context.rank() / 32;
    if (table[row].y == nullptr) return;
    const auto* const x = reinterpret_cast<const float*>(stage + x_offset + row * row_bytes);
    const auto* const w = reinterpret_cast<const float*>(stage + w_offset + context.rank() % 32 * row_bytes);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t k = 0; k < Slice; k += 4) {
      float xs[4];
      float ws[4];
      load_quad(x + k, xs);
      load_quad(w + k, ws);
      COHORT_GEMM_UNROLLED
      for (std::uint32_t each = 0; each < 4; ++each) sum[0][0] = multiply_add(xs[each], ws[each], sum[0][0]);
    }
  }

  template <class Context, class T>
  COHORT_HD
  static void store(const Context& context, const layer_view<T>& layer, std::uint32_t first, const tile_row<T>* table,
                    sums& sum) {
    const std::uint32_t feature = first + context.rank() % 32;
    const tile_row<T> to = table[context.rank() / 32];
    sum[0][0] = add(sum[0][0], bias_of(layer, feature));
    activate(layer.act, sum);
    if (to.y != nullptr && feature < layer.n) store_element(to, feature, sum[0][0]);
  }
};

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

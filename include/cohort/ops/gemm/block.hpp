// GEMM tiles of a thread block: which tile shapes there are, which one a packet gets, and the way into the engines.
// ops/linear.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/gemm/block_few_rows.hpp>
#include <cohort/ops/gemm/block_ffma.hpp>
#include <cohort/ops/gemm/block_mma.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// Rows of x times features.
struct tile_extent {
  std::uint32_t rows;
  std::uint32_t columns;
};

/// How many tile shapes an element type has.
template <class T>
inline constexpr std::uint32_t block_variants = std::is_same_v<T, float> ? 5 : 3;

/// The tile shapes of an element type, small to large. Small tiles spread a small packet over the device, large ones
/// read each weight fewer times.
template <class T>
COHORT_HD
constexpr tile_extent block_tile(std::uint32_t variant) {
  if constexpr (std::is_same_v<T, float>) {
    switch (variant) {
      case 0: return {4, 32};
      case 1: return {8, 32};
      case 2: return {32, 32};
      case 3: return {32, 64};
      default: return {64, 64};
    }
  } else {
    return variant == 0 ? tile_extent{16, 32} : variant == 1 ? tile_extent{32, 64} : tile_extent{64, 64};
  }
}

/// Tiles of a stack of rows.
inline std::uint64_t tiles_of(std::uint64_t rows, std::uint32_t columns, tile_extent tile) {
  return (rows + tile.rows - 1) / tile.rows * ((std::uint64_t{columns} + tile.columns - 1) / tile.columns);
}

/// The smallest tile of which there are at most two per SM (half of the workers: four blocks share an SM), else the
/// largest, unless it leaves half of the workers without any. As measured on one device, small tiles win until about
/// there. Rows that a tile has and the product has not are lost work: no tile is chosen where a smaller one holds all.
template <class T>
std::uint8_t choose_block_variant(std::uint64_t rows, std::uint32_t columns, std::uint32_t workers) {
  constexpr std::uint8_t last = block_variants<T> - 1;
  const auto tiles = [&](std::uint8_t variant) { return tiles_of(rows, columns, block_tile<T>(variant)); };
  for (std::uint8_t variant = 0; variant < last; ++variant) {
    const bool holds_all = rows <= block_tile<T>(variant).rows;
    const bool next_is_taller = block_tile<T>(variant + 1u).rows > block_tile<T>(variant).rows;
    if ((holds_all && next_is_taller) || tiles(variant) <= workers / 2) return variant;
  }
  return tiles(last) < workers / 2 ? last - 1 : last;
}

/// Engines of the variants of `block_tile<T>`. `TensorCores`: whether 16-bit types may use them.
template <class T, std::uint32_t Variant, bool TensorCores>
COHORT_HD
constexpr auto select_engine() {
  if constexpr (std::is_same_v<T, float>) {
    if constexpr (Variant == 0)
      return few_rows_tile<64, 4>{};
    else if constexpr (Variant == 1)
      return ffma_tile<1, 2, 6>{};
    else if constexpr (Variant == 2)
      return ffma_tile<4, 2, 4>{};
    else if constexpr (Variant == 3)
      return ffma_tile<4, 4, 3>{};
    else
      return ffma_tile<8, 4, 2>{};
#if COHORT_GEMM_HAS_MMA
  } else if constexpr (TensorCores) {
    if constexpr (Variant == 0)
      return mma_tile<16, 32, 64, 6>{};
    else if constexpr (Variant == 1)
      return mma_tile<32, 64, 64, 3>{};
    else
      return mma_tile<64, 64, 64, 3>{};
#endif
  } else {
    if constexpr (Variant == 0)
      return ffma_tile<2, 2, 5>{};
    else if constexpr (Variant == 1)
      return ffma_tile<4, 4, 3>{};
    else
      return ffma_tile<8, 4, 2>{};
  }
}

/// Stages, and behind them the table of rows.
inline constexpr std::uint32_t block_stage_bytes = 49152;
inline constexpr std::uint32_t block_scratch_bytes = block_stage_bytes + 64 * sizeof(tile_row<float>);

template <std::uint32_t Variant, bool TensorCores, class Context, class Op>
COHORT_HD
void run_block_variant(const Context& context, const Op* members, std::uint32_t count, std::uint32_t tile) {
  using T = typename Op::value_type;
  using engine = decltype(select_engine<T, Variant, TensorCores>());
  constexpr tile_extent extent = block_tile<T>(Variant);
  static_assert(engine::rows == extent.rows && engine::columns == extent.columns);
  static_assert(engine::scratch_bytes <= block_stage_bytes);
  std::byte* const scratch = context.scratch();
  auto* const table = reinterpret_cast<tile_row<T>*>(scratch + block_stage_bytes);
  // Tiles that share weights are neighbours: they run at the same time, and memory is read once for them.
  const std::uint32_t down = (members->total_rows + extent.rows - 1) / extent.rows;
  const std::uint32_t column = tile / down;
  const std::uint32_t row = tile - column * down;
  find_rows<extent.rows>(context, members, count, row * extent.rows, table, reinterpret_cast<std::uint32_t*>(scratch));
  engine::run(context, layer_of(*members), column * extent.columns, table, scratch);
}

/// One tile, by a block of `block_threads` threads in groups of 32.
template <bool TensorCores = COHORT_GEMM_HAS_MMA != 0, class Context, class Op>
COHORT_HD
void run_block(const Context& context, const Op* members, std::uint32_t count, std::uint32_t tile) {
  const std::uint32_t variant = members->variant;
  if constexpr (block_variants<typename Op::value_type> == 5) {
    if (variant == 3) return run_block_variant<3, TensorCores>(context, members, count, tile);
    if (variant == 4) return run_block_variant<4, TensorCores>(context, members, count, tile);
  }
  switch (variant) {
    case 0: return run_block_variant<0, TensorCores>(context, members, count, tile);
    case 1: return run_block_variant<1, TensorCores>(context, members, count, tile);
    default: return run_block_variant<2, TensorCores>(context, members, count, tile);
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

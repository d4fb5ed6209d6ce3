// GEMM tiles of a thread block: which tile shapes there are, which one a packet gets, and the way into the engines.
// ops/linear.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/gemm/block_few_rows.hpp>
#include <cohort/ops/gemm/block_ffma.hpp>
#include <cohort/ops/gemm/block_tensor.hpp>
#include <cohort/ops/gemm/pipeline.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/ops/gemm/segments.hpp>
#include <cohort/ops/gemm/warpgroup.hpp>
#include <cohort/types.hpp>

#include <bit>
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
    return {variant == 0 ? 16u : variant == 1 ? 32u : 64u, 64};
  }
}

/// Tiles of a stack of rows.
inline std::uint64_t tiles_of(std::uint64_t rows, std::uint32_t columns, tile_extent tile) {
  return (rows + tile.rows - 1) / tile.rows * ((std::uint64_t{columns} + tile.columns - 1) / tile.columns);
}

/// The same of a block's tile, without a division: its sides are powers of two, and every submission is planned.
template <class T>
std::uint64_t block_tiles(std::uint64_t rows, std::uint32_t columns, std::uint32_t variant) {
  const tile_extent tile = block_tile<T>(variant);
  return ((rows + tile.rows - 1) >> std::countr_zero(tile.rows)) *
         ((std::uint64_t{columns} + tile.columns - 1) >> std::countr_zero(tile.columns));
}

/// The smallest tile of which there are at most two per SM (half of the workers: four blocks share an SM), else the
/// largest, unless it leaves half of the workers without any. As measured on one device, small tiles win until about
/// there. Rows that a tile has and the product has not are lost work: no tile is chosen where a smaller one holds all.
template <class T>
std::uint8_t choose_block_variant(std::uint64_t rows, std::uint32_t columns, std::uint32_t workers) {
  constexpr std::uint8_t last = block_variants<T> - 1;
  const auto tiles = [&](std::uint8_t variant) { return block_tiles<T>(rows, columns, variant); };
  for (std::uint8_t variant = 0; variant < last; ++variant) {
    const bool holds_all = rows <= block_tile<T>(variant).rows;
    const bool next_is_taller = block_tile<T>(variant + 1u).rows > block_tile<T>(variant).rows;
    if ((holds_all && next_is_taller) || tiles(variant) <= workers / 2) return variant;
  }
  return tiles(last) < workers / 2 ? last - 1 : last;
}

/// What a product gets: its tile shape, and how many blocks share a tile by segments of K, 1 or all segments.
struct block_choice {
  std::uint8_t variant = 0;
  std::uint8_t parts = 1;
};

/// Tile shapes, from the smallest on, whose sums fit the memory of a part.
template <class T>
inline constexpr std::uint8_t shared_variants = block_variants<T> - 1;

/// Shares tiles where there are blocks enough for all of their segments at once: the smallest such tile. Where only the
/// tiles themselves fill the workers, they walk through K alone; so they do on tensor cores where segments are short
/// and there are not blocks for twice as many: to meet takes as long as to walk then. No tile is shared where a smaller
/// one holds all rows.
template <class T>
block_choice choose_block(std::uint64_t rows, std::uint32_t columns, std::uint32_t depth, std::uint32_t workers) {
  const std::uint32_t segments = is_cut<T>(columns, depth) ? segments_of<T>(columns, depth) : 1;  // mostly no division
  const std::uint32_t places = sizeof(T) == 4 || depth >= 2048 ? workers : workers / 2;
  for (std::uint8_t variant = 0; segments > 1 && variant < shared_variants<T>; ++variant) {
    if (block_tiles<T>(rows, columns, variant) * segments <= places)
      return {variant, static_cast<std::uint8_t>(segments)};
    const std::uint32_t height = block_tile<T>(variant).rows;
    if (rows <= height && block_tile<T>(variant + 1u).rows > height) break;
  }
  return {choose_block_variant<T>(rows, columns, workers), 1};
}

/// Engines of the variants of `block_tile<T>`. fp32 is always computed by multiply-adds.
template <class T, std::uint32_t Variant, arithmetic Units>
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
  } else if constexpr (Units != arithmetic::scalar) {
    if constexpr (Variant == 0)
      return tensor_tile<16, 4, Units>{};
    else if constexpr (Variant == 1)
      return tensor_tile<32, 4, Units>{};
    else
      return tensor_tile<64, 3, Units>{};
#endif
  } else {
    if constexpr (Variant == 0)
      return ffma_tile<2, 4, 4>{};
    else if constexpr (Variant == 1)
      return ffma_tile<4, 4, 3>{};
    else
      return ffma_tile<8, 4, 2>{};
  }
}

/// What the largest engine takes: three stages of 16 KB, the rows of two tiles, and where all tiles lie.
inline constexpr std::uint32_t block_scratch_bytes =
    49152 + 2 * 64 * sizeof(tile_row<float>) + 64 * 4 + chained_tiles * sizeof(tile_corner);

template <class Op>
COHORT_HD
bool is_cut(const Op& op) { return is_cut<typename Op::value_type>(op.n, op.k); }

/// Tiles of one variant, one after the other. Begins without a barrier.
template <class Op, std::uint32_t Variant, arithmetic Units, class Context>
COHORT_HD
void run_block_variant(const Context& context, const tile_work* works, std::uint32_t count) {
  using T = typename Op::value_type;
  using engine = decltype(select_engine<T, Variant, Units>());
  constexpr tile_extent extent = block_tile<T>(Variant);
  static_assert(engine::rows == extent.rows && engine::columns == extent.columns);
  static_assert(pipeline_bytes<engine, T> <= block_scratch_bytes);
  const auto run = [&](const auto& own) {
    if (is_cut(*static_cast<const Op*>(works->members))) {
      run_pipeline<engine, Op, true>(own, works, count);
    } else {
      run_pipeline<engine, Op, false>(own, works, count);
    }
  };
  if constexpr (requires { context.anew(); }) {
    run(context.anew());  // else each variant pays registers for all of them
  } else {
    run(context);
  }
}

/// Whether tiles may follow one another in one pipeline.
template <class Op>
COHORT_HD
bool may_chain(const tile_work& one, const tile_work& next) {
  const auto* const a = static_cast<const Op*>(one.members);
  const auto* const b = static_cast<const Op*>(next.members);
  return a->variant == b->variant && a->parts == 1 && b->parts == 1 && is_cut(*a) == is_cut(*b) &&
         a->k >= chained_depth && b->k >= chained_depth;
}

/// Tiles of a block of `block_threads` threads in groups of 32, one after the other.
template <class Op, arithmetic Units = native_arithmetic, class Context>
COHORT_HD
void run_block(const Context& context, const tile_work* works, std::uint32_t count) {
  COHORT_GEMM_ROLLED
  for (std::uint32_t begin = 0; begin < count;) {
    std::uint32_t end = begin + 1;
    while (end < count && end - begin < chained_tiles && may_chain<Op>(works[begin], works[end])) ++end;
    if (begin != 0) context.sync();
    const tile_work* const some = works + begin;
    const std::uint32_t variant = static_cast<const Op*>(some->members)->variant;
    if (variant == 0) {
      run_block_variant<Op, 0, Units>(context, some, end - begin);
    } else if (variant == 1) {
      run_block_variant<Op, 1, Units>(context, some, end - begin);
    } else if (block_variants<typename Op::value_type> == 3 || variant == 2) {
      run_block_variant<Op, 2, Units>(context, some, end - begin);
    } else if constexpr (block_variants<typename Op::value_type> == 5) {
      if (variant == 3) {
        run_block_variant<Op, 3, Units>(context, some, end - begin);
      } else {
        run_block_variant<Op, 4, Units>(context, some, end - begin);
      }
    }
    begin = end;
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

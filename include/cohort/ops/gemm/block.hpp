// GEMM tiles of a thread block: which tile shapes there are, which one a packet gets, and the way into the engines.
// ops/linear.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/gemm/block_at_once.hpp>
#include <cohort/ops/gemm/block_by_segment.hpp>
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
inline constexpr std::uint32_t block_variants = std::is_same_v<T, float> ? 6 : 5;

/// The tile shapes of an element type, small to large. Small tiles spread a small packet over the device, large ones
/// read each weight fewer times.
template <class T>
COHORT_HD
constexpr tile_extent block_tile(std::uint32_t variant) {
  if constexpr (std::is_same_v<T, float>) {
    switch (variant) {
      case 0: return {4, 16};
      case 1: return {8, 32};
      case 2: return {16, 32};
      case 3: return {32, 32};
      case 4: return {32, 64};
      default: return {64, 64};
    }
  } else {
    switch (variant) {
      case 0: return {16, 16};
      case 1: return {16, 32};
      case 2: return {16, 64};
      case 3: return {32, 64};
      default: return {64, 64};
    }
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

/// Of 16-bit types, the tile whose K comes at once. The one before it is cut into segments: a product may have one of
/// the two.
inline constexpr std::uint8_t at_once_variant = 1;
constexpr bool may_come_at_once(std::uint32_t columns, std::uint32_t depth) {
  return depth <= at_once_depth && !is_cut(columns, depth);
}

/// Whether a tile has all rows of a product, and the next larger one has more.
template <class T>
constexpr bool holds_all_rows(std::uint32_t variant, std::uint64_t rows) {
  return rows <= block_tile<T>(variant).rows && block_tile<T>(variant + 1).rows > block_tile<T>(variant).rows;
}

/// Of a product whose tiles walk through K alone, on tensor cores: the smallest tile of which there is at most one per
/// SM (a quarter of the workers: four blocks share an SM), or two of the smallest of all, whose K comes at once. Else
/// the largest, unless it leaves half of the workers without any. As measured on one device, small tiles win until
/// about there. Rows that a tile has and the product has not are lost work: no tile is chosen where a smaller one holds
/// all.
template <class T>
std::uint8_t choose_walking_block(std::uint64_t rows, std::uint32_t columns, std::uint32_t depth,
                                  std::uint32_t workers) {
  constexpr std::uint8_t last = block_variants<T> - 1;
  const auto tiles = [&](std::uint8_t variant) { return block_tiles<T>(rows, columns, variant); };
  if (may_come_at_once(columns, depth) && tiles(at_once_variant) <= workers / 2) return at_once_variant;
  for (std::uint8_t variant = at_once_variant + 1; variant < last; ++variant) {
    if (holds_all_rows<T>(variant, rows) || tiles(variant) <= workers / 4) return variant;
  }
  return tiles(last) < workers / 2 ? last - 1 : last;
}

/// What a product gets: its tile shape, and how many blocks share a tile by segments of K, 1 or all segments.
struct block_choice {
  std::uint8_t variant = 0;
  std::uint8_t parts = 1;
};

/// Tile shapes that several blocks may share, by segments of K: those between the smallest, whose segments meet within
/// a block or whose K is not cut, and the largest, whose sums do not fit the memory of a part.
template <class T>
inline constexpr std::uint8_t first_shared_variant = std::is_same_v<T, float> ? 1 : at_once_variant + 1;
template <class T>
inline constexpr std::uint8_t shared_variants_end = block_variants<T> - 1;

/// Of products on tensor cores. The smallest tile, whose warps take a segment each, where there are few of them. Else
/// shares tiles where there are blocks enough for all of their segments at once: the smallest such tile. Where only the
/// tiles themselves fill the workers, they walk through K alone; so they do where segments are short: to meet in device
/// memory costs about as much as a walk through 768 k-values. No tile is shared where a smaller one holds all rows.
template <class T>
block_choice choose_tensor_block(std::uint64_t rows, std::uint32_t columns, std::uint32_t depth,
                                 std::uint32_t workers) {
  if (!is_cut(columns, depth)) return {choose_walking_block<T>(rows, columns, depth, workers), 1};
  if (block_tiles<T>(rows, columns, 0) <= workers / 2) return {};
  const std::uint32_t segments = depth >= 768 ? segments_of(columns, depth) : 1;  // mostly no division
  const std::uint32_t places = depth >= 2048 ? workers : workers / 2;
  for (std::uint8_t variant = 0; segments > 1 && variant < shared_variants_end<T>; ++variant) {
    if (variant >= first_shared_variant<T> && block_tiles<T>(rows, columns, variant) * segments <= places) {
      return {variant, static_cast<std::uint8_t>(segments)};
    }
    if (holds_all_rows<T>(variant, rows)) break;
  }
  return {choose_walking_block<T>(rows, columns, depth, workers), 1};
}

/// Of products by multiply-adds. What bounds them is what shared memory delivers, the same for all blocks of an SM, and
/// with one block alone the steps between slices. Times are in reads of 16 bytes by each thread, which have four
/// k-values of a row each, times K; as measured on one device.
struct ffma_pace {
  float reads;  ///< for four k-values of a tile
  float steps;  ///< as long as so many reads, once, whatever else the SM does
};
inline constexpr ffma_pace ffma_paces[] = {{0.75f, 0.5f}, {3, 1}, {4, 1}, {6, 2}, {8, 2}, {12, 2}};
inline constexpr float ffma_meeting = 750;  ///< to meet in device memory: one read for so many k-values

/// The tile that is through first, shared by segments of K where there are blocks enough for all of them at once.
inline block_choice choose_ffma_block(std::uint64_t rows, std::uint32_t columns, std::uint32_t depth,
                                      std::uint32_t workers) {
  const bool cut = is_cut(columns, depth);
  const std::uint32_t segments = cut && depth >= 768 ? segments_of(columns, depth) : 1;
  const float per_processor = workers < 4 ? 1.0f : 4.0f / static_cast<float>(workers);
  const auto deep = static_cast<float>(depth);
  const auto parts = static_cast<float>(segments);
  const auto rounds = [](float blocks) { return static_cast<float>(static_cast<std::int64_t>(blocks + 0.999f)); };
  block_choice best;
  float least = 0;
  for (std::uint8_t variant = 0; variant < block_variants<float>; ++variant) {
    const float tiles = static_cast<float>(block_tiles<float>(rows, columns, variant)) * per_processor;
    const ffma_pace pace = ffma_paces[variant];
    const float steps = variant == 0 && !cut ? 3 * pace.steps : pace.steps;
    const float alone = (rounds(tiles) * pace.reads + steps) * deep;
    if (variant == 0 || alone < least) {
      best = {variant, 1};
      least = alone;
    }
    const bool may_share =
        segments > 1 && variant >= first_shared_variant<float> && variant < shared_variants_end<float>;
    if (may_share && tiles * parts <= 4) {
      const float shared = (rounds(tiles * parts) * pace.reads + pace.steps) * deep / parts + ffma_meeting;
      if (shared < least) {
        best = {variant, static_cast<std::uint8_t>(segments)};
        least = shared;
      }
    }
    if (tiles * parts <= 1 || holds_all_rows<float>(variant, rows)) break;  // larger ones take longer
  }
  return best;
}

template <class T>
block_choice choose_block(std::uint64_t rows, std::uint32_t columns, std::uint32_t depth, std::uint32_t workers) {
  if constexpr (std::is_same_v<T, float>) {
    return choose_ffma_block(rows, columns, depth, workers);
  } else {
    return choose_tensor_block<T>(rows, columns, depth, workers);
  }
}

/// Engines of the variants of `block_tile<T>`. fp32 is always computed by multiply-adds.
template <class T, std::uint32_t Variant, arithmetic Units>
COHORT_HD
constexpr auto select_engine() {
  if constexpr (std::is_same_v<T, float>) {
    if constexpr (Variant == 0)
      return ffma_by_segment<4, 4>{};
    else if constexpr (Variant == 1)
      return ffma_tile<1, 2, 64, 4>{};
    else if constexpr (Variant == 2)
      return ffma_tile<2, 2, 64, 3>{};
    else if constexpr (Variant == 3)
      return ffma_tile<4, 2, 32, 4>{};
    else if constexpr (Variant == 4)
      return ffma_tile<4, 4, 32, 3>{};
    else
      return ffma_tile<8, 4, 32, 2>{};
#if COHORT_GEMM_HAS_MMA
  } else if constexpr (Units != arithmetic::scalar) {
    if constexpr (Variant == 0)
      return tensor_by_segment<3>{};
    else if constexpr (Variant == at_once_variant)
      return tensor_at_once{};
    else if constexpr (Variant == 2)
      return tensor_tile<16, 4, Units>{};
    else if constexpr (Variant == 3)
      return tensor_tile<32, 4, Units>{};
    else
      return tensor_tile<64, 3, Units>{};
#endif
  } else {
    if constexpr (Variant == 0)
      return ffma_by_segment<16, 2>{};
    else if constexpr (Variant == 1)
      return ffma_tile<2, 2, 64, 3>{};
    else if constexpr (Variant == 2)
      return ffma_tile<2, 4, 32, 4>{};
    else if constexpr (Variant == 3)
      return ffma_tile<4, 4, 32, 3>{};
    else
      return ffma_tile<8, 4, 32, 2>{};
  }
}

/// What the largest engine takes: three stages of 16 KB, the rows of two tiles, and where all tiles lie.
inline constexpr std::uint32_t block_scratch_bytes =
    49152 + 2 * 64 * sizeof(tile_row<float>) + 64 * 4 + chained_tiles * sizeof(tile_corner);

template <class Op>
COHORT_HD
bool is_cut(const Op& op) { return is_cut(op.n, op.k); }

/// Tiles of one variant, one after the other. Begins without a barrier.
template <class Op, std::uint32_t Variant, arithmetic Units, class Context>
COHORT_HD
void run_block_variant(const Context& context, const tile_work* works, std::uint32_t count) {
  using T = typename Op::value_type;
  using engine = decltype(select_engine<T, Variant, Units>());
  constexpr tile_extent extent = block_tile<T>(Variant);
  static_assert(engine::rows == extent.rows && engine::columns == extent.columns);
  const auto run = [&](const auto& own) {
    if constexpr (Variant == 0) {
      static_assert(by_segment_bytes<engine, T> <= block_scratch_bytes);
      run_by_segment<engine, Op>(own, works, count);
#if COHORT_GEMM_HAS_MMA
    } else if constexpr (std::is_same_v<engine, tensor_at_once>) {
      static_assert(at_once_bytes<T> <= block_scratch_bytes);
      run_at_once<Op>(own, works, count);
#endif
    } else if (is_cut(*static_cast<const Op*>(works->members))) {
      static_assert(pipeline_bytes<engine, T> <= block_scratch_bytes);
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
    } else if (variant == 2) {
      run_block_variant<Op, 2, Units>(context, some, end - begin);
    } else if (variant == 3) {
      run_block_variant<Op, 3, Units>(context, some, end - begin);
    } else if (block_variants<typename Op::value_type> == 5 || variant == 4) {
      run_block_variant<Op, 4, Units>(context, some, end - begin);
    } else if constexpr (block_variants<typename Op::value_type> == 6) {
      run_block_variant<Op, 5, Units>(context, some, end - begin);
    }
    begin = end;
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

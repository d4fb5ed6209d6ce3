// GEMM tiles of few rows and few features, for products that come alone: each warp of the block computes one segment of
// K, and the sums meet in shared memory. No warp waits for another until then, and as long as K is not very deep all
// that a tile reads is on its way at once. ops/gemm/block.hpp enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/gemm/block_epilogue.hpp>
#include <cohort/ops/gemm/block_tensor.hpp>
#include <cohort/ops/gemm/pipeline.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/ops/gemm/segments.hpp>
#include <cohort/ops/gemm/warpgroup.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

static_assert(most_segments == block_threads / 32, "a warp for each segment");

// An engine of this file belongs to one warp and provides:
//   rows, columns             the tile: rows of x times features
//   slice, stages             k-values of a slice, and how many slices the warp's shared memory holds
//   element<T>                what T is in shared memory, T itself or float
//   row_bytes                 from one row of a slice to the next; those of weights come first, then those of x
//   place(row, piece)         where a 16-byte piece of a row lies
//   sums                      what one lane holds
//   multiply<T>(group, stage, there, sums)          a slice, of which `there` rows or more are there
//   put(group, sums, to, pitch)                     sums of rows and features into rows of `pitch` floats

/// Multiply-adds for Rows rows x 16 features: a lane has a feature and every other row. Neighbours differ as in
/// `ffma_tile`: in the feature first, then in the row.
///
/// A segment's sum is one chain in ascending k, as in `ffma_tile`: same bits.
template <std::uint32_t Rows, std::uint32_t Stages>
struct ffma_by_segment {
  static constexpr std::uint32_t rows = Rows;
  static constexpr std::uint32_t columns = 16;
  static constexpr std::uint32_t slice = 32;
  static constexpr std::uint32_t stages = Stages;
  static constexpr std::uint32_t pitch = slice + 4;  // in floats: eight neighbouring rows cover all banks
  static constexpr std::uint32_t row_bytes = pitch * sizeof(float);
  template <class T>
  using element = float;
  using sums = float[Rows / 2];

  COHORT_HD
  static constexpr std::uint32_t place(std::uint32_t row, std::uint32_t piece) { return row * row_bytes + piece * 16; }

  COHORT_HD
  static constexpr std::uint32_t row_of(std::uint32_t lane) { return lane / 2 % 2; }
  COHORT_HD
  static constexpr std::uint32_t feature_of(std::uint32_t lane) { return lane % 2 + lane / 4 * 2; }

  /// What bounds it is what shared memory delivers: lanes whose rows are not there read nothing.
  template <class T, class Group>
  COHORT_HD
  static void multiply(const Group& group, const std::byte* stage, std::uint32_t there, sums& sum) {
    const std::uint32_t row = row_of(group.rank());
    if (row + 2 < there) {
      multiply_rows<Rows / 2>(group, stage, sum);
    } else if (row < there) {
      multiply_rows<1>(group, stage, sum);
    }
  }

  template <std::uint32_t Count, class Group>
  COHORT_HD
  static void multiply_rows(const Group& group, const std::byte* stage, sums& sum) {
    const auto* const w = reinterpret_cast<const float*>(stage) + feature_of(group.rank()) * pitch;
    const auto* const x = reinterpret_cast<const float*>(stage) + (columns + row_of(group.rank())) * pitch;
    COHORT_GEMM_UNROLLED
    for (std::uint32_t k = 0; k < slice; k += 4) {
      float ws[4];
      load_quad(w + k, ws);
      COHORT_GEMM_UNROLLED
      for (std::uint32_t i = 0; i < Count; ++i) {
        float xs[4];
        load_quad(x + i * 2 * pitch + k, xs);
        COHORT_GEMM_UNROLLED
        for (std::uint32_t each = 0; each < 4; ++each) sum[i] = multiply_add(xs[each], ws[each], sum[i]);
      }
    }
  }

  template <class Group>
  COHORT_HD
  static void put(const Group& group, const sums& sum, float* to, std::uint32_t to_pitch) {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < Rows / 2; ++i) {
      to[(row_of(group.rank()) + i * 2) * to_pitch + feature_of(group.rank())] = sum[i];
    }
  }
};

#if COHORT_GEMM_HAS_MMA

/// Tensor cores for 16 rows x 16 features, with the steps of `tensor_tile`: same bits.
template <std::uint32_t Stages>
struct tensor_by_segment {
  static constexpr std::uint32_t rows = 16;
  static constexpr std::uint32_t columns = 16;
  static constexpr std::uint32_t slice = 64;
  static constexpr std::uint32_t stages = Stages;
  static constexpr std::uint32_t row_bytes = slice * 2;
  template <class T>
  using element = T;
  using sums = float[rows / 8][4];

  COHORT_HD
  static constexpr std::uint32_t place(std::uint32_t row, std::uint32_t piece) { return swizzled_place(row, piece); }

  template <class T, class Group>
  COHORT_HD
  static void multiply(const Group& group, const std::byte* stage, std::uint32_t, sums& sum) {
    multiply_slice<T, tensor_by_segment>(group, stage, stage + columns * row_bytes, sum);
  }

  template <class Group>
  COHORT_HD
  static void put(const Group& group, const sums& sum, float* to, std::uint32_t to_pitch) {
    const std::uint32_t lane = group.rank();
    COHORT_GEMM_UNROLLED
    for (std::uint32_t j = 0; j < rows / 8; ++j) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t e = 0; e < 4; ++e) {
        to[(j * 8 + lane % 4 * 2 + e % 2) * to_pitch + lane / 4 + e / 2 * 8] = sum[j][e];
      }
    }
  }
};

#endif  // COHORT_GEMM_HAS_MMA

template <class Engine>
inline constexpr std::uint32_t warp_stage_bytes = (Engine::columns + Engine::rows) * Engine::row_bytes;

/// Shared memory of such an engine: the stages of all warps, the rows of a tile, and what `find_rows` needs.
template <class Engine, class T>
inline constexpr std::uint32_t by_segment_bytes =
    most_segments * Engine::stages * warp_stage_bytes<Engine> + Engine::rows * (sizeof(tile_row<T>) + 4);

/// One lane's part in bringing a warp's slices: one 16-byte piece of every `rows_at_once`th row. Unlike `feeder` it
/// keeps where its rows of x lie, of which there are few, and skips those that are not there: to issue the copies is
/// what a tile alone waits for.
template <class Engine, class T>
class warp_feeder {
  using stored = typename Engine::template element<T>;
  static constexpr std::uint32_t piece = 16 / sizeof(stored);  // in elements
  static constexpr std::uint32_t pieces = Engine::slice / piece;
  static constexpr std::uint32_t rows_at_once = 32 / pieces;
  static constexpr std::uint32_t rows_each = Engine::rows / rows_at_once;
  static constexpr std::uint32_t columns_each = Engine::columns / rows_at_once;
  static_assert(Engine::rows % rows_at_once == 0 && Engine::columns % rows_at_once == 0);

public:
  /// Begins with the slice at `k` of a tile.
  COHORT_HD
  warp_feeder(const layer_view<T>& layer, std::uint32_t feature, std::uint32_t k, const tile_row<T>* table,
              std::uint32_t lane)
      : row_(lane / pieces), piece_(lane % pieces), stride_(layer.k * rows_at_once) {
    const std::uint32_t mine = feature + row_;
    k_ = k + piece_ * piece;
    depth_ = layer.k;
    features_ = mine < layer.n ? layer.n - mine : 0;
    w_ = layer.w + std::size_t{features_ == 0 ? 0 : mine} * layer.k;
    aligned_ = std::is_same_v<T, stored> && layer.k % piece == 0 && aligned_16(w_);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < rows_each; ++i) {
      const tile_row<T> row = table[row_ + i * rows_at_once];
      x_[i] = row.y != nullptr ? row.x : nullptr;
      aligned_ = aligned_ && aligned_16(x_[i]);
    }
  }

  /// Brings this lane's pieces of the next slice, zeros behind the end of K and for features that are not there. Where
  /// rows are not there it leaves what there was.
  COHORT_HD
  void load(async_copies& copies, std::byte* stage) {
    if (aligned_) {
      if constexpr (std::is_same_v<T, stored>) {
        const bool more = k_ < depth_;
        const T* w = w_ + k_;
        COHORT_GEMM_UNROLLED
        for (std::uint32_t i = 0; i < columns_each; ++i) {
          copies.copy(stage + w_place(i), w, more && i * rows_at_once < features_);
          w += stride_;
        }
        COHORT_GEMM_UNROLLED
        for (std::uint32_t i = 0; i < rows_each; ++i) {
          if (x_[i] != nullptr) copies.copy(stage + x_place(i), x_[i] + k_, more);
        }
      }
    } else {
      const std::uint32_t left = k_ < depth_ ? depth_ - k_ : 0;
      COHORT_GEMM_ROLLED
      for (std::uint32_t i = 0; i < columns_each; ++i) {
        const bool there = i * rows_at_once < features_;
        copy_elements<piece>(reinterpret_cast<stored*>(stage + w_place(i)), w_ + std::size_t{i} * stride_ + k_,
                             there ? left : 0);
      }
      COHORT_GEMM_UNROLLED
      for (std::uint32_t i = 0; i < rows_each; ++i) {
        if (x_[i] != nullptr) copy_elements<piece>(reinterpret_cast<stored*>(stage + x_place(i)), x_[i] + k_, left);
      }
    }
    k_ += Engine::slice;
  }

private:
  COHORT_HD
  std::uint32_t w_place(std::uint32_t i) const { return Engine::place(row_ + i * rows_at_once, piece_); }
  COHORT_HD
  std::uint32_t x_place(std::uint32_t i) const {
    return Engine::columns * Engine::row_bytes + Engine::place(row_ + i * rows_at_once, piece_);
  }

  std::uint32_t row_;
  std::uint32_t piece_;
  std::uint32_t stride_;    // in elements, from one weight row of this lane to the next
  std::uint32_t k_;         // of this lane's piece of the next slice
  std::uint32_t depth_;     // K
  std::uint32_t features_;  // from this lane's first weight row to the last feature
  const T* w_;
  const T* x_[rows_each];  // null: no such row
  bool aligned_;
};

/// One segment of a tile with `there` rows, by one warp: its sums, added from zero in ascending k. `stages`: this
/// warp's, free afterwards.
template <class Engine, class T, class Group>
COHORT_HD
void sum_segment(const Group& group, const layer_view<T>& layer, std::uint32_t feature, const tile_row<T>* table,
                 std::uint32_t there, std::uint32_t segment, std::byte* stages, typename Engine::sums& sums) {
  constexpr std::uint32_t stage_bytes = warp_stage_bytes<Engine>;
  const std::uint32_t depth = segment_depth(layer.n, layer.k);
  const std::uint32_t begin = segment * depth;
  if (begin >= layer.k) return;
  const std::uint32_t left = layer.k - begin < depth ? layer.k - begin : depth;
  const std::uint32_t slices = (left + Engine::slice - 1) / Engine::slice;
  warp_feeder<Engine, T> feed(layer, feature, begin, table, group.rank());
  async_copies copies;
  COHORT_GEMM_ROLLED  // what runs once has to be fetched first: short code is quick
      for (std::uint32_t s = 0; s < Engine::stages; ++s) {
    if (s < slices) feed.load(copies, stages + s * stage_bytes);
    copies.commit();
  }
  std::uint32_t stage = 0;
  COHORT_GEMM_ROLLED
  for (std::uint32_t s = 0; s < slices; ++s) {
    copies.template wait<Engine::stages - 1>();
    group.sync();  // shows slice s to the warp
    std::byte* const present = stages + stage * stage_bytes;
    Engine::template multiply<T>(group, present, there, sums);
    if (s + Engine::stages < slices) {
      group.sync();  // all have read it
      feed.load(copies, present);
    }
    copies.commit();
    stage = stage + 1 == Engine::stages ? 0 : stage + 1;
  }
  group.sync();
}

/// Adds a thread's part of the segments' sums up, and stores what becomes of it. `sums`: those of the first segment,
/// from one to the next `stride` floats.
template <class Engine, class T, class Context>
COHORT_HD
void end_tile(const Context& context, const layer_view<T>& layer, std::uint32_t first_feature, const tile_row<T>* table,
              const float* sums, std::uint32_t pitch, std::uint32_t stride) {
  constexpr std::uint32_t outputs = Engine::rows * Engine::columns;
  constexpr std::uint32_t each = outputs > block_threads ? outputs / block_threads : 1;  // neighbouring features
  const std::uint32_t row = context.rank() * each / Engine::columns;
  if (row >= Engine::rows) return;
  const tile_row<T> to = table[row];
  if (to.y == nullptr) return;
  const std::uint32_t column = context.rank() * each % Engine::columns;
  const std::uint32_t feature = first_feature + column;
  const std::uint32_t depth = segment_depth(layer.n, layer.k);
  const float* const own = sums + row * pitch + column;
  float total[1][each];
  COHORT_GEMM_UNROLLED
  for (std::uint32_t e = 0; e < each; ++e) {
    total[0][e] = own[e];
    COHORT_GEMM_UNROLLED
    for (std::uint32_t s = 1; s < most_segments; ++s) {
      if (s * depth < layer.k) total[0][e] = add(total[0][e], own[s * stride + e]);
    }
    total[0][e] = add(total[0][e], bias_of(layer, feature + e));
  }
  activate(layer.act, total);
  COHORT_GEMM_UNROLLED
  for (std::uint32_t e = 0; e < each; ++e) {
    if (feature + e < layer.n) store_element(to, feature + e, total[0][e]);
  }
}

/// Runs tiles one after the other, none of them shared with other blocks. Begins without a barrier.
template <class Engine, class Op, class Context>
COHORT_HD
void run_by_segment(const Context& context, const tile_work* works, std::uint32_t count) {
  using T = typename Op::value_type;
  constexpr std::uint32_t pitch = Engine::columns + 4;  // in floats: little is lost to banks
  constexpr std::uint32_t warp_bytes = Engine::stages * warp_stage_bytes<Engine>;
  static_assert(Engine::rows * pitch * sizeof(float) <= warp_bytes, "sums take the place of a warp's stages");
  std::byte* const scratch = context.scratch();
  auto* const table = reinterpret_cast<tile_row<T>*>(scratch + most_segments * warp_bytes);
  auto* const owner = reinterpret_cast<std::uint32_t*>(table + Engine::rows);
  const auto group = context.group();
  std::byte* const own = scratch + context.group_index() * warp_bytes;

  COHORT_GEMM_ROLLED
  for (std::uint32_t tile = 0; tile < count; ++tile) {
    if (tile != 0) context.sync();
    const Op lead = *static_cast<const Op*>(works[tile].members);  // all of it in one wait
    const auto place = place_of<Op, Engine::rows, Engine::columns>(works[tile], lead);
    const layer_view<T> layer = layer_of(lead);
    find_rows<Engine::rows>(context, place, lead, table, owner);
    context.sync();
    typename Engine::sums sums = {};
    const std::uint32_t there = lead.total_rows - place.row;
    sum_segment<Engine>(group, layer, place.feature, table, there, context.group_index(), own, sums);
    Engine::put(group, sums, reinterpret_cast<float*>(own), pitch);
    context.sync();
    end_tile<Engine>(context, layer, place.feature, table, reinterpret_cast<const float*>(scratch), pitch,
                     static_cast<std::uint32_t>(warp_bytes / sizeof(float)));
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

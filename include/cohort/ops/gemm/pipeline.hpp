// How a thread block computes GEMM tiles, whatever it multiplies with: slices of k-values come into shared memory
// through a pipeline of asynchronous copies that runs through all tiles of a batch. The tile engines of this folder
// plug in.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/ops/gemm/segments.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

// An engine provides:
//   rows, columns             the tile: rows of x times features
//   slice, stages             k-values of a slice, and how many slices shared memory holds
//   element<T>                what T is in shared memory, T itself or float
//   row_bytes                 from one row of a slice to the next, those of weights and those of x
//   w_offset, x_offset        where these rows begin in a stage
//   stage_bytes
//   place(row, piece)         where a 16-byte piece of a row lies; rows that are `rows_at_once` apart lie alike
//   feature_of(row)           which feature of the tile a weight row holds; alike, too
//   sums                      what one thread holds of the tile, an array of arrays of floats
//   arrived()                                       a thread's copies of a slice are there, before the barrier
//   begin<T>(context, stage, sums)                  before the next copies are issued
//   end<T, Cut>(context, stage, table, sums)        after them: the slice is in the sums. Cut: there are as many other
//                                                   sums, of the segments before
//   store(context, layer, feature, table, sums)     y of the tile at `feature`

/// Products of fewer k-values run one tile at a time. Deeper ones have at least as many slices as a pipeline has
/// stages: so its loads are never more than one tile ahead, and a barrier lies between writing and reading a table of
/// rows.
inline constexpr std::uint32_t chained_depth = 256;

/// Tiles that one pipeline runs through at most.
inline constexpr std::uint32_t chained_tiles = 8;

/// Copies the first `there` of Count elements, as floats where `To` is one, and zeros for the others.
template <std::uint32_t Count, class To, class T>
COHORT_HD
void copy_elements(To* to, const T* from, std::uint32_t there) {
  COHORT_GEMM_ROLLED
  for (std::uint32_t j = 0; j < Count; ++j) {
    if constexpr (std::is_same_v<T, To>) {
      to[j] = j < there ? from[j] : T{};
    } else {
      to[j] = j < there ? to_float(from[j]) : 0.0f;
    }
  }
}

/// One thread's part in bringing slices: one 16-byte piece of every `rows_at_once`th row.
template <class Engine, class T>
class feeder {
  using stored = typename Engine::template element<T>;
  static constexpr std::uint32_t piece = 16 / sizeof(stored);  // in elements
  static constexpr std::uint32_t pieces = Engine::slice / piece;
  static constexpr std::uint32_t rows_at_once = block_threads / pieces;
  static constexpr bool all_threads_have_rows = Engine::rows % rows_at_once == 0;
  static constexpr std::uint32_t rows_each = all_threads_have_rows ? Engine::rows / rows_at_once : 1;
  static_assert(Engine::columns % rows_at_once == 0);
  static_assert(all_threads_have_rows || Engine::rows < rows_at_once);

public:
  /// Begins with the slice at `k` of a tile. `table` must be known to all threads, and stay until the last slice.
  COHORT_HD
  void open(const layer_view<T>& layer, std::uint32_t feature, std::uint32_t k, const tile_row<T>* table,
            std::uint32_t thread) {
    const std::uint32_t row = thread / pieces;
    const std::uint32_t mine = feature + Engine::feature_of(row);
    place_ = Engine::place(row, thread % pieces);
    k_ = k + thread % pieces * piece;
    depth_ = layer.k;
    features_ = mine < layer.n ? layer.n - mine : 0;
    w_ = layer.w + static_cast<std::size_t>(features_ == 0 ? 0 : mine) * layer.k;
    has_rows_ = all_threads_have_rows || row < Engine::rows;
    table_ = table + (has_rows_ ? row : 0);
    aligned_ = std::is_same_v<T, stored> && layer.k % piece == 0 && aligned_16(w_);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < rows_each; ++i) aligned_ = aligned_ && aligned_16(table_[i * rows_at_once].x);
  }

  /// Brings this thread's pieces of the next slice, zeros behind the end of K and for features that are not there.
  COHORT_HD
  void load(async_copies& copies, std::byte* stage) {
    std::byte* const w_to = stage + Engine::w_offset + place_;
    std::byte* const x_to = stage + Engine::x_offset + place_;
    const std::size_t stride = std::size_t{rows_at_once} * depth_;
    if (aligned_) {
      if constexpr (std::is_same_v<T, stored>) {
        const bool more = k_ < depth_;
        const std::uint32_t features = more ? features_ : 0;
        // All reads of the table before the first copy: one wait instead of one for each row.
        const T* x[rows_each];
        COHORT_GEMM_UNROLLED
        for (std::uint32_t i = 0; i < rows_each; ++i) x[i] = table_[i * rows_at_once].x + k_;
        const T* w = w_ + k_;
        COHORT_GEMM_UNROLLED
        for (std::uint32_t i = 0; i < Engine::columns; i += rows_at_once) {
          copies.copy(w_to + i * Engine::row_bytes, w, i < features);
          w += stride;
        }
        if (all_threads_have_rows || has_rows_) {
          COHORT_GEMM_UNROLLED
          for (std::uint32_t i = 0; i < rows_each; ++i) {
            copies.copy(x_to + i * rows_at_once * Engine::row_bytes, x[i], more);
          }
        }
      }
    } else {
      const std::uint32_t left = k_ < depth_ ? depth_ - k_ : 0;
      COHORT_GEMM_ROLLED
      for (std::uint32_t i = 0; i < Engine::columns; i += rows_at_once) {
        copy_elements<piece>(reinterpret_cast<stored*>(w_to + i * Engine::row_bytes),
                             w_ + i / rows_at_once * stride + k_, i < features_ ? left : 0);
      }
      COHORT_GEMM_ROLLED
      for (std::uint32_t i = 0; i < (has_rows_ ? Engine::rows : 0); i += rows_at_once) {
        copy_elements<piece>(reinterpret_cast<stored*>(x_to + i * Engine::row_bytes), table_[i].x + k_, left);
      }
    }
    k_ += Engine::slice;
  }

private:
  const T* w_;
  const tile_row<T>* table_;  // from this thread's first row on
  std::uint32_t k_;           // of this thread's piece of the next slice
  std::uint32_t depth_;       // K
  std::uint32_t features_;    // from this thread's first weight row to the last feature
  std::uint32_t place_;
  bool has_rows_;  // false: this thread has none to bring, and `table_` is that of another
  bool aligned_;
};

/// Where a tile lies in its product, and its way through K.
struct tile_corner {
  std::uint32_t row;
  std::uint32_t feature;
  std::uint32_t k;        ///< where it begins
  std::uint32_t slices;   ///< of the whole way
  std::uint32_t segment;  ///< slices of a segment; the last may have fewer
};

/// Shared memory of an engine: stages, the rows of two tiles, what `find_rows` needs, and where all tiles lie.
template <class Engine, class T>
inline constexpr std::uint32_t pipeline_bytes =
    Engine::stages * Engine::stage_bytes + 2 * Engine::rows * sizeof(tile_row<T>) + Engine::rows * 4 +
    chained_tiles * sizeof(tile_corner);

/// Whether tiles of this engine may be shared by blocks, a segment of K for each.
template <class Engine>
inline constexpr bool may_share = Engine::rows * Engine::columns * sizeof(float) <= part_bytes;

/// Of a part its segment alone, of a whole tile all of them.
template <class Engine, bool Cut, class Op>
COHORT_HD
tile_corner corner_of(const tile_place<Op>& at, bool part) {
  const std::uint32_t k = at.members->k;
  if constexpr (!Cut) return {at.row, at.feature, 0, (k + Engine::slice - 1) / Engine::slice, 0};
  const std::uint32_t depth = segment_depth(at.members->n, k);
  const std::uint32_t begin = part ? at.part * depth : 0;
  const std::uint32_t end = part && depth < k - begin ? begin + depth : k;
  return {at.row, at.feature, begin, (end - begin + Engine::slice - 1) / Engine::slice, depth / Engine::slice};
}

/// After a part: hands in its sums. True for the block that came last; its `sums` are then those of the tile.
template <class Engine, class Op, class Context>
COHORT_HD
bool meet(const Context& context, const tile_work& work, typename Engine::sums& sums) {
  const auto& op = *static_cast<const Op*>(work.members);
  const std::uint32_t down = (op.total_rows + Engine::rows - 1) / Engine::rows;
  const std::uint32_t strip = work.tile / down;
  const std::uint32_t parts = op.parts;
  const std::uint32_t first = work.tile - strip % parts * down;  // the tile's first part
  std::byte* const pieces = work.exchange.pieces;
  put_part(pieces + std::size_t{work.tile} * work.exchange.stride, context.rank(), sums);
  if (!context.arrive_last(work.exchange.counters + first, parts)) return false;
  add_parts(pieces + std::size_t{first} * work.exchange.stride, std::size_t{down} * work.exchange.stride, parts,
            context.rank(), sums);
  return true;
}

/// Runs tiles one after the other: while one ends and is stored, the first slices of the next are on their way. At most
/// `chained_tiles`, and more than one only if their K is at least `chained_depth` and none is a part. Cut: K of all of
/// them is cut into segments, or of none.
template <class Engine, class Op, bool Cut, class Context>
COHORT_HD
void run_pipeline(const Context& context, const tile_work* works, std::uint32_t count) {
  using T = typename Op::value_type;
  constexpr std::uint32_t stages = Engine::stages;
  static_assert(stages * Engine::slice <= chained_depth);
  std::byte* const scratch = context.scratch();
  auto* const tables = reinterpret_cast<tile_row<T>*>(scratch + stages * Engine::stage_bytes);
  auto* const owner = reinterpret_cast<std::uint32_t*>(tables + 2 * Engine::rows);
  const std::uint32_t thread = context.rank();

  auto* const corners = reinterpret_cast<tile_corner*>(owner + Engine::rows);

  // Parts whose product has not the memory to meet in: the first of each tile computes it all.
  bool part = false;
  if constexpr (Cut && may_share<Engine>) {
    const auto& op = *static_cast<const Op*>(works->members);
    if (op.parts != 1) {
      const std::uint32_t down = (op.total_rows + Engine::rows - 1) / Engine::rows;
      const std::uint32_t across = (op.n + Engine::columns - 1) / Engine::columns;
      part = works->exchange.tiles >= down * across * op.parts;
      if (!part && works->tile / down % op.parts != 0) return;
    }
  }

  const auto place = [&](std::uint32_t tile) { return place_of<Op, Engine::rows, Engine::columns>(works[tile]); };
  feeder<Engine, T> feed;
  const auto open = [&](std::uint32_t tile, std::uint32_t table) {
    feed.open(layer_of(*static_cast<const Op*>(works[tile].members)), corners[tile].feature, Cut ? corners[tile].k : 0,
              tables + table * Engine::rows, thread);
  };

  // Worked out once, each by another thread: it takes a division, and the loop over slices has no registers for it.
  if (thread < count) corners[thread] = corner_of<Engine, Cut>(place(thread), part);
  const tile_place<Op> first_place = place(0);
  find_rows<Engine::rows>(context, first_place, *first_place.members, tables, owner);
  context.sync();
  open(0, 0);
  async_copies copies;
  for (std::uint32_t s = 0; s + 1 < stages; ++s) {
    if (s < corners[0].slices) feed.load(copies, scratch + s * Engine::stage_bytes);
    copies.commit();
  }

  std::uint32_t stage = 0;
  std::uint32_t table = 0;
  COHORT_GEMM_ROLLED
  for (std::uint32_t tile = 0; tile < count; ++tile) {
    const bool last = tile + 1 == count;
    const std::uint32_t slices = corners[tile].slices;
    [[maybe_unused]] std::uint32_t segment_end = corners[tile].segment;
    std::uint32_t next_table = table;
    typename Engine::sums sums = {};
    [[maybe_unused]] running_total<typename Engine::sums> total;
    COHORT_GEMM_ROLLED
    for (std::uint32_t s = 0; s < slices; ++s) {
      copies.template wait<stages - 2>();
      Engine::arrived();
      // Shows slice s to all, and that all have finished slice s - 1, whose stage is filled next.
      context.sync();
      const std::byte* const present = scratch + stage * Engine::stage_bytes;
      Engine::template begin<T>(context, present, sums);
      const std::uint32_t free_stage = stage == 0 ? stages - 1 : stage - 1;
      const std::uint32_t ahead = s + stages - 1;
      if (ahead == slices && !last) open(tile + 1, next_table);
      if (ahead < slices || !last) feed.load(copies, scratch + free_stage * Engine::stage_bytes);
      copies.commit();
      if (s == 0 && !last) {
        const tile_work& next = works[tile + 1];
        const std::uint32_t row = corners[tile + 1].row;
        if (next.members != works[tile].members || row != corners[tile].row) {
          next_table = 1 - table;
          const tile_place<Op> at{static_cast<const Op*>(next.members), next.count, row, 0, 0};
          find_rows<Engine::rows>(context, at, *at.members, tables + next_table * Engine::rows, owner);
        }
      }
      Engine::template end<T, Cut>(context, present, tables + table * Engine::rows, sums);
      stage = stage + 1 == stages ? 0 : stage + 1;
      if constexpr (Cut) {
        if (s + 1 != segment_end || s + 1 == slices) continue;
        total.end_segment(sums);
        segment_end += corners[tile].segment;
      }
    }
    if constexpr (Cut) {
      if (segment_end > corners[tile].segment) total.end_tile(sums);
    }
    if constexpr (Cut && may_share<Engine>) {
      if (part && !meet<Engine, Op>(context, works[tile], sums)) continue;
    }
    Engine::store(context, layer_of(*static_cast<const Op*>(works[tile].members)), corners[tile].feature,
                  tables + table * Engine::rows, sums);
    table = next_table;
  }
  copies.template wait<0>();
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

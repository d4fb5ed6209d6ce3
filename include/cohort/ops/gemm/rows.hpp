// Which rows a tile of a fused GEMM has: tiles are cut from the stack of all members' rows, so one tile may read and
// write the buffers of many members. The tile engines of this folder enter; ops include their engines instead.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/activation.hpp>
#include <cohort/ops/gemm/primitives.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// The buffers of one row of a tile. Rows past the last member have no `y` (null), and the `x` of the last row: what is
/// computed from it goes nowhere. `residual` is null where there is none.
template <class T>
struct tile_row {
  const T* x;
  const T* residual;
  T* y;
};

/// What all members of a fused op have in common. Engines take a copy: fields of a member itself would be read again
/// from global memory after every barrier and asynchronous copy.
template <class T>
struct layer_view {
  using value_type = T;
  const T* w;
  const T* bias;
  std::uint32_t n;
  std::uint32_t k;
  activation act;
};

template <class Op>
COHORT_HD
inline layer_view<typename Op::value_type> layer_of(const Op& op) { return {op.w, op.bias, op.n, op.k, op.act}; }

/// Row `row` of the stack, which belongs to `op`.
template <class Op>
COHORT_HD
inline tile_row<typename Op::value_type> row_of(const Op& op, std::uint32_t row) {
  const std::size_t own = row - op.first_row;
  return {op.x + own * op.k, op.residual == nullptr ? nullptr : op.residual + own * op.n, op.y + own * op.n};
}

/// Where a tile of Rows x Columns lies in its product.
template <class Op>
struct tile_place {
  const Op* members;
  std::uint32_t count;    ///< of members
  std::uint32_t row;      ///< first row, of the stack
  std::uint32_t feature;  ///< first feature
  std::uint32_t part;     ///< of the members' `parts`: which segment of K
};

/// `lead`: the first member, or a copy of it. Tiles that share weights are neighbours: they run at the same time, and
/// memory is read once for them. So the parts of a tile are as far apart as the product is tiles high.
template <class Op, std::uint32_t Rows, std::uint32_t Columns>
COHORT_HD
inline tile_place<Op> place_of(const tile_work& work, const Op& lead) {
  const std::uint32_t down = (lead.total_rows + Rows - 1) / Rows;
  const std::uint32_t strip = down == 1 ? work.tile : work.tile / down;
  const std::uint32_t parts = lead.parts;
  const std::uint32_t column = parts == 1 ? strip : strip / parts;
  return {static_cast<const Op*>(work.members), work.count, (work.tile - strip * down) * Rows, column * Columns,
          strip - column * parts};
}

template <class Op, std::uint32_t Rows, std::uint32_t Columns>
COHORT_HD
inline tile_place<Op> place_of(const tile_work& work) {
  return place_of<Op, Rows, Columns>(work, *static_cast<const Op*>(work.members));
}

/// Fills `table` with TileRows rows of the stack, from `place.row` on. A team of threads, whose next barrier makes the
/// table known to all. `lead`: the first member, or a copy of it. `owner` is shared storage for TileRows words, free
/// again after that barrier.
///
/// The members are looked through by all threads at once, so that it costs two reads of global memory, one after the
/// other, however many members there are; a search per row would cost as many as it has steps. Plain loads: the members
/// are rewritten between packets.
template <std::uint32_t TileRows, class Context, class Op>
COHORT_HD
void find_rows(const Context& context, const tile_place<Op>& place, const Op& lead,
               tile_row<typename Op::value_type>* table, std::uint32_t* owner) {
  static_assert(TileRows <= block_threads, "each thread looks up at most one row");
  const Op* const members = place.members;
  const std::uint32_t count = place.count;
  const std::uint32_t first = place.row;
  if (count > 1) {
    COHORT_GEMM_ROLLED
    for (std::uint32_t m = context.rank(); m < count; m += block_threads) {
      const std::uint32_t begin = members[m].first_row;
      const std::uint32_t end = begin + members[m].row_count;
      const std::uint32_t low = begin > first ? begin : first;
      const std::uint32_t high = end < first + TileRows ? end : first + TileRows;
      COHORT_GEMM_ROLLED
      for (std::uint32_t row = low; row < high; ++row) owner[row - first] = m;
    }
    context.sync();
  }
  if (const std::uint32_t mine = context.rank(); mine < TileRows) {
    const std::uint32_t last = lead.total_rows - 1 - first;
    const std::uint32_t row = mine < last ? mine : last;
    auto found = count > 1 ? row_of(members[owner[row]], first + row) : row_of(lead, first + row);
    if (row != mine) found = {found.x, nullptr, nullptr};
    table[mine] = found;
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

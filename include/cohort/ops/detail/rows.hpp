// How ops over independent rows are cut into tiles, and how a tile hands its rows to the groups of its team. Ops of
// this folder may enter.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/types.hpp>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops::detail {

COHORT_HD
constexpr std::uint32_t divide_up(std::uint64_t a, std::uint64_t b) {
  return static_cast<std::uint32_t>((a + b - 1) / b);
}

/// Elements that make a host tile last some 20 us, so that taking the tile costs little beside it.
inline constexpr std::uint64_t host_tile_elements = 32768;

/// Rows of a tile. Rows are computed alone, so the choice changes no result. On a device: one row per warp, four warps,
/// until every block has a tile; then two. No more: whoever else is in the packet waits for its longest tile.
inline std::uint16_t rows_per_tile(const machine_shape& shape, std::uint64_t rows, std::uint64_t elements_per_row) {
  const std::uint64_t workers = std::max<std::uint64_t>(shape.workers, 1);
  const std::uint64_t share = (rows + workers - 1) / workers;
  const std::uint64_t chosen = shape.host ? std::max<std::uint64_t>(host_tile_elements / elements_per_row, 1)
                                          : std::clamp<std::uint64_t>((share + 3) / 4 * 4, 4, 8);
  return static_cast<std::uint16_t>(std::min<std::uint64_t>(chosen, 65535));
}

/// Calls `f(group, row)` for the rows of a tile, each by one group of the team.
template <class Context, class F>
COHORT_HD
void for_each_row(Context& context, std::uint32_t rows, std::uint32_t rows_of_tile, std::uint32_t tile, F f) {
  const std::uint32_t first = tile * rows_of_tile;
  const std::uint32_t last = rows - first < rows_of_tile ? rows : first + rows_of_tile;
  auto&& group = context.group();
#if COHORT_DEVICE_PASS
#pragma unroll 1
#endif
  for (std::uint32_t row = first + context.group_index(); row < last; row += context.group_count()) f(group, row);
}

/// Calls `f` with `flag` as a constant, so that the loops inside hold no branch on it.
template <class F>
COHORT_HD
void with_constant(bool flag, F f) {
  if (flag) {
    f(std::true_type{});
  } else {
    f(std::false_type{});
  }
}

/// "op<fp32>" and its like, chosen at compile time.
template <class T>
constexpr const char* name_for(const char* fp32, const char* fp16_name, const char* bf16_name) {
  if (std::is_same_v<T, float>) return fp32;
  return std::is_same_v<T, fp16> ? fp16_name : bf16_name;
}

}  // namespace cohort::inline COHORT_ABI::ops::detail

// The order of a GEMM's sums over K, and how several blocks share one tile by it. The block engines' pipeline and the
// planning of linear enter.
//
// K is cut into segments by the shape of the weights alone. Every engine sums each segment from zero in ascending k and
// adds the segments' sums in their order: ((s0 + s1) + s2) + s3. So it makes no difference to a result who computes a
// segment. Where there are many tiles, one block walks through all segments of a tile and keeps the running total.
// Where there are few and small ones, each warp of a block has a segment, and they meet in shared memory
// (block_by_segment.hpp). Where there are few and K is deep, each segment of a tile is a part of its own, for a block
// of its own: it puts its sum into device memory, and the block that arrives last adds them up and ends the tile.
// Nobody waits for another.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/gemm/primitives.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// Segments that K has at most. As many sums are read together, into registers, by who adds them up.
inline constexpr std::uint32_t most_segments = 4;

/// Segments begin at multiples of this: the longest slice of any engine, so that none lies in two segments.
inline constexpr std::uint32_t segment_unit = 64;

/// Whether K is cut at all: by the weights' shape.
///
/// Shorter products are left whole: several of them in one packet lose up to 6 % by the running total, and one alone
/// gains as little by sharing. With 16384 features even a single row makes more tiles than a device runs at a time.
COHORT_HD
constexpr bool is_cut(std::uint32_t n, std::uint32_t k) { return k >= 512 && n < 16384; }

/// k-values of each segment but the last, which may have fewer. A function of the weights' shape and nothing else.
COHORT_HD
constexpr std::uint32_t segment_depth(std::uint32_t n, std::uint32_t k) {
  const std::uint32_t wanted = is_cut(n, k) ? most_segments : 1;
  return (k + wanted * segment_unit - 1) / (wanted * segment_unit) * segment_unit;
}

COHORT_HD
constexpr std::uint32_t segments_of(std::uint32_t n, std::uint32_t k) {
  const std::uint32_t depth = segment_depth(n, k);
  return (k + depth - 1) / depth;
}

/// Bytes of device memory for the sums of one part. Larger tiles are not shared: when they are chosen there are enough.
inline constexpr std::uint32_t part_bytes = 32 * 64 * sizeof(float);

/// The sum of the segments before the present one, of one thread's sums. In registers: in local memory it is not cheap,
/// because what little L1 the tiles leave does not hold it, and the pipeline stands still meanwhile.
template <class Sums>
class running_total {
  static constexpr std::uint32_t turns = std::extent_v<Sums, 0>;
  static constexpr std::uint32_t each = std::extent_v<Sums, 1>;

public:
  /// A segment ends that is not the last; the next one begins from zero.
  COHORT_HD
  void end_segment(Sums& sums) {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < turns; ++i) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t j = 0; j < each; ++j) {
        values_[i][j] = add(values_[i][j], sums[i][j]);
        sums[i][j] = 0.0f;
      }
    }
  }

  /// The last of several segments ends: `sums` becomes the total.
  COHORT_HD
  void end_tile(Sums& sums) const {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < turns; ++i) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t j = 0; j < each; ++j) sums[i][j] = add(values_[i][j], sums[i][j]);
    }
  }

private:
  Sums values_ = {};
};

/// Puts one thread's sums into the memory of its part.
template <class Sums>
COHORT_HD
void put_part(std::byte* part, std::uint32_t thread, const Sums& sums) {
  constexpr std::uint32_t turns = std::extent_v<Sums, 0>;
  constexpr std::uint32_t each = std::extent_v<Sums, 1>;
  static_assert(turns * each * block_threads * sizeof(float) <= part_bytes);
  auto* const to = reinterpret_cast<float*>(part) + thread;
  COHORT_GEMM_UNROLLED
  for (std::uint32_t i = 0; i < turns; ++i) {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t j = 0; j < each; ++j) store_shared_by_blocks(to + (i * each + j) * block_threads, sums[i][j]);
  }
}

/// `sums` = those of `parts` parts, `stride` bytes apart, added in order. All reads before the first addition: they
/// come from L2, and one wait is enough.
template <class Sums>
COHORT_HD
void add_parts(const std::byte* first, std::size_t stride, std::uint32_t parts, std::uint32_t thread, Sums& sums) {
  constexpr std::uint32_t turns = std::extent_v<Sums, 0>;
  constexpr std::uint32_t each = std::extent_v<Sums, 1>;
  float read[most_segments][turns * each] = {};
  COHORT_GEMM_UNROLLED
  for (std::uint32_t part = 0; part < most_segments; ++part) {
    if (part >= parts) continue;
    const auto* const from = reinterpret_cast<const float*>(first + part * stride) + thread;
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < turns * each; ++i) read[part][i] = load_shared_by_blocks(from + i * block_threads);
  }
  COHORT_GEMM_UNROLLED
  for (std::uint32_t i = 0; i < turns; ++i) {
    COHORT_GEMM_UNROLLED
    for (std::uint32_t j = 0; j < each; ++j) {
      float total = 0.0f;
      COHORT_GEMM_UNROLLED
      for (std::uint32_t part = 0; part < most_segments; ++part) {
        if (part < parts) total = add(total, read[part][i * each + j]);
      }
      sums[i][j] = total;
    }
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

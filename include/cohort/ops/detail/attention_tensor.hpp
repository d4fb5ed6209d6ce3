// Attention by a block of four warps on tensor cores, for 16-bit types, in the manner of FlashAttention-2 (Dao 2023).
// Entered from ops/attention.hpp.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/combine.hpp>
#include <cohort/ops/detail/attention_block.hpp>
#include <cohort/ops/detail/attention_head.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/ops/detail/warp_primitives.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace cohort::inline COHORT_ABI::ops::detail {

/// Queries of one head that a block of four warps has.
COHORT_HD
constexpr std::uint32_t attention_tensor_queries(std::uint32_t head_size) { return head_size <= 64 ? 64 : 32; }

/// Bytes that the form for tensor cores takes behind the ring: 64 rows of 128 bytes or 32 of 256, and the parts.
template <class T>
inline constexpr std::uint32_t attention_tensor_bytes = 64 * 128 + 4 * sizeof(attention_part<T>);

#if COHORT_GEMM_HAS_MMA

/// The larger one; of a number and a NaN, the number.
struct larger_number {
  COHORT_HD
  float operator()(float a, float b) const { return __builtin_fmaxf(a, b); }
};

/// A warp has 16 queries of one head, and of its scores and sums what `multiply_fragments` leaves in its lanes: lane i
/// has rows i / 4 and i / 4 + 8. Scores count in powers of 2. `Depth` is the head's size, rounded up: elements behind
/// its end are zeros. Sums of more than 64 columns would take more registers than there are: two warps have the same
/// queries then, and half of the columns each.
template <class T, std::uint32_t Depth, class Context>
class attention_tensor_form {
  static constexpr std::uint32_t block_keys = attention_block_keys;
  static constexpr std::uint32_t warp_rows = 16;
  static constexpr std::uint32_t steps = Depth / 16;
  static constexpr std::uint32_t sharers = Depth <= 64 ? 1 : 2;  ///< warps that have the same queries
  static constexpr std::uint32_t columns = Depth / sharers;      ///< of a warp's sums
  static constexpr bool queries_stay = Depth <= 32;              ///< in registers, for all blocks of keys
  using group_type = std::remove_cvref_t<decltype(std::declval<const Context&>().group())>;

public:
  using staged = T;
  static constexpr std::uint32_t query_rows = 4 / sharers * warp_rows;
  static constexpr std::uint32_t bytes_of_row = Depth <= 64 ? 128 : 256;

  COHORT_HD
  static constexpr std::uint32_t row_bytes(std::uint32_t) { return bytes_of_row; }
  COHORT_HD
  static constexpr std::uint32_t stages(std::uint32_t) {
    return attention_ring_bytes / (2 * block_keys * bytes_of_row);
  }
  COHORT_HD
  static constexpr std::uint32_t pieces(std::uint32_t) { return Depth / 8; }

  COHORT_HD
  attention_tensor_form(const Context& context, const attention_part<T>& part, std::byte* queries)
      : context_(context), group_(context.group()), part_(part) {
    const std::uint32_t warp = context.group_index();
    const std::uint32_t rows = warp / sharers * warp_rows;  // before this warp's
    first_column_ = warp % sharers * columns;
    queries_ = queries + rows * bytes_of_row;
    place_ = rows * part.places / query_rows;
    query_ = part.first + rows - place_ * part.queries;
    const std::uint32_t length = part.head.length;
    const bool idle = place_ >= part.heads || query_ >= length;
    const std::uint32_t last = idle || length - query_ < warp_rows ? length : query_ + warp_rows;
    reach_ = idle ? 0 : part.head.causal ? last : length;
    factor_ = part.head.scale * 1.44269504088896341f;
    COHORT_GEMM_UNROLLED
    for (std::uint32_t half = 0; half < 2; ++half) {
      most_[half] = cohort::detail::minus_infinity();
      weight_[half] = 0.0f;
    }
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < columns / 16; ++i) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t e = 0; e < 8; ++e) total_[i][0][e / 4][e % 4] = 0.0f;
    }
  }

  COHORT_HD
  void begin() {
    if constexpr (queries_stay) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t k = 0; k < steps; ++k) load_queries(group_.rank(), k, q_[k]);
    }
  }

  /// Keys and values of one block for this warp's queries.
  COHORT_HD
  void step(const std::byte* stage, std::uint32_t begin) {
    if (begin >= reach_) return;
    const std::uint32_t lane = renewed(context_).group().rank();
    const std::byte* const keys = stage + place_ * 2 * block_keys * bytes_of_row;
    float score[2][1][2][4] = {};  // of 16 keys each
    multiply_keys(lane, keys, score);
    float correction[2];
    weigh(lane, begin, score, correction);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < columns / 16; ++i) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t e = 0; e < 8; ++e) total_[i][0][e / 4][e % 4] *= correction[e % 4 / 2];
    }
    add_values(lane, keys + block_keys * bytes_of_row, score);
  }

  COHORT_HD
  void finish() {
    if (reach_ == 0) return;
    combine_quads(group_, weight_, cohort::detail::add{});
    const attention_head<T>& head = part_.head;
    const std::uint32_t lane = group_.rank();
    COHORT_GEMM_UNROLLED
    for (std::uint32_t half = 0; half < 2; ++half) {
      const std::uint32_t query = query_ + lane / 4 + half * 8;
      if (query >= head.length) continue;
      const float share = reciprocal(weight_[half]);
      T* const out = head.out + place_ * head.size + std::size_t{query} * head.out_stride;
      const bool in_pairs = (reinterpret_cast<std::uintptr_t>(out) & 3u) == 0;
      COHORT_GEMM_UNROLLED
      for (std::uint32_t i = 0; i < columns / 8; ++i) {
        const std::uint32_t column = first_column_ + i * 8 + lane % 4 * 2;
        const float(&sum)[4] = total_[i / 2][0][i % 2];
        const std::uint32_t pair = pack_pair<T>(sum[half * 2] * share, sum[half * 2 + 1] * share);
        if (in_pairs && column + 1 < head.size) {
          store_4(out + column, pair);
        } else {
          if (column < head.size) out[column] = T{static_cast<std::uint16_t>(pair)};
          if (column + 1 < head.size) out[column + 1] = T{static_cast<std::uint16_t>(pair >> 16)};
        }
      }
    }
  }

private:
  /// From one of a row's first two pieces to the one `pairs` pairs of pieces behind it. Addresses differ in a constant
  /// then, instead of each being worked out and kept.
  COHORT_HD
  static const std::byte* behind(const std::byte* piece, std::uint32_t pairs) {
    return reinterpret_cast<const std::byte*>(reinterpret_cast<std::uintptr_t>(piece) ^ pairs % 4 * 32) +
           pairs / 4 * 128;
  }

  /// Rows 0-7 and 8-15 of the first 8 columns, then of the second.
  COHORT_HD
  void load_queries(std::uint32_t lane, std::uint32_t k, std::uint32_t (&to)[1][4]) const {
    const std::byte* const from[1] = {behind(queries_ + attention_place(lane % 16, lane / 16, bytes_of_row), k)};
    load_matrices(group_, from, to);
  }

  /// score = q k^T.
  COHORT_HD
  void multiply_keys(std::uint32_t lane, const std::byte* keys, float (&score)[2][1][2][4]) {
    // Both halves of 16 columns for keys 0-7, then for keys 8-15.
    const std::byte* const first = keys + attention_place(lane % 8 + lane / 16 * 8, lane / 8 % 2, bytes_of_row);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t k = 0; k < steps; ++k) {
      const std::byte* const from[2] = {behind(first, k), behind(first, k) + 16 * bytes_of_row};
      std::uint32_t loaded[2][4];
      load_matrices(group_, from, loaded);
      if constexpr (!queries_stay) load_queries(lane, k, q_[0]);
      COHORT_GEMM_UNROLLED
      for (std::uint32_t half = 0; half < 2; ++half) {
        const std::uint32_t b[2][2] = {{loaded[half][0], loaded[half][1]}, {loaded[half][2], loaded[half][3]}};
        multiply_fragments<T>(group_, q_[queries_stay ? k : 0], b, score[half]);
      }
    }
  }

  /// One step of the softmax: scores become weights, and what was summed before is to be multiplied by `correction`.
  COHORT_HD
  void weigh(std::uint32_t lane, std::uint32_t begin, float (&score)[2][1][2][4], float (&correction)[2]) {
    const attention_head<T>& head = part_.head;
    float now[2] = {most_[0], most_[1]};
    std::uint32_t visible[2];  // keys of this block that a row sees, less those before this lane's first
    COHORT_GEMM_UNROLLED
    for (std::uint32_t half = 0; half < 2; ++half) {
      const std::uint32_t seen = query_ + lane / 4 + half * 8 + 1;
      const std::uint32_t end = head.causal && seen < head.length ? seen : head.length;
      const std::uint32_t first = begin + lane % 4 * 2;
      visible[half] = end > first ? end - first : 0;
    }
    COHORT_GEMM_UNROLLED
    for (std::uint32_t i = 0; i < 4; ++i) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t e = 0; e < 4; ++e) {
        float& s = score[i / 2][0][i % 2][e];
        s = i * 8 + e % 2 < visible[e / 2] ? s * factor_ : cohort::detail::minus_infinity();
        now[e / 2] = larger_number{}(now[e / 2], s);
      }
    }
    combine_quads(group_, now, larger_number{});
    COHORT_GEMM_UNROLLED
    for (std::uint32_t half = 0; half < 2; ++half) {
      const float base = now[half] == cohort::detail::minus_infinity() ? 0.0f : now[half];  // as in update_softmax
      correction[half] = exp2_approximately(most_[half] - base);
      most_[half] = now[half];
      float sum = 0.0f;  // of this lane's keys: `finish` adds those of the quad
      COHORT_GEMM_UNROLLED
      for (std::uint32_t i = 0; i < 4; ++i) {
        COHORT_GEMM_UNROLLED
        for (std::uint32_t e = half * 2; e < half * 2 + 2; ++e) {
          float& s = score[i / 2][0][i % 2][e];
          s = exp2_approximately(s - base);
          sum += s;
        }
      }
      weight_[half] = weight_[half] * correction[half] + sum;
    }
  }

  /// total += weights . v, the weights rounded to T.
  COHORT_HD
  void add_values(std::uint32_t lane, const std::byte* values, const float (&weights)[2][1][2][4]) {
    // Both halves of 16 keys for columns 0-7, then for columns 8-15.
    const std::byte* const first =
        values + attention_place(lane % 16, lane / 16, bytes_of_row) + first_column_ * sizeof(T);
    COHORT_GEMM_UNROLLED
    for (std::uint32_t half = 0; half < 2; ++half) {
      std::uint32_t a[1][4];
      COHORT_GEMM_UNROLLED
      for (std::uint32_t m = 0; m < 4; ++m) {
        const float(&w)[4] = weights[half][0][m / 2];
        a[0][m] = pack_pair<T>(w[m % 2 * 2], w[m % 2 * 2 + 1]);
      }
      COHORT_GEMM_UNROLLED
      for (std::uint32_t i = 0; i < columns / 16; i += 2) {
        const std::byte* const from[2] = {behind(first, i) + half * 16 * bytes_of_row,
                                          behind(first, i + 1) + half * 16 * bytes_of_row};
        std::uint32_t loaded[2][4];
        load_transposed(group_, from, loaded);
        COHORT_GEMM_UNROLLED
        for (std::uint32_t n = 0; n < 2; ++n) {
          const std::uint32_t b[2][2] = {{loaded[n][0], loaded[n][1]}, {loaded[n][2], loaded[n][3]}};
          multiply_fragments<T>(group_, a, b, total_[i + n]);
        }
      }
    }
  }

  const Context& context_;
  group_type group_;
  const attention_part<T>& part_;
  const std::byte* queries_;
  std::uint32_t first_column_;
  std::uint32_t place_;
  std::uint32_t query_;
  std::uint32_t reach_;  ///< keys that any of this warp's queries sees; 0: it has none
  float factor_;
  float most_[2];
  float weight_[2];
  float total_[columns / 16][1][2][4];
  std::uint32_t q_[queries_stay ? steps : 1][1][4];
};

/// A part, its queries and heads spread over four warps.
template <std::uint32_t Depth, class T, class Context>
COHORT_HD
void attend_at_depth(const Context& context, const attention_part<T>& part) {
  using form = attention_tensor_form<T, Depth, Context>;
  static_assert(form::query_rows == attention_tensor_queries(Depth));
  attend_part<form>(context, part);
}

/// A part and those behind it. Where everything lies is kept in shared memory, by each warp for itself, and read where
/// it is needed: registers are for sums.
template <class T, class Context>
COHORT_HD
void attend_by_tensor_cores(const Context& context, const attention_part<T>& part) {
  const auto group = context.group();
  auto* const kept = reinterpret_cast<attention_part<T>*>(context.scratch() + attention_ring_bytes + 64 * 128);
  attention_part<T>& own = kept[context.group_index()];
  if (group.rank() == 0) own = part;
  group.sync();
  for (;;) {
    if (own.head.size <= 32) {
      attend_at_depth<32>(renewed(context), own);
    } else if (own.head.size <= 64) {
      attend_at_depth<64>(renewed(context), own);
    } else {
      attend_at_depth<128>(renewed(context), own);
    }
    if (own.head.length - own.first <= own.round) return;
    group.sync();
    if (group.rank() == 0) own.first += own.round;
    group.sync();
  }
}

#endif  // COHORT_GEMM_HAS_MMA

}  // namespace cohort::inline COHORT_ABI::ops::detail

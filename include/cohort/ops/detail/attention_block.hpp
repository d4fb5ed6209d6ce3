// Attention by a block of threads: what is staged in shared memory and when, for every form, and the form of scalar
// multiply-adds. Entered from ops/attention.hpp; the form for tensor cores is in ops/detail/attention_tensor.hpp.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/combine.hpp>
#include <cohort/ops/detail/attention_head.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/ops/detail/warp_primitives.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops::detail {

/// Keys between two steps of the softmax. They are counted from the start of the sequence, and the number depends on
/// nothing: so does the result.
inline constexpr std::uint32_t attention_block_keys = 32;

/// Blocks of keys and values that are on their way or in use: the ring is as deep as rows of their size allow.
inline constexpr std::uint32_t attention_ring_bytes = 32768;

/// Where 16-byte piece `piece` of row `row` lies among rows of `row_bytes`, a multiple of 128. The pieces of a row are
/// permuted so that one piece of 8 successive rows covers all 32 banks.
COHORT_HD
constexpr std::uint32_t attention_place(std::uint32_t row, std::uint32_t piece, std::uint32_t row_bytes) {
  return row * row_bytes + (piece ^ row % 8) * 16;
}

/// The same context, but the compiler does not know that it is the same, where there is such a form of it: what depends
/// on the rank is worked out anew instead of being kept in registers.
template <class Context>
COHORT_HD
decltype(auto) renewed(const Context& context) {
  if constexpr (requires { context.anew(); }) {
    return context.anew();
  } else {
    return (context);
  }
}

/// Brings rows of `size` elements to shared memory, as elements of type Staged. All threads of the block together; what
/// they brought is there after `commit`, `wait` and a barrier.
template <class Staged, class T, class Context>
class attention_stager {
public:
  /// Each row gets `pieces` pieces, zeros behind its elements. `whole`: rows in memory may be read 16 bytes at a time.
  COHORT_HD
  attention_stager(const Context& context, std::uint32_t size, std::uint32_t pieces, std::uint32_t row_bytes,
                   bool whole)
      : context_(context), size_(size), pieces_(pieces), row_bytes_(row_bytes), whole_(whole) {
    while (1u << shift_ < pieces && 2u << shift_ <= context.size()) ++shift_;
  }

  /// Row r begins `r * stride` behind `from`; those from `there` on are zeros. A thread has the same pieces of all
  /// rows.
  COHORT_HD
  void bring(std::byte* to, const T* from, std::uint32_t stride, std::uint32_t rows, std::uint32_t there) {
    const std::uint32_t rank = renewed(context_).rank();
    for (std::uint32_t row = rank >> shift_; row < rows; row += context_.size() >> shift_) {
      const T* const begin = from + std::size_t{row < there ? row : 0} * stride;
      for (std::uint32_t piece = rank & ((1u << shift_) - 1); piece < pieces_; piece += 1u << shift_) {
        bring_piece(to + attention_place(row, piece, row_bytes_), begin, piece * per_piece, row < there);
      }
    }
  }

  COHORT_HD
  void commit() { copies_.commit(); }

  /// Until at most `younger` of the groups committed last are on their way: 0, 1 or 3.
  COHORT_HD
  void wait(std::uint32_t younger) {
    if (younger == 0) {
      copies_.template wait<0>();
    } else if (younger == 1) {
      copies_.template wait<1>();
    } else {
      copies_.template wait<3>();
    }
  }

private:
  static constexpr std::uint32_t per_piece = 16 / sizeof(Staged);

  COHORT_HD
  void bring_piece(std::byte* to, const T* row, std::uint32_t first, bool there) {
    const std::uint32_t count = there && first < size_ ? size_ - first : 0;
    if constexpr (std::is_same_v<Staged, T>) {
      if (whole_) return copies_.copy(to, row + (count != 0 ? first : 0), count != 0);
    }
    Staged taken[per_piece];
    COHORT_GEMM_UNROLLED
    for (std::uint32_t j = 0; j < per_piece; ++j) {
      if constexpr (std::is_same_v<Staged, T>) {
        taken[j] = j < count ? row[first + j] : T{};
      } else {
        taken[j] = j < count ? to_float(row[first + j]) : 0.0f;
      }
    }
    COHORT_GEMM_UNROLLED
    for (std::uint32_t j = 0; j < per_piece; ++j) reinterpret_cast<Staged*>(to)[j] = taken[j];
  }

  const Context& context_;
  async_copies copies_;
  std::uint32_t size_;
  std::uint32_t pieces_;
  std::uint32_t row_bytes_;
  std::uint32_t shift_ = 0;
  bool whole_;
};

/// Whether all rows begin at multiples of 16 bytes and are whole pieces.
template <class T>
COHORT_HD
bool has_whole_pieces(const attention_head<T>& head) {
  constexpr std::uint32_t per_piece = 16 / sizeof(T);
  return aligned_16(head.q) && aligned_16(head.k) && aligned_16(head.v) && head.size % per_piece == 0 &&
         head.q_stride % per_piece == 0 && head.k_stride % per_piece == 0 && head.v_stride % per_piece == 0;
}

/// All queries of a part. A Form says how many rows of queries it has and how it stages rows; `step` is one block of
/// keys. The ring begins the scratch, the queries follow it.
template <class Form, class T, class Context>
COHORT_HD
void attend_part(const Context& context, const attention_part<T>& part) {
  constexpr std::uint32_t block_keys = attention_block_keys;
  const attention_head<T>& head = part.head;
  const std::uint32_t row_bytes = Form::row_bytes(head.size);
  const std::uint32_t stage_bytes = part.places * 2 * block_keys * row_bytes;
  // A power of 2: a place takes its share of the ring.
  const std::uint32_t stages = Form::stages(head.size) * part.queries / Form::query_rows;
  const std::uint32_t last = head.length - part.first < part.queries ? head.length : part.first + part.queries;
  const std::uint32_t blocks = ((head.causal ? last : head.length) + block_keys - 1) / block_keys;
  std::byte* const behind_ring = context.scratch() + attention_ring_bytes;
  const auto stage_of = [&](std::uint32_t block) { return context.scratch() + (block & (stages - 1)) * stage_bytes; };
  attention_stager<typename Form::staged, T, Context> stager(context, head.size, Form::pieces(head.size), row_bytes,
                                                             has_whole_pieces(head));

  context.sync();  // the scratch may still be in use for the queries before these
  for (std::uint32_t h = 0; h < part.heads; ++h) {
    stager.bring(behind_ring + h * part.queries * row_bytes,
                 head.q + h * head.size + std::size_t{part.first} * head.q_stride, head.q_stride, part.queries,
                 last - part.first);
  }
  Form form(context, part, behind_ring);
  // Copies are `stages` - 1 blocks ahead of the arithmetic.
  COHORT_GEMM_ROLLED
  for (std::uint32_t ahead = 0; ahead < blocks + stages - 1; ++ahead) {
    if (ahead < blocks) {
      if (ahead >= stages) context.sync();  // the block that was in this place has been worked on
      const std::uint32_t begin = ahead * block_keys;
      // Up to the end of the sequence, not to the last key that these queries see: a weight of 0 times what is no
      // number may not depend on which queries share a block.
      const std::uint32_t there = head.length - begin;
      for (std::uint32_t h = 0; h < part.heads; ++h) {
        std::byte* const to = stage_of(ahead) + h * 2 * block_keys * row_bytes;
        stager.bring(to, head.k + h * head.size + std::size_t{begin} * head.k_stride, head.k_stride, block_keys, there);
        stager.bring(to + block_keys * row_bytes, head.v + h * head.size + std::size_t{begin} * head.v_stride,
                     head.v_stride, block_keys, there);
      }
    }
    stager.commit();
    if (ahead + 1 < stages) continue;
    const std::uint32_t block = ahead + 1 - stages;
    stager.wait(stages - 1);
    context.sync();
    if (block == 0) form.begin();
    form.step(stage_of(block), block * block_keys);
  }
  form.finish();
}

inline constexpr std::uint32_t attention_scalar_queries = 16;

/// What the form of scalar multiply-adds has behind the ring. A row belongs to one group from start to end.
struct attention_scalar_rows {
  float query[attention_scalar_queries * largest_head];
  float total[attention_scalar_queries][largest_head];
  float score[attention_scalar_queries][attention_block_keys];
  float most[attention_scalar_queries];
  float weight[attention_scalar_queries];
};

/// 16 queries of one head in fp32, by blocks of any shape. A group takes four queries at a time: a thread per key for
/// the scores, a thread per column for the weighted sums of values.
template <class T, class Context>
class attention_scalar_form {
  static constexpr std::uint32_t block_keys = attention_block_keys;
  static constexpr std::uint32_t at_once = 4;

public:
  using staged = float;
  static constexpr std::uint32_t query_rows = attention_scalar_queries;
  using shared = attention_scalar_rows;

  COHORT_HD
  static constexpr std::uint32_t row_bytes(std::uint32_t size) { return size <= 32 ? 128 : size <= 64 ? 256 : 512; }
  COHORT_HD
  static constexpr std::uint32_t stages(std::uint32_t size) { return size <= 32 ? 4 : size <= 64 ? 2 : 1; }
  COHORT_HD
  static constexpr std::uint32_t pieces(std::uint32_t size) { return (size + 3) / 4; }

  COHORT_HD
  attention_scalar_form(const Context& context, const attention_part<T>& part, std::byte* behind_ring)
      : context_(context),
        head_(part.head),
        first_(part.first),
        rows_(part.head.length - part.first < query_rows ? part.head.length - part.first : query_rows),
        s_(*reinterpret_cast<shared*>(behind_ring)) {}

  COHORT_HD
  void begin() {
    auto&& group = context_.group();
    for (std::uint32_t row = context_.group_index() * at_once; row < rows_; row += context_.group_count() * at_once) {
      shared& s = s_;
      group.for_each(head_.size, [&s, row](std::uint32_t d) {
        for (std::uint32_t r = 0; r < at_once; ++r) s.total[row + r][d] = 0.0f;
      });
      if (group.rank() == 0) {
        for (std::uint32_t r = 0; r < at_once; ++r) {
          s.most[row + r] = cohort::detail::minus_infinity();
          s.weight[row + r] = 0.0f;
        }
      }
      group.sync();
    }
  }

  COHORT_HD
  void step(const std::byte* stage, std::uint32_t begin) {
    for (std::uint32_t row = context_.group_index() * at_once; row < rows_; row += context_.group_count() * at_once) {
      if (head_.causal && first_ + row + at_once <= begin) continue;
      take(stage, begin, row);
    }
  }

  COHORT_HD
  void finish() {
    auto&& group = context_.group();
    group.sync();
    for (std::uint32_t quad = context_.group_index() * at_once; quad < rows_;
         quad += context_.group_count() * at_once) {
      for (std::uint32_t row = quad; row < quad + at_once && row < rows_; ++row) {
        const float* const total = s_.total[row];
        const float share = reciprocal(s_.weight[row]);
        T* const out = head_.out + (std::size_t{first_} + row) * head_.out_stride;
        group.for_each(head_.size, [=](std::uint32_t d) { out[d] = from_float<T>(total[d] * share); });
      }
    }
  }

private:
  /// Keys from `begin` on for queries `row` to `row` + 3.
  COHORT_HD
  void take(const std::byte* stage, std::uint32_t begin, std::uint32_t row) {
    auto&& group = context_.group();
    shared& s = s_;
    const std::uint32_t bytes = row_bytes(head_.size);
    const std::uint32_t count = pieces(head_.size);
    const std::uint32_t query = first_ + row;
    const std::uint32_t keys = head_.length - begin < block_keys ? head_.length - begin : block_keys;
    const float scale = head_.scale;
    const bool causal = head_.causal;
    const auto* const queries = reinterpret_cast<const std::byte*>(s.query);
    group.for_each(block_keys, [=, &s](std::uint32_t j) {
      float dot[at_once] = {};
      COHORT_GEMM_UNROLLED_BY(2)
      for (std::uint32_t piece = 0; piece < count; ++piece) {
        float key[4];
        load_quad(reinterpret_cast<const float*>(stage + attention_place(j, piece, bytes)), key);
        COHORT_GEMM_UNROLLED
        for (std::uint32_t r = 0; r < at_once; ++r) {
          float q[4];
          load_quad(reinterpret_cast<const float*>(queries + attention_place(row + r, piece, bytes)), q);
          COHORT_GEMM_UNROLLED
          for (std::uint32_t e = 0; e < 4; ++e) dot[r] += q[e] * key[e];
        }
      }
      COHORT_GEMM_UNROLLED
      for (std::uint32_t r = 0; r < at_once; ++r) {
        const bool visible = j < keys && !(causal && begin + j > query + r);
        s.score[row + r][j] = visible ? dot[r] * scale : cohort::detail::minus_infinity();
      }
    });
    group.sync();
    float correction[at_once];
    float now[at_once];
    float weight[at_once];
    COHORT_GEMM_UNROLLED
    for (std::uint32_t r = 0; r < at_once; ++r) {
      float* const score = s.score[row + r];
      const float before = s.most[row + r];
      now[r] = cohort::detail::larger{}(before, group.max(block_keys, [=](std::uint32_t j) { return score[j]; }));
      const float base = now[r] == cohort::detail::minus_infinity() ? 0.0f : now[r];  // as in update_softmax
      correction[r] = detail::exp(before - base);
      weight[r] = s.weight[row + r] * correction[r] + group.sum(block_keys, [=](std::uint32_t j) {
        const float power = detail::exp(score[j] - base);
        score[j] = power;
        return power;
      });
    }
    group.sync();
    const std::byte* const values = stage + block_keys * bytes;
    group.for_each(head_.size, [=, &s, &correction](std::uint32_t d) {
      float value[at_once];
      COHORT_GEMM_UNROLLED
      for (std::uint32_t r = 0; r < at_once; ++r) value[r] = s.total[row + r][d] * correction[r];
      COHORT_GEMM_UNROLLED_BY(2)
      for (std::uint32_t j = 0; j < keys; j += 4) {  // behind the last key are zeros
        float v[4];
        COHORT_GEMM_UNROLLED
        for (std::uint32_t e = 0; e < 4; ++e) {
          v[e] = reinterpret_cast<const float*>(values + attention_place(j + e, d / 4, bytes))[d % 4];
        }
        COHORT_GEMM_UNROLLED
        for (std::uint32_t r = 0; r < at_once; ++r) {
          float power[4];
          load_quad(&s.score[row + r][j], power);
          COHORT_GEMM_UNROLLED
          for (std::uint32_t e = 0; e < 4; ++e) value[r] += power[e] * v[e];
        }
      }
      COHORT_GEMM_UNROLLED
      for (std::uint32_t r = 0; r < at_once; ++r) s.total[row + r][d] = value[r];
    });
    if (group.rank() == 0) {
      COHORT_GEMM_UNROLLED
      for (std::uint32_t r = 0; r < at_once; ++r) {
        s.most[row + r] = now[r];
        s.weight[row + r] = weight[r];
      }
    }
  }

  const Context& context_;
  const attention_head<T>& head_;
  std::uint32_t first_;
  std::uint32_t rows_;
  shared& s_;
};

/// A part and those behind it, 16 queries of a head after the other.
template <class T, class Context>
COHORT_HD
void attend_by_scalars(const Context& context, const attention_part<T>& part) {
  for (std::uint32_t first = part.first;; first += part.round) {
    const std::uint32_t left = part.head.length - first;
    const std::uint32_t queries = left < part.queries ? left : part.queries;
    for (std::uint32_t h = 0; h < part.heads; ++h) {
      attention_part<T> one{head_behind(part.head, h), 1, 1, attention_scalar_queries, first, 0};
      for (std::uint32_t done = 0; done < queries; done += attention_scalar_queries) {
        one.first = first + done;
        attend_part<attention_scalar_form<T, Context>>(context, one);
      }
    }
    if (left <= part.round) return;
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail

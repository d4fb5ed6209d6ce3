// The op of multi-head self-attention over one sequence, or over many of different lengths. Users enter here; how one
// host thread computes it is in ops/detail/attention_host.hpp.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/combine.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/ops/detail/attention_host.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/ops/detail/rows.hpp>
#include <cohort/types.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops {

/// out = softmax(scale q k^T) v for each head and sequence. q, k, v and out are [tokens][heads][head_size] with a
/// stride of their own from token to token, so that q, k and v may lie side by side in one matrix. With `causal`, a
/// token sees itself and the tokens before it. Sequences may have any length; `head_size` is at most 128. Arithmetic is
/// fp32, rounded to T once; the softmax is the streaming one (Milakov, Gimelshein 2018) over blocks of keys that are
/// counted from the start of the sequence, so that a sequence's result is the same bits alone, beside others in one op,
/// and beside other ops. Make one with `make_attention` or `make_packed_attention`.
///
/// Without `offsets` the op is one sequence of `tokens` tokens. With them, sequence s is the tokens from offsets[s] to
/// offsets[s + 1]; offsets lie in memory that ops can read, `sequences` + 1 of them, ascending. They are checked where
/// they are used: what is beyond `tokens`, or descends, is cut off, and nothing outside the buffers is touched.
/// `longest` only guides the cutting into tiles; a longer sequence is computed all the same.
///
/// Pointers are aligned to their element. `out` may overlap nothing that the op reads.
template <element T>
struct alignas(16) attention {
  using value_type = T;
  static constexpr const char* name = detail::name_for<T>("attention<fp32>", "attention<fp16>", "attention<bf16>");

  const T* q = nullptr;
  const T* k = nullptr;
  const T* v = nullptr;
  T* out = nullptr;
  const std::uint32_t* offsets = nullptr;  ///< null: one sequence
  std::uint32_t tokens = 0;                ///< of all sequences
  std::uint32_t sequences = 1;
  std::uint32_t longest = 0;
  std::uint32_t q_stride = 0;
  std::uint32_t k_stride = 0;
  std::uint32_t v_stride = 0;
  std::uint32_t out_stride = 0;
  float scale = 1.0f;
  std::uint16_t heads = 0;
  std::uint16_t head_size = 0;
  std::uint16_t tile_heads = 1;  ///< note of `plan`
  bool causal = false;
  std::uint8_t fault = 0;          ///< what `make_attention` found wrong: an errc, 0 for nothing
  std::uint32_t query_blocks = 1;  ///< note of `plan`: tiles that share the queries of a sequence

  /// null_pointer, misaligned, buffer_too_small, bad_size, op_too_large, shape_mismatch or aliasing; no error if the op
  /// may run.
  error_code check() const noexcept {
    const std::uint64_t width = std::uint64_t{heads} * head_size;
    const std::uint64_t read = offsets != nullptr ? std::uint64_t{sequences} + 1 : 0;
    return detail::argument_check{}
        .required(q)
        .required(k)
        .required(v)
        .required(out)
        .aligned(offsets)
        .recorded(fault)
        .sides({tokens, heads, head_size})
        .sides({tokens, std::max({q_stride, k_stride, v_stride, out_stride})})
        .sides({sequences, longest})
        .require(sequences < detail::largest_side && tile_count(std::uint64_t{16}) < detail::largest_side,
                 errc::bad_size)
        .require(head_size <= detail::largest_head, errc::op_too_large)
        .require(q_stride >= width && k_stride >= width && v_stride >= width && out_stride >= width,
                 errc::shape_mismatch)
        .require(offsets != nullptr || sequences == 1, errc::shape_mismatch)
        .apart(out, extent(out_stride), q, extent(q_stride))
        .apart(out, extent(out_stride), k, extent(k_stride))
        .apart(out, extent(out_stride), v, extent(v_stride))
        .apart(out, extent(out_stride), offsets, read);
  }

  op_cost cost() const noexcept {
    const std::uint64_t width = std::uint64_t{heads} * head_size;
    const std::uint64_t keys = std::min(longest, tokens);
    return {.flops = tokens * keys * (4 * width + 24 * std::uint64_t{heads}) / (causal ? 2 : 1),
            .bytes = 4 * tokens * width * sizeof(T)};
  }

  static std::uint32_t plan(std::span<attention> members, const machine_shape& shape) {
    attention& op = members.front();
    const std::uint32_t keys = std::min(op.longest, op.tokens);
    const std::uint32_t queries = shape.host ? host_queries : device_queries;
    op.query_blocks = detail::divide_up(keys, queries);
    op.tile_heads = 1;
    if (shape.host) {
      // Short sequences: several heads to a tile, until it lasts some 20 us.
      constexpr std::uint64_t work = 512 * 1024;
      const std::uint64_t head = 4ull * std::min(keys, queries) * keys * op.head_size;
      op.tile_heads = static_cast<std::uint16_t>(std::clamp<std::uint64_t>(work / head, 1, op.heads));
    }
    return static_cast<std::uint32_t>(op.tile_count(queries));
  }

  template <class Context>
  COHORT_HD
  static void run(Context& context, const attention* members, std::uint32_t, std::uint32_t tile) {
    const attention op = *members;
    const std::uint32_t head_blocks = detail::divide_up(op.heads, op.tile_heads);
    const std::uint32_t query_block = tile % op.query_blocks;
    const std::uint32_t rest = tile / op.query_blocks;
    const std::uint32_t first_head = rest % head_blocks * op.tile_heads;
    const std::uint32_t last_head = op.heads - first_head < op.tile_heads ? op.heads : first_head + op.tile_heads;
    std::uint32_t begin = 0;
    std::uint32_t end = op.tokens;
    if (op.offsets != nullptr) {
      begin = op.offsets[rest / head_blocks];
      end = op.offsets[rest / head_blocks + 1];
      end = end < op.tokens ? end : op.tokens;
      begin = begin < end ? begin : end;
    }
    const std::uint32_t length = end - begin;
    const std::uint32_t queries = Context::cooperative ? device_queries : host_queries;
    for (std::uint32_t h = first_head; h < last_head; ++h) {
      const std::size_t column = std::size_t{h} * op.head_size;
      const detail::attention_head<T> head{op.q + std::size_t{begin} * op.q_stride + column,
                                           op.k + std::size_t{begin} * op.k_stride + column,
                                           op.v + std::size_t{begin} * op.v_stride + column,
                                           op.out + std::size_t{begin} * op.out_stride + column,
                                           op.q_stride,
                                           op.k_stride,
                                           op.v_stride,
                                           op.out_stride,
                                           length,
                                           op.head_size,
                                           op.scale,
                                           op.causal};
      // A sequence longer than `longest` has more blocks of queries than tiles: they go round.
      for (std::uint64_t first = std::uint64_t{query_block} * queries; first < length;
           first += std::uint64_t{op.query_blocks} * queries) {
        const auto at = static_cast<std::uint32_t>(first);
        attend_queries(context, head, at, length - at < queries ? length - at : queries);
      }
    }
  }

private:
  static constexpr std::uint32_t device_queries = 16;
  static constexpr std::uint32_t host_queries = 32;
  static constexpr std::uint32_t block_keys = 32;  ///< keys that a block of threads stages at once

  /// What a block of threads shares; everything is fp32. A row of queries belongs to one group from start to end.
  struct shared {
    float key[detail::largest_head * (block_keys + 1)];  ///< transposed, rows padded so that writes do not collide
    float total[device_queries * detail::largest_head];
    float score[device_queries * block_keys];
    float most[device_queries];
    float weight[device_queries];
  };

public:
  static constexpr std::uint32_t device_scratch_bytes = sizeof(shared);
  static constexpr std::uint32_t host_scratch_bytes = sizeof(detail::attention_host_scratch);

private:
  /// Elements from the first to the last that a matrix with this stride spans.
  std::uint64_t extent(std::uint64_t stride) const noexcept {
    return tokens == 0 ? 0 : (std::uint64_t{tokens} - 1) * stride + std::uint64_t{heads} * head_size;
  }

  std::uint64_t tile_count(std::uint64_t queries) const noexcept {
    const std::uint64_t blocks = (std::min<std::uint64_t>(longest, tokens) + queries - 1) / queries;
    return sequences * blocks * ((heads + tile_heads - 1u) / tile_heads);
  }

  template <class Context>
  COHORT_HD
  static void attend_queries(Context& context, const detail::attention_head<T>& head, std::uint32_t first,
                             std::uint32_t rows) {
    if constexpr (Context::cooperative) {
      attend_together(context, head, first, rows);
    } else {
#if !COHORT_DEVICE_PASS
      auto& scratch = *reinterpret_cast<detail::attention_host_scratch*>(context.scratch());
#if COHORT_HOST_HAS_WIDE
      if (context.wide()) return detail::attend_wide(head, first, rows, scratch);
#endif
      detail::attend(head, first, rows, scratch);
#endif
    }
  }

  /// A block of threads: it stages the keys of a block, then each group takes its queries: a thread per key for the
  /// scores, a thread per column for the weighted sum of values.
  template <class Context>
  COHORT_HD
  static void attend_together(Context& context, const detail::attention_head<T>& head, std::uint32_t first,
                              std::uint32_t rows) {
    constexpr std::uint32_t pitch = block_keys + 1;
    auto& s = *reinterpret_cast<shared*>(context.scratch());
    auto&& group = context.group();
    const std::uint32_t size = head.size;
    context.sync();  // the scratch may still be in use for the queries before these
    for (std::uint32_t row = context.group_index(); row < rows; row += context.group_count()) {
      float* total = s.total + row * detail::largest_head;
      group.for_each(size, [=](std::uint32_t d) { total[d] = 0.0f; });
      if (group.rank() == 0) {
        s.most[row] = cohort::detail::minus_infinity();
        s.weight[row] = 0.0f;
      }
    }
    const std::uint32_t reach = head.causal ? first + rows : head.length;
    for (std::uint32_t begin = 0; begin < reach; begin += block_keys) {
      const std::uint32_t keys = reach - begin < block_keys ? reach - begin : block_keys;
      context.sync();
      const T* k = head.k + std::size_t{begin} * head.k_stride;
      const std::size_t k_stride = head.k_stride;
      float* staged = s.key;
      const std::uint32_t groups = context.group_count();
      // Four keys at a time: a load may not be moved before a store to memory that could be the same.
      for (std::uint32_t j = context.group_index(); j < keys; j += 4 * groups) {
        group.for_each(size, [=](std::uint32_t d) {
          float taken[4] = {};
          for (std::uint32_t i = 0; i < 4; ++i) {
            if (j + i * groups < keys) taken[i] = to_float(k[(j + i * groups) * k_stride + d]);
          }
          for (std::uint32_t i = 0; i < 4; ++i) {
            if (j + i * groups < keys) staged[d * pitch + j + i * groups] = taken[i];
          }
        });
      }
      context.sync();
      for (std::uint32_t row = context.group_index(); row < rows; row += context.group_count()) {
        const std::uint32_t query = first + row;
        std::uint32_t visible = keys;
        if (head.causal) {
          if (query < begin) continue;
          visible = query - begin + 1 < keys ? query - begin + 1 : keys;
        }
        const T* q = head.q + std::size_t{query} * head.q_stride;
        const T* v = head.v + std::size_t{begin} * head.v_stride;
        const float* key = s.key;
        float* score = s.score + row * block_keys;
        float* total = s.total + row * detail::largest_head;
        const float scale = head.scale;
        const std::size_t stride = head.v_stride;
        const float before = s.most[row];
        const float weight = s.weight[row];
        const float now = cohort::detail::larger{}(before, group.max(visible, [=](std::uint32_t j) {
          float dot = 0.0f;
          for (std::uint32_t d = 0; d < size; ++d) dot += to_float(q[d]) * key[d * pitch + j];
          score[j] = dot * scale;
          return dot * scale;
        }));
        const float base = now == cohort::detail::minus_infinity() ? 0.0f : now;  // as in update_softmax
        const float correction = detail::exp(before - base);
        group.sync();
        const float sum = group.sum(visible, [=](std::uint32_t j) {
          const float power = detail::exp(score[j] - base);
          score[j] = power;
          return power;
        });
        group.sync();
        group.for_each(size, [=](std::uint32_t d) {
          float value = total[d] * correction;
          for (std::uint32_t j = 0; j < visible; ++j) value += score[j] * to_float(v[j * stride + d]);
          total[d] = value;
        });
        if (group.rank() == 0) {
          s.most[row] = now;
          s.weight[row] = weight * correction + sum;
        }
      }
    }
    group.sync();
    for (std::uint32_t row = context.group_index(); row < rows; row += context.group_count()) {
      const float* total = s.total + row * detail::largest_head;
      const float weight = s.weight[row];
      T* out = head.out + (std::size_t{first} + row) * head.out_stride;
      group.for_each(size, [=](std::uint32_t d) { out[d] = from_float<T>(total[d] / weight); });
    }
  }
};

/// Sizes of `make_attention`. Strides are in elements; 0 means dense, `heads` * `head_size`.
struct attention_shape {
  std::size_t tokens = 0;
  std::size_t heads = 0;
  std::size_t head_size = 0;
  std::size_t q_stride = 0;
  std::size_t k_stride = 0;
  std::size_t v_stride = 0;
  std::size_t out_stride = 0;
  bool causal = false;
  float scale = 0.0f;  ///< 0: 1 / sqrt(head_size)
  /// Empty: one sequence. Else one offset more than there are sequences, at least 2.
  std::span<const std::uint32_t> offsets = {};
  std::size_t longest = 0;  ///< with offsets: length of the longest sequence if known, 0: `tokens`
};

/// Makes the op. Mistakes are recorded in it and come out of `check()`. Buffers may be larger than the op needs.
template <element T>
attention<T> make_attention(std::type_identity_t<std::span<const T>> q, std::type_identity_t<std::span<const T>> k,
                            std::type_identity_t<std::span<const T>> v, std::type_identity_t<std::span<T>> out,
                            const attention_shape& shape) {
  attention<T> op;
  op.q = q.data();
  op.k = k.data();
  op.v = v.data();
  op.out = out.data();
  op.offsets = shape.offsets.empty() ? nullptr : shape.offsets.data();
  op.causal = shape.causal;
  op.fault = static_cast<std::uint8_t>(errc::bad_size);
  constexpr std::size_t most = 65535;
  if (shape.heads > most || shape.head_size > most || shape.offsets.size() == 1) return op;
  const std::size_t width = shape.heads * shape.head_size;
  const auto stride = [width](std::size_t given) { return given == 0 ? width : given; };
  const std::size_t sequences = shape.offsets.empty() ? 1 : shape.offsets.size() - 1;
  const std::size_t longest = shape.longest == 0 || shape.offsets.empty() ? shape.tokens : shape.longest;
  for (const std::size_t each : {stride(shape.q_stride), stride(shape.k_stride), stride(shape.v_stride),
                                 stride(shape.out_stride), width, longest, sequences}) {
    if (detail::tensor_size({shape.tokens, each}) == 0) return op;
  }
  op.fault = 0;
  op.tokens = detail::side(shape.tokens);
  op.heads = static_cast<std::uint16_t>(shape.heads);
  op.head_size = static_cast<std::uint16_t>(shape.head_size);
  op.q_stride = detail::side(stride(shape.q_stride));
  op.k_stride = detail::side(stride(shape.k_stride));
  op.v_stride = detail::side(stride(shape.v_stride));
  op.out_stride = detail::side(stride(shape.out_stride));
  op.sequences = detail::side(sequences);
  op.longest = detail::side(longest);
  op.scale = shape.scale != 0.0f ? shape.scale : 1.0f / ::sqrtf(static_cast<float>(shape.head_size));
  const auto holds = [&](std::size_t size, std::size_t row) { return size >= (shape.tokens - 1) * row + width; };
  op.fault = detail::fault_unless(holds(q.size(), op.q_stride) && holds(k.size(), op.k_stride) &&
                                      holds(v.size(), op.v_stride) && holds(out.size(), op.out_stride),
                                  errc::buffer_too_small);
  return op;
}

/// The same with q, k and v side by side in one dense matrix [tokens][3][heads][head_size], as one linear layer gives
/// them. The strides of `shape` for q, k and v are not used.
template <element T>
attention<T> make_packed_attention(std::type_identity_t<std::span<const T>> qkv, std::type_identity_t<std::span<T>> out,
                                   attention_shape shape) {
  const std::size_t width = detail::tensor_size({shape.heads, shape.head_size});
  shape.q_stride = shape.k_stride = shape.v_stride = 3 * width;
  if (qkv.size() < 3 * width) {
    attention<T> op = make_attention<T>(qkv, qkv, qkv, out, shape);
    if (op.fault == 0) op.fault = static_cast<std::uint8_t>(errc::buffer_too_small);
    return op;
  }
  return make_attention<T>(qkv, qkv.subspan(width), qkv.subspan(2 * width), out, shape);
}

static_assert(op<attention<float>> && op<attention<fp16>> && op<attention<bf16>> && sizeof(attention<float>) <= 96);

}  // namespace cohort::inline COHORT_ABI::ops

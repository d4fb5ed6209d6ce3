// The op of multi-head self-attention over one sequence, or over many of different lengths. Users enter here; how it is
// computed is in ops/detail: by one host thread in attention_host.hpp, by a block of threads in attention_block.hpp,
// and with tensor cores in attention_tensor.hpp.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/ops/detail/attention_block.hpp>
#include <cohort/ops/detail/attention_head.hpp>
#include <cohort/ops/detail/attention_host.hpp>
#include <cohort/ops/detail/attention_tensor.hpp>
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
/// token sees itself and the tokens before it. Sequences may have any length; `head_size` is at most 128. Sums are
/// fp32, and so is all arithmetic of fp32 ops and of hosts. On a device with tensor cores for the type (sm_80 and
/// later), 16-bit ops round the weights of v, exp(score - largest score so far), to T, as fused attention elsewhere
/// does (Dao 2023, "FlashAttention-2"); the error is that of rounding the result to T. The softmax is the streaming one
/// (Milakov, Gimelshein 2018) over blocks of keys that are counted from the start of the sequence, so that a sequence's
/// result is the same bits alone, beside others in one op, and beside other ops. v is multiplied with the weights 0 of
/// tokens that `causal` hides: infinities and NaN in their v may show. Make one with `make_attention` or
/// `make_packed_attention`.
///
/// On a device, rows that begin at multiples of 16 bytes are read fastest: q, k and v and their strides, and the size
/// of a head.
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
  std::uint16_t tile_heads = 1;  ///< note of `plan`: heads of a tile
  bool causal = false;
  std::uint8_t fault = 0;          ///< what `make_attention` found wrong: an errc, 0 for nothing
  std::uint32_t query_blocks = 1;  ///< note of `plan`: tiles that share the queries of a sequence
  std::uint32_t head_blocks = 1;   ///< note of `plan`: tiles that share the heads
  std::uint32_t tile_queries = 1;  ///< note of `plan`: queries of a tile, of each of its heads

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
    op.tile_heads = shape.host ? host_tile_heads(op, keys) : device_tile_heads(op, keys);
    op.tile_queries = shape.host ? host_queries : device_queries(op) / op.tile_heads;
    op.query_blocks = detail::divide_up(keys, op.tile_queries);
    op.head_blocks = detail::divide_up(op.heads, op.tile_heads);
    return static_cast<std::uint32_t>(op.tile_count(op.tile_queries));
  }

  template <class Context>
  COHORT_HD
  static void run(Context& context, const attention* members, std::uint32_t, std::uint32_t tile) {
    const attention& op = *members;  // read where it is needed: a copy would take the tile's registers
    const std::uint32_t query_block = tile % op.query_blocks;
    const std::uint32_t rest = tile / op.query_blocks;
    const std::uint32_t first_head = rest % op.head_blocks * op.tile_heads;
    const std::uint32_t heads = op.heads - first_head < op.tile_heads ? op.heads - first_head : op.tile_heads;
    std::uint32_t begin = 0;
    std::uint32_t end = op.tokens;
    if (op.offsets != nullptr) {
      begin = op.offsets[rest / op.head_blocks];
      end = op.offsets[rest / op.head_blocks + 1];
      end = end < op.tokens ? end : op.tokens;
      begin = begin < end ? begin : end;
    }
    const std::size_t column = std::size_t{first_head} * op.head_size;
    const detail::attention_head<T> head{op.q + std::size_t{begin} * op.q_stride + column,
                                         op.k + std::size_t{begin} * op.k_stride + column,
                                         op.v + std::size_t{begin} * op.v_stride + column,
                                         op.out + std::size_t{begin} * op.out_stride + column,
                                         op.q_stride,
                                         op.k_stride,
                                         op.v_stride,
                                         op.out_stride,
                                         end - begin,
                                         op.head_size,
                                         op.scale,
                                         op.causal};
    const std::uint32_t first = query_block * op.tile_queries;
    if (first >= head.length) return;  // shorter than `longest`
    // A longer sequence has more blocks of queries than tiles: they go round.
    const std::uint32_t round = op.query_blocks * op.tile_queries;
    const detail::attention_part<T> part{head, heads, op.tile_heads, op.tile_queries, first, round};
    if constexpr (Context::cooperative) {
      attend_together(context, part);
    } else {
      attend_alone(context, part);
    }
  }

private:
  static constexpr std::uint32_t host_queries = 32;

  /// Queries of a device tile, of all its heads.
  static std::uint32_t device_queries(const attention& op) {
    return std::is_same_v<T, float> ? detail::attention_scalar_queries : detail::attention_tensor_queries(op.head_size);
  }

public:
  /// For every form: the ring, and what is behind it.
  static constexpr std::uint32_t device_scratch_bytes =
      detail::attention_ring_bytes + sizeof(detail::attention_scalar_rows);
  static_assert(detail::attention_tensor_bytes<T> <= sizeof(detail::attention_scalar_rows));
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

  /// Short sequences: several heads to a tile, until it lasts some 20 us.
  static std::uint16_t host_tile_heads(const attention& op, std::uint32_t keys) {
    constexpr std::uint64_t work = 512 * 1024;
    const std::uint64_t head = 4ull * std::min(keys, host_queries) * keys * op.head_size;
    return static_cast<std::uint16_t>(std::clamp<std::uint64_t>(work / head, 1, op.heads));
  }

  /// 16-bit types: four warps with 16 queries each, all of one head where there are as many, so that its keys are
  /// staged once; else of two or four heads, for which there must be room.
  static std::uint16_t device_tile_heads(const attention& op, std::uint32_t keys) {
    if (std::is_same_v<T, float> || op.heads == 1) return 1;
    const std::uint32_t queries = device_queries(op);
    if (op.heads > 2 && keys <= queries / 4 && op.head_size <= 64) return 4;
    return keys <= queries / 2 ? 2 : 1;
  }

  /// A block of threads. The last heads may be fewer than there is room for.
  template <class Context>
  COHORT_HD
  static void attend_together(Context& context, const detail::attention_part<T>& part) {
#if COHORT_GEMM_HAS_MMA
    if constexpr (!std::is_same_v<T, float> && has_four_warps<Context>) {
      detail::attend_by_tensor_cores(context, part);
      return;
    }
#endif
    detail::attend_by_scalars(context, part);
  }

  /// Blocks of 128 threads are divided into groups of 32.
  template <class Context>
  static constexpr bool has_four_warps = requires { requires Context::threads == 128; };

  /// One thread of a host.
  template <class Context>
  COHORT_HD
  static void attend_alone(Context& context, const detail::attention_part<T>& part) {
#if !COHORT_DEVICE_PASS
    auto& scratch = *reinterpret_cast<detail::attention_host_scratch*>(context.scratch());
    const auto attend = [&](std::uint32_t h, std::uint32_t first, std::uint32_t rows) {
      const detail::attention_head<T> head = detail::head_behind(part.head, h);
#if COHORT_HOST_HAS_WIDE
      if (context.wide()) return detail::attend_wide(head, first, rows, scratch);
#endif
      detail::attend(head, first, rows, scratch);
    };
    for (std::uint32_t first = part.first;; first += part.round) {
      const std::uint32_t left = part.head.length - first;
      for (std::uint32_t h = 0; h < part.heads; ++h) attend(h, first, std::min(left, part.queries));
      if (left <= part.round) return;
    }
#endif
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

// What a request asks of each op, in the shapes of BERT base with 128 tokens, and where its operands lie: one block of
// memory for each request, on the device or the host, and one that all requests share.
#pragma once

#include "other_ops.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace cohort_bench {

inline constexpr std::size_t tokens = 128;
inline constexpr std::size_t hidden = 768;
inline constexpr std::size_t heads = 12;
inline constexpr std::size_t elements = tokens * hidden;
inline constexpr std::size_t vocabulary = 30'000;

template <class T>
std::span<T> part(std::byte* block, std::size_t first_byte, std::size_t count) {
  return {reinterpret_cast<T*>(block + first_byte), count};
}

/// The parts of a case; bytes from the start of a request's block.
struct op_layout {
  std::size_t block_bytes;
  std::size_t out;        ///< where the output begins
  std::size_t out_count;  ///< its elements
  bool out_is_float = false;
  std::size_t shared_bytes = 256;
};

struct layer_norm_case {
  static constexpr const char* name = "layer_norm";
  static constexpr op_layout layout{2 * elements * 2 + 2 * hidden * 2, elements * 2 + 2 * hidden * 2, elements};
  static op::layer_norm make(std::byte* b, std::byte*) {
    using cohort::bf16;
    return cohort::ops::make_layer_norm<bf16>(part<bf16>(b, 0, elements), part<bf16>(b, elements * 2, hidden),
                                              part<bf16>(b, elements * 2 + hidden * 2, hidden),
                                              part<bf16>(b, layout.out, elements), tokens, hidden);
  }
};

struct rms_norm_case {
  static constexpr const char* name = "rms_norm";
  static constexpr op_layout layout{2 * elements * 2 + hidden * 2, elements * 2 + hidden * 2, elements};
  static op::rms_norm make(std::byte* b, std::byte*) {
    using cohort::bf16;
    return cohort::ops::make_rms_norm<bf16>(part<bf16>(b, 0, elements), part<bf16>(b, elements * 2, hidden),
                                            part<bf16>(b, layout.out, elements), tokens, hidden);
  }
};

/// The scores of all heads.
struct softmax_case {
  static constexpr const char* name = "softmax";
  static constexpr std::size_t scores = heads * tokens * tokens;
  static constexpr op_layout layout{2 * scores * 2, scores * 2, scores};
  static op::softmax make(std::byte* b, std::byte*) {
    using cohort::bf16;
    return cohort::ops::make_softmax<bf16>(part<bf16>(b, 0, scores), part<bf16>(b, layout.out, scores), heads * tokens,
                                           tokens);
  }
};

struct attention_case {
  static constexpr const char* name = "attention";
  static constexpr op_layout layout{4 * elements * 2, 3 * elements * 2, elements};
  static op::attention make(std::byte* b, std::byte*) {
    using cohort::bf16;
    cohort::ops::attention_shape shape;
    shape.tokens = tokens;
    shape.heads = heads;
    shape.head_size = hidden / heads;
    return cohort::ops::make_packed_attention<bf16>(part<bf16>(b, 0, 3 * elements), part<bf16>(b, layout.out, elements),
                                                    shape);
  }
};

/// The table is shared; ids are written by `prepare`.
struct embedding_case {
  static constexpr const char* name = "embedding";
  static constexpr op_layout layout{tokens * 4 + elements * 2, tokens * 4, elements, false, vocabulary* hidden * 2};
  static op::embedding make(std::byte* b, std::byte* shared) {
    using cohort::bf16;
    cohort::ops::embedding_tables<bf16> tables;
    tables.tokens = part<bf16>(shared, 0, vocabulary * hidden);
    tables.hidden = hidden;
    return cohort::ops::make_embedding<bf16>(tables, part<std::int32_t>(b, 0, tokens),
                                             part<bf16>(b, layout.out, elements));
  }
  static void prepare(std::byte* b, std::size_t request) {
    for (std::size_t i = 0; i < tokens; ++i) {
      const auto id = static_cast<std::int32_t>((request * 7919 + i * 104'729) % vocabulary);
      std::memcpy(b + i * sizeof id, &id, sizeof id);
    }
  }
};

struct pooling_case {
  static constexpr const char* name = "mean_pooling";
  static constexpr op_layout layout{elements * 2 + hidden * 4, elements * 2, hidden, true};
  static op::pooling make(std::byte* b, std::byte*) {
    return cohort::ops::make_mean_pooling<cohort::bf16, float>(part<cohort::bf16>(b, 0, elements),
                                                               part<float>(b, layout.out, hidden), tokens, hidden);
  }
};

struct reduction_case {
  static constexpr const char* name = "reduction";
  static constexpr op_layout layout{elements * 4 + 16, elements * 4, 1, true};
  static op::reduction make(std::byte* b, std::byte*) {
    return cohort::ops::make_reduction(part<float>(b, 0, elements), part<float>(b, layout.out, 1),
                                       cohort::ops::sum_of{});
  }
};

struct elementwise_case {
  static constexpr const char* name = "elementwise";
  static constexpr op_layout layout{3 * elements * 2, 2 * elements * 2, elements};
  static op::elementwise make(std::byte* b, std::byte*) {
    using cohort::bf16;
    return cohort::ops::make_elementwise(addition{}, part<bf16>(b, layout.out, elements), part<bf16>(b, 0, elements),
                                         part<bf16>(b, elements * 2, elements));
  }
};

struct copy_case {
  static constexpr const char* name = "copy";
  static constexpr op_layout layout{2 * elements * 2, elements * 2, elements};
  static op::copy make(std::byte* b, std::byte*) {
    return cohort::ops::make_copy(part<cohort::bf16>(b, 0, elements), part<cohort::bf16>(b, layout.out, elements));
  }
};

}  // namespace cohort_bench

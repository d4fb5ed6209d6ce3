// What the simulated tenants run: two op types whose descriptors say all that a device needs, and models as chains of
// them. Device model and load enter; the ops are never run.
#pragma once

#include <cohort/op.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace cohort_sim {

/// A product of `rows` x `k` with weights of `n` x `k` in 16 bits. Equal weights may be fused.
struct alignas(16) dense {
  static constexpr const char* name = "dense";
  std::uint64_t weights = 0;
  std::uint32_t row_count = 1;
  std::uint32_t n = 0;
  std::uint32_t k = 0;
  std::uint32_t fill[11]{};

  cohort::coalescing_key key() const { return {{weights, n, k, 0}}; }
  std::uint32_t rows() const { return row_count; }
  cohort::op_cost cost() const {
    const std::uint64_t outputs = std::uint64_t{row_count} * n;
    return {.flops = 2 * outputs * k, .bytes = 2 * (outputs + std::uint64_t{row_count} * k + std::uint64_t{n} * k)};
  }
  static std::uint32_t plan(std::span<dense> members, const cohort::machine_shape& shape) {
    std::uint32_t rows = 0;
    for (const dense& one : members) rows += one.row_count;
    const std::uint32_t side = (rows + 63) / 64 * ((members[0].n + 63) / 64) < shape.workers ? 32 : 64;
    return (rows + side - 1) / side * ((members[0].n + side - 1) / side);
  }
  template <class Context>
  static void run(Context&, const dense*, std::uint32_t, std::uint32_t) {}
};

/// Attention of one request over its own tokens: shares nothing, so that it is packed and never fused.
struct alignas(16) attention {
  static constexpr const char* name = "attention";
  std::uint32_t tokens = 1;
  std::uint32_t heads = 1;
  std::uint32_t head_size = 1;
  std::uint32_t fill[13]{};

  std::uint32_t tiles() const { return heads; }
  cohort::op_cost cost() const {
    const std::uint64_t width = std::uint64_t{heads} * head_size;
    return {.flops = 4 * std::uint64_t{tokens} * tokens * width, .bytes = 8 * tokens * width};
  }
  template <class Context>
  void run(Context&, std::uint32_t) const {}
};

using ops = cohort::op_set<dense, attention>;
inline constexpr auto op_table = ops::table();
inline constexpr std::uint16_t dense_op = ops::index_of<dense>;
inline constexpr std::uint16_t attention_op = ops::index_of<attention>;
static_assert(sizeof(dense) == 64 && sizeof(attention) == 64);

/// One op of a request. The next is submitted when it has come back.
struct stage {
  std::uint16_t op = dense_op;
  std::uint32_t rows = 1;
  std::uint32_t n = 0;  ///< of attention: heads
  std::uint32_t k = 0;  ///< of attention: size of a head
};

enum class model_kind : std::uint8_t { perceptron, encoder, recurrent };
inline constexpr std::array model_kinds{model_kind::perceptron, model_kind::encoder, model_kind::recurrent};

/// A small perceptron of three layers, two layers of a BERT-like encoder with 16 tokens, eight steps of an LSTM.
inline std::vector<stage> stages_of(model_kind kind) {
  std::vector<stage> all;
  switch (kind) {
    case model_kind::perceptron: all.assign(3, {dense_op, 4, 1024, 1024}); break;
    case model_kind::encoder:
      for (int layer = 0; layer < 2; ++layer) {
        all.push_back({dense_op, 16, 1152, 384});
        all.push_back({attention_op, 16, 12, 32});
        all.push_back({dense_op, 16, 384, 384});
        all.push_back({dense_op, 16, 1536, 384});
        all.push_back({dense_op, 16, 384, 1536});
      }
      break;
    case model_kind::recurrent: all.assign(8, {dense_op, 1, 2048, 1024}); break;
  }
  return all;
}

/// Whether the steps of a model share one set of weights, as those of an LSTM do.
constexpr bool shares_weights(model_kind kind) { return kind == model_kind::recurrent; }

}  // namespace cohort_sim

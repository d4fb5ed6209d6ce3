// A plain forward pass of a BERT sentence encoder: one thread, fp32, straight from the formulas. It proves the loader
// and the golden vectors without any of cohort's ops, and tells a fault in an op from a fault in a file. For tests
// only.
#pragma once

#include <semantic_search/weights.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace minilm_reference {

using matrix = std::vector<float>;  // [tokens][width], row major

/// Eight running sums, so that the loop is not one chain of dependent additions.
inline float dot(const float* a, const float* b, std::size_t count) {
  std::array<float, 8> sums{};
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (std::size_t j = 0; j < 8; ++j) sums[j] += a[i + j] * b[i + j];
  }
  float total = 0;
  for (; i < count; ++i) total += a[i] * b[i];
  for (const float sum : sums) total += sum;
  return total;
}

inline matrix linear(const cohort_demo::linear_weights& w, const matrix& x) {
  const std::size_t tokens = x.size() / w.inputs;
  matrix y(tokens * w.outputs);
  for (std::size_t o = 0; o < w.outputs; ++o) {
    for (std::size_t t = 0; t < tokens; ++t) {
      y[t * w.outputs + o] = w.bias[o] + dot(&x[t * w.inputs], &w.weight[o * w.inputs], w.inputs);
    }
  }
  return y;
}

/// Each row to mean 0 and variance 1 (biased), then scale and shift; in place.
inline void layer_norm(const cohort_demo::layer_norm_weights& w, float epsilon, matrix& x) {
  const std::size_t width = w.weight.size();
  for (std::size_t begin = 0; begin < x.size(); begin += width) {
    double mean = 0, variance = 0;
    for (std::size_t i = 0; i < width; ++i) mean += static_cast<double>(x[begin + i]);
    mean /= static_cast<double>(width);
    for (std::size_t i = 0; i < width; ++i) variance += std::pow(static_cast<double>(x[begin + i]) - mean, 2);
    variance /= static_cast<double>(width);
    const double scale = 1 / std::sqrt(variance + static_cast<double>(epsilon));
    for (std::size_t i = 0; i < width; ++i) {
      const auto normal = static_cast<float>((static_cast<double>(x[begin + i]) - mean) * scale);
      x[begin + i] = normal * w.weight[i] + w.bias[i];
    }
  }
}

inline void add(const matrix& residual, matrix& x) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += residual[i];
}

/// softmax(Q K^T / sqrt(head size)) V for each head. Source: Vaswani et al., "Attention Is All You Need" (2017).
inline matrix attention(const matrix& q, const matrix& k, const matrix& v, std::size_t hidden, std::size_t heads) {
  const std::size_t tokens = q.size() / hidden, size = hidden / heads;
  matrix out(q.size(), 0.0F);
  std::vector<float> scores(tokens);
  for (std::size_t head = 0; head < heads; ++head) {
    const std::size_t column = head * size;
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t s = 0; s < tokens; ++s) {
        scores[s] = dot(&q[t * hidden + column], &k[s * hidden + column], size) / std::sqrt(static_cast<float>(size));
      }
      const float most = *std::max_element(scores.begin(), scores.end());
      float total = 0;
      for (float& score : scores) total += score = std::exp(score - most);
      for (std::size_t s = 0; s < tokens; ++s) {
        const float share = scores[s] / total;
        for (std::size_t i = 0; i < size; ++i) out[t * hidden + column + i] += share * v[s * hidden + column + i];
      }
    }
  }
  return out;
}

/// The embedding of one sequence: [hidden] values of length 1. Ids include [CLS] and [SEP]; the token type is 0.
inline std::vector<float> embed(const cohort_demo::bert_weights& w, std::span<const std::int32_t> ids) {
  const std::size_t hidden = w.config.hidden;
  matrix x(ids.size() * hidden);
  for (std::size_t t = 0; t < ids.size(); ++t) {
    for (std::size_t i = 0; i < hidden; ++i) {
      x[t * hidden + i] = w.word_embeddings[static_cast<std::size_t>(ids[t]) * hidden + i] +
                          w.token_type_embeddings[i] + w.position_embeddings[t * hidden + i];
    }
  }
  layer_norm(w.embedding_norm, w.config.layer_norm_epsilon, x);
  for (const cohort_demo::bert_layer_weights& layer : w.layers) {
    matrix y = linear(layer.attention_output, attention(linear(layer.query, x), linear(layer.key, x),
                                                        linear(layer.value, x), hidden, w.config.heads));
    add(x, y);
    layer_norm(layer.attention_norm, w.config.layer_norm_epsilon, y);
    matrix z = linear(layer.intermediate, y);
    for (float& value : z) value = 0.5F * value * (1 + std::erf(value * 0.70710678F));  // GELU, the exact form
    x = linear(layer.output, z);
    add(y, x);
    layer_norm(layer.output_norm, w.config.layer_norm_epsilon, x);
  }
  std::vector<float> mean(hidden, 0.0F);
  for (std::size_t i = 0; i < x.size(); ++i) mean[i % hidden] += x[i] / static_cast<float>(ids.size());
  const float length = std::sqrt(dot(mean.data(), mean.data(), hidden));
  for (float& value : mean) value /= length;
  return mean;
}

}  // namespace minilm_reference

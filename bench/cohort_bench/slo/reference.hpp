// What the models of `slo` compute, in float64 from the rounded weights, written as the formulas are.
#pragma once

#include "models.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace cohort_bench::slo {

using matrix = std::vector<double>;

template <class T>
matrix as_double(const std::vector<T>& from) {
  matrix all;
  all.reserve(from.size());
  for (const T& value : from) all.push_back(static_cast<double>(cohort::to_float(value)));
  return all;
}

inline double apply_reference(cohort::ops::activation act, double x) {
  switch (act) {
    case cohort::ops::activation::relu: return x < 0 ? 0 : x;
    case cohort::ops::activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    default: return x;
  }
}

/// act(x w^T + bias) + residual
template <class T>
matrix dense_reference(const dense<T>& layer, const matrix& x, const matrix& residual = {}) {
  const std::size_t k = layer.k;
  const std::size_t n = layer.n;
  const std::size_t rows = x.size() / k;
  const matrix w = as_double(layer.w.host);
  matrix y(rows * n);
  for (std::size_t feature = 0; feature < n; ++feature) {
    const double bias = static_cast<double>(cohort::to_float(layer.bias.host[feature]));
    for (std::size_t row = 0; row < rows; ++row) {
      double sums[4] = {};  // four chains of additions: a single one waits for itself
      for (std::size_t i = 0; i < k; ++i) sums[i % 4] += x[row * k + i] * w[feature * k + i];
      const double sum = sums[0] + sums[1] + (sums[2] + sums[3]) + bias;
      const std::size_t at = row * n + feature;
      y[at] = apply_reference(layer.act, sum) + (residual.empty() ? 0 : residual[at]);
    }
  }
  return y;
}

template <class T>
matrix norm_reference(const norm<T>& with, const matrix& x) {
  const std::size_t hidden = with.gamma.host.size();
  matrix y(x.size());
  for (std::size_t begin = 0; begin < x.size(); begin += hidden) {
    double mean = 0;
    double variance = 0;
    for (std::size_t i = 0; i < hidden; ++i) mean += x[begin + i] / static_cast<double>(hidden);
    for (std::size_t i = 0; i < hidden; ++i) {
      variance += (x[begin + i] - mean) * (x[begin + i] - mean) / static_cast<double>(hidden);
    }
    const double scale = 1 / std::sqrt(variance + static_cast<double>(norm_epsilon));
    for (std::size_t i = 0; i < hidden; ++i) {
      y[begin + i] = (x[begin + i] - mean) * scale * static_cast<double>(cohort::to_float(with.gamma.host[i])) +
                     static_cast<double>(cohort::to_float(with.beta.host[i]));
    }
  }
  return y;
}

/// Of one sequence; q, k and v of a token side by side.
inline matrix attention_reference(const matrix& packed, std::size_t tokens, std::size_t heads, std::size_t head_size) {
  const std::size_t width = heads * head_size;
  matrix out(tokens * width);
  matrix weights(tokens);
  for (std::size_t head = 0; head < heads; ++head) {
    for (std::size_t query = 0; query < tokens; ++query) {
      const double* const q = packed.data() + query * 3 * width + head * head_size;
      double total = 0;
      for (std::size_t key = 0; key < tokens; ++key) {
        const double* const k = packed.data() + key * 3 * width + width + head * head_size;
        double dot = 0;
        for (std::size_t i = 0; i < head_size; ++i) dot += q[i] * k[i];
        total += weights[key] = std::exp(dot / std::sqrt(static_cast<double>(head_size)));
      }
      for (std::size_t key = 0; key < tokens; ++key) {
        const double* const v = packed.data() + key * 3 * width + 2 * width + head * head_size;
        for (std::size_t i = 0; i < head_size; ++i) {
          out[query * width + head * head_size + i] += weights[key] / total * v[i];
        }
      }
    }
  }
  return out;
}

template <class T>
matrix lstm_reference(const model<T>& of, const matrix& input) {
  const model_sizes& s = of.sizes();
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  matrix state(s.lstm_hidden);
  matrix h(s.lstm_hidden);
  for (std::uint32_t i = 0; i < s.lstm_steps; ++i) {
    const auto begin = input.begin() + static_cast<std::ptrdiff_t>(std::size_t{i} * s.lstm_input);
    matrix joined(begin, begin + s.lstm_input);
    joined.insert(joined.end(), h.begin(), h.end());
    const matrix gates = dense_reference(of.layers()[0], joined);
    const std::size_t hidden = s.lstm_hidden;
    for (std::size_t j = 0; j < hidden; ++j) {
      state[j] = sigmoid(gates[hidden + j]) * state[j] + sigmoid(gates[j]) * std::tanh(gates[2 * hidden + j]);
      h[j] = sigmoid(gates[3 * hidden + j]) * std::tanh(state[j]);
    }
  }
  return h;
}

/// The output of a request with this input.
template <class T>
matrix reference(const model<T>& of, std::uint32_t variant) {
  const model_sizes& s = of.sizes();
  matrix x = as_double(of.input(variant));
  switch (of.what()) {
    case kind::mlp: return dense_reference(of.layers()[1], dense_reference(of.layers()[0], x));
    case kind::lstm: return lstm_reference(of, x);
    case kind::bert: break;
  }
  for (std::uint32_t i = 0; i < s.bert_layers; ++i) {
    const dense<T>* const layer = of.layers().data() + 4 * i;
    const norm<T>* const norms = of.norms().data() + 2 * i;
    const matrix context =
        attention_reference(dense_reference(layer[0], x), s.bert_tokens, s.bert_heads, s.bert_hidden / s.bert_heads);
    x = norm_reference(norms[0], dense_reference(layer[1], context, x));
    x = norm_reference(norms[1], dense_reference(layer[3], dense_reference(layer[2], x), x));
  }
  return x;
}

/// Of `y` from its reference, relative in the 2-norm; NaN when something was not written.
template <class T>
double error_of(const std::vector<T>& y, const matrix& wanted) {
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double difference = static_cast<double>(cohort::to_float(y[i])) - wanted[i];
    error += difference * difference;
    size += wanted[i] * wanted[i];
  }
  return std::sqrt(error / size);
}

}  // namespace cohort_bench::slo

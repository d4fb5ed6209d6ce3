// All weights of a BERT encoder by role, in plain host memory, and the two places they come from: a safetensors file,
// or synthetic.hpp's generator.
#pragma once

#include "bert_config.hpp"
#include "safetensors.hpp"
#include "synthetic.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace cohort_demo {

/// y = x W^T + b. `weight` is [outputs][inputs], row major; `bias` is [outputs].
struct linear_weights {
  std::size_t outputs = 0, inputs = 0;
  std::vector<float> weight, bias;
};

/// Scale and shift, each [hidden].
struct layer_norm_weights {
  std::vector<float> weight, bias;
};

/// One encoder layer, in the order in which it is computed. The layer norms follow the residual additions (post-norm).
struct bert_layer_weights {
  linear_weights query, key, value, attention_output;
  layer_norm_weights attention_norm;
  linear_weights intermediate, output;
  layer_norm_weights output_norm;
};

/// Every table is row major, [rows][hidden]. Owned copies in fp32: the file may be closed. The pooler, which sentence
/// embeddings do not use, is left out.
struct bert_weights {
  bert_config config;
  std::vector<float> word_embeddings, position_embeddings, token_type_embeddings;
  layer_norm_weights embedding_norm;
  std::vector<bert_layer_weights> layers;
};

namespace detail {

using tensor_shape = std::initializer_list<std::size_t>;

/// The one list of names and shapes. `Source` is called as source(name, shape) and returns the tensor's values.
template <typename Source>
bert_weights assemble(const bert_config& config, Source source) {
  const std::size_t hidden = config.hidden;
  const auto linear = [&](const std::string& name, std::size_t outputs, std::size_t inputs) {
    return linear_weights{outputs, inputs, source(name + ".weight", tensor_shape{outputs, inputs}),
                          source(name + ".bias", tensor_shape{outputs})};
  };
  const auto norm = [&](const std::string& name) {
    return layer_norm_weights{source(name + ".weight", tensor_shape{hidden}),
                              source(name + ".bias", tensor_shape{hidden})};
  };
  bert_weights weights;
  weights.config = config;
  weights.word_embeddings = source("embeddings.word_embeddings.weight", tensor_shape{config.vocabulary, hidden});
  weights.position_embeddings = source("embeddings.position_embeddings.weight", tensor_shape{config.positions, hidden});
  weights.token_type_embeddings =
      source("embeddings.token_type_embeddings.weight", tensor_shape{config.token_types, hidden});
  weights.embedding_norm = norm("embeddings.LayerNorm");
  for (std::size_t i = 0; i < config.layers; ++i) {
    const std::string layer = "encoder.layer." + std::to_string(i) + ".";
    bert_layer_weights& to = weights.layers.emplace_back();
    to.query = linear(layer + "attention.self.query", hidden, hidden);
    to.key = linear(layer + "attention.self.key", hidden, hidden);
    to.value = linear(layer + "attention.self.value", hidden, hidden);
    to.attention_output = linear(layer + "attention.output.dense", hidden, hidden);
    to.attention_norm = norm(layer + "attention.output.LayerNorm");
    to.intermediate = linear(layer + "intermediate.dense", config.intermediate, hidden);
    to.output = linear(layer + "output.dense", hidden, config.intermediate);
    to.output_norm = norm(layer + "output.LayerNorm");
  }
  return weights;
}

}  // namespace detail

/// Takes every tensor that `config` asks for, converted to fp32; names may stand with or without a leading "bert.".
/// Errors: model_error that names the tensor which is missing, has another shape, or holds no real numbers.
inline bert_weights load_weights(const safetensors& file, const bert_config& config) {
  const std::string prefix = file.find("bert.embeddings.word_embeddings.weight") != nullptr ? "bert." : "";
  return detail::assemble(config, [&](const std::string& name, detail::tensor_shape wanted) {
    const tensor_view& tensor = file.at(prefix + name);
    if (!std::equal(wanted.begin(), wanted.end(), tensor.shape.begin(), tensor.shape.end())) {
      std::string sizes;
      for (const std::uint64_t extent : tensor.shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(extent);
      std::string expected;
      for (const std::size_t extent : wanted) expected += (expected.empty() ? "" : ", ") + std::to_string(extent);
      throw model_error(file.origin() + ": tensor " + in_quotes(prefix + name) + " has shape [" + sizes +
                        "], config.json asks for [" + expected + "]");
    }
    try {
      return to_floats(tensor);
    } catch (const model_error& error) {
      throw model_error(file.origin() + ": " + in_quotes(prefix + name) + ": " + error.what());
    }
  });
}

/// Weights from a seed, the same on every machine. See synthetic.hpp for what they are good for.
inline bert_weights synthetic_weights(const bert_config& config, std::uint64_t seed = 0) {
  return detail::assemble(config, [&](const std::string& name, detail::tensor_shape shape) {
    std::size_t count = 1;
    for (const std::size_t extent : shape) count *= extent;
    const std::size_t inputs = shape.size() == 2 ? *(shape.end() - 1) : 0;
    return synthetic_tensor(name, count, inputs, seed);
  });
}

}  // namespace cohort_demo

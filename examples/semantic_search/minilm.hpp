// MiniLM as a coroutine: token ids in, sentence embedding out. Each request is a chain of ops, independent of the
// others; what it shares with them is found by the executor.
#pragma once

#include "kernels.hpp"
#include "weights.hpp"
#include "wordpiece.hpp"

#include <cohort/chain.hpp>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/task.hpp>

#include <algorithm>
#include <span>
#include <vector>

namespace cohort_demo {

/// The encoder with its weights on a device. `Executor` is a cohort::executor over `minilm_ops<T>`; it must outlive the
/// model. After `load` it is immutable: any number of `embed` run at the same time.
template <cohort::element T, class Executor>
class minilm {
public:
  explicit minilm(Executor& gpu, const bert_config& config) : gpu_(gpu), config_(config) {}

  /// Copies the weights to the device. Await it once, before `embed`.
  cohort::task<> load(const bert_weights& weights) {
    co_await upload(words_, weights.word_embeddings);
    co_await upload(positions_, weights.position_embeddings);
    co_await upload(types_, weights.token_type_embeddings);
    co_await load_norm(embedding_norm_, weights.embedding_norm);
    layers_.resize(weights.layers.size());
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const bert_layer_weights& from = weights.layers[i];
      layer& to = layers_[i];
      co_await load_linear(to.qkv, cohort::ops::activation::none, &from.query, &from.key, &from.value);
      co_await load_linear(to.attention_output, cohort::ops::activation::none, &from.attention_output);
      co_await load_norm(to.attention_norm, from.attention_norm);
      co_await load_linear(to.intermediate, cohort::ops::activation::gelu, &from.intermediate);
      co_await load_linear(to.output, cohort::ops::activation::none, &from.output);
      co_await load_norm(to.output_norm, from.output_norm);
    }
  }

  /// The embedding of one text, of length 1. `ids` as wordpiece::encode makes them.
  cohort::task<std::vector<float>> embed(std::vector<token_id> ids) {
    namespace ops = cohort::ops;
    const std::size_t tokens = ids.size(), hidden = config_.hidden, wide = config_.intermediate;
    cohort::backend& device = gpu_.device();
    auto id_memory = cohort::make_pinned_buffer<token_id>(device, std::max<std::size_t>(tokens, 1));
    std::copy(ids.begin(), ids.end(), id_memory.begin());
    auto result = cohort::make_pinned_buffer<float>(device, hidden);
    auto work = cohort::make_device_buffer<T>(device, std::max<std::size_t>(tokens, 1) * (6 * hidden + wide));
    std::size_t used = 0;
    const auto take = [&](std::size_t width) {
      return work.view(std::exchange(used, used + tokens * width), tokens * width);
    };
    const std::span<T> state = take(hidden), sum = take(hidden), qkv = take(3 * hidden), context = take(hidden),
                       between = take(wide);

    const ops::embedding_tables<T> tables{words_.view(), positions_.view(), types_.view(), hidden};
    const ops::attention_shape heads{.tokens = tokens, .heads = config_.heads, .head_size = config_.head_size()};
    cohort::chain<typename Executor::ops> all;
    all.reserve(3 + 7 * layers_.size());
    all.then(ops::make_embedding<T>(tables, id_memory.span(), sum));
    all.then(normalise(embedding_norm_, sum, state, tokens));
    for (const layer& at : layers_) {
      all.then(at.qkv.layer()(state, qkv));
      all.then(ops::make_packed_attention<T>(qkv, context, heads));
      all.then(at.attention_output.layer()(context, sum, state));
      all.then(normalise(at.attention_norm, sum, state, tokens));
      all.then(at.intermediate.layer()(state, between));
      all.then(at.output.layer()(between, sum, state));
      all.then(normalise(at.output_norm, sum, state, tokens));
    }
    all.then(ops::make_mean_pooling<T, float>(state, result.span(), tokens, hidden));
    co_await gpu_.submit(all);
    co_return std::vector<float>(result.begin(), result.end());
  }

private:
  struct linear_on_device {
    cohort::device_buffer<T> weight, bias;
    std::size_t outputs = 0, inputs = 0;
    cohort::ops::activation act = cohort::ops::activation::none;

    cohort::ops::linear_layer<T> layer() const { return {weight.view(), bias.view(), outputs, inputs, act}; }
  };

  struct norm_on_device {
    cohort::device_buffer<T> weight, bias;
  };

  struct layer {
    linear_on_device qkv, attention_output, intermediate, output;
    norm_on_device attention_norm, output_norm;
  };

  cohort::ops::layer_norm<T> normalise(const norm_on_device& norm, std::span<const T> x, std::span<T> y,
                                       std::size_t tokens) const {
    return cohort::ops::make_layer_norm<T>(x, norm.weight.view(), norm.bias.view(), y, tokens, config_.hidden,
                                           config_.layer_norm_epsilon);
  }

  /// Puts up to three parts one behind the other into a new device buffer, rounded to T.
  cohort::task<> upload(cohort::device_buffer<T>& to, std::span<const float> first, std::span<const float> second = {},
                        std::span<const float> third = {}) {
    const std::size_t count = first.size() + second.size() + third.size();
    auto staging = cohort::make_pinned_buffer<T>(gpu_.device(), count);
    auto next = staging.begin();
    for (const auto& part : {first, second, third}) {
      next = std::transform(part.begin(), part.end(), next, [](float value) { return cohort::from_float<T>(value); });
    }
    to = cohort::make_device_buffer<T>(gpu_.device(), count);
    co_await gpu_.submit(cohort::ops::make_copy(staging.span(), to.view()));
  }

  cohort::task<> load_norm(norm_on_device& to, const layer_norm_weights& from) {
    co_await upload(to.weight, from.weight);
    co_await upload(to.bias, from.bias);
  }

  /// Layers with the same input become one: query, key and value are one product.
  cohort::task<> load_linear(linear_on_device& to, cohort::ops::activation act, const linear_weights* first,
                             const linear_weights* second = nullptr, const linear_weights* third = nullptr) {
    static const linear_weights none;
    const linear_weights& b = second != nullptr ? *second : none;
    const linear_weights& c = third != nullptr ? *third : none;
    to.outputs = first->outputs + b.outputs + c.outputs;
    to.inputs = first->inputs;
    to.act = act;
    co_await upload(to.weight, first->weight, b.weight, c.weight);
    co_await upload(to.bias, first->bias, b.bias, c.bias);
  }

  Executor& gpu_;
  bert_config config_;
  cohort::device_buffer<T> words_, positions_, types_;
  norm_on_device embedding_norm_;
  std::vector<layer> layers_;
};

}  // namespace cohort_demo

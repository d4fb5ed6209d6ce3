// The models that tenants of `slo` run: weights, working memory, and a request as a list of ops. One definition for all
// arms and both backends: an arm differs in how it gets the ops done, not in what they compute.
#pragma once

#include "slo_ops.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace cohort_bench::slo {

enum class kind : std::uint8_t { mlp, bert, lstm };
inline constexpr std::size_t kinds = 3;

constexpr std::string_view name_of(kind one) {
  return one == kind::mlp ? "MLP" : one == kind::bert ? "BERT-like" : "LSTM";
}

/// Of all models that a run has.
struct model_sizes {
  std::uint32_t mlp_width, mlp_inner;  ///< two layers, one row
  std::uint32_t bert_layers, bert_hidden, bert_heads, bert_inner, bert_tokens;
  std::uint32_t lstm_input, lstm_hidden, lstm_steps;  ///< one row
};

inline constexpr model_sizes sizes_on_gpu{512, 1024, 2, 384, 12, 1536, 16, 256, 512, 4};
inline constexpr model_sizes sizes_on_host{64, 128, 2, 64, 4, 128, 8, 32, 64, 3};

/// Memory that ops can use. It lives as long as the store.
class store {
public:
  virtual ~store() = default;

  /// Zeroed, aligned to 256 bytes.
  virtual void* take(std::size_t bytes) = 0;
  virtual void write(void* to, const void* from, std::size_t bytes) = 0;
  virtual void read(void* to, const void* from, std::size_t bytes) = 0;
};

template <class T>
using step = std::variant<cohort::ops::linear<T>, cohort::ops::attention<T>, cohort::ops::layer_norm<T>, lstm_cell<T>>;

/// A request: its ops in their order.
template <class T>
using program = std::vector<step<T>>;

/// A matrix or vector on the device, and as the reference reads it.
template <class T>
struct tensor {
  std::vector<T> host;
  T* device = nullptr;

  std::span<const T> view() const { return {device, host.size()}; }
};

template <class T>
struct dense {
  tensor<T> w, bias;
  std::uint32_t n = 0, k = 0;
  cohort::ops::activation act = cohort::ops::activation::none;

  cohort::ops::linear<T> operator()(const T* x, T* y, std::uint32_t rows, const T* residual = nullptr) const {
    const std::size_t outputs = std::size_t{rows} * n;
    return cohort::ops::make_linear<T>({x, std::size_t{rows} * k}, w.view(), bias.view(), {y, outputs}, {rows, n, k},
                                       act, {residual, residual == nullptr ? 0 : outputs});
  }
};

template <class T>
struct norm {
  tensor<T> gamma, beta;
};

namespace detail {

template <class... P>
void shift(std::size_t bytes, P*&... pointers) {
  const std::size_t by[] = {bytes / sizeof(P)...};
  std::size_t i = 0;
  (void)((pointers += pointers == nullptr ? 0 : by[i], ++i), ...);
}

}  // namespace detail

inline constexpr float norm_epsilon = 1e-5f;

/// Uniform values in (-1, 1) that depend on the seed alone.
class noise {
public:
  explicit noise(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  float operator()() {
    state_ = state_ * 6'364'136'223'846'793'005u + 1'442'695'040'888'963'407u;
    return static_cast<float>(static_cast<std::int32_t>(state_ >> 32)) * 0x1p-31f;
  }

private:
  std::uint64_t state_;
};

/// One tenant's model with weights of its own, drawn with the seed and scaled so that values keep their size from layer
/// to layer.
template <class T>
class model {
public:
  model(kind what, const model_sizes& sizes, std::uint64_t seed, store& memory) : kind_(what), sizes_(sizes) {
    noise random(seed);
    const auto tensor_of = [&](std::size_t count, float scale, float mean = 0) {
      tensor<T> one;
      one.host.resize(count);
      for (T& value : one.host) value = cohort::from_float<T>(mean + scale * random());
      one.device = static_cast<T*>(memory.take(count * sizeof(T)));
      memory.write(one.device, one.host.data(), count * sizeof(T));
      return one;
    };
    const auto add_dense = [&](std::uint32_t n, std::uint32_t k, cohort::ops::activation act = {}) {
      dense<T>& one = layers_.emplace_back();
      one.n = n;
      one.k = k;
      one.act = act;
      one.w = tensor_of(std::size_t{n} * k, std::sqrt(3.0f / static_cast<float>(k)));
      one.bias = tensor_of(n, 0.1f);
    };
    const auto add_norm = [&](std::uint32_t hidden) {
      norm<T>& one = norms_.emplace_back();
      one.gamma = tensor_of(hidden, 0.1f, 1.0f);
      one.beta = tensor_of(hidden, 0.1f);
    };
    using cohort::ops::activation;
    switch (what) {
      case kind::mlp:
        add_dense(sizes.mlp_inner, sizes.mlp_width, activation::relu);
        add_dense(sizes.mlp_width, sizes.mlp_inner);
        break;
      case kind::bert:
        for (std::uint32_t i = 0; i < sizes.bert_layers; ++i) {
          add_dense(3 * sizes.bert_hidden, sizes.bert_hidden);
          add_dense(sizes.bert_hidden, sizes.bert_hidden);
          add_norm(sizes.bert_hidden);
          add_dense(sizes.bert_inner, sizes.bert_hidden, activation::gelu);
          add_dense(sizes.bert_hidden, sizes.bert_inner);
          add_norm(sizes.bert_hidden);
        }
        break;
      case kind::lstm: add_dense(4 * sizes.lstm_hidden, sizes.lstm_input + sizes.lstm_hidden); break;
    }
  }

  kind what() const { return kind_; }
  const model_sizes& sizes() const { return sizes_; }
  const std::vector<dense<T>>& layers() const { return layers_; }
  const std::vector<norm<T>>& norms() const { return norms_; }

  /// Elements of a request's input, and of its output.
  std::size_t inputs() const {
    switch (kind_) {
      case kind::mlp: return sizes_.mlp_width;
      case kind::bert: return std::size_t{sizes_.bert_tokens} * sizes_.bert_hidden;
      case kind::lstm: return std::size_t{sizes_.lstm_steps} * sizes_.lstm_input;
    }
    return 0;
  }
  std::size_t outputs() const { return kind_ == kind::lstm ? sizes_.lstm_hidden : inputs(); }

  /// Inputs of which there are `variants`, so that a request that gets another's is found out.
  static constexpr std::uint32_t variants = 2;
  std::vector<T> input(std::uint32_t variant) const {
    noise random(0x1000u + variant);
    std::vector<T> all(inputs());
    for (T& value : all) value = cohort::from_float<T>(1.7f * random());
    return all;
  }

private:
  kind kind_;
  model_sizes sizes_;
  std::vector<dense<T>> layers_;
  std::vector<norm<T>> norms_;
};

/// Working memory for up to `capacity` requests of one model that are computed together, side by side in every matrix:
/// one block, so that the ops of one area are those of another with shifted addresses. Position p has input variant
/// p + `first_variant`, written once: a request is done when its output is there.
template <class T>
class work_area {
public:
  /// Bytes of the block, zeroed and aligned to 256 bytes, that the constructor needs.
  static std::size_t bytes(const model<T>& of, std::uint32_t capacity) { return work_area(of, capacity).used_; }

  work_area(const model<T>& of, std::uint32_t capacity, std::uint32_t first_variant, void* block, store& memory)
      : work_area(of, capacity) {
    block_ = static_cast<std::byte*>(block);
    if (of.what() == kind::bert && capacity > 1) {
      std::vector<std::uint32_t> each;
      for (std::uint32_t i = 0; i <= capacity; ++i) each.push_back(i * of.sizes().bert_tokens);
      memory.write(block_ + offsets_, each.data(), each.size() * sizeof(std::uint32_t));
    }
    for (std::uint32_t i = 0; i < capacity; ++i) write_input(i, first_variant + i, memory);
  }

  T* output(std::uint32_t position) const { return at(y_) + position * model_->outputs(); }

  /// The ops of the first `batch` positions as one request.
  program<T> make_program(std::uint32_t batch) const {
    if (batch == 0 || batch > capacity_) throw std::invalid_argument("slo: a batch that the work area has no room for");
    switch (model_->what()) {
      case kind::mlp:
        return {model_->layers()[0](at(x_), at(wide_), batch), model_->layers()[1](at(wide_), at(y_), batch)};
      case kind::bert: return bert(batch);
      case kind::lstm: return lstm(batch);
    }
    return {};
  }

private:
  /// Without a block: where everything will be.
  work_area(const model<T>& of, std::uint32_t capacity) : model_(&of), capacity_(capacity) {
    const model_sizes& s = of.sizes();
    const auto take = [&](std::size_t per_request, std::size_t element = sizeof(T)) {
      const std::size_t begin = used_;
      used_ += (capacity * per_request * element + 255) / 256 * 256;
      return begin;
    };
    y_ = take(of.outputs());
    switch (of.what()) {
      case kind::mlp:
        x_ = take(of.inputs());
        wide_ = take(s.mlp_inner);
        break;
      case kind::bert:
        x_ = take(of.inputs());
        packed_ = take(3 * of.inputs());
        context_ = take(of.inputs());
        sum_ = take(of.inputs());
        state_ = take(of.inputs());
        wide_ = take(std::size_t{s.bert_tokens} * s.bert_inner);
        offsets_ = take(2, sizeof(std::uint32_t));
        break;
      case kind::lstm:
        // A step's input and the state that joins it lie side by side. What comes before the first step is zero.
        x_ = take(std::size_t{s.lstm_steps} * (s.lstm_input + s.lstm_hidden));
        wide_ = take(4 * std::size_t{s.lstm_hidden});
        cell_ = take(s.lstm_hidden, sizeof(float));
        break;
    }
  }

  T* at(std::size_t offset) const { return reinterpret_cast<T*>(block_ + offset); }

  void write_input(std::uint32_t position, std::uint32_t variant, store& memory) {
    const std::vector<T> input = model_->input(variant % model<T>::variants);
    if (model_->what() != kind::lstm) {
      memory.write(at(x_) + position * input.size(), input.data(), input.size() * sizeof(T));
      return;
    }
    const model_sizes& s = model_->sizes();
    for (std::uint32_t i = 0; i < s.lstm_steps; ++i) {
      T* const row = step_input(i) + std::size_t{position} * (s.lstm_input + s.lstm_hidden);
      memory.write(row, input.data() + std::size_t{i} * s.lstm_input, s.lstm_input * sizeof(T));
    }
  }

  T* step_input(std::uint32_t i) const {
    const model_sizes& s = model_->sizes();
    return at(x_) + std::size_t{i} * capacity_ * (s.lstm_input + s.lstm_hidden);
  }

  program<T> bert(std::uint32_t batch) const {
    const model_sizes& s = model_->sizes();
    const std::uint32_t rows = batch * s.bert_tokens;
    const std::size_t plain = std::size_t{rows} * s.bert_hidden;
    cohort::ops::attention_shape heads{
        .tokens = rows, .heads = s.bert_heads, .head_size = s.bert_hidden / s.bert_heads};
    if (batch > 1) {
      heads.offsets = {reinterpret_cast<const std::uint32_t*>(block_ + offsets_), batch + 1};
      heads.longest = s.bert_tokens;
    }
    program<T> all;
    const T* from = at(x_);
    for (std::uint32_t i = 0; i < s.bert_layers; ++i) {
      const dense<T>* const layer = model_->layers().data() + 4 * i;
      const norm<T>* const norms = model_->norms().data() + 2 * i;
      const auto normalise = [&](const norm<T>& with, T* to) {
        return cohort::ops::make_layer_norm<T>({at(sum_), plain}, with.gamma.view(), with.beta.view(), {to, plain},
                                               rows, s.bert_hidden, norm_epsilon);
      };
      all.push_back(layer[0](from, at(packed_), rows));
      all.push_back(cohort::ops::make_packed_attention<T>({at(packed_), 3 * plain}, {at(context_), plain}, heads));
      all.push_back(layer[1](at(context_), at(sum_), rows, from));
      all.push_back(normalise(norms[0], at(state_)));
      all.push_back(layer[2](at(state_), at(wide_), rows));
      all.push_back(layer[3](at(wide_), at(sum_), rows, at(state_)));
      all.push_back(normalise(norms[1], i + 1 == s.bert_layers ? at(y_) : at(state_)));
      from = at(state_);
    }
    return all;
  }

  program<T> lstm(std::uint32_t batch) const {
    const model_sizes& s = model_->sizes();
    program<T> all;
    for (std::uint32_t i = 0; i < s.lstm_steps; ++i) {
      all.push_back(model_->layers()[0](step_input(i), at(wide_), batch));
      lstm_cell<T> cell;
      const bool last = i + 1 == s.lstm_steps;
      cell.gates = at(wide_);
      cell.state = reinterpret_cast<float*>(block_ + cell_);
      cell.before = i == 0 ? nullptr : cell.state;
      cell.h = last ? at(y_) : step_input(i + 1) + s.lstm_input;
      cell.h_stride = last ? s.lstm_hidden : s.lstm_input + s.lstm_hidden;
      cell.row_count = batch;
      cell.hidden = s.lstm_hidden;
      all.push_back(cell);
    }
    return all;
  }

  const model<T>* model_;
  std::uint32_t capacity_;
  std::byte* block_ = nullptr;
  std::size_t used_ = 0;
  // Bytes from the beginning of the block.
  std::size_t x_ = 0, y_ = 0, wide_ = 0, packed_ = 0, context_ = 0, sum_ = 0, state_ = 0, cell_ = 0, offsets_ = 0;
};

/// The op with its activations `bytes` further on: the same step of a request in another area of equal makeup.
template <class T>
cohort::ops::linear<T> shifted(cohort::ops::linear<T> one, std::size_t bytes) {
  detail::shift(bytes, one.x, one.y, one.residual);
  return one;
}
template <class T>
cohort::ops::attention<T> shifted(cohort::ops::attention<T> one, std::size_t bytes) {
  detail::shift(bytes, one.q, one.k, one.v, one.out);
  return one;
}
template <class T>
cohort::ops::layer_norm<T> shifted(cohort::ops::layer_norm<T> one, std::size_t bytes) {
  detail::shift(bytes, one.x, one.y, one.residual);
  return one;
}
template <class T>
lstm_cell<T> shifted(lstm_cell<T> one, std::size_t bytes) {
  detail::shift(bytes, one.gates, one.before, one.state, one.h);
  return one;
}

}  // namespace cohort_bench::slo

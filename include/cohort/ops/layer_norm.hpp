// The op of layer normalisation, with the residual addition that precedes it in transformers. Users enter here.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/ops/detail/packs.hpp>
#include <cohort/ops/detail/rows.hpp>
#include <cohort/types.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops {

/// y = (v - mean(v)) / sqrt(variance(v) + epsilon) * gamma + beta with v = x + residual, for each of `row_count` rows
/// of `hidden` elements (Ba, Kiros, Hinton 2016). The variance is the mean of (v - mean)^2, computed in a second pass
/// over the row. Matrices are dense and row-major, pointers aligned to their element, arithmetic is fp32 and rounded to
/// T once. Make one with `make_layer_norm`.
///
/// `y` may be `x` or `residual` itself; it may overlap nothing else that the op reads. A row's result depends on that
/// row alone.
template <element T>
struct alignas(16) layer_norm {
  using value_type = T;
  static constexpr const char* name = detail::name_for<T>("layer_norm<fp32>", "layer_norm<fp16>", "layer_norm<bf16>");

  const T* x = nullptr;
  const T* residual = nullptr;  ///< null: none
  const T* gamma = nullptr;
  const T* beta = nullptr;  ///< null: none
  T* y = nullptr;
  std::uint32_t row_count = 0;
  std::uint32_t hidden = 0;
  float epsilon = 1e-12f;
  std::uint16_t tile_rows = 0;  ///< note of `plan`
  std::uint8_t fault = 0;       ///< what `make_layer_norm` found wrong: an errc, 0 for nothing

  /// null_pointer, misaligned, buffer_too_small, bad_size or aliasing; no error if the op may run.
  error_code check() const noexcept {
    const std::uint64_t elements = detail::tensor_size({row_count, hidden});
    return detail::argument_check{}
        .required(x)
        .required(gamma)
        .required(y)
        .aligned(residual)
        .aligned(beta)
        .recorded(fault)
        .sides({row_count, hidden})
        .same_or_apart(y, elements, x, elements)
        .same_or_apart(y, elements, residual, elements)
        .apart(y, elements, gamma, hidden)
        .apart(y, elements, beta, hidden);
  }

  op_cost cost() const noexcept {
    const std::uint64_t elements = std::uint64_t{row_count} * hidden;
    return {.flops = 8 * elements,
            .bytes = (elements * (residual != nullptr ? 3 : 2) + 2 * std::uint64_t{hidden}) * sizeof(T)};
  }

  static std::uint32_t plan(std::span<layer_norm> members, const machine_shape& shape) {
    layer_norm& op = members.front();
    op.tile_rows = detail::rows_per_tile(shape, op.row_count, op.hidden);
    return detail::divide_up(op.row_count, op.tile_rows);
  }

  template <class Context>
  COHORT_HD
  static void run(Context& context, const layer_norm* members, std::uint32_t, std::uint32_t tile) {
    const layer_norm op = *members;
    detail::with_constant(op.residual != nullptr, [&](auto has_residual) {
      detail::for_each_row(context, op.row_count, op.tile_rows, tile, [&](auto& group, std::uint32_t row) {
        if constexpr (Context::cooperative) {
          normalise_in_registers<decltype(has_residual)::value>(group, op, row);
        } else {
          normalise<decltype(has_residual)::value>(group, op, row);
        }
      });
    });
  }

private:
  template <bool HasResidual, class Group>
  COHORT_HD
  static void normalise_in_registers(Group& group, const layer_norm& op, std::uint32_t row) {
    constexpr std::uint32_t size = detail::pack_size<T>;
    const std::size_t begin = std::size_t{row} * op.hidden;
    const bool whole =
        op.hidden % size == 0 && detail::aligned_to_packs<size>(op.x, op.residual, op.gamma, op.beta, op.y);
    auto values = detail::read_row<size>(group, op.hidden, whole, [&]<std::uint32_t N>(std::uint32_t i, float(&to)[N]) {
      detail::load_pack(op.x + begin + i, to);
      if constexpr (HasResidual) {
        float residual[N];
        detail::load_pack(op.residual + begin + i, residual);
        COHORT_OPS_UNROLLED
        for (std::uint32_t j = 0; j < N; ++j) to[j] += residual[j];
      }
    });
    const float share = detail::reciprocal(static_cast<float>(op.hidden));
    const float mean = values.sum([](float v) { return v; }) * share;
    const float variance = values.sum([=](float v) { return (v - mean) * (v - mean); }) * share;
    const float scale = detail::reciprocal_root(variance + op.epsilon);
    values.store(op.y + begin, [&]<std::uint32_t N>(std::uint32_t i, float(&v)[N]) {
      float gamma[N];
      float beta[N] = {};
      detail::load_pack(op.gamma + i, gamma);
      if (op.beta != nullptr) detail::load_pack(op.beta + i, beta);
      COHORT_OPS_UNROLLED
      for (std::uint32_t j = 0; j < N; ++j) v[j] = (v[j] - mean) * scale * gamma[j] + beta[j];
    });
  }

  template <bool HasResidual, class Group>
  COHORT_HD
  static void normalise(Group& group, const layer_norm& op, std::uint32_t row) {
    const std::size_t begin = std::size_t{row} * op.hidden;
    const T* x = op.x + begin;
    const T* residual = HasResidual ? op.residual + begin : nullptr;
    const T* gamma = op.gamma;
    T* y = op.y + begin;
    const auto input = [=](std::uint32_t i) {
      if constexpr (HasResidual) return to_float(x[i]) + to_float(residual[i]);
      return to_float(x[i]);
    };
    const float count = static_cast<float>(op.hidden);
    const float mean = group.sum(op.hidden, input) / count;
    const float variance = group.sum(op.hidden, [=](std::uint32_t i) {
      const float centred = input(i) - mean;
      return centred * centred;
    }) / count;
    const float scale = 1.0f / ::sqrtf(variance + op.epsilon);
    if (const T* beta = op.beta; beta != nullptr) {
      group.for_each(op.hidden, [=](std::uint32_t i) {
        y[i] = from_float<T>((input(i) - mean) * scale * to_float(gamma[i]) + to_float(beta[i]));
      });
    } else {
      group.for_each(op.hidden,
                     [=](std::uint32_t i) { y[i] = from_float<T>((input(i) - mean) * scale * to_float(gamma[i])); });
    }
  }
};

/// Makes the op; `gamma` is [hidden], `beta` [hidden] or empty (none), `residual` as x or empty (none). Mistakes are
/// recorded in it and come out of `check()`: see there; shape_mismatch when gamma or beta has not `hidden` elements.
/// Buffers of rows may be larger than the op needs.
template <element T>
layer_norm<T> make_layer_norm(std::type_identity_t<std::span<const T>> x,
                              std::type_identity_t<std::span<const T>> gamma,
                              std::type_identity_t<std::span<const T>> beta, std::type_identity_t<std::span<T>> y,
                              std::size_t rows, std::size_t hidden, float epsilon = 1e-12f,
                              std::type_identity_t<std::span<const T>> residual = {}) {
  layer_norm<T> op;
  op.x = x.data();
  op.residual = residual.empty() ? nullptr : residual.data();
  op.gamma = gamma.data();
  op.beta = beta.empty() ? nullptr : beta.data();
  op.y = y.data();
  op.row_count = detail::side(rows);
  op.hidden = detail::side(hidden);
  op.epsilon = epsilon;
  const std::uint64_t elements = detail::tensor_size({rows, hidden});
  if (elements == 0) {
    op.fault = static_cast<std::uint8_t>(errc::bad_size);
  } else if (x.size() < elements || y.size() < elements || (op.residual != nullptr && residual.size() < elements)) {
    op.fault = static_cast<std::uint8_t>(errc::buffer_too_small);
  } else {
    op.fault = detail::fault_unless(gamma.size() == hidden && (op.beta == nullptr || beta.size() == hidden),
                                    errc::shape_mismatch);
  }
  return op;
}

static_assert(sizeof(layer_norm<float>) == 64 && op<layer_norm<float>> && op<layer_norm<fp16>> && op<layer_norm<bf16>>);

}  // namespace cohort::inline COHORT_ABI::ops

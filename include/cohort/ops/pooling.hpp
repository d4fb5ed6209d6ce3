// The op that turns the tokens of a sequence into one vector: their mean, normalised. Users enter here.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/ops/detail/rows.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops {

/// out = m / max(|m|, epsilon) with m the mean over the rows of x[tokens][hidden], or m itself where `normalise` is
/// false: what sentence-embedding models end in. x is dense and row-major, pointers aligned to their element; sums are
/// fp32, rounded once to Out. Make one with `make_mean_pooling`.
///
/// One op is one tile: its columns need each other for the norm. `hidden` is at most `largest_hidden`. `out` may not
/// overlap x.
template <element T, element Out = float>
struct alignas(16) mean_pooling {
  using value_type = T;
  static constexpr const char* name =
      detail::name_for<T>("mean_pooling<fp32>", "mean_pooling<fp16>", "mean_pooling<bf16>");
  static constexpr std::uint32_t largest_hidden = 6144;
  static constexpr std::uint32_t device_scratch_bytes = largest_hidden * sizeof(float);
  static constexpr std::uint32_t host_scratch_bytes = device_scratch_bytes;

  const T* x = nullptr;
  Out* out = nullptr;
  std::uint32_t tokens = 0;
  std::uint32_t hidden = 0;
  float epsilon = 1e-12f;
  bool normalise = true;
  std::uint8_t fault = 0;  ///< what `make_mean_pooling` found wrong: an errc, 0 for nothing

  /// null_pointer, misaligned, buffer_too_small, bad_size, op_too_large or aliasing; no error if the op may run.
  error_code check() const noexcept {
    return detail::argument_check{}
        .required(x)
        .required(out)
        .recorded(fault)
        .sides({tokens, hidden})
        .require(hidden <= largest_hidden, errc::op_too_large)
        .apart(out, hidden, x, detail::tensor_size({tokens, hidden}));
  }

  op_cost cost() const noexcept {
    const std::uint64_t elements = std::uint64_t{tokens} * hidden;
    return {.flops = elements + 4 * std::uint64_t{hidden},
            .bytes = elements * sizeof(T) + std::uint64_t{hidden} * sizeof(Out)};
  }

  std::uint32_t tiles() const noexcept { return 1; }

  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t) const {
    float* mean = reinterpret_cast<float*>(context.scratch());
    const float share = detail::reciprocal(static_cast<float>(tokens));
    if constexpr (Context::cooperative) {
      const mean_pooling op = *this;
      context.for_each(hidden, [=](std::uint32_t column) {
        float total = 0.0f;
        for (std::uint32_t row = 0; row < op.tokens; ++row) {
          total += to_float(op.x[std::size_t{row} * op.hidden + column]);
        }
        mean[column] = total * share;
      });
      context.sync();
    } else {
      // Row by row: a thread alone reads memory in order.
      const std::uint32_t width = hidden;
      context.for_each(width, [=](std::uint32_t column) { mean[column] = 0.0f; });
      for (std::uint32_t row = 0; row < tokens; ++row) {
        const T* input = x + std::size_t{row} * width;
        context.for_each(width, [=](std::uint32_t column) { mean[column] += to_float(input[column]); });
      }
      context.for_each(width, [=](std::uint32_t column) { mean[column] *= share; });
    }
    float scale = 1.0f;
    if (normalise) {
      const float squares = context.sum(hidden, [=](std::uint32_t column) { return mean[column] * mean[column]; });
      const float wanted = detail::reciprocal_root(squares);
      const float most = detail::reciprocal(epsilon);
      scale = wanted > most ? most : wanted;
    }
    Out* result = out;
    context.for_each(hidden, [=](std::uint32_t column) { result[column] = from_float<Out>(mean[column] * scale); });
  }
};

/// Makes the op. Mistakes are recorded in it and come out of `check()`. Buffers may be larger than the op needs.
template <element T, element Out = float>
mean_pooling<T, Out> make_mean_pooling(std::type_identity_t<std::span<const T>> x,
                                       std::type_identity_t<std::span<Out>> out, std::size_t tokens, std::size_t hidden,
                                       bool normalise = true, float epsilon = 1e-12f) {
  mean_pooling<T, Out> op;
  op.x = x.data();
  op.out = out.data();
  op.tokens = detail::side(tokens);
  op.hidden = detail::side(hidden);
  op.epsilon = epsilon;
  op.normalise = normalise;
  const std::uint64_t elements = detail::tensor_size({tokens, hidden});
  op.fault = elements == 0 ? static_cast<std::uint8_t>(errc::bad_size)
                           : detail::fault_unless(x.size() >= elements && out.size() >= hidden, errc::buffer_too_small);
  return op;
}

static_assert(sizeof(mean_pooling<float>) <= 64 && op<mean_pooling<float>> && op<mean_pooling<bf16, bf16>>);

}  // namespace cohort::inline COHORT_ABI::ops

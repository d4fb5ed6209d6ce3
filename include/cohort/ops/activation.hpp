// The activation functions that ops apply to what they have just computed. Ops of this folder may enter.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/detail/math.hpp>

#include <cstdint>

namespace cohort::inline COHORT_ABI::ops {

/// A function applied to each element of a result.
enum class activation : std::uint8_t {
  none,  ///< x
  relu,  ///< max(x, 0); NaN stays NaN
  gelu,  ///< x * Phi(x) = x/2 * (1 + erf(x / sqrt(2))): the exact form, not the one with tanh
  silu,  ///< x / (1 + exp(-x))
  tanh,  ///< hyperbolic tangent
};

/// Computes one element in fp32. Branches on `which` are uniform over a tile: hoist them out of loops that are meant to
/// vectorise (`with_activation`).
COHORT_HD
inline float apply(activation which, float x) {
  switch (which) {
    case activation::none: return x;
    case activation::relu: return x < 0.0f ? 0.0f : x;
    case activation::gelu: return 0.5f * x * (1.0f + detail::erf(x * 0.70710678118654752f));
    case activation::silu: return x * detail::reciprocal(1.0f + detail::exp(-x));
    case activation::tanh: return detail::tanh(x);
  }
  return x;
}

/// `apply` with the choice made at compile time.
template <activation Which>
struct activation_function {
  COHORT_HD
  float operator()(float x) const { return apply(Which, x); }
};

/// Calls `f(activation_function<which>{})`, so that a loop inside `f` holds no switch.
template <class F>
COHORT_HD
void with_activation(activation which, F f) {
  switch (which) {
    case activation::none: f(activation_function<activation::none>{}); break;
    case activation::relu: f(activation_function<activation::relu>{}); break;
    case activation::gelu: f(activation_function<activation::gelu>{}); break;
    case activation::silu: f(activation_function<activation::silu>{}); break;
    case activation::tanh: f(activation_function<activation::tanh>{}); break;
  }
}

}  // namespace cohort::inline COHORT_ABI::ops

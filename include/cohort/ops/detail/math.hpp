// Elementary functions in fp32 for ops. On the device they are CUDA's own, or single instructions; on the host they are
// free of calls, and clamp in integers, so that g++ keeps a loop over them free of branches and vectorises it. Largest
// errors on the host over all of float, measured against float64: exp 1.1 ulp, erf and tanh 4e-7 relative.
#pragma once

#include <cohort/config.hpp>
#include <cohort/types.hpp>

#include <cmath>
#include <cstdint>

namespace cohort::inline COHORT_ABI::ops::detail {

using cohort::detail::bits_to_float;
using cohort::detail::float_to_bits;

/// The bits of min(|x|, limit): magnitudes of floats compare as integers. NaN becomes the limit.
COHORT_HD
inline std::uint32_t limited_magnitude(float x, float limit) {
  const std::uint32_t magnitude = float_to_bits(x) & 0x7fffffffu;
  const std::uint32_t most = float_to_bits(limit);
  return magnitude < most ? magnitude : most;
}

COHORT_HD
inline std::uint32_t sign_of(float x) { return float_to_bits(x) & 0x80000000u; }

/// y, or NaN if x is NaN. A conditional expression over y would let g++ move its computation into a branch.
COHORT_HD
inline float or_nan(float y, float x) { return bits_to_float(float_to_bits(y) | (x != x ? 0x7fc00000u : 0u)); }

/// The bits of y, limited to 1; of 1 itself where `a` has reached `limit`. All are positive. A mask, because g++ makes
/// branches of two conditions in a row.
COHORT_HD
inline std::uint32_t saturated(float y, float a, float limit) {
  const std::uint32_t one = 0x3f800000u;
  const std::uint32_t beyond = 0u - static_cast<std::uint32_t>(float_to_bits(a) >= float_to_bits(limit));
  return (limited_magnitude(y, 1.0f) & ~beyond) | (one & beyond);
}

/// 1 / x. On the device with an error of an ulp, and 0 where that would be subnormal: a true division is a call there,
/// and whoever keeps a row in registers would have to put it away for it.
COHORT_HD
inline float reciprocal(float x) {
#if COHORT_DEVICE_PASS
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

/// 1 / sqrt(x), as `reciprocal`; on the device with a relative error of 2^-22 (PTX ISA, rsqrt.approx).
COHORT_HD
inline float reciprocal_root(float x) {
#if COHORT_DEVICE_PASS
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / ::sqrtf(x);
#endif
}

/// 2^x with a relative error of 2^-22; results below the smallest normal number are 0.
COHORT_HD
inline float exp2_approximately(float x) {
#if COHORT_DEVICE_PASS
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return __builtin_exp2f(x);
#endif
}

/// e^x. NaN stays NaN; overflow gives infinity; results may be subnormal.
///
/// x = n ln 2 + r with the reduction of Cody and Waite ("Software Manual for the Elementary Functions", 1980); e^r by
/// the Chebyshev fit of (e^r - 1 - r) / r^2 of degree 4 over |r| <= ln 2 / 2, relative error 9e-9.
COHORT_HD
inline float exp(float x) {
#if COHORT_DEVICE_PASS
  return ::expf(x);
#else
  constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  const float limited = bits_to_float(limited_magnitude(x, 104.0f) | sign_of(x));
  const float shifted = limited * 1.44269504088896341f + round_to_integer;
  const float n = shifted - round_to_integer;
  const float r = (limited - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 0.001392692661f;
  p = p * r + 0.008363773874f;
  p = p * r + 0.04166655011f;
  p = p * r + 0.1666657338f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors: n reaches from -150 to 150, an exponent only from -126 to 127.
  const auto power = static_cast<std::int32_t>(float_to_bits(shifted) - 0x4b400000u);
  const std::int32_t half = power >> 1;
  const float first = bits_to_float(static_cast<std::uint32_t>(half + 127) << 23);
  const float second = bits_to_float(static_cast<std::uint32_t>(power - half + 127) << 23);
  return or_nan(p * first * second, x);
#endif
}

/// The error function: a rational minimax fit x P(x^2) / Q(x^2) on |x| <= 3.92, beyond which erf rounds to 1 in fp32.
/// Fitted for this file by reweighted linear least squares (Sanathanan and Koerner 1963, weights by Lawson 1961).
COHORT_HD
inline float erf(float x) {
#if COHORT_DEVICE_PASS
  return ::erff(x);
#else
  const float a = bits_to_float(limited_magnitude(x, 3.92f));
  const float t = a * a;
  float p = 2.025981197e-6f;
  p = p * t + 0.0002846772645f;
  p = p * t + 0.003807719886f;
  p = p * t + 0.05287409161f;
  p = p * t + 0.1915400861f;
  p = p * t + 1.128379144f;
  float q = 3.783200845e-5f;
  q = q * t + 0.001170617442f;
  q = q * t + 0.01505420962f;
  q = q * t + 0.1145553928f;
  q = q * t + 0.5030806606f;
  q = q * t + 1.0f;
  return or_nan(bits_to_float(saturated(a * p / q, a, 3.92f) | sign_of(x)), x);
#endif
}

/// The hyperbolic tangent: a fit as in `erf`, on |x| <= 9.02, beyond which tanh rounds to 1 in fp32.
COHORT_HD
inline float tanh(float x) {
#if COHORT_DEVICE_PASS
  return ::tanhf(x);
#else
  const float a = bits_to_float(limited_magnitude(x, 9.02f));
  const float t = a * a;
  float p = -1.220426576e-11f;
  p = p * t + 3.058620703e-8f;
  p = p * t + 2.800798765e-5f;
  p = p * t + 0.00386835502f;
  p = p * t + 0.1367993712f;
  p = p * t + 0.9999999987f;
  float q = 1.287402386e-6f;
  q = q * t + 0.0003938678438f;
  q = q * t + 0.02724593953f;
  q = q * t + 0.4701326918f;
  q = q * t + 1.0f;
  return or_nan(bits_to_float(saturated(a * p / q, a, 9.02f) | sign_of(x)), x);
#endif
}

}  // namespace cohort::inline COHORT_ABI::ops::detail

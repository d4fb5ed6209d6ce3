// The element types of tensors: float, and the 16-bit types fp16 and bf16. They are our own so that a .cpp file without
// a CUDA toolkit and a .cu file agree on them; their bits are those of __half and __nv_bfloat16.
#pragma once

#include <cohort/config.hpp>

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace cohort::inline COHORT_ABI {

/// IEEE binary16.
struct fp16 {
  std::uint16_t bits = 0;
};

/// bfloat16: the upper half of a binary32.
struct bf16 {
  std::uint16_t bits = 0;
};

namespace detail {

COHORT_HD
inline float bits_to_float(std::uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

COHORT_HD
inline std::uint32_t float_to_bits(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// Binary16 to binary32 in integer arithmetic: exact for every input, subnormals and NaN included.
COHORT_HD
inline float widen_fp16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // Shifted into place the exponent is 112 too small; the product with 2^112 repairs it, for subnormals too.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * bits_to_float(0x77800000u)));
}

/// Binary32 to binary16, round to nearest even; overflow gives infinity.
COHORT_HD
inline std::uint16_t narrow_fp16(float value) {
  const std::uint32_t bits = float_to_bits(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u)
    return static_cast<std::uint16_t>(sign | 0x7fffu);  // as the device's conversion: one NaN
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the result is subnormal: adding 0.5 aligns the last kept bit with the last bit of a float and rounds
    // there.
    const std::uint32_t aligned = float_to_bits(bits_to_float(magnitude) + 0.5f);
    return static_cast<std::uint16_t>(sign | (aligned - 0x3f000000u));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

/// Binary32 to bfloat16, round to nearest even.
COHORT_HD
inline std::uint16_t narrow_bf16(float value) {
  const std::uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;  // as the device's conversion: one NaN
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace detail

/// Exact.
COHORT_HD
inline float to_float(float value) { return value; }

/// Exact.
COHORT_HD
inline float to_float(bf16 value) { return detail::bits_to_float(static_cast<std::uint32_t>(value.bits) << 16); }

/// Exact.
COHORT_HD
inline float to_float(fp16 value) {
#if COHORT_DEVICE_PASS
  return __half2float(__ushort_as_half(value.bits));
#else
  return detail::widen_fp16(value.bits);
#endif
}

/// Rounds to nearest even, equally on host and device. NaN keeps no payload in the 16-bit types.
template <class T>
COHORT_HD
T from_float(float value);

template <>
COHORT_HD
inline float from_float<float>(float value) { return value; }

template <>
COHORT_HD
inline bf16 from_float<bf16>(float value) {
#if COHORT_DEVICE_PASS
  return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  return bf16{detail::narrow_bf16(value)};
#endif
}

template <>
COHORT_HD
inline fp16 from_float<fp16>(float value) {
#if COHORT_DEVICE_PASS
  return fp16{__half_as_ushort(__float2half_rn(value))};
#else
  return fp16{detail::narrow_fp16(value)};
#endif
}

/// Name of an element type as it appears in op names.
template <class T>
constexpr const char* type_name();
template <>
constexpr const char* type_name<float>() {
  return "fp32";
}
template <>
constexpr const char* type_name<fp16>() {
  return "fp16";
}
template <>
constexpr const char* type_name<bf16>() {
  return "bf16";
}

/// The element types that the library's ops come in.
template <class T>
concept element = requires(float value) {
  to_float(T{});
  from_float<T>(value);
  type_name<T>();
};

}  // namespace cohort::inline COHORT_ABI

// What only the cooperative GEMM engines need beside ops/detail/warp_primitives.hpp: exact scalar arithmetic, and a few
// elements at a time. Only the engines of this folder may enter.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/detail/warp_primitives.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// Threads that every block engine is written for.
inline constexpr std::uint32_t block_threads = 128;

/// a * b + c, rounded once: never a matter of compiler flags.
COHORT_HD
inline float multiply_add(float a, float b, float c) {
#if COHORT_DEVICE_PASS
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

/// a + b that no compiler contracts with the product a or b may come from.
COHORT_HD
inline float add(float a, float b) {
#if COHORT_DEVICE_PASS
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

/// No access to memory is moved over it by the compiler.
COHORT_HD
inline void compiler_barrier() {
#if COHORT_DEVICE_PASS
  asm volatile("" ::: "memory");
#endif
}

/// A float in device memory that another block wrote or will read: by way of L2, where all blocks meet.
COHORT_HD
inline void store_shared_by_blocks(float* to, float value) {
#if COHORT_DEVICE_PASS
  __stcg(to, value);
#else
  *to = value;
#endif
}
COHORT_HD
inline float load_shared_by_blocks(const float* from) {
#if COHORT_DEVICE_PASS
  return __ldcg(from);
#else
  return *from;
#endif
}

#if COHORT_GEMM_HAS_MMA

/// Four elements of 16 bits as two registers, and back.
template <class T>
COHORT_HD
inline void load_pairs(const T (&from)[4], std::uint32_t (&pairs)[2]) {
  for (std::uint32_t i = 0; i < 2; ++i) pairs[i] = std::uint32_t{from[i * 2 + 1].bits} << 16 | from[i * 2].bits;
}
template <class T>
COHORT_HD
inline void store_pairs(const std::uint32_t (&pairs)[2], T (&to)[4]) {
  for (std::uint32_t i = 0; i < 4; ++i) to[i] = T{static_cast<std::uint16_t>(pairs[i / 2] >> i % 2 * 16)};
}

/// Copies up to four elements, one by one.
template <class T>
COHORT_HD
inline void copy_few(T* to, const T* from, std::uint32_t count) {
  COHORT_GEMM_UNROLLED
  for (std::uint32_t j = 0; j < 4; ++j) {
    if (j < count) to[j] = from[j];
  }
}

COHORT_HD
inline bool aligned_8(const void* p) { return (reinterpret_cast<std::uintptr_t>(p) & 7u) == 0; }

/// 8 bytes, aligned to 8, at once.
COHORT_HD
inline void load_8(const void* from, std::uint32_t (&to)[2]) {
#if COHORT_DEVICE_PASS
  const uint2 pair = *static_cast<const uint2*>(from);
  to[0] = pair.x;
  to[1] = pair.y;
#else
  std::memcpy(to, from, 8);
#endif
}
COHORT_HD
inline void store_8(void* to, const std::uint32_t (&from)[2]) {
#if COHORT_DEVICE_PASS
  *static_cast<uint2*>(to) = uint2{from[0], from[1]};
#else
  std::memcpy(to, from, 8);
#endif
}

#endif  // COHORT_GEMM_HAS_MMA

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

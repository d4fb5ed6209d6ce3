// The inner loops of GEMM on one host thread, as templates over the width of the processor's vectors, and the means to
// compile them for an instruction set that is chosen at run time. ops/gemm/host.hpp enters. Host code only.
#pragma once

#include <cohort/backend/host_simd.hpp>
#include <cohort/config.hpp>
#include <cohort/ops/activation.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define COHORT_GEMM_INLINE __attribute__((always_inline)) inline

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// Vectors of `Width` floats, and of as many 32-bit and 16-bit words. `loadable` and `halves` may lie at any address
/// that their element may.
template <int Width>
struct simd;

template <>
struct simd<4> {
  typedef float vector __attribute__((vector_size(16)));
  typedef float loadable __attribute__((vector_size(16), aligned(4), may_alias));
  typedef std::uint32_t words __attribute__((vector_size(16)));
  typedef std::uint16_t halves __attribute__((vector_size(8), aligned(2), may_alias));
};

template <>
struct simd<8> {
  typedef float vector __attribute__((vector_size(32)));
  typedef float loadable __attribute__((vector_size(32), aligned(4), may_alias));
  typedef std::uint32_t words __attribute__((vector_size(32)));
  typedef std::uint16_t halves __attribute__((vector_size(16), aligned(2), may_alias));
};

template <>
struct simd<16> {
  typedef float vector __attribute__((vector_size(64)));
  typedef float loadable __attribute__((vector_size(64), aligned(4), may_alias));
  typedef std::uint32_t words __attribute__((vector_size(64)));
  typedef std::uint16_t halves __attribute__((vector_size(32), aligned(2), may_alias));
};

/// Calls `body` with the constants 0 to N - 1: a loop that is unrolled whatever the compiler's flags.
template <int N, class Body>
COHORT_GEMM_INLINE void unrolled(Body body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

/// Adds the lanes of four vectors, in halves: lane l and l + Width/2, and so on down to two. `to` gets four sums.
template <int Width>
COHORT_GEMM_INLINE void add_lanes(const typename simd<Width>::vector (&v)[4], simd<4>::vector& to) {
  if constexpr (Width > 4) {
    typename simd<Width / 2>::vector half[4];
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      if constexpr (Width == 16) {
        half[i] = __builtin_shufflevector(v[i], v[i], 0, 1, 2, 3, 4, 5, 6, 7) +
                  __builtin_shufflevector(v[i], v[i], 8, 9, 10, 11, 12, 13, 14, 15);
      } else {
        half[i] = __builtin_shufflevector(v[i], v[i], 0, 1, 2, 3) + __builtin_shufflevector(v[i], v[i], 4, 5, 6, 7);
      }
    });
    add_lanes<Width / 2>(half, to);
  } else {
    const simd<4>::vector low =
        __builtin_shufflevector(v[0], v[1], 0, 1, 4, 5) + __builtin_shufflevector(v[0], v[1], 2, 3, 6, 7);
    const simd<4>::vector high =
        __builtin_shufflevector(v[2], v[3], 0, 1, 4, 5) + __builtin_shufflevector(v[2], v[3], 2, 3, 6, 7);
    to = __builtin_shufflevector(low, high, 0, 2, 4, 6) + __builtin_shufflevector(low, high, 1, 3, 5, 7);
  }
}

/// The Width elements at `from`, widened.
template <int Width, class T>
COHORT_GEMM_INLINE void load_wide(const T* from, typename simd<Width>::vector& to) {
  if constexpr (std::is_same_v<T, float>) {
    to = *reinterpret_cast<const typename simd<Width>::loadable*>(from);
  } else {
    const auto bits = __builtin_convertvector(*reinterpret_cast<const typename simd<Width>::halves*>(from),
                                              typename simd<Width>::words);
    typename simd<Width>::words wide;
    if constexpr (std::is_same_v<T, bf16>) {
      wide = bits << 16;
    } else {
      // As cohort::detail::widen_fp16, for all lanes at once.
      const auto magnitude = bits & 0x7fffu;
      const auto shifted = magnitude << 13;
      typename simd<Width>::vector scaled;
      std::memcpy(&scaled, &shifted, sizeof scaled);
      scaled *= cohort::detail::bits_to_float(0x77800000u);
      std::memcpy(&wide, &scaled, sizeof wide);
      wide = magnitude >= 0x7c00u ? (shifted | 0x7f800000u) : wide;
      wide |= (bits & 0x8000u) << 16;
    }
    std::memcpy(&to, &wide, sizeof to);
  }
}

/// Rows x 4 dot products over `depth` values, a multiple of Width: sums[i * pitch + j] = x[i] . w[j], or += where
/// `accumulate` is set. The order of additions depends on `depth` and Width alone: lane l of a sum takes the products
/// of k = l modulo Width in ascending order, then `add_lanes`.
template <int Width, int Rows, class W>
COHORT_GEMM_INLINE void multiply_rows(const float* const* x, const W* const* w, std::uint32_t depth, float* sums,
                                      std::size_t pitch, bool accumulate) {
  using vector = typename simd<Width>::vector;
  vector partial[Rows][4] = {};
  const float* x_row[Rows];
  const W* w_row[4];
  unrolled<Rows>([&](auto i) __attribute__((always_inline)) { x_row[i] = x[i]; });
  unrolled<4>([&](auto j) __attribute__((always_inline)) { w_row[j] = w[j]; });
  for (std::uint32_t k = 0; k < depth; k += Width) {
    vector weights[4];
    unrolled<4>([&](auto j) __attribute__((always_inline)) { load_wide<Width>(w_row[j] + k, weights[j]); });
    unrolled<Rows>([&](auto i) __attribute__((always_inline)) {
      vector value;
      load_wide<Width>(x_row[i] + k, value);
      unrolled<4>([&](auto j) __attribute__((always_inline)) { partial[i][j] += value * weights[j]; });
    });
  }
  unrolled<Rows>([&](auto i) __attribute__((always_inline)) {
    simd<4>::vector four;
    add_lanes<Width>(partial[i], four);
    auto* const to = reinterpret_cast<simd<4>::loadable*>(sums + i * pitch);
    *to = accumulate ? *to + four : four;
  });
}

/// Elements that loops over a row take at a time: a constant length vectorises at -O2 as well.
inline constexpr std::uint32_t host_chunk = 16;

/// to[i] = from[i] widened, for i < count, and 0 up to `padded`, a multiple of 4 that is less than `count` +
/// host_chunk.
template <class T>
COHORT_GEMM_INLINE void widen(const T* from, std::uint32_t count, std::uint32_t padded, float* to) {
  std::uint32_t i = 0;
  for (; i + host_chunk <= count; i += host_chunk) {
    simd<16>::vector wide;
    load_wide<16>(from + i, wide);
    *reinterpret_cast<simd<16>::loadable*>(to + i) = wide;
  }
  for (; i < count; ++i) to[i] = to_float(from[i]);
  for (; i < padded; ++i) to[i] = 0.0f;
}

/// sums = act(sums + bias). A named function object that is compiled for both sides, as `with_activation` is.
struct activate_row {
  float* sums;
  const float* bias;
  std::uint32_t padded;

  template <class Function>
  COHORT_HD
  void operator()(Function function) const {
    for (std::uint32_t i = 0; i < padded; i += host_chunk) {
      float* const to = sums + i;
      const float* const from = bias + i;
      COHORT_INDEPENDENT_ITERATIONS
      for (std::uint32_t lane = 0; lane < host_chunk; ++lane) to[lane] = function(to[lane] + from[lane]);
    }
  }
};

/// One row of a tile: to = act(sums + bias) + residual. `sums` and `bias` are padded to a multiple of host_chunk, so
/// that the last elements go through the same code as all others; `sums` is overwritten, `wide` is storage of that
/// length.
template <class T>
COHORT_GEMM_INLINE void finish_row(activation act, float* sums, const float* bias, const T* residual,
                                   std::uint32_t count, T* to, float* wide) {
  const std::uint32_t padded = (count + host_chunk - 1) / host_chunk * host_chunk;
  with_activation(act, activate_row{sums, bias, padded});
  if (residual != nullptr) {
    widen(residual, count, padded, wide);
    for (std::uint32_t i = 0; i < padded; i += host_chunk) {
      auto* const sum = reinterpret_cast<simd<16>::loadable*>(sums + i);
      *sum += *reinterpret_cast<const simd<16>::loadable*>(wide + i);
    }
  }
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(to, sums, count * sizeof(float));
  } else {
    std::uint32_t i = 0;
    for (; i + host_chunk <= count; i += host_chunk) {
      const float* const from = sums + i;
      T* const chunk = to + i;
      COHORT_INDEPENDENT_ITERATIONS
      for (std::uint32_t lane = 0; lane < host_chunk; ++lane) chunk[lane] = from_float<T>(from[lane]);
    }
    for (; i < count; ++i) to[i] = from_float<T>(sums[i]);
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

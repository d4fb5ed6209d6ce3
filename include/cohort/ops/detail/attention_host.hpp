// Attention by one host thread: small matrix products over blocks of keys, in vectors. Entered from ops/attention.hpp.
#pragma once

#include <cohort/backend/host_simd.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/combine.hpp>
#include <cohort/ops/detail/attention_head.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/types.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cohort::inline COHORT_ABI::ops::detail {

inline constexpr std::uint32_t attention_host_queries = 32;
inline constexpr std::uint32_t attention_host_keys = 64;

/// What one tile works in; everything is fp32.
struct alignas(128) attention_host_scratch {
  float query[attention_host_queries][largest_head];
  float key[largest_head][attention_host_keys];  ///< transposed: the products run along keys
  float value[attention_host_keys][largest_head];
  float score[attention_host_queries][attention_host_keys];
  float total[attention_host_queries][largest_head];
  float most[attention_host_queries];
  float weight[attention_host_queries];
};

#if !COHORT_DEVICE_PASS

typedef float attention_lanes __attribute__((vector_size(32)));

/// Vectors are passed by reference: by value they would need one calling convention for all instruction sets.
inline void load_lanes(attention_lanes& first, attention_lanes& second, const float* from) {
  std::memcpy(&first, from, sizeof first);
  std::memcpy(&second, from + 8, sizeof second);
}

inline void store_lanes(const attention_lanes& first, const attention_lanes& second, float* to) {
  std::memcpy(to, &first, sizeof first);
  std::memcpy(to + 8, &second, sizeof second);
}

/// c[4][16] += a[4][depth] b[depth][16]. The sums run over `depth` in order, as in `multiply_add_row`. Variables
/// instead of an array, which g++ -O2 would keep in memory.
inline void multiply_add_rows(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
                              std::uint32_t depth, float* c, std::size_t c_stride) {
  const float* a1 = a + a_stride;
  const float* a2 = a1 + a_stride;
  const float* a3 = a2 + a_stride;
  float* c1 = c + c_stride;
  float* c2 = c1 + c_stride;
  float* c3 = c2 + c_stride;
  attention_lanes b0, b1, s00, s01, s10, s11, s20, s21, s30, s31;
  load_lanes(s00, s01, c);
  load_lanes(s10, s11, c1);
  load_lanes(s20, s21, c2);
  load_lanes(s30, s31, c3);
  for (std::uint32_t i = 0; i < depth; ++i, b += b_stride) {
    load_lanes(b0, b1, b);
    s00 += a[i] * b0;
    s01 += a[i] * b1;
    s10 += a1[i] * b0;
    s11 += a1[i] * b1;
    s20 += a2[i] * b0;
    s21 += a2[i] * b1;
    s30 += a3[i] * b0;
    s31 += a3[i] * b1;
  }
  store_lanes(s00, s01, c);
  store_lanes(s10, s11, c1);
  store_lanes(s20, s21, c2);
  store_lanes(s30, s31, c3);
}

/// c[16] += a[depth] b[depth][16].
inline void multiply_add_row(const float* a, const float* b, std::size_t b_stride, std::uint32_t depth, float* c) {
  attention_lanes b0, b1, s0, s1;
  load_lanes(s0, s1, c);
  for (std::uint32_t i = 0; i < depth; ++i, b += b_stride) {
    load_lanes(b0, b1, b);
    s0 += a[i] * b0;
    s1 += a[i] * b1;
  }
  store_lanes(s0, s1, c);
}

/// c[rows][columns] += a[rows][depth] b[depth][columns]; `columns` is a multiple of 16.
inline void multiply_add(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
                         std::uint32_t depth, float* c, std::size_t c_stride, std::uint32_t rows,
                         std::uint32_t columns) {
  for (std::uint32_t column = 0; column < columns; column += 16) {
    std::uint32_t row = 0;
    for (; row + 4 <= rows; row += 4) {
      multiply_add_rows(a + row * a_stride, a_stride, b + column, b_stride, depth, c + row * c_stride + column,
                        c_stride);
    }
    for (; row < rows; ++row) {
      multiply_add_row(a + row * a_stride, b + column, b_stride, depth, c + row * c_stride + column);
    }
  }
}

/// Turns a row of scores into exp(score - most so far), padding included; rescales what was summed before. `keys` is a
/// multiple of 16, `visible` how many of them count.
inline void update_softmax(float* score, std::uint32_t keys, std::uint32_t visible, float scale, float& most,
                           float& weight, float* total, std::uint32_t columns) {
  float best[16];
  for (float& lane : best) lane = cohort::detail::minus_infinity();
  for (std::uint32_t j = 0; j < keys; j += 16) {
    for (std::uint32_t lane = 0; lane < 16; ++lane) score[j + lane] *= scale;
  }
  for (std::uint32_t j = visible; j < keys; ++j) score[j] = cohort::detail::minus_infinity();
  for (std::uint32_t j = 0; j < keys; j += 16) {
    for (std::uint32_t lane = 0; lane < 16; ++lane) best[lane] = cohort::detail::larger{}(best[lane], score[j + lane]);
  }
  float now = most;
  for (const float lane : best) now = cohort::detail::larger{}(now, lane);
  // While nothing but -infinity was seen, any base gives the weights 0 that they must have.
  const float base = now == cohort::detail::minus_infinity() ? 0.0f : now;
  const float correction = exp(most - base);
  float sums[16] = {};
  for (std::uint32_t j = 0; j < keys; j += 16) {
    for (std::uint32_t lane = 0; lane < 16; ++lane) {
      const float power = exp(score[j + lane] - base);
      score[j + lane] = power;
      sums[lane] += power;
    }
  }
  for (std::uint32_t half = 8; half > 0; half /= 2) {
    for (std::uint32_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  weight = weight * correction + sums[0];
  most = now;
  for (std::uint32_t d = 0; d < columns; d += 16) {
    for (std::uint32_t lane = 0; lane < 16; ++lane) total[d + lane] *= correction;
  }
}

/// Queries [first, first + rows) of one head, rows <= attention_host_queries.
template <class T>
void attend(const attention_head<T>& head, std::uint32_t first, std::uint32_t rows, attention_host_scratch& s) {
  const std::uint32_t columns = (head.size + 15) / 16 * 16;
  for (std::uint32_t row = 0; row < rows; ++row) {
    const T* q = head.q + (std::size_t{first} + row) * head.q_stride;
    for (std::uint32_t d = 0; d < head.size; ++d) s.query[row][d] = to_float(q[d]);
    std::fill_n(s.total[row], columns, 0.0f);
    s.most[row] = cohort::detail::minus_infinity();
    s.weight[row] = 0.0f;
  }
  const std::uint32_t reach = head.causal ? first + rows : head.length;  // keys that any of these queries sees
  for (std::uint32_t begin = 0; begin < reach; begin += attention_host_keys) {
    const std::uint32_t keys = std::min(attention_host_keys, reach - begin);
    const std::uint32_t padded = (keys + 15) / 16 * 16;
    for (std::uint32_t j = 0; j < padded; ++j) {
      // Padding repeats the last key: finite numbers, whose weights become 0.
      const std::size_t token = begin + std::min(j, keys - 1);
      const T* k = head.k + token * head.k_stride;
      const T* v = head.v + token * head.v_stride;
      for (std::uint32_t d = 0; d < head.size; ++d) s.key[d][j] = to_float(k[d]);
      for (std::uint32_t d = 0; d < head.size; ++d) s.value[j][d] = to_float(v[d]);
      for (std::uint32_t d = head.size; d < columns; ++d) s.value[j][d] = 0.0f;
    }
    for (std::uint32_t row = 0; row < rows; ++row) std::fill_n(s.score[row], padded, 0.0f);
    multiply_add(s.query[0], largest_head, s.key[0], attention_host_keys, head.size, s.score[0], attention_host_keys,
                 rows, padded);
    for (std::uint32_t row = 0; row < rows; ++row) {
      const std::uint32_t query = first + row;
      const std::uint32_t seen = query < begin ? 0 : query - begin + 1;
      update_softmax(s.score[row], padded, head.causal ? std::min(seen, keys) : keys, head.scale, s.most[row],
                     s.weight[row], s.total[row], columns);
    }
    multiply_add(s.score[0], attention_host_keys, s.value[0], largest_head, keys, s.total[0], largest_head, rows,
                 columns);
  }
  for (std::uint32_t row = 0; row < rows; ++row) {
    T* out = head.out + (std::size_t{first} + row) * head.out_stride;
    for (std::uint32_t d = 0; d < head.size; ++d) out[d] = from_float<T>(s.total[row][d] / s.weight[row]);
  }
}

#if COHORT_HOST_HAS_WIDE
template <class T>
COHORT_HOST_WIDE void attend_wide(const attention_head<T>& head, std::uint32_t first, std::uint32_t rows,
                                  attention_host_scratch& s) {
  attend(head, first, rows, s);
}
#endif

#endif  // host pass

}  // namespace cohort::inline COHORT_ABI::ops::detail

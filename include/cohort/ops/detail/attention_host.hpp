// Attention by one host thread: small matrix products over blocks of keys, in vectors. Entered from ops/attention.hpp.
#pragma once

#include <cohort/backend/host_simd.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/combine.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/types.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cohort::inline COHORT_ABI::ops::detail {

/// Largest size of a head in every form of attention.
inline constexpr std::uint32_t largest_head = 128;

/// One head of one sequence. Strides are elements from one token to the next.
template <class T>
struct attention_head {
  const T* q;
  const T* k;
  const T* v;
  T* out;
  std::size_t q_stride, k_stride, v_stride, out_stride;
  std::uint32_t length;  ///< tokens of the sequence
  std::uint32_t size;    ///< elements of the head
  float scale;
  bool causal;
};

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

typedef float attention_lanes __attribute__((vector_size(64)));

/// c[Rows][16] += a[Rows][depth] b[depth][16]. The sums run over `depth` in order, whatever Rows is.
template <std::uint32_t Rows>
inline void multiply_add(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
                         std::uint32_t depth, float* c, std::size_t c_stride) {
  attention_lanes sums[Rows];
  for (std::uint32_t row = 0; row < Rows; ++row) std::memcpy(&sums[row], c + row * c_stride, sizeof sums[row]);
  for (std::uint32_t i = 0; i < depth; ++i) {
    attention_lanes right;
    std::memcpy(&right, b + i * b_stride, sizeof right);
    for (std::uint32_t row = 0; row < Rows; ++row) sums[row] += a[row * a_stride + i] * right;
  }
  for (std::uint32_t row = 0; row < Rows; ++row) std::memcpy(c + row * c_stride, &sums[row], sizeof sums[row]);
}

/// The same for any number of rows, and a number of columns that is a multiple of 16.
inline void multiply_add(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
                         std::uint32_t depth, float* c, std::size_t c_stride, std::uint32_t rows,
                         std::uint32_t columns) {
  for (std::uint32_t column = 0; column < columns; column += 16) {
    std::uint32_t row = 0;
    for (; row + 4 <= rows; row += 4) {
      multiply_add<4>(a + row * a_stride, a_stride, b + column, b_stride, depth, c + row * c_stride + column, c_stride);
    }
    for (; row < rows; ++row) {
      multiply_add<1>(a + row * a_stride, a_stride, b + column, b_stride, depth, c + row * c_stride + column, c_stride);
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

// What every form of attention works on. Entered from ops/attention.hpp and its forms.
#pragma once

#include <cohort/config.hpp>

#include <cstdint>

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
  std::uint32_t q_stride, k_stride, v_stride, out_stride;
  std::uint32_t length;  ///< tokens of the sequence
  std::uint32_t size;    ///< elements of the head
  float scale;
  bool causal;
};

/// The head `count` heads behind this one.
template <class T>
COHORT_HD
attention_head<T> head_behind(attention_head<T> head, std::uint32_t count) {
  const std::uint32_t elements = count * head.size;
  head.q += elements;
  head.k += elements;
  head.v += elements;
  head.out += elements;
  return head;
}

/// What a tile computes at once: as many queries of each of some neighbouring heads.
template <class T>
struct attention_part {
  attention_head<T> head;  ///< the first; the others are `head.size` elements further each
  std::uint32_t heads;     ///< how many there are
  std::uint32_t places;    ///< for how many there is room: 1, 2 or 4
  std::uint32_t queries;   ///< of each: as many as the form has rows for, divided by `places`
  std::uint32_t first;     ///< the first of them
  std::uint32_t round;     ///< how far behind them the tile's next ones are, if the sequence is that long
};

}  // namespace cohort::inline COHORT_ABI::ops::detail

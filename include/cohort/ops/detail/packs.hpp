// Elements in packs of up to 16 bytes, as blocks of device threads move them fast, and a row of them in the registers
// of the group that works on it. Ops of this folder may enter, in the form of theirs that is for blocks; a host thread
// reads elements one by one, and its compiler makes vectors of them.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/combine.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

/// Unrolled by the device's compiler, so that arrays are registers and all loads of a loop are on their way together;
/// or not, because each step has registers of its own.
#if COHORT_DEVICE_PASS
#define COHORT_OPS_UNROLLED _Pragma("unroll")
#define COHORT_OPS_ROLLED _Pragma("unroll 1")
#else
#define COHORT_OPS_UNROLLED
#define COHORT_OPS_ROLLED
#endif

namespace cohort::inline COHORT_ABI::ops::detail {

/// Elements of T in 16 bytes.
template <class T>
inline constexpr std::uint32_t pack_size = 16 / sizeof(T);

/// Whether packs of Size elements can be moved from or to these places; null is no place.
template <std::uint32_t Size, class... T>
COHORT_HD
inline bool aligned_to_packs(const T*... places) {
  return ((reinterpret_cast<std::uintptr_t>(places) % (Size * sizeof(T)) == 0) && ...);
}

/// Size elements from memory that is aligned to as many, in one load.
template <std::uint32_t Size, class T>
COHORT_HD
inline void load_pack(const T* from, float (&to)[Size]) {
  constexpr std::size_t bytes = Size * sizeof(T);
  alignas(bytes) T elements[Size];
#if COHORT_DEVICE_PASS
  if constexpr (bytes == 16) {
    *reinterpret_cast<uint4*>(elements) = *reinterpret_cast<const uint4*>(from);
  } else if constexpr (bytes == 8) {
    *reinterpret_cast<uint2*>(elements) = *reinterpret_cast<const uint2*>(from);
  } else {
    static_assert(Size == 1);
    elements[0] = from[0];
  }
#else
  std::memcpy(elements, from, bytes);
#endif
  COHORT_OPS_UNROLLED
  for (std::uint32_t i = 0; i < Size; ++i) to[i] = to_float(elements[i]);
}

/// The reverse, each rounded once.
template <std::uint32_t Size, class T>
COHORT_HD
inline void store_pack(T* to, const float (&from)[Size]) {
  constexpr std::size_t bytes = Size * sizeof(T);
  alignas(bytes) T elements[Size];
  COHORT_OPS_UNROLLED
  for (std::uint32_t i = 0; i < Size; ++i) elements[i] = from_float<T>(from[i]);
#if COHORT_DEVICE_PASS
  if constexpr (bytes == 16) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(elements);
  } else if constexpr (bytes == 8) {
    *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(elements);
  } else {
    static_assert(Size == 1);
    to[0] = elements[0];
  }
#else
  std::memcpy(to, elements, bytes);
#endif
}

/// A row of values in the registers of a group: each lane has packs of neighbours, so many that a row of 512 elements
/// (with groups of 32) is read once, all of it at a time. A longer row is read again for each function that is called,
/// piece by piece; one that does not lie in whole packs, element by element. Which lane adds which elements in which
/// order is a matter of the length alone.
///
/// \tparam Read `void(std::uint32_t first, float (&values)[N])`, for N = Size and 1: values from `first` on
template <std::uint32_t Size, class Group, class Read>
class row_in_registers {
public:
  /// \param whole the row lies in packs: aligned, and a multiple of them long
  COHORT_HD
  row_in_registers(const Group& group, std::uint32_t length, bool whole, Read read)
      : group_(group), length_(length), whole_(whole), read_(read) {
    // What a predicate may leave as it was would be kept from before this row, through all that lies between.
    COHORT_OPS_UNROLLED
    for (std::uint32_t k = 0; k < packs; ++k) {
      COHORT_OPS_UNROLLED
      for (std::uint32_t i = 0; i < Size; ++i) values_[k][i] = 0.0f;
    }
    if (whole_ && length_ <= piece()) fetch(0);
  }

  /// The sum of `f(value)`; every lane gets it.
  template <class F>
  COHORT_HD
  float sum(F f) {
    float own = 0.0f;
    visit([&](float value) { own += f(value); });
    return group_.sum(group_.size(), [=](std::uint32_t) { return own; });
  }

  /// The largest `f(value)`; every lane gets it.
  template <class F>
  COHORT_HD
  float max(F f) {
    float own = cohort::detail::minus_infinity();
    visit([&](float value) { own = cohort::detail::larger{}(own, f(value)); });
    return group_.max(group_.size(), [=](std::uint32_t) { return own; });
  }

  /// Stores at `to` what `f(first, values)` makes of the values, in packs or one by one. `to` may be what the values
  /// are read from. The last function to be called.
  template <class T, class F>
  COHORT_HD
  void store(T* to, F f) {
    COHORT_OPS_ROLLED
    for (std::uint32_t begin = 0; begin < length_; begin += piece()) {
      if (!whole_) {
        each_of_piece(begin, [&](std::uint32_t i) {
          float value[1];
          read_(i, value);
          f(i, value);
          store_pack(to + i, value);
        });
        continue;
      }
      if (length_ > piece()) fetch(begin);
      COHORT_OPS_UNROLLED
      for (std::uint32_t k = 0; k < packs; ++k) {
        if (first(begin, k) < length_) f(first(begin, k), values_[k]);
      }
      COHORT_OPS_UNROLLED
      for (std::uint32_t k = 0; k < packs; ++k) {
        if (first(begin, k) < length_) store_pack(to + first(begin, k), values_[k]);
      }
    }
  }

private:
  static constexpr std::uint32_t packs = 16 / Size;

  COHORT_HD
  std::uint32_t piece() const { return packs * Size * group_.size(); }

  COHORT_HD
  std::uint32_t first(std::uint32_t begin, std::uint32_t k) const {
    return begin + (k * group_.size() + group_.rank()) * Size;
  }

  COHORT_HD
  void fetch(std::uint32_t begin) {
    COHORT_OPS_UNROLLED
    for (std::uint32_t k = 0; k < packs; ++k) {
      if (first(begin, k) < length_) read_(first(begin, k), values_[k]);
    }
  }

  /// In the order in which packs have them.
  template <class F>
  COHORT_HD
  void each_of_piece(std::uint32_t begin, F f) {
    COHORT_OPS_ROLLED
    for (std::uint32_t k = 0; k < packs; ++k) {
      COHORT_OPS_ROLLED
      for (std::uint32_t i = first(begin, k); i < first(begin, k) + Size && i < length_; ++i) f(i);
    }
  }

  template <class F>
  COHORT_HD
  void visit(F f) {
    COHORT_OPS_ROLLED
    for (std::uint32_t begin = 0; begin < length_; begin += piece()) {
      if (!whole_) {
        each_of_piece(begin, [&](std::uint32_t i) {
          float value[1];
          read_(i, value);
          f(value[0]);
        });
        continue;
      }
      if (length_ > piece()) fetch(begin);
      COHORT_OPS_UNROLLED
      for (std::uint32_t k = 0; k < packs; ++k) {
        if (first(begin, k) >= length_) continue;
        COHORT_OPS_UNROLLED
        for (std::uint32_t i = 0; i < Size; ++i) f(values_[k][i]);
      }
    }
  }

  const Group& group_;
  std::uint32_t length_;
  bool whole_;
  Read read_;
  float values_[packs][Size];
};

template <std::uint32_t Size, class Group, class Read>
COHORT_HD
row_in_registers<Size, Group, Read> read_row(const Group& group, std::uint32_t length, bool whole, Read read) {
  return row_in_registers<Size, Group, Read>(group, length, whole, read);
}

}  // namespace cohort::inline COHORT_ABI::ops::detail

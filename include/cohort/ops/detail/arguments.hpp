// How ops check what they are given, on the host, before anything reaches a device. Ops of this folder may enter.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>

namespace cohort::inline COHORT_ABI::ops::detail {

/// Largest side of a tensor, so that an index along it fits 32 bits with room for a tile.
inline constexpr std::uint64_t largest_side = (std::uint64_t{1} << 31) - 1;

/// Largest number of elements: more than any memory holds, and few enough that bytes never overflow 64 bits.
inline constexpr std::uint64_t largest_tensor = std::uint64_t{1} << 38;

/// Product of the sides of a tensor, or 0 when a side is 0 or anything is too large.
constexpr std::uint64_t tensor_size(std::initializer_list<std::uint64_t> sides) noexcept {
  std::uint64_t product = 1;
  for (const std::uint64_t side : sides) {
    if (side == 0 || side > largest_side || product > largest_tensor / side) return 0;
    product *= side;
  }
  return product;
}

/// A size as a descriptor stores it: 0, which checks refuse, for one that does not fit.
constexpr std::uint32_t side(std::size_t size) noexcept {
  return size > largest_side ? 0 : static_cast<std::uint32_t>(size);
}

/// The fault byte of a descriptor: `e` unless `holds`.
constexpr std::uint8_t fault_unless(bool holds, errc e) noexcept { return holds ? 0 : static_cast<std::uint8_t>(e); }

/// Keeps the first mistake of a row of checks.
class argument_check {
public:
  /// A pointer that must not be null.
  template <class T>
  argument_check& required(const T* pointer) noexcept {
    fail(pointer == nullptr, errc::null_pointer);
    return aligned(pointer);
  }

  /// A pointer that may be null.
  template <class T>
  argument_check& aligned(const T* pointer) noexcept {
    fail(address(pointer) % alignof(T) != 0, errc::misaligned);
    return *this;
  }

  /// What the function that made the op found: it knew the sizes of the buffers.
  argument_check& recorded(std::uint8_t fault) noexcept {
    fail(fault != 0, static_cast<errc>(fault));
    return *this;
  }

  argument_check& require(bool holds, errc otherwise) noexcept {
    fail(!holds, otherwise);
    return *this;
  }

  /// A tensor of these sides must exist: none is zero, and their product does not overflow.
  argument_check& sides(std::initializer_list<std::uint64_t> sizes) noexcept {
    fail(tensor_size(sizes) == 0, errc::bad_size);
    return *this;
  }

  /// An output may not share a byte with this input. A null input overlaps nothing.
  template <class A, class B>
  argument_check& apart(const A* output, std::uint64_t outputs, const B* input, std::uint64_t inputs) noexcept {
    fail(input != nullptr && address(output) < address(input) + inputs * sizeof(B) &&
             address(input) < address(output) + outputs * sizeof(A),
         errc::aliasing);
    return *this;
  }

  /// An output may be this input itself, element on element, or share no byte with it.
  template <class A, class B>
  argument_check& same_or_apart(const A* output, std::uint64_t outputs, const B* input, std::uint64_t inputs) noexcept {
    if (sizeof(A) == sizeof(B) && address(output) == address(input)) return *this;
    return apart(output, outputs, input, inputs);
  }

  operator error_code() const noexcept { return error_ == errc{} ? error_code{} : make_error_code(error_); }

private:
  template <class T>
  static std::uintptr_t address(const T* pointer) noexcept {
    return reinterpret_cast<std::uintptr_t>(pointer);
  }

  void fail(bool wrong, errc e) noexcept {
    if (wrong && error_ == errc{}) error_ = e;
  }

  errc error_{};
};

}  // namespace cohort::inline COHORT_ABI::ops::detail

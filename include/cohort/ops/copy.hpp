// The ops that move and set memory, between any of device and pinned memory. Users enter here.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops {

/// Copies `bytes` bytes from `source` to `destination`; each may be device or pinned memory. Fast where both addresses
/// have the same remainder modulo 16. They may not overlap. Make one with `make_copy`.
struct alignas(16) copy {
  static constexpr const char* name = "copy";
  static constexpr std::uint32_t tile_bytes = 32 * 1024;

  const std::byte* source = nullptr;
  std::byte* destination = nullptr;
  std::uint64_t bytes = 0;
  std::uint8_t fault = 0;  ///< what `make_copy` found wrong: an errc, 0 for nothing

  /// null_pointer, buffer_too_small, bad_size or aliasing; no error if the op may run.
  error_code check() const noexcept {
    return detail::argument_check{}
        .required(source)
        .required(destination)
        .recorded(fault)
        .require(bytes != 0 && bytes <= detail::largest_tensor, errc::bad_size)
        .apart(destination, bytes, source, bytes);
  }

  op_cost cost() const noexcept { return {.flops = 0, .bytes = 2 * bytes}; }

  std::uint32_t tiles() const noexcept { return static_cast<std::uint32_t>((bytes + tile_bytes - 1) / tile_bytes); }

  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    const std::uint64_t first = std::uint64_t{tile} * tile_bytes;
    const auto length = static_cast<std::uint32_t>(bytes - first < tile_bytes ? bytes - first : tile_bytes);
    const std::byte* from = source + first;
    std::byte* to = destination + first;
    if constexpr (!Context::cooperative) {
      memcpy(to, from, length);
    } else {
      const auto from_rest = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(from) % 16);
      const auto to_rest = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(to) % 16);
      std::uint32_t head = length;  // bytes before the first whole piece
      if (from_rest == to_rest && (16 - from_rest) % 16 < length) head = (16 - from_rest) % 16;
      const std::uint32_t pieces = (length - head) / 16;
      context.for_each(head, [=](std::uint32_t i) { to[i] = from[i]; });
      context.for_each(pieces, [=](std::uint32_t i) {
        memcpy(__builtin_assume_aligned(to + head + std::size_t{i} * 16, 16),
               __builtin_assume_aligned(from + head + std::size_t{i} * 16, 16), 16);
      });
      const std::uint32_t done = head + pieces * 16;
      context.for_each(length - done, [=](std::uint32_t i) { to[done + i] = from[done + i]; });
    }
  }
};

/// Makes the op for all of `source`. Mistakes are recorded in it and come out of `check()`. `destination` may be
/// larger.
template <class T>
copy make_copy(std::span<T> source, std::span<std::remove_const_t<T>> destination) {
  static_assert(std::is_trivially_copyable_v<T>, "copy moves bytes");
  copy op;
  op.source = reinterpret_cast<const std::byte*>(source.data());
  op.destination = reinterpret_cast<std::byte*>(destination.data());
  op.fault = detail::fault_unless(source.size() <= detail::largest_tensor / sizeof(T), errc::bad_size);
  if (op.fault == 0) {
    op.bytes = source.size_bytes();
    op.fault = detail::fault_unless(destination.size() >= source.size(), errc::buffer_too_small);
  }
  return op;
}

static_assert(op<copy> && sizeof(copy) <= 64);

/// Sets each of `count` elements of 1, 2, 4, 8 or 16 bytes to one value. Make one with `make_fill`.
template <class T>
struct alignas(16) fill {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  static constexpr const char* name = "fill";
  static constexpr std::uint32_t tile_count = 32 * 1024 / sizeof(T);

  T* destination = nullptr;
  std::uint64_t count = 0;
  T value{};

  /// null_pointer, misaligned or bad_size; no error if the op may run.
  error_code check() const noexcept {
    return detail::argument_check{}
        .required(destination)
        .require(count != 0 && count <= detail::largest_tensor / sizeof(T), errc::bad_size);
  }

  op_cost cost() const noexcept { return {.flops = 0, .bytes = count * sizeof(T)}; }

  std::uint32_t tiles() const noexcept { return static_cast<std::uint32_t>((count + tile_count - 1) / tile_count); }

  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    const std::uint64_t first = std::uint64_t{tile} * tile_count;
    const auto elements = static_cast<std::uint32_t>(count - first < tile_count ? count - first : tile_count);
    T* to = destination + first;
    const T chosen = value;
    context.for_each(elements, [=](std::uint32_t i) { to[i] = chosen; });
  }
};

/// Makes the op for all of `destination`.
template <class T>
fill<T> make_fill(std::span<T> destination, const std::type_identity_t<T>& value) {
  fill<T> op;
  op.destination = destination.data();
  op.count = destination.size();
  op.value = value;
  return op;
}

static_assert(op<fill<float>> && sizeof(fill<double>) <= 64);

}  // namespace cohort::inline COHORT_ABI::ops

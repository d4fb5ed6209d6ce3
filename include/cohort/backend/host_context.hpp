// The tile context of the host backend: a team of one thread. Host backend and tests enter here; ops see it only as the
// concept tile_context.
#pragma once

#include <cohort/backend/host_simd.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/combine.hpp>
#include <cohort/tile_context.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI {

namespace detail {

/// Partial results that a host reduction keeps side by side. A constant, so that results do not follow compiler flags;
/// more than 16, because g++ -O3 unrolls loops of up to 16 steps before it would vectorise them.
inline constexpr std::uint32_t host_lanes = 32;

template <class F>
inline void host_for_each(std::uint32_t n, F f) {
  std::uint32_t i = 0;
#if !defined(__clang__)
  // Blocks of a constant length: g++ -O2 vectorises no loop that needs an epilogue.
  for (const std::uint32_t whole = n / host_lanes * host_lanes; i < whole; i += host_lanes) {
    COHORT_INDEPENDENT_ITERATIONS
    for (std::uint32_t lane = 0; lane < host_lanes; ++lane) f(i + lane);
  }
#endif
  for (; i < n; ++i) f(i);
}

/// Lane j combines f(j), f(j + lanes), ...; the lanes are then combined in halves.
template <class Value, class Combine>
inline float host_reduce(std::uint32_t n, float identity, Value value, Combine combine) {
  float lanes[host_lanes];
  for (std::uint32_t lane = 0; lane < host_lanes; ++lane) lanes[lane] = identity;
  const std::uint32_t whole = n / host_lanes * host_lanes;
  std::uint32_t i = 0;
  for (; i < whole; i += host_lanes) {
    for (std::uint32_t lane = 0; lane < host_lanes; ++lane) lanes[lane] = combine(lanes[lane], value(i + lane));
  }
  for (; i < n; ++i) lanes[i - whole] = combine(lanes[i - whole], value(i));
  for (std::uint32_t half = host_lanes / 2; half > 0; half /= 2) {
    for (std::uint32_t lane = 0; lane < half; ++lane) lanes[lane] = combine(lanes[lane], lanes[lane + half]);
  }
  return lanes[0];
}

#if COHORT_HOST_HAS_WIDE
template <class F>
COHORT_HOST_WIDE inline void host_for_each_wide(std::uint32_t n, F f) {
  host_for_each(n, f);
}

template <class Value, class Combine>
COHORT_HOST_WIDE inline float host_reduce_wide(std::uint32_t n, float identity, Value value, Combine combine) {
  return host_reduce(n, identity, value, combine);
}
#endif

}  // namespace detail

/// A team of one thread. Its functions run AVX2 code where the processor has it, with a functor inlined; a functor that
/// captures by value and only reads and writes memory vectorises.
class host_team {
public:
  COHORT_HD
  std::uint32_t rank() const noexcept { return 0; }
  COHORT_HD
  std::uint32_t size() const noexcept { return 1; }
  COHORT_HD
  void sync() const noexcept {}

  template <class F>
  COHORT_HD
  void for_each(std::uint32_t n, F f) const {
#if COHORT_HOST_HAS_WIDE
    if (wide_) return detail::host_for_each_wide(n, f);
#endif
#if !COHORT_DEVICE_PASS
    detail::host_for_each(n, f);
#endif
  }

  /// Combines `value(i)` over [0, n) with an associative `combine` whose neutral element is `identity`. The order
  /// depends on `n` alone.
  template <class Value, class Combine>
  COHORT_HD
  float reduce(std::uint32_t n, float identity, Value value, Combine combine) const {
#if COHORT_HOST_HAS_WIDE
    if (wide_) return detail::host_reduce_wide(n, identity, value, combine);
#endif
#if !COHORT_DEVICE_PASS
    return detail::host_reduce(n, identity, value, combine);
#else
    return identity;  // never called: a host context does not exist on a device
#endif
  }

  template <class Value>
  COHORT_HD
  float sum(std::uint32_t n, Value value) const { return reduce(n, 0.0f, value, detail::add{}); }

  template <class Value>
  COHORT_HD
  float max(std::uint32_t n, Value value) const { return reduce(n, detail::minus_infinity(), value, detail::larger{}); }

  /// Whether this processor runs code compiled for AVX2 with FMA.
  COHORT_HD
  bool wide() const noexcept { return wide_; }

protected:
  explicit host_team(bool wide) noexcept : wide_(wide) {}

private:
  bool wide_;
};

/// One host thread computes a whole tile. Owned by that thread.
class host_context : public host_team {
public:
  static constexpr bool cooperative = false;

  /// `scratch`: aligned to 128 bytes, at least `op_set::host_scratch_bytes`, not shared with another context.
  explicit host_context(std::byte* scratch) noexcept : host_team(detail::host_is_wide()), scratch_(scratch) {}

  COHORT_HD
  std::byte* scratch() const noexcept { return scratch_; }
  COHORT_HD
  std::uint32_t group_index() const noexcept { return 0; }
  COHORT_HD
  std::uint32_t group_count() const noexcept { return 1; }
  COHORT_HD
  const host_team& group() const noexcept { return *this; }

private:
  std::byte* scratch_;
};

static_assert(tile_context<host_context>);

}  // namespace cohort::inline COHORT_ABI

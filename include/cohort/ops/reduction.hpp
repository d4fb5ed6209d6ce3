// The op that reduces a vector to one number: sum, maximum, minimum, mean, or what a user's functor combines. Users
// enter here.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/combine.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/types.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops {

/// How to combine: `F::identity()` is neutral, `f(a, b)` is associative and commutative (up to rounding). Optional
/// members: `element(x)`, applied to each element first; `finish(total, n)`, applied to the result; `name`.
template <class F>
concept reduction_functor =
    std::is_trivially_copyable_v<F> && std::default_initializable<F> && requires(const F& f, float a) {
      { F::identity() } -> std::same_as<float>;
      { f(a, a) } -> std::same_as<float>;
    };

struct sum_of : cohort::detail::add {
  static constexpr const char* name = "sum";
  COHORT_HD
  static float identity() { return 0.0f; }
};

struct mean_of : cohort::detail::add {
  static constexpr const char* name = "mean";
  COHORT_HD
  static float identity() { return 0.0f; }
  COHORT_HD
  float finish(float total, std::uint32_t n) const { return total / static_cast<float>(n); }
};

/// NaN if any element is NaN.
struct max_of : cohort::detail::larger {
  static constexpr const char* name = "max";
  COHORT_HD
  static float identity() { return cohort::detail::minus_infinity(); }
};

/// NaN if any element is NaN.
struct min_of : cohort::detail::smaller {
  static constexpr const char* name = "min";
  COHORT_HD
  static float identity() { return -cohort::detail::minus_infinity(); }
};

/// *out = x[0] f x[1] f ... f x[count - 1], combined in fp32. Pointers are aligned to their element. Make one with
/// `make_reduction`.
///
/// One op is one tile, so that its order of combination follows from `count` and the kind of backend alone: a block
/// (CUB joins its threads) or a host thread does it all. That suits up to a few million elements. `out` may not overlap
/// x.
template <reduction_functor F, element T>
struct alignas(16) reduction {
  using value_type = T;
  static constexpr const char* name = [] {
    if constexpr (requires { F::name; }) return F::name;
    return "reduction";
  }();

  const T* x = nullptr;
  float* out = nullptr;
  std::uint32_t count = 0;
  std::uint8_t fault = 0;  ///< what `make_reduction` found wrong: an errc, 0 for nothing
  F f{};

  /// null_pointer, misaligned, buffer_too_small, bad_size or aliasing; no error if the op may run.
  error_code check() const noexcept {
    return detail::argument_check{}.required(x).required(out).recorded(fault).sides({count}).apart(out, 1, x, count);
  }

  op_cost cost() const noexcept { return {.flops = count, .bytes = std::uint64_t{count} * sizeof(T) + sizeof(float)}; }

  std::uint32_t tiles() const noexcept { return 1; }

  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t) const {
    const T* input = x;
    const F combine = f;
    float total = context.reduce(
        count, F::identity(),
        [=](std::uint32_t i) {
          if constexpr (requires { combine.element(0.0f); }) {
            return combine.element(to_float(input[i]));
          } else {
            return to_float(input[i]);
          }
        },
        combine);
    if constexpr (requires { combine.finish(0.0f, 1u); }) total = combine.finish(total, count);
    if (context.rank() == 0) *out = total;
  }
};

/// Makes the op over the whole of x. Mistakes come out of `check()`.
template <reduction_functor F, class T>
  requires element<std::remove_const_t<T>>
reduction<F, std::remove_const_t<T>> make_reduction(std::span<T> x, std::span<float> out, F f = {}) {
  reduction<F, std::remove_const_t<T>> op;
  op.x = x.data();
  op.out = out.data();
  op.count = detail::side(x.size());
  op.fault = detail::fault_unless(!out.empty(), errc::buffer_too_small);
  op.f = f;
  return op;
}

static_assert(op<reduction<sum_of, float>> && op<reduction<max_of, bf16>> && sizeof(reduction<mean_of, fp16>) <= 64);

}  // namespace cohort::inline COHORT_ABI::ops

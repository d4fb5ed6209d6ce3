// The op that applies a user's functor to each element. Users enter here.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/ops/detail/packs.hpp>
#include <cohort/ops/detail/rows.hpp>
#include <cohort/types.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

namespace cohort::inline COHORT_ABI::ops {

namespace detail {

template <class F>
constexpr const char* functor_name(const char* otherwise) {
  if constexpr (requires { F::name; }) {
    return F::name;
  } else {
    return otherwise;
  }
}

}  // namespace detail

/// out[i] = f(in0[i], in1[i], ...) for `count` elements, where f takes and returns float. `F` is a trivially copyable
/// functor with a `COHORT_HD float operator()(float, ...) const` (and, if it likes, a `static constexpr const char*
/// name`); it travels by value, with what it captures. Pointers are aligned to their element. Make one with
/// `make_elementwise`.
///
/// `out` may be an input itself where the element sizes are equal, and may not overlap one otherwise.
template <class F, element Out, element... In>
struct alignas(16) elementwise {
  static_assert(std::is_trivially_copyable_v<F>, "the functor travels to the device by value");
  static_assert(sizeof...(In) > 0, "elementwise needs an input: see fill for the op without");
  static constexpr const char* name = detail::functor_name<F>("elementwise");

  Out* out = nullptr;
  const void* in[sizeof...(In)] = {};
  std::uint32_t count = 0;
  std::uint32_t tile_count = 0;  ///< note of `plan`: elements of a tile
  std::uint8_t fault = 0;        ///< what `make_elementwise` found wrong: an errc, 0 for nothing
  F f{};

  /// null_pointer, misaligned, bad_size, shape_mismatch or aliasing; no error if the op may run.
  error_code check() const noexcept { return check_inputs(std::index_sequence_for<In...>{}); }

  op_cost cost() const noexcept {
    return {.flops = 4 * std::uint64_t{count}, .bytes = std::uint64_t{count} * (sizeof(Out) + ... + sizeof(In))};
  }

  static std::uint32_t plan(std::span<elementwise> members, const machine_shape& shape) {
    elementwise& op = members.front();
    // Elements are computed alone, so the choice changes no result.
    const std::uint32_t share = detail::divide_up(op.count, std::max(shape.workers, 1u));
    op.tile_count = shape.host ? static_cast<std::uint32_t>(detail::host_tile_elements)
                               : std::clamp(detail::divide_up(share, 512) * 512, 512u, 16384u);
    return detail::divide_up(op.count, op.tile_count);
  }

  template <class Context>
  COHORT_HD
  static void run(Context& context, const elementwise* members, std::uint32_t, std::uint32_t tile) {
    apply(context, *members, tile, std::index_sequence_for<In...>{});
  }

private:
  template <std::size_t... I>
  error_code check_inputs(std::index_sequence<I...>) const noexcept {
    detail::argument_check found;
    found.required(out);
    (void)(found.required(input<In>(I)), ...);
    found.recorded(fault).sides({count});
    (void)(found.same_or_apart(out, count, input<In>(I), count), ...);
    return found;
  }

  template <class T>
  COHORT_HD
  const T* input(std::size_t i) const { return static_cast<const T*>(in[i]); }

  template <class Context, std::size_t... I>
  COHORT_HD
  static void apply(Context& context, const elementwise& op, std::uint32_t tile, std::index_sequence<I...>) {
    const std::uint32_t first = tile * op.tile_count;
    const std::uint32_t elements = op.count - first < op.tile_count ? op.count - first : op.tile_count;
    apply_to(context, op.f, elements, op.out + first, (op.template input<In>(I) + first)...);
  }

  template <class Context>
  COHORT_HD
  static void apply_to(Context& context, F f, std::uint32_t elements, Out* result, const In*... inputs) {
    std::uint32_t in_packs = 0;
    if constexpr (Context::cooperative) {
      if (detail::aligned_to_packs<pack_elements>(result, inputs...)) in_packs = elements / pack_elements;
      context.for_each(in_packs, [=](std::uint32_t i) {
        const pack taken[] = {pack(inputs + i * pack_elements)...};
        apply_to_pack(f, taken, result + i * pack_elements, std::index_sequence_for<In...>{});
      });
    }
    const std::uint32_t done = in_packs * pack_elements;
    context.for_each(elements - done,
                     [=](std::uint32_t i) { result[done + i] = from_float<Out>(f(to_float(inputs[done + i])...)); });
  }

  /// As many elements as the largest type has in 16 bytes.
  static constexpr std::uint32_t pack_elements = 16 / std::max({sizeof(Out), sizeof(In)...});

  struct pack {
    template <class T>
    COHORT_HD
    explicit pack(const T* from) { detail::load_pack(from, at); }
    float at[pack_elements];
  };

  template <std::size_t... I>
  COHORT_HD
  static void apply_to_pack(const F& f, const pack (&taken)[sizeof...(In)], Out* result, std::index_sequence<I...>) {
    float made[pack_elements];
    COHORT_OPS_UNROLLED
    for (std::uint32_t i = 0; i < pack_elements; ++i) made[i] = f(taken[I].at[i]...);
    detail::store_pack(result, made);
  }
};

/// Makes the op for out.size() elements. Every input has as many (else `check()` says shape_mismatch).
template <class F, element Out, class... In>
  requires(element<std::remove_const_t<In>> && ...)
elementwise<F, Out, std::remove_const_t<In>...> make_elementwise(F f, std::span<Out> out, std::span<In>... in) {
  elementwise<F, Out, std::remove_const_t<In>...> op;
  op.out = out.data();
  std::size_t position = 0;
  (void)((op.in[position++] = in.data()), ...);
  op.count = detail::side(out.size());
  op.fault = detail::fault_unless(((in.size() == out.size()) && ...), errc::shape_mismatch);
  op.f = f;
  return op;
}

}  // namespace cohort::inline COHORT_ABI::ops

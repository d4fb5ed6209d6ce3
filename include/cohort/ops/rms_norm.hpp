// The op of root-mean-square normalisation. Users enter here.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/ops/detail/packs.hpp>
#include <cohort/ops/detail/rows.hpp>
#include <cohort/types.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops {

/// y = x / sqrt(mean(x^2) + epsilon) * gamma, for each of `row_count` rows of `hidden` elements (Zhang, Sennrich 2019).
/// Matrices are dense and row-major, pointers aligned to their element, arithmetic is fp32 and rounded to T once. Make
/// one with `make_rms_norm`.
///
/// `y` may be `x` itself; it may overlap nothing else that the op reads. A row's result depends on that row alone.
template <element T>
struct alignas(16) rms_norm {
  using value_type = T;
  static constexpr const char* name = detail::name_for<T>("rms_norm<fp32>", "rms_norm<fp16>", "rms_norm<bf16>");

  const T* x = nullptr;
  const T* gamma = nullptr;
  T* y = nullptr;
  std::uint32_t row_count = 0;
  std::uint32_t hidden = 0;
  float epsilon = 1e-6f;
  std::uint16_t tile_rows = 0;  ///< note of `plan`
  std::uint8_t fault = 0;       ///< what `make_rms_norm` found wrong: an errc, 0 for nothing

  /// null_pointer, misaligned, buffer_too_small, bad_size, shape_mismatch or aliasing; no error if the op may run.
  error_code check() const noexcept {
    const std::uint64_t elements = detail::tensor_size({row_count, hidden});
    return detail::argument_check{}
        .required(x)
        .required(gamma)
        .required(y)
        .recorded(fault)
        .sides({row_count, hidden})
        .same_or_apart(y, elements, x, elements)
        .apart(y, elements, gamma, hidden);
  }

  op_cost cost() const noexcept {
    const std::uint64_t elements = std::uint64_t{row_count} * hidden;
    return {.flops = 4 * elements, .bytes = (2 * elements + hidden) * sizeof(T)};
  }

  static std::uint32_t plan(std::span<rms_norm> members, const machine_shape& shape) {
    rms_norm& op = members.front();
    op.tile_rows = detail::rows_per_tile(shape, op.row_count, op.hidden);
    return detail::divide_up(op.row_count, op.tile_rows);
  }

  template <class Context>
  COHORT_HD
  static void run(Context& context, const rms_norm* members, std::uint32_t, std::uint32_t tile) {
    const rms_norm op = *members;
    detail::for_each_row(context, op.row_count, op.tile_rows, tile, [&](auto& group, std::uint32_t row) {
      const std::size_t begin = std::size_t{row} * op.hidden;
      if constexpr (Context::cooperative) {
        normalise_in_registers(group, op, begin);
      } else {
        const T* x = op.x + begin;
        const T* gamma = op.gamma;
        T* y = op.y + begin;
        const float squares = group.sum(op.hidden, [=](std::uint32_t i) { return to_float(x[i]) * to_float(x[i]); });
        const float scale = 1.0f / ::sqrtf(squares / static_cast<float>(op.hidden) + op.epsilon);
        group.for_each(op.hidden,
                       [=](std::uint32_t i) { y[i] = from_float<T>(to_float(x[i]) * scale * to_float(gamma[i])); });
      }
    });
  }

private:
  template <class Group>
  COHORT_HD
  static void normalise_in_registers(Group& group, const rms_norm& op, std::size_t begin) {
    constexpr std::uint32_t size = detail::pack_size<T>;
    const bool whole = op.hidden % size == 0 && detail::aligned_to_packs<size>(op.x, op.gamma, op.y);
    auto values = detail::read_row<size>(group, op.hidden, whole, [&]<std::uint32_t N>(std::uint32_t i, float(&to)[N]) {
      detail::load_pack(op.x + begin + i, to);
    });
    const float squares = values.sum([](float v) { return v * v; });
    const float mean = squares * detail::reciprocal(static_cast<float>(op.hidden));
    const float scale = detail::reciprocal_root(mean + op.epsilon);
    values.store(op.y + begin, [&]<std::uint32_t N>(std::uint32_t i, float(&v)[N]) {
      float gamma[N];
      detail::load_pack(op.gamma + i, gamma);
      COHORT_OPS_UNROLLED
      for (std::uint32_t j = 0; j < N; ++j) v[j] = v[j] * scale * gamma[j];
    });
  }
};

/// Makes the op; `gamma` is [hidden]. Mistakes are recorded in it and come out of `check()`. Buffers of rows may be
/// larger than the op needs.
template <element T>
rms_norm<T> make_rms_norm(std::type_identity_t<std::span<const T>> x, std::type_identity_t<std::span<const T>> gamma,
                          std::type_identity_t<std::span<T>> y, std::size_t rows, std::size_t hidden,
                          float epsilon = 1e-6f) {
  rms_norm<T> op;
  op.x = x.data();
  op.gamma = gamma.data();
  op.y = y.data();
  op.row_count = detail::side(rows);
  op.hidden = detail::side(hidden);
  op.epsilon = epsilon;
  const std::uint64_t elements = detail::tensor_size({rows, hidden});
  if (elements == 0) {
    op.fault = static_cast<std::uint8_t>(errc::bad_size);
  } else if (x.size() < elements || y.size() < elements) {
    op.fault = static_cast<std::uint8_t>(errc::buffer_too_small);
  } else {
    op.fault = detail::fault_unless(gamma.size() == hidden, errc::shape_mismatch);
  }
  return op;
}

static_assert(sizeof(rms_norm<float>) <= 64 && op<rms_norm<float>> && op<rms_norm<fp16>> && op<rms_norm<bf16>>);

}  // namespace cohort::inline COHORT_ABI::ops

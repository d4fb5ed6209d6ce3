// The op of softmax over the rows of a matrix. Users enter here.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/ops/detail/packs.hpp>
#include <cohort/ops/detail/rows.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops {

/// y = exp(s - max(s)) / sum(exp(s - max(s))) with s = scale * x, for each of `row_count` rows of `columns` elements.
/// Matrices are dense and row-major, pointers aligned to their element, arithmetic is fp32 and rounded to T once. Make
/// one with `make_softmax`. Elements of -infinity get 0; a row of nothing else, or with a NaN, becomes NaN.
///
/// `y` may be `x` itself and may not overlap it otherwise. A row's result depends on that row alone.
template <element T>
struct alignas(16) softmax {
  using value_type = T;
  static constexpr const char* name = detail::name_for<T>("softmax<fp32>", "softmax<fp16>", "softmax<bf16>");

  const T* x = nullptr;
  T* y = nullptr;
  std::uint32_t row_count = 0;
  std::uint32_t columns = 0;
  float scale = 1.0f;
  std::uint16_t tile_rows = 0;  ///< note of `plan`
  std::uint8_t fault = 0;       ///< what `make_softmax` found wrong: an errc, 0 for nothing

  /// null_pointer, misaligned, buffer_too_small, bad_size or aliasing; no error if the op may run.
  error_code check() const noexcept {
    const std::uint64_t elements = detail::tensor_size({row_count, columns});
    return detail::argument_check{}
        .required(x)
        .required(y)
        .recorded(fault)
        .sides({row_count, columns})
        .same_or_apart(y, elements, x, elements);
  }

  op_cost cost() const noexcept {
    const std::uint64_t elements = std::uint64_t{row_count} * columns;
    return {.flops = 24 * elements, .bytes = 2 * elements * sizeof(T)};
  }

  static std::uint32_t plan(std::span<softmax> members, const machine_shape& shape) {
    softmax& op = members.front();
    op.tile_rows = detail::rows_per_tile(shape, op.row_count, op.columns);
    return detail::divide_up(op.row_count, op.tile_rows);
  }

  template <class Context>
  COHORT_HD
  static void run(Context& context, const softmax* members, std::uint32_t, std::uint32_t tile) {
    const softmax op = *members;
    detail::for_each_row(context, op.row_count, op.tile_rows, tile, [&](auto& group, std::uint32_t row) {
      const std::size_t begin = std::size_t{row} * op.columns;
      if constexpr (Context::cooperative) {
        normalise_in_registers(group, op, begin);
      } else {
        const T* x = op.x + begin;
        T* y = op.y + begin;
        const float scale = op.scale;
        const float most = group.max(op.columns, [=](std::uint32_t i) { return scale * to_float(x[i]); });
        // Computed twice instead of kept: 16-bit storage would round it, and a row may be larger than the scratch.
        const auto power = [=](std::uint32_t i) { return detail::exp(scale * to_float(x[i]) - most); };
        const float total = group.sum(op.columns, power);
        group.for_each(op.columns, [=](std::uint32_t i) { y[i] = from_float<T>(power(i) / total); });
      }
    });
  }

private:
  template <class Group>
  COHORT_HD
  static void normalise_in_registers(Group& group, const softmax& op, std::size_t begin) {
    constexpr std::uint32_t size = 4;  // columns are often few, and every lane shall have some
    const bool whole = op.columns % size == 0 && detail::aligned_to_packs<size>(op.x, op.y);
    const float scale = op.scale;
    auto values = detail::read_row<size>(
        group, op.columns, whole,
        [&]<std::uint32_t N>(std::uint32_t i, float(&to)[N]) { detail::load_pack(op.x + begin + i, to); });
    const float most = values.max([=](float v) { return scale * v; });
    const auto power = [=](float v) { return detail::exp(scale * v - most); };
    const float share = detail::reciprocal(values.sum(power));
    values.store(op.y + begin, [&]<std::uint32_t N>(std::uint32_t, float(&v)[N]) {
      COHORT_OPS_UNROLLED
      for (std::uint32_t j = 0; j < N; ++j) v[j] = power(v[j]) * share;
    });
  }
};

/// Makes the op. Mistakes are recorded in it and come out of `check()`. Buffers may be larger than the op needs.
template <element T>
softmax<T> make_softmax(std::type_identity_t<std::span<const T>> x, std::type_identity_t<std::span<T>> y,
                        std::size_t rows, std::size_t columns, float scale = 1.0f) {
  softmax<T> op;
  op.x = x.data();
  op.y = y.data();
  op.row_count = detail::side(rows);
  op.columns = detail::side(columns);
  op.scale = scale;
  const std::uint64_t elements = detail::tensor_size({rows, columns});
  op.fault = elements == 0 ? static_cast<std::uint8_t>(errc::bad_size)
                           : detail::fault_unless(x.size() >= elements && y.size() >= elements, errc::buffer_too_small);
  return op;
}

static_assert(sizeof(softmax<float>) <= 64 && op<softmax<float>> && op<softmax<fp16>> && op<softmax<bf16>>);

}  // namespace cohort::inline COHORT_ABI::ops

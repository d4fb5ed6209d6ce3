// What follows the gates of an LSTM: an op of the benchmark's own, as a user writes one.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/math.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace cohort_bench::slo {

/// c = sigmoid(f) * c_before + sigmoid(i) * tanh(g), h = sigmoid(o) * tanh(c), element by element, with the gates
/// i, f, g, o of a row side by side: gates[rows][4][hidden] (Hochreiter, Schmidhuber 1997; Gers et al. 2000). The state
/// c is fp32 and dense; h has a stride of its own, so that it can be put beside the next step's input.
template <cohort::element T>
struct alignas(16) lstm_cell {
  static constexpr const char* name = "lstm_cell";

  const T* gates = nullptr;
  const float* before = nullptr;  ///< null: zeros, the first step; may be `state`
  float* state = nullptr;
  T* h = nullptr;
  std::uint32_t row_count = 0;
  std::uint32_t hidden = 0;
  std::uint32_t h_stride = 0;
  std::uint32_t tile_elements = 0;  ///< note of `plan`

  cohort::error_code check() const noexcept {
    if (gates == nullptr || state == nullptr || h == nullptr) return cohort::errc::null_pointer;
    if (row_count == 0 || hidden == 0 || h_stride < hidden) return cohort::errc::bad_size;
    return {};
  }

  cohort::op_cost cost() const noexcept {
    const std::uint64_t elements = std::uint64_t{row_count} * hidden;
    return {.flops = 40 * elements, .bytes = elements * (5 * sizeof(T) + 2 * sizeof(float))};
  }

  static std::uint32_t plan(std::span<lstm_cell> members, const cohort::machine_shape& shape) {
    lstm_cell& op = members.front();
    const std::uint32_t elements = op.row_count * op.hidden;
    // On a device one to a thread: a load may not overtake the store of the element before it.
    op.tile_elements = shape.host ? 4096 : 128;
    return (elements + op.tile_elements - 1) / op.tile_elements;
  }

  template <class Context>
  COHORT_HD
  static void run(Context& context, const lstm_cell* members, std::uint32_t, std::uint32_t tile) {
    using cohort::to_float;
    const lstm_cell op = *members;
    const std::uint32_t first = tile * op.tile_elements;
    const std::uint32_t left = op.row_count * op.hidden - first;
    const std::uint32_t count = left < op.tile_elements ? left : op.tile_elements;
    context.for_each(count, [=](std::uint32_t i) {
      const std::uint32_t row = (first + i) / op.hidden;
      const std::uint32_t column = (first + i) % op.hidden;
      const T* const gate = op.gates + std::size_t{row} * 4 * op.hidden + column;
      const float in = sigmoid(to_float(gate[0]));
      const float forget = sigmoid(to_float(gate[op.hidden]));
      const float candidate = cohort::ops::detail::tanh(to_float(gate[2 * std::size_t{op.hidden}]));
      const float out = sigmoid(to_float(gate[3 * std::size_t{op.hidden}]));
      const float before = op.before != nullptr ? op.before[first + i] : 0.0f;
      const float state = forget * before + in * candidate;
      op.state[first + i] = state;
      op.h[std::size_t{row} * op.h_stride + column] = cohort::from_float<T>(out * cohort::ops::detail::tanh(state));
    });
  }

private:
  COHORT_HD
  static float sigmoid(float x) { return 1.0f / (1.0f + cohort::ops::detail::exp(-x)); }
};

}  // namespace cohort_bench::slo

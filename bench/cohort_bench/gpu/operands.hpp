// Operands of many products of one shape, filled with values.
#pragma once

#include "../problem.hpp"
#include "cuda_support.hpp"
#include "kernels.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cohort_bench {

/// More than any L2 that is around: operands that rotate over so much come from memory.
inline constexpr std::size_t rotating_bytes = std::size_t{220} << 20;

/// `slots` products of one shape, each with memory of its own.
class operand_pool {
public:
  operand_pool(const problem& shape, element_type type, std::size_t slots) : shape_(shape), type_(type) {
    w_ = make_device_memory(slots * pitch(shape.w_size()));
    x_ = make_device_memory(slots * pitch(shape.x_size()));
    y_ = make_device_memory(slots * pitch(shape.y_size()));
    launch_fill(w_.get(), slots * pitch(shape.w_size()) / size_of(type), type, 1, nullptr);
    launch_fill(x_.get(), slots * pitch(shape.x_size()) / size_of(type), type, 2, nullptr);
    synchronize_device();
  }

  /// Products that rotate over `rotating_bytes` need so many slots.
  static std::size_t slots_for_rotation(const problem& shape, element_type type) {
    return rotating_bytes / shape.bytes(type) + 1;
  }

  gemm at(std::size_t slot) const {
    return {shape_, part(w_, slot, shape_.w_size()), part(x_, slot, shape_.x_size()), part(y_, slot, shape_.y_size())};
  }

  /// Sets of `r` products, one after the other.
  std::vector<batch> sets(std::size_t count, std::size_t r) const {
    std::vector<batch> result(count);
    for (std::size_t slot = 0; slot < count * r; ++slot) result[slot / r].push_back(at(slot));
    return result;
  }

private:
  /// Bytes from slot to slot: as cudaMalloc aligns.
  std::size_t pitch(std::size_t elements) const { return (elements * size_of(type_) + 255) / 256 * 256; }

  void* part(const device_memory& memory, std::size_t slot, std::size_t elements) const {
    return static_cast<std::byte*>(memory.get()) + slot * pitch(elements);
  }

  problem shape_;
  element_type type_;
  device_memory w_, x_, y_;
};

}  // namespace cohort_bench

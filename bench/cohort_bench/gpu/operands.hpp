// Operands of many products, filled with values.
#pragma once

#include "../problem.hpp"
#include "cuda_support.hpp"
#include "kernels.hpp"

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace cohort_bench {

/// More than any L2 that is around: operands that rotate over so much come from memory.
inline constexpr std::size_t rotating_bytes = std::size_t{220} << 20;

/// Products of any shapes, each with memory of its own, in sets of equal makeup.
class operand_sets {
public:
  operand_sets(std::vector<problem> shapes, element_type type, std::size_t sets)
      : shapes_(std::move(shapes)), type_(type) {
    for (const problem& shape : shapes_) {
      offsets_.push_back(set_bytes_);
      set_bytes_ += pitch(shape.w_size()) + pitch(shape.x_size()) + pitch(shape.y_size());
    }
    memory_ = make_device_memory(sets * set_bytes_);
    launch_fill(memory_.get(), sets * set_bytes_ / size_of(type), type, 1, nullptr);
    synchronize_device();
  }

  /// Sets that rotate over `rotating_bytes`.
  static std::size_t sets_for_rotation(const std::vector<problem>& shapes, element_type type) {
    std::size_t bytes = 0;
    for (const problem& shape : shapes) bytes += shape.bytes(type);
    return rotating_bytes / bytes + 1;
  }

  /// The product at `position` of a set.
  gemm at(std::size_t set, std::size_t position) const {
    const problem& shape = shapes_[position];
    std::byte* const w = static_cast<std::byte*>(memory_.get()) + set * set_bytes_ + offsets_[position];
    std::byte* const x = w + pitch(shape.w_size());
    return {shape, w, x, x + pitch(shape.x_size())};
  }

  std::vector<batch> sets(std::size_t count) const {
    std::vector<batch> result(count);
    for (std::size_t set = 0; set < count; ++set) {
      for (std::size_t i = 0; i < shapes_.size(); ++i) result[set].push_back(at(set, i));
    }
    return result;
  }

private:
  /// Bytes of a matrix, aligned as cudaMalloc aligns.
  std::size_t pitch(std::size_t elements) const { return (elements * size_of(type_) + 255) / 256 * 256; }

  std::vector<problem> shapes_;
  element_type type_;
  std::vector<std::size_t> offsets_;
  std::size_t set_bytes_ = 0;
  device_memory memory_;
};

/// `slots` products of one shape.
class operand_pool {
public:
  operand_pool(const problem& shape, element_type type, std::size_t slots) : all_({shape}, type, slots) {}

  /// Products that rotate over `rotating_bytes` need so many slots.
  static std::size_t slots_for_rotation(const problem& shape, element_type type) {
    return operand_sets::sets_for_rotation({shape}, type);
  }

  gemm at(std::size_t slot) const { return all_.at(slot, 0); }

  /// Sets of `r` products, one after the other.
  std::vector<batch> sets(std::size_t count, std::size_t r) const {
    std::vector<batch> result(count);
    for (std::size_t slot = 0; slot < count * r; ++slot) result[slot / r].push_back(at(slot));
    return result;
  }

private:
  operand_sets all_;
};

}  // namespace cohort_bench

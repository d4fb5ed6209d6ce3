// The peer of a reduction: cub::DeviceReduce.
#pragma once

#include "cuda_support.hpp"

#include <cstddef>

namespace cohort_bench {

class cub_sum {
public:
  explicit cub_sum(std::size_t count);

  /// *out = sum of `count` floats at `from`.
  void enqueue(const float* from, float* out, const stream& in);

private:
  std::size_t count_;
  std::size_t scratch_bytes_ = 0;
  device_memory scratch_;
};

}  // namespace cohort_bench

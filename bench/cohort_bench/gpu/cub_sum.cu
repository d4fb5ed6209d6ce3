// The peer of a reduction: cub::DeviceReduce.
#include "cub_sum.hpp"

#include <cub/device/device_reduce.cuh>

namespace cohort_bench {

cub_sum::cub_sum(std::size_t count) : count_(count) {
  const float* const from = nullptr;
  float* const out = nullptr;
  cuda_check(cub::DeviceReduce::Sum(nullptr, scratch_bytes_, from, out, count_), "cub::DeviceReduce::Sum");
  scratch_ = make_device_memory(scratch_bytes_);
}

void cub_sum::enqueue(const float* from, float* out, const stream& in) {
  cuda_check(cub::DeviceReduce::Sum(scratch_.get(), scratch_bytes_, from, out, count_, in.get()),
             "cub::DeviceReduce::Sum");
}

}  // namespace cohort_bench

// The superkernel over linear<fp32> and no_op.
#include "superkernels.hpp"

#include <cohort/backend/cuda.cuh>

namespace cohort_bench {

template <>
std::unique_ptr<cohort::backend> make_linear_backend<float>(const cohort::cuda_options& options) {
  return std::make_unique<cohort::cuda_backend<linear_ops<float>>>(options);
}

}  // namespace cohort_bench

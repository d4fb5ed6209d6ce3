// The superkernel over linear<bf16> and no_op.
#include "superkernels.hpp"

#include <cohort/backend/cuda.cuh>

namespace cohort_bench {

template <>
std::unique_ptr<cohort::backend> make_linear_backend<cohort::bf16>(const cohort::cuda_options& options) {
  return std::make_unique<cohort::cuda_backend<linear_ops<cohort::bf16>>>(options);
}

}  // namespace cohort_bench

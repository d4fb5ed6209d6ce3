// The superkernel over every op but linear.
#include "other_ops.hpp"
#include "superkernels.hpp"

#include <cohort/backend/cuda.cuh>

namespace cohort_bench {

std::unique_ptr<cohort::backend> make_other_backend(const cohort::cuda_options& options) {
  return std::make_unique<cohort::cuda_backend<other_ops>>(options);
}

}  // namespace cohort_bench

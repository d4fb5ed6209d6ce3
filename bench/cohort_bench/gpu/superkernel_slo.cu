// The superkernel over the ops of the models of `slo`.
#include "slo_kernels.hpp"

#include <cohort/backend/cuda.cuh>

namespace cohort_bench::slo {

std::unique_ptr<cohort::backend> make_slo_backend(const cohort::cuda_options& options) {
  return std::make_unique<cohort::cuda_backend<slo_ops<cohort::bf16>>>(options);
}

}  // namespace cohort_bench::slo

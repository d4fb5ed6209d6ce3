// The superkernels of MiniLM for minilm_gpu_test.cpp, which holds the tests.
#include "support/cuda_test_options.hpp"

#include <semantic_search/kernels.hpp>

#include <cohort/backend/cuda.cuh>

namespace cohort_demo {

template <>
std::unique_ptr<cohort::backend> make_backend<float>() {
  return std::make_unique<cohort::cuda_backend<minilm_ops<float>>>(
      cohort::testing::cuda_test_options(std::size_t{1} << 30));
}

template <>
std::unique_ptr<cohort::backend> make_backend<cohort::bf16>() {
  return std::make_unique<cohort::cuda_backend<minilm_ops<cohort::bf16>>>(
      cohort::testing::cuda_test_options(std::size_t{1} << 30));
}

}  // namespace cohort_demo

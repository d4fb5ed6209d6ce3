// Load never changes a result on the device.
#include "support/cuda_test_options.hpp"
#include "support/load_invariance.hpp"

#include <cohort/backend/cuda.cuh>

#include <doctest/doctest.h>

#include <memory>

TEST_CASE_TEMPLATE("device: an op gives the same bits alone and among 1, 7 and 63 others", T, float, cohort::fp16,
                   cohort::bf16) {
  cohort::cuda_options options = cohort::testing::cuda_test_options(std::size_t{1} << 24);
  options.pinned_bytes = std::size_t{1} << 26;
  load_invariance::check_every_op<T>(std::make_unique<cohort::cuda_backend<load_invariance::every_op<T>>>(options));
}

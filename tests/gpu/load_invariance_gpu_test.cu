// Load never changes a result on the device.
#include "support/cuda_test_options.hpp"
#include "support/load_invariance.hpp"

#include <cohort/backend/cuda.cuh>

#include <doctest/doctest.h>

#include <memory>

template <class T>
static auto device() {
  cohort::cuda_options options = cohort::testing::cuda_test_options(std::size_t{1} << 24);
  options.pinned_bytes = std::size_t{1} << 26;
  return std::make_unique<cohort::cuda_backend<load_invariance::every_op<T>>>(options);
}

TEST_CASE_TEMPLATE("device: an op gives the same bits alone and among 1, 7 and 63 others", T, float, cohort::fp16,
                   cohort::bf16) {
  load_invariance::check_every_op<T>(device<T>());
}

TEST_CASE_TEMPLATE("device: a chain gives the same bits as its ops alone, among 0, 1, 7 and 63 others", T, float,
                   cohort::fp16, cohort::bf16) {
  load_invariance::fixture<T>(device<T>()).check_chains();
}

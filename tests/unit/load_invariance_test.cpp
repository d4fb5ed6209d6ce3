// Load never changes a result on the host backend.
#include "support/load_invariance.hpp"

#include <cohort/backend/host.hpp>

#include <doctest/doctest.h>

#include <memory>

TEST_CASE_TEMPLATE("host: an op gives the same bits alone and among 1, 7 and 63 others", T, float, cohort::fp16,
                   cohort::bf16) {
  load_invariance::check_every_op<T>(std::make_unique<cohort::host_backend<load_invariance::every_op<T>>>(
      cohort::host_options{.workers = 2, .device_bytes = 1 << 24, .pinned_bytes = 1 << 26}));
}

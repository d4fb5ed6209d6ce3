// Load never changes a result on the host backend.
#include "support/load_invariance.hpp"

#include <cohort/backend/host.hpp>

#include <doctest/doctest.h>

#include <memory>

template <class T>
static auto host(unsigned workers) {
  return std::make_unique<cohort::host_backend<load_invariance::every_op<T>>>(
      cohort::host_options{.workers = workers, .device_bytes = 1 << 24, .pinned_bytes = 1 << 26});
}

TEST_CASE_TEMPLATE("host: an op gives the same bits alone and among 1, 7 and 63 others", T, float, cohort::fp16,
                   cohort::bf16) {
  load_invariance::check_every_op<T>(host<T>(2));
}

TEST_CASE_TEMPLATE("host: a chain gives the same bits as its ops alone, among 0, 1, 7 and 63 others", T, float,
                   cohort::fp16, cohort::bf16) {
  for (const unsigned workers : {0u, 1u, 2u, 4u}) {
    CAPTURE(workers);
    load_invariance::fixture<T>(host<T>(workers)).check_chains();
  }
}

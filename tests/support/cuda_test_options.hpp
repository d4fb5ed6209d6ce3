// How the GPU tests make their backends: COHORT_CUDA_MODE=resident (default) or bounded; ctest runs them both ways.
// For the sanitizers, which slow an op down: COHORT_CUDA_TIME_LIMIT=SECONDS gives packets more time, and
// COHORT_TEST_ROUNDS=PERCENT makes long tests shorter.
#pragma once

#include <cohort/backend/cuda_options.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <string_view>

namespace cohort::testing {

inline cuda_options cuda_test_options(std::size_t device_bytes) {
  cuda_options chosen;
  chosen.device_bytes = device_bytes;
  const char* const mode = std::getenv("COHORT_CUDA_MODE");
  if (mode != nullptr && std::string_view(mode) == "bounded") chosen.mode = cuda_mode::bounded;
  if (const char* const seconds = std::getenv("COHORT_CUDA_TIME_LIMIT"); seconds != nullptr) {
    chosen.time_limit = std::chrono::seconds(std::atoi(seconds));
  }
  return chosen;
}

inline int rounds(int all) {
  const char* const percent = std::getenv("COHORT_TEST_ROUNDS");
  return percent == nullptr ? all : std::max(1, static_cast<int>(all * std::atof(percent) / 100));
}

}  // namespace cohort::testing

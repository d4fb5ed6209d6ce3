// The superkernels that benchmarks run, each compiled in a file of its own by nvcc: nothing of the scheduler is
// included, so that they are not compiled again when it changes.
#pragma once

#include "../linear_ops.hpp"

#include <cohort/backend/backend.hpp>
#include <cohort/backend/cuda_options.hpp>
#include <cohort/types.hpp>

#include <memory>

namespace cohort_bench {

/// A backend over `linear_ops<T>`, T = float or bf16.
template <class T>
std::unique_ptr<cohort::backend> make_linear_backend(const cohort::cuda_options& options);
template <>
std::unique_ptr<cohort::backend> make_linear_backend<float>(const cohort::cuda_options& options);
template <>
std::unique_ptr<cohort::backend> make_linear_backend<cohort::bf16>(const cohort::cuda_options& options);

/// A backend over `other_ops`, for whoever has included other_ops.hpp.
std::unique_ptr<cohort::backend> make_other_backend(const cohort::cuda_options& options);

/// Operands are the benchmarks' own, in device memory: the arenas stay small. It lingers as by default.
inline cohort::cuda_options benchmark_options() {
  cohort::cuda_options options;
  options.device_bytes = std::size_t{1} << 20;
  options.pinned_bytes = std::size_t{1} << 20;
  options.results_stay_on_device = true;
  return options;
}

}  // namespace cohort_bench

// The ops that MiniLM is made of, and where the backend is made. Shared by the coroutines (minilm.hpp) and kernels.cu.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/attention.hpp>
#include <cohort/ops/copy.hpp>
#include <cohort/ops/embedding.hpp>
#include <cohort/ops/layer_norm.hpp>
#include <cohort/ops/linear.hpp>
#include <cohort/ops/pooling.hpp>

#include <memory>

namespace cohort_demo {

/// One superkernel for each element type: fp32 beside bf16 in one kernel would cost both of them registers.
template <cohort::element T>
using minilm_ops = cohort::op_set<cohort::ops::embedding<T>, cohort::ops::layer_norm<T>, cohort::ops::linear<T>,
                                  cohort::ops::attention<T>, cohort::ops::mean_pooling<T>, cohort::ops::copy>;

/// The device that runs these ops: a GPU where there is one and nvcc compiled kernels.cu, else this machine's cores.
template <cohort::element T>
std::unique_ptr<cohort::backend> make_backend();
template <>
std::unique_ptr<cohort::backend> make_backend<float>();
template <>
std::unique_ptr<cohort::backend> make_backend<cohort::bf16>();

}  // namespace cohort_demo

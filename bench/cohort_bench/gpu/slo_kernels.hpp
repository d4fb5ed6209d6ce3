// Device code of `slo`: our backend, and the peers' kernels. Launch functions only: whoever includes this needs no
// nvcc.
#pragma once

#include "../slo/slo_ops.hpp"

#include <cohort/backend/backend.hpp>
#include <cohort/backend/cuda_options.hpp>
#include <cohort/types.hpp>

#include <cuda_runtime_api.h>

#include <memory>

namespace cohort_bench::slo {

/// A backend over `slo_ops<bf16>`.
std::unique_ptr<cohort::backend> make_slo_backend(const cohort::cuda_options& options);

/// One op as a kernel of its own, a block for each tile: the code of the library's op, launched in the usual way.
void launch(const cohort::ops::attention<cohort::bf16>& op, cudaStream_t stream);
void launch(const cohort::ops::layer_norm<cohort::bf16>& op, cudaStream_t stream);
void launch(const lstm_cell<cohort::bf16>& op, cudaStream_t stream);

/// y = act(y + bias) + residual in place: what a linear op has beside its product.
void launch_epilogue(const cohort::ops::linear<cohort::bf16>& op, cudaStream_t stream);

/// Loads the peers' kernels: a first launch beside a resident kernel might wait for it.
void load_slo_kernels();

}  // namespace cohort_bench::slo

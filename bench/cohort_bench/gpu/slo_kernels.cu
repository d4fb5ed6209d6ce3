// The peers' kernels: ops launched one by one, and what follows a product of cuBLAS.
#include "cuda_support.hpp"
#include "slo_kernels.hpp"

#include <cohort/device/device_context.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace cohort_bench::slo {
namespace {

using cohort::bf16;

template <class Op>
__global__ void __launch_bounds__(cohort::device_block_threads) run_op(const __grid_constant__ Op op) {
  extern __shared__ __align__(1024) std::byte scratch[];
  __shared__ typename cohort::device_context<>::storage storage;
  cohort::device_context<> context(scratch, storage);
  Op::run(context, &op, 1, blockIdx.x);
}

/// Kernels are loaded on first use, which waits for whoever is on the device; and more shared memory than 48 KB is to
/// be asked for.
template <class Op>
void load_op() {
  cuda_check(cudaFuncSetAttribute(run_op<Op>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(cohort::detail::device_scratch_bytes<Op>())),
             Op::name);
}

template <class Op>
void launch_tiles(Op op, cudaStream_t stream) {
  const std::uint32_t tiles = Op::plan(std::span<Op>(&op, 1), {.workers = 528, .host = false});
  run_op<Op><<<tiles, cohort::device_block_threads, cohort::detail::device_scratch_bytes<Op>(), stream>>>(op);
  cuda_check(cudaGetLastError(), Op::name);
}

__global__ void finish_linear(const __grid_constant__ cohort::ops::linear<bf16> op) {
  const std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  if (i >= std::size_t{op.row_count} * op.n) return;
  float value = cohort::to_float(op.y[i]);
  if (op.bias != nullptr) value += cohort::to_float(op.bias[i % op.n]);
  value = cohort::ops::apply(op.act, value);
  if (op.residual != nullptr) value += cohort::to_float(op.residual[i]);
  op.y[i] = cohort::from_float<bf16>(value);
}

}  // namespace

void launch(const cohort::ops::attention<bf16>& op, cudaStream_t stream) { launch_tiles(op, stream); }
void launch(const cohort::ops::layer_norm<bf16>& op, cudaStream_t stream) { launch_tiles(op, stream); }
void launch(const lstm_cell<bf16>& op, cudaStream_t stream) { launch_tiles(op, stream); }

void launch_epilogue(const cohort::ops::linear<bf16>& op, cudaStream_t stream) {
  constexpr unsigned threads = 256;
  const std::size_t elements = std::size_t{op.row_count} * op.n;
  finish_linear<<<static_cast<unsigned>((elements + threads - 1) / threads), threads, 0, stream>>>(op);
  cuda_check(cudaGetLastError(), "finish_linear");
}

void load_slo_kernels() {
  load_op<cohort::ops::attention<bf16>>();
  load_op<cohort::ops::layer_norm<bf16>>();
  load_op<lstm_cell<bf16>>();
  cudaFuncAttributes unused{};
  cuda_check(cudaFuncGetAttributes(&unused, finish_linear), "finish_linear");
}

}  // namespace cohort_bench::slo

// Kernels that benchmarks need beside those they measure. Launch functions only: whoever includes this needs no nvcc.
#pragma once

#include "../problem.hpp"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace cohort_bench {

/// Values in (-1, 1) that depend on seed and position alone.
void launch_fill(void* to, std::size_t count, element_type type, std::uint64_t seed, cudaStream_t stream);

/// A product on the device, and where its reference lies.
struct device_gemm {
  std::uint32_t m, n, k;
  std::uint32_t pad;
  const void* w;
  const void* x;
  void* y;
  double* reference;
};

/// The products in float64, each with one thread per element of y.
void launch_reference(const device_gemm* all, std::uint32_t count, std::size_t largest_y, element_type type,
                      cudaStream_t stream);

/// Every bit of every y set, which is a NaN: what is not written is found.
void launch_poison(const device_gemm* all, std::uint32_t count, std::size_t largest_y, element_type type,
                   cudaStream_t stream);

/// For product i: sums[2 i] += sum (y - reference)^2, sums[2 i + 1] += sum reference^2.
void launch_compare(const device_gemm* all, std::uint32_t count, std::size_t largest_y, element_type type, double* sums,
                    cudaStream_t stream);

void launch_empty(cudaStream_t stream);

/// out[0] = clock64 ticks and out[1] = globaltimer ns of the same interval of about `ns`.
void launch_clock(std::uint64_t* out, std::uint64_t ns, cudaStream_t stream);

/// Reads `bytes` at `from` `times` times with 16-byte loads past the L1.
void launch_read(const void* from, std::size_t bytes, int times, std::uint32_t* sink, cudaStream_t stream);

/// Copies `bytes`, a multiple of 16, with all of the device.
void launch_copy(const void* from, void* to, std::size_t bytes, cudaStream_t stream);

/// Loads every kernel above: a first launch beside a resident kernel might wait for it.
void load_kernels();

}  // namespace cohort_bench

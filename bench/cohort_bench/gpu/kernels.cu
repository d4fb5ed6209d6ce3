// Kernels that benchmarks need beside those they measure.
#include "cuda_support.hpp"
#include "kernels.hpp"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

namespace cohort_bench {
namespace {

constexpr unsigned threads = 256;

__device__ float load(const void* from, std::size_t at, element_type type) {
  return type == element_type::fp32 ? static_cast<const float*>(from)[at]
                                    : __bfloat162float(static_cast<const __nv_bfloat16*>(from)[at]);
}

__device__ std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

__device__ std::uint64_t global_time() {
  std::uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

__global__ void fill(void* to, std::size_t count, element_type type, std::uint64_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t{threads} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * threads) {
    const float value = static_cast<float>(static_cast<std::int32_t>(mix(seed * 0x1000003u + i) >> 32)) * 0x1p-31f;
    if (type == element_type::fp32) {
      static_cast<float*>(to)[i] = value;
    } else {
      static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16(value);
    }
  }
}

__global__ void reference(const device_gemm* all, element_type type) {
  const device_gemm& p = all[blockIdx.y];
  const std::size_t i = blockIdx.x * std::size_t{threads} + threadIdx.x;
  if (i >= std::size_t{p.m} * p.n) return;
  const std::size_t w = i % p.m * p.k;
  const std::size_t x = i / p.m * p.k;
  double sum = 0;
  for (std::uint32_t k = 0; k < p.k; ++k) sum += double{load(p.w, w + k, type)} * double{load(p.x, x + k, type)};
  p.reference[i] = sum;
}

__global__ void poison(const device_gemm* all, element_type type) {
  const device_gemm& p = all[blockIdx.y];
  const std::size_t i = blockIdx.x * std::size_t{threads} + threadIdx.x;
  if (i >= std::size_t{p.m} * p.n) return;
  if (type == element_type::fp32) {
    static_cast<std::uint32_t*>(p.y)[i] = 0xffffffffu;
  } else {
    static_cast<std::uint16_t*>(p.y)[i] = 0xffffu;
  }
}

__global__ void compare(const device_gemm* all, element_type type, double* sums) {
  const device_gemm& p = all[blockIdx.y];
  const std::size_t i = blockIdx.x * std::size_t{threads} + threadIdx.x;
  double error = 0;
  double norm = 0;
  if (i < std::size_t{p.m} * p.n) {
    const double wanted = p.reference[i];
    const double difference = double{load(p.y, i, type)} - wanted;
    error = difference * difference;
    norm = wanted * wanted;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    error += __shfl_down_sync(0xffffffffu, error, offset);
    norm += __shfl_down_sync(0xffffffffu, norm, offset);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(&sums[2 * blockIdx.y], error);
    atomicAdd(&sums[2 * blockIdx.y + 1], norm);
  }
}

__global__ void empty() {}

__global__ void measure_clock(std::uint64_t* out, std::uint64_t ns) {
  const std::uint64_t begin_ns = global_time();
  const long long begin = clock64();
  std::uint64_t now = begin_ns;
  while (now - begin_ns < ns) now = global_time();
  out[0] = static_cast<std::uint64_t>(clock64() - begin);
  out[1] = now - begin_ns;
}

__global__ void read(const uint4* from, std::size_t count, int times, std::uint32_t* sink) {
  std::uint32_t sum = 0;
  for (int t = 0; t < times; ++t) {
    for (std::size_t i = blockIdx.x * std::size_t{threads} + threadIdx.x; i < count;
         i += std::size_t{gridDim.x} * threads) {
      const uint4 value = __ldcg(from + i);
      sum += value.x ^ value.y ^ value.z ^ value.w;
    }
  }
  if (sum == 0x12345678u) *sink = sum;  // keeps the loads
}

__global__ void copy(const uint4* from, uint4* to, std::size_t count) {
  for (std::size_t i = blockIdx.x * std::size_t{threads} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * threads) {
    to[i] = from[i];
  }
}

unsigned blocks_for(std::size_t count, std::size_t most) {
  return static_cast<unsigned>(std::min((count + threads - 1) / threads, most));
}

void launched(const char* what) { cuda_check(cudaGetLastError(), what); }

}  // namespace

void launch_fill(void* to, std::size_t count, element_type type, std::uint64_t seed, cudaStream_t stream) {
  fill<<<blocks_for(count, 4096), threads, 0, stream>>>(to, count, type, seed);
  launched("fill");
}

void launch_reference(const device_gemm* all, std::uint32_t count, std::size_t largest_y, element_type type,
                      cudaStream_t stream) {
  reference<<<dim3(blocks_for(largest_y, ~std::size_t{0}), count), threads, 0, stream>>>(all, type);
  launched("reference");
}

void launch_poison(const device_gemm* all, std::uint32_t count, std::size_t largest_y, element_type type,
                   cudaStream_t stream) {
  poison<<<dim3(blocks_for(largest_y, ~std::size_t{0}), count), threads, 0, stream>>>(all, type);
  launched("poison");
}

void launch_compare(const device_gemm* all, std::uint32_t count, std::size_t largest_y, element_type type, double* sums,
                    cudaStream_t stream) {
  compare<<<dim3(blocks_for(largest_y, ~std::size_t{0}), count), threads, 0, stream>>>(all, type, sums);
  launched("compare");
}

void launch_empty(cudaStream_t stream) {
  empty<<<1, 32, 0, stream>>>();
  launched("empty");
}

void launch_clock(std::uint64_t* out, std::uint64_t ns, cudaStream_t stream) {
  measure_clock<<<1, 1, 0, stream>>>(out, ns);
  launched("clock");
}

void launch_read(const void* from, std::size_t bytes, int times, std::uint32_t* sink, cudaStream_t stream) {
  read<<<1056, threads, 0, stream>>>(static_cast<const uint4*>(from), bytes / sizeof(uint4), times, sink);
  launched("read");
}

void launch_copy(const void* from, void* to, std::size_t bytes, cudaStream_t stream) {
  copy<<<blocks_for(bytes / sizeof(uint4), 1056), threads, 0, stream>>>(static_cast<const uint4*>(from),
                                                                        static_cast<uint4*>(to), bytes / sizeof(uint4));
  launched("copy");
}

void load_kernels() {
  const auto load = [](auto* kernel) {
    cudaFuncAttributes unused{};
    cuda_check(cudaFuncGetAttributes(&unused, kernel), "loading a kernel");
  };
  load(fill);
  load(reference);
  load(poison);
  load(compare);
  load(empty);
  load(measure_clock);
  load(read);
  load(copy);
}

}  // namespace cohort_bench

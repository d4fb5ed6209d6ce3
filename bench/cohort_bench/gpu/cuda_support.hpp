// CUDA and cuBLAS for the peers: checked calls, and owners of what CUDA hands out. No kernel, so any compiler will do.
#pragma once

#include <cohort/backend/cuda_error.cuh>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace cohort_bench {

using cohort::detail::cuda_check;
using cohort::detail::cuda_try;

struct cublas_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void cublas_check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw cublas_error(std::string(what) + ": " + cublasGetStatusString(status));
}

struct cuda_deleter {
  void operator()(void* memory) const noexcept { (void)cuda_try(cudaFree(memory)); }
  void operator()(cudaStream_t one) const noexcept { (void)cuda_try(cudaStreamDestroy(one)); }
  void operator()(cudaEvent_t one) const noexcept { (void)cuda_try(cudaEventDestroy(one)); }
  void operator()(cudaGraph_t one) const noexcept { (void)cuda_try(cudaGraphDestroy(one)); }
  void operator()(cudaGraphExec_t one) const noexcept { (void)cuda_try(cudaGraphExecDestroy(one)); }
  void operator()(cublasHandle_t one) const noexcept { (void)cublasDestroy(one); }
};
struct cuda_host_deleter {
  void operator()(void* memory) const noexcept { (void)cuda_try(cudaFreeHost(memory)); }
};

using device_memory = std::unique_ptr<void, cuda_deleter>;
using host_memory = std::unique_ptr<void, cuda_host_deleter>;
using stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, cuda_deleter>;
using event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, cuda_deleter>;
using graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, cuda_deleter>;
using graph_exec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, cuda_deleter>;
using cublas_handle = std::unique_ptr<std::remove_pointer_t<cublasHandle_t>, cuda_deleter>;

inline device_memory make_device_memory(std::size_t bytes) {
  void* memory = nullptr;
  cuda_check(cudaMalloc(&memory, bytes), "cudaMalloc");
  return device_memory(memory);
}

/// Mapped: host and device use one address.
inline host_memory make_host_memory(std::size_t bytes) {
  void* memory = nullptr;
  cuda_check(cudaHostAlloc(&memory, bytes, cudaHostAllocMapped), "cudaHostAlloc");
  return host_memory(memory);
}

inline stream make_stream() {
  cudaStream_t one = nullptr;
  cuda_check(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking), "cudaStreamCreate");
  return stream(one);
}

inline event make_event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t one = nullptr;
  cuda_check(cudaEventCreateWithFlags(&one, flags), "cudaEventCreate");
  return event(one);
}

inline void synchronize(const stream& one) { cuda_check(cudaStreamSynchronize(one.get()), "cudaStreamSynchronize"); }
inline void synchronize_device() { cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

/// A copy of `from` in device memory.
template <class T>
device_memory upload(std::span<const T> from) {
  device_memory memory = make_device_memory(from.size_bytes());
  cuda_check(cudaMemcpy(memory.get(), from.data(), from.size_bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  return memory;
}

template <class T>
device_memory upload(const std::vector<T>& from) {
  return upload(std::span<const T>(from));
}

/// Records what `body` puts into `origin` (and what it forks from there) as a graph, ready for launches.
template <class Body>
graph_exec capture(const stream& origin, Body&& body) {
  cuda_check(cudaStreamBeginCapture(origin.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t recorded = nullptr;
  try {
    body();
  } catch (...) {
    (void)cuda_try(cudaStreamEndCapture(origin.get(), &recorded));
    if (recorded != nullptr) (void)cuda_try(cudaGraphDestroy(recorded));
    throw;
  }
  cuda_check(cudaStreamEndCapture(origin.get(), &recorded), "cudaStreamEndCapture");
  const graph owner(recorded);
  cudaGraphExec_t ready = nullptr;
  cuda_check(cudaGraphInstantiate(&ready, recorded, 0), "cudaGraphInstantiate");
  graph_exec result(ready);
  cuda_check(cudaGraphUpload(ready, origin.get()), "cudaGraphUpload");
  synchronize(origin);
  return result;
}

/// False, with a line of explanation, where there is no GPU.
bool device_present();

}  // namespace cohort_bench

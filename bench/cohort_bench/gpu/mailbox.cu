// The raw mailbox, one block and relayed.
#include "../limits.hpp"
#include "mailbox.hpp"

#include <cuda_runtime.h>

#include <atomic>
#include <chrono>
#include <cstring>

namespace cohort_bench {
namespace {

constexpr std::uint32_t stop = 0xffffffffu;
constexpr std::uint64_t longest_ns = 5'000'000'000u;  // a kernel without mail for so long leaves

/// One line for each direction, written by one side alone.
struct host_words {
  alignas(128) std::uint32_t doorbell;
  alignas(128) std::uint32_t answer;
};

struct relay_words {
  alignas(128) std::uint32_t published;
  alignas(128) std::uint32_t counter;
};

__device__ std::uint32_t load_system(const std::uint32_t* from) {
  std::uint32_t value;
  asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
/// Behind what the device sees in order: as our own executor tells it where results stay on the device.
__device__ void store_system(std::uint32_t* to, std::uint32_t value) {
  asm volatile("st.relaxed.sys.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ std::uint32_t load_device(const std::uint32_t* from) {
  std::uint32_t value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ void store_device(std::uint32_t* to, std::uint32_t value) {
  asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ std::uint64_t global_time() {
  std::uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

/// Waits until `word` differs from `last`; `stop` when none comes.
template <class Load>
__device__ std::uint32_t await(const std::uint32_t* word, std::uint32_t last, Load load) {
  const std::uint64_t begin = global_time();
  while (true) {
    const std::uint32_t value = load(word);
    if (value != last) return value;
    if (global_time() - begin > longest_ns) return stop;
  }
}

__global__ void answer(host_words* host) {
  std::uint32_t last = 0;
  while (true) {
    last = await(&host->doorbell, last, [](const std::uint32_t* word) { return load_system(word); });
    if (last == stop) return;
    __threadfence();
    store_system(&host->answer, last);
  }
}

__global__ void answer_relayed(host_words* host, relay_words* relay) {
  const unsigned workers = gridDim.x - 1;
  std::uint32_t last = 0;
  while (true) {
    if (blockIdx.x == workers) {
      last = await(&host->doorbell, last, [](const std::uint32_t* word) { return load_system(word); });
      store_device(&relay->published, last);
    } else {
      last = await(&relay->published, last, [](const std::uint32_t* word) { return load_device(word); });
      if (last != stop && last % workers == blockIdx.x) {
        __threadfence();
        if (atomicAdd(&relay->counter, 1) == last - 1) {
          __threadfence();
          store_system(&host->answer, last);
        }
      }
    }
    if (last == stop) return;
  }
}

}  // namespace

mailbox::mailbox(mailbox_form form)
    : words_(make_host_memory(sizeof(host_words))), relay_(make_device_memory(sizeof(relay_words))) {
  std::memset(words_.get(), 0, sizeof(host_words));
  cuda_check(cudaMemset(relay_.get(), 0, sizeof(relay_words)), "cudaMemset");
  synchronize_device();
  auto* const host = static_cast<host_words*>(words_.get());
  auto* const relay = static_cast<relay_words*>(relay_.get());
  if (form == mailbox_form::one_block) {
    answer<<<1, 1, 0, stream_.get()>>>(host);
    cuda_check(cudaGetLastError(), "launching the mailbox");
    return;
  }
  int blocks = 0;
  cuda_check(cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
  host_words* first = host;
  relay_words* second = relay;
  void* arguments[] = {&first, &second};
  cuda_check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(&answer_relayed),
                                         dim3(static_cast<unsigned>(blocks)), dim3(1), arguments, 0, stream_.get()),
             "launching the mailbox");
}

mailbox::~mailbox() {
  ring(stop);
  (void)cuda_try(cudaStreamSynchronize(stream_.get()));  // bounded: the kernel leaves by itself
}

void mailbox::ring(std::uint32_t value) {
  // release: the device sees it after whatever was written before
  std::atomic_ref(static_cast<host_words*>(words_.get())->doorbell).store(value, std::memory_order_release);
}

std::vector<double> mailbox::round_trips(int count) {
  const std::atomic_ref answered(static_cast<host_words*>(words_.get())->answer);
  std::vector<double> samples;
  samples.reserve(static_cast<std::size_t>(count));
  for (int i = -100; i < count; ++i) {
    const auto begin = clock::now();
    ring(++last_);
    std::uint64_t looks = 0;
    // acquire: pairs with the device's release
    while (answered.load(std::memory_order_acquire) != last_) {
      if (++looks % 65536 == 0 && clock::now() - begin > std::chrono::seconds(1)) {
        throw std::runtime_error("the mailbox does not answer");
      }
    }
    const double us = microseconds_since(begin);
    if (i >= 0) samples.push_back(us);
  }
  return samples;
}

}  // namespace cohort_bench

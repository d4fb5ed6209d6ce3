// Coroutines in a plain .cpp file, compiled by any C++20 compiler; the superkernel is in kernels.cu.
#include "kernels.hpp"

#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/task.hpp>
#include <cohort/when_all.hpp>

#include <cstdio>
#include <vector>

cohort::task<> sum(cohort::executor<kernels>& gpu, const float* a, const float* b, float* out, std::uint32_t n) {
  co_await gpu.submit(add{a, b, out, n});
}

int main() {
  constexpr std::uint32_t requests = 100, n = 16;
  boost::asio::io_context io;
  cohort::executor<kernels> gpu(io, make_backend(), {.driven_by = cohort::drive::caller});
  auto a = cohort::make_pinned_buffer<float>(gpu.device(), requests * n);
  auto b = cohort::make_pinned_buffer<float>(gpu.device(), requests * n);
  auto out = cohort::make_pinned_buffer<float>(gpu.device(), requests * n);
  for (std::uint32_t i = 0; i < requests * n; ++i) {
    a[i] = static_cast<float>(i);
    b[i] = 1.0f;
  }
  std::vector<cohort::task<>> all;
  for (std::uint32_t i = 0; i < requests; ++i) all.push_back(sum(gpu, &a[i * n], &b[i * n], &out[i * n], n));
  gpu.run(cohort::when_all(std::move(all)));
  const auto counted = gpu.statistics();
  std::printf("%s: %llu requests in %llu packets, last result %g\n", gpu.device().name(),
              static_cast<unsigned long long>(counted.committed), static_cast<unsigned long long>(counted.packets),
              static_cast<double>(out[requests * n - 1]));
  return out[requests * n - 1] == static_cast<float>(requests * n) ? 0 : 1;
}

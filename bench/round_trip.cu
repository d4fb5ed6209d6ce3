// The way there and back: a no-op op from co_await to resume in the caller-driven mode, beside launch + synchronize of
// an empty kernel, before and after it in the same run. Needs a GPU.
//   round_trip [--quick] [--json FILE]
// COHORT_COMMIT in the environment names the commit in the JSON.
#include <cohort/backend/cuda.cuh>
#include <cohort/executor.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

using clock = std::chrono::steady_clock;

struct alignas(16) no_op {
  static constexpr const char* name = "no_op";
  std::uint64_t unused[2] = {};

  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t) const {}
};

__global__ void empty_kernel() {}

using kernels = cohort::op_set<no_op>;
using executor = cohort::executor<kernels>;

double microseconds_since(clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(clock::now() - begin).count();
}

/// Quantiles of samples in microseconds.
struct summary {
  explicit summary(std::vector<double> samples) {
    std::sort(samples.begin(), samples.end());
    const auto at = [&](double share) {
      return samples[static_cast<std::size_t>(share * static_cast<double>(samples.size() - 1))];
    };
    p50 = at(0.5);
    p99 = at(0.99);
    p999 = at(0.999);
  }

  double p50, p99, p999;
};

cohort::task<std::vector<double>> round_trips(executor& gpu, int count) {
  std::vector<double> samples;
  samples.reserve(static_cast<std::size_t>(count));
  for (int i = -1000; i < count; ++i) {
    const clock::time_point begin = clock::now();
    co_await gpu.submit(no_op{});
    if (i >= 0) samples.push_back(microseconds_since(begin));
  }
  co_return std::move(samples);
}

summary launches(int count) {
  cudaStream_t stream = nullptr;
  cohort::detail::cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  std::vector<double> samples;
  for (int i = -1000; i < count; ++i) {
    const clock::time_point begin = clock::now();
    empty_kernel<<<1, 32, 0, stream>>>();
    cohort::detail::cuda_check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    if (i >= 0) samples.push_back(microseconds_since(begin));
  }
  cohort::detail::cuda_check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  return summary(std::move(samples));
}

}  // namespace

int main(int argc, char** argv) {
  int count = 100'000;
  const char* json = nullptr;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      count = 5'000;
    } else if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json = argv[++i];
    } else {
      std::fprintf(stderr, "usage: round_trip [--quick] [--json FILE]\n");
      return 2;
    }
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  const summary before = launches(count / 4);
  const summary ours = [&] {
    boost::asio::io_context io;
    executor gpu(io, std::make_unique<cohort::cuda_backend<kernels>>(), {.driven_by = cohort::drive::caller});
    return summary(gpu.run(round_trips(gpu, count)));
  }();
  const summary after = launches(count / 4);
  const double launch = std::min(before.p50, after.p50);
  std::printf("%-28s %8s %8s %8s  (us)\n", "", "p50", "p99", "p99.9");
  const auto row = [](const char* what, const summary& s) {
    std::printf("%-28s %8.2f %8.2f %8.2f\n", what, s.p50, s.p99, s.p999);
  };
  row("launch + synchronize, before", before);
  row("co_await to resume", ours);
  row("launch + synchronize, after", after);
  std::printf("ratio of the medians: %.2f\n", ours.p50 / launch);
  if (json == nullptr) return 0;

  cudaDeviceProp device{};
  cohort::detail::cuda_check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  int driver = 0;
  cohort::detail::cuda_check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  const char* const commit = std::getenv("COHORT_COMMIT");
  std::FILE* const file = std::fopen(json, "w");
  if (file == nullptr) {
    std::perror(json);
    return 1;
  }
  std::fprintf(
      file,
      "{\n  \"gpu\": \"%s\", \"driver_cuda\": %d, \"compiler\": \"nvcc %d.%d, gcc %d.%d\", \"commit\": \"%s\",\n"
      "  \"samples\": %d,\n",
      device.name, driver, __CUDACC_VER_MAJOR__, __CUDACC_VER_MINOR__, __GNUC__, __GNUC_MINOR__,
      commit == nullptr ? "unknown" : commit, count);
  const auto record = [&](const char* what, const summary& s) {
    std::fprintf(file, "  \"%s\": {\"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f},\n", what, s.p50, s.p99,
                 s.p999);
  };
  record("launch_synchronize_before", before);
  record("co_await_to_resume", ours);
  record("launch_synchronize_after", after);
  std::fprintf(file,
               "  \"targets\": [{\"name\": \"no-op round trip, caller-driven, median us\", \"target\": 8, "
               "\"measured\": %.3f, \"holds\": %s}]\n}\n",
               ours.p50, ours.p50 <= 8 ? "true" : "false");
  return std::fclose(file) == 0 ? 0 : 1;
}

// One op of our own, run by 1000 coroutines. nvcc runs it on the GPU; g++ -x c++ compiles the same file for the host.
#include <cohort/cohort.hpp>

#include <cstdio>
#include <vector>

struct scale {
  static constexpr const char* name = "scale";
  const float* in;
  float* out;
  float factor;
  std::uint32_t n;

  std::uint32_t tiles() const { return (n + 255) / 256; }

  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    const std::uint32_t first = tile * 256, count = n - first < 256 ? n - first : 256;
    context.for_each(count, [&](std::uint32_t i) { out[first + i] = factor * in[first + i]; });
  }
};

using kernels = cohort::op_set<scale>;

cohort::task<> twice(cohort::executor<kernels>& gpu, float* x, float* y, std::uint32_t n) {
  co_await gpu.submit(scale{x, y, 2.0f, n});  // suspended here, and packed with whoever else is pending
  co_await gpu.submit(scale{y, x, 2.0f, n});
}

int main() {
  boost::asio::io_context io;
  cohort::executor<kernels> gpu(io, cohort::automatic_backend<kernels>(), {.driven_by = cohort::drive::caller});
  auto x = cohort::make_pinned_buffer<float>(gpu.device(), 2000);  // the second half is for what is between
  std::vector<cohort::task<>> all;
  for (std::uint32_t i = 0; i < 1000; ++i) x[i] = 1.0f, all.push_back(twice(gpu, &x[i], &x[1000 + i], 1));
  gpu.run(cohort::when_all(std::move(all)));
  std::printf("%s: x[999] = %g after %lu packets\n", gpu.device().name(), x[999], gpu.statistics().packets);
}

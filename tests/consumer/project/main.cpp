// A user's program: one op, one coroutine, the host backend.
#include <cohort/backend/host.hpp>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/task.hpp>

struct triple {
  static constexpr const char* name = "triple";
  float* x;
  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t) const {
    context.for_each(1, [&](std::uint32_t) { *x *= 3.0f; });
  }
};

using kernels = cohort::op_set<triple>;

cohort::task<> work(cohort::executor<kernels>& gpu, float* x) {
  co_await gpu.submit(triple{x});
  co_await gpu.submit(triple{x});
}

int main() {
  boost::asio::io_context io;
  cohort::executor<kernels> gpu(io, std::make_unique<cohort::host_backend<kernels>>(),
                                {.driven_by = cohort::drive::caller});
  auto x = cohort::make_pinned_buffer<float>(gpu.device(), 1);
  x[0] = 2.0f;
  gpu.run(work(gpu, x.data()));
  return x[0] == 18.0f ? 0 : 1;
}

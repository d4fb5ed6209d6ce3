// Watches itself: a trace for ui.perfetto.dev goes to standard output, metrics for Prometheus to standard error, and a
// hook is told of stragglers. Two tenants send requests of four dense layers with the same weights.
//     ./trace > trace.json
#include <cohort/cohort.hpp>
#include <cohort/observe/chrome_trace.hpp>
#include <cohort/observe/metrics.hpp>
#include <cohort/observe/trace.hpp>
#include <cohort/ops/linear.hpp>

#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstdio>
#include <deque>
#include <iostream>
#include <vector>

using kernels = cohort::op_set<cohort::ops::linear<float>>;
using gpu_executor = cohort::executor<kernels>;

constexpr std::size_t width = 256;

struct request {
  explicit request(cohort::backend& device)
      : x(cohort::make_pinned_buffer<float>(device, width)), y(cohort::make_pinned_buffer<float>(device, width)) {
    for (std::size_t i = 0; i < width; ++i) x[i] = 1.0f;
  }
  cohort::pinned_buffer<float> x, y;
};

cohort::task<> answer(cohort::tenant<gpu_executor> tenant, const cohort::ops::linear_layer<float>& layer, request& r) {
  for (int i = 0; i < 4; ++i) {
    co_await tenant.submit(i % 2 == 0 ? layer(r.x.view(), r.y.view()) : layer(r.y.view(), r.x.view()));
  }
}

int main() {
  cohort::trace_recorder trace;
  cohort::metrics metrics;
  cohort::observer_group observers({&trace, &metrics});
  cohort::straggler_watch stragglers([](const cohort::straggler_report& one) {
    std::fprintf(stderr, "%s %u %s, %.1f times its usual latency\n",
                 one.scope == cohort::straggler_scope::op ? "op" : "tenant", one.index,
                 one.recovered ? "has recovered" : "is slow", one.factor);
    return cohort::straggler_action::isolate;
  });

  boost::asio::io_context io;
  gpu_executor gpu(io, cohort::automatic_backend<kernels>(), {.observer = &observers, .stragglers = &stragglers});
  const auto chat = gpu.make_tenant({.name = "chat", .latency_target = std::chrono::milliseconds(2)});
  const auto batch = gpu.make_tenant({.name = "batch", .latency_target = std::chrono::milliseconds(50)});

  auto weights = cohort::make_pinned_buffer<float>(gpu.device(), width * width);
  for (std::size_t i = 0; i < width * width; ++i) weights[i] = i % (width + 1) == 0 ? 1.0f : 0.0f;
  const cohort::ops::linear_layer<float> layer{weights.view(), {}, width, width, cohort::ops::activation::relu};

  std::vector<request> requests;
  for (int i = 0; i < 24; ++i) requests.emplace_back(gpu.device());
  std::deque<boost::asio::steady_timer> arrivals;  // one request every 30 us
  for (std::size_t i = 0; i < requests.size(); ++i) {
    arrivals.emplace_back(io, std::chrono::microseconds(30 * i)).async_wait([&, i](boost::system::error_code) {
      cohort::spawn(io, answer(i % 3 == 0 ? chat : batch, layer, requests[i]), boost::asio::detached);
    });
  }
  io.run();
  gpu.drain();

  cohort::write_chrome_trace(std::cout, trace.snapshot());
  std::cerr << metrics.text();
}

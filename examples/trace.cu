// Watches itself: a trace for ui.perfetto.dev goes to standard output, metrics for Prometheus to standard error, and a
// hook is told of stragglers. Two tenants send requests of four dense layers with the same weights.
//     ./trace > trace.json
#include <cohort/cohort.hpp>
#include <cohort/observe/chrome_trace.hpp>
#include <cohort/observe/metrics.hpp>
#include <cohort/observe/trace.hpp>
#include <cohort/ops/linear.hpp>

#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <chrono>
#include <cstdio>
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

cohort::task<> answer(cohort::tenant<gpu_executor> tenant, const cohort::ops::linear_layer<float>& layer, request& r,
                      std::size_t& answered) {
  for (int i = 0; i < 4; ++i) {
    co_await tenant.submit(i % 2 == 0 ? layer(r.x.view(), r.y.view()) : layer(r.y.view(), r.x.view()));
  }
  ++answered;
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
  gpu_executor gpu(io, cohort::automatic_backend<kernels>(),
                   {.driven_by = cohort::drive::caller, .observer = &observers, .stragglers = &stragglers});
  const auto chat = gpu.make_tenant({.name = "chat", .latency_target = std::chrono::milliseconds(2)});
  const auto batch = gpu.make_tenant({.name = "batch", .latency_target = std::chrono::milliseconds(50)});

  auto weights = cohort::make_pinned_buffer<float>(gpu.device(), width * width);
  for (std::size_t i = 0; i < width * width; ++i) weights[i] = i % (width + 1) == 0 ? 1.0f : 0.0f;
  const cohort::ops::linear_layer<float> layer{weights.view(), {}, width, width, cohort::ops::activation::relu};

  std::vector<request> requests;
  for (int i = 0; i < 24; ++i) requests.emplace_back(gpu.device());
  std::size_t arrived = 0, answered = 0;
  const auto begin = std::chrono::steady_clock::now();
  while (answered < requests.size()) {
    // One request every 30 us, whatever the device does.
    while (arrived < requests.size() &&
           std::chrono::steady_clock::now() - begin > std::chrono::microseconds(30 * arrived)) {
      const std::size_t i = arrived++;
      cohort::spawn(io, answer(i % 3 == 0 ? chat : batch, layer, requests[i], answered), boost::asio::detached);
    }
    io.restart();
    io.poll();
    gpu.poll();
  }

  cohort::write_chrome_trace(std::cout, trace.snapshot());
  std::cerr << metrics.text();
}

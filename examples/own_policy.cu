// A policy of one's own beside the default. Requests of two layers with shared weights trickle in. `late_binding` gives
// an idle device what there is at once: least latency. `thrifty` spends the latency that the target allows on company:
// weights are read once for eight requests, and the device is left alone in between.
#include <cohort/cohort.hpp>
#include <cohort/ops/linear.hpp>

#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <vector>

/// Commits what is worth a packet, and the rest when the most urgent could not wait any longer.
struct thrifty {
  static constexpr cohort::ordering order = cohort::ordering::urgency;  // least slack first; else there is no slack

  std::size_t enough = 8;
  std::chrono::nanoseconds margin = std::chrono::milliseconds(2);  // for what predictions do not know

  cohort::decision decide(const cohort::queue_view& queue, cohort::time_point now) const {
    if (queue.packets_in_flight >= 2) return cohort::decision::hold();  // asked again when one completes
    if (queue.pending >= enough || queue.draining) return cohort::decision::commit_now(cohort::commit_reason::has_room);
    const cohort::time_point last_moment = queue.latest_start - queue.work_in_flight - margin;
    if (now < last_moment) return cohort::decision::hold_until(last_moment);
    return cohort::decision::commit_now(cohort::commit_reason::waited_enough);
  }
};
static_assert(cohort::policy<thrifty>);

using kernels = cohort::op_set<cohort::ops::linear<float>>;
using milliseconds = std::chrono::duration<double, std::milli>;

constexpr std::size_t width = 256, requests = 400;
constexpr auto target = std::chrono::milliseconds(10);

struct request {
  explicit request(cohort::backend& device)
      : x(cohort::make_pinned_buffer<float>(device, width)), y(cohort::make_pinned_buffer<float>(device, width)) {
    for (std::size_t i = 0; i < width; ++i) x[i] = static_cast<float>(i);
  }
  cohort::pinned_buffer<float> x, y;
  double latency_ms = 0;
};

template <class Tenant>
cohort::task<> answer(Tenant tenant, const cohort::ops::linear_layer<float>& layer, request& r, std::size_t& answered) {
  const auto arrived = cohort::clock::now();
  co_await tenant.submit(layer(r.x.view(), r.y.view()));
  co_await tenant.submit(layer(r.y.view(), r.x.view()));
  r.latency_ms = milliseconds(cohort::clock::now() - arrived).count();
  ++answered;
}

/// The same requests under one policy. False when an answer is wrong.
template <class Policy>
bool serve(const char* name, Policy policy) {
  using executor = cohort::executor<kernels, boost::asio::io_context::executor_type, Policy>;
  boost::asio::io_context io;
  executor gpu(io, cohort::automatic_backend<kernels>(), {.driven_by = cohort::drive::caller}, policy);
  const auto tenant = gpu.make_tenant({.name = "chat", .latency_target = target});

  auto weights = cohort::make_pinned_buffer<float>(gpu.device(), width * width);  // the identity
  for (std::size_t i = 0; i < width * width; ++i) weights[i] = i % (width + 1) == 0 ? 1.0f : 0.0f;
  const cohort::ops::linear_layer<float> layer{weights.view(), {}, width, width};

  std::vector<request> all;
  for (std::size_t i = 0; i < requests; ++i) all.emplace_back(gpu.device());
  std::size_t arrived = 0, answered = 0;
  const auto begin = cohort::clock::now();
  while (answered < requests) {
    // One request every 100 us, whatever the device does.
    while (arrived < requests && cohort::clock::now() - begin > std::chrono::microseconds(100 * arrived)) {
      cohort::spawn(io, answer(tenant, layer, all[arrived++], answered), boost::asio::detached);
    }
    io.restart();
    io.poll();
    gpu.poll();
  }

  double sum = 0;
  bool right = true;
  for (request& r : all) {
    sum += r.latency_ms;
    for (std::size_t i = 0; i < width; ++i) right = right && r.x[i] == static_cast<float>(i);
  }
  const auto counted = gpu.statistics();
  std::printf("%-14s %8llu %12.1f %8llu %14.2f\n", name, static_cast<unsigned long long>(counted.packets),
              static_cast<double>(counted.committed) / static_cast<double>(counted.packets),
              static_cast<unsigned long long>(counted.missed), sum / requests);
  return right;
}

int main() {
  std::printf("%-14s %8s %12s %8s %14s\n", "policy", "packets", "per packet", "missed", "latency in ms");
  const bool right = serve("late_binding", cohort::late_binding{}) && serve("thrifty", thrifty{});
  std::puts(right ? "all answers are right" : "an answer is WRONG");
  return right ? 0 : 1;
}

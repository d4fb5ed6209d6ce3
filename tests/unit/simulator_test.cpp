// The simulator: its device takes the time that was measured, its scheduler ends every request once, and its numbers
// say what happened.
#include "../../bench/cohort_sim/device_model.hpp"
#include "../../bench/cohort_sim/outcome.hpp"
#include "../../bench/cohort_sim/simulation.hpp"

#include <cohort/schedule/batching_policies.hpp>
#include <cohort/schedule/packet_builder.hpp>

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

using namespace cohort_sim;
using namespace std::chrono_literals;

namespace {

struct packets {
  cohort::packet_builder builder;
  alignas(16) std::array<std::byte, cohort::packet_capacity> storage;

  /// `records` products of weights of their own, each of `members` requests.
  std::span<const std::byte> of(std::uint32_t records, std::uint32_t members, const dense& op) {
    builder.begin(storage, 1);
    for (std::uint32_t r = 0; r < records; ++r) {
      builder.open(dense_op, sizeof op);
      for (std::uint32_t m = 0; m < members; ++m) builder.append(&op, sizeof op);
      builder.close({.count = 1});
    }
    return builder.finish();
  }
};

constexpr device_parameters quiet{.noise = 0};

/// From commit to completion on an idle device, in us.
double alone(std::span<const std::byte> packet) { return device_model(quiet).commit(packet, 0) * 1e-3; }

/// Per packet when the device is kept full, in us.
double kept_full(std::span<const std::byte> packet) {
  device_model device(quiet);
  device.commit(packet, 0);
  const double first = device.commit(packet, 0);
  double last = 0;
  for (int i = 0; i < 10; ++i) last = device.commit(packet, 0);
  return (last - first) * 1e-4;
}

workload poisson(std::size_t requests, cohort::late_work late, double rate) {
  workload load;
  for (std::uint32_t t = 0; t < 6; ++t) {
    load.models.push_back({model_kinds[t % model_kinds.size()], 400us});
    load.tenants.push_back({.latency_target = 400us, .when_late = late});
  }
  const std::chrono::nanoseconds duration{static_cast<std::int64_t>(1e9 * static_cast<double>(requests) / rate)};
  load.arrivals = cohort_load::generate({}, rate, duration, cohort_load::sources_of(6), 3);
  return load;
}

template <class Policy>
outcome run(const workload& load, const setup& how = {}) {
  return std::make_unique<simulation<Policy>>(load, how, Policy{})->run();
}

}  // namespace

TEST_CASE("the device model takes the time that was measured on an H200") {
  packets p;
  // Round trips and packets kept full, as measured; a model is good within a fifth or so.
  const dense square{.weights = 1, .row_count = 256, .n = 256, .k = 256};
  CHECK(alone(p.of(1, 1, square)) == doctest::Approx(7.4).epsilon(0.15));
  CHECK(alone(p.of(16, 1, square)) == doctest::Approx(11.4).epsilon(0.15));
  CHECK(kept_full(p.of(1, 1, square)) == doctest::Approx(2.0).epsilon(0.1));
  const dense deep{.weights = 1, .row_count = 256, .n = 128, .k = 1152};
  CHECK(alone(p.of(1, 1, deep)) == doctest::Approx(9.8).epsilon(0.15));
  const dense skinny{.weights = 1, .row_count = 64, .n = 4096, .k = 4096};
  CHECK(alone(p.of(1, 1, skinny)) == doctest::Approx(20.3).epsilon(0.2));
  CHECK(kept_full(p.of(1, 1, skinny)) == doctest::Approx(10.6).epsilon(0.1));
}

TEST_CASE("fused requests read their weights once, and packed ones do not") {
  packets p;
  const dense narrow{.weights = 1, .row_count = 1, .n = 2048, .k = 1024};
  const double fused = kept_full(p.of(1, 16, narrow));
  const double packed = kept_full(p.of(16, 1, narrow));
  CHECK(packed > 6 * fused);
}

TEST_CASE("noise changes single packets and not their mean, and equal seeds give equal devices") {
  packets p;
  const auto packet = p.of(1, 1, {.weights = 1, .row_count = 64, .n = 1024, .k = 1024});
  device_model a({.noise = 0.05}, 1);
  device_model b({.noise = 0.05}, 1);
  device_model c({.noise = 0.05}, 2);
  double sum = 0;
  double last = 0;
  bool differ = false;
  for (int i = 0; i < 2000; ++i) {
    const double now = i * 100e3;
    last = a.commit(packet, now);
    CHECK(b.commit(packet, now) == last);
    differ = differ || c.commit(packet, now) != last;
    sum += last - now;
  }
  CHECK(differ);
  CHECK(sum / 2000 * 1e-3 == doctest::Approx(alone(packet)).epsilon(0.01));
}

TEST_CASE("every request ends once, in time, late or dropped, under every policy and in overload") {
  for (const auto late : {cohort::late_work::run, cohort::late_work::drop}) {
    const workload load = poisson(3000, late, 2e6);
    const outcome all[] = {run<cohort::late_binding>(load), run<cohort::immediate>(load),
                           run<cohort::fixed_window>(load), run<cohort::preferred_sizes>(load),
                           run<cohort::aimd>(load),         run<cohort::deferred_window>(load)};
    for (const outcome& one : all) {
      CHECK(one.requests.size() == load.arrivals.size());
      CHECK(one.ended_twice == 0);
      CHECK(one.share(fate::waiting) == 0);
      CHECK(one.share(fate::in_time) + one.share(fate::late) + one.share(fate::dropped) == doctest::Approx(1));
      CHECK((one.drop_rate() > 0) == (late == cohort::late_work::drop));
      const auto& n = one.counters;
      CHECK(n.submitted == n.committed + n.refused + n.dropped);
    }
  }
}

TEST_CASE("latency counts from the intended arrival, and a verdict is by the request's target") {
  workload load;
  load.models = {{model_kind::perceptron, 1ms}};
  load.tenants = {{.latency_target = 1ms}};
  load.arrivals = {{5us, 0, 0}};
  setup how;
  how.device.noise = 0;
  const double whole = run<cohort::immediate>(load, how).requests[0].latency;
  // Three stages of 1024 steps each, and two resumptions between them.
  const double stage = 1950 + 2000 + 700 + 2.8 * 1024 + 1950;
  CHECK(whole == doctest::Approx(3 * stage + 2 * how.resume).epsilon(0.001));
  load.models[0].target = std::chrono::nanoseconds(static_cast<std::int64_t>(whole) - 10);
  CHECK(run<cohort::immediate>(load, how).requests[0].how == fate::late);
  load.models[0].target += 20ns;
  CHECK(run<cohort::immediate>(load, how).requests[0].how == fate::in_time);
}

TEST_CASE("equal seeds give equal runs, and the model learns costs that are told wrongly") {
  const workload load = poisson(3000, cohort::late_work::run, 1e5);
  const outcome one = run<cohort::late_binding>(load);
  const outcome two = run<cohort::late_binding>(load);
  CHECK(one.latencies() == two.latencies());
  CHECK(one.counters.prediction_error < 0.5);
  CHECK(one.wait_hidden() > 0.95);
  CHECK(one.attainment() > 0.99);
}

TEST_CASE("goodput, attainment and drop rate are of what was offered") {
  outcome one;
  one.duration = 2e9;
  one.requests = {{0, fate::in_time, 10}, {1, fate::late, 30}, {0, fate::dropped, 0}, {1, fate::in_time, 20}};
  CHECK(one.attainment() == 0.5);
  CHECK(one.drop_rate() == 0.25);
  CHECK(one.goodput() == 1);
  CHECK(one.latencies() == std::vector<double>{10, 30, 20});
  CHECK(one.latencies(1) == std::vector<double>{30, 20});
}

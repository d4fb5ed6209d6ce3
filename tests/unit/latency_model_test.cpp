// What is learned of a device from packets that are complete, and how well it is foretold then.
#include "house_fixture.hpp"

#include <cohort/schedule/latency_model.hpp>
#include <cohort/schedule/scheduler.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

using namespace schedule_test;
using cohort::device_rates;
using cohort::errc;

TEST_CASE("rates that are wrong by a factor of ten are corrected, and the model says how wrong it is") {
  house<> h;
  auto now = 0ns;
  double first_error = 0;
  for (std::uint32_t i = 1; i <= 60; ++i) {
    h.submit(0, now, 1000, 5);
    h.next(now);
    now += 10us;
    h.s.complete(i, {}, h.at(now));
    if (i == 1) first_error = h.s.latencies().error();
  }
  CHECK(first_error == doctest::Approx(0.9));
  CHECK(h.s.statistics().prediction_error < 0.2);
  h.submit(0, now, 1000, 5);
  h.next(now);
  CHECK(h.s.work_in_flight(h.at(now)) > 9us);
  CHECK(h.s.work_in_flight(h.at(now)) < 11us);
  int classes = 0;
  h.s.latencies().for_each([&](std::size_t op, std::size_t, bool company, const cohort::latency_class& one) {
    ++classes;
    CHECK(op == fused);
    CHECK_FALSE(company);
    CHECK(one.measured.quantile(0.5) > 8'000);
    CHECK(one.measured.quantile(0.99) < 12'500);
  });
  CHECK(classes == 1);
}

TEST_CASE("what a packet teaches may be learned later, and the next completion learns it at the latest") {
  house<> at_once;
  house<> later;
  const auto begin = [](house<>& h, std::chrono::nanoseconds now) {
    h.submit(0, now, 1000, 5);
    h.next(now);
  };
  begin(at_once, 0us);
  begin(later, 0us);
  at_once.s.complete(1, {}, at_once.at(10us));
  later.s.complete_unlearnt(1, {}, later.at(10us));
  const double first = at_once.s.latencies().error();
  CHECK(first > 0);
  CHECK(at_once.s.statistics().prediction_error == first);
  CHECK(later.s.latencies().error() == 0);
  begin(later, 10us);
  later.s.complete_unlearnt(2, {}, later.at(15us));
  CHECK(later.s.latencies().error() == first);
  later.s.learn();
  const double both = later.s.latencies().error();
  CHECK(both != first);
  CHECK(later.s.statistics().prediction_error == both);
  later.s.learn();  // there is nothing more to learn
  CHECK(later.s.latencies().error() == both);
  begin(later, 20us);
  later.s.complete_unlearnt(3, errc::device_lost, later.at(30us));  // teaches nothing
  later.s.learn();
  CHECK(later.s.latencies().error() == both);
}

TEST_CASE("counters of a rolling histogram are quarters of octaves") {
  for (int quarter = 0; quarter < 120; ++quarter) {
    CAPTURE(quarter);
    const double from = 16 * std::exp2(quarter / 4.0);
    const double to = 16 * std::exp2((quarter + 1) / 4.0);
    for (const double ns : {from * 1.0001, to * 0.9999}) {
      cohort::rolling_histogram histogram;
      histogram.add(ns);
      CHECK(histogram.quantile(0.5) == doctest::Approx(to));
    }
  }
  cohort::rolling_histogram histogram;
  for (const double odd : {0.0, -1.0, 16.0, std::numeric_limits<double>::quiet_NaN()}) histogram.add(odd);
  CHECK(histogram.quantile(1) < 20);
  histogram.add(std::numeric_limits<double>::infinity());
  CHECK(histogram.quantile(1) > 3e12);
}

TEST_CASE("quantiles of a rolling histogram are within a counter of the truth, and the past fades") {
  cohort::rolling_histogram histogram;
  CHECK(histogram.quantile(0.5) == 0);
  for (int i = 1; i <= 1000; ++i) histogram.add(i * 100.0);
  for (const double q : {0.5, 0.95, 0.99}) {
    CHECK(histogram.quantile(q) >= q * 100'000);
    CHECK(histogram.quantile(q) <= q * 100'000 * 1.2);
  }
  for (int i = 0; i < 10'000; ++i) histogram.add(50);
  CHECK(histogram.quantile(0.99) < 60);
  CHECK(histogram.samples() < cohort::rolling_histogram::window);
}

TEST_CASE("lead and overhead are learned apart: packets on a busy device come closer than a round trip") {
  const device_rates told{.flops_per_ns = 1, .packet_overhead = 1000ns, .busy_target = 1000ns, .max_packets = 4};
  cohort::scheduler<> s(op_table, cohort::machine_shape{}, told);
  workshop shop;
  const auto commit = [&](std::chrono::nanoseconds now) {
    auto& one = shop.make(odd);
    one.cost.flops = 1000;
    s.submit(one, shop.at(now));
    REQUIRE_FALSE(s.next(shop.at(now), shop.storage).empty());
  };
  // In truth 4 us are lead, and overhead and work together take 3 us.
  auto now = 0ns;
  std::uint32_t sequence = 0;
  for (int i = 0; i < 300; ++i) {
    commit(now);
    auto& second = shop.make(odd);
    second.cost.flops = 1000;
    s.submit(second, shop.at(now + 2us));
    for (auto at = now + 2us; s.next(shop.at(at), shop.storage).empty(); at += 100ns) REQUIRE(at < now + 7us);
    s.complete(++sequence, {}, shop.at(now + 7us));
    s.complete(++sequence, {}, shop.at(now + 10us));
    now += 20us;
  }
  CHECK(s.latencies().lead() == doctest::Approx(4000).epsilon(0.1));
  CHECK(s.latencies().overhead() + s.latencies().predict(odd, 1000, false) == doctest::Approx(3000).epsilon(0.1));
  CHECK(s.statistics().prediction_error < 0.1);
}

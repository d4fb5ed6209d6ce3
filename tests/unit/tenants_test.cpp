// Tenants, deadlines and overload on a virtual clock: who goes first, who must wait, and what becomes of the late.
#include "schedule_fixtures.hpp"

#include <cohort/schedule/batching_policies.hpp>
#include <cohort/schedule/scheduler.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <type_traits>
#include <vector>

using namespace schedule_test;
using cohort::device_rates;
using cohort::errc;
using cohort::error_code;
using cohort::full_queue;
using cohort::late_work;
using cohort::submission_state;
using cohort::tenant_options;

namespace {

/// 1 ns per flop, no overhead, and packets of one record once 1000 ns are in it.
constexpr device_rates rates{
    .flops_per_ns = 1, .bytes_per_ns = 1, .packet_overhead = 0ns, .busy_target = 1000ns, .max_packets = 4};

using ids = std::vector<std::uint64_t>;

template <class Policy>
Policy usual() {
  if constexpr (std::is_same_v<Policy, cohort::late_binding>) {
    return {.packet_work = 1000ns};
  } else {
    return {};
  }
}

/// One record at a time, the most urgent first.
struct one_by_one {
  static constexpr cohort::ordering order = cohort::ordering::urgency;
  cohort::decision decide(const cohort::queue_view& queue, cohort::time_point) const {
    if (queue.packets_in_flight > 0) return cohort::decision::hold();
    cohort::decision verdict = cohort::decision::commit_now(cohort::commit_reason::idle_device);
    verdict.max_work = 1000ns;
    return verdict;
  }
};

template <class Policy = cohort::late_binding>
struct house : workshop {
  cohort::scheduler<Policy> s;
  explicit house(const cohort::scheduler_options& options = {}, Policy policy = usual<Policy>())
      : s(op_table, cohort::machine_shape{}, rates, options, policy) {}

  node& submit(cohort::tenant_id tenant, std::chrono::nanoseconds now, std::uint64_t flops = 1000,
               std::uint64_t key = 0, std::chrono::nanoseconds deadline = std::chrono::nanoseconds::max()) {
    node& one = make(key == 0 ? odd : fused, 1, key);
    one.tenant = tenant;
    one.cost.flops = flops;
    if (deadline != std::chrono::nanoseconds::max()) one.deadline = at(deadline);
    s.submit(one, at(now));
    return one;
  }

  /// The members of the next packet; empty when there is none.
  ids next(std::chrono::nanoseconds now) {
    const auto bytes = s.next(at(now), storage);
    return bytes.empty() ? ids{} : decode(bytes, op_table).ids();
  }

  /// Runs one packet after the other, each for its estimated time, until nothing is pending; returns the order.
  ids run(std::chrono::nanoseconds now) {
    ids all;
    for (std::uint32_t sequence = 1;; ++sequence) {
      const ids some = next(now);
      if (some.empty()) return all;
      all.insert(all.end(), some.begin(), some.end());
      now += s.work_in_flight(at(now));
      s.complete(sequence, {}, at(now));
    }
  }
};

}  // namespace

TEST_CASE("the least slack goes first: a tight target overtakes a loose one, and a long op a short one") {
  house<> h;
  h.s.set_tenant(1, {.name = "loose", .latency_target = 1ms});
  h.s.set_tenant(2, {.name = "tight", .latency_target = 50us});
  h.submit(1, 0ns, 1000);
  CHECK(h.next(0ns) == ids{0});
  h.submit(1, 0ns, 1000);     // 1
  h.submit(1, 1ns, 3000, 5);  // 2: later by 1 ns, but must start 2 us earlier
  h.submit(2, 100ns, 1000);   // 3
  h.s.complete(1, {}, h.at(1000ns));
  CHECK(h.next(1000ns) == ids{3});
  h.s.complete(2, {}, h.at(2000ns));
  CHECK(h.next(2000ns) == ids{2});
  h.s.complete(3, {}, h.at(5000ns));
  CHECK(h.next(5000ns) == ids{1});
  CHECK(h.s.statistics().farthest_behind == 2);
}

TEST_CASE("a request's deadline shortens the tenant's target and never lengthens it") {
  house<> h;
  h.s.set_tenant(1, {.latency_target = 100us});
  CHECK(h.submit(1, 0ns).deadline == h.at(100us));
  CHECK(h.submit(1, 0ns, 1000, 0, 30us).deadline == h.at(30us));
  CHECK(h.submit(1, 0ns, 1000, 0, 1s).deadline == h.at(100us));
  CHECK(h.run(0ns) == ids{1, 0, 2});
}

TEST_CASE("a completion after the deadline is counted as a miss of its tenant") {
  house<> h;
  h.s.set_tenant(1, {.latency_target = 5us});
  h.submit(1, 0ns);
  h.submit(1, 0ns);
  h.next(0ns);
  h.s.complete(1, {}, h.at(5us));
  h.next(5us);
  h.s.complete(2, {}, h.at(5001ns));
  CHECK(h.s.statistics_of(1).missed == 1);
  CHECK(h.s.statistics_of(1).completed == 2);
  CHECK(h.s.statistics().missed == 1);
  CHECK(h.s.statistics_of(1).service == 5001ns);
  CHECK(h.s.statistics_of(0).service == 0ns);
}

TEST_CASE("a flood waits behind those who stay within their share, though it came first") {
  house<> h;
  h.s.set_tenant(1, {.name = "flood", .latency_target = 10us});
  h.s.set_tenant(2, {.name = "modest", .latency_target = 10us});
  for (int i = 0; i < 50; ++i) h.submit(1, 0ns);  // 50 us of work
  h.submit(2, 1us);                               // 50
  const ids order = h.run(1us);
  const auto place = std::find(order.begin(), order.end(), 50u) - order.begin();
  CHECK(place <= 11);  // behind what the flood's share would have served by then, and no more
  CHECK(order.size() == 51);
}

TEST_CASE("service follows the weights while everyone has more to do than the device can") {
  house<> h;
  h.s.set_tenant(1, {.latency_target = 1us, .weight = 3});
  h.s.set_tenant(2, {.latency_target = 1us, .weight = 1});
  std::map<cohort::tenant_id, int> served;
  for (int i = 0; i < 400; ++i) {
    h.submit(1, 0ns);
    h.submit(2, 0ns);
  }
  auto now = 0ns;
  for (std::uint32_t i = 1; i <= 400; ++i) {
    REQUIRE(h.next(now).size() == 1);
    now += 1us;
    for (const auto* one = h.s.complete(i, {}, h.at(now)); one != nullptr; one = one->next) ++served[one->tenant];
  }
  CHECK(served[1] >= 290);
  CHECK(served[1] <= 310);
}

TEST_CASE("nobody is overtaken for longer than the options allow") {
  house<> h({.max_overtaken = 10});
  h.s.set_tenant(1, {.latency_target = 1s});
  h.s.set_tenant(2, {.latency_target = 10us, .weight = 1000});
  auto now = 0ns;
  auto& patient = h.submit(1, now);
  std::uint32_t sequence = 0;
  while (patient.state == submission_state::pending) {
    h.submit(2, now);
    REQUIRE(h.next(now).size() == 1);
    now += 1us;
    h.s.complete(++sequence, {}, h.at(now));
    REQUIRE(sequence < 100);
  }
  CHECK(sequence >= 11);
  CHECK(h.s.statistics().farthest_behind <= 12);
}

TEST_CASE("a full queue rejects or suspends, as its tenant chose") {
  house<> h;
  h.s.set_tenant(1, {.queue_capacity = 2});
  h.s.set_tenant(2, {.queue_capacity = 2, .when_full = full_queue::suspend});
  for (int i = 0; i < 3; ++i) h.submit(1, 0ns);
  CHECK(h.nodes[2].result == errc::tenant_queue_full);
  CHECK(length(h.s.take_settled()) == 1);
  for (int i = 0; i < 5; ++i) h.submit(2, 0ns);  // 3..7
  CHECK(h.s.take_settled() == nullptr);
  CHECK(h.s.pending() == 7);
  CHECK(h.s.cancel(h.nodes[6], h.at(0ns)));  // while it waits before the queue
  CHECK(h.run(0ns).size() == 6);
  CHECK(h.nodes[7].state == submission_state::done);
  CHECK_FALSE(h.nodes[7].result.failed());
  CHECK(h.s.statistics_of(1).refused == 1);
  CHECK(h.s.pending() == 0);
}

TEST_CASE("a tenant commits no more than its cap, and others fill the device meanwhile") {
  house<> h;
  h.s.set_tenant(1, {.latency_target = 10us, .in_flight_cap = 500ns});
  for (int i = 0; i < 4; ++i) h.submit(1, 0ns, 300);  // 0..3
  h.submit(0, 0ns, 300);                              // 4, far less urgent
  CHECK(h.next(0ns) == ids{0, 4});
  CHECK(h.next(0ns).empty());
  CHECK(h.s.pending() == 3);
  h.s.complete(1, {}, h.at(600ns));
  CHECK(h.next(600ns) == ids{1});
  h.s.complete(2, {}, h.at(900ns));
  CHECK(h.next(900ns) == ids{2});
  const auto* rest = h.s.abort_pending(errc::stopped, h.at(0ns));
  CHECK(length(rest) == 1);
  CHECK(h.s.pending() == 0);
}

TEST_CASE("what cannot be in time is refused, what can no longer be is dropped, and only where the tenant wants it") {
  house<one_by_one> h;
  h.s.set_tenant(1, {.latency_target = 10us, .weight = 1000, .when_late = late_work::drop});
  h.s.set_tenant(2, {.latency_target = 10us});
  h.submit(1, 1us, 1000, 0, 1us);  // 0
  CHECK(h.nodes[0].result == errc::deadline_passed);
  h.submit(1, 1us, 20'000);  // 1: admitted, because the scheduler is idle
  CHECK(h.next(1us) == ids{1});
  h.submit(1, 2us, 1000);  // 2: 19 us of work are ahead
  CHECK(h.nodes[2].result == errc::deadline_unreachable);
  h.submit(2, 2us, 1000, 3);                      // 3: runs late
  h.s.complete(1, errc::device_lost, h.at(3us));  // a failure teaches nothing about latency
  h.submit(1, 3us, 1000, 4);                      // 4
  h.submit(1, 3us, 9500, 5);                      // 5
  CHECK(h.next(3us) == ids{5});
  CHECK(h.next(3us).empty());
  CHECK(length(h.s.take_settled()) == 2);
  REQUIRE(h.s.ask_again().has_value());
  CHECK(*h.s.ask_again() <= h.at(12'001ns));
  CHECK_FALSE(h.s.expire(h.at(12us)));
  CHECK(h.s.expire(h.at(12'001ns)));  // with a packet in flight
  CHECK(h.nodes[4].result == errc::dropped);
  CHECK(length(h.s.take_settled()) == 1);
  CHECK_FALSE(h.s.expire(h.at(1s)));
  CHECK(h.s.pending() == 1);
  h.s.complete(2, {}, h.at(20us));
  CHECK(h.next(20us) == ids{3});
  const auto counters = h.s.statistics_of(1);
  CHECK(counters.submitted == 5);
  CHECK(counters.refused == 2);
  CHECK(counters.dropped == 1);
}

TEST_CASE("a drop is noticed when its turn comes: the packet is filled with what can still be in time") {
  house<> h({}, cohort::late_binding{.packet_work = 100us});
  h.s.set_tenant(1, {.latency_target = 10us, .when_late = late_work::drop});
  for (int i = 0; i < 4; ++i) h.submit(1, 0ns, 4000);
  CHECK(h.next(0ns) == ids{0, 1});  // the third would end at 12 us
  CHECK(length(h.s.take_settled()) == 2);
  CHECK(h.nodes[3].result == errc::dropped);
}

TEST_CASE("a removed tenant is refused, what it had inside completes, and an unknown one is refused too") {
  house<> h;
  h.s.set_tenant(3, {});
  h.submit(3, 0ns);
  h.s.remove_tenant(3);
  h.submit(3, 0ns);
  h.submit(99, 0ns);
  h.submit(2, 0ns);  // lies below the largest id, and was never added
  CHECK(length(h.s.take_settled()) == 3);
  CHECK(h.nodes[2].result == errc::tenant_removed);
  CHECK(h.run(0ns) == ids{0});
}

TEST_CASE("a tenant that was removed with work inside and comes back with another weight leaves no share behind") {
  house<> h;
  h.s.set_tenant(1, {.latency_target = 1us, .weight = 9});
  h.submit(1, 0ns);
  h.s.remove_tenant(1);
  h.s.set_tenant(1, {.latency_target = 1us, .weight = 1});
  CHECK(h.run(0ns) == ids{0});
  // Alone, it has the whole device: what it submits now is due when 3 us have passed.
  for (int i = 0; i < 3; ++i) h.submit(1, 10us);
  CHECK(h.nodes[3].turn.due == std::chrono::nanoseconds(13us).count());
}

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

TEST_CASE("a fixed window, preferred sizes and a deferred window hold an idle device as long as they say") {
  SUBCASE("fixed window") {
    house<cohort::fixed_window> h({}, {.window = 5us});
    h.submit(0, 1us);
    CHECK(h.next(5us).empty());
    CHECK(h.s.ask_again() == h.at(6us));
    CHECK(h.next(6us) == ids{0});
  }
  SUBCASE("preferred sizes") {
    house<cohort::preferred_sizes> h({}, {.sizes = {2, 4, 8, 16}, .delay = 5us});
    h.submit(0, 0us);
    CHECK(h.next(4us).empty());
    for (int i = 0; i < 4; ++i) h.submit(0, 4us);
    CHECK(h.next(4us).size() == 4);
    CHECK(h.next(4us).empty());
    CHECK(h.next(9us).size() == 1);
  }
  SUBCASE("deferred window") {
    house<cohort::deferred_window> h({}, {.margin = 2us});
    h.s.set_tenant(1, {.latency_target = 20us});
    h.submit(1, 0us);
    CHECK(h.next(0us).empty());
    CHECK(h.s.ask_again() == h.at(17us));  // 20 us less 1 us of work and the margin
    CHECK(h.next(17us) == ids{0});
  }
  SUBCASE("aimd") {
    house<cohort::aimd> h({}, {.size = 2, .step = 1, .back_off = 0.5});
    h.s.set_tenant(1, {.latency_target = 20us});
    for (int i = 0; i < 12; ++i) h.submit(1, 0us);
    CHECK(h.next(0us).size() == 2);
    h.s.complete(1, {}, h.at(1us));
    CHECK(h.next(1us).size() == 3);
    h.s.complete(2, {}, h.at(30us));
    CHECK(h.next(30us).size() == 1);
  }
}

TEST_CASE("what is late goes behind what can still be in time, once, and is not forgotten") {
  house<> h;
  h.s.set_tenant(1, {.latency_target = 3us});
  h.s.set_tenant(2, {.latency_target = 20us});
  h.submit(1, 0ns);  // 0
  CHECK(h.next(0ns) == ids{0});
  for (int i = 0; i < 4; ++i) h.submit(1, 0ns);  // 1..4: of these, two can be in time
  h.submit(2, 0ns);                              // 5
  h.submit(2, 0ns);                              // 6
  ids order;
  for (std::uint32_t sequence = 1; sequence <= 7; ++sequence) {
    const auto now = sequence * 1us;
    h.s.complete(sequence, {}, h.at(now));
    const ids some = h.next(now);
    order.insert(order.end(), some.begin(), some.end());
  }
  CHECK(order == ids{1, 2, 5, 6, 3, 4});
}

TEST_CASE("a packet holds a share of the least slack, and all there is when nobody is urgent") {
  house<> h({}, cohort::late_binding{});
  h.s.set_tenant(1, {.latency_target = 200us});
  for (int i = 0; i < 20; ++i) h.submit(1, 0ns);
  CHECK(h.next(0ns).size() == 4);  // a sixty-fourth of 199 us: the fourth op reaches it
  house<> patient({}, cohort::late_binding{});
  for (int i = 0; i < 20; ++i) patient.submit(0, 0ns);
  CHECK(patient.next(0ns).size() == 20);
}

TEST_CASE("a busy device has as many packets as a round trip holds, at least three, or two that last longer than it") {
  const auto committed = [](std::chrono::nanoseconds overhead, std::chrono::nanoseconds target) {
    const device_rates told{.flops_per_ns = 1, .packet_overhead = overhead, .busy_target = 1000ns, .max_packets = 8};
    cohort::scheduler<> s(op_table, cohort::machine_shape{}, told);
    s.set_tenant(0, {.latency_target = target});
    workshop shop;
    for (int i = 0; i < 100; ++i) {
      auto& one = shop.make(odd);
      one.cost.flops = 1000;
      s.submit(one, shop.at(0ns));
    }
    std::size_t packets = 0;
    while (!s.next(shop.at(0ns), shop.storage).empty()) ++packets;
    CHECK_FALSE(s.ask_again().has_value());  // a completion is what it waits for
    s.complete(1, cohort::errc::device_lost, shop.at(0ns));
    CHECK_FALSE(s.next(shop.at(0ns), shop.storage).empty());
    CHECK(s.next(shop.at(0ns), shop.storage).empty());
    return packets;
  };
  // Two overheads are an empty round trip, and packets hold 1 us or a sixty-fourth of the slack.
  CHECK(committed(500ns, 1us) == 3);
  CHECK(committed(1500ns, 1us) == 3);
  CHECK(committed(2500ns, 1us) == 5);
  CHECK(committed(2500ns, 200us) == 3);
  CHECK(committed(2500ns, 500us) == 2);
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

TEST_CASE("who holds for somebody that has left does not ask again") {
  house<cohort::fixed_window> h({}, {.window = 50us});
  h.s.set_tenant(1, {.latency_target = 20us, .when_late = late_work::drop});
  h.submit(0, 0ns, 1000, 3);
  CHECK(h.next(50us) == ids{0});
  h.submit(1, 50us, 1000, 4);
  CHECK(h.next(51us).empty());
  CHECK(h.s.ask_again().has_value());
  CHECK(h.s.expire(h.at(100us)));
  CHECK(h.s.pending() == 0);
  CHECK_FALSE(h.s.ask_again().has_value());
}

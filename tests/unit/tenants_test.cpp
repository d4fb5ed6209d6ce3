// Tenants, deadlines and overload on a virtual clock: who goes first, who must wait, and what becomes of the late.
#include "house_fixture.hpp"

#include <cohort/schedule/scheduler.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>

using namespace schedule_test;
using cohort::errc;
using cohort::error_code;
using cohort::full_queue;
using cohort::late_work;
using cohort::submission_state;
using cohort::tenant_options;

namespace {

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

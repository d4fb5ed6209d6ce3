// When the policies commit and how much, on a virtual clock.
#include "house_fixture.hpp"

#include <cohort/schedule/batching_policies.hpp>
#include <cohort/schedule/scheduler.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <cstddef>

using namespace schedule_test;
using cohort::device_rates;
using cohort::late_work;

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

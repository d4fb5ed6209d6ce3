// Stragglers on a virtual clock: who is found, who is not, and what isolation and eviction do in the scheduler.
#include "schedule_fixtures.hpp"

#include <cohort/schedule/scheduler.hpp>
#include <cohort/schedule/straggler_watch.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <random>
#include <set>
#include <utility>
#include <vector>

using namespace schedule_test;
using cohort::errc;
using cohort::straggler_action;
using cohort::straggler_report;
using cohort::straggler_scope;
using cohort::straggler_watch;

namespace {

struct setting {
  std::vector<straggler_report> reports;
  straggler_action answer = straggler_action::keep;
  straggler_watch watch{[this](const straggler_report& one) {
    reports.push_back(one);
    return answer;
  }};
  std::int64_t now = 0;

  setting() {
    watch.reserve_ops(3);
    watch.reserve_tenants(4);
  }

  /// A packet of records: op, tenant, work.
  struct record {
    std::uint16_t op;
    cohort::tenant_id tenant;
    double work_ns;
  };

  void packet(const std::vector<record>& records, double measured_ns) {
    for (const record& one : records) {
      watch.add({.op = one.op, .company = records.size() > 1, .work_ns = one.work_ns});
      watch.add_tenant(one.tenant, one.work_ns);
    }
    watch.measured(measured_ns, cohort::time_point{std::chrono::nanoseconds{++now * 1000}});
  }
};

/// A device whose ops and tenants are slow by factors, with a real scheduler before it.
struct plant : workshop {
  std::vector<straggler_report> reports;
  straggler_action answer = straggler_action::isolate;
  straggler_watch watch{[this](const straggler_report& one) {
    reports.push_back(one);
    return answer;
  }};
  cohort::scheduler<cohort::immediate> s{
      op_table, cohort::machine_shape{},
      cohort::device_rates{.flops_per_ns = 1, .bytes_per_ns = 1, .packet_overhead = 100ns}};
  double slow_op = 1;      // of `fused`
  double slow_tenant = 1;  // of tenant 1
  std::chrono::nanoseconds now{0};
  int mixed_packets = 0;
  int refused = 0;

  plant() {
    s.watch(&watch);
    s.set_tenant(1, {.name = "one"});
    s.set_tenant(2, {.name = "two"});
  }

  void submit(std::uint16_t op, cohort::tenant_id tenant) {
    auto& one = make(op, 1, op == fused ? 7 : 0);
    one.tenant = tenant;
    one.cost.flops = 5000;
    s.submit(one, at(now));
  }

  /// Runs what is pending; `is_straggler` says of a submission whether it must be alone among its like.
  template <class Predicate>
  void run(Predicate is_straggler) {
    while (true) {
      const auto bytes = s.next(at(now), storage);
      for (auto* one = s.take_settled(); one != nullptr; one = one->next) refused += one->result == errc::evicted;
      if (bytes.empty()) break;
      double took = 100;
      std::set<bool> kinds;
      const auto packet = decode(bytes, op_table);
      for (const auto id : packet.ids()) {
        const node& one = nodes[id];
        kinds.insert(is_straggler(one));
        took += 5000 * (one.op_index == fused ? slow_op : 1) * (one.tenant == 1 ? slow_tenant : 1);
      }
      mixed_packets += kinds.size() > 1 ? 1 : 0;
      now += std::chrono::nanoseconds{static_cast<std::int64_t>(took)};
      s.complete(packet.header.sequence, {}, at(now));
    }
  }
};

}  // namespace

TEST_CASE(
    "an op that slows down against its own history is reported once, with its factor and time, and so is its "
    "recovery") {
  setting f;
  for (int i = 0; i < 200; ++i) f.packet({{0, 0, 1000}}, 3000);  // far from the rates, and always so
  CHECK(f.reports.empty());
  for (int i = 0; i < 100; ++i) f.packet({{0, 0, 1000}}, 12'000);
  REQUIRE(f.reports.size() >= 1);
  CHECK(f.reports[0].scope == straggler_scope::op);
  CHECK(f.reports[0].index == 0);
  CHECK_FALSE(f.reports[0].recovered);
  CHECK(f.reports[0].factor > 2);
  CHECK(f.reports[0].when.time_since_epoch() < 240us);
  CHECK(f.watch.straggling(straggler_scope::op, 0));
  CHECK(f.watch.factor(straggler_scope::op, 0) > 2);
  CHECK(f.watch.factor(straggler_scope::op, 0) < 4.5);
  for (int i = 0; i < 100; ++i) f.packet({{0, 0, 1000}}, 3000);
  CHECK(f.reports.size() == 2);  // and its tenant, who had nothing to do with it, was never blamed
  CHECK(f.reports.back().recovered);
  CHECK_FALSE(f.watch.straggling(straggler_scope::op, 0));
}

TEST_CASE("what has always been slow, noise, hiccups, and a few samples are no stragglers") {
  setting f;
  std::mt19937 random(1);
  std::lognormal_distribution<double> noise(0, 0.3);
  for (int i = 0; i < 5000; ++i) f.packet({{0, 0, 1000}}, 5000 * noise(random));
  for (int i = 0; i < 20; ++i) {
    f.packet({{0, 0, 1000}}, 1e9);  // one hiccup
    for (int k = 0; k < 40; ++k) f.packet({{0, 0, 1000}}, 5000);
  }
  for (int i = 0; i < 20; ++i) f.packet({{1, 0, 1000}}, 1000);
  for (int i = 0; i < 20; ++i) f.packet({{1, 0, 1000}}, 4000);  // 40 packets in all
  f.packet({{2, 0, 0}}, 100);
  f.packet({{2, 0, 1000}}, 0);
  CHECK(f.reports.empty());
}

TEST_CASE("neither other sizes nor other company look like another speed") {
  setting f;
  for (int i = 0; i < 300; ++i) {
    f.packet({{0, 0, 1000}}, 8000);
    f.packet({{0, 0, 1'000'000}}, 1'000'000);  // the large one is as fast as it should be
    f.packet({{0, 0, 1000}, {1, 0, 1000}}, 2500);
  }
  for (int i = 0; i < 300; ++i) f.packet({{0, 0, 1000}}, 8000);
  for (int i = 0; i < 300; ++i) f.packet({{0, 0, 1'000'000}}, 1'000'000);
  for (int i = 0; i < 300; ++i) f.packet({{0, 0, 1000}, {1, 0, 1000}}, 2500);
  CHECK(f.reports.empty());
}

TEST_CASE("who rides with a straggler now and then is not blamed for it") {
  setting f;
  const auto round = [&f](double slow) {
    f.packet({{0, 0, 1000}, {1, 1, 1000}}, 1000 * slow + 1000);
    f.packet({{1, 1, 1000}, {2, 2, 1000}}, 2000);
    f.packet({{0, 0, 1000}, {2, 2, 1000}}, 1000 * slow + 1000);
  };
  for (int i = 0; i < 200; ++i) round(1);
  for (int i = 0; i < 200; ++i) round(5);
  REQUIRE_FALSE(f.reports.empty());
  for (const auto& one : f.reports) {
    CHECK(one.scope == straggler_scope::op);
    CHECK(one.index == 0);
  }
}

TEST_CASE("a tenant that is slow with an op that others are fast with is found, and not the op") {
  setting f;
  const auto round = [&f](double slow) {
    for (const cohort::tenant_id tenant : {0u, 1u, 2u, 3u})
      f.packet({{0, tenant, 1000}}, tenant == 1 ? 1000 * slow : 1000);
  };
  for (int i = 0; i < 200; ++i) round(1);
  for (int i = 0; i < 200; ++i) round(5);
  REQUIRE(f.reports.size() >= 1);
  CHECK(f.reports[0].scope == straggler_scope::tenant);
  CHECK(f.reports[0].index == 1);
  CHECK(f.reports.size() == 1);
}

TEST_CASE("an isolated op rides in packets of its own until it has recovered") {
  plant p;
  const auto is_fused = [](const node& one) { return one.op_index == fused; };
  const auto round = [&](int i) {
    p.submit(odd, 2);
    if (i % 3 != 0) p.submit(fused, 2);
    if (i % 3 != 1) p.submit(fused, 2);
    p.run(is_fused);
  };
  for (int i = 0; i < 300; ++i) round(i);
  CHECK(p.mixed_packets > 0);
  CHECK(p.reports.empty());
  p.slow_op = 6;
  for (int i = 0; i < 200; ++i) round(i);
  REQUIRE(p.watch.straggling(straggler_scope::op, fused));
  REQUIRE_FALSE(p.watch.straggling(straggler_scope::op, odd));
  p.mixed_packets = 0;
  for (int i = 0; i < 50; ++i) round(i);
  CHECK(p.mixed_packets == 0);
  p.slow_op = 1;
  for (int i = 0; i < 200; ++i) round(i);
  CHECK_FALSE(p.watch.straggling(straggler_scope::op, fused));
  CHECK(p.mixed_packets > 0);
  CHECK(p.s.pending() == 0);
}

TEST_CASE("an isolated tenant shares no packet, and no fused record, with others") {
  plant p;
  const auto is_one = [](const node& one) { return one.tenant == 1; };
  const auto round = [&](int i) {
    for (cohort::tenant_id tenant = 0; tenant < 3; ++tenant) {
      if (i % 3 == 0 || (i + static_cast<int>(tenant)) % 3 != 0) p.submit(fused, tenant);
    }
    p.run(is_one);
  };
  for (int i = 0; i < 300; ++i) round(i);
  CHECK(p.mixed_packets > 0);
  p.slow_tenant = 8;
  for (int i = 0; i < 300; ++i) round(i);
  REQUIRE(p.watch.straggling(straggler_scope::tenant, 1));
  p.mixed_packets = 0;
  for (int i = 0; i < 50; ++i) round(i);
  CHECK(p.mixed_packets == 0);
}

TEST_CASE("what is evicted is refused with an error of its own, but for probes, by which its recovery is noticed") {
  plant p;
  p.answer = straggler_action::evict;
  const auto none = [](const node&) { return false; };
  const auto round = [&](int i) {
    p.submit(odd, 2);
    p.run(none);
    if (i % 2 == 0) p.submit(fused, 2);
    p.run(none);
  };
  for (int i = 0; i < 300; ++i) round(i);
  CHECK(p.refused == 0);
  p.slow_op = 6;
  for (int i = 0; i < 100; ++i) round(i);
  REQUIRE(p.watch.straggling(straggler_scope::op, fused));
  CHECK(p.refused > 20);
  const auto committed = p.s.statistics().committed;
  p.now += 100ms;
  p.submit(fused, 2);  // a probe
  p.submit(fused, 2);
  p.run(none);
  CHECK(p.s.statistics().committed == committed + 1);
  p.slow_op = 1;
  for (int i = 0; i < 100; ++i) {
    p.now += 100ms;
    round(0);
  }
  CHECK_FALSE(p.watch.straggling(straggler_scope::op, fused));
  const int before = p.refused;
  round(0);
  CHECK(p.refused == before);
  CHECK(p.reports.back().recovered);
}

TEST_CASE("without a watch nothing is refused and everything may ride together") {
  plant p;
  p.s.watch(nullptr);
  p.slow_op = 6;
  for (int i = 0; i < 300; ++i) {
    p.submit(odd, 2);
    p.submit(fused, 1);
    p.run([](const node& one) { return one.op_index == fused; });
  }
  CHECK(p.refused == 0);
  CHECK(p.reports.empty());
  CHECK(p.mixed_packets > 250);
}

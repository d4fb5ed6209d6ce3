// The scheduler on a virtual clock: what rides together, when it is committed, and what it says about it.
#include "schedule_fixtures.hpp"

#include <cohort/schedule/scheduler.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <limits>
#include <new>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace schedule_test;
using cohort::coalescing;
using cohort::commit_reason;
using cohort::device_rates;
using cohort::errc;
using cohort::error_code;
using cohort::immediate;
using cohort::machine_shape;
using cohort::packet_report;
using cohort::scheduler;
using cohort::scheduler_options;
using cohort::submission_state;

namespace {

std::size_t allocations = 0;  // by the operator new of this program, below

/// 1 ns per flop, 100 ns per packet, and a target of 1000 ns: estimates are easy to follow.
constexpr device_rates rates{
    .flops_per_ns = 1, .bytes_per_ns = 2, .packet_overhead = 100ns, .busy_target = 1000ns, .max_packets = 4};

using ids = std::vector<std::uint64_t>;

template <class Policy = cohort::late_binding>
struct bench : workshop {
  scheduler<Policy> s;

  explicit bench(const scheduler_options& options = {}, const device_rates& speed = rates, Policy policy = {},
                 const machine_shape& shape = {})
      : s(op_table, shape, speed, options, policy) {}

  node& submit(std::uint16_t op, std::uint32_t tiles = 1, std::uint64_t key = 0, std::chrono::nanoseconds now = 0ns,
               std::uint64_t flops = 0) {
    node& one = make(op, tiles, key);
    one.cost.flops = flops;
    s.submit(one, at(now));
    return one;
  }

  std::span<const std::byte> next(std::chrono::nanoseconds now = 0ns, std::size_t capacity = cohort::packet_capacity) {
    return s.next(at(now), std::span(storage).first(capacity));
  }

  decoded_packet packet(std::chrono::nanoseconds now = 0ns, std::size_t capacity = cohort::packet_capacity) {
    const auto bytes = next(now, capacity);
    REQUIRE_FALSE(bytes.empty());
    return decode(bytes, op_table);
  }

  cohort::submission* complete(std::uint32_t sequence, error_code result = {}, std::chrono::nanoseconds now = 0ns) {
    return s.complete(sequence, result, at(now));
  }

  std::uint64_t id(const cohort::submission* one) const { return static_cast<const node*>(one)->as_odd.id; }

  ids ids_of(const cohort::submission* list) const {
    ids all;
    for (; list != nullptr; list = list->next) all.push_back(id(list));
    return all;
  }
};

std::vector<std::uint32_t> members(const decoded_packet& packet) {
  std::vector<std::uint32_t> all;
  for (const auto& one : packet.records) all.push_back(one.header.members);
  return all;
}

/// Holds until the oldest submission has waited for `window`, or nothing more will come: a policy as a user writes one.
struct windowed {
  std::chrono::nanoseconds window{500};
  std::uint32_t most = std::numeric_limits<std::uint32_t>::max();
  int asked = 0;

  cohort::decision decide(const cohort::queue_view& queue, cohort::time_point now) {
    ++asked;
    if (queue.draining) return cohort::decision::commit_now(commit_reason::draining);
    if (now < queue.oldest_arrival + window) return cohort::decision::hold_until(queue.oldest_arrival + window);
    return {.commit = true, .reason = commit_reason::waited_enough, .max_submissions = most};
  }
};
static_assert(cohort::policy<windowed>);

struct not_a_policy {
  bool decide(const cohort::queue_view&, cohort::time_point) { return true; }
};
static_assert(!cohort::policy<not_a_policy> && !cohort::policy<int>);

}  // namespace

// --- when -----------------------------------------------------------------------------------------------------------

TEST_CASE("an idle device gets what is pending at once, and all of it") {
  bench<> b;
  CHECK(b.next().empty());
  auto& one = b.submit(odd);
  b.submit(fused, 1, 7);
  CHECK(one.state == submission_state::pending);
  const auto packet = b.packet();
  CHECK(packet.header.sequence == 1);
  CHECK(packet.ids() == ids{0, 1});
  CHECK(one.state == submission_state::committed);
  CHECK(one.sequence == 1);
  CHECK(b.s.pending() == 0);
  CHECK(b.s.packets_in_flight() == 1);
  CHECK(b.s.submissions_in_flight() == 2);
  CHECK(b.s.statistics().packets_by_reason[static_cast<std::size_t>(commit_reason::idle_device)] == 1);
}

TEST_CASE("a busy device gets small packets up to the limit in number, and everything later is held together") {
  bench<> b;
  for (std::uint32_t i = 0; i < 4; ++i) {
    b.submit(odd, 1, 0, 0ns, 10);
    CHECK(b.packet().header.sequence == i + 1);
  }
  for (int i = 0; i < 5; ++i) b.submit(odd, 1, 0, 0ns, 10);
  CHECK(b.next().empty());
  CHECK_FALSE(b.s.ask_again().has_value());  // only a completion makes room
  CHECK(b.s.pending() == 5);
  CHECK(length(b.complete(2)) == 1);
  CHECK(b.packet().ids() == ids{4, 5, 6, 7, 8});
  const auto& why = b.s.statistics().packets_by_reason;
  CHECK(why[static_cast<std::size_t>(commit_reason::idle_device)] == 1);
  CHECK(why[static_cast<std::size_t>(commit_reason::keep_busy)] == 4);
}

TEST_CASE("a device with enough work ahead gets nothing more until the work has shrunk below the target") {
  bench<> b;
  b.submit(odd, 1, 0, 0ns, 4900);  // 5000 ns with the packet's overhead, and as much lead as overhead
  b.packet();
  CHECK(b.s.work_in_flight(b.at(0ns)) == 5100ns);
  b.submit(odd, 1, 0, 10ns, 10);
  CHECK(b.next(10ns).empty());
  REQUIRE(b.s.ask_again().has_value());
  CHECK(*b.s.ask_again() == b.at(4101ns));
  CHECK(b.next(4100ns).empty());
  CHECK_FALSE(b.next(4101ns).empty());
  CHECK_FALSE(b.s.ask_again().has_value());
}

TEST_CASE("side by side, packets go as long as workers are idle, where nobody is in a hurry") {
  constexpr cohort::late_binding beside{.side_by_side = true};
  device_rates eight = rates;
  eight.max_packets = 8;
  bench<> b({}, eight, beside, {.workers = 100});
  const auto is_held = [](bench<>& of, std::uint32_t tiles) {
    of.submit(odd, tiles, 0, 0ns, 100'000);
    return of.next().empty();
  };
  for (int i = 0; i < 8; ++i) CHECK_FALSE(is_held(b, 3));
  CHECK(is_held(b, 3));  // the backend's eight
  CHECK(length(b.complete(2)) == 1);
  CHECK_FALSE(b.next().empty());

  bench<> full({}, eight, beside, {.workers = 100});
  CHECK_FALSE(is_held(full, 60));
  CHECK_FALSE(is_held(full, 60));
  CHECK(is_held(full, 1));  // every worker has a tile
  CHECK(length(full.complete(1)) == 1);
  CHECK_FALSE(full.next().empty());

  bench<> fuses({}, eight, beside, {.workers = 100});
  const auto key_is_held = [&](std::uint64_t key) {
    fuses.submit(fused, 1, key, 0ns, 100'000);
    return fuses.next().empty();
  };
  CHECK_FALSE(key_is_held(7));
  CHECK(key_is_held(7));  // others with the key may be back soon
  CHECK(length(fuses.complete(1)) == 1);
  CHECK_FALSE(fuses.next().empty());
  CHECK_FALSE(key_is_held(8));

  bench<> hurry({}, eight, beside, {.workers = 100});
  hurry.s.set_tenant(0, {.latency_target = 1ms});
  CHECK_FALSE(is_held(hurry, 1));
  CHECK_FALSE(is_held(hurry, 1));
  CHECK(is_held(hurry, 1));  // as many as a round trip holds, whatever they leave idle
}

TEST_CASE("side by side, a packet of patient work ends with the busy target, if every eighth worker has a tile then") {
  bench<> b({}, rates, {.side_by_side = true}, {.workers = 32});
  for (int i = 0; i < 6; ++i) b.submit(odd, 1, 0, 0ns, 500);
  CHECK(b.packet().ids() == ids{0, 1, 2, 3});
  CHECK(b.packet().ids() == ids{4, 5});
}

TEST_CASE("a packet that takes time to form is begun by so much earlier") {
  bench<> b;
  b.submit(odd, 1, 0, 0ns, 4900);  // 5000 ns with the packet's overhead
  b.packet();
  b.submit(odd, 1, 0, 10ns, 10);
  const auto next = [&](std::chrono::nanoseconds now) { return b.s.next(b.at(now), std::span(b.storage), 500ns); };
  CHECK(next(10ns).empty());
  REQUIRE(b.s.ask_again().has_value());
  CHECK(*b.s.ask_again() == b.at(3601ns));
  CHECK(next(3600ns).empty());
  CHECK_FALSE(next(3601ns).empty());
}

TEST_CASE("a completion that comes earlier than estimated makes the device idle again") {
  bench<> b;
  b.submit(odd, 1, 0, 0ns, 1'000'000);
  b.packet();
  b.submit(odd);
  CHECK(b.next(5ns).empty());
  CHECK(length(b.complete(1, {}, 6ns)) == 1);
  CHECK(b.s.work_in_flight(b.at(6ns)) == 0ns);
  CHECK_FALSE(b.next(6ns).empty());
  CHECK(b.s.statistics().packets_by_reason[static_cast<std::size_t>(commit_reason::idle_device)] == 2);
}

TEST_CASE("the work left is what is estimated, less what time has passed, never more than the packets in flight hold") {
  cohort::detail::device_backlog backlog;
  const auto at = [](int ns) { return workshop::at(std::chrono::nanoseconds{ns}); };
  CHECK(backlog.left(at(50)) == 0ns);
  backlog.committed(100ns, at(0));
  backlog.committed(200ns, at(40));
  CHECK(backlog.left(at(40)) == 260ns);
  CHECK(backlog.left(at(290)) == 10ns);
  CHECK(backlog.left(at(500)) == 0ns);
  backlog.committed(10ns, at(500));  // the idle time before it does not count
  CHECK(backlog.left(at(500)) == 10ns);
  backlog.completed(200ns, at(500));
  backlog.completed(100ns, at(500));
  CHECK(backlog.left(at(500)) == 10ns);
  backlog.completed(10ns, at(501));
  CHECK(backlog.left(at(501)) == 0ns);
  CHECK(backlog.left(at(0)) == 0ns);  // a clock that ran backwards does no harm

  backlog.committed(100ns, at(550), 30ns);  // an idle device needs the lead
  CHECK(backlog.left(at(550)) == 130ns);
  backlog.committed(100ns, at(560), 30ns);  // which the work of another hides
  CHECK(backlog.left(at(560)) == 220ns);
  backlog.completed(100ns, at(570));  // far earlier than estimated, so that it hides nothing any more
  CHECK(backlog.left(at(570)) == 120ns);
  backlog.completed(100ns, at(590));

  backlog.committed(1000ns, at(600));
  backlog.completed(1000ns, at(610));  // far earlier than estimated: what comes next starts at once
  backlog.committed(100ns, at(620));
  CHECK(backlog.left(at(670)) == 50ns);
}

TEST_CASE("a packet is estimated by the roofline: flops of fused members add up, the largest bytes count once") {
  bench<> b;
  const auto with_cost = [&](std::uint64_t key, cohort::op_cost cost) {
    auto& one = b.make(fused, 1, key);
    one.cost = cost;
    b.s.submit(one, b.at(0ns));
  };
  with_cost(1, {.flops = 300, .bytes = 400});  // 300 and 200 ns
  with_cost(2, {.flops = 10, .bytes = 400});   // together 20 and 500 ns
  with_cost(2, {.flops = 10, .bytes = 1000});
  with_cost(3, {.flops = 600, .bytes = 1000});  // 600 and 500 ns
  b.packet();
  CHECK(b.s.work_in_flight(b.at(0ns)) == 100ns + 100ns + 300ns + 500ns + 600ns);

  bench<> absurd;
  for (int i = 0; i < 4; ++i) {
    auto& one = absurd.make(odd);
    one.cost = {~0ull, ~0ull};
    absurd.s.submit(one, absurd.at(0ns));
  }
  absurd.packet();
  CHECK(absurd.s.work_in_flight(absurd.at(0ns)) == 1h + 100ns);

  bench<> unknown({}, device_rates{.flops_per_ns = 0, .bytes_per_ns = -1});
  unknown.submit(odd, 1, 0, 0ns, 300);
  unknown.packet();
  CHECK(unknown.s.work_in_flight(unknown.at(0ns)) == 0ns);
}

TEST_CASE("the immediate policy commits as long as there is room, whatever is in flight") {
  bench<immediate> b;
  for (int i = 0; i < 4; ++i) {
    b.submit(odd, 1, 0, 0ns, 1'000'000);
    CHECK(b.packet().records.size() == 1);
  }
  b.submit(odd);
  CHECK(b.next().empty());
  CHECK(length(b.complete(3)) == 1);
  CHECK_FALSE(b.next().empty());
  CHECK(b.s.statistics().packets_by_reason[static_cast<std::size_t>(commit_reason::has_room)] == 5);
}

TEST_CASE("a user's policy may hold an idle device, ask to be asked again, and limit a packet") {
  bench<windowed> b({}, rates, windowed{.window = 500ns, .most = 2});
  b.submit(odd, 1, 0, 100ns);
  b.submit(odd, 1, 0, 200ns);
  b.submit(odd, 1, 0, 300ns);
  b.submit(odd, 1, 0, 300ns);
  CHECK(b.next(400ns).empty());
  CHECK(b.s.ask_again() == b.at(600ns));
  CHECK(b.packet(600ns).ids() == ids{0, 1});
  CHECK(b.next(600ns).empty());
  CHECK(b.s.ask_again() == b.at(800ns));  // the oldest that is left arrived at 300
  CHECK(b.s.used_policy().asked == 3);

  b.s.drain_mode(true);
  CHECK(b.packet(601ns).ids() == ids{2, 3});
  CHECK(b.s.statistics().packets_by_reason[static_cast<std::size_t>(commit_reason::draining)] == 1);
}

TEST_CASE("the oldest arrival that a policy sees follows cancellations") {
  bench<windowed> b;
  auto& first = b.submit(odd, 1, 0, 100ns);
  b.submit(fused, 1, 9, 250ns);
  auto& third = b.submit(odd, 1, 0, 300ns);
  CHECK(b.s.cancel(first, b.at(0ns)));
  CHECK(b.next(301ns).empty());
  CHECK(b.s.ask_again() == b.at(750ns));
  CHECK(b.s.cancel(third, b.at(0ns)));
  CHECK(b.packet(750ns).ids() == ids{1});
}

TEST_CASE("a policy that commits nothing, by a limit of 0, holds") {
  bench<windowed> b({}, rates, windowed{.window = 0ns, .most = 0});
  b.submit(odd);
  CHECK(b.next(1ns).empty());
  CHECK(b.s.pending() == 1);
}

// --- what -----------------------------------------------------------------------------------------------------------

TEST_CASE("equal keys of one op become one record, in order of arrival; everything else becomes its neighbour") {
  bench<> b;
  b.submit(fused, 2, 7);  // 0
  b.submit(odd, 1);       // 1
  b.submit(fused, 3, 8);  // 2
  b.submit(fused, 1, 7);  // 3
  b.submit(wide, 1, 7);   // 4: equal key, other op
  b.submit(fused, 1, 0);  // 5: no key
  b.submit(fused, 1, 0);  // 6
  b.submit(odd, 1);       // 7
  b.submit(fused, 4, 7);  // 8
  const auto packet = b.packet();
  CHECK(members(packet) == std::vector<std::uint32_t>{3, 1, 1, 1, 1, 1, 1});
  CHECK(packet.records[0].ids == ids{0, 3, 8});
  CHECK(packet.records[0].header.tiles == 7);
  CHECK(packet.ids() == ids{0, 3, 8, 1, 2, 4, 5, 6, 7});
  CHECK(b.s.statistics().fused == 3);
  CHECK(b.ids_of(b.complete(1)) == ids{0, 3, 8, 1, 2, 4, 5, 6, 7});
}

TEST_CASE("keys are compared whole: a difference in any word keeps submissions apart") {
  bench<> b;
  for (std::size_t word = 0; word < 4; ++word) {
    auto& one = b.make(fused);
    one.key.words = {5, 6, 7, 8};
    one.key.words[word] ^= 1ull << 63;
    b.s.submit(one, b.at(0ns));
  }
  CHECK(b.packet().records.size() == 4);
}

TEST_CASE("plan sees the copies: it leaves notes there, and the submitted descriptors stay untouched") {
  bench<> b;
  for (std::uint32_t i = 0; i < 3; ++i) b.submit(fused, 5, 7);
  const auto bytes = b.next();
  const auto packet = decode(bytes, op_table);
  REQUIRE(packet.records.size() == 1);
  for (std::uint32_t i = 0; i < 3; ++i) {
    const auto copy = read<fused_op>(bytes, packet.records[0].offset + sizeof(cohort::record_header) + i * 64);
    CHECK(copy.first_tile == 5 * i);
    CHECK(b.nodes[i].as_fused.first_tile == 77);
  }
}

/// Has a tile for every worker it may count on.
struct alignas(16) spread_op {
  static constexpr const char* name = "spread";
  std::uint64_t weights;
  std::uint64_t fill;

  static std::uint32_t plan(std::span<spread_op>, const cohort::machine_shape& shape) { return shape.workers; }
  template <class Context>
  static void run(Context&, const spread_op*, std::uint32_t, std::uint32_t) {}
  cohort::coalescing_key key() const { return {{weights, 0, 0, 0}}; }
  std::uint32_t rows() const { return 1; }
};

TEST_CASE("an op counts on its share of the device, by the work around it and what is said to be on its way") {
  using spread_ops = cohort::op_set<spread_op>;
  static constexpr auto table = spread_ops::table();
  alignas(16) std::array<std::byte, cohort::packet_capacity> storage;
  const auto tiles_of_each = [&](std::uint64_t pending, double growth, bool fuse) {
    cohort::scheduler<> s(table, {.workers = 480, .host = false}, {});
    std::deque<spread_op> ops;
    std::deque<cohort::submission> all;
    const cohort::time_point now{1ms};
    for (std::uint64_t i = 0; i < pending; ++i) {
      cohort::submission& one = all.emplace_back();
      one.op = &ops.emplace_back(spread_op{fuse ? 1 : i + 1, 0});
      one.op_bytes = sizeof(spread_op);
      one.key = ops.back().key();
      s.submit(one, now);
    }
    std::vector<std::uint32_t> tiles;
    for (const auto& record : decode(s.next(now, storage, {}, growth), table).records) {
      tiles.push_back(record.header.tiles);
    }
    s.complete(1, {}, now);
    return tiles;
  };
  using each = std::vector<std::uint32_t>;
  CHECK(tiles_of_each(1, 1, false) == each{480});
  CHECK(tiles_of_each(4, 1, false) == each{120, 120, 120, 120});
  CHECK(tiles_of_each(4, 3, false) == each{40, 40, 40, 40});
  CHECK(tiles_of_each(4, 1000, false) == each{1, 1, 1, 1});
  CHECK(tiles_of_each(4, 1, true) == each{480});
  CHECK(tiles_of_each(4, 3, true) == each{160});
}

TEST_CASE("a record takes at most the rows and members that the options allow; what is left makes further records") {
  SUBCASE("rows") {
    bench<> b({.max_fused_rows = 10});
    for (const std::uint32_t rows : {4u, 4u, 4u, 25u, 10u, 1u}) {
      auto& one = b.make(fused, 1, 7);
      one.rows = rows;
      b.s.submit(one, b.at(0ns));
    }
    CHECK(members(b.packet()) == std::vector<std::uint32_t>{2, 1, 1, 1, 1});
  }
  SUBCASE("rows whose sum does not fit 32 bits") {
    bench<> b({.max_fused_rows = 0xffff'ffffu});
    for (int i = 0; i < 2; ++i) {
      auto& one = b.make(fused, 1, 7);
      one.rows = 0x8000'0000u;
      b.s.submit(one, b.at(0ns));
    }
    CHECK(members(b.packet()) == std::vector<std::uint32_t>{1, 1});
  }
  SUBCASE("members") {
    bench<> b({.max_members = 3});
    for (int i = 0; i < 7; ++i) b.submit(fused, 1, 7);
    CHECK(members(b.packet()) == std::vector<std::uint32_t>{3, 3, 1});
  }
  SUBCASE("no members at all are taken as one") {
    bench<> b({.max_members = 0});
    for (int i = 0; i < 2; ++i) b.submit(fused, 1, 7);
    CHECK(members(b.packet()) == std::vector<std::uint32_t>{1, 1});
  }
}

TEST_CASE("pack_only never fuses, and none gives every submission a packet of its own") {
  SUBCASE("pack_only") {
    bench<> b({.coalesce = coalescing::pack_only});
    for (int i = 0; i < 4; ++i) b.submit(fused, 2, 7);
    const auto packet = b.packet();
    CHECK(members(packet) == std::vector<std::uint32_t>{1, 1, 1, 1});
    CHECK(packet.header.uniform_tiles == 2);
    CHECK(b.s.statistics().fused == 0);
  }
  SUBCASE("none") {
    bench<immediate> b({.coalesce = coalescing::none});
    for (int i = 0; i < 3; ++i) b.submit(fused, 2, 7);
    b.submit(odd);
    ids seen;
    for (int i = 0; i < 4; ++i) {
      const auto packet = b.packet();
      CHECK(packet.ids().size() == 1);
      seen.push_back(packet.ids().at(0));
    }
    CHECK(seen == ids{0, 3, 1, 2});  // the buckets take turns
    CHECK(b.s.pending() == 0);
  }
}

TEST_CASE("a bucket that a packet had no room for to its end waits behind the others for its next turn") {
  bench<immediate> b;
  const std::size_t small = 400;
  for (int i = 0; i < 12; ++i) b.submit(odd);  // 0..11
  b.submit(fused, 1, 7);                       // 12
  CHECK(b.packet(0ns, small).ids() == ids{0, 1, 2, 3, 4, 5});
  CHECK(b.packet(0ns, small).ids() == ids{12, 6, 7, 8, 9, 10});
  CHECK(b.packet(0ns, small).ids() == ids{11});
}

TEST_CASE("a fused group that is larger than the packet is split, and stays in order") {
  bench<immediate> b;
  for (int i = 0; i < 10; ++i) b.submit(fused, 1, 7);
  CHECK(b.packet(0ns, 400).ids() == ids{0, 1, 2, 3, 4});
  CHECK(b.packet(0ns, 400).ids() == ids{5, 6, 7, 8, 9});
}

TEST_CASE("tiles that would not fit 32 bits together go to different packets") {
  bench<immediate> b;
  for (int i = 0; i < 3; ++i) b.submit(odd, 0x6000'0000u);
  CHECK(b.packet().ids() == ids{0, 1});
  CHECK(b.packet().ids() == ids{2});
}

TEST_CASE("by urgency a bucket is the sooner due the more it holds") {
  bench<cohort::late_binding> b;
  b.submit(odd, 1, 0, 0ns, 1000);      // 0: may only be packed, so company counts for nothing
  b.submit(odd, 1, 0, 0ns, 1000);      // 1
  b.submit(fused, 1, 7, 100ns, 1000);  // 2
  b.submit(fused, 1, 8, 200ns, 1000);  // 3
  b.submit(fused, 1, 8, 300ns, 1000);  // 4
  CHECK(b.packet(500ns).ids() == ids{3, 4, 0, 1, 2});
}

TEST_CASE("thousands of keys in no order leave in the order of their deadlines, some of them from the middle") {
  bench<cohort::late_binding> b({}, {.flops_per_ns = 1, .packet_overhead = 100ns, .max_packets = 4});
  constexpr std::uint64_t count = 5'000;
  std::mt19937 dice(1);
  std::vector<std::pair<std::int64_t, std::uint64_t>> expected;  // deadline, number
  std::vector<node*> all;
  for (std::uint64_t i = 0; i < count; ++i) {
    node& one = b.make(fused, 1, i + 1);
    const std::int64_t ns = 1'000'000 + static_cast<std::int64_t>(dice() % 1'000'000);
    one.deadline = b.at(std::chrono::nanoseconds(ns));
    b.s.submit(one, b.at(0ns));
    all.push_back(&one);
    expected.emplace_back(ns, i);
  }
  for (std::uint64_t i = 0; i < count; i += 7) REQUIRE(b.s.cancel(*all[i], b.at(0ns)));
  std::erase_if(expected, [](const auto& one) { return one.second % 7 == 0; });
  std::sort(expected.begin(), expected.end());
  std::vector<std::uint64_t> left;
  while (b.s.pending() > 0) {
    const auto packet = b.packet();
    for (const std::uint64_t one : packet.ids()) left.push_back(one);
    b.complete(packet.header.sequence);
  }
  REQUIRE(left.size() == expected.size());
  for (std::size_t i = 0; i < left.size(); ++i) REQUIRE(left[i] == expected[i].second);
}

TEST_CASE("an op without tiles is done with success and no packet is spent on it") {
  bench<> b;
  auto& nothing = b.submit(odd, 0);
  CHECK(b.next().empty());
  CHECK(b.s.packets_in_flight() == 0);
  CHECK(nothing.state == submission_state::done);
  CHECK_FALSE(nothing.result.failed());
  CHECK(b.s.take_settled() == &nothing);
  CHECK(b.s.take_settled() == nullptr);

  b.submit(odd, 0);       // 1
  b.submit(odd, 1);       // 2
  b.submit(fused, 0, 7);  // 3
  b.submit(fused, 0, 7);  // 4
  b.submit(odd, 0);       // 5
  const auto packet = b.packet();
  CHECK(packet.header.sequence == 1);
  CHECK(packet.ids() == ids{2});
  CHECK(b.ids_of(b.s.take_settled()) == ids{3, 4, 1, 5});  // two of a key go before one of none
  CHECK(b.s.statistics().settled == 5);
}

TEST_CASE("an op that an empty packet could not hold is done with op_too_large, and the others go on") {
  bench<> b;
  auto& large = b.submit(wide);
  b.submit(odd);
  const auto packet = b.packet(0ns, cohort::packet_builder::bytes_for(256) - 16);
  CHECK(packet.ids() == ids{1});
  CHECK(large.result == errc::op_too_large);
  CHECK(b.s.take_settled() == &large);
  b.submit(wide);
  CHECK(b.packet(0ns, cohort::packet_builder::bytes_for(256)).ids() == ids{2});
}

// --- ends -----------------------------------------------------------------------------------------------------------

TEST_CASE("cancelling takes a pending submission out of the middle, ends a committed one, and leaves done ones alone") {
  bench<> b;
  auto& outside = b.make(fused, 1, 7);
  CHECK_FALSE(b.s.cancel(outside, b.at(0ns)));
  CHECK(outside.state == submission_state::created);
  for (int i = 0; i < 5; ++i) b.submit(fused, 1, 7);
  for (const std::size_t i : {3u, 1u, 5u}) {
    CHECK(b.s.cancel(b.nodes[i], b.at(0ns)));
    CHECK(b.nodes[i].state == submission_state::done);
    CHECK(b.nodes[i].result == errc::cancelled);
    CHECK_FALSE(b.s.cancel(b.nodes[i], b.at(0ns)));
  }
  CHECK(b.packet().ids() == ids{2, 4});
  CHECK(b.s.cancel(b.nodes[2], b.at(0ns)));
  CHECK(b.nodes[2].state == submission_state::done);
  CHECK(b.nodes[2].result == errc::cancelled);
  CHECK_FALSE(b.s.cancel(b.nodes[2], b.at(0ns)));
  CHECK(b.ids_of(b.complete(1)) == ids{4});
  CHECK_FALSE(b.s.cancel(b.nodes[4], b.at(0ns)));
  CHECK_FALSE(b.nodes[4].result.failed());
  CHECK(b.nodes[2].result == errc::cancelled);
}

TEST_CASE("a packet gives back whoever was not cancelled, wherever in it the others stood") {
  for (unsigned cancelled = 0; cancelled < 32; ++cancelled) {
    bench<> b;
    for (int i = 0; i < 5; ++i) b.submit(fused, 1, i < 3 ? 7 : 8);
    CHECK(b.packet().ids() == ids{0, 1, 2, 3, 4});
    ids left;
    for (const std::size_t i : {2u, 0u, 4u, 1u, 3u}) {
      if ((cancelled >> i & 1) != 0) CHECK(b.s.cancel(b.nodes[i], b.at(0ns)));
    }
    for (std::size_t i = 0; i < 5; ++i) {
      if ((cancelled >> i & 1) == 0) left.push_back(i);
    }
    CHECK(b.s.given_up().orphans == 5 - left.size());
    CHECK(b.ids_of(b.complete(1)) == left);
    CHECK(b.s.given_up().orphans == 0);
    CHECK(b.s.packets_in_flight() == 0);
  }
}

TEST_CASE(
    "what was cancelled on the device is still its tenant's work there, and is served, until the packet is complete") {
  bench<immediate> b;
  b.s.set_tenant(1, {.name = "impatient"});
  node& one = b.make(odd);
  one.tenant = 1;
  one.cost.flops = 1000;
  b.s.submit(one, b.at(0ns));
  CHECK(b.packet().ids() == ids{0});
  const auto ahead = b.s.work_in_flight(b.at(0ns));
  CHECK(b.s.cancel(one, b.at(0ns)));
  CHECK(b.s.submissions_in_flight() == 1);
  CHECK(b.s.packets_in_flight() == 1);
  CHECK(b.s.work_in_flight(b.at(0ns)) == ahead);
  CHECK(b.s.complete(1, {}, b.at(700ns)) == nullptr);  // nobody waits
  CHECK(b.s.statistics_of(1).service == 700ns);
  CHECK(b.s.statistics_of(1).completed == 0);
  CHECK(b.s.statistics_of(1).cancelled == 1);
  CHECK(b.s.statistics().committed == 1);
  CHECK(b.s.statistics().orphaned == 1);
  CHECK(b.s.statistics().missed == 0);
  CHECK(b.s.submissions_in_flight() == 0);
}

TEST_CASE("packets with cancelled work are numbered as they lose their first waiter, and complete in that order") {
  bench<immediate> b;
  for (int i = 0; i < 3; ++i) {
    b.submit(odd);
    b.submit(odd);
    b.packet();
  }
  CHECK(b.s.given_up() == decltype(b.s)::given_up_work{0, 0, 0});
  b.s.cancel(b.nodes[4], b.at(0ns));  // of the third packet
  b.s.cancel(b.nodes[0], b.at(0ns));
  b.s.cancel(b.nodes[1], b.at(0ns));
  CHECK(b.s.given_up() == decltype(b.s)::given_up_work{3, 2, 0});
  b.complete(1);
  CHECK(b.s.given_up() == decltype(b.s)::given_up_work{1, 2, 0});  // the first to be given up still runs
  b.s.cancel(b.nodes[2], b.at(0ns));
  b.complete(3);
  CHECK(b.s.given_up() == decltype(b.s)::given_up_work{1, 3, 2});
  b.complete(2);
  CHECK(b.s.given_up() == decltype(b.s)::given_up_work{0, 3, 3});
}

TEST_CASE("a packet that the backend refuses has not run: the one in flight took its whole time") {
  bench<immediate> b;
  b.submit(odd);
  b.packet(0ns);
  b.submit(odd);
  b.packet(400ns);
  b.s.refuse(2, errc::device_lost, b.at(500ns));
  b.complete(1, {}, 900ns);
  CHECK(b.s.statistics_of(0).service == 900ns);
}

TEST_CASE("a packet that the backend refuses after its members were cancelled gives its number back, too") {
  bench<immediate> b;
  b.submit(odd);
  b.packet();
  CHECK(b.s.cancel(b.nodes[0], b.at(0ns)));
  CHECK(b.s.refuse(1, errc::device_lost, b.at(0ns)) == nullptr);
  b.submit(odd);
  CHECK(b.packet().header.sequence == 1);
}

TEST_CASE("a time limit ends what is pending and what is committed, when it is reached and no earlier") {
  bench<> b;
  const auto limited = [&](std::chrono::nanoseconds expires) -> node& {
    node& one = b.make(odd);
    one.expires = b.at(expires);
    b.s.submit(one, b.at(0ns));
    return one;
  };
  limited(100ns);  // 0
  limited(300ns);  // 1
  b.packet();
  limited(200ns);                             // 2: pending
  b.submit(odd);                              // 3: pending, without a limit
  CHECK(b.nodes[0].deadline == b.at(100ns));  // a result that comes later helps nobody
  CHECK(b.s.ask_again() == b.at(100ns));
  CHECK_FALSE(b.s.expire(b.at(99ns)));
  CHECK(b.s.expire(b.at(100ns)));
  CHECK(b.ids_of(b.s.take_settled()) == ids{0});
  CHECK(b.nodes[0].result == errc::timed_out);
  CHECK(b.s.ask_again() == b.at(200ns));
  CHECK(b.s.expire(b.at(250ns)));
  CHECK(b.ids_of(b.s.take_settled()) == ids{2});
  CHECK(b.nodes[2].result == errc::timed_out);
  CHECK(b.ids_of(b.s.complete(1, {}, b.at(260ns))) == ids{1});
  CHECK_FALSE(b.s.expire(b.at(1s)));  // whoever is done has no limit any more
  CHECK_FALSE(b.s.ask_again().has_value());
  limited(1ns);
  b.s.expire(b.at(1s));
  node& late = b.make(odd);
  late.expires = b.at(1s);
  b.s.take_settled();
  b.s.submit(late, b.at(1s));
  CHECK(b.ids_of(b.s.take_settled()) == ids{5});
  CHECK(late.result == errc::timed_out);
  CHECK(b.s.statistics().timed_out == 2);
  CHECK(b.s.statistics().orphaned == 1);
  CHECK(b.s.statistics().refused == 1);
  CHECK(b.s.statistics_of(0).timed_out == 3);
}

TEST_CASE("when the last of a bucket is cancelled its key can come back") {
  bench<> b;
  for (int i = 0; i < 3; ++i) {
    CHECK(b.s.cancel(b.submit(fused, 1, 7), b.at(0ns)));
    CHECK(b.s.pending() == 0);
    CHECK(b.next().empty());
  }
  b.submit(fused, 1, 7);
  b.submit(fused, 1, 7);
  CHECK(members(b.packet()) == std::vector<std::uint32_t>{2});
}

TEST_CASE("packets complete in any order, once each, with their own result") {
  bench<immediate> b;
  for (int i = 0; i < 3; ++i) {
    b.submit(odd);
    b.packet();
  }
  CHECK(b.complete(0) == nullptr);
  CHECK(b.complete(4) == nullptr);
  CHECK(b.ids_of(b.complete(2, errc::device_lost)) == ids{1});
  CHECK(b.nodes[1].result == errc::device_lost);
  CHECK(b.complete(2) == nullptr);
  CHECK(b.nodes[1].result == errc::device_lost);
  CHECK(b.ids_of(b.complete(3)) == ids{2});
  CHECK(b.ids_of(b.complete(1)) == ids{0});
  CHECK(b.s.packets_in_flight() == 0);
  CHECK(b.s.submissions_in_flight() == 0);
}

TEST_CASE("a packet that the backend refuses gives its number back, so that the backend sees no gap") {
  bench<immediate> b;
  b.submit(odd);
  CHECK(b.packet().header.sequence == 1);
  b.submit(odd);
  CHECK(b.packet().header.sequence == 2);
  CHECK(b.ids_of(b.s.refuse(2, errc::device_lost, b.at(0ns))) == ids{1});
  CHECK(b.nodes[1].result == errc::device_lost);
  CHECK(b.s.refuse(2, errc::device_lost, b.at(0ns)) == nullptr);
  b.submit(odd);
  CHECK(b.packet().header.sequence == 2);
  CHECK(b.s.packets_in_flight() == 2);
}

TEST_CASE("stopping finishes everything pending in order of arrival, and what is in flight completes as usual") {
  bench<> b;
  b.submit(odd, 1, 0, 0ns, 1'000'000);
  b.packet();
  b.submit(fused, 1, 7);
  b.submit(odd);
  b.submit(fused, 1, 7);
  b.submit(fused, 1, 8);
  CHECK(b.next().empty());
  CHECK(b.s.ask_again().has_value());
  const auto* list = b.s.abort_pending(errc::stopped, b.at(0ns));
  CHECK(b.ids_of(list) == ids{1, 2, 3, 4});
  for (; list != nullptr; list = list->next) {
    CHECK(list->state == submission_state::done);
    CHECK(list->result == errc::stopped);
  }
  CHECK_FALSE(b.s.ask_again().has_value());
  CHECK(b.s.pending() == 0);
  CHECK(b.s.abort_pending(errc::stopped, b.at(0ns)) == nullptr);
  CHECK(b.ids_of(b.complete(1)) == ids{0});
  CHECK_FALSE(b.nodes[0].result.failed());
}

TEST_CASE("a node may be handed in again when it is done") {
  bench<> b;
  auto& one = b.submit(odd);
  b.packet();
  CHECK(b.complete(1) == &one);
  one.state = submission_state::created;
  one.next = &one;  // as an inbox leaves it
  b.s.submit(one, b.at(1ns));
  CHECK(b.packet(1ns).ids() == ids{0});
  CHECK(length(b.complete(2)) == 1);
}

// --- what it says ---------------------------------------------------------------------------------------------------

TEST_CASE("every packet is reported with its reason, its contents and its waiting time") {
  bench<> b;
  struct : cohort::schedule_observer {
    std::vector<packet_report> reports;
    void formed(const packet_report& one, const cohort::submission*) noexcept override { reports.push_back(one); }
  } packets;
  const auto& reports = packets.reports;
  b.s.observe(&packets);
  b.submit(fused, 2, 7, 10ns, 200);
  b.submit(odd, 3, 0, 20ns, 50);
  b.submit(fused, 4, 7, 30ns, 200);
  const auto bytes = b.next(40ns).size();
  b.submit(odd, 1, 0, 41ns);
  b.submit(odd, 1, 0, 42ns);
  b.next(50ns, 112);
  REQUIRE(reports.size() == 2);
  const auto& first = reports[0];
  CHECK(first.sequence == 1);
  CHECK(first.reason == commit_reason::idle_device);
  CHECK(first.submissions == 3);
  CHECK(first.records == 2);
  CHECK(first.fused_submissions == 2);
  CHECK(first.tiles == 9);
  CHECK(first.bytes == bytes);
  CHECK(first.oldest_wait == 30ns);
  CHECK(first.packets_in_flight_before == 0);
  CHECK(first.work_in_flight_before == 0ns);
  CHECK(first.estimated_work == 550ns);
  CHECK(first.left_pending == 0);
  const auto& second = reports[1];
  CHECK(second.reason == commit_reason::keep_busy);
  CHECK(second.submissions == 1);
  CHECK(second.oldest_wait == 9ns);
  CHECK(second.packets_in_flight_before == 1);
  CHECK(second.work_in_flight_before == 640ns);
  CHECK(second.left_pending == 1);

  const auto& sum = b.s.statistics();
  CHECK(sum.submitted == 5);
  CHECK(sum.committed == 4);
  CHECK(sum.fused == 2);
  CHECK(sum.packets == 2);
  CHECK(sum.records == 3);
  CHECK(sum.tiles == 10);
  CHECK(sum.bytes == first.bytes + second.bytes);
  CHECK(std::accumulate(sum.packets_by_reason.begin(), sum.packets_by_reason.end(), std::uint64_t{0}) == 2);
}

TEST_CASE("every reason has a name of its own") {
  std::set<std::string> names;
  for (std::size_t i = 0; i < cohort::commit_reasons; ++i) names.insert(to_string(static_cast<commit_reason>(i)));
  CHECK(names.size() == cohort::commit_reasons);
  CHECK(names.count("unknown") == 0);
}

// --- memory and keys ------------------------------------------------------------------------------------------------

TEST_CASE("once warm, submitting, cancelling, packing and completing allocate nothing, whatever is cancelled") {
  bench<immediate> b;
  const auto round = [&b](std::uint64_t shift) {
    for (std::size_t i = 0; i < b.nodes.size(); ++i) {
      node& one = b.nodes[i];
      one.state = submission_state::created;
      if (one.op_index == fused) one.key = {{1 + i / 3 + shift, shift, 0, 0}};
      b.s.submit(one, b.at(0ns));
    }
    for (std::size_t i = 0; i < b.nodes.size(); i += 5) b.s.cancel(b.nodes[i], b.at(0ns));
    while (true) {
      const auto bytes = b.next();
      if (bytes.empty()) break;
      cohort::packet_header header;
      std::memcpy(&header, bytes.data(), sizeof header);
      if (header.sequence % 2 == 0) {
        for (std::size_t i = 0; i < b.nodes.size(); i += 3) {
          if (b.nodes[i].state == submission_state::committed) b.s.cancel(b.nodes[i], b.at(0ns));
        }
        b.complete(header.sequence);
        b.complete(header.sequence - 1);
      }
    }
    for (std::uint32_t i = 1; b.s.packets_in_flight() > 0; ++i) b.complete(i);
  };
  for (int i = 0; i < 900; ++i) b.make(i % 3 == 0 ? odd : fused);
  for (std::uint64_t i = 0; i < 4; ++i) round(i * 1000);  // packets fall differently from round to round
  const std::size_t before = allocations;
  for (std::uint64_t i = 4; i < 24; ++i) round(i * 1000);
  CHECK(allocations == before);
  CHECK(before > 0);  // the counter counts
  CHECK(b.s.pending() == 0);
}

TEST_CASE("10,000 different keys that come and go reuse the buckets of those before them") {
  cohort::detail::coalescer queue(op_table, true, 64);
  workshop shop;
  constexpr std::size_t together = 50;
  const std::size_t before = queue.key_buckets();
  for (std::uint64_t key = 1; key <= 10'000; ++key) {
    node& one = shop.make(fused, 1, key);
    queue.add(one, queue.home_of(one));
    CHECK(queue.size() == std::min<std::size_t>(key, together));
    if (queue.size() == together) queue.remove(*queue.oldest());
  }
  CHECK(queue.key_buckets() == before);

  // All at once they need room, and afterwards no more than that.
  const auto add = [&](node& one) { queue.add(one, queue.home_of(one)); };
  for (std::uint64_t key = 1; key <= 10'000; ++key) add(shop.make(fused, 1, key << 40));
  const std::size_t grown = queue.key_buckets();
  CHECK(grown >= 10'000);
  CHECK(grown < 10'000 + 2 * 64 + together);
  while (queue.size() > 0) queue.remove(*queue.oldest());
  for (std::uint64_t key = 1; key <= 10'000; ++key) add(shop.make(fused, 1, key << 20));
  CHECK(queue.key_buckets() == grown);
  while (queue.size() > 0) queue.remove(*queue.oldest());
  CHECK(queue.front() == nullptr);
}

TEST_CASE("the table finds each key among thousands while others are erased around it") {
  cohort::detail::bucket_table table(4);
  std::deque<cohort::detail::bucket> all;
  std::uint64_t seed = 1;
  std::vector<bool> in(3000, true);
  for (std::uint64_t i = 0; i < 3000; ++i) {
    auto& one = all.emplace_back();
    one.key = {{i, 0, 0, 0}};
    one.hash = i % 7 == 0 ? 5 : cohort::detail::hash_of(0, one.key);  // many collide on purpose, near the wrap too
    if (i % 11 == 0) one.hash = ~0u;
    table.reserve_one();
    table.insert(one);
  }
  for (int step = 0; step < 6000; ++step) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const std::size_t i = (seed >> 33) % all.size();
    if (in[i]) {
      table.erase(all[i]);
    } else {
      table.reserve_one();
      table.insert(all[i]);
    }
    in[i] = !in[i];
    if (step % 500 != 0) continue;
    for (std::size_t k = 0; k < all.size(); ++k) {
      const auto* found = table.find(all[k].hash, 0, all[k].key);
      CHECK(found == (in[k] ? &all[k] : nullptr));
    }
  }
  CHECK(table.size() == static_cast<std::size_t>(std::count(in.begin(), in.end(), true)));
  CHECK(2 * table.size() <= table.capacity());
}

TEST_CASE("keys as ops make them, pointers and small sizes, spread over the table as random ones would") {
  constexpr std::uint64_t slots = 4096;
  const auto taken = [&](auto key) {
    std::set<std::uint64_t> places;
    for (std::uint64_t i = 0; i < slots; ++i) {
      places.insert(cohort::detail::hash_of(static_cast<std::uint16_t>(i % 3), key(i)) % slots);
    }
    return places.size();
  };
  // n random throws into n places hit 63 % of them.
  const std::size_t least = slots * 60 / 100;
  using key = cohort::coalescing_key;
  CHECK(taken([](std::uint64_t i) { return key{{0x7f00'0000'0000u + i * 512, 0, 0, 0}}; }) > least);
  CHECK(taken([](std::uint64_t i) { return key{{0x7f00'0000'0000u + i * (1u << 21), 384, 1536, 1}}; }) > least);
  CHECK(taken([](std::uint64_t i) { return key{{i << 48, 0, 0, 0}}; }) > least);
  CHECK(taken([](std::uint64_t i) { return key{{1, i % 64, i / 64, 0}}; }) > least);
  CHECK(taken([](std::uint64_t i) { return key{{1, i % 64 * 64, i / 64 * 64, i % 2}}; }) > least);
  CHECK(taken([](std::uint64_t i) { return key{{i * 64, i * 64, i * 64, i * 64}}; }) > least);
}

// The program's own operator new, for the test of steady state alone. Inlined, g++ 12 takes malloc and free for a
// mismatch.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* const memory = std::malloc(bytes != 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

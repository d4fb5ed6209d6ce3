// Traces: what is recorded of real runs on the host backend, and that what is written is a trace that tools load.
#include "schedule_fixtures.hpp"

#include <cohort/backend/host.hpp>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/observe/chrome_trace.hpp>
#include <cohort/observe/trace.hpp>
#include <cohort/ops/copy.hpp>

#include <boost/asio/thread_pool.hpp>
#include <boost/json.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <sstream>
#include <string>
#include <vector>

using namespace cohort;
using namespace std::chrono_literals;

namespace {

std::atomic<std::size_t> allocations = 0;  // by the operator new of this program, below

using kernels = op_set<ops::fill<float>, ops::copy>;

boost::json::array events_of(const trace_snapshot& trace) {
  std::ostringstream out;
  write_chrome_trace(out, trace);
  return boost::json::parse(out.str()).as_object().at("traceEvents").as_array();
}

/// What a trace says of one submission.
struct story {
  int waits = 0, runs = 0, marks = 0, starts = 0, steps = 0, ends = 0;
  std::int64_t packet = 0;
  double arrived = 0, committed = 0, run_begins = 0, ended = 0, flow_start = 0, flow_step = 0, flow_end = 0;
};

using track = std::pair<std::int64_t, std::int64_t>;

/// Checks every event against the format, and all that must hold of a trace; returns the stories by id.
std::map<std::uint64_t, story> check_schema(const boost::json::array& events) {
  std::map<std::uint64_t, story> stories;
  std::map<track, std::vector<std::pair<double, double>>> slices;
  std::map<std::int64_t, std::pair<double, double>> packets;
  std::map<std::int64_t, std::int64_t> submissions;
  std::set<track> named_tracks;
  std::set<std::int64_t> named_processes;
  for (const auto& value : events) {
    const auto& e = value.as_object();
    const auto& phase = e.at("ph").as_string();
    const track where{e.at("pid").as_int64(), e.at("tid").as_int64()};
    REQUIRE_FALSE(e.at("name").as_string().empty());
    if (phase == "M") {
      REQUIRE_FALSE(e.at("args").at("name").as_string().empty());
      if (e.at("name").as_string() == "process_name") REQUIRE(named_processes.insert(where.first).second);
      if (e.at("name").as_string() == "thread_name") REQUIRE(named_tracks.insert(where).second);
      continue;
    }
    const double at = e.at("ts").to_number<double>();
    REQUIRE(at >= 0);
    const auto& category = e.at("cat").as_string();
    if (phase == "X") {
      const double duration = e.at("dur").to_number<double>();
      REQUIRE(duration >= 0);
      slices[where].emplace_back(at, at + duration);
      const auto& args = e.at("args").as_object();
      if (category == "packet") {
        const auto sequence = args.at("packet").as_int64();
        for (const char* name :
             {"records", "tiles", "bytes", "fused_submissions", "left_pending", "missed", "padding_percent"}) {
          REQUIRE(args.at(name).as_int64() >= 0);
        }
        for (const char* name : {"oldest_wait_us", "waited_us", "waited_hidden_us", "work_in_flight_before_us",
                                 "estimated_work_us", "predicted_us", "least_slack_us", "formed_us"}) {
          REQUIRE(args.at(name).is_number());
        }
        REQUIRE(args.at("reason").as_string() == e.at("name").as_string());
        REQUIRE(packets.emplace(sequence, std::pair(at, at + duration)).second);
        submissions[sequence] = args.at("submissions").as_int64();
      } else {
        story& one = stories[args.at("id").to_number<std::uint64_t>()];
        one.packet = args.at("packet").as_int64();
        if (category == "wait") {
          ++one.waits;
          one.arrived = at;
          one.committed = at + duration;
        } else {
          REQUIRE(category == "run");
          ++one.runs;
          one.run_begins = at;
          one.ended = at + duration;
        }
      }
    } else if (phase == "i") {
      REQUIRE(e.at("s").as_string() == "t");
      ++stories[e.at("args").at("id").to_number<std::uint64_t>()].marks;
    } else {
      story& one = stories[e.at("id").to_number<std::uint64_t>()];
      if (phase == "s") {
        ++one.starts;
        one.flow_start = at;
      } else if (phase == "t") {
        ++one.steps;
        one.flow_step = at;
      } else {
        REQUIRE(phase == "f");
        REQUIRE(e.at("bp").as_string() == "e");
        ++one.ends;
        one.flow_end = at;
      }
    }
  }
  for (auto& [where, all] : slices) {
    REQUIRE(named_tracks.count(where) == 1);
    REQUIRE(named_processes.count(where.first) == 1);
    std::sort(all.begin(), all.end());
    for (std::size_t i = 1; i < all.size(); ++i) REQUIRE(all[i - 1].second <= all[i].first + 1e-6);
  }
  std::map<std::int64_t, std::int64_t> members;
  for (const auto& [id, one] : stories) {
    REQUIRE(one.waits == 1);
    if (one.packet == 0) {
      REQUIRE(one.runs + one.starts + one.steps + one.ends == 0);
      REQUIRE(one.marks == 1);
      continue;
    }
    REQUIRE(one.runs == 1);
    REQUIRE(one.marks == 0);
    REQUIRE((one.starts == 1 && one.steps == 1 && one.ends == 1));
    REQUIRE(one.committed == doctest::Approx(one.run_begins));
    REQUIRE(one.flow_start == one.arrived);
    REQUIRE(one.flow_end == doctest::Approx(one.ended));
    REQUIRE(packets.count(one.packet) == 1);
    REQUIRE(one.flow_step == packets[one.packet].first);  // the arrow touches the packet itself
    REQUIRE(one.ended == doctest::Approx(packets[one.packet].second));
    ++members[one.packet];
  }
  for (const auto& [sequence, count] : members) REQUIRE(count <= submissions[sequence]);
  return stories;
}

struct scheduler_with_recorder : schedule_test::workshop {
  trace_recorder recorder;
  scheduler<> s{schedule_test::op_table, machine_shape{}, device_rates{}};

  explicit scheduler_with_recorder(std::size_t capacity = 65'536) : recorder(capacity) { s.observe(&recorder); }

  schedule_test::node& submit(std::chrono::nanoseconds now, tenant_id tenant = 0, std::uint32_t tiles = 1) {
    auto& one = make(schedule_test::odd, tiles);
    one.tenant = tenant;
    s.submit(one, at(now));
    return one;
  }
};

}  // namespace

TEST_CASE("in the trace of a run on the host backend every op has one beginning, one packet and one end") {
  trace_recorder recorder;
  constexpr int requests = 200;
  {
    boost::asio::thread_pool threads(2);
    executor<kernels, boost::asio::thread_pool::executor_type> gpu(
        threads, std::make_unique<host_backend<kernels>>(host_options{.workers = 2}), {.observer = &recorder});
    const auto interactive = gpu.make_tenant({.name = "inter\"active\"\n", .latency_target = 1ms});
    auto x = make_pinned_buffer<float>(gpu.device(), 64 * requests);
    std::atomic<int> left = requests;
    for (int i = 0; i < requests; ++i) {
      const auto part = x.view().subspan(static_cast<std::size_t>(i) * 64, 64);
      auto done = [&left](error_code ec) {
        REQUIRE_FALSE(ec.failed());
        left.fetch_sub(1, std::memory_order_release);  // release: the test reads what the op wrote
      };
      if (i % 2 == 0) {
        gpu.async_submit(ops::make_fill(part, 1.0f), done);
      } else {
        interactive.async_submit(ops::make_fill(part, 2.0f), done);
      }
    }
    gpu.drain();
    threads.join();
    CHECK(left == 0);
  }
  const auto trace = recorder.snapshot();
  CHECK(trace.ops.size() == requests);
  CHECK(trace.lost_ops == 0);
  const auto events = events_of(trace);
  const auto stories = check_schema(events);
  CHECK(stories.size() == requests);
  for (std::uint64_t id = 1; id <= requests; ++id) CHECK(stories.count(id) == 1);
  std::set<std::string> names;
  for (const auto& e : events) {
    if (e.at("name").as_string() == "process_name") names.emplace(e.at("args").at("name").as_string());
  }
  CHECK(names == std::set<std::string>{"device", "tenant default", "tenant inter\"active\"\n"});
}

TEST_CASE("what ends without a packet is told with how it ended, exactly once") {
  scheduler_with_recorder b;
  b.s.set_tenant(1, {.name = "strict", .latency_target = 1us, .queue_capacity = 1, .when_late = late_work::drop});
  b.submit(0ns, 9);     // 1: nobody knows the tenant
  b.submit(1ns);        // 2: runs
  b.submit(2ns, 0, 0);  // 3: has no tiles
  CHECK_FALSE(b.s.next(b.at(3ns), b.storage).empty());
  b.submit(4ns, 1);                             // 4: will be dropped
  b.submit(5ns, 1);                             // 5: finds the queue full
  CHECK(b.s.cancel(b.submit(6ns), b.at(7ns)));  // 6
  b.s.expire(b.at(1ms));
  b.submit(1ms);  // 7: aborted
  CHECK(schedule_test::length(b.s.abort_pending(errc::stopped, b.at(2ms))) == 1);
  CHECK(b.s.complete(1, {}, b.at(3ms)) != nullptr);
  const auto trace = b.recorder.snapshot();
  std::map<std::uint64_t, std::string> ends;
  for (const auto& one : trace.ops) {
    CHECK(ends.emplace(one.id, one.packet != 0 ? "packet" : to_string(one.how)).second);
  }
  CHECK(ends == std::map<std::uint64_t, std::string>{{1, "refused"},
                                                     {2, "packet"},
                                                     {3, "settled"},
                                                     {4, "dropped"},
                                                     {5, "refused"},
                                                     {6, "cancelled"},
                                                     {7, "aborted"}});
  CHECK(check_schema(events_of(trace)).size() == 7);
}

TEST_CASE(
    "what is cancelled or times out on the device has one beginning, one packet and one end, and its own result") {
  scheduler_with_recorder b;
  b.submit(0ns);  // 1
  b.submit(0ns);  // 2: will be cancelled
  auto& limited = b.make(schedule_test::odd);
  limited.expires = b.at(10ns);
  b.s.submit(limited, b.at(0ns));  // 3
  CHECK_FALSE(b.s.next(b.at(1ns), b.storage).empty());
  CHECK(b.s.cancel(b.nodes[1], b.at(5ns)));
  CHECK(b.s.expire(b.at(10ns)));
  CHECK(b.recorder.snapshot().ops.empty());
  b.nodes[1].id = limited.id = 99;  // the nodes are their owners' again
  b.s.complete(1, {}, b.at(20ns));
  const auto trace = b.recorder.snapshot();
  std::map<std::uint64_t, error_code> results;
  for (const auto& one : trace.ops) {
    CHECK(results.emplace(one.id, one.result).second);
    CHECK(one.packet == 1);
    CHECK(one.ended == b.at(20ns));
  }
  CHECK(results == std::map<std::uint64_t, error_code>{{1, {}}, {2, errc::cancelled}, {3, errc::timed_out}});
  CHECK(check_schema(events_of(trace)).size() == 3);
}

TEST_CASE("a packet that the backend refused and its successor of the same number are told apart") {
  scheduler_with_recorder b;
  b.submit(0ns);
  CHECK_FALSE(b.s.next(b.at(1ns), b.storage).empty());
  b.s.refuse(1, errc::device_lost, b.at(2ns));
  b.submit(3ns);
  CHECK_FALSE(b.s.next(b.at(4ns), b.storage).empty());
  b.s.complete(1, {}, b.at(5ns));
  const auto trace = b.recorder.snapshot();
  CHECK(trace.packets.size() == 2);
  int steps = 0;
  for (const auto& e : events_of(trace)) steps += e.at("ph").as_string() == "t" ? 1 : 0;
  CHECK(steps == 2);
}

TEST_CASE("a full recorder keeps the newest, whole, and counts what it lost; it allocates nothing while recording") {
  scheduler_with_recorder b(8);
  const auto round = [&b](int i) {
    const auto now = std::chrono::nanoseconds{i * 100};
    for (int k = 0; k < 3; ++k) {
      auto& one = b.nodes[static_cast<std::size_t>(k)];
      one.state = submission_state::created;
      b.s.submit(one, b.at(now));
    }
    const auto packet = b.s.next(b.at(now + 10ns), b.storage);
    b.s.complete(schedule_test::read<packet_header>(packet, 0).sequence, {}, b.at(now + 50ns));
  };
  for (int k = 0; k < 3; ++k) b.make(schedule_test::odd);
  round(0);
  const std::size_t before = allocations;
  for (int i = 1; i < 100; ++i) round(i);
  CHECK(allocations == before);
  CHECK(before > 0);  // the counter counts
  const auto trace = b.recorder.snapshot();
  CHECK(trace.ops.size() == 8);
  CHECK(trace.lost_ops == 292);
  CHECK(trace.packets.size() == 8);
  CHECK(trace.lost_packets == 92);
  CHECK(trace.ops.back().id == 300);
  CHECK(check_schema(events_of(trace)).size() == 8);
}

TEST_CASE("an empty trace is a trace") { CHECK(check_schema(events_of(trace_recorder().snapshot())).empty()); }

TEST_CASE("an observer is told each submission's story in order, and without one nobody is called") {
  struct counting : schedule_observer {
    int calls = 0;
    std::map<std::uint64_t, std::string> told;
    void arrived(const submission& one, time_point) noexcept override { ++calls, told[one.id] += 'a'; }
    void formed(const packet_report& packet, const submission* members) noexcept override {
      ++calls;
      CHECK(schedule_test::length(members) == packet.submissions);
      for (; members != nullptr; members = members->next) told[members->id] += 'f';
    }
    void completed(const packet_result& packet) noexcept override {
      ++calls;
      for (auto* one = packet.members; one != nullptr; one = one->next) told[one->id] += 'c';
    }
    void ended(const submission& one, ending, time_point) noexcept override { ++calls, told[one.id] += 'e'; }
  } watcher;
  schedule_test::workshop shop;
  scheduler<> s(schedule_test::op_table, machine_shape{}, device_rates{});
  const auto run = [&] {
    for (int i = 0; i < 3; ++i) s.submit(shop.make(schedule_test::odd), shop.at(0ns));
    s.cancel(shop.nodes.back(), shop.at(1ns));
    const auto packet = s.next(shop.at(2ns), shop.storage);
    s.complete(schedule_test::read<packet_header>(packet, 0).sequence, {}, shop.at(3ns));
  };
  observer_group both({&watcher, &watcher});
  s.observe(&both);
  run();
  CHECK(watcher.calls == 2 * 6);
  CHECK(watcher.told == std::map<std::uint64_t, std::string>{{1, "aaffcc"}, {2, "aaffcc"}, {3, "aaee"}});
  s.observe(nullptr);
  run();
  CHECK(watcher.calls == 2 * 6);
}

// The program's own operator new, to see that recording allocates nothing. Inlined, g++ 12 takes malloc and free for a
// mismatch.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);  // relaxed: a count
  if (void* const memory = std::malloc(bytes != 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

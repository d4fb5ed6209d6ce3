// Tenants of an executor: what each choice for overload does to whoever submits, and how tenants come, change and go
// while others run.
#include "../support/manual_backend.hpp"

#include <cohort/executor.hpp>
#include <cohort/task.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace cohort;
using namespace std::chrono_literals;

namespace {

struct add_one {
  static constexpr const char* name = "add_one";
  std::atomic<int>* target = nullptr;
  std::uint64_t flops = 0;  ///< it says so

  std::uint32_t tiles() const { return 1; }
  op_cost cost() const { return {.flops = flops, .bytes = 0}; }
  template <class Context>
  void run(Context&, std::uint32_t) const {
    target->fetch_add(1, std::memory_order_relaxed);  // relaxed: completion orders it
  }
};

using kernels = op_set<add_one>;
using manual = testing::manual_backend<kernels>;  // a flop takes 1 ns
using gpu_type = executor<kernels>;
using results = std::vector<error_code>;

/// An executor that the test drives, over a backend with room for one packet.
struct driven {
  explicit driven(std::size_t capacity = 65'536)
      : owned(std::make_unique<manual>(false, 1)),
        device(*owned),
        gpu(io, std::move(owned), {.driven_by = drive::caller, .capacity = capacity}) {}

  void submit(const gpu_type::tenant_type& who, results& out, std::uint64_t flops = 0, std::stop_token stop = {}) {
    auto work = [](gpu_type::tenant_type t, add_one op) -> task<error_code> { co_return co_await t.try_submit(op); };
    detail::start(work(who, add_one{&x, flops}), std::move(stop),
                  [&out](std::exception_ptr, std::optional<error_code> ec) { out.push_back(ec.value()); });
  }

  void finish() {
    while (gpu.poll() || device.complete({})) {
    }
    gpu.run_until_idle();
  }

  boost::asio::io_context io;
  std::atomic<int> x = 0;
  std::unique_ptr<manual> owned;
  manual& device;
  gpu_type gpu;
};

std::size_t failures(const results& all) {
  std::size_t count = 0;
  for (const error_code& ec : all) count += ec.failed();
  return count;
}

std::string refusal(gpu_type& gpu, tenant_options options) {
  try {
    gpu.make_tenant(std::move(options));
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return {};
}

}  // namespace

// --- overload --------------------------------------------------------------------------------------------------------

TEST_CASE("a full queue that rejects tells so at once, and takes more when it has room again") {
  driven f;
  const auto narrow = f.gpu.make_tenant({.name = "narrow", .queue_capacity = 2, .when_full = full_queue::reject});
  results blocker, mine;
  f.submit(f.gpu.default_tenant(), blocker);
  f.gpu.poll();  // the device is full now
  for (int i = 0; i < 5; ++i) f.submit(narrow, mine);
  f.gpu.poll();
  REQUIRE(mine.size() == 3);
  for (const error_code& ec : mine) CHECK(ec == errc::tenant_queue_full);
  CHECK(mine[0] != errc::queue_full);
  CHECK(narrow.statistics().refused == 3);
  f.finish();
  CHECK(mine.size() == 5);
  CHECK(failures(mine) == 3);
  CHECK(f.x == 3);
}

TEST_CASE("a submission that is refused and cancelled before the executor looks is told once") {
  driven f;
  const auto strict = f.gpu.make_tenant({.name = "strict", .when_late = late_work::drop});
  results mine;
  for (int i = 0; i < 3; ++i) {
    std::stop_source stop;
    f.submit(strict.within({.deadline = time_point{}}), mine, 0, stop.get_token());
    stop.request_stop();
  }
  f.gpu.poll();
  REQUIRE(mine.size() == 3);
  for (const error_code& ec : mine) CHECK(ec == errc::deadline_passed);
  f.finish();
  CHECK(mine.size() == 3);
}

TEST_CASE("a full queue that suspends keeps its coroutines waiting, and refuses nobody") {
  driven f;
  const auto narrow = f.gpu.make_tenant({.name = "narrow", .queue_capacity = 2, .when_full = full_queue::suspend});
  results blocker, mine;
  f.submit(f.gpu.default_tenant(), blocker);
  f.gpu.poll();
  for (int i = 0; i < 50; ++i) f.submit(narrow, mine);
  f.gpu.poll();
  CHECK(mine.empty());
  CHECK(narrow.statistics().pending == 2);
  f.finish();
  CHECK(mine.size() == 50);
  CHECK(failures(mine) == 0);
  CHECK(f.x == 51);
}

TEST_CASE("the executor's capacity bounds all tenants together, suspended ones as well") {
  driven f(4);
  const auto narrow = f.gpu.make_tenant({.name = "narrow", .queue_capacity = 1, .when_full = full_queue::suspend});
  results mine, others;
  for (int i = 0; i < 3; ++i) f.submit(narrow, mine);
  f.submit(f.gpu.default_tenant(), others);
  CHECK(failures(mine) + failures(others) == 0);
  f.submit(narrow, mine);
  f.submit(f.gpu.default_tenant(), others);
  REQUIRE(mine.size() == 1);
  REQUIRE(others.size() == 1);
  CHECK(mine[0] == errc::queue_full);
  CHECK(others[0] == errc::queue_full);
  f.finish();
  CHECK(f.x == 4);
}

TEST_CASE("late work runs, late, and is counted, where its tenant wants it to run") {
  driven f;
  const auto patient = f.gpu.make_tenant({.name = "patient", .latency_target = 1ns, .when_late = late_work::run});
  results mine;
  f.submit(patient, mine);
  f.gpu.poll();
  f.submit(patient.within({.deadline = time_point{}}), mine);  // long over
  f.finish();
  CHECK(mine.size() == 2);
  CHECK(failures(mine) == 0);
  CHECK(patient.statistics().missed == 2);
  CHECK(f.x == 2);
}

TEST_CASE("where late work is dropped, a deadline that is over is refused at submission") {
  driven f;
  const auto strict = f.gpu.make_tenant({.name = "strict", .when_late = late_work::drop});
  results mine;
  f.submit(strict.within({.deadline = clock::now() - 1us}), mine);
  f.gpu.poll();
  REQUIRE(mine.size() == 1);
  CHECK(mine[0] == errc::deadline_passed);
  CHECK(mine[0] == boost::system::errc::timed_out);
  CHECK(f.device.committed() == 0);
}

TEST_CASE("where late work is dropped, what is predicted to finish after its deadline is refused at submission") {
  driven f;
  const auto strict = f.gpu.make_tenant({.name = "strict", .latency_target = 1h, .when_late = late_work::drop});
  results blocker, mine;
  f.submit(f.gpu.default_tenant(), blocker, 60'000'000'000u);  // a minute
  f.gpu.poll();
  f.submit(strict.within({.deadline = clock::now() + 30s}), mine);
  f.submit(strict.within({.deadline = clock::now() + 90s}), mine);
  f.submit(strict.within({.deadline = clock::now() + 90s}), mine, 60'000'000'000u);
  f.gpu.poll();
  REQUIRE(mine.size() == 2);
  for (const error_code& ec : mine) CHECK(ec == errc::deadline_unreachable);
  CHECK(strict.statistics().refused == 2);
  f.finish();
  REQUIRE(mine.size() == 3);
  CHECK_FALSE(mine[2].failed());
}

TEST_CASE("where late work is dropped, it leaves the queue as soon as it cannot be in time, while the device is busy") {
  driven f;
  const auto strict = f.gpu.make_tenant({.name = "strict", .when_late = late_work::drop});
  results blocker, mine;
  f.submit(f.gpu.default_tenant(), blocker);
  f.gpu.poll();
  const auto begin = clock::now();
  f.submit(strict.within({.deadline = begin + 3ms}), mine);
  f.gpu.poll();
  CHECK(mine.empty());  // admitted
  while (mine.empty() && clock::now() < begin + 10s) f.gpu.poll();
  CHECK(clock::now() >= begin + 2ms);
  REQUIRE(mine.size() == 1);
  CHECK(mine[0] == errc::dropped);
  CHECK(strict.statistics().dropped == 1);
  CHECK(f.device.committed() == 1);
  f.finish();
  CHECK(f.x == 1);
}

TEST_CASE("a tenant has no more work committed than its cap, and its other work waits without being refused") {
  driven f;
  const auto capped = f.gpu.make_tenant({.name = "capped", .in_flight_cap = 1us});
  results mine;
  for (int i = 0; i < 3; ++i) f.submit(capped, mine, 900);
  for (std::size_t done = 1; done <= 3; ++done) {
    f.gpu.poll();
    CHECK(f.device.committed() == 1);
    f.device.complete({});
    f.gpu.poll();
    CHECK(mine.size() == done);  // one at a time
  }
  CHECK(failures(mine) == 0);
  f.finish();
}

// --- tenants that come, change and go --------------------------------------------------------------------------------

TEST_CASE("options that make no sense are refused by name, and change nothing") {
  driven f;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK(refusal(f.gpu, {.name = "a", .weight = 0}) == "cohort: tenant a: the weight must be a finite number above 0");
  CHECK(refusal(f.gpu, {.name = "b", .weight = -1}).find("weight") != std::string::npos);
  CHECK(refusal(f.gpu, {.name = "c", .weight = infinity}).find("weight") != std::string::npos);
  CHECK(refusal(f.gpu, {.name = "d", .weight = std::numeric_limits<double>::quiet_NaN()}).find("weight") !=
        std::string::npos);
  CHECK(refusal(f.gpu, {.name = "e", .latency_target = 0ns}).find("latency target") != std::string::npos);
  CHECK(refusal(f.gpu, {.name = "f", .queue_capacity = 0}).find("queue") != std::string::npos);
  CHECK(refusal(f.gpu, {.name = "g", .in_flight_cap = -1ns}).find("cap") != std::string::npos);
  CHECK(refusal(f.gpu, {.name = "h", .when_full = static_cast<full_queue>(7)}).find("full queue") != std::string::npos);
  CHECK(refusal(f.gpu, {.name = "i", .when_late = static_cast<late_work>(7)}).find("late work") != std::string::npos);
  const auto good = f.gpu.make_tenant({.name = "good"});
  CHECK(good.id() == 1);
  CHECK_THROWS_AS(good.set_options({.name = "bad", .weight = 0}), std::invalid_argument);
  CHECK(good.options().name == "good");
  CHECK_THROWS_AS(f.gpu.set_options(2, {}), std::out_of_range);
  CHECK_THROWS_AS(f.gpu.remove_tenant(2), std::out_of_range);
  CHECK_THROWS_AS(f.gpu.statistics_of(2), std::out_of_range);
  CHECK_THROWS_AS(f.gpu.remove_tenant(0), std::invalid_argument);
}

TEST_CASE("options that change let those in who wait for room, without another submission") {
  driven f;
  const auto narrow = f.gpu.make_tenant({.name = "narrow", .queue_capacity = 1, .when_full = full_queue::suspend});
  results blocker, mine;
  f.submit(f.gpu.default_tenant(), blocker);
  f.gpu.poll();
  for (int i = 0; i < 4; ++i) f.submit(narrow, mine);
  f.gpu.poll();
  CHECK(narrow.statistics().pending == 1);
  narrow.set_options({.name = "wide", .queue_capacity = 10});
  CHECK(narrow.options().name == "wide");
  f.device.complete({});
  f.gpu.poll();
  CHECK(f.device.committed() == 1);
  f.device.complete({});
  f.gpu.poll();
  CHECK(mine.size() == 4);  // in one packet
  f.finish();
}

TEST_CASE("a removed tenant is refused, what it has inside completes, and with options it is back") {
  driven f;
  const auto guest = f.gpu.make_tenant({.name = "guest"});
  results mine;
  f.submit(guest, mine);
  f.gpu.poll();
  f.submit(guest, mine);
  f.gpu.poll();
  guest.remove();
  f.submit(guest, mine);
  f.gpu.poll();
  REQUIRE(mine.size() == 1);
  CHECK(mine[0] == errc::tenant_removed);
  f.finish();
  REQUIRE(mine.size() == 3);
  CHECK(failures(mine) == 1);
  CHECK(guest.statistics().completed == 2);
  guest.set_options({.name = "again"});
  f.submit(guest, mine);
  f.finish();
  CHECK(failures(mine) == 1);
  CHECK(guest.statistics().completed == 3);
  CHECK(f.gpu.make_tenant({}).id() == 2);  // no id is used twice
}

TEST_CASE("statistics of tenants add up: everything submitted has ended in one way") {
  driven f;
  const auto strict = f.gpu.make_tenant({.name = "strict", .queue_capacity = 2, .when_late = late_work::drop});
  CHECK(strict.statistics().submitted == 0);
  results mine;
  for (int i = 0; i < 3; ++i) f.submit(strict, mine);
  f.gpu.poll();
  f.submit(strict.within({.expires = clock::now() - 1us}), mine);
  f.submit(strict.within({.deadline = clock::now() + 2ms}), mine);
  const auto end = clock::now() + 10s;
  while (mine.size() < 3 && clock::now() < end) f.gpu.poll();
  f.finish();
  const tenant_statistics sum = strict.statistics();
  CHECK(sum.submitted == 5);
  CHECK(sum.completed == 2);
  CHECK(sum.refused == 2);
  CHECK(sum.dropped == 1);
  CHECK(sum.pending == 0);
  CHECK(sum.service > 0ns);
  CHECK(sum.submitted == sum.completed + sum.refused + sum.dropped + sum.cancelled + sum.timed_out);
}

TEST_CASE("tenants come, change, go and are asked for their statistics from other threads while work runs") {
  boost::asio::thread_pool pool(2);
  using pooled = executor<kernels, boost::asio::thread_pool::executor_type>;
  std::atomic<int> x = 0, ended = 0, refused = 0;
  constexpr int rounds = 200, each = 4;
  {
    pooled gpu(pool, std::make_unique<manual>(true));
    std::atomic<bool> done = false;
    std::thread reader([&] {
      std::uint64_t last = 0;
      while (!done.load(std::memory_order_relaxed)) {  // relaxed: nothing is handed over
        const auto sum = gpu.statistics_of(0);
        CHECK(sum.completed >= last);
        CHECK(sum.completed <= gpu.statistics_of(0).submitted);
        last = sum.completed;
      }
    });
    const auto submit = [&](const pooled::tenant_type& who) {
      who.async_submit(add_one{&x}, [&](error_code ec) {
        // relaxed: drain orders both before they are read
        if (ec.failed()) refused.fetch_add(1, std::memory_order_relaxed);
        ended.fetch_add(1, std::memory_order_relaxed);
      });
    };
    for (int i = 0; i < rounds; ++i) {
      const auto one = gpu.make_tenant({.name = std::to_string(i), .weight = 1.0 + i % 3});
      for (int k = 0; k < each; ++k) submit(one);
      submit(gpu.default_tenant());
      one.set_options({.name = "changed", .weight = 2});
      submit(one);
      one.remove();
      submit(one);
    }
    gpu.drain();
    done.store(true, std::memory_order_relaxed);  // relaxed: see above
    reader.join();
    CHECK(gpu.statistics_of(0).completed == rounds);
    std::uint64_t completed = 0, submitted = 0;
    for (tenant_id id = 0; id <= rounds; ++id) {
      completed += gpu.statistics_of(id).completed;
      submitted += gpu.statistics_of(id).submitted;
    }
    CHECK(completed == static_cast<std::uint64_t>(x.load()));
    CHECK(submitted >= completed);
    pool.join();
    CHECK(ended == rounds * (each + 3));
    CHECK(refused >= rounds);
    CHECK(x == ended - refused);
  }
}

// The executor against a backend that completes when the test says so.
#include "../support/manual_backend.hpp"

#include <cohort/executor.hpp>
#include <cohort/spawn.hpp>
#include <cohort/task.hpp>
#include <cohort/when_all.hpp>

#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <future>
#include <random>
#include <thread>
#include <vector>

using namespace cohort;

namespace {

struct add_one {
  static constexpr const char* name = "add_one";
  std::atomic<int>* target = nullptr;

  error_code check() const { return target == nullptr ? error_code(errc::null_pointer) : error_code(); }
  std::uint32_t tiles() const { return 1; }
  template <class Context>
  void run(Context&, std::uint32_t) const {
    target->fetch_add(1, std::memory_order_relaxed);  // relaxed: completion orders it
  }
};

struct nothing {
  static constexpr const char* name = "nothing";
  std::uint32_t tiles() const { return 0; }
  template <class Context>
  void run(Context&, std::uint32_t) const {}
};

using kernels = op_set<add_one, nothing>;
using manual = testing::manual_backend<kernels>;
using gpu_type = executor<kernels>;

executor_options by_caller() { return {.driven_by = drive::caller}; }

struct caller_driven {
  explicit caller_driven(bool automatic = false, executor_options options = by_caller())
      : owned(std::make_unique<manual>(automatic)), device(*owned), gpu(io, std::move(owned), options) {}

  boost::asio::io_context io;
  std::unique_ptr<manual> owned;
  manual& device;
  gpu_type gpu;
};

task<error_code> add(gpu_type& gpu, std::atomic<int>& x) { co_return co_await gpu.try_submit(add_one{&x}); }

/// Starts a task whose result lands in `out`, and counts the ends.
void start(task<error_code> work, std::vector<error_code>& out, std::stop_token stop = {}) {
  detail::start(std::move(work), std::move(stop), [&out](std::exception_ptr, std::optional<error_code> ec) {
    out.push_back(ec.value_or(error_code(errc::device_lost)));
  });
}

}  // namespace

TEST_CASE("an awaited op has run when its coroutine continues") {
  caller_driven f(true);
  std::atomic<int> x = 0;
  auto work = [](gpu_type& gpu, std::atomic<int>& v) -> task<int> {
    for (int i = 0; i < 100; ++i) co_await gpu.submit(add_one{&v});
    co_return v.load();
  };
  CHECK(f.gpu.run(work(f.gpu, x)) == 100);
}

TEST_CASE("ops that are pending together share a packet") {
  caller_driven f(true);
  std::atomic<int> x = 0;
  std::vector<task<error_code>> all;
  for (int i = 0; i < 50; ++i) all.push_back(add(f.gpu, x));
  f.gpu.run(when_all(std::move(all)));
  CHECK(x == 50);
  CHECK(f.gpu.statistics().packets == 1);
  CHECK(f.gpu.statistics().committed == 50);
}

TEST_CASE("a failed check is reported and never reaches the device") {
  caller_driven f;
  auto work = [](gpu_type& gpu) -> task<> { co_await gpu.submit(add_one{nullptr}); };
  try {
    f.gpu.run(work(f.gpu));
    FAIL("no exception");
  } catch (const system_error& e) {
    CHECK(e.code() == errc::null_pointer);
    CHECK(std::string(e.what()).find("add_one") != std::string::npos);
  }
  CHECK(f.device.committed() == 0);
}

TEST_CASE("an op without tiles succeeds without a packet") {
  caller_driven f;
  auto work = [](gpu_type& gpu) -> task<> { co_await gpu.submit(nothing{}); };
  f.gpu.run(work(f.gpu));
  CHECK(f.device.committed() == 0);
}

TEST_CASE("a full queue is an error of the submission that found it full, and the others complete") {
  auto options = by_caller();
  options.capacity = 3;
  caller_driven f(false, options);
  std::atomic<int> x = 0;
  std::vector<error_code> results;
  for (int i = 0; i < 5; ++i) start(add(f.gpu, x), results);
  REQUIRE(results.size() == 2);
  CHECK(results[0] == errc::queue_full);
  CHECK(results[1] == errc::queue_full);
  f.gpu.poll();
  CHECK(f.device.complete({}));
  f.gpu.run_until_idle();
  CHECK(x == 3);
  CHECK(results.size() == 5);
}

TEST_CASE("stop tells what is pending, completes what is committed, and refuses what comes later") {
  caller_driven f;
  std::atomic<int> x = 0;
  std::vector<error_code> results;
  start(add(f.gpu, x), results);
  f.gpu.poll();  // the first is committed
  for (int i = 0; i < 4; ++i) start(add(f.gpu, x), results);
  f.gpu.stop();
  f.gpu.poll();
  REQUIRE(results.size() == 4);
  for (const auto& ec : results) CHECK(ec == errc::stopped);
  start(add(f.gpu, x), results);
  REQUIRE(results.size() == 5);
  CHECK(results[4] == errc::stopped);
  CHECK(f.device.complete({}));
  f.gpu.run_until_idle();
  REQUIRE(results.size() == 6);
  CHECK_FALSE(results[5].failed());
  CHECK(x == 1);
}

TEST_CASE("a device error reaches every waiter of the packet") {
  caller_driven f;
  std::atomic<int> x = 0;
  std::vector<error_code> results;
  for (int i = 0; i < 3; ++i) start(add(f.gpu, x), results);
  f.gpu.poll();
  CHECK(f.device.complete(errc::device_lost));
  f.gpu.run_until_idle();
  REQUIRE(results.size() == 3);
  for (const auto& ec : results) CHECK(ec == errc::device_lost);
}

TEST_CASE("a packet that the backend refuses fails its submissions and later ones go through") {
  caller_driven f;
  std::atomic<int> x = 0;
  std::vector<error_code> results;
  f.device.refuse(errc::device_lost);
  start(add(f.gpu, x), results);
  f.gpu.run_until_idle();
  REQUIRE(results.size() == 1);
  CHECK(results[0] == errc::device_lost);
  f.device.refuse({});
  start(add(f.gpu, x), results);
  f.gpu.poll();
  f.device.complete({});
  f.gpu.run_until_idle();
  CHECK(x == 1);
}

TEST_CASE("a stop request withdraws a pending op at once and leaves a committed one to complete") {
  caller_driven f;
  std::atomic<int> x = 0;
  std::vector<error_code> committed, pending, early;
  std::stop_source stop;
  start(add(f.gpu, x), committed, stop.get_token());
  f.gpu.poll();
  REQUIRE(f.device.committed() == 1);
  std::vector<task<error_code>> keep;
  for (int i = 0; i < 3; ++i) {  // more than the policy commits while the device is busy
    start(add(f.gpu, x), pending, stop.get_token());
    f.gpu.poll();
  }
  const auto on_device = f.device.committed();
  stop.request_stop();
  f.gpu.poll();
  CHECK(pending.size() == 4 - on_device);
  for (const auto& ec : pending) CHECK(ec == errc::cancelled);
  CHECK(committed.empty());
  start(add(f.gpu, x), early, stop.get_token());
  REQUIRE(early.size() == 1);
  CHECK(early[0] == errc::cancelled);
  while (f.device.complete({})) {
  }
  f.gpu.run_until_idle();
  REQUIRE(committed.size() == 1);
  CHECK_FALSE(committed[0].failed());
  CHECK(x == static_cast<int>(on_device));
}

TEST_CASE("an executor refuses the backend of another op set") {
  using others = op_set<nothing>;
  boost::asio::io_context io;
  CHECK_THROWS_AS((executor<others>(io, std::make_unique<manual>())), system_error);
  CHECK_THROWS_AS((executor<others>(io, nullptr)), std::invalid_argument);
}

TEST_CASE("pause drains the device, holds what comes meanwhile, and resume lets it go") {
  caller_driven f(true);
  std::atomic<int> x = 0;
  std::vector<error_code> results;
  start(add(f.gpu, x), results);
  CHECK_FALSE(f.gpu.pause().failed());
  CHECK(f.device.pauses == 1);
  const auto before = results.size();
  start(add(f.gpu, x), results);
  for (int i = 0; i < 10; ++i) f.gpu.poll();
  CHECK(results.size() == before);
  f.gpu.resume();
  f.gpu.run_until_idle();
  CHECK(results.size() == 2);
}

TEST_CASE("with a poller thread, tasks of a thread pool complete and the destructor waits for them") {
  boost::asio::thread_pool pool(2);
  using pooled = executor<kernels, boost::asio::thread_pool::executor_type>;
  std::atomic<int> x = 0;
  {
    pooled gpu(pool, std::make_unique<manual>(true));
    auto work = [](pooled& g, std::atomic<int>& v) -> task<> {
      for (int i = 0; i < 200; ++i) co_await g.submit(add_one{&v});
    };
    std::vector<std::future<void>> ends;
    for (int i = 0; i < 8; ++i) ends.push_back(spawn(pool, work(gpu, x), boost::asio::use_future));
    for (auto& end : ends) end.get();
    gpu.drain();
  }
  CHECK(x == 1600);
}

TEST_CASE("tenants submit on their own behalf and keep their options") {
  caller_driven f(true);
  std::atomic<int> x = 0;
  auto one = f.gpu.make_tenant({.name = "search", .weight = 2.0});
  CHECK(one.id() == 1);
  CHECK(f.gpu.options_of(one.id()).name == "search");
  CHECK_THROWS_AS(f.gpu.make_tenant({.name = "bad", .weight = 0}), std::invalid_argument);
  auto work = [](tenant<gpu_type> t, std::atomic<int>& v) -> task<> {
    co_await t.submit(add_one{&v});
    const auto ec = co_await t.try_submit(add_one{&v});
    CHECK_FALSE(ec.failed());
  };
  f.gpu.run(work(one, x));
  CHECK(x == 2);
}

TEST_CASE("every submission ends once under any interleaving of submit, cancel, complete, pause and stop") {
  // Seeds x schedules = 10,000 interleavings; each thread count is a different race.
  constexpr int schedules = 10'000;
  for (int schedule = 0; schedule < schedules; ++schedule) {
    std::mt19937 random(static_cast<unsigned>(schedule));
    auto options = by_caller();
    options.capacity = 1 + random() % 12;
    caller_driven f(false, options);
    std::atomic<int> x = 0;
    int started = 0, ended = 0, succeeded = 0;
    std::vector<std::stop_source> stops;
    for (int step = 0; step < 24; ++step) {
      switch (random() % 8) {
        case 0:
        case 1:
        case 2: {
          ++started;
          stops.emplace_back();
          detail::start(add(f.gpu, x), stops.back().get_token(),
                        [&](std::exception_ptr e, std::optional<error_code> ec) {
                          ++ended;
                          if (!e && !ec->failed()) ++succeeded;
                        });
          break;
        }
        case 3:
          if (!stops.empty()) stops[random() % stops.size()].request_stop();
          break;
        case 4:
          f.device.complete(random() % 4 == 0 ? error_code(errc::device_lost) : error_code(), random() % 2 == 0);
          break;
        case 5:
        case 6: f.gpu.poll(); break;
        case 7:
          if (random() % 8 == 0) f.gpu.stop();
          break;
      }
    }
    f.gpu.stop();
    while (ended < started) {
      f.gpu.poll();
      f.device.complete({});
    }
    CHECK(ended == started);
    CHECK(succeeded == x);
    if (ended != started || succeeded != x) {
      MESSAGE("schedule ", schedule);
      break;
    }
  }
}

TEST_CASE("cancellation, completion and submission on different threads end every submission once") {
  for (unsigned seed = 0; seed < 40; ++seed) {
    boost::asio::thread_pool pool(2);
    using pooled = executor<kernels, boost::asio::thread_pool::executor_type>;
    auto owned = std::make_unique<manual>();
    manual& device = *owned;
    std::atomic<int> x = 0, ended = 0, succeeded = 0;
    constexpr int count = 64;
    std::vector<std::stop_source> stops(count);
    {
      pooled gpu(pool, std::move(owned));
      std::atomic<bool> finished = false;
      std::thread completer([&] {
        while (!finished.load(std::memory_order_acquire)) {  // acquire: pairs with the release below
          if (!device.complete({})) std::this_thread::yield();
        }
      });
      std::thread canceller([&] {
        std::mt19937 random(seed);
        for (int i = 0; i < count; ++i) {
          stops[random() % count].request_stop();
          std::this_thread::yield();
        }
      });
      auto work = [](pooled& g, std::atomic<int>& v) -> task<error_code> {
        co_return co_await g.try_submit(add_one{&v});
      };
      for (int i = 0; i < count; ++i) {
        detail::start(work(gpu, x), stops[static_cast<std::size_t>(i)].get_token(),
                      [&](std::exception_ptr e, std::optional<error_code> ec) {
                        if (!e && !ec->failed()) succeeded.fetch_add(1, std::memory_order_relaxed);
                        ended.fetch_add(1, std::memory_order_release);  // release: pairs with the wait below
                      });
      }
      canceller.join();
      if (seed % 2 == 0) gpu.stop();
      while (ended.load(std::memory_order_acquire) < count) std::this_thread::yield();
      finished.store(true, std::memory_order_release);  // release: pairs with the completer's acquire
      completer.join();
    }
    pool.join();
    CHECK(ended == count);
    CHECK(succeeded == x);
  }
}

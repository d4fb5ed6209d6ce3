// Deadlines and time limits of requests: how tasks inherit them, and what becomes of submissions under them.
#include "../support/add_one.hpp"
#include "../support/manual_backend.hpp"

#include <cohort/executor.hpp>
#include <cohort/schedule/observer.hpp>
#include <cohort/spawn.hpp>
#include <cohort/task.hpp>
#include <cohort/when_all.hpp>
#include <cohort/when_any.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

using namespace cohort;
using testing::add_one;
using namespace std::chrono_literals;

namespace {

using kernels = op_set<add_one>;
using manual = testing::manual_backend<kernels>;
using gpu_type = executor<kernels>;

/// Keeps the deadlines of what arrives.
struct deadlines final : schedule_observer {
  std::vector<time_point> all;
  void arrived(const submission& one, time_point) noexcept override { all.push_back(one.deadline); }
};

/// An executor that the test drives, over a backend with room for one packet.
struct driven {
  driven()
      : owned(std::make_unique<manual>(false, 1)),
        device(*owned),
        gpu(io, std::move(owned), {.driven_by = drive::caller, .observer = &seen}) {}

  /// Drives until `list` has so many.
  template <class T>
  void drive_until(const std::vector<T>& list, std::size_t size) {
    const auto end = clock::now() + 10s;
    while (list.size() < size && clock::now() < end) gpu.poll();
  }

  void finish() {
    while (gpu.poll() || device.complete({})) {
    }
    gpu.run_until_idle();
  }

  boost::asio::io_context io;
  deadlines seen;
  std::atomic<int> x = 0;
  std::unique_ptr<manual> owned;
  manual& device;
  gpu_type gpu;
};

task<error_code> add(gpu_type& gpu, std::atomic<int>& x) { co_return co_await gpu.try_submit(add_one{&x}); }

void start(task<error_code> work, std::vector<error_code>& out, std::stop_token stop = {}) {
  detail::start(std::move(work), std::move(stop), [&out](std::exception_ptr, std::optional<error_code> ec) {
    out.push_back(ec.value_or(error_code(errc::device_lost)));
  });
}

task<request_limits> limits() { co_return co_await get_request_limits(); }

template <class T>
T run_alone(task<T> work) {
  std::optional<T> result;
  detail::start(std::move(work), {}, [&](std::exception_ptr, std::optional<T> value) { result = std::move(value); });
  return result.value();
}

constexpr time_point at(std::chrono::nanoseconds since) { return time_point{since}; }

}  // namespace

TEST_CASE("a task without limits has none, and the earlier of its own and its parent's holds for a child") {
  CHECK(run_alone(limits()).deadline == time_point::max());
  CHECK(run_alone(limits()).expires == time_point::max());
  CHECK(run_alone(with_deadline(limits(), at(5s))).deadline == at(5s));
  CHECK(run_alone(with_deadline(with_deadline(limits(), at(5s)), at(7s))).deadline == at(5s));
  auto parent = []() -> task<std::array<request_limits, 3>> {
    const auto inherited = co_await limits();
    const auto shorter = co_await with_timeout(with_deadline(limits(), at(3s)), at(8s));
    const auto longer = co_await with_timeout(with_deadline(limits(), at(30s)), at(80s));
    co_return std::array{inherited, shorter, longer};
  };
  const auto all = run_alone(with_timeout(with_deadline(parent(), at(5s)), at(9s)));
  CHECK(all[0].deadline == at(5s));
  CHECK(all[0].expires == at(9s));
  CHECK(all[1].deadline == at(3s));
  CHECK(all[1].expires == at(8s));
  CHECK(all[2].deadline == at(5s));
  CHECK(all[2].expires == at(9s));
}

TEST_CASE("when_all and when_any pass limits on, and a stop token of one's own does not end the inheritance") {
  auto together = []() -> task<std::pair<request_limits, request_limits>> {
    const auto all = co_await when_all(limits(), with_deadline(limits(), at(2s)));
    co_return std::pair{std::get<0>(all), std::get<1>(all)};
  };
  const auto both = run_alone(with_deadline(together(), at(5s)));
  CHECK(both.first.deadline == at(5s));
  CHECK(both.second.deadline == at(2s));
  auto several = []() -> task<request_limits> {
    std::vector<task<request_limits>> some;
    some.push_back(with_stop_token(limits(), std::stop_token()));
    const auto first = co_await when_any(std::move(some));
    co_return first.value;
  };
  CHECK(run_alone(with_timeout(several(), at(6s))).expires == at(6s));
}

TEST_CASE("a limit that is counted from now lies ahead by as much, also when that is for ever") {
  const auto before = clock::now();
  const auto got = run_alone(with_timeout(with_deadline(limits(), 1h), 2h));
  const auto after = clock::now();
  CHECK(got.deadline >= before + 1h);
  CHECK(got.deadline <= after + 1h);
  CHECK(got.expires >= before + 2h);
  CHECK(got.expires <= after + 2h);
  CHECK(run_alone(with_timeout(limits(), std::chrono::nanoseconds::max())).expires == time_point::max());
}

TEST_CASE("every submission of a request carries its deadline, or the tenant's target where that is earlier") {
  driven f;
  auto request = [](gpu_type& gpu, std::atomic<int>& x, bool children) -> task<error_code> {
    if (children) co_return co_await add(gpu, x);
    co_return co_await gpu.try_submit(add_one{&x});
  };
  std::vector<error_code> results;
  const auto wanted = clock::now() + 3ms;  // the default tenant's target is 10 ms
  start(with_deadline(request(f.gpu, f.x, false), wanted), results);
  start(with_deadline(request(f.gpu, f.x, true), wanted), results);
  start(with_deadline(request(f.gpu, f.x, true), wanted + 1h), results);
  const auto handle = f.gpu.default_tenant().within({.deadline = wanted});
  auto through_handle = [](gpu_type::tenant_type who, std::atomic<int>& x) -> task<error_code> {
    co_await who.submit(add_one{&x});
    co_return co_await who.try_submit(add_one{&x});
  };
  start(with_deadline(through_handle(handle, f.x), wanted - 1ms), results);
  handle.async_submit(add_one{&f.x}, [&](error_code ec) { results.push_back(ec); });
  handle.within({.deadline = wanted - 2ms}).async_submit(add_one{&f.x}, [&](error_code ec) { results.push_back(ec); });
  const auto before = clock::now();
  f.gpu.poll();
  f.device.complete({});
  f.gpu.poll();
  f.finish();
  f.io.run();
  CHECK(results.size() == 6);
  REQUIRE(f.seen.all.size() == 7);
  CHECK(f.seen.all[0] == wanted);
  CHECK(f.seen.all[1] == wanted);
  CHECK(f.seen.all[2] >= before + 10ms);
  CHECK(f.seen.all[2] <= clock::now() + 10ms);
  CHECK(f.seen.all[3] == wanted - 1ms);
  CHECK(f.seen.all[4] == wanted);
  CHECK(f.seen.all[5] == wanted - 2ms);
  CHECK(f.seen.all[6] == wanted - 1ms);  // the second of the coroutine
}

TEST_CASE("a time limit ends what is on the device and what waits for it, while the device stays busy") {
  driven f;
  std::vector<error_code> limited, unlimited;
  start(with_timeout(add(f.gpu, f.x), 5ms), limited);
  f.gpu.poll();
  REQUIRE(f.device.committed() == 1);
  const auto begin = clock::now();
  start(with_timeout(add(f.gpu, f.x), begin + 5ms), limited);
  start(add(f.gpu, f.x), unlimited);
  f.drive_until(limited, 2);
  CHECK(clock::now() >= begin + 4ms);
  REQUIRE(limited.size() == 2);
  CHECK(limited[0] == errc::timed_out);
  CHECK(limited[1] == errc::timed_out);
  CHECK(limited[0] == boost::system::errc::timed_out);
  CHECK(limited[0] != errc::cancelled);
  CHECK(unlimited.empty());
  CHECK(f.device.committed() == 1);
  f.finish();
  REQUIRE(unlimited.size() == 1);
  CHECK_FALSE(unlimited[0].failed());
  CHECK(f.x == 2);  // the first ran for nobody, the second never
  CHECK(f.gpu.statistics_of(0).timed_out == 2);
}

TEST_CASE("whoever is in time is told the device's result, and after the limit nothing is accepted any more") {
  driven f;
  std::vector<error_code> results;
  auto request = [](gpu_type& gpu, std::atomic<int>& x) -> task<error_code> {
    co_await gpu.submit(add_one{&x});
    const auto mine = co_await get_request_limits();
    std::this_thread::sleep_until(mine.expires);
    co_return co_await gpu.try_submit(add_one{&x});
  };
  start(with_timeout(request(f.gpu, f.x), 20ms), results);
  f.gpu.poll();
  f.device.complete({});
  f.drive_until(results, 1);
  REQUIRE(results.size() == 1);
  CHECK(results[0] == errc::timed_out);
  CHECK(f.x == 1);
  CHECK(f.device.committed() == 0);
}

TEST_CASE("run sleeps until a time limit while the device says nothing") {
  driven f;
  const error_code ec = f.gpu.run(with_timeout(add(f.gpu, f.x), 3ms));
  CHECK(ec == errc::timed_out);
  f.finish();
}

TEST_CASE("an Asio operation under a time limit ends by it, or by its cancellation slot, whichever comes first") {
  driven f;
  std::optional<error_code> by_time, by_signal;
  boost::asio::cancellation_signal signal;
  const auto limited = f.gpu.default_tenant().within({.expires = clock::now() + 3ms});
  limited.async_submit(add_one{&f.x}, [&](error_code ec) { by_time = ec; });
  limited.async_submit(add_one{&f.x},
                       boost::asio::bind_cancellation_slot(signal.slot(), [&](error_code ec) { by_signal = ec; }));
  f.gpu.poll();
  signal.emit(boost::asio::cancellation_type::terminal);
  while (!by_time || !by_signal) {
    f.gpu.poll();
    f.io.poll();
    f.io.restart();
  }
  CHECK(*by_time == errc::timed_out);
  CHECK(*by_signal == errc::cancelled);
  f.finish();
  CHECK(f.x == 2);
}

TEST_CASE("time limits, completions and cancellations on different threads end every submission once") {
  std::atomic<int> timed_out = 0, cancelled = 0, succeeded = 0;
  for (unsigned seed = 0; seed < 30; ++seed) {
    constexpr std::size_t count = 64;
    struct request {
      std::atomic<int> ran = 0;
      std::atomic<int> ended = 0;
      std::stop_source stop{};
    };
    std::vector<request> all(count);
    boost::asio::thread_pool pool(2);
    using pooled = executor<kernels, boost::asio::thread_pool::executor_type>;
    auto owned = std::make_unique<manual>();
    manual& device = *owned;
    std::atomic<bool> finished = false, wrong = false;
    pooled gpu(pool, std::move(owned));
    std::thread completer([&] {
      // acquire: pairs with the release below
      while (!finished.load(std::memory_order_acquire) || device.committed() > 0) {
        if (!device.complete({})) std::this_thread::sleep_for(20us);
      }
    });
    auto work = [](pooled& g, request& mine) -> task<error_code> {
      const error_code first = co_await g.try_submit(add_one{&mine.ran});
      const error_code second = co_await g.try_submit(add_one{&mine.ran});
      co_return first.failed() ? first : second;
    };
    for (std::size_t i = 0; i < count; ++i) {
      request& one = all[i];
      auto limited = with_timeout(work(gpu, one), std::chrono::microseconds(10 * (i % 32)));
      detail::start(std::move(limited), one.stop.get_token(), [&](std::exception_ptr, std::optional<error_code> ec) {
        // relaxed, all: the wait below acquires through `ended`
        if (!ec->failed() && one.ran != 2) wrong.store(true, std::memory_order_relaxed);
        if (!ec->failed()) succeeded.fetch_add(1, std::memory_order_relaxed);
        if (*ec == errc::timed_out) timed_out.fetch_add(1, std::memory_order_relaxed);
        if (*ec == errc::cancelled) cancelled.fetch_add(1, std::memory_order_relaxed);
        one.ended.fetch_add(1, std::memory_order_release);  // release: pairs with the wait below
      });
      if (i % 3 == 0) all[i / 2].stop.request_stop();
    }
    for (request& one : all) {
      while (one.ended.load(std::memory_order_acquire) == 0) std::this_thread::yield();  // acquire: see above
    }
    gpu.drain();
    finished.store(true, std::memory_order_release);  // release: pairs with the completer's acquire
    completer.join();
    CHECK_FALSE(wrong);
    for (const request& one : all) CHECK(one.ended == 1);
    pool.join();
  }
  CHECK(timed_out > 0);
  CHECK(cancelled > 0);
}

// The executor against a backend that completes when the test says so.
#include "../support/add_one.hpp"
#include "../support/manual_backend.hpp"

#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/spawn.hpp>
#include <cohort/task.hpp>
#include <cohort/when_all.hpp>

#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <future>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace cohort;
using testing::add_one;

namespace {

struct nothing {
  static constexpr const char* name = "nothing";
  std::uint32_t tiles() const { return 0; }
  template <class Context>
  void run(Context&, std::uint32_t) const {}
};

/// Adds to what a buffer holds.
struct add_to {
  static constexpr const char* name = "add_to";
  int* target = nullptr;

  std::uint32_t tiles() const { return 1; }
  template <class Context>
  void run(Context&, std::uint32_t) const {
    std::atomic_ref(*target).fetch_add(1, std::memory_order_relaxed);  // relaxed: completion orders it
  }
};

/// As `add_one`, and those with one target fuse.
struct alignas(16) add_together {
  static constexpr const char* name = "add_together";
  std::atomic<int>* target = nullptr;
  std::uint64_t unused = 0;

  coalescing_key key() const { return {{reinterpret_cast<std::uintptr_t>(target), 0, 0, 1}}; }
  std::uint32_t rows() const { return 1; }
  static std::uint32_t plan(std::span<add_together>, const machine_shape&) { return 1; }
  template <class Context>
  static void run(Context&, const add_together* members, std::uint32_t count, std::uint32_t) {
    members->target->fetch_add(static_cast<int>(count), std::memory_order_relaxed);  // relaxed: completion orders it
  }
};

using kernels = op_set<add_one, nothing, add_to, add_together>;
using manual = testing::manual_backend<kernels>;
using gpu_type = executor<kernels>;

executor_options by_caller() { return {.driven_by = drive::caller}; }

struct caller_driven {
  explicit caller_driven(bool automatic = false, executor_options options = by_caller(),
                         const machine_shape& shape = {})
      : owned(std::make_unique<manual>(automatic, 4, shape)), device(*owned), gpu(io, std::move(owned), options) {}

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

/// Adds to a buffer of its own, which dies with it. Throws when the buffer was someone else's, too.
template <class Executor>
task<error_code> add_to_own_buffer(Executor& gpu) {
  auto cell = make_pinned_buffer<int>(gpu.device(), 1);
  cell[0] = 41;
  const error_code ec = co_await gpu.try_submit(add_to{cell.data()});
  if (!ec.failed() && cell[0] != 42) throw std::logic_error("another op wrote to this buffer");
  co_return ec;
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

struct rounds_seen {
  std::uint64_t packets = 0;
  int early = 0;  ///< rounds whose last submission found that others had left
};

/// 64 tasks that submit together, four rounds of it.
template <class Op>
rounds_seen submit_in_rounds(const Op& op) {
  constexpr int together = 64;
  caller_driven f(true, by_caller(), {.workers = 16, .host = false});
  rounds_seen seen;
  int submitted = 0;
  const auto member = [](caller_driven& on, Op mine, int& count, int& early) -> task<> {
    for (int round = 0; round < 4; ++round) {
      if (++count % together == 0 && on.device.committed() > 0) ++early;
      co_await on.gpu.submit(mine);
    }
  };
  std::vector<task<>> all;
  for (int i = 0; i < together; ++i) all.push_back(member(f, op, submitted, seen.early));
  f.gpu.run(when_all(std::move(all)));
  seen.packets = f.gpu.statistics().packets;
  return seen;
}

TEST_CASE("a burst that fills the device several times leaves in parts, once bursts are known to be so long") {
  std::atomic<int> x = 0;
  const rounds_seen seen = submit_in_rounds(add_one{&x});
  CHECK(x == 4 * 64);
  CHECK(seen.early > 0);
  CHECK(seen.packets > 4);
}

TEST_CASE("a burst whose submissions fuse leaves whole") {
  std::atomic<int> x = 0;
  const rounds_seen seen = submit_in_rounds(add_together{&x});
  CHECK(x == 4 * 64);
  CHECK(seen.early == 0);
  CHECK(seen.packets == 4);
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

TEST_CASE("those who are told find the room in a full executor that they have left, and no more") {
  auto options = by_caller();
  options.capacity = 3;
  caller_driven f(true, options);
  std::atomic<int> x = 0;
  std::vector<error_code> results;
  const auto often = [](gpu_type& gpu, std::atomic<int>& target) -> task<error_code> {
    for (int i = 0; i < 20; ++i) {
      if (const error_code ec = co_await gpu.try_submit(add_one{&target}); ec.failed()) co_return ec;
    }
    co_return error_code();
  };
  // Each is told together with two others, and submits twice where it had one place.
  const auto twice = [](gpu_type& gpu, std::atomic<int>& target, std::vector<error_code>& out) -> task<error_code> {
    const error_code ec = co_await gpu.try_submit(add_one{&target});
    for (int i = 0; i < 2; ++i) start(add(gpu, target), out);
    co_return ec;
  };
  for (int i = 0; i < 3; ++i) start(often(f.gpu, x), results);
  f.gpu.run_until_idle();
  REQUIRE(results.size() == 3);
  for (const error_code& ec : results) CHECK_FALSE(ec.failed());
  CHECK(x == 60);

  results.clear();
  std::vector<error_code> more;
  for (int i = 0; i < 3; ++i) start(twice(f.gpu, x, more), results);
  f.gpu.run_until_idle();
  CHECK(x == 66);
  REQUIRE(more.size() == 6);
  CHECK(std::count(more.begin(), more.end(), error_code(errc::queue_full)) == 3);
  // Nothing of it stays counted.
  results.clear();
  for (int i = 0; i < 4; ++i) start(add(f.gpu, x), results);
  f.gpu.run_until_idle();
  CHECK(std::count(results.begin(), results.end(), error_code(errc::queue_full)) == 1);
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

TEST_CASE("a stop request ends a pending op and a committed one at once, and the device runs the committed one") {
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
  CHECK(pending.size() == 3);
  for (const auto& ec : pending) CHECK(ec == errc::cancelled);
  REQUIRE(committed.size() == 1);
  CHECK(committed[0] == errc::cancelled);
  start(add(f.gpu, x), early, stop.get_token());
  REQUIRE(early.size() == 1);
  CHECK(early[0] == errc::cancelled);
  CHECK(f.device.committed() == on_device);
  while (f.device.complete({})) {
  }
  f.gpu.run_until_idle();
  CHECK(committed.size() + pending.size() == 4);
  CHECK(x == static_cast<int>(on_device));
}

TEST_CASE("cancelling one op of a packet leaves its company to complete with the device's result") {
  caller_driven f;
  std::atomic<int> x = 0;
  std::vector<error_code> cancelled, others;
  std::stop_source stop;
  for (int i = 0; i < 2; ++i) start(add(f.gpu, x), others);
  start(add(f.gpu, x), cancelled, stop.get_token());
  for (int i = 0; i < 2; ++i) start(add(f.gpu, x), others);
  f.gpu.poll();
  REQUIRE(f.device.committed() == 1);
  stop.request_stop();
  f.gpu.poll();
  REQUIRE(cancelled.size() == 1);
  CHECK(cancelled[0] == errc::cancelled);
  CHECK(others.empty());
  f.device.complete({});
  f.gpu.run_until_idle();
  REQUIRE(others.size() == 4);
  for (const auto& ec : others) CHECK_FALSE(ec.failed());
  CHECK(cancelled.size() == 1);
  CHECK(x == 5);
}

TEST_CASE("a buffer that dies with a cancelled coroutine is reserved until the device is done with it, no longer") {
  caller_driven f;
  std::vector<error_code> cancelled, other;
  std::stop_source stop;
  start(add_to_own_buffer(f.gpu), cancelled, stop.get_token());
  f.gpu.poll();
  CHECK(f.device.memory().blocks_in_use == 1);
  stop.request_stop();
  f.gpu.poll();
  REQUIRE(cancelled.size() == 1);               // the coroutine and its buffer are gone
  CHECK(f.device.memory().blocks_in_use == 1);  // but not the memory
  start(add_to_own_buffer(f.gpu), other);
  f.gpu.poll();
  CHECK(f.device.memory().blocks_in_use == 2);
  {
    auto short_lived = make_pinned_buffer<int>(f.gpu.device(), 1);
  }
  CHECK(f.device.memory().blocks_in_use == 3);  // nobody knows who used it
  f.device.complete({});
  f.gpu.poll();
  CHECK(f.device.memory().blocks_in_use == 1);
  {
    auto short_lived = make_pinned_buffer<int>(f.gpu.device(), 1);
  }
  CHECK(f.device.memory().blocks_in_use == 1);  // at once, where nothing was cancelled
  while (f.device.complete({})) {
  }
  f.gpu.run_until_idle();
  REQUIRE(other.size() == 1);
  CHECK_FALSE(other[0].failed());
  CHECK(f.device.memory().blocks_in_use == 0);
}

TEST_CASE("an executor is idle only when the device is done with what was cancelled, and it counts to its capacity") {
  auto options = by_caller();
  options.capacity = 2;
  caller_driven f(false, options);
  std::atomic<int> x = 0;
  std::vector<error_code> cancelled, others;
  std::stop_source stop;
  for (int i = 0; i < 2; ++i) start(add(f.gpu, x), cancelled, stop.get_token());
  f.gpu.poll();
  stop.request_stop();
  f.gpu.poll();
  CHECK(cancelled.size() == 2);
  start(add(f.gpu, x), others);
  REQUIRE(others.size() == 1);
  CHECK(others[0] == errc::queue_full);
  std::thread device([&f] {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    f.device.complete({});
  });
  f.gpu.drain();
  CHECK(x == 2);
  device.join();
  start(add(f.gpu, x), others);
  f.gpu.poll();
  f.device.complete({});
  f.gpu.drain();
  CHECK(others.size() == 2);
  CHECK_FALSE(others[1].failed());
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
  // Each op has a counter of its own: success means that it ran, and what was cancelled ran once at most.
  constexpr int schedules = 10'000;
  int cancelled_and_ran = 0;
  for (int schedule = 0; schedule < schedules; ++schedule) {
    std::mt19937 random(static_cast<unsigned>(schedule));
    auto options = by_caller();
    options.capacity = 1 + random() % 12;
    struct request {
      std::atomic<int> ran = 0;
      int ended = 0;
      error_code result{};
      std::stop_source stop{};
    };
    std::deque<request> all;  // outlives the executor: what is cancelled still runs
    caller_driven f(false, options);
    std::vector<error_code> with_buffers;
    std::size_t buffers = 0, ended = 0;
    for (int step = 0; step < 24; ++step) {
      switch (random() % 8) {
        case 0:
        case 1: {
          request& one = all.emplace_back();
          detail::start(add(f.gpu, one.ran), one.stop.get_token(),
                        [&one, &ended](std::exception_ptr, std::optional<error_code> ec) {
                          ++one.ended;
                          ++ended;
                          one.result = ec.value_or(errc::bad_size);
                        });
          break;
        }
        case 2:
          ++buffers;
          start(add_to_own_buffer(f.gpu), with_buffers,
                all.empty() ? std::stop_token() : all[random() % all.size()].stop.get_token());
          break;
        case 3:
          if (!all.empty()) all[random() % all.size()].stop.request_stop();
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
    while (ended < all.size() || with_buffers.size() < buffers || f.device.committed() > 0) {
      f.gpu.poll();
      f.device.complete({});
    }
    f.gpu.run_until_idle();
    bool right = f.device.memory().blocks_in_use == 0;
    for (const request& one : all) {
      const int ran = one.ran;
      right = right && one.ended == 1 && (one.result.failed() || ran == 1) && ran <= 1;
      if (one.result != errc::cancelled) right = right && ran == (one.result.failed() ? 0 : 1);
      if (one.result == errc::cancelled) cancelled_and_ran += ran;
    }
    for (const error_code& ec : with_buffers) right = right && ec != errc::bad_size;
    CHECK(right);
    if (!right) {
      MESSAGE("schedule ", schedule);
      break;
    }
  }
  CHECK(cancelled_and_ran > 1000);
}

TEST_CASE("cancellation, completion and submission on different threads end every submission once") {
  std::atomic<int> cancelled = 0;
  for (unsigned seed = 0; seed < 40; ++seed) {
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
    std::thread completer([&] {
      // acquire: pairs with the release below
      while (!finished.load(std::memory_order_acquire) || device.committed() > 0) {
        if (!device.complete({})) std::this_thread::yield();
      }
    });
    {
      pooled gpu(pool, std::move(owned));
      std::thread canceller([&] {
        std::mt19937 random(seed);
        for (std::size_t i = 0; i < count; ++i) {
          all[random() % count].stop.request_stop();
          std::this_thread::yield();
        }
      });
      auto work = [](pooled& g, request& mine) -> task<error_code> {
        const error_code first = co_await g.try_submit(add_one{&mine.ran});
        const error_code second = co_await add_to_own_buffer(g);
        co_return first.failed() ? first : second;
      };
      for (request& one : all) {
        detail::start(work(gpu, one), one.stop.get_token(), [&](std::exception_ptr e, std::optional<error_code> ec) {
          // relaxed, both: the wait below acquires through `ended`
          if (e != nullptr || (!ec->failed() && one.ran != 1)) wrong.store(true, std::memory_order_relaxed);
          if (!e && *ec == errc::cancelled) cancelled.fetch_add(1, std::memory_order_relaxed);
          one.ended.fetch_add(1, std::memory_order_release);  // release: pairs with the wait below
        });
      }
      canceller.join();
      if (seed % 2 == 0) gpu.stop();
      for (request& one : all) {
        while (one.ended.load(std::memory_order_acquire) == 0) std::this_thread::yield();  // acquire: see above
      }
      gpu.drain();
      CHECK(device.memory().blocks_in_use == 0);
      finished.store(true, std::memory_order_release);  // release: pairs with the completer's acquire
      completer.join();
    }
    pool.join();
    CHECK_FALSE(wrong);
    for (const request& one : all) {
      CHECK(one.ended == 1);
      CHECK(one.ran <= 1);
    }
  }
  CHECK(cancelled > 0);
}

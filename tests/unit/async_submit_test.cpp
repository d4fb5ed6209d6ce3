// async_submit with the completion tokens that Asio's users bring.
#include "../support/add_one.hpp"
#include "../support/manual_backend.hpp"

#include <cohort/executor.hpp>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

namespace asio = boost::asio;
using namespace cohort;
using testing::add_one;

namespace {

using kernels = op_set<add_one>;
using manual = testing::manual_backend<kernels>;

/// An executor with a poller thread whose packets complete by themselves.
struct served {
  asio::io_context io;
  std::atomic<int> x = 0;
  executor<kernels> gpu{io, std::make_unique<manual>(true)};
};

/// An executor that the test drives.
struct driven {
  explicit driven(const executor_options& options = {.driven_by = drive::caller})
      : owned(std::make_unique<manual>()), device(*owned), gpu(io, std::move(owned), options) {}
  asio::io_context io;
  std::atomic<int> x = 0;
  std::unique_ptr<manual> owned;
  manual& device;
  executor<kernels> gpu;
};

/// Counts what goes through it.
template <class T>
struct counting_allocator {
  using value_type = T;
  int* live;
  int* total;
  counting_allocator(int* l, int* t) : live(l), total(t) {}
  template <class U>
  counting_allocator(const counting_allocator<U>& other) : live(other.live), total(other.total) {}
  T* allocate(std::size_t n) {
    ++*live;
    ++*total;
    return std::allocator<T>().allocate(n);
  }
  void deallocate(T* p, std::size_t n) {
    --*live;
    std::allocator<T>().deallocate(p, n);
  }
  friend bool operator==(const counting_allocator&, const counting_allocator&) = default;
};

}  // namespace

TEST_CASE("a callback is called once, on the io_context, never inside the initiation") {
  served f;
  int calls = 0;
  const auto caller = std::this_thread::get_id();
  f.gpu.async_submit(add_one{&f.x}, [&](error_code ec) {
    CHECK_FALSE(ec.failed());
    CHECK(std::this_thread::get_id() == caller);
    ++calls;
  });
  CHECK(calls == 0);
  f.io.run();  // the operation keeps the io_context alive until it has ended
  CHECK(calls == 1);
  CHECK(f.x == 1);
}

TEST_CASE("a bad op is told to the handler through the io_context, not inside the initiation") {
  served f;
  std::optional<error_code> result;
  f.gpu.async_submit(add_one{}, [&](error_code ec) { result = ec; });
  CHECK_FALSE(result.has_value());
  f.io.run();
  REQUIRE(result.has_value());
  CHECK(*result == errc::null_pointer);
}

TEST_CASE("use_future and deferred") {
  served f;
  auto work = asio::make_work_guard(f.io);
  std::thread runner([&] { f.io.run(); });
  f.gpu.async_submit(add_one{&f.x}, asio::use_future).get();
  CHECK_THROWS_AS(f.gpu.async_submit(add_one{}, asio::use_future).get(), system_error);
  auto later = f.gpu.async_submit(add_one{&f.x}, asio::deferred);
  const int before = f.x;
  std::move(later)(asio::use_future).get();
  CHECK(f.x == before + 1);
  work.reset();
  runner.join();
  CHECK(f.x == 2);
}

TEST_CASE("asio::awaitable coroutines submit beside a timer in one io_context") {
  served f;
  bool ended = false;
  auto work = [&]() -> asio::awaitable<void> {
    asio::steady_timer timer(f.io, std::chrono::milliseconds(1));
    for (int i = 0; i < 10; ++i) co_await f.gpu.async_submit(add_one{&f.x}, asio::use_awaitable);
    co_await timer.async_wait(asio::use_awaitable);
    const auto [ec] = co_await f.gpu.async_submit(add_one{}, asio::as_tuple(asio::use_awaitable));
    CHECK(ec == errc::null_pointer);
    ended = true;
  };
  asio::co_spawn(f.io, work(), asio::detached);
  f.io.run();
  CHECK(ended);
  CHECK(f.x == 10);
}

TEST_CASE("parallel operations of one awaitable are both told") {
  using namespace asio::experimental::awaitable_operators;
  served f;
  auto work = [&]() -> asio::awaitable<void> {
    co_await (f.gpu.async_submit(add_one{&f.x}, asio::use_awaitable) &&
              f.gpu.async_submit(add_one{&f.x}, asio::use_awaitable));
  };
  auto end = asio::co_spawn(f.io, work(), asio::use_future);
  f.io.run();
  end.get();
  CHECK(f.x == 2);
}

TEST_CASE("the handler runs on its associated executor") {
  served f;
  asio::thread_pool pool(1);
  std::promise<std::thread::id> where;
  auto future = where.get_future();
  f.gpu.async_submit(add_one{&f.x},
                     asio::bind_executor(pool, [&](error_code) { where.set_value(std::this_thread::get_id()); }));
  f.io.run();
  CHECK(future.get() != std::this_thread::get_id());
  pool.join();
}

TEST_CASE("the operation's memory comes from the associated allocator and is free when the handler runs") {
  driven f;
  int live = 0, total = 0, live_in_handler = -1;
  f.gpu.async_submit(add_one{&f.x}, asio::bind_allocator(counting_allocator<void*>(&live, &total),
                                                         [&](error_code) { live_in_handler = live; }));
  CHECK(live == 1);
  f.gpu.poll();
  f.device.complete({});
  f.gpu.run_until_idle();
  f.io.run();
  CHECK(live_in_handler == 0);
  CHECK(live == 0);
  CHECK(total >= 1);
}

TEST_CASE("a cancellation signal ends a pending operation and a committed one at once") {
  driven f;
  asio::cancellation_signal committed, pending;
  std::optional<error_code> first, last;
  f.gpu.async_submit(add_one{&f.x}, asio::bind_cancellation_slot(committed.slot(), [&](error_code ec) { first = ec; }));
  f.gpu.poll();
  for (int i = 0; i < 3; ++i) {  // fills what the backend takes
    f.gpu.async_submit(add_one{&f.x}, asio::detached);
    f.gpu.poll();
  }
  f.gpu.async_submit(add_one{&f.x}, asio::bind_cancellation_slot(pending.slot(), [&](error_code ec) { last = ec; }));
  f.gpu.poll();
  const auto on_device = f.device.committed();
  pending.emit(asio::cancellation_type::terminal);
  committed.emit(asio::cancellation_type::terminal);
  f.gpu.poll();
  f.io.run_for(std::chrono::milliseconds(1));
  REQUIRE(last.has_value());
  CHECK(*last == errc::cancelled);
  CHECK(*last == boost::system::errc::operation_canceled);
  REQUIRE(first.has_value());
  CHECK(*first == errc::cancelled);
  CHECK(f.device.committed() == on_device);
  while (f.device.complete({})) {
  }
  f.gpu.run_until_idle();
  f.io.restart();
  f.io.run();
  CHECK(*first == errc::cancelled);
  CHECK(f.x == static_cast<int>(on_device));
}

TEST_CASE("a timer that wins over an operation, pending or committed, cancels it, and nothing is lost") {
  using namespace asio::experimental::awaitable_operators;
  for (const int before : {0, 4}) {  // 4 fill what the backend takes
    driven f;
    for (int i = 0; i < before; ++i) {
      f.gpu.async_submit(add_one{&f.x}, asio::detached);
      f.gpu.poll();
    }
    std::size_t winner = 9;
    auto work = [&]() -> asio::awaitable<void> {
      asio::steady_timer timer(f.io, std::chrono::milliseconds(1));
      const auto result =
          co_await (f.gpu.async_submit(add_one{&f.x}, asio::use_awaitable) || timer.async_wait(asio::use_awaitable));
      winner = result.index();
    };
    asio::co_spawn(f.io, work(), asio::detached);
    for (int i = 0; i < 2000 && winner == 9; ++i) {
      f.io.poll();
      f.gpu.poll();
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    CHECK(winner == 1);
    CHECK(f.device.committed() == (before == 0 ? 1 : 4));
    while (f.device.complete({})) {
    }
    f.gpu.run_until_idle();
    f.io.restart();
    f.io.run();
  }
}

TEST_CASE("a handler that throws out of poll leaves no place taken in the executor") {
  driven f({.driven_by = drive::caller, .capacity = 2});
  std::atomic<int> x = 0;
  std::vector<error_code> told;
  for (int round = 0; round < 4; ++round) {
    f.gpu.async_submit(add_one{&x}, [](error_code) { throw std::runtime_error("handler"); });
    f.gpu.async_submit(add_one{&x}, [&told](error_code ec) { told.push_back(ec); });
    f.gpu.poll();
    f.device.complete({});
    asio::post(f.io, [&f] { f.gpu.poll(); });  // on the handlers' executor, so that they run inside poll
    CHECK_THROWS_AS(f.io.run(), std::runtime_error);
    f.gpu.run_until_idle();
    f.io.run();
    f.io.restart();
  }
  CHECK(x == 8);
  REQUIRE(told.size() == 4);
  for (const error_code& ec : told) CHECK_FALSE(ec.failed());
}

TEST_CASE("a destroyed io_context frees operations whose handlers never ran") {
  auto io = std::make_unique<asio::io_context>();
  auto owned = std::make_unique<manual>(true);
  std::atomic<int> x = 0;
  auto token = std::make_shared<int>(1);
  {
    executor<kernels> gpu(*io, std::move(owned));
    gpu.async_submit(add_one{&x}, [token](error_code) {});
  }
  CHECK(x <= 1);
  io.reset();
  CHECK(token.use_count() == 1);
}

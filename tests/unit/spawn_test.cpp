// A task as an asynchronous operation of Asio: completion tokens, associated executor, allocator, cancellation slot.
#include "coroutine_fixtures.hpp"

#include <cohort/spawn.hpp>
#include <cohort/task.hpp>
#include <cohort/when_any.hpp>

#include <doctest/doctest.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>
// Under nvcc co_spawn cannot be instantiated in a .cu file.
#if !defined(__CUDACC__)
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#endif

#include <cstddef>
#include <exception>
#include <future>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <variant>

namespace asio = boost::asio;
using cohort::task;
using fixtures::counted;
using fixtures::event;

namespace {

task<int> answer() { co_return 42; }
task<> nothing() { co_return; }

task<int> fails() {
  throw std::runtime_error("from the task");
  co_return 0;
}

task<> fails_without_value() {
  throw std::runtime_error("from the task");
  co_return;
}

task<> set(bool& flag) {
  flag = true;
  co_return;
}

task<std::thread::id> here() { co_return std::this_thread::get_id(); }

task<std::thread::id> over(fixtures::worker& w) {
  co_await w.schedule();
  co_return std::this_thread::get_id();
}

task<std::string> told_to_stop() {
  co_await fixtures::until_stopped_inline();
  co_return "stopped";
}

std::string message(const std::exception_ptr& error) {
  if (!error) return "no error";
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  }
}

// --- callbacks ---

TEST_CASE("the task starts on the executor and not inside spawn; the callback gets its value, once") {
  asio::io_context context;
  bool ran = false;
  int calls = 0;
  int value = 0;
  cohort::spawn(context, set(ran), [&](std::exception_ptr error) {
    CHECK(!error);
    ++calls;
  });
  cohort::spawn(context.get_executor(), answer(), [&](std::exception_ptr error, int v) {
    CHECK(!error);
    value = v;
    ++calls;
  });
  CHECK(!ran);
  CHECK(calls == 0);
  context.run();
  CHECK(ran);
  CHECK(value == 42);
  CHECK(calls == 2);
}

TEST_CASE("a callback gets the exception that left the task, and a default value") {
  asio::io_context context;
  int calls = 0;
  cohort::spawn(context, fails(), [&](std::exception_ptr error, int v) {
    CHECK(message(error) == "from the task");
    CHECK(v == 0);
    ++calls;
  });
  cohort::spawn(context, fails_without_value(), [&](std::exception_ptr error) {
    CHECK(message(error) == "from the task");
    ++calls;
  });
  context.run();
  CHECK(calls == 2);
}

task<std::unique_ptr<int>> boxed() { co_return std::make_unique<int>(3); }

TEST_CASE("a callback and a result that can only be moved are moved") {
  asio::io_context context;
  int sum = 0;
  cohort::spawn(context, boxed(), [&sum, own = std::make_unique<int>(4)](std::exception_ptr, std::unique_ptr<int> p) {
    sum = *own + *p;
  });
  context.run();
  CHECK(sum == 7);
}

TEST_CASE("a callback that throws throws out of run()") {
  asio::io_context context;
  cohort::spawn(context, nothing(), [](std::exception_ptr) { throw std::logic_error("from the handler"); });
  CHECK_THROWS_WITH_AS(context.run(), "from the handler", std::logic_error);
}

task<> holds(counted, event& e) { co_await e; }

TEST_CASE("the task's frame is destroyed before the callback is called") {
  asio::io_context context;
  event e;
  int alive = 0;
  int seen = -1;
  cohort::spawn(context, holds(counted(alive), e), [&](std::exception_ptr) { seen = alive; });
  context.poll();
  REQUIRE(e.awaited());
  CHECK(alive == 1);
  e.set();
  context.run();
  CHECK(seen == 0);
}

TEST_CASE("a context that is destroyed first destroys the task and the handler unrun") {
  int alive = 0;
  event e;
  bool called = false;
  {
    asio::io_context context;
    cohort::spawn(context, holds(counted(alive), e),
                  [&called, own = counted(alive)](std::exception_ptr) { called = true; });
    CHECK(alive == 2);
  }
  CHECK(alive == 0);
  CHECK(!called);
  CHECK(!e.awaited());
}

// --- other tokens ---

TEST_CASE("use_future: value, nothing, exception") {
  asio::io_context context;
  std::future<int> value = cohort::spawn(context, answer(), asio::use_future);
  std::future<void> none = cohort::spawn(context, nothing(), asio::use_future);
  std::future<int> error = cohort::spawn(context, fails(), asio::use_future);
  context.run();
  CHECK(value.get() == 42);
  none.get();
  CHECK_THROWS_WITH_AS(error.get(), "from the task", std::runtime_error);
}

// Boost 1.81 cannot compile as_tuple(use_future) for any operation, its own timers included: use_future has no initiate
// member there. as_tuple(deferred) followed by use_future is the same thing.
TEST_CASE("as_tuple, through deferred, into a future: the exception is a value") {
  asio::io_context context;
  std::future<std::tuple<std::exception_ptr, int>> good =
      cohort::spawn(context, answer(), asio::as_tuple(asio::deferred))(asio::use_future);
  std::future<std::tuple<std::exception_ptr, int>> bad =
      cohort::spawn(context, fails(), asio::as_tuple(asio::deferred))(asio::use_future);
  context.run();
  auto [no_error, value] = good.get();
  CHECK(!no_error);
  CHECK(value == 42);
  CHECK(message(std::get<0>(bad.get())) == "from the task");
}

TEST_CASE("detached: the task runs, and an exception that leaves it is dropped") {
  asio::io_context context;
  bool ran = false;
  cohort::spawn(context, set(ran), asio::detached);
  cohort::spawn(context, fails(), asio::detached);
  CHECK_NOTHROW(context.run());
  CHECK(ran);
}

TEST_CASE("deferred: nothing happens before the operation is initiated") {
  asio::io_context context;
  bool ran = false;
  bool called = false;
  auto operation = cohort::spawn(context, set(ran), asio::deferred);
  context.run();
  CHECK(!ran);
  std::move(operation)([&](std::exception_ptr) { called = true; });
  context.restart();
  context.run();
  CHECK(ran);
  CHECK(called);
}

TEST_CASE("deferred: an operation that is never initiated destroys its task") {
  int alive = 0;
  event e;
  asio::io_context context;
  {
    auto operation = cohort::spawn(context, holds(counted(alive), e), asio::deferred);
    CHECK(alive == 1);
  }
  CHECK(alive == 0);
}

// --- executors ---

TEST_CASE("the handler runs on its associated executor, the task on that of spawn") {
  asio::thread_pool pool(1);
  asio::io_context context;
  std::thread::id task_thread;
  std::thread::id handler_thread;
  cohort::spawn(pool, here(), asio::bind_executor(context.get_executor(), [&](std::exception_ptr, std::thread::id id) {
                  task_thread = id;
                  handler_thread = std::this_thread::get_id();
                }));
  context.run();  // stays until the handler has run: its work guard is of this context
  CHECK(handler_thread == std::this_thread::get_id());
  CHECK(task_thread != handler_thread);
  CHECK(task_thread != std::thread::id());
  pool.join();
}

TEST_CASE("run() does not return while a task is suspended elsewhere, and the handler comes home") {
  asio::io_context context;
  fixtures::worker w;
  std::thread::id task_thread;
  std::thread::id handler_thread;
  cohort::spawn(context, over(w), [&](std::exception_ptr, std::thread::id id) {
    task_thread = id;
    handler_thread = std::this_thread::get_id();
  });
  context.run();
  CHECK(task_thread == w.id());
  CHECK(handler_thread == std::this_thread::get_id());
}

TEST_CASE("tasks on a strand of a pool do not overlap while they stay on it") {
  asio::thread_pool pool(2);
  auto strand = asio::make_strand(pool.get_executor());
  int count = 0;  // unguarded: the strand is what keeps ThreadSanitizer content
  for (int i = 0; i != 100; ++i) {
    cohort::spawn(strand, nothing(), [&](std::exception_ptr) { ++count; });
  }
  pool.join();
  CHECK(count == 100);
}

// --- allocator ---

template <class T>
class counting_allocator {
public:
  using value_type = T;

  counting_allocator(int& live, int& total) noexcept : live_(&live), total_(&total) {}

  template <class U>
  counting_allocator(const counting_allocator<U>& other) noexcept : live_(other.live()), total_(other.total()) {}

  T* allocate(std::size_t n) {
    ++*live_;
    ++*total_;
    return std::allocator<T>().allocate(n);
  }

  void deallocate(T* p, std::size_t n) {
    --*live_;
    std::allocator<T>().deallocate(p, n);
  }

  int* live() const noexcept { return live_; }
  int* total() const noexcept { return total_; }

  template <class U>
  bool operator==(const counting_allocator<U>& other) const noexcept {
    return live_ == other.live();
  }

private:
  int* live_;
  int* total_;
};

TEST_CASE("the associated allocator serves the operation, and all is returned before the handler is called") {
  int live = 0;
  int total = 0;
  int live_in_handler = -1;
  asio::io_context context;
  cohort::spawn(context, answer(),
                asio::bind_allocator(counting_allocator<void>(live, total),
                                     [&](std::exception_ptr, int) { live_in_handler = live; }));
  CHECK(live == 1);
  context.run();
  CHECK(live == 0);
  CHECK(total == 3);  // the posted start, the root, the posted handler
  CHECK(live_in_handler == 0);
}

// --- cancellation ---

TEST_CASE("a cancellation signal of each type stops the task, and the handler is not called inside emit()") {
  for (auto type :
       {asio::cancellation_type::terminal, asio::cancellation_type::partial, asio::cancellation_type::total}) {
    asio::io_context context;
    asio::cancellation_signal signal;
    std::string value;
    cohort::spawn(context, told_to_stop(),
                  asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr, std::string v) { value = v; }));
    context.poll();
    CHECK(value.empty());
    signal.emit(type);
    CHECK(value.empty());
    context.run();
    CHECK(value == "stopped");
    CHECK(!signal.slot().has_handler());
  }
}

TEST_CASE("a signal before the task has started is not lost, and one after its end does nothing") {
  asio::io_context context;
  asio::cancellation_signal signal;
  int calls = 0;
  cohort::spawn(context, told_to_stop(),
                asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr, std::string) { ++calls; }));
  signal.emit(asio::cancellation_type::terminal);
  context.run();
  CHECK(calls == 1);
  signal.emit(asio::cancellation_type::terminal);
  context.restart();
  context.run();
  CHECK(calls == 1);
}

task<std::string> either() {
  auto first = co_await cohort::when_any(told_to_stop(), told_to_stop());
  co_return first.index == 0 ? std::get<0>(first.value) : std::get<1>(first.value);
}

TEST_CASE("a cancellation signal reaches through when_any") {
  asio::io_context context;
  asio::cancellation_signal signal;
  std::string value;
  cohort::spawn(context, either(),
                asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr, std::string v) { value = v; }));
  context.poll();
  CHECK(value.empty());
  signal.emit(asio::cancellation_type::total);
  context.run();
  CHECK(value == "stopped");
}

task<bool> stop_possible() {
  const std::stop_token token = co_await cohort::get_stop_token();
  co_return token.stop_possible();
}

TEST_CASE("without a slot the task's stop token never stops") {
  asio::io_context context;
  auto possible = cohort::spawn(context, stop_possible(), asio::use_future);
  context.run();
  CHECK(!possible.get());
}

// --- asio::awaitable ---

#if !defined(__CUDACC__)

asio::awaitable<int> awaits_tasks(asio::io_context& context) {
  const int value = co_await cohort::spawn(context, answer(), asio::use_awaitable);
  co_await cohort::spawn(context, nothing(), asio::use_awaitable);
  auto [error, none] = co_await cohort::spawn(context, fails(), asio::as_tuple(asio::use_awaitable));
  const bool caught = message(error) == "from the task" && none == 0;
  try {
    co_await cohort::spawn(context, fails_without_value(), asio::use_awaitable);
  } catch (const std::runtime_error&) {
    co_return caught ? value : -1;
  }
  co_return -2;
}

TEST_CASE("use_awaitable: an asio coroutine awaits tasks, their values and their exceptions") {
  asio::io_context context;
  auto value = asio::co_spawn(context, awaits_tasks(context), asio::use_future);
  context.run();
  CHECK(value.get() == 42);
}

asio::awaitable<std::string> awaits_one_to_stop(asio::io_context& context) {
  co_return co_await cohort::spawn(context, told_to_stop(), asio::use_awaitable);
}

TEST_CASE("use_awaitable: cancelling the asio coroutine stops the task") {
  asio::io_context context;
  asio::cancellation_signal signal;
  std::string value;
  asio::co_spawn(context, awaits_one_to_stop(context),
                 asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr, std::string v) { value = v; }));
  context.poll();
  CHECK(value.empty());
  signal.emit(asio::cancellation_type::terminal);
  context.run();
  CHECK(value == "stopped");
}

#endif

}  // namespace

// What when_all and when_any promise.
#include "coroutine_fixtures.hpp"

#include <cohort/task.hpp>
#include <cohort/when_all.hpp>
#include <cohort/when_any.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <concepts>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

using cohort::task;
using cohort::void_value;
using cohort::when_all;
using cohort::when_any;
using fixtures::counted;
using fixtures::event;
using fixtures::outcome;
using fixtures::run_here;
using fixtures::run_queue;
using fixtures::worker;

namespace {

task<int> number(int n) { co_return n; }
task<> nothing() { co_return; }
task<std::unique_ptr<int>> boxed(int n) { co_return std::make_unique<int>(n); }

task<int> fails(std::string what) {
  throw std::runtime_error(what);
  co_return 0;
}

task<int> number_after(event& e, int n) {
  co_await e;
  co_return n;
}

task<int> fails_after(event& e, std::string what) {
  co_await e;
  throw std::runtime_error(what);
}

task<> set(bool& flag) {
  flag = true;
  co_return;
}

/// Ends with 1 when it is asked to stop.
task<int> one_when_stopped(run_queue& queue) {
  co_await fixtures::until_stopped(queue);
  co_return 1;
}

task<int> one_when_stopped_inline() {
  co_await fixtures::until_stopped_inline();
  co_return 1;
}

task<int> cancelled_when_stopped(run_queue& queue) {
  co_await fixtures::until_stopped(queue);
  throw std::runtime_error("cancelled");
}

static_assert(std::same_as<decltype(when_all(number(1), nothing())), task<std::tuple<int, void_value>>>);
static_assert(std::same_as<decltype(when_all(std::vector<task<int>>())), task<std::vector<int>>>);
static_assert(std::same_as<decltype(when_all(std::vector<task<>>())), task<>>);
static_assert(std::same_as<decltype(when_any(number(1), nothing())),
                           task<cohort::when_any_result<std::variant<int, void_value>>>>);
static_assert(std::same_as<decltype(when_any(std::vector<task<>>())), task<cohort::when_any_result<void_value>>>);

// --- when_all ---

TEST_CASE("when_all returns the results in the order of its arguments") {
  auto [a, nought, b] = run_here(when_all(number(1), nothing(), boxed(2)));
  CHECK(a == 1);
  CHECK(nought == void_value());
  CHECK(*b == 2);
}

TEST_CASE("when_all of a vector returns the results by index, whatever the order in which the tasks end") {
  std::array<event, 3> events;
  std::vector<task<int>> tasks;
  for (int i = 0; i != 3; ++i) tasks.push_back(number_after(events[i], i));
  outcome<std::vector<int>> result;
  fixtures::start(when_all(std::move(tasks)), result);
  for (const event& e : events) REQUIRE(e.awaited());  // all are started before any has ended
  events[2].set();
  events[0].set();
  CHECK(!result.done());
  events[1].set();
  CHECK(result.get() == std::vector<int>{0, 1, 2});
}

TEST_CASE("when_all passes on results that can only be moved, from a vector too") {
  std::vector<task<std::unique_ptr<int>>> tasks;
  tasks.push_back(boxed(5));
  tasks.push_back(boxed(6));
  auto values = run_here(when_all(std::move(tasks)));
  REQUIRE(values.size() == 2);
  CHECK(*values[0] == 5);
  CHECK(*values[1] == 6);
}

TEST_CASE("when_all of tasks without a result runs all of them") {
  bool a = false;
  bool b = false;
  std::vector<task<>> tasks;
  tasks.push_back(set(a));
  tasks.push_back(set(b));
  run_here(when_all(std::move(tasks)));
  CHECK(a);
  CHECK(b);
}

TEST_CASE("when_all of nothing is complete at once") {
  CHECK(run_here(when_all()) == std::tuple<>());
  CHECK(run_here(when_all(std::vector<task<int>>())).empty());
  CHECK(run_here(when_all(std::vector<task<>>())) == void_value());
}

TEST_CASE("when_all rethrows the exception of the task that failed first in time, not of the lowest index") {
  event e;
  outcome<std::tuple<int, int, int>> result;
  fixtures::start(when_all(number(1), fails_after(e, "second"), fails("third")), result);
  CHECK(!result.done());
  e.set();
  REQUIRE(result.done());
  CHECK_THROWS_WITH_AS(result.get(), "third", std::runtime_error);
}

TEST_CASE("when_all starts and finishes every task although an earlier one has failed") {
  bool later_ran = false;
  CHECK_THROWS_WITH_AS(run_here(when_all(fails("first"), set(later_ran))), "first", std::runtime_error);
  CHECK(later_ran);
}

task<bool> sees_stop() {
  const std::stop_token token = co_await cohort::get_stop_token();  // named: nvcc drops parentheses around co_await
  co_return token.stop_requested();
}
task<> keep_in(task<bool> t, bool& to) { to = co_await std::move(t); }

TEST_CASE("in when_all a task that fails asks its siblings to stop, those not yet started too, but not its parent") {
  bool sibling_saw = false;
  std::stop_source source;
  run_queue queue;
  outcome<std::tuple<int, int, void_value>> result;
  fixtures::start(when_all(one_when_stopped(queue), fails("cause"), keep_in(sees_stop(), sibling_saw)), result,
                  source.get_token());
  CHECK(!result.done());
  CHECK(sibling_saw);
  queue.run();
  REQUIRE(result.done());
  CHECK_THROWS_WITH_AS(result.get(), "cause", std::runtime_error);
  CHECK(!source.stop_requested());
}

task<std::tuple<int, int>> two_levels(run_queue& queue) {
  co_return co_await when_all(one_when_stopped(queue), one_when_stopped(queue));
}

TEST_CASE("a stop of the parent reaches the grandchildren through when_all") {
  run_queue queue;
  std::stop_source source;
  outcome<std::tuple<std::tuple<int, int>, int>> result;
  fixtures::start(when_all(two_levels(queue), one_when_stopped(queue)), result, source.get_token());
  queue.run();
  CHECK(!result.done());
  source.request_stop();
  queue.run();
  REQUIRE(result.done());
  CHECK(result.get() == std::tuple(std::tuple(1, 1), 1));
}

TEST_CASE("the group may end inside the very request_stop that ends its tasks") {
  outcome<std::tuple<int, std::tuple<int, int>>> result;
  {
    std::stop_source source;
    fixtures::start(when_all(one_when_stopped_inline(), when_all(one_when_stopped_inline(), one_when_stopped_inline())),
                    result, source.get_token());
    CHECK(!result.done());
    source.request_stop();
  }
  REQUIRE(result.done());
  CHECK(result.get() == std::tuple(1, std::tuple(1, 1)));
}

task<> holds(counted, event& e, int& alive) {
  counted local(alive);
  co_await e;
}

fixtures::scoped_root own_group(event& a, event& b, int& alive) {
  co_await when_all(holds(counted(alive), a, alive), holds(counted(alive), b, alive));
}

TEST_CASE("destroying a coroutine suspended in when_all destroys all children, ended and suspended") {
  event a;
  event b;
  int alive = 0;
  {
    auto root = own_group(a, b, alive);
    CHECK(alive == 4);
    a.set();
    CHECK(alive == 3);  // the parameter of the ended child lives until the group ends
  }
  CHECK(alive == 0);
}

// --- when_any ---

TEST_CASE("when_any returns the index and the value of the first to finish") {
  event b;
  run_queue queue;
  outcome<cohort::when_any_result<std::variant<int, int, int>>> result;
  fixtures::start(when_any(one_when_stopped(queue), number_after(b, 20), one_when_stopped(queue)), result);
  CHECK(!result.done());
  b.set();
  queue.run();
  REQUIRE(result.done());
  auto first = result.get();
  CHECK(first.index == 1);
  CHECK(first.value.index() == 1);
  CHECK(std::get<1>(first.value) == 20);
}

TEST_CASE("when_any waits for the losers to end, and drops their results and exceptions") {
  event slow;
  event fast;
  run_queue queue;
  outcome<cohort::when_any_result<std::variant<int, int, int>>> result;
  fixtures::start(when_any(fails_after(slow, "late"), cancelled_when_stopped(queue), number_after(fast, 3)), result);
  fast.set();
  queue.run();
  CHECK(!result.done());  // the first task does not heed its stop token
  slow.set();
  REQUIRE(result.done());
  CHECK(result.get().index == 2);
}

TEST_CASE("in when_any an exception wins too") {
  event e;
  run_queue queue;
  outcome<cohort::when_any_result<std::variant<int, int>>> result;
  fixtures::start(when_any(one_when_stopped(queue), fails_after(e, "first")), result);
  e.set();
  queue.run();
  REQUIRE(result.done());
  CHECK_THROWS_WITH_AS(result.get(), "first", std::runtime_error);
}

TEST_CASE("when_any does not start a task once another has finished, and destroys it") {
  int alive = 0;
  event never;
  auto first = run_here(when_any(number(9), holds(counted(alive), never, alive)));
  CHECK(first.index == 0);
  CHECK(std::get<0>(first.value) == 9);
  CHECK(!never.awaited());
  CHECK(alive == 0);
}

TEST_CASE("when_any of a vector returns index and value") {
  std::array<event, 3> events;
  std::vector<task<int>> tasks;
  for (int i = 0; i != 3; ++i) tasks.push_back(number_after(events[i], 10 + i));
  outcome<cohort::when_any_result<int>> result;
  fixtures::start(when_any(std::move(tasks)), result);
  events[1].set();
  events[2].set();
  CHECK(!result.done());
  events[0].set();
  REQUIRE(result.done());
  auto first = result.get();
  CHECK(first.index == 1);
  CHECK(first.value == 11);
}

TEST_CASE("when_any of a vector of tasks without a result says which") {
  bool a = false;
  bool b = false;
  std::vector<task<>> tasks;
  tasks.push_back(set(a));
  tasks.push_back(set(b));
  CHECK(run_here(when_any(std::move(tasks))).index == 0);
  CHECK(a);
  CHECK(!b);
}

TEST_CASE("when_any of an empty vector is an invalid argument") {
  CHECK_THROWS_AS(run_here(when_any(std::vector<task<int>>())), std::invalid_argument);
}

TEST_CASE("a stop of the parent reaches through when_any, and the first to answer wins") {
  run_queue queue;
  std::stop_source source;
  outcome<cohort::when_any_result<std::variant<std::tuple<int, int>, int>>> result;
  fixtures::start(when_any(two_levels(queue), one_when_stopped(queue)), result, source.get_token());
  queue.run();
  CHECK(!result.done());
  source.request_stop();
  queue.run();
  CHECK(result.done());
  CHECK(!result.error());
}

task<int> two_levels_any(event& e, run_queue& queue) {
  auto first = co_await when_any(number_after(e, 1), one_when_stopped(queue));
  co_return static_cast<int>(first.index);
}

TEST_CASE("the winner's stop reaches losers two tasks down, through a group of their own") {
  event inner;
  event outer;
  run_queue queue;
  std::stop_source source;
  outcome<cohort::when_any_result<std::variant<std::tuple<int, int>, int>>> result;
  fixtures::start(when_any(two_levels(queue), number_after(outer, 5)), result, source.get_token());
  outer.set();
  queue.run();
  REQUIRE(result.done());
  CHECK(result.get().index == 1);
  CHECK(!source.stop_requested());

  outcome<int> alone;
  fixtures::start(two_levels_any(inner, queue), alone);
  inner.set();
  queue.run();
  REQUIRE(alone.done());
  CHECK(alone.get() == 0);
}

TEST_CASE("when_any may end inside the request_stop of its parent") {
  outcome<cohort::when_any_result<std::variant<int, int>>> result;
  std::stop_source source;
  fixtures::start(when_any(one_when_stopped_inline(), one_when_stopped_inline()), result, source.get_token());
  source.request_stop();
  CHECK(result.done());
  CHECK(!result.error());
}

fixtures::scoped_root own_any(event& a, event& b, int& alive) {
  co_await when_any(holds(counted(alive), a, alive), holds(counted(alive), b, alive));
}

TEST_CASE("destroying a coroutine suspended in when_any destroys all children") {
  event a;
  event b;
  int alive = 0;
  {
    auto root = own_any(a, b, alive);
  }
  CHECK(a.awaited());
  CHECK(b.awaited());
  CHECK(alive == 0);
}

// --- threads ---

task<int> on(worker& w, int n) {
  co_await w.schedule();
  co_return n;
}

task<int> fails_on(worker& w) {
  co_await w.schedule();
  throw std::runtime_error("on a worker");
}

task<int> stopped_on(worker& w, std::atomic<int>& ended) {
  co_await w.schedule();
  co_await fixtures::until_stopped(w);
  ended.fetch_add(1, std::memory_order_relaxed);  // relaxed: a count, read after the group's end
  co_return -1;
}

task<long> sum_of_groups(std::array<worker, 3>& workers, int rounds) {
  long sum = 0;
  for (int round = 0; round != rounds; ++round) {
    std::vector<task<int>> tasks;
    for (int i = 0; i != 8; ++i) tasks.push_back(on(workers[(round + i) % 3], i));
    for (int n : co_await when_all(std::move(tasks))) sum += n;
  }
  co_return sum;
}

TEST_CASE("when_all continues once, with all results, over 1000 groups of 8 on three threads") {
  std::array<worker, 3> workers;
  CHECK(fixtures::run(sum_of_groups(workers, 1000)).get() == 28'000);
}

task<int> lost_groups(std::array<worker, 3>& workers, std::atomic<int>& ended, int rounds) {
  int won = 0;
  for (int round = 0; round != rounds; ++round) {
    auto first = co_await when_any(stopped_on(workers[0], ended), on(workers[1], round), stopped_on(workers[2], ended));
    if (first.index == 1 && std::get<1>(first.value) == round) ++won;
  }
  co_return won;
}

TEST_CASE("when_any stops and awaits losers on other threads, over 1000 groups") {
  std::array<worker, 3> workers;
  std::atomic<int> ended{0};
  CHECK(fixtures::run(lost_groups(workers, ended, 1000)).get() == 1000);
  // relaxed: the run has ended
  CHECK(ended.load(std::memory_order_relaxed) <= 2000);
  CHECK(ended.load(std::memory_order_relaxed) >= 1000);  // the first task of a group is always started
}

task<int> failed_groups(std::array<worker, 3>& workers, std::atomic<int>& ended, int rounds) {
  int failed = 0;
  for (int round = 0; round != rounds; ++round) {
    try {
      co_await when_all(stopped_on(workers[0], ended), fails_on(workers[1]), stopped_on(workers[2], ended));
    } catch (const std::runtime_error&) {
      ++failed;
    }
  }
  co_return failed;
}

TEST_CASE("a failure on one thread stops siblings on others and is rethrown after their end, over 1000 groups") {
  std::array<worker, 3> workers;
  std::atomic<int> ended{0};
  CHECK(fixtures::run(failed_groups(workers, ended, 1000)).get() == 1000);
  CHECK(ended.load(std::memory_order_relaxed) == 2000);  // relaxed: the run has ended
}

task<int> waits_twice(std::array<worker, 3>& workers, std::atomic<int>& ended) {
  auto [a, b] = co_await when_all(stopped_on(workers[0], ended), stopped_on(workers[1], ended));
  co_return a + b;
}

TEST_CASE("a stop from a foreign thread ends a group on two threads, 300 times") {
  std::array<worker, 3> workers;
  std::atomic<int> ended{0};
  int sum = 0;
  for (int i = 0; i != 300; ++i) {
    std::stop_source source;
    std::jthread stopper([&source] { source.request_stop(); });
    sum += fixtures::run(waits_twice(workers, ended), source.get_token()).get();
  }
  CHECK(sum == -600);
  CHECK(ended.load(std::memory_order_relaxed) == 600);  // relaxed: each run has ended
}

}  // namespace

// What a task promises to whoever awaits it.
#include "coroutine_fixtures.hpp"

#include <cohort/task.hpp>

#include <doctest/doctest.h>

#include <concepts>
#include <coroutine>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

using cohort::task;
using fixtures::counted;
using fixtures::event;
using fixtures::outcome;
using fixtures::run_here;

namespace {

static_assert(std::is_nothrow_move_constructible_v<task<int>> && std::is_nothrow_move_assignable_v<task<int>>);
static_assert(!std::is_copy_constructible_v<task<int>> && !std::is_copy_assignable_v<task<int>>);
static_assert(std::same_as<task<>, task<void>>);

template <class Awaitable>
concept has_co_await = requires(Awaitable&& a) { static_cast<Awaitable&&>(a).operator co_await(); };
static_assert(has_co_await<task<int>>);
static_assert(!has_co_await<task<int>&>);  // a task runs once

task<int> answer() { co_return 42; }
task<> nothing() { co_return; }
task<std::unique_ptr<int>> boxed(int value) { co_return std::make_unique<int>(value); }

task<int> fails(std::string what) {
  throw std::runtime_error(what);
  co_return 0;
}

task<> mark(bool& ran) {
  ran = true;
  co_return;
}

TEST_CASE("a task does not run before it is awaited") {
  bool ran = false;
  auto t = mark(ran);
  CHECK(!ran);
  run_here(std::move(t));
  CHECK(ran);
}

TEST_CASE("a task that was moved from is not valid, and the other one is") {
  auto t = answer();
  CHECK(t.valid());
  auto u = std::move(t);
  CHECK(!t.valid());
  CHECK(u.valid());
  t = std::move(u);
  CHECK(t.valid());
  CHECK(run_here(std::move(t)) == 42);
  CHECK(!t.valid());
  CHECK(!task<int>().valid());
}

task<int> sum_of_children() {
  int sum = co_await answer();
  co_await nothing();
  auto later = answer();
  sum += co_await std::move(later);
  co_return sum;
}

TEST_CASE("values come out of co_await, from temporaries and from named tasks") {
  CHECK(run_here(sum_of_children()) == 84);
}

task<std::unique_ptr<int>> hand_on() {
  std::unique_ptr<int> p = co_await boxed(7);
  ++*p;
  co_return std::move(p);  // nvcc does not move from a local by itself
}

TEST_CASE("a result that can only be moved passes through two tasks") { CHECK(*run_here(hand_on()) == 8); }

class no_default {
public:
  explicit no_default(int v) : value_(v) {}
  no_default(int a, int b) : value_(a + b) {}
  int value() const { return value_; }

private:
  int value_;
};

task<no_default> two_numbers() { co_return {3, 4}; }

// A name for the result: nvcc drops the parentheses of `(co_await f()).member`.
task<int> unwrap() {
  const no_default sum = co_await two_numbers();
  co_return sum.value();
}

TEST_CASE("a result needs no default constructor and may be returned in braces") { CHECK(run_here(unwrap()) == 7); }

task<std::string> message_of_child() {
  try {
    co_await fails("from the child");
  } catch (const std::runtime_error& e) {
    co_return e.what();
  }
  co_return "nothing was thrown";
}

task<int> pass_failure() { co_return 1 + co_await fails("through"); }

TEST_CASE("an exception leaves the child through co_await, and a parent that does not catch it passes it on") {
  CHECK(run_here(message_of_child()) == "from the child");
  CHECK_THROWS_WITH_AS(run_here(pass_failure()), "through", std::runtime_error);
}

struct throws_when_copied {
  throws_when_copied() = default;
  throws_when_copied(const throws_when_copied&) { throw std::runtime_error("copy"); }
  throws_when_copied(throws_when_copied&&) noexcept = default;
};

task<throws_when_copied> copies_its_result(const throws_when_copied& from) { co_return from; }

TEST_CASE("an exception of the result's own constructor is the task's exception") {
  throws_when_copied from;
  CHECK_THROWS_WITH_AS(run_here(copies_its_result(from)), "copy", std::runtime_error);
}

struct throws_when_moved {
  throws_when_moved() = default;
  throws_when_moved(const throws_when_moved&) = default;
  throws_when_moved(throws_when_moved&&) { throw std::runtime_error("move"); }
};

task<throws_when_moved> copies_from(const throws_when_moved& from) { co_return from; }

TEST_CASE("a root whose result cannot be moved out reports that exception, once") {
  throws_when_moved from;
  outcome<throws_when_moved> result;
  fixtures::start(copies_from(from), result);
  CHECK(result.calls() == 1);
  CHECK_THROWS_WITH_AS(result.get(), "move", std::runtime_error);
}

// --- lifetimes ---

task<> keeps(counted, event& e, int& alive) {
  counted local(alive);
  co_await e;
}

task<> keeps_above(event& e, int& alive) {
  counted local(alive);
  co_await keeps(counted(alive), e, alive);
}

TEST_CASE("destroying a task that was not started destroys its parameters") {
  int alive = 0;
  event e;
  {
    auto t = keeps(counted(alive), e, alive);
    CHECK(alive == 1);
  }
  CHECK(alive == 0);
  CHECK(!e.awaited());
}

fixtures::scoped_root own(task<> t) { co_await std::move(t); }

TEST_CASE("destroying a coroutine that is suspended in a task destroys the locals of every frame below it") {
  int alive = 0;
  event e;
  {
    auto root = own(keeps_above(e, alive));
    REQUIRE(e.awaited());
    CHECK(!root.done());
    CHECK(alive == 3);
  }
  CHECK(alive == 0);
}

TEST_CASE("a child's frame ends with the co_await expression, before the parent goes on") {
  int alive = 0;
  event e;
  auto root = own(keeps_above(e, alive));
  CHECK(alive == 3);
  e.set();
  CHECK(root.done());
  CHECK(alive == 0);
}

task<int> returns_after(event& e, counted) {
  co_await e;
  co_return 5;
}

TEST_CASE("a root calls back once, with its frame destroyed before, and frees itself") {
  int alive = 0;
  int alive_in_callback = -1;
  int calls = 0;
  event e;
  cohort::detail::start(returns_after(e, counted(alive)), {}, [&](std::exception_ptr error, std::optional<int> value) {
    ++calls;
    alive_in_callback = alive;
    CHECK(!error);
    CHECK(value == 5);
  });
  CHECK(calls == 0);
  CHECK(alive == 1);
  e.set();
  CHECK(calls == 1);
  CHECK(alive_in_callback == 0);
}

TEST_CASE("a root that fails calls back with the exception and without a value") {
  outcome<int> result;
  fixtures::start(fails("root"), result);
  CHECK(result.calls() == 1);
  CHECK_THROWS_WITH_AS(result.get(), "root", std::runtime_error);
}

// --- awaiting others ---

class ready_value {
public:
  explicit ready_value(int v) noexcept : value_(v) {}
  bool await_ready() const noexcept { return true; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  int await_resume() const noexcept { return value_; }

private:
  int value_;
};

class converts {
public:
  explicit converts(int v) noexcept : value_(v) {}
  ready_value operator co_await() const noexcept { return ready_value(value_); }

private:
  int value_;
};

class freely {
public:
  explicit freely(int v) noexcept : value_(v) {}
  int value() const noexcept { return value_; }

private:
  int value_;
};

ready_value operator co_await(const freely& f) noexcept { return ready_value(f.value()); }

task<int> awaits_all_kinds() {
  co_await std::suspend_never();
  const int a = co_await ready_value(1);
  const int b = co_await converts(2);
  const int c = co_await freely(4);
  co_return a + b + c;
}

TEST_CASE("a task awaits awaiters, and what has a member or a free operator co_await") {
  CHECK(run_here(awaits_all_kinds()) == 7);
}

// --- stop tokens ---

task<std::stop_token> token_here() { co_return co_await cohort::get_stop_token(); }
task<std::stop_token> token_one_down() { co_return co_await token_here(); }
task<std::stop_token> token_two_down() { co_return co_await token_one_down(); }

TEST_CASE("a stop token is inherited through three levels") {
  std::stop_source source;
  CHECK(run_here(token_two_down(), source.get_token()) == source.get_token());
  CHECK(!run_here(token_two_down()).stop_possible());
}

task<bool> replaced_below(std::stop_token inner, std::stop_token outer) {
  const bool below = co_await cohort::with_stop_token(token_one_down(), inner) == inner;
  const bool beside = co_await token_here() == outer;
  co_return below&& beside;
}

TEST_CASE("with_stop_token replaces the token of a task and of those below it, and of no other") {
  std::stop_source inner;
  std::stop_source outer;
  CHECK(run_here(replaced_below(inner.get_token(), outer.get_token()), outer.get_token()));
  CHECK(run_here(cohort::with_stop_token(token_here(), inner.get_token()), outer.get_token()) == inner.get_token());
}

fixtures::scoped_root token_under_a_stranger(std::optional<std::stop_token>& seen) { seen = co_await token_one_down(); }

TEST_CASE("a task under a coroutine without a stop token has one that never stops") {
  std::optional<std::stop_token> seen;
  auto root = token_under_a_stranger(seen);
  REQUIRE(seen);
  CHECK(!seen->stop_possible());
}

struct knows_a_token {
  std::stop_token stop_token() const { return {}; }
};
static_assert(cohort::detail::has_stop_token<knows_a_token>);
static_assert(!cohort::detail::has_stop_token<fixtures::scoped_root::promise_type>);
static_assert(!cohort::detail::has_stop_token<void>);

task<> waits_below(fixtures::run_queue& queue) { co_await fixtures::until_stopped(queue); }
task<> waits(fixtures::run_queue& queue) { co_await waits_below(queue); }

TEST_CASE("a stop reaches an awaiter two tasks down") {
  fixtures::run_queue queue;
  std::stop_source source;
  outcome<void> result;
  fixtures::start(waits(queue), result, source.get_token());
  queue.run();
  CHECK(!result.done());
  source.request_stop();
  queue.run();
  CHECK(result.done());
}

// --- threads ---

task<std::thread::id> where(fixtures::worker& w) {
  co_await w.schedule();
  co_return std::this_thread::get_id();
}

task<bool> follows(fixtures::worker& w) {
  const auto there = co_await where(w);
  // Either the child came second and this runs on its thread, or the child was done by the time this one suspended.
  co_return there == w.id();
}

TEST_CASE("a child may finish on another thread") {
  fixtures::worker w;
  auto result = fixtures::run(follows(w));
  CHECK(result.calls() == 1);
  CHECK(result.get());
}

task<int> add_on(fixtures::worker& w, int a, int b) {
  co_await w.schedule();
  co_return a + b;
}

task<int> race(fixtures::worker& first, fixtures::worker& second, int rounds) {
  int sum = 0;
  for (int i = 0; i != rounds; ++i) sum = co_await add_on(i % 2 ? first : second, sum, 1);
  co_return sum;
}

TEST_CASE("parent and child meet exactly once, whoever comes first, over 20000 hand-overs between threads") {
  fixtures::worker first;
  fixtures::worker second;
  auto result = fixtures::run(race(first, second, 20'000));
  CHECK(result.get() == 20'000);
}

}  // namespace

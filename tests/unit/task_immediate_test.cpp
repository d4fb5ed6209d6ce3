// Awaiting must not deepen the stack, also where the compiler makes no tail calls: this file is to be compiled at -O0
// as well. A failure is a stack overflow, or a distance between two stack frames that grows with the number of awaits.
#include "coroutine_fixtures.hpp"

#include <cohort/task.hpp>
#include <cohort/when_all.hpp>
#include <cohort/when_any.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <coroutine>
#include <cstdint>
#include <limits>

using cohort::task;

namespace {

constexpr int many = 1'000'000;
constexpr std::uintptr_t limit = 64 * 1024;

/// The lowest and the highest stack address seen. A coroutine's locals live in its heap frame, so the address is that
/// of the frame of an ordinary function which the coroutine calls.
class stack_span {
public:
  [[gnu::noinline]] void touch() noexcept {
    const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    lowest_ = std::min(lowest_, here);
    highest_ = std::max(highest_, here);
  }

  std::uintptr_t bytes() const noexcept { return highest_ - lowest_; }

private:
  std::uintptr_t lowest_ = std::numeric_limits<std::uintptr_t>::max();
  std::uintptr_t highest_ = 0;
};

[[gnu::noinline]] void descend(stack_span& span, int levels) {
  volatile char padding[1024] = {};
  padding[0] = 1;
  if (levels > 0) {
    descend(span, levels - 1);
  } else {
    span.touch();
  }
  padding[1] = padding[0];
}

TEST_CASE("the measure of the stack sees a stack that grows") {
  stack_span span;
  span.touch();
  descend(span, 1024);
  CHECK(span.bytes() > limit);
}

task<int> at_once(stack_span& span, int value) {
  span.touch();
  co_return value;
}

task<long> await_children(stack_span& span) {
  long sum = 0;
  for (int i = 0; i != many; ++i) sum += co_await at_once(span, 1);
  co_return sum;
}

TEST_CASE("1000000 awaits of a task that completes at once do not deepen the stack") {
  stack_span span;
  CHECK(fixtures::run_here(await_children(span)) == many);
  CHECK(span.bytes() < limit);
}

class ready {
public:
  explicit ready(stack_span& span) noexcept : span_(&span) {}
  bool await_ready() const noexcept { return true; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  int await_resume() const noexcept {
    span_->touch();
    return 1;
  }

private:
  stack_span* span_;
};

task<long> await_ready_ones(stack_span& span) {
  long sum = 0;
  for (int i = 0; i != many; ++i) sum += co_await ready(span);
  co_return sum;
}

TEST_CASE("1000000 awaits of what is ready do not deepen the stack") {
  stack_span span;
  CHECK(fixtures::run_here(await_ready_ones(span)) == many);
  CHECK(span.bytes() < limit);
}

task<int> later(fixtures::run_queue& queue, stack_span& span) {
  co_await queue.schedule();
  span.touch();
  co_return 1;
}

task<long> await_later_ones(fixtures::run_queue& queue, stack_span& span) {
  long sum = 0;
  for (int i = 0; i != many; ++i) sum += co_await later(queue, span);
  co_return sum;
}

TEST_CASE("1000000 awaits of a task that completes through a run queue do not deepen the stack") {
  stack_span span;
  fixtures::run_queue queue;
  fixtures::outcome<long> result;
  fixtures::start(await_later_ones(queue, span), result);
  CHECK(!result.done());
  queue.run();
  REQUIRE(result.done());
  CHECK(result.get() == many);
  CHECK(span.bytes() < limit);
}

task<int> sometimes_later(fixtures::run_queue& queue, stack_span& span, int i) {
  if (i % 3 == 0) co_await queue.schedule();
  co_return co_await at_once(span, 1);
}

task<long> await_mixed(fixtures::run_queue& queue, stack_span& span) {
  long sum = 0;
  for (int i = 0; i != many / 4; ++i) sum += co_await sometimes_later(queue, span, i);
  co_return sum;
}

TEST_CASE("children that complete at once and children that do not, mixed over two levels, do not deepen the stack") {
  stack_span span;
  fixtures::run_queue queue;
  fixtures::outcome<long> result;
  fixtures::start(await_mixed(queue, span), result);
  queue.run();
  REQUIRE(result.done());
  CHECK(result.get() == many / 4);
  CHECK(span.bytes() < limit);
}

task<long> await_groups(stack_span& span) {
  long sum = 0;
  for (int i = 0; i != many / 10; ++i) {
    auto [a, b] = co_await cohort::when_all(at_once(span, 1), at_once(span, 2));
    auto first = co_await cohort::when_any(at_once(span, 4), at_once(span, 8));
    sum += a + b + std::get<0>(first.value);
    co_await cohort::get_stop_token();
  }
  co_return sum;
}

TEST_CASE("100000 groups that complete at once do not deepen the stack") {
  stack_span span;
  CHECK(fixtures::run_here(await_groups(span)) == 7L * (many / 10));
  CHECK(span.bytes() < limit);
}

}  // namespace

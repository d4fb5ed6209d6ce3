// The coroutine type of cohort, for .cpp and .cu files alike. Everyone may enter; it knows nothing of executors, of
// ops or of Asio.
#pragma once

#include <cohort/clock.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/promise.hpp>

#include <atomic>
#include <cassert>
#include <chrono>
#include <coroutine>
#include <stop_token>
#include <type_traits>
#include <utility>

namespace cohort::inline COHORT_ABI {

template <class T>
class task;

namespace detail {

/// The key to a task's frame, for those who start tasks.
struct task_access {
  template <class T>
  static auto handle(const task<T>& t) noexcept {
    assert(t.valid() && "a task that was moved from cannot be started");
    return t.frame_;
  }
};

/// Runs a task as the child of the coroutine that awaits it. It owns the child's frame and lives in the parent's, so
/// that destroying a suspended parent destroys the child as well, from the outside in.
template <class T>
class task_awaiter final : public receiver {
public:
  explicit task_awaiter(task<T>&& child) noexcept : child_(std::move(child)) {}

  bool await_ready() const noexcept { return false; }

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> parent) noexcept {
    auto child = task_access::handle(child_);
    parent_ = parent;
    child.promise().attach(*this, stop_token_of(parent), limits_of(parent));
    child.resume();
    // The child may have finished meanwhile, in that call or on another thread. Parent and child meet here; whoever
    // comes second continues the parent. If the child came first the parent continues by returning false, on this
    // stack: a loop over children that finish at once does not deepen it.
    // acq_rel: as the second, acquire the child's result; as the first, release `parent_` and the suspended parent to
    // the thread that will resume it. In that case this awaiter may already be gone when exchange returns.
    return !met_.exchange(true, std::memory_order_acq_rel);
  }

  T await_resume() {
    if constexpr (std::is_void_v<T>) {
      task_access::handle(child_).promise().take();
    } else {
      return task_access::handle(child_).promise().take();
    }
  }

private:
  void child_done(promise_base&) noexcept override {
    // acq_rel: as the first, release the result to the parent, which then continues and destroys this awaiter; as the
    // second, acquire the suspended parent. Only the second may touch anything after the exchange.
    if (met_.exchange(true, std::memory_order_acq_rel)) parent_.resume();
  }

  task<T> child_;
  std::coroutine_handle<> parent_;
  std::atomic<bool> met_{false};
};

/// Reads the awaiting coroutine's stop token without suspending it.
class stop_token_awaiter {
public:
  stop_token_awaiter() = default;

  bool await_ready() const noexcept { return false; }

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> self) noexcept {
    token_ = stop_token_of(self);
    return false;
  }

  std::stop_token await_resume() noexcept { return std::move(token_); }

private:
  std::stop_token token_;
};

/// Reads the limits of the awaiting coroutine's request without suspending it.
class limits_awaiter {
public:
  limits_awaiter() = default;

  bool await_ready() const noexcept { return false; }

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> self) noexcept {
    if (const request_limits* const limits = limits_of(self)) limits_ = *limits;
    return false;
  }

  request_limits await_resume() const noexcept { return limits_; }

private:
  request_limits limits_;
};

template <class T>
class task_promise;

}  // namespace detail

/// A lazily started coroutine with a result of type T (an object type that can be moved, or void).
///
/// Nothing runs until the task is awaited with `co_await std::move(t)`, given to `when_all` or `when_any`, or given to
/// `spawn`. The value or the exception that leaves the task comes out of the `co_await`. The awaiting coroutine
/// continues on the thread that finished the task. A task may await anything awaitable.
///
/// Lifetime: the task object owns the coroutine frame; awaiting moves it into the awaiting frame, where it ends with
/// the `co_await` expression. Destroying a task that was not started, or destroying a coroutine that is suspended in a
/// task, destroys all local variables of the frames below it. Whoever holds the handle of a suspended frame must not
/// resume it afterwards.
///
/// Stop: a task inherits the stop token of the coroutine that awaits it; `co_await get_stop_token()` returns it.
///
/// Limits: a task inherits the deadline and the time limit of the coroutine that awaits it, and may shorten them for
/// itself and what it awaits (`with_deadline`, `with_timeout`); `co_await get_request_limits()` returns them.
///
/// Stack: awaiting a task that finishes at once uses no stack beyond the call, at any optimisation level. The depth of
/// the stack follows the depth of nested tasks, never the number of awaits.
///
/// Cost: one allocation, the frame. Awaiting allocates nothing.
///
/// In .cu files nvcc 13 asks for two habits: write `co_return std::move(local)` for what can only be moved, and give
/// the result of a `co_await` a name before a member of it is used, because `(co_await f()).member` loses its
/// parentheses.
///
/// Thread-safety: distinct tasks are independent; one task object is for one thread at a time.
template <class T = void>
class [[nodiscard]] task {
  static_assert(!std::is_reference_v<T>,
                "cohort::task<T&> is not supported: nvcc loses the lvalue of a co_await that returns a reference. "
                "Return a pointer or std::reference_wrapper.");
  static_assert(std::is_void_v<T> || (std::is_object_v<T> && !std::is_array_v<T> && std::is_move_constructible_v<T>),
                "cohort::task<T>: T must be void or an object type that can be moved");
  static_assert(!std::is_const_v<T> && !std::is_volatile_v<T>, "cohort::task<T>: T must have no const or volatile");

public:
  using promise_type = detail::task_promise<T>;
  using value_type = T;

  /// A task without a coroutine: it may be assigned to and destroyed, nothing else.
  task() noexcept = default;

  task(task&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}

  task& operator=(task&& other) noexcept {
    task(std::move(other)).swap(*this);
    return *this;
  }

  ~task() {
    if (frame_) frame_.destroy();
  }

  void swap(task& other) noexcept { std::swap(frame_, other.frame_); }

  /// False after the task was moved from: awaited, or handed on.
  bool valid() const noexcept { return static_cast<bool>(frame_); }

  /// Precondition: valid().
  detail::task_awaiter<T> operator co_await() && noexcept { return detail::task_awaiter<T>(std::move(*this)); }

  /// A task runs once: write `co_await std::move(t)`.
  void operator co_await() & = delete;

private:
  friend detail::task_promise<T>;
  friend detail::task_access;

  explicit task(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}

  std::coroutine_handle<promise_type> frame_;
};

namespace detail {

template <class T>
class task_promise final : public result_promise<T> {
public:
  task<T> get_return_object() noexcept { return task<T>(std::coroutine_handle<task_promise>::from_promise(*this)); }
};

}  // namespace detail

/// `co_await get_stop_token()` returns the stop token of the current coroutine without suspending it: a
/// `std::stop_token`, empty if the coroutine was given none.
inline detail::stop_token_awaiter get_stop_token() noexcept { return detail::stop_token_awaiter(); }

/// Returns `t` with `token` in place of the stop token it would inherit. The tasks that `t` awaits inherit `token`; a
/// stop of the awaiting coroutine, or by `when_all` or `when_any`, no longer reaches them unless it reaches `token`.
/// Precondition: t.valid(), and t was not started.
template <class T>
task<T> with_stop_token(task<T> t, std::stop_token token) noexcept {
  detail::task_access::handle(t).promise().set_stop_token(std::move(token));
  return t;
}

/// `co_await get_request_limits()` returns the limits of the current coroutine without suspending it.
inline detail::limits_awaiter get_request_limits() noexcept { return detail::limits_awaiter(); }

/// Returns `t` with a deadline for whatever it, and the tasks that it awaits, submit: the time at which the result is
/// wanted. It makes urgent, and where the tenant drops late work it decides what is late. An earlier deadline of the
/// awaiting coroutine, or of the tenant's target, stays. Precondition: t.valid(), and t was not started.
template <class T>
task<T> with_deadline(task<T> t, time_point when) noexcept {
  detail::task_access::handle(t).promise().shorten({.deadline = when});
  return t;
}

/// The same, counted from this call.
template <class T>
task<T> with_deadline(task<T> t, std::chrono::nanoseconds from_now) noexcept {
  return with_deadline(std::move(t), time_ahead(from_now));
}

/// Returns `t` with a time limit for whatever it, and the tasks that it awaits, submit: a submission that has not
/// completed at `when` ends with `errc::timed_out`, at once, also if it is on the device; later ones are refused with
/// it. Nothing else that `t` awaits is interrupted. The limit is a deadline as well. An earlier limit of the awaiting
/// coroutine stays. No timer and no thread is needed: executors keep the time. Precondition: t.valid(), and t was not
/// started.
template <class T>
task<T> with_timeout(task<T> t, time_point when) noexcept {
  detail::task_access::handle(t).promise().shorten({.expires = when});
  return t;
}

/// The same, counted from this call.
template <class T>
task<T> with_timeout(task<T> t, std::chrono::nanoseconds from_now) noexcept {
  return with_timeout(std::move(t), time_ahead(from_now));
}

}  // namespace cohort::inline COHORT_ABI

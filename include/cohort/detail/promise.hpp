// The ground of the task rooms: what every task's promise has, whoever awaits it. Entered by task.hpp, when_all.hpp,
// when_any.hpp and detail/start.hpp; awaiters of other headers enter for `stop_token_of` and `limits_of` alone.
#pragma once

#include <cohort/clock.hpp>
#include <cohort/config.hpp>

#include <cassert>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <stop_token>
#include <type_traits>
#include <utility>
#include <variant>

namespace cohort::inline COHORT_ABI {

/// What stands for the result of a `task<void>` where a value is needed: in the tuple of `when_all`, in `when_any`.
using void_value = std::monostate;

namespace detail {

class promise_base;

/// Who is told that a task has finished: an awaiting coroutine, a group of siblings, or a root.
class receiver {
public:
  receiver(const receiver&) = delete;
  receiver& operator=(const receiver&) = delete;

  /// Called once, on the thread that finished the task, while the task stands at its final suspension point.
  /// The call may end with the task's frame and the receiver itself destroyed: the caller touches neither afterwards.
  virtual void child_done(promise_base& child) noexcept = 0;

protected:
  receiver() = default;
  ~receiver() = default;
};

/// Tells the receiver. An ordinary call, no symmetric transfer: that is a tail call in optimised builds only.
class final_awaiter {
public:
  bool await_ready() const noexcept { return false; }

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> self) const noexcept {
    self.promise().tell_receiver();  // `this` lies in the frame and may be gone now
  }

  void await_resume() const noexcept {}
};

/// The part of a task's promise that does not depend on its result.
class promise_base {
public:
  promise_base() = default;
  promise_base(const promise_base&) = delete;
  promise_base& operator=(const promise_base&) = delete;

  std::suspend_always initial_suspend() const noexcept { return {}; }
  final_awaiter final_suspend() const noexcept { return {}; }
  void unhandled_exception() noexcept { error_ = std::current_exception(); }

  const std::stop_token& stop_token() const noexcept { return stop_token_; }

  /// The limits of the request; null: none. They live in this frame or in one that awaits it.
  const request_limits* limits() const noexcept { return limits_; }

  /// The exception that left the task, or null. To be read after the task has finished.
  const std::exception_ptr& error() const noexcept { return error_; }

  /// Which child of its receiver this is; receivers with one child do not set it.
  std::size_t slot() const noexcept { return slot_; }

  /// Before the first resumption: who is told, and what is inherited: the stop token unless one was set by hand, and
  /// the limits (null: none), which outlive this frame, where they are earlier than those set by hand.
  void attach(receiver& to, std::stop_token inherited, const request_limits* limits, std::size_t slot = 0) noexcept {
    receiver_ = &to;
    slot_ = slot;
    if (!own_stop_token_) stop_token_ = std::move(inherited);
    if (own_limits_ && limits != nullptr) {
      shorten(*limits);
    } else if (!own_limits_) {
      limits_ = limits;
    }
  }

  /// Sets a stop token that no later `attach` replaces.
  void set_stop_token(std::stop_token token) noexcept {
    stop_token_ = std::move(token);
    own_stop_token_ = true;
  }

  /// Limits that come on top of those it has and will inherit.
  void shorten(const request_limits& limits) noexcept {
    own_limits_ = own_limits_ ? earlier(*own_limits_, limits) : limits;
    limits_ = &*own_limits_;
  }

  void tell_receiver() noexcept { receiver_->child_done(*this); }

private:
  receiver* receiver_ = nullptr;
  std::size_t slot_ = 0;
  std::stop_token stop_token_;
  const request_limits* limits_ = nullptr;
  std::optional<request_limits> own_limits_;
  std::exception_ptr error_;
  bool own_stop_token_ = false;
};

/// Adds the result. `take()` rethrows or moves the value out, once, after the task has finished.
template <class T>
class result_promise : public promise_base {
public:
  template <class U = T>
    requires std::constructible_from<T, U>
  void return_value(U&& value) noexcept(std::is_nothrow_constructible_v<T, U>) {
    value_.emplace(std::forward<U>(value));
  }

  T take() {
    if (error()) std::rethrow_exception(error());
    assert(value_.has_value() && "the task flowed off its end without co_return");
    return std::move(*value_);
  }

private:
  std::optional<T> value_;
};

template <>
class result_promise<void> : public promise_base {
public:
  void return_void() const noexcept {}

  void_value take() {
    if (error()) std::rethrow_exception(error());
    return {};
  }
};

/// A promise that knows a stop token, of cohort or of anyone else.
template <class Promise>
concept has_stop_token = requires(const Promise& promise) {
  { promise.stop_token() } -> std::convertible_to<std::stop_token>;
};

/// The stop token of the coroutine behind `handle`; one that never stops if its promise knows none. For awaiters, in
/// `await_suspend`. The coroutine must be suspended and alive.
template <class Promise>
std::stop_token stop_token_of(std::coroutine_handle<Promise> handle) noexcept {
  if constexpr (has_stop_token<Promise>) {
    const Promise& promise = handle.promise();
    return promise.stop_token();
  } else {
    static_cast<void>(handle);
    return std::stop_token();
  }
}

/// A promise that knows the limits of its request.
template <class Promise>
concept has_request_limits = requires(const Promise& promise) {
  { promise.limits() } -> std::same_as<const request_limits*>;
};

/// The limits of the request of the coroutine behind `handle`; null if it has none. As `stop_token_of`.
template <class Promise>
const request_limits* limits_of(std::coroutine_handle<Promise> handle) noexcept {
  if constexpr (has_request_limits<Promise>) {
    const Promise& promise = handle.promise();
    return promise.limits();
  } else {
    static_cast<void>(handle);
    return nullptr;
  }
}

/// T, or `void_value` for void.
template <class T>
using value_of = std::conditional_t<std::is_void_v<T>, void_value, T>;

}  // namespace detail
}  // namespace cohort::inline COHORT_ABI

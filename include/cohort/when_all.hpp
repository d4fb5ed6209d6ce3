// Awaiting several tasks together, all of them. Everyone may enter.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/join.hpp>
#include <cohort/task.hpp>

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI {

namespace detail {

/// A group that is done when all its children are; one that fails asks the others to stop.
class join_all : public join {
protected:
  ~join_all() = default;

  /// To be called when all children are done.
  void rethrow_first_failure() {
    if (first_failure_) std::rethrow_exception(std::move(first_failure_));
  }

private:
  void child_done(promise_base& child) noexcept override {
    if (child.error()) {
      // relaxed: it only picks one writer; what that one writes reaches the parent through leave().
      if (!failed_.exchange(true, std::memory_order_relaxed)) first_failure_ = child.error();
      request_stop();
    }
    leave();
  }

  std::atomic<bool> failed_{false};
  std::exception_ptr first_failure_;
};

template <class... Ts>
class join_all_tuple final : public join_all {
public:
  explicit join_all_tuple(task<Ts>&&... children) noexcept : children_(std::move(children)...) {}

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> parent) noexcept {
    open(parent, sizeof...(Ts));
    start_each(std::index_sequence_for<Ts...>());
    return close();
  }

  std::tuple<value_of<Ts>...> await_resume() { return take_each(std::index_sequence_for<Ts...>()); }

private:
  template <std::size_t... Slots>
  void start_each(std::index_sequence<Slots...>) noexcept {
    (start(std::get<Slots>(children_), Slots), ...);
  }

  template <std::size_t... Slots>
  std::tuple<value_of<Ts>...> take_each(std::index_sequence<Slots...>) {
    rethrow_first_failure();
    return std::tuple<value_of<Ts>...>(task_access::handle(std::get<Slots>(children_)).promise().take()...);
  }

  std::tuple<task<Ts>...> children_;
};

template <class T>
class join_all_vector final : public join_all {
public:
  explicit join_all_vector(std::vector<task<T>>&& children) noexcept : children_(std::move(children)) {}

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> parent) noexcept {
    open(parent, children_.size());
    for (std::size_t slot = 0; slot != children_.size(); ++slot) start(children_[slot], slot);
    return close();
  }

  std::conditional_t<std::is_void_v<T>, void, std::vector<value_of<T>>> await_resume() {
    rethrow_first_failure();
    if constexpr (!std::is_void_v<T>) {
      std::vector<T> values;
      values.reserve(children_.size());
      for (const task<T>& child : children_) values.push_back(task_access::handle(child).promise().take());
      return values;
    }
  }

private:
  std::vector<task<T>> children_;
};

}  // namespace detail

/// Runs all tasks concurrently and returns their results in the order of the arguments, `void_value` for void.
///
/// The children start one after the other on the awaiting thread, each up to its first suspension, and may finish on
/// any threads; the awaiting coroutine continues on the thread of the last one. Nothing outlives the await.
///
/// Errors: every child is started and runs to its end, also if another fails. The first failure asks the siblings to
/// stop. When all have ended, the exception of the task that failed first is rethrown: it is the cause, while a
/// sibling that answers the stop with an exception of its own is a consequence. The results of the others are dropped.
///
/// Stop: the children see a stop token of the group, which stops when the awaiting coroutine's does.
///
/// Cost beyond the children: one coroutine frame and one stop state.
template <class... Ts>
task<std::tuple<detail::value_of<Ts>...>> when_all(task<Ts>... tasks) {
  detail::join_all_tuple<Ts...> group(std::move(tasks)...);
  co_return co_await group;
}

/// The same for any number of tasks of one type: returns a `task<std::vector<T>>`, a `task<void>` for void. An empty
/// vector is complete at once.
template <class T>
task<std::conditional_t<std::is_void_v<T>, void, std::vector<detail::value_of<T>>>> when_all(
    std::vector<task<T>> tasks) {
  detail::join_all_vector<T> group(std::move(tasks));
  co_return co_await group;
}

}  // namespace cohort::inline COHORT_ABI

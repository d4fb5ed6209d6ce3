// Awaiting several tasks together, for the first of them. Everyone may enter.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/join.hpp>
#include <cohort/task.hpp>

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// Which task finished first, and its result.
template <class Value>
struct when_any_result {
  std::size_t index;
  Value value;
};

namespace detail {

/// A group whose first finished child is the winner and asks the others to stop. It is done when all have ended.
class join_any : public join {
protected:
  ~join_any() = default;

  static constexpr std::size_t nobody = static_cast<std::size_t>(-1);

  // relaxed: no data hangs on it. Results travel through the group's count; before that the value is read only to
  // save the start of children that have lost already.
  std::size_t winner() const noexcept { return winner_.load(std::memory_order_relaxed); }

  template <class T>
  bool start_unless_decided(const task<T>& child, std::size_t slot) noexcept {
    if (winner() != nobody) return false;
    start(child, slot);
    return true;
  }

private:
  void child_done(promise_base& child) noexcept override {
    std::size_t expected = nobody;
    // relaxed: atomicity alone makes one winner; leave() publishes the index with the result.
    if (winner_.compare_exchange_strong(expected, child.slot(), std::memory_order_relaxed, std::memory_order_relaxed)) {
      request_stop();
    }
    leave();
  }

  std::atomic<std::size_t> winner_{nobody};
};

template <class... Ts>
class join_any_tuple final : public join_any {
public:
  using result = when_any_result<std::variant<value_of<Ts>...>>;

  explicit join_any_tuple(task<Ts>&&... children) noexcept : children_(std::move(children)...) {}

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> parent) noexcept {
    open(parent, sizeof...(Ts));
    return close(sizeof...(Ts) - start_each(std::index_sequence_for<Ts...>()));
  }

  result await_resume() { return take_winner(std::index_sequence_for<Ts...>()); }

private:
  template <std::size_t... Slots>
  std::size_t start_each(std::index_sequence<Slots...>) noexcept {
    std::size_t started = 0;
    ((started += start_unless_decided(std::get<Slots>(children_), Slots) ? 1 : 0), ...);
    return started;
  }

  template <std::size_t... Slots>
  result take_winner(std::index_sequence<Slots...>) {
    std::optional<std::variant<value_of<Ts>...>> value;
    (take_if_winner<Slots>(value), ...);
    return result{winner(), std::move(*value)};
  }

  template <std::size_t Slot>
  void take_if_winner(std::optional<std::variant<value_of<Ts>...>>& value) {
    if (winner() != Slot) return;
    value.emplace(std::in_place_index<Slot>, task_access::handle(std::get<Slot>(children_)).promise().take());
  }

  std::tuple<task<Ts>...> children_;
};

template <class T>
class join_any_vector final : public join_any {
public:
  using result = when_any_result<value_of<T>>;

  explicit join_any_vector(std::vector<task<T>>&& children) noexcept : children_(std::move(children)) {}

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> parent) noexcept {
    const std::size_t count = children_.size();
    open(parent, count);
    std::size_t started = 0;
    while (started != count && start_unless_decided(children_[started], started)) ++started;
    return close(count - started);
  }

  result await_resume() {
    const std::size_t index = winner();
    return result{index, task_access::handle(children_[index]).promise().take()};
  }

private:
  std::vector<task<T>> children_;
};

}  // namespace detail

/// Runs the tasks concurrently until the first of them has finished, and returns its index and its result (a
/// `std::variant` with one alternative per task, `void_value` for void, to be read by index).
///
/// The first to finish wins, with a value or with an exception, which is rethrown. The others are asked to stop and are
/// waited for: nothing outlives the await, so a task that does not heed its stop token delays it. Their results and
/// exceptions are dropped. The tasks start in order on the awaiting thread; those that have not started when a winner
/// is known are destroyed unstarted. The awaiting coroutine continues on the thread of the last one to end.
///
/// Stop: the children see a stop token of the group, which also stops when the awaiting coroutine's does.
///
/// Cost beyond the children: one coroutine frame and one stop state.
template <class First, class... Rest>
task<when_any_result<std::variant<detail::value_of<First>, detail::value_of<Rest>...>>> when_any(task<First> first,
                                                                                                 task<Rest>... rest) {
  detail::join_any_tuple<First, Rest...> group(std::move(first), std::move(rest)...);
  co_return co_await group;
}

/// The same for any number of tasks of one type: the value is a T, `void_value` for void.
/// Errors: an empty vector throws `std::invalid_argument` when awaited.
template <class T>
task<when_any_result<detail::value_of<T>>> when_any(std::vector<task<T>> tasks) {
  if (tasks.empty()) throw std::invalid_argument("cohort::when_any: there is no task to wait for");
  detail::join_any_vector<T> group(std::move(tasks));
  co_return co_await group;
}

}  // namespace cohort::inline COHORT_ABI

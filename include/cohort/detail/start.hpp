// Where a task begins that no coroutine awaits. Entered by spawn.hpp and by the executor.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/promise.hpp>
#include <cohort/task.hpp>

#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <type_traits>
#include <utility>

namespace cohort::inline COHORT_ABI::detail {

/// A task, what to call at its end, and the memory for both. Frees itself before it calls.
template <class T, class Callback, class Allocator>
class root final : public receiver {
  using allocator = typename std::allocator_traits<Allocator>::template rebind_alloc<root>;
  using traits = std::allocator_traits<allocator>;

public:
  root(task<T>&& t, Callback&& callback, const allocator& alloc)
      : task_(std::move(t)), callback_(std::move(callback)), alloc_(alloc) {}

  static void launch(task<T>&& t, std::stop_token token, Callback&& callback, const Allocator& alloc) {
    allocator a(alloc);
    root* self = traits::allocate(a, 1);
    try {
      traits::construct(a, self, std::move(t), std::move(callback), a);
    } catch (...) {
      traits::deallocate(a, self, 1);
      throw;
    }
    auto frame = task_access::handle(self->task_);
    frame.promise().attach(*self, std::move(token), nullptr);
    frame.resume();  // *self may be gone now
  }

private:
  void child_done(promise_base&) noexcept override {
    auto& promise = task_access::handle(task_).promise();
    std::exception_ptr error = promise.error();
    std::optional<value_of<T>> value;
    if (!error) {
      try {
        value.emplace(promise.take());
      } catch (...) {  // moving the result threw
        error = std::current_exception();
      }
    }
    // The frame stands at its final suspension point, so it may be destroyed from here. Before the callback, so that
    // the task's parameters are gone and an allocator can reuse the memory.
    Callback callback(std::move(callback_));
    allocator a(alloc_);
    traits::destroy(a, this);
    traits::deallocate(a, this, 1);
    if constexpr (std::is_void_v<T>) {
      callback(std::move(error));
    } else {
      callback(std::move(error), std::move(value));
    }
  }

  task<T> task_;
  Callback callback_;
  [[no_unique_address]] allocator alloc_;
};

/// Starts `t` on the calling thread, as a root with the stop token `token`. On the thread that finishes it, possibly
/// this one before `start` returns, calls exactly once `callback(std::exception_ptr, std::optional<T>)`, for void
/// `callback(std::exception_ptr)`: the pointer is null and the value present, or the pointer is set and the value
/// absent. The task's frame is destroyed by then. `callback` must be nothrow movable and must not throw.
///
/// Allocates once, through `alloc`; if that throws, the task is destroyed and the callback is not called.
/// Precondition: t.valid().
template <class T, class Callback, class Allocator = std::allocator<void>>
void start(task<T> t, std::stop_token token, Callback callback, const Allocator& alloc = Allocator()) {
  root<T, Callback, Allocator>::launch(std::move(t), std::move(token), std::move(callback), alloc);
}

}  // namespace cohort::inline COHORT_ABI::detail

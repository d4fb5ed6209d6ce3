// The door between tasks and Asio: a task as an asynchronous operation. Everyone may enter; only concrete Asio
// executors do, so that it can be used in .cu files.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/start.hpp>
#include <cohort/task.hpp>

#include <boost/asio/associated_allocator.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/execution/executor.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/is_executor.hpp>
#include <boost/asio/post.hpp>

#include <exception>
#include <optional>
#include <stop_token>
#include <type_traits>
#include <utility>

namespace cohort::inline COHORT_ABI {

namespace detail {

template <class T>
struct spawn_signature {
  using type = void(std::exception_ptr, T);
};

template <>
struct spawn_signature<void> {
  using type = void(std::exception_ptr);
};

/// What a cancellation signal calls.
class stop_on_cancel {
public:
  explicit stop_on_cancel(const std::stop_source& source) noexcept : source_(source) {}

  void operator()(boost::asio::cancellation_type) const noexcept {
    // The task may go on inside request_stop(), and its code may replace what is in the slot: the copy outlives that.
    const std::stop_source keep = source_;
    keep.request_stop();
  }

private:
  std::stop_source source_;
};

/// The handler with its arguments, on the way to its executor.
template <class T, class Handler>
class spawn_delivery {
public:
  using allocator_type = boost::asio::associated_allocator_t<Handler>;

  spawn_delivery(Handler&& handler, std::exception_ptr&& error, value_of<T>&& value)
      : handler_(std::move(handler)), error_(std::move(error)), value_(std::move(value)) {}

  allocator_type get_allocator() const noexcept { return boost::asio::get_associated_allocator(handler_); }

  void operator()() {
    // Here, and not where the task ended: a slot belongs to the thread, or strand, of the handler.
    auto slot = boost::asio::get_associated_cancellation_slot(handler_);
    if (slot.is_connected()) slot.clear();
    if constexpr (std::is_void_v<T>) {
      std::move(handler_)(std::move(error_));
    } else {
      std::move(handler_)(std::move(error_), std::move(value_));
    }
  }

private:
  Handler handler_;
  std::exception_ptr error_;
  value_of<T> value_;
};

/// What the finished task calls: posts the handler. It is work for both executors until then.
template <class T, class Handler, class Executor>
class spawn_completion {
  using handler_executor = boost::asio::associated_executor_t<Handler, Executor>;

public:
  spawn_completion(Handler&& handler, const Executor& executor)
      : work_(executor),
        handler_work_(boost::asio::get_associated_executor(handler, executor)),
        handler_(std::move(handler)) {}

  boost::asio::associated_allocator_t<Handler> get_allocator() const noexcept {
    return boost::asio::get_associated_allocator(handler_);
  }

  void operator()(std::exception_ptr error) { deliver(std::move(error), void_value()); }

  void operator()(std::exception_ptr error, std::optional<value_of<T>> value) {
    deliver(std::move(error), value ? std::move(*value) : value_of<T>());
  }

private:
  // Posted, not dispatched: a handler that throws must throw out of its executor's run(), not out of a coroutine's
  // final suspension point, and none may be called inside the emit() that cancelled it.
  void deliver(std::exception_ptr&& error, value_of<T>&& value) {
    boost::asio::post(handler_work_.get_executor(),
                      spawn_delivery<T, Handler>(std::move(handler_), std::move(error), std::move(value)));
  }

  boost::asio::executor_work_guard<Executor> work_;
  boost::asio::executor_work_guard<handler_executor> handler_work_;
  Handler handler_;
};

/// What is posted to start the task. An executor that drops it unrun destroys the task and the handler.
template <class T, class Handler, class Executor>
class spawn_start {
public:
  using allocator_type = boost::asio::associated_allocator_t<Handler>;

  spawn_start(task<T>&& t, std::stop_token&& token, Handler&& handler, const Executor& executor)
      : completion_(std::move(handler), executor), token_(std::move(token)), task_(std::move(t)) {}

  allocator_type get_allocator() const noexcept { return completion_.get_allocator(); }

  void operator()() {
    const allocator_type alloc = get_allocator();
    detail::start(std::move(task_), std::move(token_), std::move(completion_), alloc);
  }

private:
  spawn_completion<T, Handler, Executor> completion_;
  std::stop_token token_;
  task<T> task_;
};

/// Starts the operation once the completion token has become a handler.
template <class Executor>
class initiate_spawn {
public:
  using executor_type = Executor;

  explicit initiate_spawn(const Executor& executor) : executor_(executor) {}

  executor_type get_executor() const noexcept { return executor_; }

  template <class Handler, class T>
  void operator()(Handler&& handler, task<T> t) const {
    using handler_type = std::decay_t<Handler>;
    std::stop_token token;
    auto slot = boost::asio::get_associated_cancellation_slot(handler);
    if (slot.is_connected()) {
      const std::stop_source source;
      token = source.get_token();
      slot.assign(stop_on_cancel(source));
    }
    handler_type owned(std::forward<Handler>(handler));
    boost::asio::post(
        executor_, spawn_start<T, handler_type, Executor>(std::move(t), std::move(token), std::move(owned), executor_));
  }

private:
  Executor executor_;
};

}  // namespace detail

/// Starts a task as an asynchronous operation of Asio.
///
/// Handler signature: `void(std::exception_ptr)` for `task<void>`, else `void(std::exception_ptr, T)`, as for
/// `boost::asio::co_spawn`. The pointer is null on success; on failure the value is a default-constructed T, so T must
/// have a default constructor. With `boost::asio::detached` nobody sees the pointer: as with `co_spawn`, an exception
/// that leaves the task is dropped.
///
/// Executor: the task starts as if posted to `executor`, never inside this call. After an await it continues wherever
/// the awaited operation resumes it; `spawn` does not bring it back. The handler is posted to its associated executor
/// (`executor` if it has none), through its associated allocator. Both executors have outstanding work until then.
///
/// Cancellation: a signal of any type emitted to the handler's associated cancellation slot requests a stop on the stop
/// token of the task, which decides what to do about it. Without a connected slot the task's token is empty.
///
/// Lifetime: if the executor's context is destroyed before the task has started, the task and the handler are destroyed
/// unrun. The context must outlive a task that has started.
///
/// Errors: what the allocation or the executor throws, in which case the handler is not called. Running out of memory
/// when the finished task posts the handler terminates the program.
///
/// Thread-safety: may be called from any thread; emit a cancellation signal where the handler runs, as Asio requires.
/// Precondition: t.valid().
template <class Executor, class T, class CompletionToken>
  requires(boost::asio::is_executor<Executor>::value || boost::asio::execution::is_executor<Executor>::value)
auto spawn(const Executor& executor, task<T> t, CompletionToken&& token) {
  static_assert(std::is_default_constructible_v<detail::value_of<T>>,
                "cohort::spawn: the result of the task must have a default constructor, which is what the handler gets "
                "beside an exception; return std::optional");
  return boost::asio::async_initiate<CompletionToken, typename detail::spawn_signature<T>::type>(
      detail::initiate_spawn<Executor>(executor), token, std::move(t));
}

/// The same on the executor of an execution context (`io_context`, `thread_pool`).
template <class ExecutionContext, class T, class CompletionToken>
  requires std::is_convertible_v<ExecutionContext&, boost::asio::execution_context&>
auto spawn(ExecutionContext& context, task<T> t, CompletionToken&& token) {
  return cohort::spawn(context.get_executor(), std::move(t), std::forward<CompletionToken>(token));
}

}  // namespace cohort::inline COHORT_ABI

// Awaitables and drivers for the tests of tasks: a run queue, a worker thread, an event, a wait for a stop, a root
// that can be destroyed while it is suspended.
#pragma once

#include <cohort/detail/promise.hpp>
#include <cohort/detail/start.hpp>
#include <cohort/task.hpp>

#include <condition_variable>
#include <coroutine>
#include <deque>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <utility>

namespace fixtures {

/// Awaiting this hands the coroutine to `Queue::push`.
template <class Queue>
class hop {
public:
  explicit hop(Queue& queue) noexcept : queue_(&queue) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> self) const { queue_->push(self); }
  void await_resume() const noexcept {}

private:
  Queue* queue_;
};

/// A queue of coroutines that the test's own thread runs, one after the other.
class run_queue {
public:
  void push(std::coroutine_handle<> h) { ready_.push_back(h); }
  hop<run_queue> schedule() noexcept { return hop<run_queue>(*this); }

  /// Drops what is queued: for tests that destroy coroutines that wait here.
  void clear() { ready_.clear(); }

  void run() {
    while (!ready_.empty()) {
      auto next = ready_.front();
      ready_.pop_front();
      next.resume();
    }
  }

private:
  std::deque<std::coroutine_handle<>> ready_;
};

/// A thread that resumes what is pushed to it, and runs all of it before it ends.
class worker {
public:
  worker() : thread_([this] { loop(); }) {}

  ~worker() {
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  void push(std::coroutine_handle<> h) {
    std::lock_guard lock(mutex_);
    ready_.push_back(h);
    wake_.notify_one();  // under the lock: the coroutine may end the test and with it this worker
  }

  hop<worker> schedule() noexcept { return hop<worker>(*this); }
  std::thread::id id() const noexcept { return thread_.get_id(); }

private:
  void loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return ending_ || !ready_.empty(); });
      if (ready_.empty()) return;
      auto next = ready_.front();
      ready_.pop_front();
      lock.unlock();
      next.resume();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::coroutine_handle<>> ready_;
  bool ending_ = false;
  std::thread thread_;
};

/// Suspends whoever awaits it until the test resumes it with `set()`. One waiter, one thread.
class event {
public:
  class awaiter {
  public:
    explicit awaiter(event& e) noexcept : event_(&e) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> self) const noexcept { event_->waiter_ = self; }
    void await_resume() const noexcept {}

  private:
    event* event_;
  };

  awaiter operator co_await() noexcept { return awaiter(*this); }
  bool awaited() const noexcept { return static_cast<bool>(waiter_); }
  void set() { std::exchange(waiter_, nullptr).resume(); }

private:
  std::coroutine_handle<> waiter_;
};

/// Suspends until a stop is requested on the coroutine's own token, then continues on `Queue`. To be awaited on the
/// queue's own thread: that is what keeps the coroutine from continuing before it has suspended.
template <class Queue>
class until_stopped {
public:
  explicit until_stopped(Queue& queue) noexcept : queue_(&queue) {}
  bool await_ready() const noexcept { return false; }

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> self) {
    stop_.emplace(cohort::detail::stop_token_of(self), resume_on(*queue_, self));
  }

  void await_resume() noexcept { stop_.reset(); }

private:
  class resume_on {
  public:
    resume_on(Queue& queue, std::coroutine_handle<> self) noexcept : queue_(&queue), self_(self) {}
    void operator()() const { queue_->push(self_); }

  private:
    Queue* queue_;
    std::coroutine_handle<> self_;
  };

  Queue* queue_;
  std::optional<std::stop_callback<resume_on>> stop_;
};

/// Suspends until a stop is requested on the coroutine's own token and continues inside `request_stop()`. To be awaited
/// before the stop is requested, on the thread that requests it.
class until_stopped_inline {
public:
  until_stopped_inline() = default;
  bool await_ready() const noexcept { return false; }

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> self) {
    const std::stop_token token = cohort::detail::stop_token_of(self);
    if (token.stop_requested()) return false;
    stop_.emplace(token, resume(self));
    return true;
  }

  void await_resume() noexcept { stop_.reset(); }

private:
  class resume {
  public:
    explicit resume(std::coroutine_handle<> self) noexcept : self_(self) {}
    void operator()() const {
      const std::coroutine_handle<> self = self_;  // this object ends inside the call
      self.resume();
    }

  private:
    std::coroutine_handle<> self_;
  };

  std::optional<std::stop_callback<resume>> stop_;
};

/// What a started task has come to. Read after it is done.
template <class T>
class outcome {
public:
  bool done() const noexcept { return calls_ != 0; }
  int calls() const noexcept { return calls_; }
  const std::exception_ptr& error() const noexcept { return error_; }
  std::thread::id thread() const noexcept { return thread_; }

  /// The value, or the exception.
  cohort::detail::value_of<T> get() {
    if (error_) std::rethrow_exception(error_);
    return std::move(value_).value();
  }

  void set(std::exception_ptr error, std::optional<cohort::detail::value_of<T>> value) {
    ++calls_;
    error_ = std::move(error);
    if (value) value_.emplace(std::move(*value));
    thread_ = std::this_thread::get_id();
  }

private:
  int calls_ = 0;
  std::exception_ptr error_;
  std::optional<cohort::detail::value_of<T>> value_;
  std::thread::id thread_;
};

template <class T>
class record {
public:
  record(outcome<T>& to, std::shared_ptr<std::promise<void>> signal) noexcept : to_(&to), signal_(std::move(signal)) {}

  void operator()(std::exception_ptr error) {
    const bool failed = error != nullptr;
    to_->set(std::move(error), failed ? std::nullopt : std::optional<cohort::detail::value_of<T>>(std::in_place));
    if (signal_) signal_->set_value();
  }

  void operator()(std::exception_ptr error, std::optional<cohort::detail::value_of<T>> value) {
    to_->set(std::move(error), std::move(value));
    if (signal_) signal_->set_value();
  }

private:
  outcome<T>* to_;
  std::shared_ptr<std::promise<void>> signal_;  // shared: the waiter may return while set_value() still runs
};

/// Starts `t` here; `result` is set when it is done.
template <class T>
void start(cohort::task<T> t, outcome<T>& result, std::stop_token token = {}) {
  cohort::detail::start(std::move(t), std::move(token), record<T>(result, nullptr));
}

/// Starts `t` here and blocks until it is done, wherever that is.
template <class T>
outcome<T> run(cohort::task<T> t, std::stop_token token = {}) {
  outcome<T> result;
  auto signal = std::make_shared<std::promise<void>>();
  auto done = signal->get_future();
  cohort::detail::start(std::move(t), std::move(token), record<T>(result, std::move(signal)));
  done.wait();
  return result;
}

/// Runs `t`, which must not leave this thread, and returns its value or throws its exception.
template <class T>
cohort::detail::value_of<T> run_here(cohort::task<T> t, std::stop_token token = {}) {
  outcome<T> result;
  start(std::move(t), result, std::move(token));
  if (!result.done()) throw std::logic_error("the task did not finish at once");
  return result.get();
}

/// A coroutine type of someone else: starts at once, and may be destroyed wherever it stands. It knows no stop token.
class scoped_root {
public:
  class promise_type {
  public:
    scoped_root get_return_object() noexcept {
      return scoped_root(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_always final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
  };

  scoped_root(scoped_root&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
  ~scoped_root() { reset(); }

  bool done() const noexcept { return frame_.done(); }

  void reset() {
    if (frame_) std::exchange(frame_, nullptr).destroy();
  }

private:
  explicit scoped_root(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}
  std::coroutine_handle<promise_type> frame_;
};

/// Counts how many of its kind are alive.
class counted {
public:
  explicit counted(int& alive) noexcept : alive_(&alive) { ++*alive_; }
  counted(counted&& other) noexcept : alive_(std::exchange(other.alive_, nullptr)) {}
  counted& operator=(counted&&) = delete;
  ~counted() {
    if (alive_) --*alive_;
  }

private:
  int* alive_;
};

}  // namespace fixtures

// Coroutines that submit together, over and over: R of them are one batch. They are on their feet before the clock
// starts, as the requests of a server are; a batch lasts from the first submission to the last resumption.
#pragma once

#include "limits.hpp"

#include <cohort/executor.hpp>
#include <cohort/task.hpp>
#include <cohort/when_all.hpp>

#include <coroutine>
#include <cstddef>
#include <exception>
#include <stop_token>
#include <utility>
#include <vector>

namespace cohort_bench {

/// Where a crew waits for its next turn, and its conductor for the crew. One thread.
class gate {
public:
  explicit gate(std::size_t crew) : crew_(crew) {
    waiting_.reserve(crew);
    going_.reserve(crew);
  }

  /// For the crew: suspends until the gate opens; false when the work is over. Whoever comes last wakes the conductor.
  auto turn() { return turn_awaiter(*this); }

  /// For the conductor: suspends until all of the crew wait.
  auto gathered() { return gathered_awaiter(*this); }

  /// Lets all of the crew go on, each up to its next suspension.
  void open() {
    going_.clear();
    going_.swap(waiting_);
    for (const std::coroutine_handle<> one : going_) one.resume();
  }

  void close() {
    closed_ = true;
    open();
  }

  /// A failure of one of the crew, which the conductor rethrows.
  void fail(std::exception_ptr error) { error_ = std::move(error); }

private:
  class turn_awaiter {
  public:
    explicit turn_awaiter(gate& g) : gate_(g) {}
    bool await_ready() const noexcept { return gate_.closed_; }
    void await_suspend(std::coroutine_handle<> self) {
      gate& g = gate_;
      g.waiting_.push_back(self);
      if (g.waiting_.size() == g.crew_ && g.conductor_) std::exchange(g.conductor_, {}).resume();
    }
    bool await_resume() const noexcept { return !gate_.closed_; }

  private:
    gate& gate_;
  };

  class gathered_awaiter {
  public:
    explicit gathered_awaiter(gate& g) : gate_(g) {}
    bool await_ready() const noexcept { return gate_.waiting_.size() == gate_.crew_; }
    void await_suspend(std::coroutine_handle<> self) noexcept { gate_.conductor_ = self; }
    void await_resume() const {
      if (gate_.error_) std::rethrow_exception(gate_.error_);
    }

  private:
    gate& gate_;
  };

  std::size_t crew_;
  std::vector<std::coroutine_handle<>> waiting_, going_;
  std::coroutine_handle<> conductor_;
  std::exception_ptr error_;
  bool closed_ = false;
};

/// Which ops a crew submits next.
template <class Op>
struct turn_of {
  gate at;
  const std::vector<Op>* ops = nullptr;
};

/// One of the crew.
template <class Executor, class Op>
cohort::task<> member(Executor& gpu, turn_of<Op>& crew, std::size_t position) {
  while (true) {
    const bool again = co_await crew.at.turn();
    if (!again) break;
    const cohort::error_code result = co_await gpu.try_submit((*crew.ops)[position]);
    if (result.failed()) crew.at.fail(std::make_exception_ptr(cohort::system_error(result, "a submission failed")));
  }
}

/// Times batch after batch, set after set; wall times in us.
template <class Op>
cohort::task<> conduct_timed(turn_of<Op>& crew, const std::vector<std::vector<Op>>& sets, limits l,
                             std::vector<double>& samples) {
  std::size_t set = 0;
  std::exception_ptr error;
  try {
    co_await crew.at.gathered();
    for (sampling still(l); still.more();) {
      crew.ops = &sets[set];
      set = set + 1 == sets.size() ? 0 : set + 1;
      const auto begin = clock::now();
      crew.at.open();
      co_await crew.at.gathered();
      const double us = microseconds_since(begin);
      if (!still.warming()) samples.push_back(us);
      still.took(us);
    }
  } catch (...) {
    error = std::current_exception();
  }
  crew.at.close();
  if (error) std::rethrow_exception(error);
}

/// Runs `count` batches: sets `first`, `first + step` and so on, round and round.
template <class Op>
cohort::task<> conduct_counted(turn_of<Op>& crew, const std::vector<std::vector<Op>>& sets, std::size_t first,
                               std::size_t step, std::size_t count) {
  std::exception_ptr error;
  try {
    co_await crew.at.gathered();
    for (std::size_t i = 0; i < count; ++i) {
      crew.ops = &sets[(first + i * step) % sets.size()];
      crew.at.open();
      co_await crew.at.gathered();
    }
  } catch (...) {
    error = std::current_exception();
  }
  crew.at.close();
  if (error) std::rethrow_exception(error);
}

/// Wall times of batches, one at a time; every set has equally many ops. Drives the executor. The crew is not
/// cancellable: a stop callback for each submission is no part of what the peers do.
template <class Executor, class Op>
std::vector<double> time_batches(Executor& gpu, const std::vector<std::vector<Op>>& sets, const limits& l) {
  turn_of<Op> crew{gate(sets.front().size())};
  std::vector<double> samples;
  samples.reserve(static_cast<std::size_t>(l.most));
  std::vector<cohort::task<>> all;
  for (std::size_t i = 0; i < sets.front().size(); ++i) {
    all.push_back(cohort::with_stop_token(member(gpu, crew, i), std::stop_token()));
  }
  all.push_back(conduct_timed(crew, sets, l, samples));
  gpu.run(cohort::when_all(std::move(all)));
  return samples;
}

/// Wall time in us of `count` batches for each of `in_flight` crews that do not wait for one another.
template <class Executor, class Op>
double time_kept_full(Executor& gpu, const std::vector<std::vector<Op>>& sets, std::size_t in_flight,
                      std::size_t count) {
  std::vector<turn_of<Op>> crews;
  crews.reserve(in_flight);  // coroutines point into it
  std::vector<cohort::task<>> all;
  for (std::size_t c = 0; c < in_flight; ++c) {
    crews.push_back({gate(sets.front().size())});
    for (std::size_t i = 0; i < sets.front().size(); ++i) {
      all.push_back(cohort::with_stop_token(member(gpu, crews[c], i), std::stop_token()));
    }
  }
  for (std::size_t c = 0; c < in_flight; ++c) all.push_back(conduct_counted(crews[c], sets, c, in_flight, count));
  const auto begin = clock::now();
  gpu.run(cohort::when_all(std::move(all)));
  return microseconds_since(begin);
}

}  // namespace cohort_bench

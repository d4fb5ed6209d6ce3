// What when_all and when_any share: a group of sibling tasks, started together and waited for together. Entered by
// those two alone.
#pragma once

#include <cohort/clock.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/promise.hpp>
#include <cohort/task.hpp>

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <optional>
#include <stop_token>
#include <utility>

namespace cohort::inline COHORT_ABI::detail {

/// Passes a stop of the parent on to the group.
class stop_link {
public:
  explicit stop_link(const std::stop_source& to) noexcept : to_(to) {}

  void operator()() const noexcept {
    // A child may finish inside request_stop(), and with it the group and this object: the copy keeps the stop state
    // until the call has ended.
    const std::stop_source keep = to_;
    keep.request_stop();
  }

private:
  std::stop_source to_;
};

/// Counts the children that are still running, plus one for the parent while it starts them. Whoever takes the count
/// to zero continues the parent, so that the group outlives every child and every child is done when the parent goes
/// on.
class join : public receiver {
public:
  bool await_ready() const noexcept { return false; }

protected:
  join() = default;
  ~join() = default;

  template <class Promise>
  void open(std::coroutine_handle<Promise> parent, std::size_t children) noexcept {
    parent_ = parent;
    limits_ = limits_of(parent);
    // relaxed: no child runs yet; each gets to know the group through its own start, which is sequenced after this.
    pending_.store(children + 1, std::memory_order_relaxed);
    const std::stop_token outer = stop_token_of(parent);
    if (outer.stop_possible()) link_.emplace(outer, stop_link(stop_));
  }

  template <class T>
  void start(const task<T>& child, std::size_t slot) noexcept {
    auto frame = task_access::handle(child);
    frame.promise().attach(*this, stop_.get_token(), limits_, slot);
    frame.resume();
  }

  /// The parent's part of the count, and that of children it decided not to start. Returns whether the parent must
  /// stay suspended; if so the group may be gone.
  bool close(std::size_t unstarted = 0) noexcept {
    // acq_rel: as the last, acquire the results of all children; else release the suspended parent to the last child.
    return pending_.fetch_sub(1 + unstarted, std::memory_order_acq_rel) != 1 + unstarted;
  }

  /// A child's part. The group may be gone afterwards.
  void leave() noexcept {
    // acq_rel: release this child's result to whoever is last; as the last, acquire those of the others and the parent.
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) parent_.resume();
  }

  /// To be called by a child before it leaves: its share of the count keeps the group alive through callbacks that
  /// finish its siblings at once.
  void request_stop() noexcept { stop_.request_stop(); }

private:
  std::stop_source stop_;
  std::coroutine_handle<> parent_;
  const request_limits* limits_ = nullptr;
  std::atomic<std::size_t> pending_{0};
  std::optional<std::stop_callback<stop_link>> link_;  // last: it goes first, and waits for a stop that is under way
};

}  // namespace cohort::inline COHORT_ABI::detail

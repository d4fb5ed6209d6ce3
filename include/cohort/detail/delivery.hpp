// How finished waiters reach an Asio executor: as one handler for all that a step has finished, which stays for a
// moment when it is through. The executor enters; neither engine nor scheduler knows of it.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/cpu.hpp>
#include <cohort/detail/waiter.hpp>
#include <cohort/schedule/submission.hpp>

#include <boost/asio/post.hpp>

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

namespace cohort::inline COHORT_ABI::detail {

/// Where a handler that is through waits for the next list of finished waiters. Their coroutines have submitted again,
/// and what they wait for often comes within microseconds. A thread that goes to sleep in between costs more than it
/// saves, and most of it on the thread that must wake it, which is the one that schedules.
///
/// One handler waits at a time, and is handed a list only while it does: no list is ever left here.
class meeting_point {
public:
  meeting_point() = default;
  meeting_point(const meeting_point&) = delete;
  meeting_point& operator=(const meeting_point&) = delete;

  /// Gives a list to the handler that waits. False: none does.
  bool hand_over(submission* finished) noexcept {
    if (list_.load(std::memory_order_relaxed) != waiting()) return false;  // relaxed: the exchange below decides
    void* expected = waiting();
    // release: pairs with the acquire of whoever waits; the list was written before.
    return list_.compare_exchange_strong(expected, finished, std::memory_order_release, std::memory_order_relaxed);
  }

  /// Count the handlers that are on their way: nobody waits while there are some, for their lists go first.
  // relaxed, both: see wait.
  void posted() noexcept { on_their_way_.fetch_add(1, std::memory_order_relaxed); }
  void started() noexcept { on_their_way_.fetch_sub(1, std::memory_order_relaxed); }

  /// Waits some microseconds for a list; null: none came, or it is not worth the wait. Any thread.
  submission* wait() noexcept {
    // relaxed, here and where these are written: guesses, and a lost update makes them no worse.
    if (on_their_way_.load(std::memory_order_relaxed) > 0) return nullptr;
    if (const unsigned more = to_skip_.load(std::memory_order_relaxed); more > 0) {
      to_skip_.store(more - 1, std::memory_order_relaxed);
      return nullptr;
    }
    void* found = nullptr;
    // relaxed: it hands nothing over.
    if (!list_.compare_exchange_strong(found, waiting(), std::memory_order_relaxed)) return nullptr;
    look_out([this] { return list_.load(std::memory_order_relaxed) != waiting(); });  // relaxed: see the exchange
    found = list_.exchange(nullptr, std::memory_order_acquire);                       // acquire: pairs with hand_over
    const bool in_vain = found == waiting();
    const unsigned skipped = in_vain_.load(std::memory_order_relaxed);
    in_vain_.store(in_vain ? std::min(2 * skipped + 1, most_skipped) : 0, std::memory_order_relaxed);
    if (!in_vain) return static_cast<submission*>(found);
    to_skip_.store(in_vain_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    return nullptr;
  }

private:
  void* waiting() const noexcept { return const_cast<meeting_point*>(this); }

  static constexpr unsigned most_skipped = 63;

  std::atomic<void*> list_{nullptr};  // null: nobody waits; this: somebody does; else what he is given
  std::atomic<unsigned> in_vain_{0};  // grows with each wait in vain, up to `most_skipped`; 0 after another
  std::atomic<unsigned> to_skip_{0};  // so many waits are left out
  std::atomic<int> on_their_way_{0};
};

/// Finished waiters on their way to an Asio executor.
template <class AsioExecutor>
class delivery {
public:
  /// \param meeting where to wait for more when all are told; null: nowhere
  delivery(const AsioExecutor& where, submission* first, std::shared_ptr<meeting_point> meeting)
      : where_(where), first_(first), meeting_(std::move(meeting)) {
    if (meeting_ != nullptr) meeting_->posted();
  }
  delivery(delivery&& other) noexcept
      : where_(other.where_), first_(std::exchange(other.first_, nullptr)), meeting_(std::move(other.meeting_)) {}

  delivery& operator=(delivery&&) = delete;

  ~delivery() {
    while (first_ != nullptr) {
      auto& one = take();
      if (one.abandon != nullptr) one.abandon(one);
    }
    if (meeting_ != nullptr) meeting_->started();
  }

  void operator()() {
    const std::shared_ptr<meeting_point> meeting = std::exchange(meeting_, nullptr);
    if (meeting != nullptr) meeting->started();
    tell_all(meeting);
    if (meeting == nullptr) return;
    for (int lists = 0; (first_ = meeting->wait()) != nullptr; ++lists) {
      if (lists == most_lists) {  // others wait for this thread, too: a new handler goes on behind them
        return boost::asio::post(where_, delivery(where_, std::exchange(first_, nullptr), meeting));
      }
      tell_all(meeting);
    }
  }

private:
  void tell_all(const std::shared_ptr<meeting_point>& meeting) {
    try {
      while (first_ != nullptr) {
        auto& one = take();
        one.resume(one);
      }
    } catch (...) {  // a handler threw, as Asio allows: the others are still told
      if (first_ != nullptr) boost::asio::post(where_, delivery(where_, std::exchange(first_, nullptr), meeting));
      throw;
    }
  }

  waiter& take() noexcept {
    auto& one = static_cast<waiter&>(*std::exchange(first_, first_->next));
    // The next was written by the scheduler's thread: it is fetched while this one runs.
    if (first_ != nullptr) __builtin_prefetch(&static_cast<waiter*>(first_)->resume, 1);
    return one;
  }

  static constexpr int most_lists = 8;

  AsioExecutor where_;
  submission* first_;
  std::shared_ptr<meeting_point> meeting_;
};

}  // namespace cohort::inline COHORT_ABI::detail

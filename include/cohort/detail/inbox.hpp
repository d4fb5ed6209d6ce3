// The one way into a running executor: a lock-free stack that any thread pushes to and the owner empties. Whoever wakes
// a sleeping owner does it by a push, so there is no second path on which a wake-up could be lost.
#pragma once

#include <cohort/config.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace cohort::inline COHORT_ABI::detail {

struct waiter;

/// What a message says to the owner.
enum class message : std::uint8_t {
  arrival,       ///< a submission wants to be scheduled
  cancellation,  ///< a submission wants to be withdrawn
  completion,    ///< the backend completed a packet
  control,       ///< look at the flags: stop, pause, resume
};

/// A message that its sender stores. It belongs to the inbox from `push` until the owner has taken it out.
struct inbox_link {
  inbox_link* next;
  waiter* sender;  ///< of an arrival and of a cancellation
  message what;
};

class inbox {
public:
  inbox() = default;
  inbox(const inbox&) = delete;
  inbox& operator=(const inbox&) = delete;

  /// Any thread. After the call the link, and with it the inbox itself, may be gone, unless the owner sleeps: then the
  /// owner cannot go on before `wake` is through, so that `wake` may still use the inbox.
  void push(inbox_link& link) noexcept {
    inbox_link* head = head_.load(std::memory_order_relaxed);  // only a guess; the exchange below validates it
    do {
      link.next = head == &asleep_ ? nullptr : head;
      // release: what the sender wrote before is visible to the owner; acquire pairs with the owner's step into sleep,
      // so that the mutex handshake in wake starts after it.
    } while (!head_.compare_exchange_weak(head, &link, std::memory_order_acq_rel, std::memory_order_relaxed));
    if (head == &asleep_) wake();
  }

  /// Owner only: all messages, oldest first.
  inbox_link* take() noexcept {
    // A relaxed look avoids a locked instruction in a loop that polls; a message it misses is found by the next look.
    if (head_.load(std::memory_order_relaxed) == nullptr) return nullptr;
    inbox_link* newest =
        head_.exchange(nullptr, std::memory_order_acquire);  // acquire: pairs with the senders' release
    inbox_link* oldest = nullptr;
    while (newest != nullptr) {
      inbox_link* const next = newest->next;
      newest->next = oldest;
      oldest = newest;
      newest = next;
    }
    return oldest;
  }

  /// Owner only: whether nothing has come.
  bool empty() const noexcept {
    return head_.load(std::memory_order_relaxed) == nullptr;  // relaxed: `take` acquires what is seen here
  }

  /// Owner only: sleeps until a message is there, or until `until` (`max()`: no limit).
  void sleep(std::chrono::steady_clock::time_point until) noexcept {
    inbox_link* expected = nullptr;
    // release: pairs with the acquire in push. Failure means that a message is there already.
    if (!head_.compare_exchange_strong(expected, &asleep_, std::memory_order_release, std::memory_order_relaxed))
      return;
    std::unique_lock lock(mutex_);
    if (until == std::chrono::steady_clock::time_point::max()) {
      woken_.wait(lock, [this] { return signalled_; });
    } else if (!woken_.wait_until(lock, until, [this] { return signalled_; })) {
      expected = &asleep_;
      // relaxed: nothing is handed over. If this fails a sender has seen us asleep and its wake is on the way.
      if (head_.compare_exchange_strong(expected, nullptr, std::memory_order_relaxed, std::memory_order_relaxed))
        return;
      woken_.wait(lock, [this] { return signalled_; });
    }
    signalled_ = false;
  }

private:
  void wake() noexcept {
    // Notified under the lock: the owner cannot return from sleep, and so cannot destroy the inbox, before the unlock.
    std::lock_guard lock(mutex_);
    signalled_ = true;
    woken_.notify_one();
  }

  std::atomic<inbox_link*> head_{nullptr};  // null: empty; &asleep_: empty, owner sleeps; else the newest message
  inbox_link asleep_{};
  std::mutex mutex_;
  std::condition_variable woken_;
  bool signalled_ = false;  // guarded by mutex_
};

}  // namespace cohort::inline COHORT_ABI::detail

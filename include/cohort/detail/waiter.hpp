// A submission together with who waits for it. It lives in a coroutine frame or in the storage of an Asio operation,
// and belongs to the engine from `engine::submit` until `resume` is called on it.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/inbox.hpp>
#include <cohort/schedule/submission.hpp>

#include <atomic>
#include <cstdint>

namespace cohort::inline COHORT_ABI::detail {

struct waiter : submission {
  /// Tells whoever waits; the waiter may be gone when it returns.
  using resume_function = void (*)(waiter&);

  explicit waiter(resume_function how, resume_function when_abandoned = nullptr) noexcept
      : resume(how), abandon(when_abandoned) {
    arrival.sender = this;
    arrival.what = message::arrival;
  }

  waiter(const waiter&) = delete;
  waiter& operator=(const waiter&) = delete;

  // The life of a waiter that can be cancelled, as far as other threads see it. A cancellation that finds `submitted`
  // and not `closed` sends exactly one message, and the engine keeps the waiter until that message is in.
  static constexpr std::uint8_t submitted = 1;
  static constexpr std::uint8_t cancel_asked = 2;
  static constexpr std::uint8_t closed = 4;

  resume_function resume;
  /// Frees what waits without telling it, when the Asio context is destroyed first; null: its owner frees it.
  resume_function abandon;
  inbox_link arrival;
  std::atomic<std::uint8_t> phase{0};
  bool cancellable = false;      ///< set before submission; false spares the atomic operations
  bool cancel_received = false;  ///< owner only: the cancellation message is in
  inbox_link cancellation;       ///< written by whoever sends it
};

}  // namespace cohort::inline COHORT_ABI::detail

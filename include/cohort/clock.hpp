// The one clock that deadlines and time limits are told in. Everyone may enter.
#pragma once

#include <cohort/config.hpp>

#include <algorithm>
#include <chrono>

namespace cohort::inline COHORT_ABI {

/// The clock of executors and schedulers. Tests pass virtual time points.
using clock = std::chrono::steady_clock;
using time_point = clock::time_point;

/// The time that lies `from_now` ahead, or the last there is.
inline time_point time_ahead(std::chrono::nanoseconds from_now) noexcept {
  const time_point now = clock::now();
  return from_now < time_point::max() - now ? now + from_now : time_point::max();
}

/// How long a request may take. `max()` in either: no limit.
struct request_limits {
  /// When the result is wanted. It makes urgent, and it decides what is late; late work runs unless its tenant drops
  /// it.
  time_point deadline = time_point::max();
  /// When the waiter is told `errc::timed_out`, whatever has become of the op until then.
  time_point expires = time_point::max();

  /// The earlier of both, each: limits are shortened and never lengthened.
  friend constexpr request_limits earlier(const request_limits& a, const request_limits& b) noexcept {
    return {std::min(a.deadline, b.deadline), std::min(a.expires, b.expires)};
  }
};

/// For default arguments: a coroutine that awaits keeps no copy of it in its frame, as it would of a temporary.
inline constexpr request_limits no_limits{};

}  // namespace cohort::inline COHORT_ABI

// Why a packet was formed and what is in it: what traces, metrics and tests are told. Data alone.
#pragma once

#include <cohort/config.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI {

/// Why a policy committed a packet when it did.
enum class commit_reason : std::uint8_t {
  idle_device,    ///< nothing was on the device
  keep_busy,      ///< the device would have run out of work before the next chance to commit
  has_room,       ///< the policy commits whenever the device takes a packet
  waited_enough,  ///< the oldest submission had waited as long as the policy allows
  draining,       ///< no company will come any more
  other,          ///< a policy's own reason
};

/// Number of values of `commit_reason`.
inline constexpr std::size_t commit_reasons = 6;

constexpr const char* to_string(commit_reason reason) noexcept {
  switch (reason) {
    case commit_reason::idle_device: return "idle_device";
    case commit_reason::keep_busy: return "keep_busy";
    case commit_reason::has_room: return "has_room";
    case commit_reason::waited_enough: return "waited_enough";
    case commit_reason::draining: return "draining";
    case commit_reason::other: return "other";
  }
  return "unknown";
}

/// One packet, told when it is formed.
struct packet_report {
  std::uint32_t sequence = 0;
  commit_reason reason = commit_reason::other;
  std::uint32_t submissions = 0;
  std::uint32_t records = 0;
  std::uint32_t fused_submissions = 0;  ///< submissions that share a record with at least one other
  std::uint32_t tiles = 0;
  std::uint32_t bytes = 0;
  std::chrono::steady_clock::time_point formed{};
  std::chrono::nanoseconds oldest_wait{0};            ///< longest time that one of its submissions was pending
  std::chrono::nanoseconds waited{0};                 ///< time that its submissions were pending, summed
  std::chrono::nanoseconds waited_hidden{0};          ///< the part of it in which the device was at work
  std::uint32_t packets_in_flight_before = 0;         ///< without this one
  std::chrono::nanoseconds work_in_flight_before{0};  ///< estimated device work still ahead when it was formed
  std::chrono::nanoseconds estimated_work{0};         ///< of this packet
  std::size_t left_pending = 0;                       ///< submissions that stayed behind
  /// Least time left until a member's deadline, less the work in flight and this packet's: below 0 it is expected late.
  std::chrono::nanoseconds least_slack{0};
  /// Part of the predicted device time, without overhead, in which tiles compute what lies beyond a result, counting
  /// only ops that say how much that is (`Op::padding`).
  double padding = 0;
};

/// Counters of one scheduler since its construction. After all is done,
/// submitted = committed + cancelled + timed_out + aborted + settled + refused + dropped.
struct scheduler_statistics {
  std::uint64_t submitted = 0;
  std::uint64_t committed = 0;  ///< submissions that went into a packet
  std::uint64_t fused = 0;      ///< those of them that shared a record
  std::uint64_t cancelled = 0;  ///< while pending
  std::uint64_t timed_out = 0;  ///< while pending
  std::uint64_t orphaned = 0;   ///< of the committed, those that were cancelled or timed out on the device
  std::uint64_t aborted = 0;
  std::uint64_t settled = 0;  ///< completed without a packet: no tiles, or too large
  std::uint64_t refused = 0;  ///< at submission: full queue, deadline that cannot be met, unknown tenant
  std::uint64_t dropped = 0;  ///< from the queue, because the deadline could no longer be met
  std::uint64_t missed = 0;   ///< committed, and completed after their deadline
  /// Most places by which a submission left later than in order of arrival.
  std::uint64_t farthest_behind = 0;
  /// Time that submissions waited in the queue, summed, and the part of it in which the device was at work.
  std::chrono::nanoseconds waited{0};
  std::chrono::nanoseconds waited_hidden{0};
  double prediction_error = 0;  ///< rolling mean over packets of |predicted - measured| over the larger
  std::uint64_t packets = 0;
  std::uint64_t records = 0;
  std::uint64_t tiles = 0;
  std::uint64_t bytes = 0;
  std::array<std::uint64_t, commit_reasons> packets_by_reason{};  ///< indexed by `commit_reason`
};

}  // namespace cohort::inline COHORT_ABI

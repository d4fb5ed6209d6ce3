// One submission on its way: the node that travels from the coroutine frame (or from the storage of an Asio operation)
// through inbox, bucket and packet to the list of the ready. It is never copied and never allocated by the scheduler.
#pragma once

#include <cohort/clock.hpp>
#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/mostly_sorted_queue.hpp>

#include <cstdint>

namespace cohort::inline COHORT_ABI {

/// Index of a tenant in its executor; 0 is the default tenant.
using tenant_id = std::uint32_t;

/// Where a submission is. Only the scheduler's owner moves it.
enum class submission_state : std::uint8_t {
  created,    ///< not handed in yet, or still in the inbox
  held,       ///< what it follows in its chain has just been committed, and others may go first
  pending,    ///< in a bucket of the scheduler
  committed,  ///< in a packet on the device
  done,       ///< result is set; the waiter may be told
};

/// Order among the pending: by `due`, then first come first served.
struct rank {
  std::int64_t due = 0;  ///< nanoseconds of `clock`; 0 for all where the order is that of arrival
  std::uint64_t ticket = 0;

  friend constexpr bool operator<(const rank& a, const rank& b) noexcept {
    return a.due != b.due ? a.due < b.due : a.ticket < b.ticket;
  }
};

namespace detail {
struct bucket;
struct tenant_state;
}  // namespace detail

/// A node of every list that a submission passes through. `next` serves one list at a time.
///
/// A chain is several of them, a ring by `follower`, that run one after the other without returning to the host. The
/// last is handed in, waited for and told, and stands for all; only its `tenant`, `deadline` and `expires` count.
///
/// Where its parts lie is for two threads, one that submits and one that schedules: what only the scheduler writes
/// stays in the cache of the latter. That is why these members have no initialisers, and no value before the
/// scheduler's `submit`.
struct submission {
  // The scheduler's own, while it waits.
  std::uint64_t id;        ///< the scheduler's number for it, from 1
  time_point arrived;      ///< when it was handed in
  detail::bucket* bucket;  ///< null while it waits before the queue
  submission* previous;    ///< before the queue, and in a packet that lost a waiter
  submission* older;       ///< with `newer` the list of everything that waits in buckets, by arrival
  submission* newer;
  std::int64_t busy_before;  ///< nanoseconds that the device had been at work when it was handed in
  /// Nanoseconds of `clock` after which it would be late; among those, after which it is dropped or has timed out.
  std::int64_t latest_start;
  detail::queue_links<submission> order;  ///< in its bucket, with `place`; beside `turn`, which is read with them
  rank turn;
  std::uint32_t place;
  std::uint32_t expiry;  ///< its place among all that may be dropped or time out
  std::int64_t weight;   ///< as `work_share` counts

  // Also when its packet is complete.
  std::uint32_t sequence;  ///< packet it was committed in; 0 when it never was
  bool droppable;
  bool wanted;                    ///< by a target or a deadline
  bool overdue;                   ///< cannot be in time, and goes behind those that can
  bool expiring;                  ///< in the heap of what may be dropped or time out
  detail::tenant_state* account;  ///< its tenant's
  double work_ns;     ///< predicted alone, with the packet's overhead; its share of its record once committed
  double charged_ns;  ///< what its tenant was charged with

  // Written by both.
  submission* next = nullptr;
  error_code result{};

  /// When the result is wanted. The scheduler shortens it to the tenant's target, and never lengthens it.
  time_point deadline = time_point::max();

  // From whoever submits.

  /// When it ends with `errc::timed_out`, pending or committed. The deadline is never later.
  time_point expires = time_point::max();

  /// The descriptor, of `op_info::stride` readable bytes rounded down to the type's size. Null in an orphan.
  const void* op = nullptr;
  std::uint32_t op_bytes = 0;
  std::uint16_t op_index = 0;
  submission_state state = submission_state::created;
  /// A stand-in in a packet: the waiter of this submission was told `result` before the device was done.
  bool orphan = false;
  tenant_id tenant = 0;
  std::uint32_t rows = 1;
  std::uint32_t followers = 0;     ///< of its chain, behind it
  std::uint32_t after;             ///< the scheduler's own: packet that it must come after, 0: none
  std::uint32_t home = 0;          ///< the scheduler's own, of a chain: where it found its bucket when it was last here
  submission* follower = nullptr;  ///< the next of its chain, of the last the first; null: it is alone
  coalescing_key key{};
  op_cost cost{};

  bool in_chain() const noexcept { return follower != nullptr; }
};

namespace detail {

inline void finish(submission& one, const error_code& result) noexcept {
  one.state = submission_state::done;
  one.result = result;
}

}  // namespace detail

}  // namespace cohort::inline COHORT_ABI

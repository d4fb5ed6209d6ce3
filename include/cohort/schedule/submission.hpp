// One submission on its way: the node that travels from the coroutine frame (or from the storage of an Asio operation)
// through inbox, bucket and packet to the list of the ready. It is never copied and never allocated by the scheduler.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>

#include <chrono>
#include <cstdint>

namespace cohort::inline COHORT_ABI {

/// The scheduler's clock. Tests pass virtual time points.
using clock = std::chrono::steady_clock;
using time_point = clock::time_point;

/// Index of a tenant in its executor; 0 is the default tenant.
using tenant_id = std::uint32_t;

/// Where a submission is. Only the scheduler's owner moves it.
enum class submission_state : std::uint8_t {
  created,    ///< not handed in yet, or still in the inbox
  pending,    ///< in a bucket of the scheduler
  committed,  ///< in a packet on the device
  done,       ///< result is set; the waiter may be told
};

/// A node of every list that a submission passes through. `next` and `previous` serve one list at a time; `older` and
/// `newer` are the scheduler's second list, of everything pending by arrival.
struct submission {
  submission* next = nullptr;
  submission* previous = nullptr;  ///< valid while pending: cancellation unlinks in O(1)

  const void* op = nullptr;  ///< the descriptor, of `op_info::stride` readable bytes rounded down to the type's size
  std::uint32_t op_bytes = 0;
  std::uint16_t op_index = 0;
  submission_state state = submission_state::created;
  tenant_id tenant = 0;
  std::uint32_t rows = 1;
  coalescing_key key{};
  op_cost cost{};

  time_point arrived{};         ///< set by the scheduler when the submission is handed in
  void* bucket = nullptr;       ///< scheduler's own, while pending
  submission* older = nullptr;  ///< scheduler's own, while pending
  submission* newer = nullptr;  ///< scheduler's own, while pending
  std::uint32_t sequence = 0;   ///< packet it was committed in; 0 when it never was

  error_code result{};
};

}  // namespace cohort::inline COHORT_ABI

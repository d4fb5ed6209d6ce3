// The errors of cohort: one category for what the library itself decides. CUDA's own codes have a second category,
// which lives with the CUDA backend so that host-only programs do not need a toolkit.
#pragma once

#include <cohort/config.hpp>

#include <boost/system/error_category.hpp>
#include <boost/system/error_code.hpp>
#include <boost/system/error_condition.hpp>
#include <boost/system/system_error.hpp>

#include <string>
#include <type_traits>

namespace cohort::inline COHORT_ABI {

using boost::system::error_code;
using boost::system::system_error;

/// Why a submission did not succeed. Every submission completes once: with success, or with one of these.
enum class errc {
  queue_full = 1,        ///< the executor holds as many submissions as its options allow; submit again later
  cancelled,             ///< a stop token or an Asio cancellation signal asked for it before the op had completed
  stopped,               ///< the executor was stopped, before or after the submission
  device_lost,           ///< the device reported an error, or did not answer within the backend's time limit
  out_of_memory,         ///< an arena has no block of that size left
  null_pointer,          ///< a buffer that the op needs is null
  misaligned,            ///< a pointer is not aligned to its element type
  buffer_too_small,      ///< a buffer holds fewer elements than the op reads or writes
  bad_size,              ///< a size is zero, or the product of sizes overflows what the op can address
  shape_mismatch,        ///< two shapes that must agree (K, N, the hidden size) do not
  aliasing,              ///< an output overlaps an input in a way that the op forbids
  op_too_large,          ///< the op needs more descriptor or shared storage than a packet or the device has
  tenant_queue_full,     ///< the tenant has as many submissions pending as its options allow
  deadline_passed,       ///< the deadline was over before the submission was handed in
  deadline_unreachable,  ///< refused at submission: predicted to finish after its deadline, even if it were next
  dropped,               ///< taken out of the queue when it could no longer finish by its deadline
  tenant_removed,        ///< the tenant was removed, or never existed
  evicted,               ///< its op type or its tenant is a straggler, and the straggler hook chose to refuse it
  timed_out,             ///< the time limit of the request was over before the op had completed
  chain_in_use,          ///< the chain was submitted before, and has not completed
};

namespace detail {

class category final : public boost::system::error_category {
public:
  using boost::system::error_category::message;

  constexpr category() noexcept : error_category(0x9d3c'7b41'5ae2'c604ULL) {}

  const char* name() const noexcept override { return "cohort"; }

  std::string message(int value) const override {
    switch (static_cast<errc>(value)) {
      case errc::queue_full: return "the submission queue is full";
      case errc::cancelled: return "the submission was cancelled";
      case errc::stopped: return "the executor was stopped";
      case errc::device_lost: return "the device was lost";
      case errc::out_of_memory: return "the arena is exhausted";
      case errc::null_pointer: return "the op has a null buffer";
      case errc::misaligned: return "the op has a misaligned buffer";
      case errc::buffer_too_small: return "the op has a buffer smaller than it reads or writes";
      case errc::bad_size: return "the op has a zero or overflowing size";
      case errc::shape_mismatch: return "the op's shapes do not agree";
      case errc::aliasing: return "the op's output overlaps an input";
      case errc::op_too_large: return "the op does not fit a packet or the device";
      case errc::tenant_queue_full: return "the tenant's queue is full";
      case errc::deadline_passed: return "the deadline was over at submission";
      case errc::deadline_unreachable: return "the deadline cannot be met";
      case errc::dropped: return "dropped from the queue: the deadline could no longer be met";
      case errc::tenant_removed: return "the tenant was removed";
      case errc::evicted: return "the op type or the tenant was evicted as a straggler";
      case errc::timed_out: return "the time limit of the request was over";
      case errc::chain_in_use: return "the chain is on its way already";
    }
    return "unknown cohort error";
  }

  /// Lets `ec == boost::system::errc::operation_canceled` and its like hold, as for Asio's own codes.
  boost::system::error_condition default_error_condition(int value) const noexcept override {
    namespace generic = boost::system::errc;
    switch (static_cast<errc>(value)) {
      case errc::queue_full:
      case errc::evicted:
      case errc::tenant_queue_full: return generic::make_error_condition(generic::resource_unavailable_try_again);
      case errc::deadline_passed:
      case errc::deadline_unreachable:
      case errc::dropped:
      case errc::timed_out: return generic::make_error_condition(generic::timed_out);
      case errc::cancelled:
      case errc::stopped: return generic::make_error_condition(generic::operation_canceled);
      case errc::device_lost: return generic::make_error_condition(generic::no_such_device);
      case errc::out_of_memory: return generic::make_error_condition(generic::not_enough_memory);
      default: return generic::make_error_condition(generic::invalid_argument);
    }
  }
};

}  // namespace detail

/// The category of `errc`. Categories compare by id, so copies in several shared libraries are the same category.
inline const boost::system::error_category& error_category() noexcept {
  static const detail::category instance{};
  return instance;
}

inline error_code make_error_code(errc e) noexcept { return {static_cast<int>(e), error_category()}; }

}  // namespace cohort::inline COHORT_ABI

namespace boost::system {
template <>
struct is_error_code_enum<cohort::errc> : std::true_type {};
}  // namespace boost::system

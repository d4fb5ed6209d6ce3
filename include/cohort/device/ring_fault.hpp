// Why a block of the superkernel left before its work was done: the words that it leaves, as errors with a category of
// their own. ring.hpp and ring_host.hpp enter; users meet them in `cuda_backend::last_error`.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>

#include <cstdint>
#include <string>

namespace cohort::inline COHORT_ABI::detail {

enum class ring_fault : std::uint8_t {
  none = 0,
  start_barrier = 1,  ///< not all blocks of the grid became resident together
  no_workers = 2,     ///< fewer than two blocks within the budget of multiprocessors
  torn_packet = 3,    ///< a packet began to arrive and did not become whole
  bad_packet = 4,     ///< a packet's header contradicts itself
  silent_relay = 5,  ///< a worker heard nothing from the relay, not even that it leaves, or waited in vain for a packet
                     ///< that another comes after
};

class superkernel_category final : public boost::system::error_category {
public:
  using boost::system::error_category::message;

  constexpr superkernel_category() noexcept : error_category(0x51f0'93ce'27a8'6d1bULL) {}

  const char* name() const noexcept override { return "cohort.superkernel"; }

  std::string message(int value) const override {
    switch (static_cast<ring_fault>(value)) {
      case ring_fault::none: break;
      case ring_fault::start_barrier: return "not all blocks of the superkernel became resident in time";
      case ring_fault::no_workers: return "the superkernel needs at least two blocks within its multiprocessors";
      case ring_fault::torn_packet: return "the superkernel was promised a packet that did not arrive in time";
      case ring_fault::bad_packet: return "the superkernel received a packet with a malformed header";
      case ring_fault::silent_relay: return "a block of the superkernel found nothing that it may run in time";
    }
    return "unknown fault of the superkernel";
  }

  boost::system::error_condition default_error_condition(int) const noexcept override {
    return boost::system::errc::make_error_condition(boost::system::errc::no_such_device);
  }
};

inline error_code make_error_code(ring_fault fault) noexcept {
  static const superkernel_category instance{};
  return {static_cast<int>(fault), instance};
}

}  // namespace cohort::inline COHORT_ABI::detail

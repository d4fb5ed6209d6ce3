// What all parts of the superkernel share: the marks of its functions, the shared memory of a block, and how a block
// says that it had to leave. superkernel.hpp, relay.hpp and worker.hpp enter; the first of them describes the grid.
#pragma once

#include <cohort/config.hpp>
#include <cohort/device/ring.hpp>
#include <cohort/device/ring_fault.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
/// Marks the superkernel's functions: device code under nvcc, host code where the grid is emulated. A worker's way to
/// the ops is one function: beside a call, registers would be put away for it.
#define COHORT_DEVICE __device__
#define COHORT_DEVICE_ONE_FUNCTION __device__ __forceinline__
#else
#define COHORT_DEVICE
#define COHORT_DEVICE_ONE_FUNCTION
#endif

namespace cohort::inline COHORT_ABI::detail {

/// Tiles that a worker fetches the records of, and hands to an op, together: the reads share one round trip to L2, and
/// the op may begin the next tile before it has ended one.
inline constexpr std::uint32_t record_batch = 8;

/// Teams of the relay that bring the rest of large packets.
inline constexpr std::uint32_t most_movers = 2;

/// What a team is to bring of a packet, and the announcement that is due then.
struct relay_job {
  std::uint64_t head;
  std::uint64_t rest;
  std::uint32_t elements;  ///< from `short_elements` on, up to this one
  std::uint32_t bulk;      ///< bytes; `no_more_jobs`: nothing will come
};
inline constexpr std::uint32_t no_more_jobs = 0xffff'ffff;

/// Shared memory of one block, beside the ops' scratch. No initialisers: device code does not allow them here.
template <class Ops>
struct superkernel_shared {
  static constexpr std::uint32_t record_bytes = sizeof(record_header) + Ops::largest_stride;

  union {
    alignas(16) std::byte records[record_batch][record_bytes];  // worker: the tiles it is about to run
    std::uint16_t arrivals[max_multiprocessors];                // start: blocks on each multiprocessor
  };
  std::uint32_t offsets[record_batch];
  tile_work works[record_batch];
  std::uint64_t announcement[2];
  std::uint32_t counted_ticket;  // worker, its last thread alone: what it will count
  std::uint32_t counted;
  std::uint32_t target;

  std::uint32_t failed;
  std::uint32_t takes_part;
  std::uint32_t number;
  std::uint32_t participants;
  std::uint32_t next_ticket;  // worker: to listen for
  std::uint32_t own_tiles;    // worker: that this block has in the packet

  std::uint32_t header[sizeof(packet_header) / 4];  // relay: of the packet that just arrived
  std::uint32_t targets[ring_slots];
  std::uint32_t first_worker;  // of the next packet
  relay_job jobs[most_movers];
  std::uint32_t stop_seen;
  std::uint32_t relay_done;
};

/// The T that lies aligned among bytes. No memcpy: from that, device code is made that reads byte by byte.
template <class T>
COHORT_DEVICE inline const T& read_as(const std::byte* at) {
  return *reinterpret_cast<const T*>(at);
}

/// Tells the host why this block leaves before its work is done.
template <class Grid>
COHORT_DEVICE inline void report(Grid& grid, const residency& parameters, ring_fault code, std::uint32_t ticket) {
  grid.store_release_system(&parameters.host->fault, make_fault(code, grid.block(), ticket));
}

}  // namespace cohort::inline COHORT_ABI::detail

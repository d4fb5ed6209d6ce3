// What host and device share: the memory of the packet ring and how its words are encoded. The superkernel and the
// host's half (ring_host.hpp) enter; nobody else needs to know it. Plain data, no CUDA.
//
// Who writes what. Every word has one writer at a time:
//   host   -> device   ring_slot, stop                              mapped pinned memory, system scope
//   device -> host     completions, gone, workers, fault            mapped pinned memory, system scope
//   relay  -> workers  announcements, device_slot                   device memory, device scope
//   workers together   counters, arrivals, start_barrier            device memory, device scope, only ever added to
//
// Tickets. The ring numbers packets by itself: 32 bits that wrap through zero, so that `ticket % ring_slots` never
// skips a slot. (Packet sequence numbers skip zero; the ring carries them as data.) Two rules make everything below
// sound:
//   (a) the host writes ticket t only when ticket t - ring_slots and all before it are complete;
//   (b) a ticket is complete when every block that has tiles in it has finished them.
#pragma once

#include <cohort/config.hpp>
#include <cohort/device/ring_fault.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI::detail {

/// Packets that can be in flight together.
inline constexpr std::uint32_t ring_slots = 32;

/// The first bytes of a packet travel in stamped elements, so that one look of the relay brings them with the doorbell:
/// all of small packets, with up to six ops of 64 bytes. So does all of a packet with up to 18 of them that finds the
/// device idle, for a wide look; that takes longer, and saves another trip over the bus. What is larger than that, or
/// follows others, brings its rest in the bulk: it is fetched while the relay looks for the next.
inline constexpr std::uint32_t short_elements = 128;
inline constexpr std::uint32_t short_bytes = short_elements * 4;
inline constexpr std::uint32_t wide_elements = 384;
inline constexpr std::uint32_t wide_bytes = wide_elements * 4;

/// What the second element says, where a packet has its size: the size, and this bit if it finds the device idle.
inline constexpr std::uint32_t finds_idle = 0x8000'0000;

COHORT_HD
constexpr std::uint32_t bytes_of(std::uint32_t size) { return size & ~finds_idle; }
/// How many bytes travel in elements.
COHORT_HD
constexpr std::uint32_t stamped_bytes(std::uint32_t size) {
  const std::uint32_t most = (size & finds_idle) != 0 ? wide_bytes : short_bytes;
  return bytes_of(size) <= most ? bytes_of(size) : short_bytes;
}

/// Announcements outlive the slot they speak of: see `announcement`.
inline constexpr std::uint32_t announcement_slots = 64;

/// Largest %smid + 1 that workers can be numbered by.
inline constexpr std::uint32_t max_multiprocessors = 512;

/// Bytes after a packet's slot that a block may read without looking: the largest record with one member.
inline constexpr std::uint32_t slot_overread = 16 + max_op_size;

/// A packet on its way to the device. An element is {stamp (high 32 bits): ticket, data (low 32 bits)}: 8 bytes are the
/// widest access that both memory models promise to be single-copy atomic, so an element with the right stamp has the
/// right data whatever else is under way. The host writes the bulk first and then, each with release, the elements; who
/// sees any element of a ticket (acquire) sees the whole bulk.
struct alignas(128) ring_slot {
  std::uint64_t elements[wide_elements];
  std::byte bulk[packet_capacity - short_bytes];
};

COHORT_HD
constexpr std::uint64_t make_element(std::uint32_t stamp, std::uint32_t data) {
  return static_cast<std::uint64_t>(stamp) << 32 | data;
}
COHORT_HD
constexpr std::uint32_t element_stamp(std::uint64_t element) { return static_cast<std::uint32_t>(element >> 32); }
COHORT_HD
constexpr std::uint32_t element_data(std::uint64_t element) { return static_cast<std::uint32_t>(element); }

/// The mapped part of the ring.
struct host_ring {
  /// Number of the launch that shall leave the device. Host writes.
  alignas(128) std::uint64_t stop;
  /// {launch number (high), first ticket that this residency did not take}: written by the relay when it leaves.
  alignas(128) std::uint64_t gone;
  /// Workers that the residency counted.
  std::uint64_t workers;
  /// 0, or a `ring_fault`. Several blocks may write it; any of them tells enough.
  std::uint64_t fault;
  /// Side by side, so that the host's poll reads few lines: the ticket that completed last in each slot.
  alignas(64) std::uint64_t completions[ring_slots];
  ring_slot slots[ring_slots];
};

COHORT_HD
constexpr std::uint64_t make_fault(ring_fault code, std::uint32_t block, std::uint32_t ticket) {
  return static_cast<std::uint64_t>(code) << 56 | static_cast<std::uint64_t>(block & 0xffffffu) << 32 | ticket;
}

/// What a fault word says, without where and when.
constexpr ring_fault fault_code(std::uint64_t word) { return static_cast<ring_fault>(word >> 56); }

/// What the relay tells the workers of a ticket, in two words that are read together.
///     words[0] = ticket 32 | tiles 32                 tiles 0: the residency ends here, this ticket is not taken
///     words[1] = ticket 14 | waits 1 | counted 1 | first worker 16 | tiles of each record 16 (0: not uniform) |
///                record stride / 16  16
/// The 14 bits only tie the second word to the first: what stood there before is at most some laps older.
///
/// A worker without tiles in a ticket delays nobody, so it may look for ticket t when a later one, t + 64 k, stands in
/// its place. By (a) and (b) t is complete then and the worker had no tiles in it: it goes on to t + 1. With as many
/// announcements as slots this would break when a residency ends: the relay announces the end at ticket e without a
/// commit of e, hence without proof that e - 32 is complete. The commit of e - 1, however, proves that e - 33 is, so
/// e - 64 may be overwritten.
struct alignas(128) announcement {
  std::uint64_t words[2];
};

struct announced {
  std::uint32_t ticket = 0;
  std::uint32_t tiles = 0;
  std::uint32_t first_worker = 0;
  std::uint32_t uniform_tiles = 0;
  std::uint32_t uniform_stride = 0;
  std::uint32_t waits = 0;    ///< 1: it comes after other packets
  std::uint32_t counted = 0;  ///< 1: its blocks count; 0: there is one, which knows that it was the last
};

inline constexpr std::uint64_t announcement_tie = 0x3fff;

COHORT_HD
constexpr std::uint64_t announcement_head(const announced& a) {
  return static_cast<std::uint64_t>(a.ticket) << 32 | a.tiles;
}
COHORT_HD
constexpr std::uint64_t announcement_rest(const announced& a) {
  return (a.ticket & announcement_tie) << 50 | static_cast<std::uint64_t>(a.waits) << 49 |
         static_cast<std::uint64_t>(a.counted) << 48 | static_cast<std::uint64_t>(a.first_worker) << 32 |
         static_cast<std::uint64_t>(a.uniform_tiles) << 16 | a.uniform_stride / 16;
}
COHORT_HD
constexpr announced read_announcement(std::uint64_t head, std::uint64_t rest) {
  return {static_cast<std::uint32_t>(head >> 32),
          static_cast<std::uint32_t>(head),
          static_cast<std::uint32_t>(rest >> 32) & 0xffffu,
          static_cast<std::uint32_t>(rest >> 16) & 0xffffu,
          (static_cast<std::uint32_t>(rest) & 0xffffu) * 16,
          static_cast<std::uint32_t>(rest >> 49) & 1u,
          static_cast<std::uint32_t>(rest >> 48) & 1u};
}
/// Whether both words speak of one ticket.
COHORT_HD
constexpr bool belong_together(std::uint64_t head, std::uint64_t rest) {
  return (head >> 32 & announcement_tie) == rest >> 50;
}

/// How far ticket `a` is after ticket `b`; negative when before it.
COHORT_HD
constexpr std::int32_t ticket_distance(std::uint32_t a, std::uint32_t b) { return static_cast<std::int32_t>(a - b); }

/// A packet in device memory. By (a) and (b) nobody reads it any more when the relay writes the next one here.
struct alignas(128) device_slot {
  std::byte packet[packet_capacity + slot_overread];
  std::uint32_t target;  ///< value of the slot's counter at which the packet is complete
  /// Of a packet that waits: the values of all slots' counters at which the packets before it are complete.
  std::uint32_t targets_before[ring_slots];
};

struct alignas(128) device_word {
  std::uint32_t value;
};

/// The part of the ring in device memory. Zeroed once, before the first launch.
struct device_ring {
  announcement announcements[announcement_slots];
  device_word counters[ring_slots];
  device_word start_barrier;
  /// Blocks that arrived on each multiprocessor, for odd and even launches: a launch counts in one and clears the
  /// other.
  std::uint32_t arrivals[2][max_multiprocessors];
  device_slot slots[ring_slots];
};

static_assert(std::is_trivial_v<host_ring> && std::is_trivial_v<device_ring>);
static_assert(sizeof(packet_header) <= short_bytes && short_bytes % 16 == 0);
static_assert(ring_slots <= 32, "a packet before another is one of the bits 0 to 30 of packet_header::after");
static_assert(announcement_slots > ring_slots + 1 && announcement_slots % ring_slots == 0);

/// Argument of a launch.
struct residency {
  host_ring* host = nullptr;
  device_ring* device = nullptr;
  std::uint64_t linger = 0;          ///< ns without a doorbell after which the residency ends
  std::uint64_t limit = 0;           ///< ns that one device-side wait may take
  std::uint64_t longest = 0;         ///< ns after which the residency ends though there is work; 0: no such bound
  std::uint32_t launch = 0;          ///< number of the launch, counted from 1, wraps
  std::uint32_t first = 0;           ///< ticket that is taken first
  std::uint32_t until = 0;           ///< when bounded: ticket that is not taken any more
  std::uint32_t bounded = 0;         ///< 1: ends at `until`
  std::uint32_t sm_budget = 0;       ///< multiprocessors that take part, at least 1
  std::uint32_t device_results = 0;  ///< 1: ops write device memory alone

  /// Where tiles of a packet meet (`tile_exchange`): for each ring slot `exchange_tiles` pieces of the op set's size,
  /// and as many counters, zeroed once, before the first launch. By (a) and (b) a slot's next packet finds them unused.
  std::uint32_t exchange_tiles = 0;
  std::byte* exchange_pieces = nullptr;
  std::uint32_t* exchange_counters = nullptr;
};

}  // namespace cohort::inline COHORT_ABI::detail

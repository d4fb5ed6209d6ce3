// The packet: the "very long instruction word" that goes to a backend in one doorbell. This room holds the layout
// alone; host and device read it, the packet builder writes it.
//
//     packet_header | record | record | ... | record_index[records]      (the index only when records are not uniform)
//     record = record_header | member | member | ...                      (members are op descriptors, stride of their
//     type)
//
// Everything is aligned to 16 bytes. Tiles are numbered through the packet in the order of the index, which need not be
// that of memory: a record owns [first_tile, first_tile + tiles).
#pragma once

#include <cohort/config.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI {

/// Bytes of the largest packet: one ring slot.
inline constexpr std::uint32_t packet_capacity = 1u << 16;

/// First 32 bytes of a packet.
struct alignas(16) packet_header {
  std::uint32_t sequence = 0;  ///< number of the packet, counted from 1; consecutive without gaps, wraps past zero to 1
  std::uint32_t bytes = 0;     ///< whole packet with this header, a multiple of 16
  std::uint32_t tiles = 0;     ///< over all records
  std::uint16_t records = 0;
  std::uint16_t uniform_tiles = 0;   ///< tiles of each record when all records are equal in tiles and size, else 0
  std::uint32_t uniform_stride = 0;  ///< bytes from record to record when uniform, else 0
  std::uint32_t index_offset = 0;    ///< bytes to the record_index table, 0 when uniform
  /// Packets that must be complete before a tile of this one starts. Bit i: the one that was committed i + 1 before it;
  /// bit 31: all that were committed 32 or more before it.
  std::uint32_t after = 0;
  std::uint32_t flags = 0;  ///< of `packet_flags`
};

/// Bits of `packet_header::flags`.
enum packet_flags : std::uint32_t {
  packet_is_followed = 1,  ///< a later one may come `after` it; without it none does
};

/// Where a record begins, so that a block finds the record of a tile with one read of this table.
struct record_index {
  std::uint32_t first_tile = 0;
  std::uint32_t offset = 0;  ///< bytes from the start of the packet to the record_header
};

inline constexpr std::uint32_t no_pieces = 0xffff'ffff;

/// First 16 bytes of a record; its members follow.
struct alignas(16) record_header {
  std::uint16_t op = 0;       ///< position in the op_set
  std::uint16_t members = 0;  ///< fused submissions, at least 1
  std::uint32_t first_tile = 0;
  std::uint32_t tiles = 0;
  /// Of the pieces of `tile_exchange` that the packet's records want, the first one of this record, one for each tile,
  /// in order of the tiles; `no_pieces` when it wants none.
  std::uint32_t first_piece = no_pieces;
};

static_assert(sizeof(packet_header) == 32 && std::is_trivially_copyable_v<packet_header>);
static_assert(sizeof(record_index) == 8 && std::is_trivially_copyable_v<record_index>);
static_assert(sizeof(record_header) == 16 && std::is_trivially_copyable_v<record_header>);

namespace detail {

/// Sequence numbers skip zero, which means "none" wherever a sequence number is stored.
constexpr std::uint32_t next_sequence(std::uint32_t sequence) noexcept { return sequence + 1 == 0 ? 1 : sequence + 1; }

}  // namespace detail

}  // namespace cohort::inline COHORT_ABI

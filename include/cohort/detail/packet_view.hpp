// How the host reads a packet: check it once when it is handed over, then find the records of its tiles. The device has
// its own reader. Internal; knows neither threads nor op types.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace cohort::inline COHORT_ABI::detail {

/// Reads a packet that passed `check_packet`. Does not own it.
class packet_view {
public:
  explicit packet_view(const std::byte* packet) noexcept : packet_(packet) {}

  const packet_header& header() const noexcept { return *reinterpret_cast<const packet_header*>(packet_); }

  const record_header& record(std::uint32_t position) const noexcept {
    const std::size_t offset = uniform() ? sizeof(packet_header) + std::size_t{header().uniform_stride} * position
                                         : std::size_t{index()[position].offset};
    return *reinterpret_cast<const record_header*>(packet_ + offset);
  }

  /// Position of the record that owns `tile`.
  std::uint32_t record_of(std::uint32_t tile) const noexcept {
    if (uniform()) return tile / header().uniform_tiles;
    const record_index* first = index();
    const record_index* after =
        std::upper_bound(first, first + header().records, tile,
                         [](std::uint32_t wanted, const record_index& entry) { return wanted < entry.first_tile; });
    return static_cast<std::uint32_t>(after - first) - 1;
  }

  /// Calls `run(record, first, last)` for each record's share of the tiles [first, last); tiles count from the record's
  /// first one.
  template <class Run>
  void for_each_record(std::uint32_t first, std::uint32_t last, Run run) const {
    for (std::uint32_t position = record_of(first); first < last; ++position) {
      const record_header& current = record(position);
      const std::uint32_t end = std::min(last, current.first_tile + current.tiles);
      run(current, first - current.first_tile, end - current.first_tile);
      first = end;
    }
  }

private:
  bool uniform() const noexcept { return header().uniform_tiles != 0; }
  const record_index* index() const noexcept {
    return reinterpret_cast<const record_index*>(packet_ + header().index_offset);
  }

  const std::byte* packet_;
};

/// Whether `packet` is one that workers may run over `ops` without looking back: everything in bounds and aligned,
/// every tile owned by exactly one record, and every piece that tiles meet in.
///
/// Errors: `misaligned` (the packet or something inside is not at a multiple of 16 bytes), `op_too_large` (more than
/// `packet_capacity` bytes), `bad_size` (sizes, counts or an op code that contradict each other, no tiles, or unknown
/// flags).
inline error_code check_packet(std::span<const std::byte> packet, std::span<const op_info> ops) noexcept {
  const error_code bad_size = errc::bad_size;
  if (reinterpret_cast<std::uintptr_t>(packet.data()) % 16 != 0) return errc::misaligned;
  if (packet.size() > packet_capacity) return errc::op_too_large;
  if (packet.size() < sizeof(packet_header) + sizeof(record_header)) return bad_size;

  const packet_view view(packet.data());
  const packet_header& header = view.header();
  if (header.bytes != packet.size() || header.bytes % 16 != 0) return bad_size;
  if (header.records == 0 || header.tiles == 0) return bad_size;
  if ((header.flags & ~std::uint32_t{packet_is_followed}) != 0) return bad_size;

  const bool uniform = header.uniform_tiles != 0;
  std::size_t end = header.bytes;
  if (uniform) {
    if (header.index_offset != 0) return bad_size;
    if (header.uniform_stride % 16 != 0) return errc::misaligned;
    if (header.uniform_stride < sizeof(record_header)) return bad_size;
    if (sizeof(packet_header) + std::size_t{header.uniform_stride} * header.records > end) return bad_size;
  } else {
    if (header.uniform_stride != 0) return bad_size;
    if (header.index_offset % 16 != 0) return errc::misaligned;
    if (header.index_offset < sizeof(packet_header) || header.index_offset > end) return bad_size;
    if (end - header.index_offset < sizeof(record_index) * header.records) return bad_size;
    end = header.index_offset;
  }

  std::uint64_t tiles = 0;
  std::uint64_t pieces = 0;
  for (std::uint32_t position = 0; position < header.records; ++position) {
    std::size_t offset = 0;
    std::size_t limit = end;
    if (uniform) {
      offset = sizeof(packet_header) + std::size_t{header.uniform_stride} * position;
      limit = offset + header.uniform_stride;
    } else {
      record_index entry;
      std::memcpy(&entry, packet.data() + header.index_offset + sizeof entry * position, sizeof entry);
      if (entry.offset % 16 != 0) return errc::misaligned;
      if (entry.offset < sizeof(packet_header) || entry.first_tile != tiles) return bad_size;
      offset = entry.offset;
      if (offset > limit || limit - offset < sizeof(record_header)) return bad_size;
    }
    const record_header& record = view.record(position);
    if (record.op >= ops.size() || record.members == 0) return bad_size;
    if (std::size_t{record.members} * ops[record.op].stride > limit - offset - sizeof(record_header)) return bad_size;
    if (record.first_tile != tiles || record.tiles == 0) return bad_size;
    if (uniform && record.tiles != header.uniform_tiles) return bad_size;
    if (record.first_piece != no_pieces && record.first_piece != pieces) return bad_size;
    tiles += record.tiles;
    if (record.first_piece != no_pieces) pieces += record.tiles;
  }
  return tiles == header.tiles ? error_code{} : bad_size;
}

}  // namespace cohort::inline COHORT_ABI::detail

// Shared by the tests of the schedule floor: ops without work, a packet decoder that trusts nothing, and a little
// harness that owns submissions.
#pragma once

#include <cohort/schedule/scheduler.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <vector>

namespace schedule_test {

using namespace std::chrono_literals;

/// Packed only. 24 bytes: the record's member is padded to 32.
struct odd_op {
  static constexpr const char* name = "odd";
  std::uint64_t id;
  std::uint32_t tile_count;
  std::uint32_t fill[3];
  std::uint32_t tiles() const { return tile_count; }
};

/// Fusable; each member brings its own tiles, and `plan` leaves a note in each copy.
struct alignas(16) fused_op {
  static constexpr const char* name = "fused";
  std::uint64_t id;
  std::uint32_t tile_count;
  std::uint32_t first_tile;
  std::uint64_t weights;
  std::uint64_t fill[5];

  static std::uint32_t plan(std::span<fused_op> members, const cohort::machine_shape&) {
    std::uint32_t tiles = 0;
    for (fused_op& one : members) {
      one.first_tile = tiles;
      tiles += one.tile_count;
    }
    return tiles;
  }
  /// As of an op that pads to two members.
  static double padding(std::span<const fused_op> members, const cohort::machine_shape&) {
    return members.size() % 2 == 0 ? 0 : 1 / (1.0 + static_cast<double>(members.size()));
  }
  template <class Context>
  static void run(Context&, const fused_op*, std::uint32_t, std::uint32_t) {}
  cohort::coalescing_key key() const { return {{weights, 0, 0, 0}}; }
  std::uint32_t rows() const { return 1; }
};

/// Fusable, with the largest descriptor there may be.
struct alignas(16) wide_op {
  static constexpr const char* name = "wide";
  std::uint64_t id;
  std::uint32_t tile_count;
  std::uint32_t fill[61];

  static std::uint32_t plan(std::span<wide_op> members, const cohort::machine_shape&) {
    std::uint32_t tiles = 0;
    for (const wide_op& one : members) tiles += one.tile_count;
    return tiles;
  }
  template <class Context>
  static void run(Context&, const wide_op*, std::uint32_t, std::uint32_t) {}
  cohort::coalescing_key key() const { return {{1, 2, 3, 4}}; }
  std::uint32_t rows() const { return 1; }
};

using ops = cohort::op_set<odd_op, fused_op, wide_op>;
inline constexpr auto op_table = ops::table();
inline constexpr std::uint16_t odd = 0;
inline constexpr std::uint16_t fused = 1;
inline constexpr std::uint16_t wide = 2;

static_assert(op_table[odd].stride == 32 && sizeof(odd_op) == 24);
static_assert(op_table[fused].stride == 64 && op_table[wide].stride == 256);
static_assert(!op_table[odd].fusable && op_table[fused].fusable && op_table[wide].fusable);

template <class T>
T read(std::span<const std::byte> bytes, std::size_t offset) {
  T value;
  REQUIRE(offset + sizeof(T) <= bytes.size());
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

struct decoded_record {
  cohort::record_header header;
  std::uint32_t offset = 0;
  std::vector<std::uint64_t> ids;  ///< first word of each member
};

struct decoded_packet {
  cohort::packet_header header;
  std::vector<decoded_record> records;

  std::vector<std::uint64_t> ids() const {
    std::vector<std::uint64_t> all;
    for (const decoded_record& one : records) all.insert(all.end(), one.ids.begin(), one.ids.end());
    return all;
  }
};

/// The record of a tile, found as a device does: by division in a uniform packet, else in the table.
inline std::uint32_t offset_of_tile(std::span<const std::byte> packet, std::uint32_t tile) {
  const auto header = read<cohort::packet_header>(packet, 0);
  if (header.uniform_tiles != 0) {
    return static_cast<std::uint32_t>(sizeof header) + tile / header.uniform_tiles * header.uniform_stride;
  }
  std::uint32_t low = 0;
  std::uint32_t high = header.records;
  while (high - low > 1) {
    const std::uint32_t middle = (low + high) / 2;
    const auto entry = read<cohort::record_index>(packet, header.index_offset + middle * sizeof(cohort::record_index));
    (entry.first_tile <= tile ? low : high) = middle;
  }
  return read<cohort::record_index>(packet, header.index_offset + low * sizeof(cohort::record_index)).offset;
}

/// Walks the records as they lie, whose strides it takes from the op table, and checks all that packet.hpp says of the
/// layout.
/// Every tile is looked up when there are few, else the first and last of each record.
template <std::size_t N>
decoded_packet decode(std::span<const std::byte> packet, const std::array<cohort::op_info, N>& table,
                      std::uint32_t all_tiles_below = 1000) {
  decoded_packet result;
  result.header = read<cohort::packet_header>(packet, 0);
  const cohort::packet_header& header = result.header;
  REQUIRE(reinterpret_cast<std::uintptr_t>(packet.data()) % 16 == 0);
  REQUIRE(header.bytes == packet.size());
  REQUIRE(header.bytes % 16 == 0);
  REQUIRE(header.bytes <= cohort::packet_capacity);
  REQUIRE(header.sequence != 0);
  REQUIRE(header.records > 0);
  REQUIRE((header.flags & ~std::uint32_t{cohort::packet_is_followed}) == 0);

  std::uint32_t at = sizeof header;
  std::uint32_t tile = 0;
  std::uint32_t piece = 0;
  bool alike = true;
  std::uint32_t first_size = 0;
  for (std::uint32_t r = 0; r < header.records; ++r) {
    decoded_record one;
    one.offset = at;
    one.header = read<cohort::record_header>(packet, at);
    REQUIRE(one.header.op < table.size());
    REQUIRE(one.header.members > 0);
    REQUIRE(one.header.tiles > 0);
    const std::uint32_t stride = table[one.header.op].stride;
    for (std::uint32_t m = 0; m < one.header.members; ++m) {
      one.ids.push_back(read<std::uint64_t>(packet, at + sizeof(cohort::record_header) + m * stride));
    }
    const auto size = static_cast<std::uint32_t>(sizeof(cohort::record_header) + one.header.members * stride);
    if (r == 0) first_size = size;
    alike = alike && size == first_size && (r == 0 || one.header.tiles == result.records[0].header.tiles);
    at += size;
    result.records.push_back(one);
  }
  std::vector<decoded_record> in_order = result.records;
  std::ranges::sort(in_order, {}, [](const decoded_record& one) { return one.header.first_tile; });
  for (std::uint32_t r = 0; r < header.records; ++r) {
    REQUIRE(in_order[r].header.first_tile == tile);
    tile += in_order[r].header.tiles;
    if (in_order[r].header.first_piece != cohort::no_pieces) {
      REQUIRE(in_order[r].header.first_piece == piece);
      piece += in_order[r].header.tiles;
    }
    alike = alike && in_order[r].offset == result.records[r].offset;
  }
  REQUIRE(tile == header.tiles);
  if (alike && result.records[0].header.tiles <= 65535) {
    REQUIRE(header.uniform_tiles == result.records[0].header.tiles);
    REQUIRE(header.uniform_stride == first_size);
    REQUIRE(header.index_offset == 0);
    REQUIRE(header.bytes == at);
  } else {
    REQUIRE(header.uniform_tiles == 0);
    REQUIRE(header.uniform_stride == 0);
    REQUIRE(header.index_offset == at);
    REQUIRE(header.bytes == (at + header.records * sizeof(cohort::record_index) + 15) / 16 * 16);
    for (std::uint32_t r = 0; r < header.records; ++r) {
      const auto entry = read<cohort::record_index>(packet, header.index_offset + r * sizeof(cohort::record_index));
      REQUIRE(entry.first_tile == in_order[r].header.first_tile);
      REQUIRE(entry.offset == in_order[r].offset);
    }
  }
  for (const decoded_record& one : result.records) {
    const std::uint32_t first = one.header.first_tile;
    const std::uint32_t last = first + (one.header.tiles - 1);
    if (header.tiles < all_tiles_below) {
      for (std::uint32_t t = first; t <= last; ++t) REQUIRE(offset_of_tile(packet, t) == one.offset);
    } else {
      REQUIRE(offset_of_tile(packet, first) == one.offset);
      REQUIRE(offset_of_tile(packet, last) == one.offset);
    }
  }
  return result;
}

/// A submission with its descriptor, which both stay where they are.
struct node : cohort::submission {
  union {
    odd_op as_odd;
    fused_op as_fused;
    wide_op as_wide{};
  };

  node() = default;
  node(const node&) = delete;
};

/// Owner of submissions and of storage for one packet.
struct workshop {
  std::deque<node> nodes;
  alignas(16) std::byte storage[cohort::packet_capacity];

  static constexpr cohort::time_point at(std::chrono::nanoseconds since) { return cohort::time_point{since}; }

  /// A new submission, whose descriptor carries its number in `nodes` as id. `key` 0: never fused.
  node& make(std::uint16_t op, std::uint32_t tiles = 1, std::uint64_t key = 0) {
    node& one = nodes.emplace_back();
    const std::uint64_t id = nodes.size() - 1;
    switch (op) {
      case odd: one.as_odd = {.id = id, .tile_count = tiles, .fill = {}}; break;
      case fused: one.as_fused = {.id = id, .tile_count = tiles, .first_tile = 77, .weights = key, .fill = {}}; break;
      default: one.as_wide = {.id = id, .tile_count = tiles, .fill = {}}; break;
    }
    one.op = &one.as_wide;
    one.op_bytes = op == odd ? sizeof(odd_op) : op == fused ? sizeof(fused_op) : sizeof(wide_op);
    one.op_index = op;
    one.key = {{key, 0, 0, 0}};
    return one;
  }
};

inline std::size_t length(const cohort::submission* list) {
  std::size_t count = 0;
  for (; list != nullptr; list = list->next) ++count;
  return count;
}

}  // namespace schedule_test

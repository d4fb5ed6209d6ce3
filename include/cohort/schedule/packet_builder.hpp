// Writes packets as packet.hpp lays them out, and does nothing else: what goes together is decided above this room.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <span>
#include <utility>

namespace cohort::inline COHORT_ABI {

namespace detail {

/// Copies a descriptor of `bytes` into a place of `stride` bytes (`bytes` rounded up to 16) and zeroes what is between,
/// so that equal packets are equal in every byte. Sizes that ops usually have are copied without a call.
inline void copy_member(std::byte* to, const void* from, std::uint32_t bytes, std::uint32_t stride) noexcept {
  switch (bytes) {
    case 16: std::memcpy(to, from, 16); return;
    case 32: std::memcpy(to, from, 32); return;
    case 48: std::memcpy(to, from, 48); return;
    case 64: std::memcpy(to, from, 64); return;
    case 80: std::memcpy(to, from, 80); return;
    case 96: std::memcpy(to, from, 96); return;
    case 128: std::memcpy(to, from, 128); return;
    default: break;
  }
  std::memset(to + stride - 16, 0, 16);
  std::memcpy(to, from, bytes);
}

}  // namespace detail

/// One packet at a time: `begin`, then records (`open`, `append`..., `close` or `drop`), then `finish`.
/// Single-threaded; allocates in its constructor alone.
///
/// Workers take tiles in their order, and a packet ends with its last one. So records whose tiles take longest have the
/// first tiles, wherever they lie: Graham's rule of the longest processing time (Bounds on multiprocessing timing
/// anomalies, 1969), which is never more than a third from the best.
class packet_builder {
public:
  /// Smallest storage in which one record with one member of `stride` bytes fits.
  static constexpr std::uint32_t bytes_for(std::uint32_t stride) noexcept {
    return sizeof(packet_header) + sizeof(record_header) + stride + index_bytes(1);
  }

  packet_builder()
      : index_(std::make_unique<record_index[]>(most_records)),
        in_order_(std::make_unique<record_index[]>(most_records)),
        lengths_(std::make_unique<std::uint16_t[]>(most_records)) {}

  /// Starts packet `sequence` in `storage`, aligned to 16 bytes. At most `packet_capacity` bytes of it are used.
  void begin(std::span<std::byte> storage, std::uint32_t sequence) noexcept {
    assert(reinterpret_cast<std::uintptr_t>(storage.data()) % 16 == 0);
    data_ = storage.data();
    capacity_ = static_cast<std::uint32_t>(std::min<std::size_t>(storage.size(), packet_capacity)) / 16 * 16;
    sequence_ = sequence;
    end_ = sizeof(packet_header);
    tiles_ = 0;
    records_ = 0;
    pieces_ = 0;
    after_ = 0;
    first_stride_ = 0;
    uniform_ = true;
    newest_tiles_ = 0;  // no record is like that
    longest_ = 0;
    shortest_ = std::numeric_limits<std::uint16_t>::max();
    longest_first_ = true;
  }

  /// Members of `stride` bytes that one more record could hold, 0 when it could not hold any. Room for the index is
  /// always kept free: whether it is needed is known only when the last record is closed.
  std::uint32_t room(std::uint32_t stride) const noexcept {
    const std::uint32_t taken = end_ + sizeof(record_header) + index_bytes(records_ + 1u);
    if (taken >= capacity_) return 0;
    return std::min((capacity_ - taken) / stride, std::uint32_t{std::numeric_limits<std::uint16_t>::max()});
  }

  /// Whether `room(stride) > 0`.
  bool has_room(std::uint32_t stride) const noexcept {
    return end_ + sizeof(record_header) + stride + index_bytes(records_ + 1u) <= capacity_;
  }

  /// A record of one member that is so much work, whose copy `plan` plans. Returns the tiles; 0, and no record, when
  /// there are none, or more than the packet can count. Precondition: `has_room(stride)`, and no record is open.
  ///
  /// \param weight in any unit that all records of a packet share
  template <class Plan>
  std::uint32_t add_alone(std::uint16_t op, const void* descriptor, std::uint32_t bytes, std::uint32_t stride,
                          std::int64_t weight, Plan&& plan) noexcept {
    assert((bytes + 15) / 16 * 16 == stride && has_room(stride));
    std::byte* const record = data_ + end_;
    detail::copy_member(record + sizeof(record_header), descriptor, bytes, stride);
    const planned_tiles tiles = plan(record + sizeof(record_header));
    if (tiles.count == 0 || tiles.count > std::numeric_limits<std::uint32_t>::max() - tiles_) return 0;
    add_record(op, 1, static_cast<std::uint32_t>(sizeof(record_header)) + stride, tiles, weight);
    return tiles.count;
  }

  /// The member of the record that `add_alone` has just made.
  const void* newest(std::uint32_t stride) const noexcept { return data_ + end_ - stride; }

  /// Starts a record. Precondition: `room(stride) > 0`, and no record is open.
  void open(std::uint16_t op, std::uint32_t stride) noexcept {
    assert(stride % 16 == 0 && stride > 0 && room(stride) > 0);
    op_ = op;
    stride_ = stride;
    members_ = 0;
    tail_ = end_ + sizeof(record_header);
  }

  /// Copies one member behind those of the open record. Precondition: the record has room; `bytes` rounded up to 16 is
  /// its stride.
  void append(const void* descriptor, std::uint32_t bytes) noexcept {
    assert((bytes + 15) / 16 * 16 == stride_ && tail_ + stride_ + index_bytes(records_ + 1u) <= capacity_);
    detail::copy_member(data_ + tail_, descriptor, bytes, stride_);
    tail_ += stride_;
    ++members_;
  }

  /// The members of the open record, contiguous, for `op_info::plan`.
  void* members() const noexcept { return data_ + end_ + sizeof(record_header); }
  std::uint32_t member_count() const noexcept { return members_; }

  /// Ends the open record. False: the packet's tiles would exceed 32 bits; the record is still open. Preconditions: it
  /// has at least one member, and at least one tile.
  ///
  /// \param weight as of `add_alone`
  bool close(planned_tiles tiles, std::int64_t weight = 0) noexcept {
    assert(members_ > 0 && tiles.count > 0);
    if (tiles.count > std::numeric_limits<std::uint32_t>::max() - tiles_) return false;
    add_record(op_, static_cast<std::uint16_t>(members_), tail_ - end_, tiles, weight);
    return true;
  }

  /// Forgets the open record.
  void drop() noexcept {
    members_ = 0;
    tail_ = end_;
  }

  std::uint32_t records() const noexcept { return records_; }
  std::uint32_t tiles() const noexcept { return tiles_; }

  /// The packet must come after these, as `packet_header::after` counts them, too.
  void come_after(std::uint32_t packets) noexcept { after_ |= packets; }

  /// Writes header and index and returns the packet. Precondition: at least one record was closed, none is open.
  std::span<const std::byte> finish(std::uint32_t flags = 0) noexcept {
    assert(records_ > 0);
    packet_header header{
        .sequence = sequence_, .bytes = end_, .tiles = tiles_, .records = static_cast<std::uint16_t>(records_)};
    header.after = after_;
    header.flags = flags;
    if (!longest_first_) {
      const bool moved = put_longest_first();
      uniform_ = uniform_ && !moved;
    }
    if (uniform_) {
      header.uniform_tiles = static_cast<std::uint16_t>(first_tiles_);
      header.uniform_stride = first_stride_;
    } else {
      header.index_offset = end_;
      header.bytes = end_ + index_bytes(records_);
      std::memset(data_ + header.bytes - 16, 0, 16);  // the last 8 bytes are padding when the number of records is odd
      std::memcpy(data_ + end_, index_.get(), records_ * sizeof(record_index));
    }
    write(0, header);
    return {data_, header.bytes};
  }

private:
  /// A record of `bytes`, whose members are in their place.
  void add_record(std::uint16_t op, std::uint16_t members, std::uint32_t bytes, planned_tiles planned,
                  std::int64_t weight) noexcept {
    const std::uint32_t tiles = planned.count;
    write(end_, record_header{.op = op,
                              .members = members,
                              .first_tile = tiles_,
                              .tiles = tiles,
                              .first_piece = planned.want_exchange ? pieces_ : no_pieces});
    if (planned.want_exchange) pieces_ += tiles;
    if (weight != newest_weight_ || tiles != newest_tiles_) [[unlikely]]
      note_length(weight, tiles);  // mostly records are like the one before
    lengths_[records_] = newest_length_;
    if (records_ == 0) {
      first_stride_ = bytes;
      first_tiles_ = tiles;
      uniform_ = tiles <= std::numeric_limits<std::uint16_t>::max();
    } else {
      uniform_ = uniform_ && bytes == first_stride_ && tiles == first_tiles_;
    }
    index_[records_] = {.first_tile = tiles_, .offset = end_};
    ++records_;
    tiles_ += tiles;
    end_ += bytes;
  }

  /// How long a tile of the next record takes, in quarters of an octave: exponent and two bits of a float. Finer is
  /// worth no sorting.
  void note_length(std::int64_t weight, std::uint32_t tiles) noexcept {
    newest_weight_ = weight;
    newest_tiles_ = tiles;
    newest_length_ = static_cast<std::uint16_t>(
        std::bit_cast<std::uint32_t>(static_cast<float>(weight) / static_cast<float>(tiles)) >> 21);
    longest_first_ = longest_first_ && newest_length_ <= shortest_;
    longest_ = std::max(longest_, newest_length_);
    shortest_ = std::min(shortest_, newest_length_);
  }

  /// Numbers tiles and pieces anew: those of long tiles first, else in order of arrival. Lengths are sorted by
  /// counting; what is 16 octaves shorter than the longest is all the same. False: they were in this order.
  bool put_longest_first() noexcept {
    constexpr std::uint32_t most_classes = 64;
    const std::uint32_t classes = std::min<std::uint32_t>(longest_ - shortest_ + 1u, most_classes);
    const auto class_of = [&](std::uint32_t record) {
      return std::min<std::uint32_t>(longest_ - lengths_[record], classes - 1);
    };
    std::array<std::uint32_t, most_classes> next;  // counts, then where the next one of the class goes
    std::fill_n(next.begin(), classes, 0u);
    for (std::uint32_t record = 0; record < records_; ++record) ++next[class_of(record)];
    std::exclusive_scan(next.begin(), next.begin() + classes, next.begin(), 0u);
    bool moved = false;
    for (std::uint32_t record = 0; record < records_; ++record) {
      const std::uint32_t position = next[class_of(record)]++;
      moved = moved || position != record;
      in_order_[position] = index_[record];
    }
    tiles_ = pieces_ = 0;
    for (std::uint32_t position = 0; position < records_; ++position) {
      record_index& entry = in_order_[position];
      record_header header;
      std::memcpy(&header, data_ + entry.offset, sizeof header);
      entry.first_tile = header.first_tile = std::exchange(tiles_, tiles_ + header.tiles);
      if (header.first_piece != no_pieces) header.first_piece = std::exchange(pieces_, pieces_ + header.tiles);
      write(entry.offset, header);
    }
    index_.swap(in_order_);
    return moved;
  }

  static constexpr std::uint32_t index_bytes(std::uint32_t records) noexcept {
    return (records * static_cast<std::uint32_t>(sizeof(record_index)) + 15) / 16 * 16;
  }

  static constexpr std::uint32_t most_records =
      (packet_capacity - sizeof(packet_header)) / (sizeof(record_header) + 16 + sizeof(record_index));
  static_assert(most_records <= std::numeric_limits<std::uint16_t>::max());

  template <class T>
  void write(std::uint32_t offset, const T& value) noexcept {
    std::memcpy(data_ + offset, &value, sizeof value);
  }

  std::unique_ptr<record_index[]> index_;  // gathered aside: its place is known only when the last record is closed
  std::unique_ptr<record_index[]> in_order_;
  std::unique_ptr<std::uint16_t[]> lengths_;  // of the tiles of each record
  std::byte* data_ = nullptr;
  std::uint32_t capacity_ = 0;
  std::uint32_t sequence_ = 0;
  std::uint32_t end_ = 0;   // of the closed records
  std::uint32_t tail_ = 0;  // of the open one
  std::uint32_t tiles_ = 0;
  std::uint32_t records_ = 0;
  std::uint32_t pieces_ = 0;  // that its records want
  std::uint32_t after_ = 0;
  std::uint32_t members_ = 0;
  std::uint32_t stride_ = 0;
  std::uint32_t first_stride_ = 0;
  std::uint32_t first_tiles_ = 0;
  std::int64_t newest_weight_ = 0;
  std::uint32_t newest_tiles_ = 0;
  std::uint16_t newest_length_ = 0;
  std::uint16_t op_ = 0;
  std::uint16_t longest_ = 0;  // of all records
  std::uint16_t shortest_ = 0;
  bool uniform_ = true;
  bool longest_first_ = true;
};

}  // namespace cohort::inline COHORT_ABI

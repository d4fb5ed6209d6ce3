// Packets for tests of backends and of the superkernel's protocol: random ones of every form, whose tiles show whether
// they ran once. Compiled by host compilers and by nvcc. Tests only.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>
#include <cohort/schedule/packet_builder.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <map>
#include <random>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace cohort::testing {

/// Adds input + 1 to each of a tile's outputs: any tile that ran twice or not at all shows.
struct alignas(16) add_op {
  static constexpr const char* name = "add";
  static constexpr std::uint32_t width = 4;  ///< outputs of a tile, shared out over the threads
  std::uint32_t* out;
  const std::uint32_t* in;
  std::uint32_t count;
  std::uint32_t unused = 0;

  std::uint32_t tiles() const { return count; }

  COHORT_HD
  static void add(std::uint32_t* out, std::uint32_t value, std::uint32_t rank, std::uint32_t size) {
    for (std::uint32_t i = rank; i < width; i += size) out[i] += value;
  }

  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    add(out + tile * width, in[tile] + 1, context.rank(), context.size());
  }
};

/// The same, fused: members side by side, each with its own outputs. `first` is the note that `plan` leaves.
struct alignas(16) fused_op {
  static constexpr const char* name = "fused";
  std::uint32_t* out;
  const std::uint32_t* in;
  std::uint32_t count;
  std::uint32_t first = 0;
  std::uint64_t unused = 0;

  static std::uint32_t plan(std::span<fused_op> members, const machine_shape&) {
    std::uint32_t tiles = 0;
    for (fused_op& member : members) {
      member.first = tiles;
      tiles += member.count;
    }
    return tiles;
  }

  template <class Context>
  COHORT_HD
  static void run(Context& context, const fused_op* members, std::uint32_t count, std::uint32_t tile) {
    std::uint32_t which = 0;
    while (which + 1 < count && members[which + 1].first <= tile) ++which;
    const fused_op& mine = members[which];
    const std::uint32_t own = tile - mine.first;
    add_op::add(mine.out + own * add_op::width, mine.in[own] + 1, context.rank(), context.size());
  }
};

/// The largest descriptor there is: it adds nothing when a byte of it is wrong.
struct alignas(16) wide_op {
  static constexpr const char* name = "wide";
  static constexpr std::uint32_t words = 58;
  std::uint32_t* out;
  const std::uint32_t* in;
  std::uint32_t count;
  std::uint32_t seed;
  std::uint32_t bulk[words];

  void fill() {
    for (std::uint32_t i = 0; i < words; ++i) bulk[i] = seed * 31 + i;
  }

  std::uint32_t tiles() const { return count; }

  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    for (std::uint32_t i = 0; i < words; ++i) {
      if (bulk[i] != seed * 31 + i) return;
    }
    add_op::add(out + tile * add_op::width, in[tile] + 1, context.rank(), context.size());
  }
};
static_assert(sizeof(wide_op) == max_op_size);

/// Each tile writes the sum of all words of `in`, plus one: what the tiles of a packet before it have written shows.
struct alignas(16) follow_op {
  static constexpr const char* name = "follow";
  std::uint32_t* out;
  const std::uint32_t* in;
  std::uint32_t count;   ///< words of `out`, and tiles
  std::uint32_t inputs;  ///< words of `in`

  std::uint32_t tiles() const { return count; }

  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    if (context.rank() != 0) return;
    std::uint32_t sum = 1;
    for (std::uint32_t i = 0; i < inputs; ++i) sum += in[i];
    out[tile] = sum;
  }
};

/// Does whatever a test wants, in the first thread of the block. For host threads.
struct alignas(16) call_op {
  static constexpr const char* name = "call";
  void (*function)(void*, std::uint32_t tile);
  void* argument;
  std::uint32_t count;
  std::uint32_t unused[3] = {};

  std::uint32_t tiles() const { return count; }
  template <class Context>
  void run(Context& context, std::uint32_t tile) const {
    if (context.rank() == 0) function(argument, tile);
  }
};

/// Where the buffers of a packet source come from; the default is the heap.
struct word_memory {
  std::uint32_t* (*allocate)(void*, std::size_t words) = [](void*, std::size_t words) {
    return static_cast<std::uint32_t*>(std::calloc(words, sizeof(std::uint32_t)));
  };
  void (*release)(void*, std::uint32_t*) = [](void*, std::uint32_t* words) { std::free(words); };
  void* argument = nullptr;
};

enum class outcome { untouched, done, broken };

/// Builds packets over `Ops`, which must hold the three ops above, and keeps what their tiles shall have written.
template <class Ops>
class packet_source {
public:
  explicit packet_source(word_memory memory = {}) : memory_(memory), storage_(packet_capacity / sizeof(piece)) {}

  packet_source(const packet_source&) = delete;
  packet_source& operator=(const packet_source&) = delete;

  ~packet_source() {
    for (auto& [sequence, buffers] : expected_) release(buffers);
    release(current_);
  }

  void begin() {
    ++sequence_;
    builder_.begin(std::as_writable_bytes(std::span(storage_)), sequence_);
    release(current_);
  }

  /// A record of `members` ops with `tiles` tiles each.
  template <class Op>
  void add(std::uint32_t tiles, std::uint32_t members = 1) {
    builder_.open(Ops::template index_of<Op>, detail::member_stride<Op>);
    for (std::uint32_t i = 0; i < members; ++i) {
      const buffer data = make_buffer(tiles);
      Op op{};
      op.out = data.out;
      op.in = data.in;
      op.count = tiles;
      if constexpr (std::is_same_v<Op, wide_op>) {
        op.seed = sequence_ + i;
        op.fill();
      }
      builder_.append(&op, sizeof op);
    }
    close<Op>();
  }

  /// A record that calls, in an op set with `call_op`.
  void call(void (*function)(void*, std::uint32_t), void* argument, std::uint32_t tiles = 1) {
    append(call_op{function, argument, tiles});
  }

  /// A record of one op that the source knows nothing of.
  template <class Op>
  void append(const Op& op) {
    builder_.open(Ops::template index_of<Op>, detail::member_stride<Op>);
    builder_.append(&op, sizeof op);
    close<Op>();
  }

  void come_after(std::uint32_t packets) { builder_.come_after(packets); }

  bool room_for(std::uint32_t stride) const { return builder_.room(stride) > 0; }

  /// Valid until the next `begin`.
  std::span<const std::byte> finish(std::uint32_t flags = 0) {
    const std::span<const std::byte> packet = builder_.finish(flags);
    expected_[sequence_] = std::exchange(current_, {});
    return packet;
  }

  std::span<const std::byte> one(std::uint32_t tiles = 1) {
    begin();
    add<add_op>(tiles);
    return finish();
  }

  template <class Op>
  std::span<const std::byte> single(const Op& op) {
    begin();
    append(op);
    return finish();
  }

  std::span<const std::byte> random(std::mt19937& random) {
    begin();
    const auto pick = [&](std::uint32_t limit) { return static_cast<std::uint32_t>(random() % limit); };
    switch (pick(5)) {
      case 0: add<add_op>(1 + pick(3)); break;
      case 1: {  // uniform; sometimes more than the inline part of a slot
        const std::uint32_t tiles = 1 + pick(4);
        const std::uint32_t records = 1 + pick(pick(4) == 0 ? 200 : 8);
        for (std::uint32_t i = 0; i < records; ++i) add<add_op>(tiles);
        break;
      }
      case 2: {  // a mixture
        const std::uint32_t records = 1 + pick(12);
        for (std::uint32_t i = 0; i < records; ++i) {
          switch (pick(3)) {
            case 0: add<add_op>(1 + pick(9)); break;
            case 1: add<fused_op>(1 + pick(3), 1 + pick(6)); break;
            default: add<wide_op>(1 + pick(5)); break;
          }
        }
        break;
      }
      case 3: {  // uniform and fused
        const std::uint32_t records = 1 + pick(5);
        for (std::uint32_t i = 0; i < records; ++i) add<fused_op>(2, 3);
        break;
      }
      default: add<wide_op>(1 + pick(3)); break;
    }
    return finish();
  }

  /// Sequence number of the packet that was begun last.
  std::uint32_t last() const { return sequence_; }

  /// What the tiles of a packet did, as far as the source knows their ops.
  outcome check(std::uint32_t sequence) const {
    const auto found = expected_.find(sequence);
    if (found == expected_.end()) return outcome::broken;
    bool untouched = true;
    bool done = true;
    for (const buffer& data : found->second) {
      for (std::uint32_t i = 0; i < data.tiles * add_op::width; ++i) {
        untouched = untouched && data.out[i] == 0;
        done = done && data.out[i] == data.in[i / add_op::width] + 1;
      }
    }
    return done ? outcome::done : untouched ? outcome::untouched : outcome::broken;
  }

  /// Precondition: nothing writes the packet's buffers any more.
  void forget(std::uint32_t sequence) {
    const auto found = expected_.find(sequence);
    if (found == expected_.end()) return;
    release(found->second);
    expected_.erase(found);
  }

private:
  struct buffer {
    std::uint32_t* in;
    std::uint32_t* out;
    std::uint32_t tiles;
  };
  struct alignas(16) piece {
    std::byte bytes[16];
  };

  buffer make_buffer(std::uint32_t tiles) {
    std::uint32_t* const words = memory_.allocate(memory_.argument, std::size_t{tiles} * (1 + add_op::width));
    if (words == nullptr) std::abort();
    const buffer data{words, words + tiles, tiles};
    for (std::uint32_t i = 0; i < tiles; ++i) data.in[i] = sequence_ * 7 + i;
    for (std::uint32_t i = 0; i < tiles * add_op::width; ++i) data.out[i] = 0;
    current_.push_back(data);
    return data;
  }

  void release(std::deque<buffer>& buffers) {
    for (const buffer& data : buffers) memory_.release(memory_.argument, data.in);
    buffers.clear();
  }

  template <class Op>
  void close() {
    const op_info info = table[Ops::template index_of<Op>];
    // Every other packet has its tiles in another order than its records.
    const std::int64_t weight = sequence_ % 2 == 0 ? 0 : ++closed_ * 7919 % 1000;
    const bool closed = builder_.close(
        info.plan(builder_.members(), builder_.member_count(), machine_shape{.workers = 3, .host = false}), weight);
    if (!closed) std::abort();
  }

  static constexpr auto table = Ops::table();

  word_memory memory_;
  std::vector<piece> storage_;
  packet_builder builder_;
  std::int64_t closed_ = 0;
  std::uint32_t sequence_ = 0;
  std::deque<buffer> current_;
  std::map<std::uint32_t, std::deque<buffer>> expected_;
};

}  // namespace cohort::testing

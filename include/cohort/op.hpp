// What an op is: the contract between those who write ops and everything that schedules and runs them. Host and device
// code share this room; it knows neither executor nor scheduler.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI {

/// What an op may know of the device when it cuts itself into tiles.
struct machine_shape {
  /// Thread blocks that are resident together, or host worker threads. To `plan`: the op's share of them, by its work
  /// and that of the others which are pending or in flight; it decides about speed and must not change a result.
  std::uint32_t workers = 1;
  bool host = true;  ///< one thread computes a whole tile (host backend), or a block of threads does (device)
};

/// What an op costs by its shape. The scheduler turns it into time with the backend's measured rates.
struct op_cost {
  std::uint64_t flops = 0;  ///< floating-point operations, a multiply-add counted as two
  std::uint64_t bytes = 0;  ///< bytes read and written once each

  friend constexpr bool operator==(const op_cost&, const op_cost&) = default;
};

/// Says which ops may be fused: ops of one type with equal keys. Keys are compared whole, so they hold every parameter
/// that the fused form takes from its first member (weight pointers, N, K, flags). The all-zero key means: never fuse.
struct coalescing_key {
  std::array<std::uint64_t, 4> words{};

  // Written out: of an array the compilers make a call of memcmp, and this is asked for every submission.
  friend constexpr bool operator==(const coalescing_key& a, const coalescing_key& b) noexcept {
    return ((a.words[0] ^ b.words[0]) | (a.words[1] ^ b.words[1]) | (a.words[2] ^ b.words[2]) |
            (a.words[3] ^ b.words[3])) == 0;
  }
  constexpr explicit operator bool() const noexcept { return (words[0] | words[1] | words[2] | words[3]) != 0; }
};

/// Largest op descriptor in bytes. Descriptors travel to the device with each submission: 64 bytes are worth aiming at.
inline constexpr std::size_t max_op_size = 256;

/// Device memory in which the tiles of one record meet: a piece of `device_exchange_bytes` and a counter for each tile,
/// side by side. It belongs to the record from the start of its packet until the packet is complete. Pieces are
/// uninitialised; counters are zero, and must be zero again when the last of the record's tiles ends.
struct tile_exchange {
  std::byte* pieces = nullptr;        ///< that of tile 0
  std::uint32_t* counters = nullptr;  ///< that of tile 0
  std::uint32_t tiles = 0;            ///< how many of the record's tiles, from tile 0 on, have a piece and a counter
  std::uint32_t stride = 0;           ///< bytes from one piece to the next, at least what the op declares
};

/// A tile of a record, as a worker meets it.
struct tile_work {
  const void* members = nullptr;
  std::uint32_t count = 0;  ///< of members
  std::uint32_t tile = 0;   ///< of the record
  tile_exchange exchange{};
};

/// An op whose work is one piece, or some independent tiles, of its own: `tiles()` and `run(context, tile) const`.
template <class Op>
concept self_contained_op = requires(const Op& op) {
  { op.tiles() } -> std::convertible_to<std::uint32_t>;
};

/// An op that plans tiles for a group of members (one member when nothing is fused):
///
///     static std::uint32_t plan(std::span<Op> members, const machine_shape&);  // host; may write into the members
///     template <class Context> COHORT_HD static void run(Context&, const Op* members, std::uint32_t count,
///     std::uint32_t tile);
///
/// An op whose tiles gain from knowing what comes next may also offer `run_batch(Context&, const tile_work*,
/// std::uint32_t count)`, which a device worker calls with several of its tiles at once.
///
/// `plan` works on the copies that go into the packet, so it may leave notes for `run` there (row offsets, a variant).
/// It must not throw (nor may `tiles`, `key`, `rows` and `cost`): the scheduler calls it in the middle of a packet.
template <class Op>
concept planned_op = requires(std::span<Op> members, const machine_shape& shape) {
  { Op::plan(members, shape) } -> std::convertible_to<std::uint32_t>;
};

/// A planned op that others may join: `coalescing_key key() const` and `std::uint32_t rows() const`, the share of a
/// fused op's height that this member takes.
template <class Op>
concept fusable_op = planned_op<Op> && requires(const Op& op) {
  { op.key() } -> std::same_as<coalescing_key>;
  { op.rows() } -> std::convertible_to<std::uint32_t>;
};

/// One unit of GPU work described by value. Required: a trivially copyable struct of at most `max_op_size` bytes with a
/// `static constexpr const char* name` and one of the two forms above. Optional members:
///
/// - `error_code check() const`: host-side check of the descriptor, called before the op is accepted;
/// - `op_cost cost() const`: feeds the scheduler's estimate of device time;
/// - `static constexpr std::uint32_t device_scratch_bytes` / `host_scratch_bytes`: storage behind `context.scratch()`;
/// - of an op with `run_batch`, `static constexpr std::uint32_t device_exchange_bytes`: device memory of each tile in
///   `tile_work::exchange`, a multiple of 128. There is some for as many tiles of a packet as the device has blocks;
///   the op must do without where `exchange.tiles` says so;
/// - of such an op, `static bool wants_exchange(std::span<const Op> members)`: after `plan`, whether any tile will ask
///   for it. What they do not want is left to others;
/// - of a planned op, `static double padding(std::span<const Op> members, const machine_shape&)`: after `plan`, the
/// part
///   of what its tiles compute, 0 to below 1, that lies beyond the result. Only observers are told.
template <class Op>
concept op = std::is_trivially_copyable_v<Op> && sizeof(Op) <= max_op_size && alignof(Op) <= 16 && requires {
  { Op::name } -> std::convertible_to<const char*>;
} && (self_contained_op<Op> || planned_op<Op>);

namespace detail {

template <class Op>
constexpr std::uint32_t device_scratch_bytes() {
  if constexpr (requires { Op::device_scratch_bytes; }) {
    return Op::device_scratch_bytes;
  } else {
    return 0;
  }
}

template <class Op>
constexpr std::uint32_t device_exchange_bytes() {
  if constexpr (requires { Op::device_exchange_bytes; }) {
    static_assert(Op::device_exchange_bytes % 128 == 0);
    return Op::device_exchange_bytes;
  } else {
    return 0;
  }
}

template <class Op>
constexpr std::uint32_t host_scratch_bytes() {
  if constexpr (requires { Op::host_scratch_bytes; }) {
    return Op::host_scratch_bytes;
  } else {
    return 0;
  }
}

/// Bytes from one member to the next inside a record: descriptors are read in 16-byte pieces.
template <class Op>
inline constexpr std::uint32_t member_stride = (sizeof(Op) + 15) / 16 * 16;

template <class Op>
error_code check(const Op& op) {
  if constexpr (requires { op.check(); }) {
    return op.check();
  } else {
    return {};
  }
}

template <class Op>
op_cost cost(const Op& op) {
  if constexpr (requires { op.cost(); }) {
    return op.cost();
  } else {
    return {};
  }
}

/// Runs one tile of a record on either backend.
template <class Op, class Context>
COHORT_HD
void run_tile(Context& context, const Op* members, std::uint32_t count, std::uint32_t tile) {
  if constexpr (planned_op<Op>) {
    Op::run(context, members, count, tile);
  } else {
    members->run(context, tile);
  }
}

/// Of a context what decides whether an op offers `run_batch` for it.
struct some_block {
  static constexpr bool cooperative = true;
};

/// Whether a device hands the op several tiles at once.
template <class Op>
inline constexpr bool takes_batches =
    requires(some_block& context, const tile_work* works) { Op::run_batch(context, works, 1u); };

/// Runs `count` tiles, which is 1 for an op that takes no batches: a loop would take registers from it.
template <class Op, class Context>
COHORT_HD
void run_tiles(Context& context, const tile_work* works, std::uint32_t count) {
  if constexpr (requires { Op::run_batch(context, works, count); }) {
    Op::run_batch(context, works, count);
  } else {
    run_tile(context, static_cast<const Op*>(works->members), works->count, works->tile);
  }
}

}  // namespace detail

/// What members come to when they are planned.
struct planned_tiles {
  std::uint32_t count = 0;     ///< 0: nothing to do
  bool want_exchange = false;  ///< some will ask for `tile_exchange`
};

/// What the scheduler and the packet builder know of one op type, without its type.
struct op_info {
  const char* name = "";
  std::uint32_t stride = 0;  ///< bytes of one member in a record, a multiple of 16
  bool fusable = false;
  /// Cuts `count` contiguous members, `stride` bytes apart, into tiles.
  planned_tiles (*plan)(void* members, std::uint32_t count, const machine_shape&) = nullptr;
  /// Of members that were planned: the part of the work that is padding. Null: the op does not say.
  double (*padding)(const void* members, std::uint32_t count, const machine_shape&) = nullptr;
};

namespace detail {

template <class Op>
planned_tiles plan_erased(void* members, std::uint32_t count, const machine_shape& shape) {
  if constexpr (planned_op<Op>) {
    static_assert(sizeof(Op) % 16 == 0, "a planned op's size must be a multiple of 16 bytes (declare it alignas(16))");
    const std::span<Op> all(static_cast<Op*>(members), count);
    const std::uint32_t tiles = Op::plan(all, shape);
    if constexpr (requires { Op::wants_exchange(all); }) {
      return {tiles, Op::wants_exchange(all)};
    } else {
      return {tiles, device_exchange_bytes<Op>() != 0};
    }
  } else {
    (void)count;
    (void)shape;
    return {static_cast<const Op*>(members)->tiles(), device_exchange_bytes<Op>() != 0};
  }
}

template <class Op>
constexpr auto padding_erased() -> double (*)(const void*, std::uint32_t, const machine_shape&) {
  if constexpr (requires(std::span<const Op> members, const machine_shape& shape) { Op::padding(members, shape); }) {
    return [](const void* members, std::uint32_t count, const machine_shape& shape) {
      return Op::padding(std::span<const Op>(static_cast<const Op*>(members), count), shape);
    };
  } else {
    return nullptr;
  }
}

template <class Op>
constexpr op_info info_of() {
  return op_info{.name = Op::name,
                 .stride = member_stride<Op>,
                 .fusable = fusable_op<Op>,
                 .plan = &plan_erased<Op>,
                 .padding = padding_erased<Op>()};
}

template <class Op, class... Ops>
constexpr std::uint16_t position_of() {
  std::uint16_t position = 0;
  (void)((std::is_same_v<Op, Ops> ? true : (++position, false)) || ...);
  return position;
}

}  // namespace detail

/// The list of ops that one superkernel is made of. Registers and shared memory of the kernel are the maximum over the
/// list.
template <op... Ops>
struct op_set {
  static constexpr std::size_t size = sizeof...(Ops);
  static_assert(size > 0, "an op_set needs at least one op");
  static_assert(size < 65535, "an op_set holds at most 65534 ops");

  template <class Op>
  static constexpr bool contains = (std::is_same_v<Op, Ops> || ...);

  /// Position of `Op` in the list: its code in packets.
  template <class Op>
  static constexpr std::uint16_t index_of = detail::position_of<Op, Ops...>();

  static constexpr std::uint32_t device_scratch_bytes = std::max({detail::device_scratch_bytes<Ops>()...});

  /// Bytes between the pieces of a `tile_exchange`.
  static constexpr std::uint32_t device_exchange_bytes = std::max({detail::device_exchange_bytes<Ops>()...});

  static constexpr std::uint32_t host_scratch_bytes = std::max({detail::host_scratch_bytes<Ops>()...});

  /// Largest member of a record in bytes.
  static constexpr std::uint32_t largest_stride = std::max({detail::member_stride<Ops>...});

  /// The erased view that scheduler and packet builder use, indexed by op code.
  static constexpr std::array<op_info, size> table() { return {detail::info_of<Ops>()...}; }

  /// Whether a device may hand `run` more than one tile of this op.
  COHORT_HD
  static constexpr bool takes_batches(std::uint16_t index) {
    std::uint16_t position = 0;
    return ((index == position++ && detail::takes_batches<Ops>) || ...);
  }

  /// Runs `count` tiles of records whose op code is `index`: a static switch, so that ops are inlined into one kernel.
  template <class Context>
  COHORT_HD_INLINED static void run(std::uint16_t index, Context& context, const tile_work* works,
                                    std::uint32_t count) {
    std::uint16_t position = 0;
    (void)((index == position++ ? (detail::run_tiles<Ops>(context, works, count), true) : false) || ...);
  }

  /// Runs one tile.
  template <class Context>
  COHORT_HD
  static void run(std::uint16_t index, Context& context, const void* members, std::uint32_t count, std::uint32_t tile) {
    const tile_work one{members, count, tile};
    run(index, context, &one, 1);
  }
};

}  // namespace cohort::inline COHORT_ABI

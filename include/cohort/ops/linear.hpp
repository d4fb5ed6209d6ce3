// The op of a linear layer, y = act(x w^T + bias) + residual: its descriptor, its checks, and how several of them with
// the same weights become one taller product. Users enter here; the tile engines are in ops/gemm/.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/activation.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/ops/gemm/block.hpp>
#include <cohort/ops/gemm/host.hpp>
#include <cohort/types.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops {

/// Sizes of a linear layer: `rows` of x and y, `n` features of y, `k` features of x.
struct linear_shape {
  std::size_t rows = 0;
  std::size_t n = 0;
  std::size_t k = 0;
};

/// y[rows][n] = act(x[rows][k] w[n][k]^T + bias[n]) + residual[rows][n], the product of torch.nn.Linear. All matrices
/// are dense and row-major; sums are fp32 and are rounded to T once, after the residual. Make one with `make_linear` or
/// a `linear_layer`.
///
/// Pointers are aligned to their element; 16 bytes, and n and k multiples of 16 bytes, are fast. `y` may be the
/// residual itself (y += act(...)) and may not overlap anything else that the op reads. On the device a block has 128
/// threads.
///
/// Ops with the same w, bias, n, k, activation and either all or none with a residual fuse: their rows are stacked and
/// the weights are read once. An element of y depends on its row of x, on w, bias, residual and the sizes n and k
/// alone, to the bit: not on the other rows, nor on alignment, nor on the tile shape that a packet gets. (On another
/// kind of backend, device or host instruction set the last bits may differ.)
template <element T>
struct alignas(16) linear {
  using value_type = T;
  static constexpr const char* name = std::is_same_v<T, float>  ? "linear<fp32>"
                                      : std::is_same_v<T, fp16> ? "linear<fp16>"
                                                                : "linear<bf16>";
  static constexpr std::uint32_t device_scratch_bytes = detail::gemm::block_scratch_bytes;
  static constexpr std::uint32_t device_exchange_bytes = detail::gemm::part_bytes;
  static constexpr std::uint32_t host_scratch_bytes = sizeof(detail::gemm::host_scratch);

  const T* x = nullptr;
  const T* w = nullptr;
  const T* bias = nullptr;      ///< null: none
  const T* residual = nullptr;  ///< null: none
  T* y = nullptr;
  std::uint32_t row_count = 0;
  std::uint32_t n = 0;
  std::uint32_t k = 0;
  activation act = activation::none;
  std::uint8_t fault = 0;        ///< what `make_linear` found wrong: an errc, 0 for nothing
  std::uint8_t variant = 0;      ///< note of `plan`: the tile shape
  std::uint8_t parts = 1;        ///< note of `plan`: tiles that share one piece of the product, each a segment of K
  std::uint32_t first_row = 0;   ///< note of `plan`: where this member's rows begin in the stack
  std::uint32_t total_rows = 0;  ///< note of `plan`: rows of the stack

  /// null_pointer, misaligned, buffer_too_small, bad_size, shape_mismatch or aliasing; no error if the op may run.
  error_code check() const;

  /// Share of a fused op's height. At most 2^32 - 1 rows may be fused.
  std::uint32_t rows() const noexcept { return row_count; }

  coalescing_key key() const noexcept {
    const std::uint64_t form = std::uint64_t{1} << 63 | static_cast<std::uint64_t>(act) << 1 | (residual != nullptr);
    return {{reinterpret_cast<std::uintptr_t>(w), reinterpret_cast<std::uintptr_t>(bias), std::uint64_t{n} << 32 | k,
             form}};
  }

  op_cost cost() const noexcept {
    const std::uint64_t outputs = std::uint64_t{row_count} * n;
    const std::uint64_t elements = std::uint64_t{row_count} * k + std::uint64_t{n} * k + outputs +
                                   (residual != nullptr ? outputs : 0) + (bias != nullptr ? n : 0);
    return {.flops = 2 * outputs * k, .bytes = elements * sizeof(T)};
  }

  static std::uint32_t plan(std::span<linear> members, const machine_shape& shape);

  /// Tiles meet where a tile is shared by segments of K.
  static bool wants_exchange(std::span<const linear> members) noexcept;

  /// Rows and features of the tiles that the product has not, over all that the tiles have.
  static double padding(std::span<const linear> members, const machine_shape& shape);

#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // the host engine is called from here, but only for a host context
#endif
  template <class Context>
  COHORT_HD
  static void run(Context& context, const linear* members, std::uint32_t count, std::uint32_t tile) {
    if constexpr (Context::cooperative) {
      const tile_work one{members, count, tile, {}};
      detail::gemm::run_block<linear>(context, &one, 1);
    } else {
      detail::gemm::run_host(context.scratch(), members, count, tile);
    }
  }

  template <class Context>
  COHORT_HD
  static void run_batch(Context& context, const tile_work* works, std::uint32_t count)
    requires(Context::cooperative)
  {
    detail::gemm::run_block<linear>(context, works, count);
  }
};

namespace detail {

/// Elements that one matrix of an op may have: more than any memory holds, and few enough that tiles fit 32 bits.
inline constexpr std::uint64_t largest_matrix = std::uint64_t{1} << 38;

/// Elements of a matrix, or 0 when a size is 0 or too large.
constexpr std::uint64_t matrix_size(std::uint64_t rows, std::uint64_t columns) {
  if (rows == 0 || columns == 0 || rows > largest_side || columns > largest_side) return 0;
  return rows * columns <= largest_matrix ? rows * columns : 0;
}

template <class T>
bool overlap(const T* a, std::uint64_t a_size, const T* b, std::uint64_t b_size) {
  const auto a_begin = reinterpret_cast<std::uintptr_t>(a);
  const auto b_begin = reinterpret_cast<std::uintptr_t>(b);
  return a_begin < b_begin + b_size * sizeof(T) && b_begin < a_begin + a_size * sizeof(T);
}

/// Whether any of them is.
template <class T, class... Pointers>
bool misaligned(Pointers... all) {
  return (reinterpret_cast<std::uintptr_t>(all) | ...) % alignof(T) != 0;  // alignments are powers of two
}

}  // namespace detail

template <element T>
error_code linear<T>::check() const {
  if (fault != 0) return static_cast<errc>(fault);
  if (x == nullptr || w == nullptr || y == nullptr) return errc::null_pointer;
  if (detail::misaligned<T>(x, w, y, bias, residual)) return errc::misaligned;
  // As `matrix_size` says, of three sides together: every submission comes through here. The largest side is one less
  // than a power of two, and the largest matrix is one, so the bits of all say whether one is too large.
  const std::uint64_t x_size = std::uint64_t{row_count} * k;
  const std::uint64_t w_size = std::uint64_t{n} * k;
  const std::uint64_t y_size = std::uint64_t{row_count} * n;
  if (row_count == 0 || n == 0 || k == 0 || (row_count | n | k) > detail::largest_side ||
      ((x_size - 1) | (w_size - 1) | (y_size - 1)) >= detail::largest_matrix || act > activation::tanh) {
    return errc::bad_size;
  }
  if (detail::overlap<T>(y, y_size, x, x_size) || detail::overlap<T>(y, y_size, w, w_size) ||
      (bias != nullptr && detail::overlap<T>(y, y_size, bias, n)) ||
      (residual != nullptr && residual != y && detail::overlap<T>(y, y_size, residual, y_size))) {
    return errc::aliasing;
  }
  return {};
}

/// Makes the op. Mistakes are recorded in it and come out of `check()`, which the executor calls before it accepts an
/// op: null_pointer for an empty x, w or y; bad_size for a size that is zero or too large; buffer_too_small;
/// shape_mismatch for a bias that has not n elements; and what `linear::check` finds. Buffers may be larger than the op
/// needs, except the bias. An empty `bias` or `residual` means none.
template <element T>
linear<T> make_linear(std::type_identity_t<std::span<const T>> x, std::type_identity_t<std::span<const T>> w,
                      std::type_identity_t<std::span<const T>> bias, std::type_identity_t<std::span<T>> y,
                      const linear_shape& shape, activation act = activation::none,
                      std::type_identity_t<std::span<const T>> residual = {}) {
  linear<T> op;
  const auto failed = [&op](errc e) {
    op.fault = static_cast<std::uint8_t>(e);
    return op;
  };
  if (x.data() == nullptr || w.data() == nullptr || y.data() == nullptr) return failed(errc::null_pointer);
  const std::uint64_t x_size = detail::matrix_size(shape.rows, shape.k);
  const std::uint64_t w_size = detail::matrix_size(shape.n, shape.k);
  const std::uint64_t y_size = detail::matrix_size(shape.rows, shape.n);
  if (x_size == 0 || w_size == 0 || y_size == 0) return failed(errc::bad_size);
  if (x.size() < x_size || w.size() < w_size || y.size() < y_size || (!residual.empty() && residual.size() < y_size)) {
    return failed(errc::buffer_too_small);
  }
  if (!bias.empty() && bias.size() != shape.n) return failed(errc::shape_mismatch);
  op.x = x.data();
  op.w = w.data();
  op.bias = bias.empty() ? nullptr : bias.data();
  op.residual = residual.empty() ? nullptr : residual.data();
  op.y = y.data();
  op.row_count = static_cast<std::uint32_t>(shape.rows);
  op.n = static_cast<std::uint32_t>(shape.n);
  op.k = static_cast<std::uint32_t>(shape.k);
  op.act = act;
  return op;
}

/// The weights of a linear layer: views that the caller keeps alive and unchanged until the last op made from them has
/// completed. `w` is [n][k], `bias` empty or [n].
template <element T>
struct linear_layer {
  std::span<const T> w;
  std::span<const T> bias;
  std::size_t n = 0;
  std::size_t k = 0;
  activation act = activation::none;

  /// The op y = act(x w^T + bias) + residual. Its rows are as many as x holds: x.size() must be a multiple of k, and y
  /// and a residual must have exactly as many rows (else `check()` says shape_mismatch, or buffer_too_small). `y` may
  /// be the residual.
  linear<T> operator()(std::span<const T> x, std::span<T> y, std::span<const T> residual = {}) const {
    const std::size_t rows = k == 0 ? 0 : x.size() / k;
    linear<T> op = make_linear<T>(x, w, bias, y, {rows, n, k}, act, residual);
    const bool fits = rows * k == x.size() && rows * n == y.size() && n * k == w.size() &&
                      (residual.empty() || residual.size() == y.size());
    if (op.fault == 0 && !fits) op.fault = static_cast<std::uint8_t>(errc::shape_mismatch);
    return op;
  }
};

namespace detail {

/// Stacks the members of a fused op: where each one's rows begin. Returns the rows of all. Not inlined, as the next:
/// the compiler makes much of their loops, and most ops are alone and pass none.
template <element T>
[[gnu::noinline]] std::uint32_t stack(std::span<linear<T>> members) {
  std::uint32_t total = 0;
  for (linear<T>& member : members) {
    member.first_row = total;
    total += member.row_count;
  }
  return total;
}

/// Tells the others what was planned with the first.
template <element T>
[[gnu::noinline]] void share_plan(std::span<linear<T>> members) {
  const linear<T> first = members.front();
  for (linear<T>& member : members.subspan(1)) {
    member.total_rows = first.total_rows;
    member.variant = first.variant;
    member.parts = first.parts;
  }
}

}  // namespace detail

template <element T>
std::uint32_t linear<T>::plan(std::span<linear> members, const machine_shape& shape) {
  linear& first = members.front();
  first.first_row = 0;
  const std::uint32_t total = members.size() == 1 ? first.row_count : detail::stack(members);
  detail::gemm::block_choice chosen{};
  std::uint64_t tiles = 0;
  if (shape.host) {
    const std::uint32_t columns = detail::gemm::choose_host_columns(total, first.n, first.k, shape.workers);
    chosen.variant = static_cast<std::uint8_t>(columns / detail::gemm::host_chunk);
    tiles = detail::gemm::tiles_of(total, first.n, {detail::gemm::host_rows, columns});
  } else {
    chosen = detail::gemm::choose_block<T>(total, first.n, first.k, shape.workers);
    tiles = detail::gemm::block_tiles<T>(total, first.n, chosen.variant) * chosen.parts;
  }
  first.total_rows = total;
  first.variant = chosen.variant;
  first.parts = chosen.parts;
  if (members.size() > 1) detail::share_plan(members);
  return static_cast<std::uint32_t>(tiles);
}

template <element T>
bool linear<T>::wants_exchange(std::span<const linear> members) noexcept {
  return members.front().parts > 1;
}

template <element T>
double linear<T>::padding(std::span<const linear> members, const machine_shape& shape) {
  const linear& first = members.front();
  // A thread of the host computes the rows that there are, and features in chunks; a block computes whole tiles.
  const auto extent =
      shape.host ? detail::gemm::tile_extent{1, detail::gemm::host_chunk} : detail::gemm::block_tile<T>(first.variant);
  const auto computed =
      static_cast<double>(detail::gemm::tiles_of(first.total_rows, first.n, extent)) * extent.rows * extent.columns;
  return 1 - static_cast<double>(first.total_rows) * first.n / computed;
}

static_assert(sizeof(linear<float>) == 64 && fusable_op<linear<float>> && op<linear<bf16>> && op<linear<fp16>>);

}  // namespace cohort::inline COHORT_ABI::ops

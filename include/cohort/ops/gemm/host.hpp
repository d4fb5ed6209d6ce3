// GEMM tiles of one host thread: blocking for its caches, and the choice of instruction set. ops/linear.hpp enters.
// Host code only.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/gemm/host_kernels.hpp>
#include <cohort/ops/gemm/rows.hpp>
#include <cohort/types.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// A tile takes all its rows past each piece of the weights, so that a fused op of up to `host_rows` rows reads its
/// weights from memory once.
inline constexpr std::uint32_t host_rows = 64;
inline constexpr std::uint32_t host_columns = 128;  ///< at most; see choose_host_columns
inline constexpr std::uint32_t host_depth = 1024;   ///< of one pass over K. It is part of the order of additions.
inline constexpr std::uint32_t host_panel = 8;      ///< features whose weights stay in L1 (32 KB) while all rows pass

/// Floats from one copied row to the next: aligned to cache lines, and neighbouring rows begin in different cache sets.
inline constexpr std::uint32_t host_pitch = host_depth + 16;

/// The storage of a host tile.
struct host_scratch {
  alignas(128) float panel[host_panel][host_pitch];  ///< weights in fp32
  alignas(128) float sums[host_rows][host_columns];
  alignas(128) float bias[host_columns];
  alignas(128) float wide[host_columns];
  alignas(128) std::byte rows[host_rows * sizeof(tile_row<float>)];  ///< tile_row<T> of any T: pointers alone
  alignas(128) float x[host_rows][host_pitch];                       ///< rows of x in fp32
};

/// Rows from which on it pays to copy operands.
inline constexpr std::uint32_t host_copy_rows = 4;

/// Instruction sets by rank: a processor that has one has those before it.
enum class host_isa : std::uint8_t { portable, avx2, avx512 };

template <host_isa Isa>
inline constexpr int host_width = Isa == host_isa::avx512 ? 16
                                  : Isa == host_isa::avx2 ? 8
                                                          : 4;

/// Rows that the inner loop takes at a time: with four features each, what the vector registers hold.
template <host_isa Isa>
inline constexpr std::uint32_t host_register_rows = Isa == host_isa::avx512 ? 4 : 2;

inline host_isa detect_host_isa() noexcept {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return host_isa::portable;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return wide ? host_isa::avx512 : host_isa::avx2;
#else
  return host_isa::portable;
#endif
}

/// Features of a tile, a multiple of host_chunk: about four tiles for each worker, as long as a tile is worth handing
/// out.
inline std::uint32_t choose_host_columns(std::uint64_t rows, std::uint32_t n, std::uint32_t k, std::uint32_t workers) {
  constexpr std::uint64_t worthwhile = 1u << 16;  // multiply-adds: some microseconds
  const std::uint64_t per_column = std::min<std::uint64_t>(rows, host_rows) * k;
  const std::uint64_t down = (rows + host_rows - 1) / host_rows;
  const std::uint64_t across = std::max<std::uint64_t>(1, (std::uint64_t{workers} * 4 + down - 1) / down);
  const std::uint64_t wanted = std::max<std::uint64_t>(n / across, worthwhile / std::max<std::uint64_t>(1, per_column));
  const std::uint64_t rounded = (wanted + host_chunk - 1) / host_chunk * host_chunk;
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(rounded, host_chunk, host_columns));
}

/// All rows of a tile past one panel of weights.
template <class T>
struct host_pass {
  const float* const* x;
  std::uint32_t height;
  std::uint32_t depth;  ///< a multiple of the vector's width
  float* sums;          ///< of the panel's first feature
  std::uint32_t quads;  ///< groups of four features
  bool accumulate;
  const T* const* next;  ///< the weights of the next panel (or once more this one), wanted soon
};

/// Asks for the weights of the next panel, a part at a time, while the rows pass the present one.
template <class T>
COHORT_GEMM_INLINE void prefetch_next(const host_pass<T>& pass, std::uint32_t row, std::uint32_t rows) {
  constexpr std::uint32_t line = 64 / sizeof(T);
  const std::uint32_t lines = (pass.depth + line - 1) / line;
  const std::uint32_t end = lines * (row + rows) / pass.height;
  for (std::uint32_t i = lines * row / pass.height; i < end; ++i) {
    for (std::uint32_t f = 0; f < host_panel; ++f) __builtin_prefetch(pass.next[f] + i * line, 0, 2);
  }
}

template <host_isa Isa, class T, class W>
COHORT_GEMM_INLINE void run_pass(const host_pass<T>& pass, const W* const (&w)[host_panel]) {
  constexpr int width = host_width<Isa>;
  constexpr std::uint32_t together = host_register_rows<Isa>;
  std::uint32_t r = 0;
  for (; r + together <= pass.height; r += together) {
    prefetch_next(pass, r, together);
    for (std::uint32_t quad = 0; quad < pass.quads; ++quad) {
      multiply_rows<width, together>(pass.x + r, w + quad * 4, pass.depth, pass.sums + r * host_columns + quad * 4,
                                     host_columns, pass.accumulate);
    }
  }
  for (; r < pass.height; ++r) {
    prefetch_next(pass, r, 1);
    for (std::uint32_t quad = 0; quad < pass.quads; ++quad) {
      multiply_rows<width, 1>(pass.x + r, w + quad * 4, pass.depth, pass.sums + r * host_columns + quad * 4,
                              host_columns, pass.accumulate);
    }
  }
}

/// Weights of the `host_panel` features from `feature` on; the last feature stands in for those past the end.
template <class Op>
COHORT_GEMM_INLINE void panel_of(const Op& op, std::uint32_t feature, std::uint32_t k0,
                                 const typename Op::value_type* (&w)[host_panel]) {
  for (std::uint32_t f = 0; f < host_panel; ++f) {
    w[f] = op.w + static_cast<std::size_t>(std::min(feature + f, op.n - 1)) * op.k + k0;
  }
}

template <host_isa Isa, class Op>
COHORT_GEMM_INLINE void host_tile(host_scratch& scratch, const Op* members, std::uint32_t count, std::uint32_t tile) {
  using T = typename Op::value_type;
  constexpr int width = host_width<Isa>;
  const Op& op = *members;
  auto* const rows = reinterpret_cast<tile_row<T>*>(scratch.rows);
  const std::uint32_t columns = op.variant * host_chunk;
  const std::uint32_t down = (op.total_rows + host_rows - 1) / host_rows;
  const std::uint32_t first_row = tile % down * host_rows;
  const std::uint32_t first = tile / down * columns;
  const std::uint32_t height = std::min(host_rows, op.total_rows - first_row);
  const std::uint32_t features = std::min(columns, op.n - first);

  const Op* member = std::upper_bound(members, members + count, first_row,
                                      [](std::uint32_t row, const Op& m) { return row < m.first_row; }) -
                     1;
  for (std::uint32_t r = 0; r < height; ++r) {
    while (first_row + r >= member->first_row + member->row_count) ++member;
    rows[r] = row_of(*member, first_row + r);
  }

  for (std::uint32_t k0 = 0; k0 < op.k; k0 += host_depth) {
    const std::uint32_t depth = std::min(host_depth, op.k - k0);
    const std::uint32_t padded = (depth + width - 1) / width * width;
    // For a few rows weights are read where they are, if their length suits the vectors. Copies, which are fp32,
    // aligned and spread over the cache's sets, pay when several rows use them. The values are the same either way.
    const bool in_place = depth == padded && height < host_copy_rows;
    const float* x[host_rows];
    for (std::uint32_t r = 0; r < height; ++r) {
      if constexpr (std::is_same_v<T, float>) {
        if (in_place) {
          x[r] = rows[r].x + k0;
          continue;
        }
      }
      widen(rows[r].x + k0, depth, padded, scratch.x[r]);
      x[r] = scratch.x[r];
    }
    const T* next[host_panel];
    panel_of(op, first, k0, next);
    for (std::uint32_t f = 0; f < features; f += host_panel) {
      const T* present[host_panel];
      std::copy_n(next, host_panel, present);
      if (f + host_panel < features) panel_of(op, first + f + host_panel, k0, next);
      host_pass<T> pass{x, height, padded, &scratch.sums[0][f], features - f > 4 ? 2u : 1u, k0 != 0, next};
      if (in_place) {
        run_pass<Isa>(pass, present);
      } else {
        const float* panel[host_panel];
        for (std::uint32_t i = 0; i < host_panel; ++i) {
          widen(present[i], depth, padded, scratch.panel[i]);
          panel[i] = scratch.panel[i];
        }
        run_pass<Isa>(pass, panel);
      }
    }
  }

  const std::uint32_t padded = (features + host_chunk - 1) / host_chunk * host_chunk;
  if (op.bias != nullptr) {
    widen(op.bias + first, features, padded, scratch.bias);
  } else {
    std::fill_n(scratch.bias, padded, 0.0f);
  }
  for (std::uint32_t r = 0; r < height; ++r) {
    std::fill(scratch.sums[r] + features, scratch.sums[r] + padded, 0.0f);
    finish_row(op.act, scratch.sums[r], scratch.bias, rows[r].residual == nullptr ? nullptr : rows[r].residual + first,
               features, rows[r].y + first, scratch.wide);
  }
}

#if defined(__x86_64__)
template <class Op>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"), flatten)) inline void host_tile_avx512(
    host_scratch& scratch, const Op* members, std::uint32_t count, std::uint32_t tile) {
  host_tile<host_isa::avx512>(scratch, members, count, tile);
}

template <class Op>
__attribute__((target("avx2,fma"), flatten)) inline void host_tile_avx2(host_scratch& scratch, const Op* members,
                                                                        std::uint32_t count, std::uint32_t tile) {
  host_tile<host_isa::avx2>(scratch, members, count, tile);
}
#endif

template <class Op>
inline void host_tile_portable(host_scratch& scratch, const Op* members, std::uint32_t count, std::uint32_t tile) {
  host_tile<host_isa::portable>(scratch, members, count, tile);
}

/// One tile with the instructions of `isa`, which the processor must have. `scratch`: sizeof(host_scratch) bytes.
template <class Op>
inline void run_host(std::byte* storage, const Op* members, std::uint32_t count, std::uint32_t tile,
                     host_isa isa = detect_host_isa()) {
  host_scratch& scratch = *reinterpret_cast<host_scratch*>(storage);
  switch (isa) {
#if defined(__x86_64__)
    case host_isa::avx512: return host_tile_avx512(scratch, members, count, tile);
    case host_isa::avx2: return host_tile_avx2(scratch, members, count, tile);
#endif
    default: return host_tile_portable(scratch, members, count, tile);
  }
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

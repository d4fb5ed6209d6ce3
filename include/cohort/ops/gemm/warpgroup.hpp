// Tensor cores of Hopper: four warps multiply slices that lie in shared memory (wgmma). Device code is PTX for sm_90a;
// host code computes the same from where the instruction would read. The tensor engine enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/ops/gemm/primitives.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

/// 1 where wgmma exists: sm_90a alone (no later generation has it), and the host's emulation.
#if COHORT_DEVICE_PASS
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define COHORT_GEMM_HAS_WGMMA 1
#else
#define COHORT_GEMM_HAS_WGMMA 0
#endif
#else
#define COHORT_GEMM_HAS_WGMMA 1
#endif

namespace cohort::inline COHORT_ABI::ops::detail::gemm {

/// What an engine multiplies with.
enum class arithmetic : std::uint8_t {
  scalar,  ///< multiply-adds of single threads
  mma,     ///< tensor cores, a warp at a time
  wgmma,   ///< tensor cores, four warps at a time
};

/// The best that the device in question has for 16-bit types.
inline constexpr arithmetic native_arithmetic = COHORT_GEMM_HAS_WGMMA != 0 ? arithmetic::wgmma
                                                : COHORT_GEMM_HAS_MMA != 0 ? arithmetic::mma
                                                                           : arithmetic::scalar;

/// Where 16-byte piece `piece` of row `row` lies among rows of 128 bytes. The pieces of a row are permuted so that one
/// piece of 8 successive rows, which is what is read at a time, covers all 32 banks. (The 128-byte swizzle of the PTX
/// ISA, "Asynchronous warpgroup level matrix shared memory layout"; it counts from a multiple of 1024 bytes.)
COHORT_HD
constexpr std::uint32_t swizzled_place(std::uint32_t row, std::uint32_t piece) {
  return row * 128 + (piece ^ row % 8) * 16;
}

/// Makes what this thread has written to shared memory known to the tensor cores, which read past the usual order. Each
/// thread, before the barrier that hands the memory over.
COHORT_HD
inline void show_to_tensor_cores() {
#if COHORT_DEVICE_PASS
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#if COHORT_DEVICE_PASS

/// Of a matrix in rows of 128 bytes, 8 of which make the pattern of 1024: start / 16; 1024 / 16 between patterns; the
/// 128-byte swizzle. (PTX ISA, "Matrix descriptor".)
__device__ inline std::uint64_t matrix_descriptor(const std::byte* matrix) {
  return std::uint64_t{1} << 62 | std::uint64_t{1024 / 16} << 32 | std::uint64_t{1} << 16 |
         (shared_address(matrix) & 0x3ffffu) >> 4;
}

#define COHORT_WGMMA(type, n, registers, a, b, ...)                                                            \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" registers "}, %" a ", %" b \
               ", 1, 1, 1, 0, 0;"                                                                              \
               : __VA_ARGS__                                                                                   \
               : "l"(w), "l"(x))
#define COHORT_SUMS(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define COHORT_REGISTERS_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define COHORT_REGISTERS_16 COHORT_REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define COHORT_REGISTERS_32                                                  \
  COHORT_REGISTERS_16                                                        \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, " \
  "%30, %31"

/// c += w . x^T for 64 rows of w, 8 Fragments rows of x and 16 k-values.
template <class T, std::uint32_t Fragments>
__device__ inline void warpgroup_multiply(std::uint64_t w, std::uint64_t x, float (&c)[Fragments][4]) {
  static_assert(Fragments == 2 || Fragments == 4 || Fragments == 8);
  if constexpr (std::is_same_v<T, bf16>) {
    if constexpr (Fragments == 2)
      COHORT_WGMMA("bf16", 16, COHORT_REGISTERS_8, "8", "9", COHORT_SUMS(0), COHORT_SUMS(1));
    else if constexpr (Fragments == 4)
      COHORT_WGMMA("bf16", 32, COHORT_REGISTERS_16, "16", "17", COHORT_SUMS(0), COHORT_SUMS(1), COHORT_SUMS(2),
                   COHORT_SUMS(3));
    else
      COHORT_WGMMA("bf16", 64, COHORT_REGISTERS_32, "32", "33", COHORT_SUMS(0), COHORT_SUMS(1), COHORT_SUMS(2),
                   COHORT_SUMS(3), COHORT_SUMS(4), COHORT_SUMS(5), COHORT_SUMS(6), COHORT_SUMS(7));
  } else {
    if constexpr (Fragments == 2)
      COHORT_WGMMA("f16", 16, COHORT_REGISTERS_8, "8", "9", COHORT_SUMS(0), COHORT_SUMS(1));
    else if constexpr (Fragments == 4)
      COHORT_WGMMA("f16", 32, COHORT_REGISTERS_16, "16", "17", COHORT_SUMS(0), COHORT_SUMS(1), COHORT_SUMS(2),
                   COHORT_SUMS(3));
    else
      COHORT_WGMMA("f16", 64, COHORT_REGISTERS_32, "32", "33", COHORT_SUMS(0), COHORT_SUMS(1), COHORT_SUMS(2),
                   COHORT_SUMS(3), COHORT_SUMS(4), COHORT_SUMS(5), COHORT_SUMS(6), COHORT_SUMS(7));
  }
}

#undef COHORT_WGMMA
#undef COHORT_SUMS
#undef COHORT_REGISTERS_8
#undef COHORT_REGISTERS_16
#undef COHORT_REGISTERS_32

#endif  // COHORT_DEVICE_PASS

/// Begins sums += w . x^T for a slice of 64 k-values: 64 rows of w and 8 Fragments of x, both laid out by
/// `swizzled_place` from a multiple of 1024 bytes on. Four warps together, which then hold the sums as `mma.m16n8k16`
/// gives them: warp i those of rows 16 i to 16 i + 15 of w. Until `end_slice` nobody touches the sums.
template <class T, std::uint32_t Fragments, class Context>
COHORT_HD
inline void begin_slice(const Context& context, const std::byte* w, const std::byte* x, float (&sums)[Fragments][4]) {
#if COHORT_DEVICE_PASS
  (void)context;
  const std::uint64_t w_descriptor = matrix_descriptor(w);
  const std::uint64_t x_descriptor = matrix_descriptor(x);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  COHORT_GEMM_UNROLLED
  for (std::uint64_t step = 0; step < 4; ++step) {
    warpgroup_multiply<T>(w_descriptor + step * 2, x_descriptor + step * 2, sums);
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  const std::uint32_t lane = context.group().rank();
  const auto element = [](const std::byte* matrix, std::uint32_t row, std::uint32_t k) {
    return to_float(reinterpret_cast<const T*>(matrix + swizzled_place(row, k / 8))[k % 8]);
  };
  for (std::uint32_t step = 0; step < 64; step += 16) {
    for (std::uint32_t j = 0; j < Fragments; ++j) {
      for (std::uint32_t e = 0; e < 4; ++e) {
        double sum = sums[j][e];
        for (std::uint32_t k = step; k < step + 16; ++k) {
          sum += static_cast<double>(element(w, context.group_index() * 16 + lane / 4 + e / 2 * 8, k)) *
                 element(x, j * 8 + lane % 4 * 2 + e % 2, k);
        }
        sums[j][e] = static_cast<float>(sum);
      }
    }
  }
#endif
}

/// Waits until the sums are there.
template <std::uint32_t Fragments>
COHORT_HD
inline void end_slice(float (&sums)[Fragments][4]) {
#if COHORT_DEVICE_PASS
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  // Keeps every use of the sums behind the wait.
  COHORT_GEMM_UNROLLED
  for (std::uint32_t j = 0; j < Fragments; ++j) {
    asm volatile("" : "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])::"memory");
  }
#else
  (void)sums;
#endif
}

}  // namespace cohort::inline COHORT_ABI::ops::detail::gemm

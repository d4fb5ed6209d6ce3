// The instructions that cooperative engines are made of: asynchronous copies, matrix loads, tensor-core multiply-adds.
// Device code is PTX. Host code is an emulation that keeps what can go wrong: copies happen no earlier than the wait
// for them, and matrix instructions exchange registers between the lanes of a group as the PTX ISA lays them out. GEMM
// and attention enter.
#pragma once

#include <cohort/config.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

/// 1 where tensor cores take bf16 and fp16 in 16x8x16 pieces and copies to shared memory are asynchronous: sm_80 and
/// later, and the host's emulation.
#if COHORT_DEVICE_PASS
#if __CUDA_ARCH__ >= 800
#define COHORT_GEMM_HAS_MMA 1
#else
#define COHORT_GEMM_HAS_MMA 0
#endif
#else
#define COHORT_GEMM_HAS_MMA 1
#endif

/// Whether the device compiler unrolls the next loop: arrays that live in registers need it, long bodies forbid it.
#if COHORT_DEVICE_PASS
#define COHORT_GEMM_UNROLLED _Pragma("unroll")
#define COHORT_GEMM_UNROLLED_BY(count) COHORT_GEMM_PRAGMA(unroll count)
#define COHORT_GEMM_PRAGMA(text) _Pragma(#text)
#define COHORT_GEMM_ROLLED _Pragma("unroll 1")
#else
#define COHORT_GEMM_UNROLLED
#define COHORT_GEMM_UNROLLED_BY(count)
#define COHORT_GEMM_ROLLED
#endif

namespace cohort::inline COHORT_ABI::ops::detail {

/// Four floats from shared memory, 16-byte aligned, in one load.
COHORT_HD
inline void load_quad(const float* from, float (&to)[4]) {
#if COHORT_DEVICE_PASS
  const float4 quad = *reinterpret_cast<const float4*>(from);
  to[0] = quad.x;
  to[1] = quad.y;
  to[2] = quad.z;
  to[3] = quad.w;
#else
  std::memcpy(to, from, sizeof to);
#endif
}

/// Copies 16 bytes, both sides aligned to 16.
COHORT_HD
inline void copy_16(void* to, const void* from) {
#if COHORT_DEVICE_PASS
  *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
#else
  std::memcpy(to, from, 16);
#endif
}

COHORT_HD
inline void zero_16(void* to) {
#if COHORT_DEVICE_PASS
  *static_cast<uint4*>(to) = uint4{0, 0, 0, 0};
#else
  std::memset(to, 0, 16);
#endif
}

COHORT_HD
inline bool aligned_16(const void* p) { return (reinterpret_cast<std::uintptr_t>(p) & 15u) == 0; }

#if COHORT_DEVICE_PASS
__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}
#endif

/// One thread's copies from global to shared memory, in groups: `copy` any number of times, then `commit`, and
/// `wait<N>` until at most the N youngest groups are not complete. Then a barrier shows them to the other threads.
class async_copies {
public:
  /// Copies 16 bytes, or writes 16 zeros where nothing is `there`; then `global` is not read. Both addresses are
  /// aligned to 16. L2 serves it, never a cache that another block's writes do not reach.
  COHORT_HD
  void copy(void* shared, const void* global, bool there) {
#if COHORT_DEVICE_PASS
#if COHORT_GEMM_HAS_MMA
    asm volatile(
        "{\n .reg .pred missing;\n setp.eq.u32 missing, %2, 0;\n"
        " cp.async.cg.shared.global.L2::256B [%0], [%1], 16, missing;\n}" ::"r"(shared_address(shared)),
        "l"(global), "r"(static_cast<std::uint32_t>(there))
        : "memory");
#else
    if (there) {
      copy_16(shared, global);
    } else {
      zero_16(shared);
    }
#endif
#else
    if (pending_ == capacity) complete(1);
    queue_[pending_++] = {shared, global, there, group_};
#endif
  }

  COHORT_HD
  void commit() {
#if COHORT_DEVICE_PASS
#if COHORT_GEMM_HAS_MMA
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
#else
    ++group_;
#endif
  }

  template <int N>
  COHORT_HD
  void wait() {
#if COHORT_DEVICE_PASS
#if COHORT_GEMM_HAS_MMA
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
#else
    std::uint32_t ready = 0;
    while (ready < pending_ && queue_[ready].group + N < group_) ++ready;
    complete(ready);
#endif
  }

#if !COHORT_DEVICE_PASS
private:
  struct pending_copy {
    void* to;
    const void* from;
    bool there;
    std::uint32_t group;
  };

  static constexpr std::uint32_t capacity = 48;

  COHORT_HD
  void complete(std::uint32_t copies) {
    for (std::uint32_t i = 0; i < copies; ++i) {
      if (queue_[i].there) {
        std::memcpy(queue_[i].to, queue_[i].from, 16);
      } else {
        std::memset(queue_[i].to, 0, 16);
      }
    }
    pending_ -= copies;
    for (std::uint32_t i = 0; i < pending_; ++i) queue_[i] = queue_[i + copies];
  }

  pending_copy queue_[capacity];
  std::uint32_t pending_ = 0;
  std::uint32_t group_ = 0;
#endif
};

#if COHORT_GEMM_HAS_MMA

/// `Count` times ldmatrix.x4: each loads four 8x8 matrices of 16-bit elements from shared memory. Lane i gives the
/// address of row i % 8 of matrix i / 8 (16 bytes, aligned to 16); in register m it gets elements 2 (lane % 4) and the
/// next of row lane / 4 of matrix m. (PTX ISA, "Warp-level matrix load instruction: ldmatrix".)
template <int Count, class Group>
COHORT_HD
inline void load_matrices(const Group& group, const std::byte* const (&rows)[Count], std::uint32_t (&to)[Count][4]) {
#if COHORT_DEVICE_PASS
  (void)group;
  COHORT_GEMM_UNROLLED
  for (int i = 0; i < Count; ++i) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[i][0]), "=r"(to[i][1]), "=r"(to[i][2]), "=r"(to[i][3])
                 : "r"(shared_address(rows[i]))
                 : "memory");
  }
#else
  using addresses = const std::byte* const*;
  auto* const published = reinterpret_cast<addresses*>(group.exchange());
  const std::uint32_t lane = group.rank();
  published[lane] = rows;
  group.sync();
  for (int i = 0; i < Count; ++i) {
    for (std::uint32_t m = 0; m < 4; ++m) {
      std::memcpy(&to[i][m], published[m * 8 + lane / 4][i] + lane % 4 * 4, 4);
    }
  }
  group.sync();  // until here the other lanes read this lane's addresses
#endif
}

/// The same, each matrix transposed: in register m lane i gets element lane / 4 of rows 2 (lane % 4) and the next.
template <int Count, class Group>
COHORT_HD
inline void load_transposed(const Group& group, const std::byte* const (&rows)[Count], std::uint32_t (&to)[Count][4]) {
#if COHORT_DEVICE_PASS
  (void)group;
  COHORT_GEMM_UNROLLED
  for (int i = 0; i < Count; ++i) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[i][0]), "=r"(to[i][1]), "=r"(to[i][2]), "=r"(to[i][3])
                 : "r"(shared_address(rows[i]))
                 : "memory");
  }
#else
  using addresses = const std::byte* const*;
  auto* const published = reinterpret_cast<addresses*>(group.exchange());
  const std::uint32_t lane = group.rank();
  published[lane] = rows;
  group.sync();
  for (int i = 0; i < Count; ++i) {
    for (std::uint32_t m = 0; m < 4; ++m) {
      std::uint16_t pair[2];
      for (std::uint32_t e = 0; e < 2; ++e) {
        std::memcpy(&pair[e], published[m * 8 + lane % 4 * 2 + e][i] + lane / 4 * 2, 2);
      }
      to[i][m] = std::uint32_t{pair[1]} << 16 | pair[0];
    }
  }
  group.sync();  // until here the other lanes read this lane's addresses
#endif
}

/// Combines what the lanes of a quad (4 n to 4 n + 3) hold: all four get the same bits if `combine` is commutative.
template <int Count, class Group, class Combine>
COHORT_HD
inline void combine_quads(const Group& group, float (&values)[Count], Combine combine) {
#if COHORT_DEVICE_PASS
  (void)group;
  COHORT_GEMM_UNROLLED
  for (std::uint32_t distance = 1; distance < 4; distance *= 2) {
    COHORT_GEMM_UNROLLED
    for (int i = 0; i < Count; ++i) {
      values[i] = combine(values[i], __shfl_xor_sync(0xffffffffu, values[i], distance));
    }
  }
#else
  auto* const published = reinterpret_cast<const float**>(group.exchange());
  const std::uint32_t lane = group.rank();
  published[lane] = values;
  group.sync();
  float combined[Count];
  for (int i = 0; i < Count; ++i) {
    const auto of = [&](std::uint32_t distance) { return published[lane ^ distance][i]; };
    combined[i] = combine(combine(of(0), of(1)), combine(of(2), of(3)));
  }
  group.sync();  // until here the other lanes read this lane's values
  for (int i = 0; i < Count; ++i) values[i] = combined[i];
#endif
}

/// Element `high` of a register that holds two of them.
template <class T>
COHORT_HD
inline float half_of(std::uint32_t pair, bool high) {
  return to_float(T{static_cast<std::uint16_t>(high ? pair >> 16 : pair)});
}

/// A register with two elements, rounded to nearest even.
template <class T>
COHORT_HD
inline std::uint32_t pack_pair(float low, float high) {
#if COHORT_DEVICE_PASS
  std::uint32_t pair;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#else
  return std::uint32_t{from_float<T>(high).bits} << 16 | from_float<T>(low).bits;
#endif
}

/// A register with two elements to where they belong, aligned to 4.
COHORT_HD
inline void store_4(void* to, std::uint32_t pair) {
#if COHORT_DEVICE_PASS
  *static_cast<std::uint32_t*>(to) = pair;
#else
  std::memcpy(to, &pair, 4);
#endif
}

/// Transposes an 8x8 matrix of 16-bit elements of which lane i holds elements 2 (i % 4) and the next of row i / 4. (PTX
/// ISA, "movmatrix".)
template <class Group>
COHORT_HD
inline std::uint32_t transpose_pairs(const Group& group, std::uint32_t pair) {
#if COHORT_DEVICE_PASS
  (void)group;
  std::uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
  return transposed;
#else
  auto* const published = reinterpret_cast<std::uint32_t*>(group.exchange());
  const std::uint32_t lane = group.rank();
  published[lane] = pair;
  group.sync();
  std::uint32_t transposed = 0;
  for (std::uint32_t e = 0; e < 2; ++e) {
    const std::uint32_t row = lane % 4 * 2 + e;
    const std::uint32_t column = lane / 4;
    transposed |= (published[row * 4 + column / 2] >> column % 2 * 16 & 0xffffu) << e * 16;
  }
  group.sync();  // until here the other lanes read this lane's pair
  return transposed;
#endif
}

/// Rows x Columns times mma.m16n8k16: c[i][j] += a[i] . b[j] in fp32. With g = lane / 4 and t = lane % 4 a lane holds
///
///     a (16x16): [0] row g, k 2t and 2t+1;  [1] row g+8, the same k;  [2] row g, k 2t+8 and 2t+9;  [3] row g+8, those
///     b (16x8):  [0] k 2t and 2t+1, column g;  [1] k 2t+8 and 2t+9, column g
///     c (16x8):  [0], [1] row g, columns 2t and 2t+1;  [2], [3] row g+8, the same columns
///
/// (PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type".)
template <class T, int Rows, int Columns, class Group>
COHORT_HD
inline void multiply_fragments(const Group& group, const std::uint32_t (&a)[Rows][4],
                               const std::uint32_t (&b)[Columns][2], float (&c)[Rows][Columns][4]) {
#if COHORT_DEVICE_PASS
  (void)group;
  COHORT_GEMM_UNROLLED
  for (int i = 0; i < Rows; ++i) {
    COHORT_GEMM_UNROLLED
    for (int j = 0; j < Columns; ++j) {
      if constexpr (std::is_same_v<T, bf16>) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[i][j][0]), "+f"(c[i][j][1]), "+f"(c[i][j][2]), "+f"(c[i][j][3])
            : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
      } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[i][j][0]), "+f"(c[i][j][1]), "+f"(c[i][j][2]), "+f"(c[i][j][3])
            : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
      }
    }
  }
#else
  struct operands {
    const std::uint32_t (*a)[4];
    const std::uint32_t (*b)[2];
  };
  auto* const published = reinterpret_cast<operands*>(group.exchange());
  const std::uint32_t lane = group.rank();
  published[lane] = {a, b};
  group.sync();
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Columns; ++j) {
      for (std::uint32_t e = 0; e < 4; ++e) {
        const std::uint32_t row = lane / 4;  // of the upper or lower half of the 16 rows
        const std::uint32_t column = lane % 4 * 2 + e % 2;
        double sum = c[i][j][e];
        for (std::uint32_t k = 0; k < 16; ++k) {
          const std::uint32_t upper = k / 8;
          const std::uint32_t from_a = published[row * 4 + k % 8 / 2].a[i][e / 2 + upper * 2];
          const std::uint32_t from_b = published[column * 4 + k % 8 / 2].b[j][upper];
          sum += static_cast<double>(half_of<T>(from_a, k % 2 != 0)) * half_of<T>(from_b, k % 2 != 0);
        }
        c[i][j][e] = static_cast<float>(sum);
      }
    }
  }
  group.sync();  // until here the other lanes read this lane's registers
#endif
}

#endif  // COHORT_GEMM_HAS_MMA

}  // namespace cohort::inline COHORT_ABI::ops::detail

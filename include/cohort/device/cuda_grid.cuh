// The grid of superkernel.hpp on a real device, in PTX, and the kernel itself. nvcc only; the CUDA backend enters.
#pragma once

#include <cohort/config.hpp>
#include <cohort/device/device_context.cuh>
#include <cohort/device/ring.hpp>
#include <cohort/device/superkernel.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI::detail {

/// One thread of the grid. Warp 0 of the relay block polls, one thread of warp 1 watches, warps 2 and 3 bring large
/// packets.
///
/// Orders: an acquire is `ld.acquire`, a release `st.release`, at the narrowest scope that reaches the other side (gpu
/// between blocks, sys to the host). A pair is one 16-byte instruction of two 8-byte accesses: each of them is
/// single-copy atomic and ordered, which of the two comes first is open, and no caller cares.
class cuda_grid {
public:
  static constexpr std::uint32_t poll_threads = 32;
  static constexpr std::uint32_t movers = 2;
  static constexpr std::uint32_t mover_threads = 32;
  static constexpr std::uint32_t copy_rows = 16;
  static_assert(poll_threads + 32 + movers * mover_threads == device_block_threads);

  __device__ cuda_grid(std::byte* scratch, device_context<>::storage& storage) : scratch_(scratch), storage_(storage) {}

  __device__ std::uint32_t thread() const { return threadIdx.x; }
  __device__ std::uint32_t threads() const { return device_block_threads; }
  __device__ std::uint32_t block() const { return blockIdx.x; }
  __device__ std::uint32_t blocks() const { return gridDim.x; }
  __device__ std::uint32_t multiprocessor() const {
    std::uint32_t id;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
    return id < max_multiprocessors ? id : max_multiprocessors - 1;
  }
  __device__ std::uint32_t multiprocessors() const {
    std::uint32_t count;
    asm("mov.u32 %0, %%nsmid;" : "=r"(count));
    return count < max_multiprocessors ? count : max_multiprocessors;
  }

  __device__ bool is_poller() const { return threadIdx.x < poll_threads; }
  __device__ bool is_watcher() const { return threadIdx.x == poll_threads; }
  __device__ bool is_mover() const { return threadIdx.x >= poll_threads + 32; }
  __device__ std::uint32_t mover() const { return threadIdx.x / mover_threads - 2; }
  __device__ std::uint32_t mover_rank() const { return threadIdx.x % mover_threads; }

  __device__ void sync() const { __syncthreads(); }
  __device__ void meet(std::uint32_t team) const {
    // A barrier of its own for each team, after that of the block.
    asm volatile("barrier.sync %0, %1;" ::"r"(1 + team), "n"(poll_threads + mover_threads) : "memory");
  }
  __device__ void mover_sync() const { __syncwarp(); }
  __device__ void poll_sync() const { __syncwarp(); }
  __device__ bool poll_all(bool vote) const { return __all_sync(0xffffffffu, vote) != 0; }
  __device__ std::uint32_t poll_broadcast(std::uint32_t value) const { return __shfl_sync(0xffffffffu, value, 0); }

  __device__ std::uint64_t load_acquire_system(std::uint64_t* word) const {
    std::uint64_t value;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
  }
  __device__ void load_acquire_system_pair(std::uint64_t* words, std::uint64_t (&out)[2]) const {
    asm volatile("ld.acquire.sys.global.v2.u64 {%0, %1}, [%2];" : "=l"(out[0]), "=l"(out[1]) : "l"(words) : "memory");
  }
  __device__ void load_relaxed_system_pair(std::uint64_t* words, std::uint64_t (&out)[2]) const {
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];" : "=l"(out[0]), "=l"(out[1]) : "l"(words) : "memory");
  }
  __device__ void store_release_system(std::uint64_t* word, std::uint64_t value) const {
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
  }
  __device__ void store_relaxed_system(std::uint64_t* word, std::uint64_t value) const {
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
  }
  __device__ void fence_device() const { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
  __device__ std::uint32_t load_acquire_device(std::uint32_t* word) const {
    std::uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
  }
  __device__ void load_acquire_device_pair(std::uint64_t* words, std::uint64_t (&out)[2]) const {
    asm volatile("ld.acquire.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(out[0]), "=l"(out[1]) : "l"(words) : "memory");
  }
  __device__ void store_release_device_pair(std::uint64_t* words, std::uint64_t first, std::uint64_t second) const {
    asm volatile("st.release.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(words), "l"(first), "l"(second) : "memory");
  }
  __device__ std::uint32_t add_device(std::uint32_t* word, std::uint32_t value) const {
    std::uint32_t before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(word), "r"(value) : "memory");
    return before;
  }
  // Flags between warps of a block that tell nothing about other memory: no order is needed. Atomic on both sides:
  // volatile accesses are a race, and racecheck reports them.
  __device__ std::uint32_t load_shared(const std::uint32_t* word) const {
    std::uint32_t value;
    asm volatile("atom.relaxed.cta.shared.or.b32 %0, [%1], 0;" : "=r"(value) : "r"(shared_address(word)) : "memory");
    return value;
  }
  __device__ void store_shared(std::uint32_t* word, std::uint32_t value) const {
    [[maybe_unused]] std::uint32_t before;
    asm volatile("atom.relaxed.cta.shared.exch.b32 %0, [%1], %2;"
                 : "=r"(before)
                 : "r"(shared_address(word)), "r"(value)
                 : "memory");
  }

  // Ordinary data behind an acquire. Written in PTX so that nothing makes a read through the read-only cache of it.
  __device__ void copy16_device(std::byte* to, const std::byte* from) const {
    ulonglong2 piece;
    asm volatile("ld.global.v2.u64 {%0, %1}, [%2];" : "=l"(piece.x), "=l"(piece.y) : "l"(from) : "memory");
    *reinterpret_cast<ulonglong2*>(to) = piece;
  }
  __device__ void copy_rows_system(std::byte* to, const std::byte* from, std::uint32_t row, std::uint32_t count) const {
    ulonglong2 pieces[copy_rows];
#pragma unroll
    for (std::uint32_t i = 0; i < copy_rows; ++i) {
      if (i < count) pieces[i] = load16_system(from + i * row);
    }
#pragma unroll
    for (std::uint32_t i = 0; i < copy_rows; ++i) {
      if (i < count) *reinterpret_cast<ulonglong2*>(to + i * row) = pieces[i];
    }
  }

  __device__ std::uint64_t now() const {
    std::uint64_t time;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time)::"memory");
    return time;
  }
  /// A look at L2 takes long enough by itself.
  __device__ void relax() const {}
  __device__ void back_off() const { __nanosleep(2000); }

  template <class Ops>
  __device__ __forceinline__ void run(std::uint16_t op, const tile_work* works, std::uint32_t count) const {
    device_context<> context(scratch_, storage_);
    Ops::run(op, context, works, count);
  }

private:
  __device__ static std::uint32_t shared_address(const void* generic) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(generic));
  }
  /// Relaxed rather than weak: host memory is never served from L1.
  __device__ static ulonglong2 load16_system(const std::byte* from) {
    ulonglong2 piece;
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];" : "=l"(piece.x), "=l"(piece.y) : "l"(from) : "memory");
    return piece;
  }

  std::byte* scratch_;
  device_context<>::storage& storage_;
};

// Ops of an unnamed namespace make a kernel that is not visible anyway; nothing to warn of.
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1407

/// The superkernel over `Ops`. Hidden: each shared library has, loads and launches its own.
template <class Ops, class Profile>
__global__ void __launch_bounds__(device_block_threads, Profile::blocks_per_sm) __attribute__((visibility("hidden")))
superkernel_entry(const __grid_constant__ residency parameters) {
  extern __shared__ __align__(1024) std::byte superkernel_scratch[];
  __shared__ superkernel_shared<Ops> shared;
  __shared__ device_context<>::storage storage;
  cuda_grid grid(superkernel_scratch, storage);
  superkernel<Ops, cuda_grid>(grid, parameters, shared).run();
}

#pragma nv_diagnostic pop

}  // namespace cohort::inline COHORT_ABI::detail

// The tile context of the device: a thread block divided into warps. The superkernel constructs it; ops see it only as
// the concept tile_context. nvcc only.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/combine.hpp>
#include <cohort/tile_context.hpp>

#include <cub/block/block_reduce.cuh>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI {

/// Threads of a block of the superkernel, unless it is configured otherwise.
inline constexpr std::uint32_t device_block_threads = 128;

/// A warp. All 32 threads must call its functions together.
///
/// Functions of both classes are marked for the host too, because ops call them from functions that are compiled for
/// both; host code has no way to run them.
class device_group {
public:
  static constexpr std::uint32_t threads = 32;

  COHORT_HD
  explicit device_group(std::uint32_t lane) : lane_(lane) {}

  COHORT_HD
  std::uint32_t rank() const { return lane_; }
  COHORT_HD
  std::uint32_t size() const { return threads; }

  COHORT_HD
  void sync() const {
#if COHORT_DEVICE_PASS
    __syncwarp();
#endif
  }

  template <class F>
  COHORT_HD
  void for_each(std::uint32_t n, F f) const {
    for (std::uint32_t i = lane_; i < n; i += threads) f(i);
  }

  /// Butterfly over the warp: every step combines a pair in both of its threads, and a commutative `combine` gives both
  /// the same bits, so that no broadcast is needed.
  template <class Value, class Combine>
  COHORT_HD
  float reduce(std::uint32_t n, float identity, Value value, Combine combine) const {
    float partial = identity;
    for (std::uint32_t i = lane_; i < n; i += threads) partial = combine(partial, value(i));
#if COHORT_DEVICE_PASS
#pragma unroll
    for (std::uint32_t distance = threads / 2; distance > 0; distance /= 2) {
      partial = combine(partial, __shfl_xor_sync(0xffffffffu, partial, distance));
    }
#endif
    return partial;
  }

  template <class Value>
  COHORT_HD
  float sum(std::uint32_t n, Value value) const { return reduce(n, 0.0f, value, detail::add{}); }

  template <class Value>
  COHORT_HD
  float max(std::uint32_t n, Value value) const { return reduce(n, detail::minus_infinity(), value, detail::larger{}); }

private:
  std::uint32_t lane_;
};

/// A one-dimensional block of `Threads` threads, a multiple of 32. Each thread has its own context; all threads of the
/// block must call its functions together.
template <std::uint32_t Threads = device_block_threads>
class device_context {
  static_assert(Threads % 32 == 0 && Threads >= 32 && Threads <= 1024);
  using block_reduce = cub::BlockReduce<float, static_cast<int>(Threads)>;

public:
  static constexpr bool cooperative = true;
  static constexpr std::uint32_t threads = Threads;

  /// Lies in the block's shared memory, beside the scratch and not inside it.
  struct storage {
    typename block_reduce::TempStorage reduce;
    float result;
    std::uint32_t arrived;
  };

  /// `scratch`: shared memory, aligned to 128 bytes, at least `op_set::device_scratch_bytes`.
  COHORT_HD
  device_context(std::byte* scratch, storage& s)
      : scratch_(scratch),
        storage_(&s),
#if COHORT_DEVICE_PASS
        thread_(threadIdx.x)
#else
        thread_(0)
#endif
  {
  }

  /// The same context, but the compiler does not know that the rank is the same. What depends on it is then worked out
  /// where it is needed, instead of being kept in registers through all that lies between.
  COHORT_HD
  device_context anew() const {
    device_context same = *this;
#if COHORT_DEVICE_PASS
    asm volatile("" : "+r"(same.thread_));
#endif
    return same;
  }

  COHORT_HD
  std::uint32_t rank() const { return thread_; }
  COHORT_HD
  std::uint32_t size() const { return Threads; }
  COHORT_HD
  std::byte* scratch() const { return scratch_; }
  COHORT_HD
  std::uint32_t group_index() const { return thread_ / device_group::threads; }
  COHORT_HD
  std::uint32_t group_count() const { return Threads / device_group::threads; }
  COHORT_HD
  device_group group() const { return device_group(thread_ % device_group::threads); }

  COHORT_HD
  void sync() const {
#if COHORT_DEVICE_PASS
    __syncthreads();
#endif
  }

  COHORT_HD
  bool arrive_last([[maybe_unused]] std::uint32_t* counter, [[maybe_unused]] std::uint32_t teams) const {
#if COHORT_DEVICE_PASS
    __syncthreads();
    if (thread_ == 0) {
      std::uint32_t before;
      // Release: what this block's threads wrote before the barrier; acquire: what those of the others did. Wraps to
      // zero at the last arrival.
      asm volatile("atom.inc.acq_rel.gpu.global.u32 %0, [%1], %2;"
                   : "=r"(before)
                   : "l"(counter), "r"(teams - 1)
                   : "memory");
      storage_->arrived = before;
    }
    __syncthreads();
    return storage_->arrived + 1 == teams;
#else
    return true;
#endif
  }

  template <class F>
  COHORT_HD
  void for_each(std::uint32_t n, F f) const {
    for (std::uint32_t i = thread_; i < n; i += Threads) f(i);
  }

  /// Strided partial results, then CUB's warp reductions. `combine` must be commutative and associative up to rounding.
  template <class Value, class Combine>
  COHORT_HD
  float reduce(std::uint32_t n, float identity, Value value, Combine combine) const {
    constexpr std::uint32_t batch = 8;  // values on their way from memory at a time
    float partial = identity;
    std::uint32_t i = thread_;
    for (; i < n && n - i > (batch - 1) * Threads; i += batch * Threads) {
      float values[batch];
#if COHORT_DEVICE_PASS
#pragma unroll
#endif
      for (std::uint32_t j = 0; j < batch; ++j) values[j] = value(i + j * Threads);
#if COHORT_DEVICE_PASS
#pragma unroll
#endif
      for (std::uint32_t j = 0; j < batch; ++j) partial = combine(partial, values[j]);
    }
    for (; i < n; i += Threads) partial = combine(partial, value(i));
#if COHORT_DEVICE_PASS
    const float total = block_reduce(storage_->reduce).Reduce(partial, combine);
    if (thread_ == 0) storage_->result = total;
    __syncthreads();
    const float result = storage_->result;
    // A next call may write the storage again before a slow thread has read it.
    __syncthreads();
    return result;
#else
    return partial;
#endif
  }

  template <class Value>
  COHORT_HD
  float sum(std::uint32_t n, Value value) const { return reduce(n, 0.0f, value, detail::add{}); }

  template <class Value>
  COHORT_HD
  float max(std::uint32_t n, Value value) const { return reduce(n, detail::minus_infinity(), value, detail::larger{}); }

private:
  std::byte* scratch_;
  storage* storage_;
  std::uint32_t thread_;
};

static_assert(tile_context<device_context<>>);

}  // namespace cohort::inline COHORT_ABI

// The CUDA backend: the superkernel over an op set, resident on one device, behind a ring in mapped memory. nvcc only.
// Users construct it; the executor drives it.
#pragma once

#include <cohort/arena.hpp>
#include <cohort/backend/backend.hpp>
#include <cohort/backend/cuda_error.cuh>
#include <cohort/backend/cuda_options.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/packet_view.hpp>
#include <cohort/device/cuda_grid.cuh>
#include <cohort/device/ring.hpp>
#include <cohort/device/ring_host.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace cohort::inline COHORT_ABI {

/// What the superkernel is compiled for. `blocks_per_sm` bounds its registers: 4 blocks of 128 threads leave 128
/// registers to a thread, 2 leave 255. Ops that need many registers belong in a set and a profile of their own.
struct cuda_profile {
  static constexpr unsigned blocks_per_sm = 4;
};

namespace detail {

struct cuda_free {
  void operator()(void* pointer) const noexcept { (void)cuda_try(cudaFree(pointer)); }
};
struct cuda_free_host {
  void operator()(void* pointer) const noexcept { (void)cuda_try(cudaFreeHost(pointer)); }
};
struct cuda_destroy_stream {
  void operator()(cudaStream_t stream) const noexcept { (void)cuda_try(cudaStreamDestroy(stream)); }
};

using cuda_memory = std::unique_ptr<void, cuda_free>;
using cuda_host_memory = std::unique_ptr<void, cuda_free_host>;
using cuda_stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, cuda_destroy_stream>;

inline cuda_memory make_cuda_memory(std::size_t bytes, const char* what) {
  void* pointer = nullptr;
  if (bytes != 0) cuda_check(cudaMalloc(&pointer, bytes), what);
  return cuda_memory(pointer);
}

/// Mapped: the device uses the same address, because `check_device` asks for unified addressing.
inline cuda_host_memory make_cuda_host_memory(std::size_t bytes, const char* what) {
  void* pointer = nullptr;
  if (bytes != 0) cuda_check(cudaHostAlloc(&pointer, bytes, cudaHostAllocMapped | cudaHostAllocPortable), what);
  return cuda_host_memory(pointer);
}

inline int cuda_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  cuda_check(cudaDeviceGetAttribute(&value, attribute, device), "cohort: asking the CUDA device for an attribute");
  return value;
}

inline error_code make_cuda_error(cudaError_t error) noexcept { return {static_cast<int>(error), cuda_category()}; }

/// Throws when `device` is not one that the superkernel can live on.
inline void check_device(int device) {
  int devices = 0;
  cuda_check(cudaGetDeviceCount(&devices), "cohort: looking for a CUDA device");
  if (devices == 0) throw system_error(make_cuda_error(cudaErrorNoDevice), "cohort: looking for a CUDA device");
  if (device < 0 || device >= devices)
    throw system_error(make_cuda_error(cudaErrorInvalidDevice), "cohort: cuda_options::device");
  const bool able = cuda_attribute(cudaDevAttrCooperativeLaunch, device) != 0 &&
                    cuda_attribute(cudaDevAttrUnifiedAddressing, device) != 0 &&
                    cuda_attribute(cudaDevAttrCanMapHostMemory, device) != 0 &&
                    cuda_attribute(cudaDevAttrComputeCapabilityMajor, device) >= 7;
  if (!able) {
    throw system_error(make_cuda_error(cudaErrorNotSupported),
                       "cohort: the device lacks cooperative launches, mapped memory or compute capability 7");
  }
}

/// How the superkernel lies on a device.
struct cuda_placement {
  unsigned blocks = 0;
  std::uint32_t multiprocessors = 0;
  std::size_t scratch_bytes = 0;
};

/// Loads the kernel, too: a first launch must not have to load anything while another kernel is resident.
inline cuda_placement place_superkernel(const void* kernel, std::size_t scratch_bytes, int device) {
  const auto largest = static_cast<std::size_t>(cuda_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  cudaFuncAttributes attributes{};
  cuda_check(cudaFuncGetAttributes(&attributes, kernel), "cohort: loading the superkernel");
  if (attributes.sharedSizeBytes + scratch_bytes > largest) {
    throw system_error(make_error_code(errc::op_too_large),
                       "cohort: an op of the set needs more shared memory than the device has");
  }
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(scratch_bytes)),
             "cohort: shared memory of the superkernel");
  int each = 0;
  cuda_check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, static_cast<int>(device_block_threads),
                                                           scratch_bytes),
             "cohort: occupancy of the superkernel");
  const int multiprocessors = cuda_attribute(cudaDevAttrMultiProcessorCount, device);
  if (each * multiprocessors < 2) {
    throw system_error(make_cuda_error(cudaErrorLaunchOutOfResources),
                       "cohort: fewer than two blocks of the superkernel fit the device");
  }
  return {.blocks = static_cast<unsigned>(each * multiprocessors),
          .multiprocessors = static_cast<std::uint32_t>(multiprocessors),
          .scratch_bytes = scratch_bytes};
}

/// Starts residencies in a stream of its own, each behind the one before.
class cuda_launcher {
public:
  cuda_launcher(int device, const void* kernel, const cuda_placement& placement, const residency& constants)
      : device_(device), kernel_(kernel), placement_(placement), constants_(constants) {
    cudaStream_t stream = nullptr;
    // Non-blocking: work in the default stream must not wait for a kernel that stays.
    cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cohort: creating a stream");
    stream_.reset(stream);
  }

  error_code launch(const residency& next) noexcept {
    residency parameters = constants_;
    parameters.launch = next.launch;
    parameters.first = next.first;
    parameters.until = next.until;
    parameters.bounded = next.bounded;
    void* arguments[] = {&parameters};
    const cuda_device_scope current(device_);
    return cuda_try(cudaLaunchCooperativeKernel(kernel_, dim3(placement_.blocks), dim3(device_block_threads), arguments,
                                                placement_.scratch_bytes, stream_.get()));
  }

  launch_state state(error_code& why) noexcept {
    const cudaError_t status = cudaStreamQuery(stream_.get());
    if (status == cudaSuccess) return launch_state::idle;
    if (status == cudaErrorNotReady) return launch_state::running;
    why = cuda_try(status);
    return launch_state::failed;
  }

  /// For a kernel that does not end: destroying its stream would wait for it.
  void abandon() noexcept { (void)stream_.release(); }

private:
  int device_;
  const void* kernel_;
  cuda_placement placement_;
  residency constants_;
  cuda_stream stream_;
};

}  // namespace detail

/// A backend whose device is a GPU. `Ops` is the `op_set` of its executor, `Profile` what the kernel is compiled for.
///
/// While packets are in flight, and for `linger` after, one cooperative kernel occupies the device (or `sm_budget` of
/// its multiprocessors). Other kernels of the process must be loaded before it is (`CUDA_MODULE_LOADING=EAGER`, or one
/// launch each), and calls that wait for the whole device (`cudaDeviceSynchronize`, `cudaFree`, `cudaMalloc` at times)
/// wait until it leaves: call `pause` before.
///
/// The hot path makes no CUDA call: `commit` and `poll` read and write mapped memory. They launch when the kernel has
/// left, and ask the stream's state about once a millisecond while nothing completes.
///
/// The device is lost when CUDA reports an error, a block leaves an error word, or nothing completes for `time_limit`:
/// every packet in flight then completes with `errc::device_lost`, later commits are refused with it, and `last_error`
/// says why. There is no way back: construct another backend, in another process if CUDA's context is broken.
///
/// The destructor lets packets that run finish and takes no more; it waits up to `time_limit`. If the kernel does not
/// leave by then, its memory is left to the process.
template <class Ops, class Profile = cuda_profile>
class cuda_backend final : public backend {
public:
  /// Throws `system_error`: with CUDA's category when there is no such device, it is not able, memory is short or the
  /// kernel cannot be loaded and launched; with `errc::bad_size` when `packets` is out of range; with
  /// `errc::op_too_large` when an op needs more shared memory than there is; with `errc::device_lost` when the kernel
  /// does not come and go as it should.
  explicit cuda_backend(const cuda_options& options = {})
      : options_(checked(options)),
        current_(std::make_unique<detail::cuda_device_scope>(options.device)),
        placement_(detail::place_superkernel(kernel(), Ops::device_scratch_bytes, options.device)),
        ring_memory_(detail::make_cuda_host_memory(sizeof(detail::host_ring), "cohort: mapped memory of the ring")),
        device_ring_memory_(detail::make_cuda_memory(sizeof(detail::device_ring), "cohort: device memory of the ring")),
        exchange_memory_(detail::make_cuda_memory(exchange_tiles() * std::size_t{Ops::device_exchange_bytes},
                                                  "cohort: device memory in which tiles meet")),
        exchange_counters_(
            detail::make_cuda_memory(exchange_tiles() * sizeof(std::uint32_t), "cohort: counters of tiles that meet")),
        device_bytes_(device_bytes(options)),
        device_memory_(detail::make_cuda_memory(device_bytes_, "cohort: cuda_options::device_bytes")),
        pinned_memory_(detail::make_cuda_host_memory(options.pinned_bytes, "cohort: cuda_options::pinned_bytes")),
        device_(device_memory_.get(), device_bytes_),
        pinned_(pinned_memory_.get(), options.pinned_bytes),
        launcher_(options.device, kernel(), placement_, constants()),
        ring_(*static_cast<detail::host_ring*>(ring_memory_.get()), launcher_,
              {.time_limit = options.time_limit, .bounded = options.mode == cuda_mode::bounded}),
        rates_(estimate_rates()) {
    detail::cuda_check(cudaMemset(device_ring_memory_.get(), 0, sizeof(detail::device_ring)),
                       "cohort: clearing the ring");
    if (exchange_counters_) {
      detail::cuda_check(cudaMemset(exchange_counters_.get(), 0, exchange_tiles() * sizeof(std::uint32_t)),
                         "cohort: clearing the counters of tiles that meet");
    }
    detail::cuda_check(cudaDeviceSynchronize(), "cohort: clearing the ring");
    if (const error_code failed = ring_.prove()) {
      end();
      throw system_error(failed, "cohort: first launch of the superkernel");
    }
    current_.reset();
  }

  ~cuda_backend() override {
    const detail::cuda_device_scope current(options_.device);
    end();
    // Here, while the device is current.
    pinned_memory_.reset();
    device_memory_.reset();
    exchange_counters_.reset();
    exchange_memory_.reset();
    device_ring_memory_.reset();
    ring_memory_.reset();
  }

  const char* name() const noexcept override { return "cuda"; }
  machine_shape shape() const noexcept override { return {.workers = ring_.workers(), .host = false}; }
  device_rates rates() const noexcept override { return rates_; }
  std::span<const op_info> ops() const noexcept override { return table; }
  bool needs_polling() const noexcept override { return true; }
  void on_completion(void (*)(void*), void*) noexcept override {}
  bool has_room() const noexcept override { return ring_.has_room(); }

  /// Errors: `device_lost`, `queue_full`; `op_too_large`, `misaligned` or `bad_size` for a packet that is malformed.
  error_code commit(std::span<const std::byte> packet) noexcept override {
    if (const error_code bad = detail::check_packet(packet, table)) return bad;
    return ring_.commit(packet);
  }

  std::size_t poll(std::span<packet_completion> out) noexcept override { return ring_.poll(out); }

  /// Afterwards no kernel of this backend is on the device or in a stream. Errors: `device_lost`.
  error_code pause() noexcept override { return ring_.pause(); }

  void* allocate(memory_kind kind, std::size_t bytes, std::size_t alignment) noexcept override {
    return arena_of(kind).allocate(bytes, alignment);
  }

  void deallocate(memory_kind kind, void* pointer) noexcept override {
    if (pointer == nullptr) return;
    [[maybe_unused]] const bool known = arena_of(kind).deallocate(pointer);
    assert(known && "returned twice, or with another memory_kind, or not from this backend");
  }

  void given_up(std::uint64_t packets, std::uint64_t complete) noexcept override {
    device_.hold_back(packets, complete);
    pinned_.hold_back(packets, complete);
  }

  arena_statistics memory(memory_kind kind) const noexcept {
    return kind == memory_kind::device ? device_.statistics() : pinned_.statistics();
  }

  /// Why the device was lost; empty while it is not. What CUDA reported; or what a block of the superkernel found
  /// (category "cohort.superkernel"); or `errc::device_lost` when nothing came within `time_limit`. Same thread as
  /// `commit` and `poll`.
  error_code last_error() const noexcept { return ring_.reason(); }

  const cuda_options& options() const noexcept { return options_; }

private:
  static constexpr auto table = Ops::table();

  static const void* kernel() noexcept {
    return reinterpret_cast<const void*>(&detail::superkernel_entry<Ops, Profile>);
  }

  static const cuda_options& checked(const cuda_options& options) {
    if (options.packets == 0 || options.packets > detail::ring_slots)
      throw system_error(make_error_code(errc::bad_size), "cohort: cuda_options::packets");
    detail::check_device(options.device);
    return options;
  }

  /// In each slot of the ring one for every block: an op that spreads a tile over blocks makes no more parts.
  std::size_t exchange_tiles() const noexcept {
    return Ops::device_exchange_bytes == 0 ? 0 : std::size_t{detail::ring_slots} * placement_.blocks;
  }

  static std::size_t device_bytes(const cuda_options& options) {
    if (options.device_bytes != 0) return options.device_bytes;
    std::size_t free = 0;
    std::size_t total = 0;
    detail::cuda_check(cudaMemGetInfo(&free, &total), "cohort: asking for free device memory");
    return std::min(std::size_t{1} << 30, free / 2);
  }

  detail::residency constants() const {
    const auto ns = [](std::chrono::nanoseconds time) {
      return static_cast<std::uint64_t>(std::max<std::chrono::nanoseconds::rep>(time.count(), 0));
    };
    detail::residency all;
    all.host = static_cast<detail::host_ring*>(ring_memory_.get());
    all.device = static_cast<detail::device_ring*>(device_ring_memory_.get());
    all.exchange_tiles = static_cast<std::uint32_t>(exchange_tiles() / detail::ring_slots);
    all.exchange_pieces = static_cast<std::byte*>(exchange_memory_.get());
    all.exchange_counters = static_cast<std::uint32_t*>(exchange_counters_.get());
    all.linger = ns(options_.linger);
    all.limit = ns(options_.time_limit);
    all.device_results = options_.results_stay_on_device ? 1 : 0;
    // A device that draws a desktop kills kernels that stay for seconds.
    if (detail::cuda_attribute(cudaDevAttrKernelExecTimeout, options_.device) != 0) {
      all.longest = ns(std::chrono::milliseconds(500));
    }
    // One block relays, so a single one is not enough.
    const std::uint32_t least = placement_.blocks / placement_.multiprocessors >= 2 ? 1 : 2;
    all.sm_budget = options_.sm_budget == 0 ? placement_.multiprocessors
                                            : std::clamp(options_.sm_budget, least, placement_.multiprocessors);
    return all;
  }

  /// Estimates from the data sheet's side: clocks and widths. What ops really take is measured by whoever schedules.
  device_rates estimate_rates() const {
    const double clock = 1e-6 * detail::cuda_attribute(cudaDevAttrClockRate, options_.device);  // kHz: cycles per ns
    const double memory_clock = 1e-6 * detail::cuda_attribute(cudaDevAttrMemoryClockRate, options_.device);
    const double bus_bytes = detail::cuda_attribute(cudaDevAttrGlobalMemoryBusWidth, options_.device) / 8.0;
    const double share = static_cast<double>(constants().sm_budget) / placement_.multiprocessors;
    device_rates rates;
    // 128 multiply-adds per multiprocessor and cycle, of which small tiles reach about half.
    rates.flops_per_ns = std::max(1.0, 0.5 * 256.0 * clock * constants().sm_budget);
    // Two transfers per clock, of which about 85 % are reached; a part of the multiprocessors draws a larger part of
    // it.
    rates.bytes_per_ns = std::max(1.0, 0.85 * 2.0 * memory_clock * bus_bytes * std::min(1.0, 2.0 * share));
    rates.packet_overhead = std::chrono::nanoseconds(3'000);
    rates.busy_target = std::chrono::nanoseconds(4'000);
    rates.max_packets = options_.packets;
    return rates;
  }

  /// A kernel that is still there keeps its memory.
  void end() noexcept {
    if (ring_.shut_down()) return;
    launcher_.abandon();
    (void)pinned_memory_.release();
    (void)device_memory_.release();
    (void)exchange_counters_.release();
    (void)exchange_memory_.release();
    (void)device_ring_memory_.release();
    (void)ring_memory_.release();
  }

  arena& arena_of(memory_kind kind) noexcept { return kind == memory_kind::device ? device_ : pinned_; }

  const cuda_options options_;
  std::unique_ptr<detail::cuda_device_scope> current_;  // while the constructor runs
  const detail::cuda_placement placement_;
  detail::cuda_host_memory ring_memory_;
  detail::cuda_memory device_ring_memory_;
  detail::cuda_memory exchange_memory_;
  detail::cuda_memory exchange_counters_;
  std::size_t device_bytes_;
  detail::cuda_memory device_memory_;
  detail::cuda_host_memory pinned_memory_;
  arena device_;
  arena pinned_;
  detail::cuda_launcher launcher_;
  detail::ring_host<detail::cuda_launcher> ring_;
  device_rates rates_;
};

}  // namespace cohort::inline COHORT_ABI

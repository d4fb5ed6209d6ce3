// What the executor asks of a device: take packets, say which are complete, hand out memory. The host and the CUDA
// backend implement it; whoever includes this header needs no CUDA toolkit.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

namespace cohort::inline COHORT_ABI {

/// A packet that left the device.
struct packet_completion {
  std::uint32_t sequence = 0;
  error_code result{};
};

/// Which memory an allocation comes from.
enum class memory_kind : std::uint8_t {
  device,  ///< global memory of the device; not readable by host code unless the backend is the host backend
  pinned,  ///< host memory that ops may read and write directly (mapped into the device)
};

/// What the policy must know of a device to keep it busy and no more.
struct device_rates {
  double flops_per_ns = 1.0;                    ///< sustained floating-point operations per nanosecond
  double bytes_per_ns = 1.0;                    ///< sustained memory bandwidth
  std::chrono::nanoseconds packet_overhead{0};  ///< device time of a packet with nothing to do
  std::chrono::nanoseconds busy_target{4'000};  ///< committed work below which one more packet may be committed
  std::uint32_t max_packets = 4;                ///< packets that may be committed together
};

/// A device that runs packets. All functions except `allocate`, `deallocate` and the const ones are called by one
/// thread at a time (the executor's owner). No function throws; no function blocks longer than it says.
class backend {
public:
  virtual ~backend() = default;
  backend(const backend&) = delete;
  backend& operator=(const backend&) = delete;

  virtual const char* name() const noexcept = 0;
  virtual machine_shape shape() const noexcept = 0;
  virtual device_rates rates() const noexcept = 0;

  /// The op set this backend's superkernel was made of: an executor over another set refuses the backend.
  virtual std::span<const op_info> ops() const noexcept = 0;

  /// True when completions must be polled for; false when `on_completion` (below) is called for each.
  virtual bool needs_polling() const noexcept = 0;

  /// Called by the backend from any thread after a packet completed, so that a sleeping owner wakes up. Set once,
  /// before the first commit; must not block. Backends that need polling never call it.
  virtual void on_completion(void (*notify)(void*), void* argument) noexcept = 0;

  /// Whether `commit` would take one more packet now.
  virtual bool has_room() const noexcept = 0;

  /// Hands over a packet (copied before return; at most `packet_capacity` bytes, 16-byte aligned) and rings the
  /// doorbell. Sequence numbers come in order from 1. No tile of a record starts before the packets that it says it
  /// comes `after` are complete. An error means that the packet was not taken and will not complete.
  virtual error_code commit(std::span<const std::byte> packet) noexcept = 0;

  /// Writes up to `out.size()` packets that completed since the last call, in any order, but none before those that it
  /// came after; returns their number. A lost device completes every committed packet with an error.
  virtual std::size_t poll(std::span<packet_completion> out) noexcept = 0;

  /// Leaves the device: returns when no packet is running and the device is free for any other use. Packets committed
  /// before complete first. `commit` after it resumes by itself.
  virtual error_code pause() noexcept = 0;

  /// Memory from the arenas that were taken at construction; null when none is left. Any thread.
  virtual void* allocate(memory_kind kind, std::size_t bytes, std::size_t alignment) noexcept = 0;
  virtual void deallocate(memory_kind kind, void* pointer) noexcept = 0;

  /// Committed submissions were cancelled, or packets with such are complete. Packets that hold cancelled work are
  /// numbered from 1 as they become such: there are `packets` of them, and the first `complete` are complete. What
  /// `deallocate` is given from now on must not be handed out again before all these `packets` are complete. Told
  /// before whoever waited for the cancelled is.
  virtual void given_up(std::uint64_t packets, std::uint64_t complete) noexcept = 0;

protected:
  backend() = default;
};

}  // namespace cohort::inline COHORT_ABI

// The host backend: worker threads in place of a device. It runs the same packets and the same op code as the
// superkernel, so it is where there is no GPU, and what tests compare with. Users construct it; the executor drives it.
#pragma once

#include <cohort/arena.hpp>
#include <cohort/backend/backend.hpp>
#include <cohort/backend/host_context.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/cpu.hpp>
#include <cohort/detail/host_crew.hpp>
#include <cohort/detail/lazy_memory.hpp>
#include <cohort/detail/packet_view.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

namespace cohort::inline COHORT_ABI {

/// How a host backend is set up.
struct host_options {
  static constexpr unsigned all_cores = ~0u;

  /// Worker threads. `all_cores`: as many as the process has cores (affinity mask and control group count). 0: none;
  /// tiles run inside `poll`, on the thread that polls, one packet a call and in the order of commits.
  unsigned workers = all_cores;

  /// Sizes of the two arenas. This much address space is reserved; memory is used from the first touch on.
  std::size_t device_bytes = std::size_t{1} << 30;
  std::size_t pinned_bytes = std::size_t{1} << 30;

  /// Packets that may be committed together, 1 to 64.
  unsigned packets = 4;

  /// How long a worker that ran out of work looks for more before it sleeps. Waking a sleeper costs some 5 to 50 us.
  /// With as many workers as cores it is at most 4 us, because the waiting worker may sit on the core that would bring
  /// the work; a worker on the core of the thread that commits sleeps at once.
  std::chrono::nanoseconds spin{20'000};
};

/// A backend whose device is a crew of host threads. `Ops` is the `op_set` of its executor.
///
/// Both kinds of memory are ordinary host memory, and host code may read either. An op's `run` must not throw: an
/// exception that leaves it ends the program.
///
/// After `pause` no worker is running an op and no completion is being announced, until the next commit.
///
/// The destructor runs committed packets to their end.
template <class Ops>
class host_backend final : public backend {
public:
  /// Throws `system_error(errc::out_of_memory)` when an arena cannot be reserved, `system_error(errc::bad_size)` when
  /// `packets` is out of range, `std::system_error` when a thread cannot be started, and `std::bad_alloc`.
  explicit host_backend(const host_options& options = {})
      : device_memory_(options.device_bytes),
        pinned_memory_(options.pinned_bytes),
        device_(device_memory_.data(), device_memory_.size()),
        pinned_(pinned_memory_.data(), pinned_memory_.size()),
        crew_(crew_settings(options), &run_tiles) {}

  const char* name() const noexcept override { return "host"; }

  machine_shape shape() const noexcept override { return {.workers = std::max(crew_.workers(), 1u), .host = true}; }

  /// Rough figures for a core of a server; what ops really take is measured by whoever schedules them.
  device_rates rates() const noexcept override {
    const double cores = shape().workers;
    // The overhead is a round trip with a worker awake: 0.6 us from core to core, 2 us when both share one.
    // A host tile takes long compared with a device's, and a worker that ran dry must first be woken: more work is kept
    // committed than on a device.
    return {.flops_per_ns = 20.0 * cores,
            .bytes_per_ns = std::min(8.0 * cores, 100.0),
            .packet_overhead = std::chrono::nanoseconds(1'000),
            .busy_target = std::chrono::microseconds(100),
            .max_packets = crew_.packets()};
  }

  std::span<const op_info> ops() const noexcept override { return table; }

  bool needs_polling() const noexcept override { return crew_.workers() == 0; }

  void on_completion(void (*notify)(void*), void* argument) noexcept override { crew_.on_completion(notify, argument); }

  bool has_room() const noexcept override { return crew_.has_room(); }

  /// Errors: `queue_full` without room; `op_too_large`, `misaligned` or `bad_size` for a packet that is malformed.
  error_code commit(std::span<const std::byte> packet) noexcept override {
    if (!crew_.has_room()) return errc::queue_full;
    if (const error_code bad = detail::check_packet(packet, table)) return bad;
    crew_.commit(packet);
    return {};
  }

  /// Lock-free. Without workers it runs the oldest committed packet first, and takes as long as that.
  std::size_t poll(std::span<packet_completion> out) noexcept override { return crew_.poll(out); }

  /// Without workers it runs what is committed.
  error_code pause() noexcept override {
    crew_.pause();
    return {};
  }

  void* allocate(memory_kind kind, std::size_t bytes, std::size_t alignment) noexcept override {
    void* block = arena_of(kind).allocate(bytes, alignment);
    if (block != nullptr) memory_of(kind).show(block, bytes);
    return block;
  }

  void deallocate(memory_kind kind, void* pointer) noexcept override {
    if (pointer == nullptr) return;
    [[maybe_unused]] const bool known = arena_of(kind).deallocate(pointer, hide{memory_of(kind)});
    assert(known && "returned twice, or with another memory_kind, or not from this backend");
  }

  void given_up(std::uint64_t packets, std::uint64_t complete) noexcept override {
    for (const memory_kind kind : {memory_kind::device, memory_kind::pinned}) {
      arena_of(kind).hold_back(packets, complete, hide{memory_of(kind)});
    }
  }

  arena_statistics memory(memory_kind kind) const noexcept {
    return kind == memory_kind::device ? device_.statistics() : pinned_.statistics();
  }

private:
  static constexpr auto table = Ops::table();

  struct hide {
    const detail::lazy_memory& memory;
    void operator()(void* block, std::size_t bytes) const noexcept { memory.hide(block, bytes); }
  };

  static void run_tiles(std::byte* scratch, const record_header& record, std::uint32_t first,
                        std::uint32_t last) noexcept {
    host_context context(scratch);
    for (std::uint32_t tile = first; tile < last; ++tile)
      Ops::run(record.op, context, &record + 1, record.members, tile);
  }

  static detail::host_crew::settings crew_settings(const host_options& options) {
    if (options.packets == 0 || options.packets > 64)
      throw system_error(make_error_code(errc::bad_size), "cohort: host_options::packets");
    const unsigned cores = detail::usable_cores();
    const unsigned workers = options.workers == host_options::all_cores ? cores : options.workers;
    constexpr std::chrono::nanoseconds crowded{4'000};
    return {.workers = workers,
            .packets = options.packets,
            .scratch_bytes = Ops::host_scratch_bytes,
            .spin = workers < cores ? options.spin : std::min(options.spin, crowded)};
  }

  const detail::lazy_memory& memory_of(memory_kind kind) const noexcept {
    return kind == memory_kind::device ? device_memory_ : pinned_memory_;
  }
  arena& arena_of(memory_kind kind) noexcept { return kind == memory_kind::device ? device_ : pinned_; }

  detail::lazy_memory device_memory_;
  detail::lazy_memory pinned_memory_;
  arena device_;
  arena pinned_;
  detail::host_crew crew_;  // last: its threads end before the memory goes that they may be writing to
};

}  // namespace cohort::inline COHORT_ABI

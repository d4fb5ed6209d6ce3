// A CUDA backend driven by the packet, without scheduler or executor: ops that show what only a device can, and a
// ledger of what completed. The GPU tests of the backend enter.
#pragma once

#include "support/cuda_test_options.hpp"
#include "support/packet_ledger.hpp"
#include "support/protocol_packets.hpp"

#include <cohort/backend/cuda.cuh>
#include <cohort/error.hpp>
#include <cohort/op.hpp>

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <span>

namespace cohort_backend_gpu_test {

using namespace std::chrono_literals;
using cohort::testing::add_op;
using cohort::testing::fused_op;
using cohort::testing::rounds;
using cohort::testing::wide_op;
using clock = std::chrono::steady_clock;

/// Writes the multiprocessor of each tile.
struct alignas(16) place_op {
  static constexpr const char* name = "place";
  std::uint32_t* out;
  std::uint32_t count;
  std::uint32_t unused = 0;

  std::uint32_t tiles() const { return count; }
  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    std::uint32_t id = 0;
#if COHORT_DEVICE_PASS
    asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
#endif
    if (context.rank() == 0) out[tile] = id + 1;
  }
};

/// Keeps its block busy.
struct alignas(16) spin_op {
  static constexpr const char* name = "spin";
  std::uint32_t* out;
  std::uint64_t nanoseconds;

  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t) const {
#if COHORT_DEVICE_PASS
    std::uint64_t begin;
    std::uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
      asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < nanoseconds);
#endif
    if (context.rank() == 0) *out = 1;
  }
};

struct alignas(16) trap_op {
  static constexpr const char* name = "trap";
  std::uint64_t unused[2] = {};

  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t) const {
#if COHORT_DEVICE_PASS
    asm volatile("trap;");
#endif
  }
};

/// Reads what another op wrote in device memory, writes where the host can read.
struct alignas(16) move_op {
  static constexpr const char* name = "move";
  std::uint32_t* out;
  const std::uint32_t* in;
  std::uint32_t size;
  std::uint32_t add = 0;
  std::uint64_t unused = 0;

  std::uint32_t tiles() const { return (size + 255) / 256; }
  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    for (std::uint32_t i = context.rank(); i < 256; i += context.size()) {
      if (const std::uint32_t at = tile * 256 + i; at < size) out[at] = in[at] + add;
    }
  }
};

using ops = cohort::op_set<add_op, fused_op, wide_op, place_op, spin_op, trap_op, move_op>;
using cuda_backend = cohort::cuda_backend<ops>;

inline cohort::cuda_options options() { return cohort::testing::cuda_test_options(std::size_t{64} << 20); }

inline bool bounded() { return options().mode == cohort::cuda_mode::bounded; }

inline cohort::testing::word_memory pinned_words(cohort::backend& owner) {
  return {.allocate =
              [](void* self, std::size_t words) {
                return static_cast<std::uint32_t*>(static_cast<cohort::backend*>(self)->allocate(
                    cohort::memory_kind::pinned, words * sizeof(std::uint32_t), 256));
              },
          .release =
              [](void* self, std::uint32_t* words) {
                static_cast<cohort::backend*>(self)->deallocate(cohort::memory_kind::pinned, words);
              },
          .argument = &owner};
}

/// A backend and a ledger of what completed. Every wait is bounded: a test that hangs fails.
struct bench : cohort::testing::packet_ledger {
  explicit bench(const cohort::cuda_options& chosen = options()) : device(chosen), source(pinned_words(device)) {}

  std::uint32_t* words(std::size_t count) {
    auto* const data = pinned_words(device).allocate(&device, count);
    REQUIRE(data != nullptr);
    std::memset(data, 0, count * sizeof *data);
    return data;
  }

  void commit(std::span<const std::byte> packet) {
    const clock::time_point end = clock::now() + 60s;
    while (!device.has_room()) {
      poll();
      if (clock::now() > end) FAIL("no room for 60 s");
    }
    const cohort::error_code failed = device.commit(packet);
    REQUIRE_MESSAGE(!failed, failed.message());
    ++committed;
  }

  void poll() {
    std::array<cohort::packet_completion, 3> out;
    const std::size_t count = device.poll(out);
    enter(std::span(out).first(count), source);
  }

  void drain() {
    const clock::time_point end = clock::now() + 60s;
    while (seen.size() < committed) {
      poll();
      if (clock::now() > end) FAIL("after 60 s still in flight: " << committed - seen.size());
    }
  }

  cuda_backend device;
  cohort::testing::packet_source<ops> source;
};

}  // namespace cohort_backend_gpu_test

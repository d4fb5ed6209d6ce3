// How a CUDA backend is set up. Plain values without a toolkit, so that .cpp and .cu files agree on them.
#pragma once

#include <cohort/config.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI {

/// How the superkernel lives on the device.
enum class cuda_mode : std::uint8_t {
  resident,  ///< it stays and waits for packets; leaves after `linger` without any
  bounded,   ///< a launch takes the packets that are in the ring and ends: for profilers and sanitizers
};

struct cuda_options {
  int device = 0;  ///< CUDA ordinal

  /// Sizes of the two arenas, taken at construction. 0 device bytes: 1 GiB, or half of what is free if that is less.
  /// Ops whose tiles meet in device memory (`ops::linear`: 8 KiB per block and packet slot) take it besides: 132 MiB on
  /// 132 multiprocessors with four blocks each.
  std::size_t device_bytes = 0;
  std::size_t pinned_bytes = std::size_t{64} << 20;

  /// How long the superkernel stays without a new packet. It comes back with the next one, which costs one launch.
  std::chrono::nanoseconds linger = std::chrono::milliseconds(2);

  /// The device is lost when packets are in flight and none completes for so long. Also the bound of each wait on the
  /// device, so a single packet must not take longer.
  std::chrono::nanoseconds time_limit = std::chrono::seconds(10);

  /// Multiprocessors that the superkernel uses; the others are left to whoever else uses the device. 0: all.
  std::uint32_t sm_budget = 0;

  /// Packets that may be committed together, 1 to 32. One takes some 6 us there and back however little it holds, and
  /// small ones run side by side: several must be on their way to keep a device busy with them. The more, the less
  /// company each of them has.
  std::uint32_t packets = 8;

  /// A promise: no op writes memory of the host (pinned, mapped or managed). A packet's end is then told as soon as the
  /// whole device sees what its ops wrote, and not only when the host could see writes to its own memory, which takes
  /// 0.4 to 1.5 us of every round trip. Later ops, kernels and copies from the device find all results, as without it;
  /// what an op writes into the host's memory in spite of it may arrive after the end was told.
  bool results_stay_on_device = false;

  cuda_mode mode = cuda_mode::resident;
};

}  // namespace cohort::inline COHORT_ABI

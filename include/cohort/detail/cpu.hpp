// What threads of the host need to know of the processor: how many cores this process may use, and how to wait a moment
// without giving the core away. Internal.
#pragma once

#include <cohort/config.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace cohort::inline COHORT_ABI::detail {

/// Tells the core that a loop is only waiting, so that the other hardware thread gets its share.
inline void spin_pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  asm volatile("pause" ::: "memory");
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

/// Looks for some 20 us whether `there` says true: about what it costs to put a thread to sleep and to wake it again,
/// so that looking in vain costs at most as much again as sleeping at once. Returns the last answer.
template <class There>
bool look_out(There there) noexcept {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
  do {
    for (int look = 0; look < 32; ++look) {
      if (there()) return true;
      spin_pause();
    }
    std::this_thread::yield();  // whoever is to answer may need this core
  } while (std::chrono::steady_clock::now() < end);
  return there();
}

/// The core that this thread is on at the moment, -1 when that is unknown.
inline int current_core() noexcept {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

/// The CPU share that the control group grants, rounded up to cores; 0 when it sets no limit or cannot be read. A
/// container sees its own group at this path.
inline unsigned cores_of_control_group() noexcept {
#if defined(__linux__)
  unsigned cores = 0;
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "re")) {
    long long quota = 0;
    long long period = 0;
    // Without a limit the file starts with the word "max", and nothing is read.
    if (std::fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0)
      cores = static_cast<unsigned>((quota + period - 1) / period);
    (void)std::fclose(file);
  }
  return cores;
#else
  return 0;
#endif
}

/// Cores that this process may keep busy: the affinity mask of the calling thread, limited by the control group. At
/// least 1.
inline unsigned usable_cores() noexcept {
  unsigned cores = std::thread::hardware_concurrency();
#if defined(__linux__)
  // Fails on a machine with more processors than the mask has bits; then the number of all processors stands.
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) cores = static_cast<unsigned>(CPU_COUNT(&mask));
#endif
  if (const unsigned granted = cores_of_control_group(); granted != 0) cores = std::min(cores, granted);
  return std::max(cores, 1u);
}

}  // namespace cohort::inline COHORT_ABI::detail

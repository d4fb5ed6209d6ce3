// The body of the resident kernel: all blocks start together, then one relays (relay.hpp) and the others work
// (worker.hpp). Templates over the grid they run on, without any CUDA construct, so that tests run the very same
// protocol on host threads under a sanitizer. Only cuda_grid.cuh and that test enter.
//
// A grid (one object per thread) provides:
//   constants   poll_threads     threads 0 .. poll_threads - 1 of the relay block poll together (one warp)
//               movers           teams that bring the rest of large packets beside them, at most `most_movers`
//               mover_threads    of each team (one warp)
//               copy_rows        16-byte pieces that a thread brings from the host at a time
//   identity    thread(), threads(), block(), blocks(), multiprocessor(), multiprocessors()
//               is_poller(), is_watcher(), is_mover(); of a mover: mover() its team, mover_rank() its place there
//   barriers    sync() block; poll_sync(), poll_all(bool), poll_broadcast(u32 of 0); mover_sync() a team;
//               meet(i) pollers and team i
//   memory      load_acquire_system(u64*), load_acquire_system_pair(u64*, u64[2]), store_release_system(u64*, u64)
//               load_relaxed_system_pair(u64*, u64[2]), store_relaxed_system(u64*, u64)
//               fence_device(): acquire and release, between what precedes and what follows, for the device
//               load_acquire_device(u32*), load_acquire_device_pair, store_release_device_pair(u64*, u64, u64),
//               add_device(u32*, u32) (acquire and release, returns the old value),
//               load_shared(u32*), store_shared(u32*, u32) (within the block, relaxed)
//               copy16_device(to, from): 16 bytes, never through a read-only cache
//               copy_rows_system(to, from, row, count): 1 to `copy_rows` of them, `row` bytes apart, all loads before
//               the first store
//   time        now() ns, relax() between polls of device memory, back_off() 1 us or more
//   work        run<Ops>(op, works, count)
#pragma once

#include <cohort/config.hpp>
#include <cohort/device/relay.hpp>
#include <cohort/device/ring.hpp>
#include <cohort/device/ring_fault.hpp>
#include <cohort/device/superkernel_shared.hpp>
#include <cohort/device/worker.hpp>

#include <cstdint>

namespace cohort::inline COHORT_ABI::detail {

/// One thread's view of a residency. Every thread of the grid constructs one and calls `run` once.
template <class Ops, class Grid>
class superkernel {
public:
  using shared_type = superkernel_shared<Ops>;

  COHORT_DEVICE superkernel(Grid& grid, const residency& parameters, shared_type& shared)
      : grid_(grid), p_(parameters), shared_(shared) {}

  COHORT_DEVICE_ONE_FUNCTION void run() {
    if (!start()) return;
    // The last number relays; with the numbering by multiprocessor it sits where the blocks run out.
    if (shared_.number + 1 == shared_.participants) {
      relay<Ops, Grid>(grid_, p_, shared_).run();
    } else {
      worker<Ops, Grid>(grid_, p_, shared_).run();
    }
  }

private:
  /// Numbers the blocks so that neighbours sit on different multiprocessors: first one block of each, then the second
  /// of each, and so on. A packet with fewer tiles than workers then spreads over the whole device. False: this block
  /// takes no part (its multiprocessor is left to others) or the grid is broken.
  COHORT_DEVICE bool start() {
    device_ring& ring = *p_.device;
    std::uint32_t* const arrivals = ring.arrivals[p_.launch & 1];
    const std::uint32_t multiprocessor = grid_.multiprocessor();
    std::uint32_t rank = 0;
    if (grid_.thread() == 0) rank = grid_.add_device(&arrivals[multiprocessor], 1);
    if (grid_.block() == 0) {
      // Leftovers of the residency before, whose blocks are all gone. Before the barrier: nobody reads these yet. A
      // ticket of the past, in both words: a zero could be the stamp of a ticket to come.
      const announced past{.ticket = p_.first - announcement_slots};
      for (std::uint32_t i = grid_.thread(); i < announcement_slots; i += grid_.threads()) {
        ring.announcements[i].words[0] = announcement_head(past);
        ring.announcements[i].words[1] = announcement_rest(past);
      }
      std::uint32_t* const other = ring.arrivals[(p_.launch + 1) & 1];
      for (std::uint32_t i = grid_.thread(); i < max_multiprocessors; i += grid_.threads()) other[i] = 0;
    }
    grid_.sync();
    if (grid_.thread() == 0) shared_.failed = meet() ? 0 : 1;
    grid_.sync();
    if (shared_.failed != 0) return false;

    for (std::uint32_t i = grid_.thread(); i < grid_.multiprocessors(); i += grid_.threads()) {
      shared_.arrivals[i] = static_cast<std::uint16_t>(arrivals[i]);
    }
    grid_.sync();
    if (grid_.thread() == 0) number(multiprocessor, rank);
    grid_.sync();
    return shared_.takes_part != 0;
  }

  /// Barrier over the grid. The counter is never reset: launch n is complete at n times the number of blocks.
  COHORT_DEVICE bool meet() {
    std::uint32_t* const barrier = &p_.device->start_barrier.value;
    const std::uint32_t all = p_.launch * grid_.blocks();
    grid_.add_device(barrier, 1);
    const std::uint64_t since = grid_.now();
    while (ticket_distance(grid_.load_acquire_device(barrier), all) < 0) {
      if (grid_.now() - since > p_.limit) {
        report(grid_, p_, ring_fault::start_barrier, p_.first);
        return false;
      }
      grid_.relax();
    }
    return true;
  }

  COHORT_DEVICE void number(std::uint32_t multiprocessor, std::uint32_t rank) {
    std::uint32_t used = 0;          // multiprocessors with blocks so far, in the order of their numbers
    std::uint32_t participants = 0;  // blocks on those within the budget
    std::uint32_t before = 0;        // of them, those that come before this block
    bool within = false;
    for (std::uint32_t i = 0; i < grid_.multiprocessors(); ++i) {
      const std::uint32_t here = shared_.arrivals[i];
      if (here == 0 || used == p_.sm_budget) continue;
      ++used;
      participants += here;
      before += here < rank ? here : rank;
      if (i < multiprocessor && here > rank) ++before;
      if (i == multiprocessor) within = true;
    }
    shared_.takes_part = within && participants >= 2 ? 1 : 0;
    shared_.number = before;
    shared_.participants = participants;
    if (within && before == 0 && participants < 2) report(grid_, p_, ring_fault::no_workers, p_.first);
  }

  Grid& grid_;
  const residency& p_;
  shared_type& shared_;
};

}  // namespace cohort::inline COHORT_ABI::detail

// The block of the superkernel that relays: host memory -> device memory -> workers. It alone looks at the host's
// memory, for packets and for the wish to stop. superkernel.hpp enters, and describes the grid.
#pragma once

#include <cohort/config.hpp>
#include <cohort/device/ring.hpp>
#include <cohort/device/ring_fault.hpp>
#include <cohort/device/superkernel_shared.hpp>
#include <cohort/schedule/packet.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cohort::inline COHORT_ABI::detail {

/// One thread's view of the block that relays. Every thread of the block constructs one and calls `run` once.
template <class Ops, class Grid>
class relay {
public:
  using shared_type = superkernel_shared<Ops>;

  COHORT_DEVICE relay(Grid& grid, const residency& parameters, shared_type& shared)
      : grid_(grid), p_(parameters), shared_(shared) {}

  COHORT_DEVICE void run() {
    for (std::uint32_t i = grid_.thread(); i < ring_slots; i += grid_.threads()) {
      // Nothing is under way yet: the counters stand still until this block announces something.
      shared_.targets[i] = grid_.load_acquire_device(&p_.device->counters[i].value);
    }
    if (grid_.thread() == 0) {
      shared_.first_worker = 0;
      shared_.stop_seen = 0;
      shared_.relay_done = 0;
    }
    grid_.sync();
    if (grid_.is_poller()) {
      poll();
    } else if (grid_.is_mover()) {
      move();
    } else if (grid_.is_watcher()) {
      watch();
    }
  }

private:
  /// Looks for the host's wish to stop, on its own and rarely, so that the main poll pays nothing for it. Ends with the
  /// pollers, whose every wait is bounded.
  COHORT_DEVICE void watch() {
    while (grid_.load_shared(&shared_.relay_done) == 0) {
      // Equality: a wish about an earlier launch stays in the word for as long as it likes.
      if (grid_.load_acquire_system(&p_.host->stop) == p_.launch) {
        grid_.store_shared(&shared_.stop_seen, 1);
        return;
      }
      grid_.back_off();
    }
  }

  /// Announces large packets, and brings what is missing of them before, while the pollers look for the next: a trip
  /// over the bus takes longer than all else here, and who announces waits until all that was written is visible.
  /// Announcements may come out of order: workers go by the tickets.
  COHORT_DEVICE void move() {
    static_assert(Grid::movers <= most_movers);
    const std::uint32_t team = grid_.mover();
    for (;;) {
      grid_.meet(team);
      const relay_job job = shared_.jobs[team];
      grid_.meet(team);
      if (job.bulk == no_more_jobs) return;
      const std::uint32_t ticket = read_announcement(job.head, job.rest).ticket;
      copy_elements(ticket, job.elements);
      copy_bulk(ticket, job.bulk);
      grid_.mover_sync();
      if (grid_.mover_rank() == 0) announce(job.head, job.rest);
    }
  }

  /// All pollers: hands a packet over. Waits until the team is through with the one before, and has taken this one.
  COHORT_DEVICE void give(std::uint32_t team, const announced& packet, std::uint32_t elements, std::uint32_t bulk) {
    if (grid_.thread() == 0) {
      shared_.jobs[team] = {announcement_head(packet), announcement_rest(packet), elements, bulk};
    }
    grid_.meet(team);
    grid_.meet(team);
  }

  /// Elements that the look which found the packet did not bring. Its header was stored last: they are there.
  COHORT_DEVICE void copy_elements(std::uint32_t ticket, std::uint32_t end) {
    std::uint64_t* const from = p_.host->slots[ticket % ring_slots].elements;
    std::byte* const to = p_.device->slots[ticket % ring_slots].packet;
    constexpr std::uint32_t stride = 2 * Grid::mover_threads;
    constexpr std::uint32_t at_once = 4;
    for (std::uint32_t at = short_elements + 2 * grid_.mover_rank(); at < end; at += at_once * stride) {
      std::uint64_t pairs[at_once][2];
      for (std::uint32_t i = 0; i < at_once; ++i) {
        if (at + i * stride < end) grid_.load_relaxed_system_pair(&from[at + i * stride], pairs[i]);
      }
      for (std::uint32_t i = 0; i < at_once; ++i) {
        if (at + i * stride < end) put_pair(to, at + i * stride, pairs[i]);
      }
    }
  }

  COHORT_DEVICE static bool is_stamped(const std::uint64_t (&pair)[2], std::uint32_t ticket) {
    return element_stamp(pair[0]) == ticket && element_stamp(pair[1]) == ticket;
  }

  /// The data of two elements, to where they lie in the packet.
  COHORT_DEVICE static void put_pair(std::byte* packet, std::uint32_t element, const std::uint64_t (&pair)[2]) {
    const std::uint32_t data[2] = {element_data(pair[0]), element_data(pair[1])};
    std::memcpy(__builtin_assume_aligned(packet + element * 4, 8), data, sizeof data);
  }

  COHORT_DEVICE void copy_bulk(std::uint32_t ticket, std::uint32_t bytes) {
    const std::byte* const from = p_.host->slots[ticket % ring_slots].bulk;
    std::byte* const to = p_.device->slots[ticket % ring_slots].packet + short_bytes;
    constexpr std::uint32_t piece = 16;
    constexpr std::uint32_t row = Grid::mover_threads * piece;
    // As many loads in flight as registers allow: reads must not follow one another.
    for (std::uint32_t at = grid_.mover_rank() * piece; at < bytes; at += Grid::copy_rows * row) {
      const std::uint32_t rows = (bytes - at + row - 1) / row;
      grid_.copy_rows_system(to + at, from + at, row, rows < Grid::copy_rows ? rows : Grid::copy_rows);
    }
  }

  static constexpr std::uint32_t short_pairs = short_elements / (2 * Grid::poll_threads);
  static constexpr std::uint32_t more_pairs = (wide_elements - short_elements) / (2 * Grid::poll_threads);
  static_assert(short_pairs * 2 * Grid::poll_threads == short_elements);
  static_assert(more_pairs * 2 * Grid::poll_threads == wide_elements - short_elements);

  /// The first element of a poller's pair `i`.
  COHORT_DEVICE std::uint32_t element_of(std::uint32_t i) const {
    return 2 * (i * Grid::poll_threads + grid_.thread());
  }

  /// How long there has been no packet. The clock is read at every `clock_looks`th look: it takes a third of a
  /// microsecond, and a packet that comes meanwhile waits for the look behind it.
  struct quiet {
    std::uint64_t since = 0;  ///< 0: not known yet
    std::uint32_t looks = 0;
  };
  static constexpr std::uint32_t clock_looks = 8;
  /// Looks without a packet after which the device is likely to be idle: packets of a burst follow sooner.
  static constexpr std::uint32_t quiet_looks = 3;

  /// What thread 0 of the pollers makes of a look at the slot; sent to all pollers in one word.
  static constexpr std::uint32_t verdict_nothing = 0;
  static constexpr std::uint32_t verdict_leave = 0xffffffffu;
  // Anything else: what the second element says of the packet whose header is there.

  COHORT_DEVICE void poll() {
    const std::uint32_t thread = grid_.thread();
    const std::uint64_t started = grid_.now();
    quiet idle{.since = started};
    std::uint64_t torn_since = 0;  // 0: no packet has begun to arrive
    bool over = false;             // known to thread 0: packets or not, the residency ends
    std::uint32_t ticket = p_.first;
    std::uint32_t team = 0;  // whose turn it is to bring a large packet
    // A wide look saves a packet that finds the device idle the second trip, if it is as large as the last one that
    // did. Those that follow others come faster by short looks.
    std::uint32_t fruitless = 0;  // looks since the last packet
    bool last_was_wide = false;
    std::uint64_t seen[short_pairs][2];
    std::uint64_t more[more_pairs][2];

    for (;;) {
      ring_slot& slot = p_.host->slots[ticket % ring_slots];
      const bool wide = last_was_wide && fruitless >= quiet_looks;
      // All on the way together, which acquires would not be: what an element says is in the element, and one acquire
      // of this packet is enough for the rest of it. The last one, because it orders nothing before it.
      if (wide) {
        for (std::uint32_t i = 0; i < more_pairs; ++i) {
          grid_.load_relaxed_system_pair(&slot.elements[element_of(short_pairs + i)], more[i]);
        }
      }
      for (std::uint32_t i = short_pairs - 1; i > 0; --i) {
        grid_.load_relaxed_system_pair(&slot.elements[element_of(i)], seen[i]);
      }
      grid_.load_acquire_system_pair(&slot.elements[2 * thread], seen[0]);

      std::uint32_t verdict = verdict_nothing;
      if (thread == 0) verdict = over ? verdict_leave : judge(ticket, seen[0][1], started, idle, torn_since);
      verdict = grid_.poll_broadcast(verdict);
      if (verdict == verdict_leave) break;
      if (verdict == verdict_nothing) {
        ++fruitless;
        continue;
      }
      if ((verdict & finds_idle) != 0) last_was_wide = stamped_bytes(verdict) > short_bytes;
      if (thread == 0) seen[0][1] &= ~std::uint64_t{finds_idle};  // workers want the size itself

      // The reads of one look have no order among themselves: it counts only when every element needed has the stamp.
      const std::uint32_t stamped = stamped_bytes(verdict) / 4;
      const bool brought = stamped <= short_elements || wide;
      bool whole = true;
      for (std::uint32_t i = 0; i < short_pairs; ++i) {
        whole = whole && (element_of(i) >= stamped || is_stamped(seen[i], ticket));
      }
      if (wide) {
        for (std::uint32_t i = 0; i < more_pairs; ++i) {
          whole = whole && (element_of(short_pairs + i) >= stamped || is_stamped(more[i], ticket));
        }
      }
      if (!grid_.poll_all(whole)) {
        // `judge` bounds this: it leaves with a fault when the rest does not come.
        if (torn_since == 0) torn_since = grid_.now();
        continue;
      }
      torn_since = 0;

      if (wide) {
        std::byte* const packet = p_.device->slots[ticket % ring_slots].packet;
        for (std::uint32_t i = 0; i < more_pairs; ++i) {
          if (element_of(short_pairs + i) < stamped) put_pair(packet, element_of(short_pairs + i), more[i]);
        }
      }
      if (!forward(ticket, verdict, brought, seen, team)) break;
      ++ticket;
      // What a packet need not wait for is looked at behind it.
      idle = {};
      fruitless = 0;
      if (thread == 0) over = is_over(started, p_.longest != 0 ? grid_.now() : 0);
    }

    if (thread == 0) {
      // First the workers, then the host: it may start the next residency as soon as it knows.
      const announced end{.ticket = ticket};
      announce(announcement_head(end), announcement_rest(end));
      grid_.store_release_system(&p_.host->gone, make_element(p_.launch, ticket));
      grid_.store_shared(&shared_.relay_done, 1);
    }
    for (std::uint32_t i = 0; i < Grid::movers; ++i) give(i, {}, 0, no_more_jobs);
  }

  /// Whether the host wants the residency to end, or its longest time is over.
  COHORT_DEVICE bool is_over(std::uint64_t started, std::uint64_t now) {
    return grid_.load_shared(&shared_.stop_seen) != 0 || (p_.longest != 0 && now - started > p_.longest);
  }

  /// Thread 0 of the pollers: whether there is a packet, and whether to stay. A packet is known before any clock is
  /// read.
  COHORT_DEVICE std::uint32_t judge(std::uint32_t ticket, std::uint64_t size_element, std::uint64_t started,
                                    quiet& idle, std::uint64_t torn_since) {
    if (p_.bounded != 0 && ticket == p_.until) return verdict_leave;
    if (element_stamp(size_element) == ticket) {
      const std::uint32_t size = element_data(size_element);
      const std::uint32_t bytes = bytes_of(size);
      if (bytes < sizeof(packet_header) || bytes > packet_capacity || bytes % 16 != 0) {
        report(grid_, p_, ring_fault::bad_packet, ticket);
        return verdict_leave;
      }
      if (torn_since != 0 && grid_.now() - torn_since > p_.limit) {
        report(grid_, p_, ring_fault::torn_packet, ticket);
        return verdict_leave;
      }
      return size;
    }
    if (++idle.looks % clock_looks != 0) return verdict_nothing;
    const std::uint64_t now = grid_.now();
    if (idle.since == 0) idle.since = now;
    if (is_over(started, now)) return verdict_leave;
    if (now - idle.since <= (p_.bounded != 0 ? p_.limit : p_.linger)) return verdict_nothing;
    // A bounded residency was promised its packets.
    if (p_.bounded != 0) report(grid_, p_, ring_fault::torn_packet, ticket);
    return verdict_leave;
  }

  /// Moves a packet to device memory and tells the workers, or has a team do the rest. They take packets in turn, so
  /// that small ones in flight together land on different multiprocessors. False: the header is bad, and the host
  /// knows.
  ///
  /// \param brought all of it that travels in elements was seen, and what is not in `seen` is in its place
  COHORT_DEVICE bool forward(std::uint32_t ticket, std::uint32_t size, bool brought,
                             const std::uint64_t (&seen)[short_pairs][2], std::uint32_t& team) {
    const std::uint32_t thread = grid_.thread();
    device_slot& slot = p_.device->slots[ticket % ring_slots];
    constexpr std::uint32_t header_words = sizeof(packet_header) / 4;
    const std::uint32_t stamped = stamped_bytes(size);
    for (std::uint32_t i = 0; i < short_pairs; ++i) {
      const std::uint32_t element = element_of(i);
      if (element * 4 >= stamped) continue;
      put_pair(slot.packet, element, seen[i]);
      if (element < header_words) {
        shared_.header[element] = element_data(seen[i][0]);
        shared_.header[element + 1] = element_data(seen[i][1]);
      }
    }
    grid_.poll_sync();

    // All at once: each look at shared memory takes as long as all of them.
    const std::uint32_t workers = shared_.participants - 1;
    const std::uint32_t tiles = shared_.header[2];
    const std::uint32_t uniform_tiles = shared_.header[3] >> 16;
    const std::uint32_t uniform_stride = shared_.header[4];
    const std::uint32_t after = shared_.header[6];
    const std::uint32_t followed = shared_.header[7] & packet_is_followed;
    if (after != 0) {
      for (std::uint32_t i = thread; i < ring_slots; i += Grid::poll_threads) {
        slot.targets_before[i] = shared_.targets[i];
      }
      grid_.poll_sync();
    }

    if (tiles == 0) {
      if (thread == 0) report(grid_, p_, ring_fault::bad_packet, ticket);
      return false;
    }
    announced packet;
    if (thread == 0) {
      packet = {.ticket = ticket,
                .tiles = tiles,
                .first_worker = shared_.first_worker,
                .uniform_tiles = uniform_tiles,
                .uniform_stride = uniform_stride,
                .waits = after != 0 ? 1u : 0u,
                .counted = tiles > 1 || followed != 0 ? 1u : 0u};
      if (packet.counted != 0) slot.target = shared_.targets[ticket % ring_slots] += tiles < workers ? tiles : workers;
      shared_.first_worker = (shared_.first_worker + tiles % workers) % workers;
    }
    if (bytes_of(size) > short_bytes) {
      give(team, packet, brought ? 0 : stamped / 4, bytes_of(size) - stamped);
      team = team + 1 == Grid::movers ? 0 : team + 1;
    } else if (thread == 0) {
      announce(announcement_head(packet), announcement_rest(packet));
    }
    // The next packet's header must not overwrite this one while a poller still reads it.
    grid_.poll_sync();
    return true;
  }

  /// Release: whoever acquires it sees the device slot, also what others of the relay wrote before a barrier.
  COHORT_DEVICE void announce(std::uint64_t head, std::uint64_t rest) {
    const std::uint32_t ticket = read_announcement(head, rest).ticket;
    grid_.store_release_device_pair(p_.device->announcements[ticket % announcement_slots].words, head, rest);
  }
  Grid& grid_;
  const residency& p_;
  shared_type& shared_;
};

}  // namespace cohort::inline COHORT_ABI::detail

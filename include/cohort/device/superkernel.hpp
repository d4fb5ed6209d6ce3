// The body of the resident kernel: start, relay, workers. A template over the grid it runs on, without any CUDA
// construct, so that tests run the very same protocol on host threads under a sanitizer. Only cuda_grid.cuh and that
// test enter.
//
// A grid (one object per thread) provides:
//   constants   poll_threads     threads 0 .. poll_threads - 1 of the relay block poll together (one warp)
//               movers           teams that bring large packets beside them, at most `most_movers`
//               mover_threads    of each team (one warp)
//               copy_rows        16-byte pieces that a thread brings from the host at a time
//   identity    thread(), threads(), block(), blocks(), multiprocessor(), multiprocessors()
//               is_poller(), is_watcher(), is_mover(); of a mover: mover() its team, mover_rank() its place there
//   barriers    sync() block; poll_sync(), poll_all(bool), poll_broadcast(u32 of 0); mover_sync() a team;
//               meet(i) pollers and team i
//   memory      load_acquire_system(u64*), load_acquire_system_pair(u64*, u64[2]), store_release_system(u64*, u64)
//               load_relaxed_system_pair(u64*, u64[2])
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
#include <cohort/device/ring.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
/// Marks the superkernel's functions: device code under nvcc, host code where the grid is emulated. A worker's way to
/// the ops is one function: beside a call, registers would be put away for it.
#define COHORT_DEVICE __device__
#define COHORT_DEVICE_ONE_FUNCTION __device__ __forceinline__
#else
#define COHORT_DEVICE
#define COHORT_DEVICE_ONE_FUNCTION
#endif

namespace cohort::inline COHORT_ABI::detail {

/// Tiles that a worker fetches the records of, and hands to an op, together: the reads share one round trip to L2, and
/// the op may begin the next tile before it has ended one.
inline constexpr std::uint32_t record_batch = 8;

/// Teams of the relay that bring large packets.
inline constexpr std::uint32_t most_movers = 2;

/// The bulk that a team is to bring, and the announcement that is due then.
struct relay_job {
  std::uint64_t head;
  std::uint64_t rest;
  std::uint32_t bytes;  ///< 0: nothing more will come
};

/// Shared memory of one block, beside the ops' scratch. No initialisers: device code does not allow them here.
template <class Ops>
struct superkernel_shared {
  static constexpr std::uint32_t record_bytes = sizeof(record_header) + Ops::largest_stride;

  union {
    alignas(16) std::byte records[record_batch][record_bytes];  // worker: the tiles it is about to run
    std::uint16_t arrivals[max_multiprocessors];                // start: blocks on each multiprocessor
  };
  std::uint32_t offsets[record_batch];
  tile_work works[record_batch];
  std::uint64_t announcement[2];
  std::uint32_t target;

  std::uint32_t failed;
  std::uint32_t takes_part;
  std::uint32_t number;
  std::uint32_t participants;
  std::uint32_t next_ticket;  // worker: to listen for
  std::uint32_t own_tiles;    // worker: that this block has in the packet

  std::uint32_t header[sizeof(packet_header) / 4];  // relay: of the packet that just arrived
  std::uint32_t targets[ring_slots];
  std::uint32_t first_worker;  // of the next packet
  relay_job jobs[most_movers];
  std::uint32_t stop_seen;
  std::uint32_t relay_done;
};

/// The T that lies aligned among bytes. No memcpy: from that, device code is made that reads byte by byte.
template <class T>
COHORT_DEVICE inline const T& read_as(const std::byte* at) {
  return *reinterpret_cast<const T*>(at);
}

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
      relay();
    } else {
      work();
    }
  }

private:
  // ---- start: count, meet, number ----

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
        report(ring_fault::start_barrier, p_.first);
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
    if (within && before == 0 && participants < 2) report(ring_fault::no_workers, p_.first);
  }

  COHORT_DEVICE void report(ring_fault code, std::uint32_t ticket) {
    grid_.store_release_system(&p_.host->fault, make_fault(code, grid_.block(), ticket));
  }

  // ---- relay: host memory -> device memory -> workers ----

  COHORT_DEVICE void relay() {
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

  /// Brings the bulk of large packets and announces them, while the pollers look for the next: a trip over the bus
  /// takes longer than all else here. Announcements may come out of order: workers go by the tickets.
  COHORT_DEVICE void move() {
    static_assert(Grid::movers <= most_movers);
    const std::uint32_t team = grid_.mover();
    for (;;) {
      grid_.meet(team);
      const relay_job job = shared_.jobs[team];
      grid_.meet(team);
      if (job.bytes == 0) return;
      copy_bulk(read_announcement(job.head, job.rest).ticket, job.bytes);
      grid_.mover_sync();
      if (grid_.mover_rank() == 0) announce(job.head, job.rest);
    }
  }

  /// All pollers: hands a packet over. Waits until the team is through with the one before, and has taken this one.
  COHORT_DEVICE void give(std::uint32_t team, std::uint32_t bytes, const announced& packet) {
    if (grid_.thread() == 0) shared_.jobs[team] = {announcement_head(packet), announcement_rest(packet), bytes};
    grid_.meet(team);
    grid_.meet(team);
  }

  COHORT_DEVICE void copy_bulk(std::uint32_t ticket, std::uint32_t bytes) {
    const std::byte* const from = p_.host->slots[ticket % ring_slots].bulk;
    std::byte* const to = p_.device->slots[ticket % ring_slots].packet + inline_bytes;
    constexpr std::uint32_t piece = 16;
    constexpr std::uint32_t row = Grid::mover_threads * piece;
    // As many loads in flight as registers allow: reads must not follow one another.
    for (std::uint32_t at = grid_.mover_rank() * piece; at < bytes; at += Grid::copy_rows * row) {
      const std::uint32_t rows = (bytes - at + row - 1) / row;
      grid_.copy_rows_system(to + at, from + at, row, rows < Grid::copy_rows ? rows : Grid::copy_rows);
    }
  }

  static constexpr std::uint32_t poll_pairs = inline_elements / (2 * Grid::poll_threads);
  static_assert(poll_pairs * 2 * Grid::poll_threads == inline_elements);

  /// What thread 0 of the pollers makes of a look at the slot; sent to all pollers in one word.
  static constexpr std::uint32_t verdict_nothing = 0;
  static constexpr std::uint32_t verdict_leave = 0xffffffffu;
  // Anything else: bytes of the packet whose header is there.

  COHORT_DEVICE void poll() {
    const std::uint32_t thread = grid_.thread();
    const std::uint64_t started = grid_.now();
    std::uint64_t idle_since = started;
    std::uint64_t torn_since = 0;  // 0: no packet has begun to arrive
    bool over = false;             // known to thread 0: packets or not, the residency ends
    std::uint32_t ticket = p_.first;
    std::uint32_t team = 0;  // whose turn it is to bring a large packet
    std::uint64_t seen[poll_pairs][2];

    for (;;) {
      ring_slot& slot = p_.host->slots[ticket % ring_slots];
      // All on the way together, which acquires would not be: what an element says is in the element, and one acquire
      // of this packet is enough for the rest of it. The last one, because it orders nothing before it.
      for (std::uint32_t i = poll_pairs - 1; i > 0; --i) {
        grid_.load_relaxed_system_pair(&slot.elements[2 * (i * Grid::poll_threads + thread)], seen[i]);
      }
      grid_.load_acquire_system_pair(&slot.elements[2 * thread], seen[0]);

      std::uint32_t verdict = verdict_nothing;
      if (thread == 0) verdict = over ? verdict_leave : judge(ticket, seen[0][1], started, idle_since, torn_since);
      verdict = grid_.poll_broadcast(verdict);
      if (verdict == verdict_leave) break;
      if (verdict == verdict_nothing) continue;

      // The reads of one look have no order among themselves: it counts only when every element needed has the stamp.
      const std::uint32_t needed = verdict < inline_bytes ? verdict / 4 : inline_elements;
      bool whole = true;
      for (std::uint32_t i = 0; i < poll_pairs; ++i) {
        const std::uint32_t element = 2 * (i * Grid::poll_threads + thread);
        whole = whole &&
                (element >= needed || (element_stamp(seen[i][0]) == ticket && element_stamp(seen[i][1]) == ticket));
      }
      if (!grid_.poll_all(whole)) {
        // `judge` bounds this: it leaves with a fault when the rest does not come.
        if (torn_since == 0) torn_since = grid_.now();
        continue;
      }
      torn_since = 0;

      if (!forward(ticket, verdict, needed, seen, team)) break;
      ++ticket;
      // What a packet need not wait for is looked at behind it.
      idle_since = grid_.now();
      if (thread == 0) over = is_over(started, idle_since);
    }

    if (thread == 0) {
      // First the workers, then the host: it may start the next residency as soon as it knows.
      const announced end{.ticket = ticket};
      announce(announcement_head(end), announcement_rest(end));
      grid_.store_release_system(&p_.host->gone, make_element(p_.launch, ticket));
      grid_.store_shared(&shared_.relay_done, 1);
    }
    for (std::uint32_t i = 0; i < Grid::movers; ++i) give(i, 0, {});
  }

  /// Whether the host wants the residency to end, or its longest time is over.
  COHORT_DEVICE bool is_over(std::uint64_t started, std::uint64_t now) {
    return grid_.load_shared(&shared_.stop_seen) != 0 || (p_.longest != 0 && now - started > p_.longest);
  }

  /// Thread 0 of the pollers: whether there is a packet, and whether to stay. A packet is known before any clock is
  /// read.
  COHORT_DEVICE std::uint32_t judge(std::uint32_t ticket, std::uint64_t size_element, std::uint64_t started,
                                    std::uint64_t idle_since, std::uint64_t torn_since) {
    if (p_.bounded != 0 && ticket == p_.until) return verdict_leave;
    if (element_stamp(size_element) == ticket) {
      const std::uint32_t bytes = element_data(size_element);
      if (bytes < sizeof(packet_header) || bytes > packet_capacity || bytes % 16 != 0) {
        report(ring_fault::bad_packet, ticket);
        return verdict_leave;
      }
      if (torn_since != 0 && grid_.now() - torn_since > p_.limit) {
        report(ring_fault::torn_packet, ticket);
        return verdict_leave;
      }
      return bytes;
    }
    const std::uint64_t now = grid_.now();
    if (is_over(started, now)) return verdict_leave;
    if (now - idle_since <= (p_.bounded != 0 ? p_.limit : p_.linger)) return verdict_nothing;
    // A bounded residency was promised its packets.
    if (p_.bounded != 0) report(ring_fault::torn_packet, ticket);
    return verdict_leave;
  }

  /// Moves a whole packet to device memory and tells the workers, or has a team do it. They take packets in turn, so
  /// that small ones in flight together land on different multiprocessors. False: the header is bad, and the host
  /// knows.
  COHORT_DEVICE bool forward(std::uint32_t ticket, std::uint32_t bytes, std::uint32_t needed,
                             const std::uint64_t (&seen)[poll_pairs][2], std::uint32_t& team) {
    const std::uint32_t thread = grid_.thread();
    device_slot& slot = p_.device->slots[ticket % ring_slots];
    constexpr std::uint32_t header_words = sizeof(packet_header) / 4;
    for (std::uint32_t i = 0; i < poll_pairs; ++i) {
      const std::uint32_t element = 2 * (i * Grid::poll_threads + thread);
      if (element >= needed) continue;
      const std::uint32_t data[2] = {element_data(seen[i][0]), element_data(seen[i][1])};
      std::memcpy(__builtin_assume_aligned(slot.packet + element * 4, 8), data, sizeof data);
      if (element < header_words) {
        shared_.header[element] = data[0];
        shared_.header[element + 1] = data[1];
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
      if (thread == 0) report(ring_fault::bad_packet, ticket);
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
    if (bytes > inline_bytes) {
      give(team, bytes - inline_bytes, packet);
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

  // ---- workers ----

  COHORT_DEVICE_ONE_FUNCTION void work() {
    if (shared_.number == 0 && grid_.thread() == 0) {
      grid_.store_release_system(&p_.host->workers, shared_.participants - 1);
    }
    if (grid_.thread() == 0) shared_.next_ticket = p_.first;
    for (;;) {
      if (grid_.thread() == 0) listen();
      grid_.sync();
      if (present().tiles == 0) return;
      run_tiles();
      if (shared_.own_tiles == 0) return;
      if (grid_.thread() == 0) count(present().ticket);
    }
  }

  /// The packet that this block works on. Read from shared memory wherever it is needed: ops want the registers.
  COHORT_DEVICE announced present() const {
    return read_announcement(shared_.announcement[0], shared_.announcement[1]);
  }

  COHORT_DEVICE static std::uint32_t first_tile(const announced& packet, std::uint32_t number, std::uint32_t workers) {
    return number >= packet.first_worker ? number - packet.first_worker : number + workers - packet.first_worker;
  }

  /// Whether it has a tile for this block, or is the end. Numbers are read from shared memory here, too.
  COHORT_DEVICE bool concerns_block(const announced& packet) const {
    return packet.tiles == 0 || first_tile(packet, shared_.number, shared_.participants - 1) < packet.tiles;
  }

  /// Thread 0: goes through the announcements until one concerns this block, and puts it into shared memory.
  COHORT_DEVICE void listen() {
    std::uint32_t ticket = shared_.next_ticket;
    std::uint64_t words[2];
    std::uint64_t since = 0;
    std::uint32_t looks = 0;
    for (;;) {
      grid_.load_acquire_device_pair(p_.device->announcements[ticket % announcement_slots].words, words);
      const announced packet = read_announcement(words[0], words[1]);
      const std::int32_t ahead = ticket_distance(packet.ticket, ticket);
      const bool here = ahead == 0 && belong_together(words[0], words[1]);
      if (here && concerns_block(packet)) break;
      if (here || ahead > 0) {
        // Not for this block, or already over: see `announcement`.
        ++ticket;
        looks = 0;
        since = 0;
        continue;
      }
      // The clock is read now and then: reading it costs as much as a look.
      if (looks++ % 256 == 0 && is_late(since)) {
        report(ring_fault::silent_relay, ticket);
        words[0] = announcement_head({.ticket = ticket});
        words[1] = 0;
        break;
      }
      grid_.relax();
    }
    shared_.announcement[0] = words[0];
    shared_.announcement[1] = words[1];
    shared_.next_ticket = ticket + 1;
  }

  /// Whether a worker has waited for longer than it ever has to: the relay leaves after `linger` without work and waits
  /// nowhere longer than `limit`. `since`: 0 when the wait begins.
  COHORT_DEVICE bool is_late(std::uint64_t& since) {
    const std::uint64_t now = grid_.now();
    if (since == 0) since = now;
    return now - since > p_.linger + 2 * p_.limit;
  }

  /// Runs this block's tiles: its first one and every `workers`-th after it. Static: it beat tickets drawn from a
  /// counter. Ends with a barrier, after which every thread's work is done.
  COHORT_DEVICE_ONE_FUNCTION void run_tiles() {
    // By a thread that has least to do with the first batch, whose barrier shows it to all. What the packet waits for
    // is complete then, while its records were on their way.
    if (grid_.thread() + 1 == grid_.threads()) {
      const announced packet = present();
      const std::uint32_t workers = shared_.participants - 1;
      const std::uint32_t tiles = (packet.tiles - first_tile(packet, shared_.number, workers) + workers - 1) / workers;
      if (packet.counted != 0) shared_.target = p_.device->slots[packet.ticket % ring_slots].target;
      shared_.own_tiles = packet.waits == 0 || await_others(packet.ticket) ? tiles : 0;
    }

    // One register is kept through the ops, which want the others.
    std::uint32_t done = 0;
    do {
      if (done % record_batch == 0) begin_batch(done);
      if (shared_.own_tiles == 0) return;
      const std::uint16_t op = read_as<record_header>(shared_.records[done % record_batch]).op;
      std::uint32_t end = done + 1;
#if defined(__CUDACC__)
#pragma unroll 1
#endif
      while (Ops::takes_batches(op) && end % record_batch != 0 && end < shared_.own_tiles &&
             read_as<record_header>(shared_.records[end % record_batch]).op == op) {
        ++end;
      }
      // One place that runs tiles: every op is compiled once into it.
      grid_.template run<Ops>(op, shared_.works + done % record_batch, end - done);
      grid_.sync();
      done = end;
    } while (done < shared_.own_tiles);
  }

  /// One thread: waits until the packets that this one comes after are complete; what they wrote is visible then,
  /// behind the next barrier to all. Everyone runs packets in the order of their tickets, so none of them waits for
  /// this one. False: that took too long, and the host knows.
  COHORT_DEVICE bool await_others(std::uint32_t ticket) {
    const device_slot& slot = p_.device->slots[ticket % ring_slots];
    std::uint32_t after = read_as<packet_header>(slot.packet).after;
    std::uint64_t since = 0;
    std::uint32_t looks = 0;
#if defined(__CUDACC__)
#pragma unroll 1
#endif
    for (std::uint32_t other = ticket - 1; after != 0; --other, after >>= 1) {
      if ((after & 1) == 0) continue;
      const std::uint32_t target = slot.targets_before[other % ring_slots];
      std::uint32_t* const counter = &p_.device->counters[other % ring_slots].value;
      while (ticket_distance(grid_.load_acquire_device(counter), target) < 0) {
        if (looks++ % 256 == 0 && is_late(since)) {
          report(ring_fault::silent_relay, ticket);
          return false;
        }
        grid_.relax();
      }
    }
    return true;
  }

  /// Prepares up to `record_batch` of this block's tiles, of which `done` are done. Ends with a barrier.
  ///
  /// A block does this before it can do anything else, and few of its threads have a part in it: what counts is how
  /// many instructions follow one another. So it divides only where it must, and each record is looked at by who
  /// brought it.
  COHORT_DEVICE void begin_batch(std::uint32_t done) {
    const announced packet = present();
    const std::uint32_t workers = shared_.participants - 1;
    const std::uint32_t tile = first_tile(packet, shared_.number, workers) + done * workers;
    const std::uint32_t left = packet.tiles - tile;
    std::uint32_t batch = 1;
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (std::uint32_t i = 1; i < record_batch; ++i) batch += left > i * workers ? 1 : 0;
    fetch(packet, p_.device->slots[packet.ticket % ring_slots], tile, workers, batch);
  }

  /// Brings the records of `batch` tiles (`tile`, `tile + workers`, ...) into shared memory: one round trip to L2 when
  /// the packet is uniform, two otherwise. Ends with a barrier.
  COHORT_DEVICE void fetch(const announced& packet, const device_slot& slot, std::uint32_t tile, std::uint32_t workers,
                           std::uint32_t batch) {
    constexpr std::uint32_t piece = 16;
    static_assert(sizeof(record_header) == piece);
    // Of every record as much as the largest with one member has: a slot has room behind it, and a constant divides
    // fast.
    constexpr std::uint32_t pieces = shared_type::record_bytes / piece;
    if (packet.uniform_tiles == 0) {
      locate(packet, slot, tile, workers, batch);
      grid_.sync();
    }
#if defined(__CUDACC__)
#pragma unroll 1
#endif
    for (std::uint32_t i = grid_.thread(); i < batch * pieces; i += grid_.threads()) {
      const std::uint32_t which = i / pieces;
      const std::uint32_t part = i % pieces * piece;
      const std::uint32_t wanted = tile + which * workers;
      const std::byte* const record =
          slot.packet + (packet.uniform_tiles != 0 ? offset_of(packet, wanted) : shared_.offsets[which]);
      grid_.copy16_device(shared_.records[which] + part, record + part);
      if (part != 0) continue;
      const auto& header = read_as<record_header>(shared_.records[which]);
      // A fused record's members may be many; they stay in device memory.
      const std::byte* const members = (header.members == 1 ? shared_.records[which] : record) + sizeof header;
      shared_.works[which] = {members, header.members, wanted - header.first_tile,
                              exchange_of(packet.ticket, header.first_tile)};
    }
    grid_.sync();
  }

  /// Pieces are handed out by the tile's number in the packet: no two tiles have one, and nobody has to allocate.
  COHORT_DEVICE tile_exchange exchange_of(std::uint32_t ticket, std::uint32_t first_tile) const {
    if (Ops::device_exchange_bytes == 0 || first_tile >= p_.exchange_tiles) return {};
    const std::size_t first = std::size_t{ticket % ring_slots} * p_.exchange_tiles + first_tile;
    return {p_.exchange_pieces + first * Ops::device_exchange_bytes, p_.exchange_counters + first,
            p_.exchange_tiles - first_tile, Ops::device_exchange_bytes};
  }

  COHORT_DEVICE static std::uint32_t offset_of(const announced& packet, std::uint32_t tile) {
    const std::uint32_t record = packet.tiles == packet.uniform_tiles ? 0 : tile / packet.uniform_tiles;
    return static_cast<std::uint32_t>(sizeof(packet_header)) + record * packet.uniform_stride;
  }

  /// Finds the records by reading the whole index once, side by side: the thread that holds the entry with
  /// first_tile <= tile < next first_tile knows the answer, and no other does.
  COHORT_DEVICE void locate(const announced& packet, const device_slot& slot, std::uint32_t tile, std::uint32_t workers,
                            std::uint32_t batch) {
    const auto& header = read_as<packet_header>(slot.packet);
    const std::uint32_t records = header.records;
    const std::byte* const index = slot.packet + header.index_offset;
#if defined(__CUDACC__)
#pragma unroll 1
#endif
    for (std::uint32_t i = grid_.thread(); i < records; i += grid_.threads()) {
      const record_index entry = read_as<record_index>(index + i * sizeof(record_index));
      std::uint32_t next = packet.tiles;
      if (i + 1 < records) next = read_as<record_index>(index + (i + 1) * sizeof(record_index)).first_tile;
#if defined(__CUDACC__)
#pragma unroll 1
#endif
      for (std::uint32_t which = 0; which < batch; ++which) {
        const std::uint32_t wanted = tile + which * workers;
        if (entry.first_tile <= wanted && wanted < next) shared_.offsets[which] = entry.offset;
      }
    }
  }

  /// Thread 0, after the barrier that ends the block's tiles. Release: what this block wrote is visible to the block
  /// that counts last; acquire: that block has seen what all others wrote before it tells the host.
  COHORT_DEVICE void count(std::uint32_t ticket) {
    if (present().counted != 0) {
      const std::uint32_t target = shared_.target;
      const std::uint32_t before = grid_.add_device(&p_.device->counters[ticket % ring_slots].value, 1);
      if (before + 1 != target) return;
    }
    grid_.store_release_system(&p_.host->completions[ticket % ring_slots], ticket);
  }

  Grid& grid_;
  const residency& p_;
  shared_type& shared_;
};

}  // namespace cohort::inline COHORT_ABI::detail

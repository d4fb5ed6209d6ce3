// A block of the superkernel that works: it listens to the relay, runs its tiles of each packet, and tells the host
// when it was the last. It reads device memory alone. superkernel.hpp enters, and describes the grid.
#pragma once

#include <cohort/config.hpp>
#include <cohort/device/ring.hpp>
#include <cohort/device/ring_fault.hpp>
#include <cohort/device/superkernel_shared.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI::detail {

/// One thread's view of a block that works. Every thread of the block constructs one and calls `run` once.
template <class Ops, class Grid>
class worker {
public:
  using shared_type = superkernel_shared<Ops>;

  COHORT_DEVICE worker(Grid& grid, const residency& parameters, shared_type& shared)
      : grid_(grid), p_(parameters), shared_(shared) {}

  COHORT_DEVICE_ONE_FUNCTION void run() {
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
      if (is_last_thread()) count();
    }
  }

private:
  /// Who does for the block what thread 0, which listens, shall not wait for.
  COHORT_DEVICE bool is_last_thread() const { return grid_.thread() + 1 == grid_.threads(); }

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
        report(grid_, p_, ring_fault::silent_relay, ticket);
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
    if (is_last_thread()) {
      const announced packet = present();
      const std::uint32_t workers = shared_.participants - 1;
      const std::uint32_t tiles = (packet.tiles - first_tile(packet, shared_.number, workers) + workers - 1) / workers;
      shared_.counted_ticket = packet.ticket;
      shared_.counted = packet.counted;
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
          report(grid_, p_, ring_fault::silent_relay, ticket);
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
                              exchange_of(packet.ticket, header.first_piece)};
    }
    grid_.sync();
  }

  /// The packet says which pieces are a record's: nobody has to allocate.
  COHORT_DEVICE tile_exchange exchange_of(std::uint32_t ticket, std::uint32_t first_piece) const {
    if (Ops::device_exchange_bytes == 0 || first_piece >= p_.exchange_tiles) return {};
    const std::size_t first = std::size_t{ticket % ring_slots} * p_.exchange_tiles + first_piece;
    return {p_.exchange_pieces + first * Ops::device_exchange_bytes, p_.exchange_counters + first,
            p_.exchange_tiles - first_piece, Ops::device_exchange_bytes};
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

  /// The last thread, after the barrier that ends the block's tiles, while thread 0 listens for the next packet
  /// already. Release: what this block wrote is visible to the block that counts last; acquire: that block has seen
  /// what all others wrote before it tells the host. Where all that lies on the device, an order there is enough:
  /// whoever reads it next reads it there.
  COHORT_DEVICE void count() {
    const std::uint32_t ticket = shared_.counted_ticket;
    if (shared_.counted != 0) {
      const std::uint32_t target = shared_.target;
      const std::uint32_t before = grid_.add_device(&p_.device->counters[ticket % ring_slots].value, 1);
      if (before + 1 != target) return;
    }
    std::uint64_t* const completion = &p_.host->completions[ticket % ring_slots];
    if (p_.device_results == 0) {
      grid_.store_release_system(completion, ticket);
    } else {
      if (shared_.counted == 0) grid_.fence_device();
      grid_.store_relaxed_system(completion, ticket);
    }
  }

  Grid& grid_;
  const residency& p_;
  shared_type& shared_;
};

}  // namespace cohort::inline COHORT_ABI::detail

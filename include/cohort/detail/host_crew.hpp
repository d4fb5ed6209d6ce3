// The worker threads of the host backend: packets in, tiles handed out to threads, completions out. It knows packets
// and one function that runs tiles, no op types. Internal.
//
// Who touches what: the owner alone commits, polls and pauses, and owns every plain member of a slot while the slot has
// no tickets left. A worker reads a slot's packet between claiming tiles of it and counting them as finished.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/cpu.hpp>
#include <cohort/detail/packet_view.hpp>
#include <cohort/error.hpp>
#include <cohort/schedule/packet.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <thread>
#include <vector>

namespace cohort::inline COHORT_ABI::detail {

/// Runs tiles [first, last) of a record, counted from the record's first. Called by several threads at once, each with
/// a scratch of its own.
using run_tiles_function = void (*)(std::byte* scratch, const record_header& record, std::uint32_t first,
                                    std::uint32_t last) noexcept;

// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): it keeps what different threads write on different lines
class host_crew {
public:
  struct settings {
    unsigned workers = 1;  ///< 0: tiles run inside `poll`
    unsigned packets = 4;  ///< 1 to 64
    std::size_t scratch_bytes = 0;
    std::chrono::nanoseconds spin{0};  ///< how long a worker without work looks for more before it sleeps
  };

  /// Throws `std::bad_alloc`, and `std::system_error` when a thread cannot be started.
  host_crew(const settings& s, run_tiles_function run)
      : run_(run), spin_(s.spin), workers_(s.workers), packets_(s.packets), slots_(new slot[s.packets]) {
    scratch_.reserve(std::max(s.workers, 1u));
    for (unsigned i = 0; i < std::max(s.workers, 1u); ++i) scratch_.emplace_back(new_scratch(s.scratch_bytes));
    threads_.reserve(s.workers);
    try {
      for (unsigned i = 0; i < s.workers; ++i) threads_.emplace_back([this, i] { work(scratch_[i].get()); });
    } catch (...) {
      join();
      throw;
    }
  }

  host_crew(const host_crew&) = delete;
  host_crew& operator=(const host_crew&) = delete;

  /// Runs what was committed to its end.
  ~host_crew() {
    if (workers_ == 0) run_everything();
    join();
  }

  unsigned workers() const noexcept { return workers_; }
  unsigned packets() const noexcept { return packets_; }

  /// Before the first commit, which hands both to the workers.
  void on_completion(void (*notify)(void*), void* argument) noexcept {
    notify_ = notify;
    argument_ = argument;
  }

  bool has_room() const noexcept { return taken_ < packets_; }

  /// Copies a packet that passed `check_packet`. Precondition: `has_room()`.
  void commit(std::span<const std::byte> packet) noexcept {
    slot& s = *std::find_if(slots_.get(), slots_.get() + packets_, [](const slot& each) { return !each.taken; });
    std::memcpy(s.packet, packet.data(), packet.size());
    const packet_view view(s.packet);
    const packet_header& header = view.header();
    s.taken = true;
    s.sequence = header.sequence;
    ++taken_;
    // relaxed, all three: the tickets below publish them to those who claim, and nobody else acts on them.
    s.age.store(commits_++, std::memory_order_relaxed);
    s.unfinished.store(header.tiles + (is_followed(s) ? 1 : 0), std::memory_order_relaxed);
    in_flight_.fetch_add(1, std::memory_order_relaxed);
    // relaxed: see `in_the_way`. Stored only when it changes, so that spinners keep their copy of the line.
    if (const int core = current_core(); core != owner_core_.load(std::memory_order_relaxed))
      owner_core_.store(core, std::memory_order_relaxed);
    s.after = 0;
    if (header.after != 0) {
      std::lock_guard lock(mutex_);
      for (unsigned i = 0; i < packets_; ++i) {
        const slot& other = slots_[i];
        if (&other == &s || !other.taken || !is_followed(other) || !comes_after(header.after, s, other)) continue;
        s.after |= bit_of(i);
        // acquire: what that packet has written is visible to who runs this one. Under the mutex: either it is complete
        // here, or whoever completes it finds that this one waits (see `let_follow`).
        if (other.unfinished.load(std::memory_order_acquire) != 0) s.waits_for |= bit_of(i);
      }
      if (s.waits_for != 0) return;
    }
    offer(s);
  }

  std::size_t poll(std::span<packet_completion> out) noexcept {
    if (taken_ == 0) return 0;
    if (workers_ == 0 && !out.empty()) run_packet();
    // One that comes after another that is not reported yet has its turn in the next round.
    std::size_t count = 0;
    for (std::size_t before = 1; before != count && count < out.size();) {
      before = count;
      for (unsigned i = 0; i < packets_ && count < out.size(); ++i) {
        slot& s = slots_[i];
        // acquire: what ops wrote in any worker is visible to whoever acts on this completion. Every worker's decrement
        // is part of the release sequence that this reads from, or was acquired by the one who stored (`let_follow`).
        if (!s.taken || s.unfinished.load(std::memory_order_acquire) != 0 || s.after != 0) continue;
        out[count++] = {.sequence = s.sequence, .result = {}};
        s.taken = false;
        --taken_;
        if (!is_followed(s)) continue;
        for (unsigned j = 0; j < packets_; ++j) slots_[j].after &= ~bit_of(i);
      }
    }
    return count;
  }

  /// Returns when every committed packet has completed and no notification is being delivered. Completions are still
  /// there to be polled.
  void pause() noexcept {
    if (workers_ == 0) return run_everything();
    std::unique_lock lock(mutex_);
    // seq_cst, here and in `finish`: either the last worker sees that someone waits, or this sees that it was the last.
    pausing_.store(true, std::memory_order_seq_cst);
    idle_.wait(lock, [this] { return in_flight_.load(std::memory_order_seq_cst) == 0; });
    pausing_.store(false, std::memory_order_relaxed);  // relaxed: a late reader takes the mutex for nothing, no more
  }

private:
  static constexpr std::uint32_t most_packets = 64;
  static constexpr std::uint32_t most_wakes = 4;
  static constexpr std::uint32_t most_tiles_at_once = 64;
  static constexpr std::size_t line = 128;  // two cache lines: the prefetcher fetches them in pairs

  /// Room for one packet. `tickets` is the number of tiles (upper half) and of those claimed (lower half): with both in
  /// one word a claim always fits the packet that is in the slot at that moment, however old the claimant's idea of it.
  struct slot {
    alignas(line) std::atomic<std::uint64_t> tickets{0};
    std::atomic<std::uint32_t> age{0};
    /// Tiles that are not done, and 1 more where others follow: until they know.
    alignas(line) std::atomic<std::uint32_t> unfinished{0};
    std::uint32_t sequence = 0;  // the owner's
    bool taken = false;          // the owner's
    std::uint64_t after = 0;     // the owner's: bit i, it comes after the packet in slot i, which is not reported yet
    /// Guarded by mutex_: those of `after` that are not complete. Until it is 0 nobody is offered the packet.
    std::uint64_t waits_for = 0;
    alignas(line) std::byte packet[packet_capacity];
  };

  struct share {
    slot* from = nullptr;
    std::uint32_t first = 0;
    std::uint32_t last = 0;
  };

  static constexpr std::uint64_t pack(std::uint32_t tiles, std::uint32_t claimed) noexcept {
    return std::uint64_t{tiles} << 32 | claimed;
  }
  static constexpr std::uint32_t unclaimed(std::uint64_t tickets) noexcept {
    return static_cast<std::uint32_t>(tickets >> 32) - static_cast<std::uint32_t>(tickets);
  }

  static constexpr std::uint64_t bit_of(unsigned slot) noexcept { return std::uint64_t{1} << slot; }

  /// Of a packet that does not go away meanwhile.
  static bool is_followed(const slot& s) noexcept {
    return (packet_view(s.packet).header().flags & packet_is_followed) != 0;
  }

  /// What `packet_header::after` of the newest packet says of an older one. However many were committed between them: a
  /// packet that takes long stays, while the other slots are used again and again.
  static bool comes_after(std::uint32_t after, const slot& newest, const slot& older) noexcept {
    // relaxed: see `commit`
    const std::uint32_t distance =
        newest.age.load(std::memory_order_relaxed) - older.age.load(std::memory_order_relaxed);
    return (after >> std::min(distance - 1, 31u) & 1) != 0;
  }

  /// Gives a packet's tiles to the workers.
  void offer(slot& s) noexcept {
    const std::uint32_t tiles = packet_view(s.packet).header().tiles;
    // seq_cst here and in the two lines below: releases the packet to whoever claims a tile, and is this thread's half
    // of the agreement with workers that are about to sleep (see `rest`): publish first, then look who is awake.
    s.tickets.store(pack(tiles, 0), std::memory_order_seq_cst);
    if (workers_ == 0) return;
    doorbell_.fetch_add(1, std::memory_order_seq_cst);
    const std::uint32_t awake = spinning_.load(std::memory_order_seq_cst);
    if (tiles <= awake) return;
    // Each wake-up costs a system call; beyond a few, the woken wake the rest (see `claim`).
    wake(std::min(tiles - awake, most_wakes));
  }

  /// All tiles of a packet are done that others follow: completes it, and offers those that waited for nobody else.
  void let_follow(slot& s) noexcept {
    const std::uint64_t done = bit_of(static_cast<unsigned>(&s - slots_.get()));
    std::array<slot*, most_packets> next;
    std::size_t count = 0;
    {
      std::lock_guard lock(mutex_);
      for (unsigned i = 0; i < packets_; ++i) {
        slot& other = slots_[i];
        if ((other.waits_for & done) == 0) continue;
        other.waits_for &= ~done;
        if (other.waits_for == 0) next[count++] = &other;
      }
      // release: as the decrements before it, which this thread has acquired. Under the mutex, and not before: the slot
      // may be another packet's from now on, and whoever commits one that comes after this finds it complete.
      s.unfinished.store(0, std::memory_order_release);
    }
    for (std::size_t i = 0; i < count; ++i) offer(*next[i]);  // which takes the mutex to wake somebody
  }

  static constexpr std::align_val_t scratch_alignment{128};
  struct delete_scratch {
    void operator()(std::byte* scratch) const noexcept { ::operator delete(scratch, scratch_alignment); }
  };
  using scratch = std::unique_ptr<std::byte, delete_scratch>;

  /// One block for each worker, no larger than asked for, so that the address sanitizer sees an op that leaves it.
  static scratch new_scratch(std::size_t bytes) {
    return scratch(static_cast<std::byte*>(::operator new(std::max<std::size_t>(bytes, 1), scratch_alignment)));
  }

  /// Takes some tiles of the oldest packet that has any: large shares first, single tiles towards the end, so that the
  /// workers meet rarely and still finish together.
  share claim() noexcept {
    for (;;) {
      slot* oldest = nullptr;
      std::uint64_t tickets = 0;
      std::uint32_t oldest_age = 0;
      bool others = false;
      for (unsigned i = 0; i < packets_; ++i) {
        slot& s = slots_[i];
        // seq_cst: a worker that has just said that it does not rest any more must not miss what was published while
        // it was still counted (see `rest`).
        const std::uint64_t seen = s.tickets.load(std::memory_order_seq_cst);
        if (unclaimed(seen) == 0) continue;
        const std::uint32_t age = s.age.load(std::memory_order_relaxed);  // relaxed: only decides what comes first
        others = others || oldest != nullptr;
        if (oldest != nullptr && static_cast<std::int32_t>(age - oldest_age) >= 0) continue;
        oldest = &s;
        oldest_age = age;
        tickets = seen;
      }
      if (oldest == nullptr) return {};
      const std::uint32_t left = unclaimed(tickets);
      const std::uint32_t tiles = std::clamp(left / (4 * workers_ + 1), 1u, most_tiles_at_once);
      // acquire: the packet that these tickets belong to. relaxed on failure: nothing is used of what it reads.
      if (!oldest->tickets.compare_exchange_weak(tickets, tickets + tiles, std::memory_order_acquire,
                                                 std::memory_order_relaxed))
        continue;
      // The owner counted on workers that were awake, and wakes a few at most: whoever leaves tiles behind sees to it
      // that somebody comes for them. seq_cst: the look at who is awake comes after the look at the tickets, in the
      // one order that commit and rest agree on.
      if ((others || left > tiles) && spinning_.load(std::memory_order_seq_cst) == 0) wake(1);
      const auto first = static_cast<std::uint32_t>(tickets);
      return {oldest, first, first + tiles};
    }
  }

  void run(const share& tiles, std::byte* scratch_memory) const noexcept {
    const auto run_in_record = [this, scratch_memory](const record_header& record, std::uint32_t first,
                                                      std::uint32_t last) {
      run_(scratch_memory, record, first, last);
    };
    packet_view(tiles.from->packet).for_each_record(tiles.first, tiles.last, run_in_record);
  }

  /// Counts tiles as done. True for the call that completes the packet; from then on the slot may be the next packet's.
  bool finish(const share& tiles) noexcept {
    const std::uint32_t count = tiles.last - tiles.first;
    const std::uint32_t more = is_followed(*tiles.from) ? 1 : 0;
    // acq_rel: release what the tiles wrote to the owner's poll; acquire, in the last one, what all others wrote, so
    // that what follows happens after all of it.
    if (tiles.from->unfinished.fetch_sub(count, std::memory_order_acq_rel) != count + more) return false;
    if (more != 0) let_follow(*tiles.from);
    return true;
  }

  void work(std::byte* scratch_memory) noexcept {
    for (;;) {
      // seq_cst: whatever is committed after this is announced by a different value (see `rest`).
      const std::uint32_t seen = doorbell_.load(std::memory_order_seq_cst);
      // acquire: who sees this sees every packet that was committed before; none comes after.
      const bool last_round = stopping_.load(std::memory_order_acquire);
      for (share tiles = claim(); tiles.from != nullptr; tiles = claim()) {
        run(tiles, scratch_memory);
        if (finish(tiles)) completed();
      }
      if (last_round) return;
      rest(seen);
    }
  }

  void completed() noexcept {
    if (notify_ != nullptr) notify_(argument_);
    // seq_cst: see `pause`. After the notification, so that a paused crew delivers none.
    if (in_flight_.fetch_sub(1, std::memory_order_seq_cst) != 1) return;
    if (!pausing_.load(std::memory_order_seq_cst)) return;
    // Under the mutex: the one who waits is either before its test of in_flight_ or inside the wait.
    std::lock_guard lock(mutex_);
    idle_.notify_all();
  }

  /// Waits until the doorbell may have changed from `seen`: looks at it for a while, then sleeps.
  ///
  /// No wake-up is lost: a worker says that it spins or sleeps (increment) before it looks at the doorbell, and commit
  /// changes the doorbell before it looks at those counts. In the one order of all these operations (seq_cst) either
  /// the worker sees the new value or commit sees the worker. A spinner that commit counted decrements the count after
  /// that, and looks for tiles after that again.
  void rest(std::uint32_t seen) noexcept {
    if (spin_.count() > 0 && !in_the_way()) {
      spinning_.fetch_add(1, std::memory_order_seq_cst);  // seq_cst: see above
      const auto until = std::chrono::steady_clock::now() + spin_;
      bool rung = false;
      do {
        for (int i = 0; i < 16 && !rung; ++i) {
          spin_pause();
          // relaxed: only ends the loop; the caller loads the doorbell again in order.
          rung = doorbell_.load(std::memory_order_relaxed) != seen;
        }
      } while (!rung && !in_the_way() && std::chrono::steady_clock::now() < until);
      spinning_.fetch_sub(1, std::memory_order_seq_cst);  // seq_cst: see above
      if (rung) return;
    }
    std::unique_lock lock(mutex_);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);  // seq_cst: see above
    if (doorbell_.load(std::memory_order_seq_cst) != seen) {
      sleeping_.fetch_sub(1, std::memory_order_relaxed);  // relaxed: changes are ordered by the mutex
      return;
    }
    awoken_.wait(lock, [this] { return permits_ != 0; });
    --permits_;
  }

  /// Whether this worker is on the core where the owner was last. There it would keep the owner from running, and could
  /// not see a commit before the owner had been moved away.
  bool in_the_way() const noexcept {
    const int core = current_core();
    return core >= 0 && core == owner_core_.load(std::memory_order_relaxed);  // relaxed: a guess, good or bad
  }

  /// Wakes up to `count` sleepers. Whoever is chosen counts as awake at once, so that nobody wakes it a second time.
  void wake(std::uint32_t count) noexcept {
    if (sleeping_.load(std::memory_order_seq_cst) == 0) return;  // seq_cst: see `rest`
    {
      std::lock_guard lock(mutex_);
      // relaxed, both: changes are ordered by the mutex.
      count = std::min(count, sleeping_.load(std::memory_order_relaxed));
      sleeping_.fetch_sub(count, std::memory_order_relaxed);
      permits_ += count;
    }
    // Outside the mutex, so that the woken do not run into it. Notifying one too few is impossible: a sleeper that
    // takes a permit without being notified leaves the notification to the one whose permit it took.
    for (; count != 0; --count) awoken_.notify_one();
  }

  /// The oldest packet, whole, on this thread.
  void run_packet() noexcept {
    for (share tiles = claim(); tiles.from != nullptr; tiles = claim()) {
      run(tiles, scratch_.front().get());
      if (finish(tiles)) return;
    }
  }

  void run_everything() noexcept {
    for (unsigned i = 0; i < packets_; ++i) run_packet();
  }

  void join() noexcept {
    stopping_.store(true, std::memory_order_relaxed);   // relaxed: the doorbell releases it
    doorbell_.fetch_add(1, std::memory_order_seq_cst);  // seq_cst: as in commit
    wake(static_cast<std::uint32_t>(threads_.size()));
    for (std::thread& each : threads_) each.join();
  }

  const run_tiles_function run_;
  const std::chrono::nanoseconds spin_;
  const unsigned workers_;
  const unsigned packets_;
  std::unique_ptr<slot[]> slots_;
  std::vector<scratch> scratch_;
  void (*notify_)(void*) = nullptr;
  void* argument_ = nullptr;
  std::uint32_t commits_ = 0;  // the owner's
  unsigned taken_ = 0;         // the owner's: slots with a packet that was not polled yet

  alignas(line) std::atomic<std::uint32_t> doorbell_{0};  // changes after each commit; spinners watch it
  std::atomic<bool> stopping_{false};
  std::atomic<int> owner_core_{-1};
  alignas(line) std::atomic<std::uint32_t> spinning_{0};
  std::atomic<std::uint32_t> sleeping_{0};  // workers in `awoken_.wait` without a permit; changed under mutex_
  alignas(line) std::atomic<std::uint32_t> in_flight_{0};
  std::atomic<bool> pausing_{false};
  std::mutex mutex_;
  std::condition_variable awoken_;
  std::condition_variable idle_;
  std::uint32_t permits_ = 0;  // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace cohort::inline COHORT_ABI::detail

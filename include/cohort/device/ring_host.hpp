// The host's half of the ring: hands packets to the superkernel, learns what is complete, keeps a residency on the
// device while there is work, and decides when the device is lost. It knows no CUDA: what launches the kernel is a
// template argument, so that tests drive it against an emulated device. Backends enter. One thread at a time.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/device/ring.hpp>
#include <cohort/error.hpp>
#include <cohort/schedule/packet.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <thread>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define COHORT_RING_SEES_THREADS
#endif
#elif defined(__SANITIZE_THREAD__)
#define COHORT_RING_SEES_THREADS
#endif
// The thread sanitizer takes vector stores for plain ones.
#if defined(__SSE2__) && !defined(COHORT_RING_SEES_THREADS)
#include <emmintrin.h>
#define COHORT_RING_STORES_PAIRS
#endif

namespace cohort::inline COHORT_ABI::detail {

/// What a launcher says of the work it has launched.
enum class launch_state : std::uint8_t { idle, running, failed };

struct ring_host_options {
  std::chrono::nanoseconds time_limit{std::chrono::seconds(10)};  ///< without a completion until the device is lost
  bool bounded = false;            ///< a residency takes what is committed at its launch and ends
  std::uint32_t first_ticket = 1;  ///< for tests of the wrap
};

/// `Launcher` has two functions, neither of which blocks:
/// - `error_code launch(const residency&)`: starts the superkernel behind those launched before. It fills in what the
///   ring does not know (addresses, times, budget); launch, first, until and bounded are set.
/// - `launch_state state(error_code& why)`: of all that was launched.
template <class Launcher>
class ring_host {
  using clock = std::chrono::steady_clock;

public:
  /// `memory` is the mapped part of the ring; nobody else writes it before or after.
  ring_host(host_ring& memory, Launcher& launcher, const ring_host_options& options)
      : memory_(memory),
        launcher_(launcher),
        options_(options),
        tail_(options.first_ticket),
        head_(options.first_ticket),
        next_(options.first_ticket) {
    std::memset(&memory_, 0, sizeof memory_);
    for (std::uint32_t i = 0; i < ring_slots; ++i) {
      // A ticket that is a lap away from any that comes soon: zero could be one.
      const std::uint32_t never = options.first_ticket - ring_slots;
      memory_.completions[i] = never;
      for (std::uint64_t& element : memory_.slots[i].elements) element = make_element(never, 0);
    }
  }

  ring_host(const ring_host&) = delete;
  ring_host& operator=(const ring_host&) = delete;

  /// A residency without work: proves that launches work and counts the workers. Blocks up to the time limit.
  error_code prove() {
    launch_until(next_, true);
    if (!lost_) wait_until_gone(options_.time_limit);
    return lost_ ? reason_ : error_code{};
  }

  /// Workers that the last residency counted. Fixed after `prove`.
  std::uint32_t workers() const noexcept { return static_cast<std::uint32_t>(load(memory_.workers)); }

  bool has_room() const noexcept { return !lost_ && head_ - tail_ < ring_slots; }

  /// Packets that were committed and not yet reported by `poll`.
  std::uint32_t in_flight() const noexcept { return head_ - tail_; }

  bool lost() const noexcept { return lost_; }

  /// Why the device was lost: a `ring_fault` when a block said so, of the launcher's category when that did, else
  /// `errc::device_lost` (nothing came in time).
  error_code reason() const noexcept { return reason_; }

  /// The word that a faulting block left, 0 if none did.
  std::uint64_t fault() const noexcept { return load(memory_.fault); }

  /// Precondition: the packet passed `check_packet`. Errors: `device_lost`, `queue_full`. When a launch fails, the
  /// packet counts as taken and completes as lost.
  error_code commit(std::span<const std::byte> packet) {
    if (lost_) return errc::device_lost;
    if (head_ - tail_ == ring_slots) return errc::queue_full;
    packet_header header;
    std::memcpy(&header, packet.data(), sizeof header);
    if (head_ == tail_) quiet_ = false;
    in_slot(head_) = {.sequence = header.sequence, .after = header.after, .state = packet_state::flying};
    write(packet, head_, head_ == tail_);
    ++head_;
    // The relay may leave between this look and the doorbell's arrival; `poll` looks again as long as packets fly.
    if (!options_.bounded) ensure_residency();
    return {};
  }

  /// Reports packets that completed, each once.
  std::size_t poll(std::span<packet_completion> out) {
    if (head_ == tail_) return 0;
    step();
    std::size_t count = 0;
    for (std::uint32_t ticket = tail_; ticket != head_ && count < out.size(); ++ticket) {
      packet_slot& slot = in_slot(ticket);
      if (slot.state != packet_state::complete && slot.state != packet_state::failed) continue;
      out[count++] = {.sequence = slot.sequence,
                      .result = slot.state == packet_state::failed ? error_code(errc::device_lost) : error_code{}};
      slot.state = packet_state::reported;
    }
    // A slot is free when its packet and all before it are complete: rule (a) in ring.hpp.
    while (tail_ != head_ && in_slot(tail_).state == packet_state::reported) ++tail_;
    return count;
  }

  /// Completes what is committed, then ends the residency. Blocks: as long as packets complete within the time limit.
  error_code pause() {
    for (std::uint32_t looks = 0; flying() && !lost_; ++looks) {
      step();
      if (looks > 1000) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    return lost_ ? error_code(errc::device_lost) : leave();
  }

  /// Ends the residency without taking more packets; those that run complete. Blocks up to the time limit (at most a
  /// second of it when the device is lost). False: the kernel is still there, so the ring's memory must not be freed.
  bool shut_down() {
    if (!lost_) (void)leave();
    if (!lost_) return true;
    request_stop();
    return wait_for_launcher(std::min<clock::duration>(options_.time_limit, std::chrono::seconds(1)));
  }

private:
  enum class packet_state : std::uint8_t { free, flying, complete, failed, reported };

  struct packet_slot {
    std::uint32_t sequence = 0;
    std::uint32_t after = 0;  // as `packet_header::after`
    packet_state state = packet_state::free;
  };

  packet_slot& in_slot(std::uint32_t ticket) noexcept { return slots_[ticket % ring_slots]; }

  /// Acquire: what the device wrote before the word (outputs in pinned memory) is visible after it.
  static std::uint64_t load(std::uint64_t& word) noexcept {
    return std::atomic_ref<std::uint64_t>(word).load(std::memory_order_acquire);
  }
  /// Release: what was written before (the bulk of a packet, pinned inputs) is visible to who acquires the word.
  static void store(std::uint64_t& word, std::uint64_t value) noexcept {
    std::atomic_ref<std::uint64_t>(word).store(value, std::memory_order_release);
  }

  /// Bit i: the ticket i + 1 before this one is on the device, as far as we know.
  std::uint32_t flying_before(std::uint32_t ticket) const noexcept {
    std::uint32_t flying = 0;
    for (std::uint32_t before = 1; before <= ticket - tail_; ++before) {
      const bool is = slots_[(ticket - before) % ring_slots].state == packet_state::flying;
      flying |= std::uint32_t{is} << (before - 1);
    }
    return flying;
  }

  /// \param alone nothing else is in flight
  void write(std::span<const std::byte> packet, std::uint32_t ticket, bool alone) noexcept {
    ring_slot& slot = memory_.slots[ticket % ring_slots];
    const std::uint32_t idle = alone ? finds_idle : 0;
    const std::size_t stamped = stamped_bytes(static_cast<std::uint32_t>(packet.size()) | idle);
    if (packet.size() > stamped) std::memcpy(slot.bulk, packet.data() + stamped, packet.size() - stamped);
    const std::size_t elements = stamped / 4;
    std::array<std::uint32_t, 4> first;
    std::memcpy(first.data(), packet.data(), sizeof first);
    first[1] |= idle;  // its size
    // The header last: a look that has it should find the others.
    write_elements(slot.elements + first.size(), packet.data() + sizeof first, elements - first.size(), ticket);
    write_elements(slot.elements, reinterpret_cast<const std::byte*>(first.data()), first.size(), ticket);
    // Elements that short packets leave alone keep an old stamp, which 32 bits later would be right again by accident.
    if (ticket % full_write_period >= ring_slots) return;
    for (std::size_t i = elements; i < wide_elements; ++i) store(slot.elements[i], make_element(ticket, 0));
  }

  /// Stores `count` words, a multiple of four, as elements, the last ones first. Release, each of them.
  static void write_elements(std::uint64_t* to, const std::byte* from, std::size_t count,
                             std::uint32_t ticket) noexcept {
#if defined(COHORT_RING_STORES_PAIRS)
    // Two at a time: a store of 16 aligned bytes is one access to processors that have AVX, and to no x86-64 are the 8
    // bytes of an element more than one. It keeps the order of stores, too, so this holds back the compiler alone.
    const __m128i stamps = _mm_set1_epi32(static_cast<int>(ticket));
    std::atomic_thread_fence(std::memory_order_release);
    for (std::size_t i = count; i > 0;) {
      i -= 4;
      const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * 4));
      _mm_store_si128(reinterpret_cast<__m128i*>(to + i), _mm_unpacklo_epi32(words, stamps));
      _mm_store_si128(reinterpret_cast<__m128i*>(to + i + 2), _mm_unpackhi_epi32(words, stamps));
    }
#else
    for (std::size_t i = count; i-- > 0;) {
      std::uint32_t word = 0;
      std::memcpy(&word, from + i * 4, sizeof word);
      store(to[i], make_element(ticket, word));
    }
#endif
  }

  bool flying() noexcept {
    for (std::uint32_t ticket = tail_; ticket != head_; ++ticket) {
      if (in_slot(ticket).state == packet_state::flying) return true;
    }
    return false;
  }

  /// One look at the device: completions, its health, whether it needs a launch. Never blocks.
  void step() {
    const bool progress = harvest();
    if (lost_) return;
    if (fault() != 0) return lose(fault_error());
    ensure_residency();
    if (lost_) return;
    if (progress) {
      quiet_ = false;
      return;
    }
    // The clock is read in fruitless looks alone.
    if (!flying()) return;
    const clock::time_point now = clock::now();
    if (!quiet_) {
      quiet_ = true;
      quiet_since_ = now;
      asked_ = now;
      return;
    }
    if (now - asked_ >= std::chrono::milliseconds(1)) {
      asked_ = now;
      ask();
    }
    if (!lost_ && now - quiet_since_ >= options_.time_limit) lose(errc::device_lost);
  }

  bool harvest() {
    bool progress = false;
    for (std::uint32_t ticket = tail_; ticket != head_; ++ticket) {
      packet_slot& slot = in_slot(ticket);
      if (slot.state != packet_state::flying) continue;
      if (load(memory_.completions[ticket % ring_slots]) != ticket) continue;
      // Its word may be seen before those of the packets that it came after.
      if (slot.after != 0 && (slot.after & flying_before(ticket)) != 0) continue;
      slot.state = packet_state::complete;
      progress = true;
    }
    return progress;
  }

  /// Notices that the residency has ended, and starts one when there are packets that nobody will take.
  void ensure_residency() {
    notice_end();
    if (active_ || next_ == head_) return;
    // Not behind one that ended with a fault which nobody has looked at yet.
    if (fault() != 0) return lose(fault_error());
    launch_until(head_, options_.bounded);
  }

  /// True when no residency takes packets. Blocks of the last one may still run those it took.
  bool notice_end() {
    if (!active_) return true;
    const std::uint64_t gone = load(memory_.gone);
    if (element_stamp(gone) != launch_) return false;
    active_ = false;
    next_ = element_data(gone);
    return true;
  }

  void launch_until(std::uint32_t until, bool bounded) {
    ++launch_;
    residency next;
    next.launch = launch_;
    next.first = next_;
    next.until = until;
    next.bounded = bounded ? 1 : 0;
    if (const error_code failed = launcher_.launch(next)) return lose(failed);
    active_ = true;
  }

  /// Asks the launcher, rarely: it may be a CUDA call.
  void ask() {
    error_code why;
    const launch_state state = launcher_.state(why);
    if (state == launch_state::failed) return lose(why);
    if (state == launch_state::running) return;
    // Everything launched has ended. Its words are written, so what they do not say will never be said.
    harvest();
    if (fault() != 0) return lose(fault_error());
    if (!notice_end()) return lose(errc::device_lost);
    for (std::uint32_t ticket = tail_; ticket != next_; ++ticket) {
      if (in_slot(ticket).state == packet_state::flying) return lose(errc::device_lost);
    }
  }

  error_code fault_error() const noexcept { return make_error_code(fault_code(fault())); }

  void lose(error_code why) {
    if (lost_) return;
    lost_ = true;
    reason_ = why;
    harvest();
    for (std::uint32_t ticket = tail_; ticket != head_; ++ticket) {
      packet_slot& slot = in_slot(ticket);
      if (slot.state == packet_state::flying) slot.state = packet_state::failed;
    }
    request_stop();
  }

  void request_stop() noexcept { store(memory_.stop, launch_); }

  error_code leave() {
    if (active_) request_stop();
    wait_until_gone(options_.time_limit);
    return lost_ ? error_code(errc::device_lost) : error_code{};
  }

  /// Loses the device when the last residency is not over, and properly over, in time.
  void wait_until_gone(clock::duration limit) {
    if (!wait_for_launcher(limit)) return lose(errc::device_lost);
    if (!lost_ && fault() != 0) lose(fault_error());
    if (!lost_ && !notice_end()) lose(errc::device_lost);
  }

  /// True when nothing runs any more, also because it failed.
  bool wait_for_launcher(clock::duration limit) {
    const clock::time_point end = clock::now() + limit;
    for (std::uint32_t looks = 0;; ++looks) {
      error_code why;
      const launch_state state = launcher_.state(why);
      if (state == launch_state::failed) lose(why);
      if (state != launch_state::running) return true;
      if (clock::now() >= end) return false;
      if (looks > 100) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

  static constexpr std::uint32_t full_write_period = 1u << 20;

  host_ring& memory_;
  Launcher& launcher_;
  const ring_host_options options_;

  std::uint32_t tail_;  // oldest ticket that is not reported
  std::uint32_t head_;  // next ticket to commit
  std::uint32_t next_;  // while no residency is active: the ticket that the next one takes first
  std::array<packet_slot, ring_slots> slots_{};

  std::uint32_t launch_ = 0;
  bool active_ = false;  // the residency `launch_` takes packets, as far as we know
  bool lost_ = false;
  error_code reason_;

  bool quiet_ = false;  // since quiet_since_ nothing has completed
  clock::time_point quiet_since_;
  clock::time_point asked_;
};

}  // namespace cohort::inline COHORT_ABI::detail

#undef COHORT_RING_SEES_THREADS
#undef COHORT_RING_STORES_PAIRS

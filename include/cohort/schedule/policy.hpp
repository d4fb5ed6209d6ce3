// When to commit: the question a policy answers, and two policies that answer it. A policy sees numbers only; it knows
// neither packets nor submissions.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/submission.hpp>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

namespace cohort::inline COHORT_ABI {

/// What a policy is shown. At least one submission is pending when it is asked.
struct queue_view {
  std::size_t pending = 0;      ///< submissions that wait in buckets
  time_point oldest_arrival{};  ///< of the pending ones
  std::uint32_t packets_in_flight = 0;
  std::chrono::nanoseconds work_in_flight{0};  ///< estimated device time until everything committed is complete
  const device_rates& rates;
  bool draining = false;  ///< the owner says that nothing more will be submitted
};

/// What a policy answers: one packet now, of at most `max_submissions`, or nothing yet.
struct decision {
  bool commit = false;
  commit_reason reason = commit_reason::other;
  std::uint32_t max_submissions = std::numeric_limits<std::uint32_t>::max();  ///< 0 holds
  /// While holding: when to ask again even if neither a submission nor a completion comes. Empty: not before that.
  std::optional<time_point> ask_again{};

  static constexpr decision commit_now(commit_reason why) noexcept { return {.commit = true, .reason = why}; }
  static constexpr decision hold() noexcept { return {}; }
  static constexpr decision hold_until(time_point when) noexcept { return {.ask_again = when}; }
};

/// A policy is asked each time the owner could commit a packet: after submissions, completions, and at `ask_again`. It
/// is asked again after each packet until it holds. One that holds while nothing is in flight and gives no `ask_again`
/// stalls until the next submission.
template <class Policy>
concept policy = requires(Policy& p, const queue_view& queue, time_point now) {
  { p.decide(queue, now) } -> std::same_as<decision>;
};

/// Binds as late as it can without ever letting the device run dry: an idle device gets everything at once; a busy one
/// gets another packet only while the work ahead of it is below `rates.busy_target` and fewer than `rates.max_packets`
/// are committed. Whatever is held meets company in the meantime.
struct late_binding {
  decision decide(const queue_view& queue, time_point now) const noexcept {
    const device_rates& rates = queue.rates;
    if (queue.packets_in_flight == 0) return decision::commit_now(commit_reason::idle_device);
    if (queue.packets_in_flight >= rates.max_packets) return decision::hold();
    if (queue.work_in_flight < rates.busy_target) return decision::commit_now(commit_reason::keep_busy);
    // The device works meanwhile: the time comes at which what is left is less than the target.
    using std::chrono::nanoseconds;
    return decision::hold_until(now + (queue.work_in_flight - rates.busy_target) + nanoseconds{1});
  }
};

/// Commits whenever fewer than `rates.max_packets` are in flight, whatever they hold: least waiting, least company.
struct immediate {
  decision decide(const queue_view& queue, time_point) const noexcept {
    const bool room = queue.packets_in_flight == 0 || queue.packets_in_flight < queue.rates.max_packets;
    return room ? decision::commit_now(commit_reason::has_room) : decision::hold();
  }
};

static_assert(policy<late_binding> && policy<immediate>);

}  // namespace cohort::inline COHORT_ABI

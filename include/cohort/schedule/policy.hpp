// When to commit, how much, and in which order: the questions a policy answers. A policy sees numbers only; it knows
// neither packets nor submissions.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

namespace cohort::inline COHORT_ABI {

/// Who goes first.
enum class ordering : std::uint8_t {
  arrival,  ///< first come, first served; the buckets of equal keys take turns
  urgency,  ///< least slack first, where what exceeds a tenant's share is due when its share would have served it
};

/// What a policy is shown. At least one submission is pending when it is asked.
struct queue_view {
  std::size_t pending = 0;      ///< submissions that wait in buckets
  time_point oldest_arrival{};  ///< of the pending ones
  std::uint32_t packets_in_flight = 0;
  std::uint32_t idle_workers = 0;  ///< those of the device for which nothing in flight has a tile
  /// Others with the key of the submission whose turn it is are on the device: who awaits them may soon be back with
  /// it, and ride along.
  bool key_in_flight = false;
  std::chrono::nanoseconds work_in_flight{0};  ///< estimated device time until everything committed is complete
  /// What a packet takes on an idle device beyond its work. Committed later than this before the work ahead is through,
  /// it leaves the device idle.
  std::chrono::nanoseconds lead{0};
  std::chrono::nanoseconds round_trip{0};  ///< of a packet with next to nothing in it, on an idle device
  const device_rates& rates;
  bool draining = false;  ///< the owner says that nothing more will be submitted
  /// Under `ordering::urgency`: when the submission whose turn it is must start to be in time, the sooner the more
  /// there are who would share its record. Else the epoch.
  time_point latest_start{};
  bool wanted = false;  ///< under `ordering::urgency`: it has a target or a deadline

  /// How much later than on an idle device a packet begins that is committed now.
  std::chrono::nanoseconds ahead() const noexcept {
    return std::max(work_in_flight - lead, std::chrono::nanoseconds{0});
  }
};

/// What a policy answers: one packet now, of at most `max_submissions`, or nothing yet.
struct decision {
  bool commit = false;
  commit_reason reason = commit_reason::other;
  std::uint32_t max_submissions = std::numeric_limits<std::uint32_t>::max();  ///< 0 holds
  /// While holding: when to ask again even if neither a submission nor a completion comes. Empty: not before that.
  std::optional<time_point> ask_again{};
  /// Predicted device time after which no further record is begun, once there is a tile for every `spread`-th worker: a
  /// packet that leaves most of them idle gains by more company whatever its length.
  std::chrono::nanoseconds max_work = std::chrono::nanoseconds::max();
  std::uint32_t spread = 4;

  static constexpr decision commit_now(commit_reason why) noexcept { return {.commit = true, .reason = why}; }
  static constexpr decision hold() noexcept { return {}; }
  static constexpr decision hold_until(time_point when) noexcept { return {.ask_again = when}; }
};

/// A packet that left the device, as a policy that learns is told of it.
struct packet_outcome {
  std::uint32_t submissions = 0;
  std::uint32_t missed = 0;              ///< of them, after their deadline
  std::chrono::nanoseconds measured{0};  ///< device time
};

/// A policy is asked each time the owner could commit a packet: after submissions, completions, and at `ask_again`. It
/// is asked again after each packet until it holds. One that holds while nothing is in flight and gives no `ask_again`
/// stalls until the next submission.
///
/// Optional: `static constexpr ordering order` (by default `ordering::arrival`), and
/// `void completed(const packet_outcome&)`.
template <class Policy>
concept policy = requires(Policy& p, const queue_view& queue, time_point now) {
  { p.decide(queue, now) } -> std::same_as<decision>;
};

namespace detail {

template <class Policy>
constexpr ordering order_of() {
  if constexpr (requires { Policy::order; }) {
    return Policy::order;
  } else {
    return ordering::arrival;
  }
}

constexpr bool has_room(const queue_view& queue) noexcept {
  return queue.packets_in_flight == 0 || queue.packets_in_flight < queue.rates.max_packets;
}

}  // namespace detail

/// Binds as late as it can without letting the device run dry: an idle device gets a packet at once; a busy one gets
/// another while fewer are committed than a round trip holds. Whatever is held meets company in the meantime, and the
/// most urgent goes first when its time comes.
///
/// A packet is on its way to the device, at work, or on its way back, so three of them keep the device at work; two do
/// where each lasts longer than a round trip, and more than three where a round trip takes longer than that.
/// Completions set the pace, as acknowledgements do in a network: what is predicted wrongly makes a packet longer or
/// shorter and no more. To foretell when the device runs dry takes predictions that are better than they can be: on a
/// device that is never idle nobody sees what part of an interval was work, and packets that were committed too soon
/// are a queue in which nobody overtakes.
///
/// Where nobody wants anything, throughput is all that counts, and the work ahead may reach two leads.
struct late_binding {
  static constexpr ordering order = ordering::urgency;

  /// Predicted device time that ends a packet with a tile for every fourth worker, one with links of chains with a tile
  /// for every worker; 0: a sixty-fourth of the least slack, but at least `rates.busy_target`, because smaller packets
  /// cost more than they hold. A packet runs to its end, so it is what the urgent wait for: a request has ten ops or
  /// so, and each meets three packets that are ahead and one that is its own. The slack is that of the most urgent,
  /// remembered for some 256 decisions: a packet that holds only what is patient meets somebody who is not as surely as
  /// any other. Where the most urgent has neither target nor deadline, packets take all the company there is.
  std::chrono::nanoseconds packet_work{0};

  /// Where nobody is in a hurry: packets of `rates.busy_target` and a tile for every eighth worker, and one more as
  /// long as workers are idle, unless it could fuse with what comes back. It pays where keys differ and batches are
  /// what the device and the host take about as long for: in one packet all would go together and come back together,
  /// and each would wait for the other. It costs where many requests go through the same layers, because they fall out
  /// of step and fuse less.
  bool side_by_side = false;

  /// Of those who have neither target nor deadline; a bound, so that the others are not forgotten sooner.
  static constexpr std::chrono::nanoseconds patient = std::chrono::seconds(1);
  std::chrono::nanoseconds least_slack = patient;  ///< learned

  decision decide(const queue_view& queue, time_point now) noexcept {
    using std::chrono::nanoseconds;
    remember(queue, now);
    if (queue.packets_in_flight == 0) return packet(queue, commit_reason::idle_device);
    if (queue.packets_in_flight >= queue.rates.max_packets) return decision::hold();
    if (least_slack < patient / 2) {
      return queue.packets_in_flight < on_their_way(queue) ? packet(queue, commit_reason::keep_busy) : decision::hold();
    }
    const nanoseconds two_leads = std::max(queue.rates.busy_target, 2 * queue.lead);
    const bool goes_beside = side_by_side && queue.idle_workers > 0 && !queue.key_in_flight;
    if (goes_beside || queue.work_in_flight < two_leads) return packet(queue, commit_reason::keep_busy);
    // The device works meanwhile: the time comes at which what is left is less than that.
    return decision::hold_until(now + (queue.work_in_flight - two_leads) + nanoseconds{1});
  }

private:
  void remember(const queue_view& queue, time_point now) noexcept {
    const auto slack = std::clamp<std::chrono::nanoseconds>(queue.latest_start - now - queue.ahead(), {}, patient);
    const auto mine = queue.wanted ? slack : patient;
    least_slack = std::min(mine, least_slack + (mine - least_slack) / 256);
  }

  /// What a packet holds, where somebody is in a hurry.
  std::chrono::nanoseconds enough(const queue_view& queue) const noexcept {
    return packet_work.count() != 0 ? packet_work : std::max(least_slack / 64, queue.rates.busy_target);
  }

  /// Packets that keep the device at work.
  std::int64_t on_their_way(const queue_view& queue) const noexcept {
    const std::int64_t each = std::max<std::int64_t>(enough(queue).count(), 1);
    const std::int64_t round_trip = queue.round_trip.count();
    return std::max<std::int64_t>(each > round_trip ? 2 : 3, (round_trip + each - 1) / each);
  }

  decision packet(const queue_view& queue, commit_reason why) const noexcept {
    decision verdict = decision::commit_now(why);
    if (packet_work.count() != 0 || queue.wanted) {
      verdict.max_work = enough(queue);
    } else if (side_by_side) {
      verdict.max_work = queue.rates.busy_target;
      verdict.spread = 8;
    }
    return verdict;
  }
};

/// Commits whenever fewer than `rates.max_packets` are in flight, whatever they hold: least waiting, least company.
struct immediate {
  decision decide(const queue_view& queue, time_point) const noexcept {
    return detail::has_room(queue) ? decision::commit_now(commit_reason::has_room) : decision::hold();
  }
};

static_assert(policy<late_binding> && policy<immediate>);

}  // namespace cohort::inline COHORT_ABI

// The scheduler: a sans-I/O state machine between submissions and packets. It has one owner, who calls it from one
// thread at a time, passes the time in and carries out what it answers; it starts nothing, waits for nothing, and reads
// no clock. Whoever knows packets and ops may enter; threads, executors and CUDA may not.
//
//     created --submit--> pending --next--> committed --complete--> done
//                            |  \--next: nothing to do, or too large--> done (take_settled)
//                            \--cancel, abort_pending--> done
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/coalescer.hpp>
#include <cohort/schedule/intrusive_list.hpp>
#include <cohort/schedule/packet.hpp>
#include <cohort/schedule/packet_builder.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/policy.hpp>
#include <cohort/schedule/submission.hpp>
#include <cohort/schedule/work_estimate.hpp>
#include <cohort/schedule/work_share.hpp>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// What may share a packet.
enum class coalescing : std::uint8_t {
  fuse_and_pack,  ///< equal keys become one record; different records share packets
  pack_only,      ///< one record per submission; records share packets
  none,           ///< one submission per packet
};

/// Set once, at construction. No value changes the result of an op.
struct scheduler_options {
  coalescing coalesce = coalescing::fuse_and_pack;
  std::uint32_t max_fused_rows = 4096;  ///< sum of `rows` in one record; a single taller member has a record of its own
  std::uint32_t max_members = 1024;     ///< submissions in one record; 0 counts as 1, more than 65535 as 65535
  std::size_t expected_keys = 256;      ///< different keys pending together for which memory is taken up front
};

/// Decides what is computed together and when. All times are passed in and should not run backwards.
///
/// Complexity: `submit` and `cancel` O(1); `next` and `complete` O(1) per submission that they move.
/// Memory: allocates in its constructor, and in `submit` and `next` when more keys or packets are in use than ever
/// before (`std::bad_alloc` leaves everything as it was). Thread-safety: none; distinct schedulers are independent.
template <policy Policy = late_binding>
class scheduler {
public:
  /// \param ops the op set's table; must outlive the scheduler
  scheduler(std::span<const op_info> ops, const machine_shape& shape, const device_rates& rates,
            const scheduler_options& options = {}, Policy policy = {})
      : ops_(ops),
        shape_(shape),
        rates_(rates),
        max_fused_rows_(options.max_fused_rows),
        max_members_(std::clamp(options.max_members, 1u, std::uint32_t{std::numeric_limits<std::uint16_t>::max()})),
        most_per_packet_(options.coalesce == coalescing::none ? 1 : std::numeric_limits<std::uint32_t>::max()),
        policy_(std::move(policy)),
        queue_(ops, options.coalesce == coalescing::fuse_and_pack, options.expected_keys),
        estimate_(rates),
        share_(rates) {
    flights_.reserve(std::clamp(rates.max_packets, 4u, 1024u));
  }

  /// Submissions that are still inside when it is destroyed are not told: `abort_pending` and `complete` come first.
  ~scheduler() = default;
  scheduler(const scheduler&) = delete;
  scheduler& operator=(const scheduler&) = delete;

  /// Takes a submission in: created -> pending. Preconditions: state `created`; `op_index` lies in the op set,
  /// `op_bytes` is that op's size; `op->check()` has passed. Node and descriptor stay where they are until the
  /// submission is done or, for the descriptor, committed.
  void submit(submission& one, time_point now) {
    assert(one.state == submission_state::created);
    assert(one.op_index < ops_.size() && (one.op_bytes + 15) / 16 * 16 == ops_[one.op_index].stride);
    one.next = nullptr;  // the inbox may have left its links
    one.previous = nullptr;
    one.arrived = now;
    queue_.add(one);
    share_.pending(one.cost);
    one.state = submission_state::pending;
    ++statistics_.submitted;
  }

  /// Takes a pending submission out: it is done with `errc::cancelled`, and the caller tells its waiter. False when it
  /// is not pending: nothing changes; committed work completes as usual.
  bool cancel(submission& one) noexcept {
    if (one.state != submission_state::pending) return false;
    withdraw(one);
    finish(one, errc::cancelled);
    ++statistics_.cancelled;
    return true;
  }

  /// Asks the policy, and when it says so forms one packet in `storage`; its members are committed under its sequence
  /// number. Empty: nothing to commit now (see `ask_again`). Call until empty while the backend has room, and look at
  /// `take_settled` after.
  ///
  /// \param storage aligned to 16 bytes; `packet_capacity` bytes, or less for smaller packets
  std::span<const std::byte> next(time_point now, std::span<std::byte> storage) {
    if (flights_.size() == flights_.capacity()) flights_.reserve(2 * flights_.size());
    ask_again_.reset();
    while (queue_.size() > 0) {
      const queue_view view = look(now);
      const decision verdict = policy_.decide(view, now);
      if (!verdict.commit || verdict.max_submissions == 0) {
        ask_again_ = verdict.ask_again;
        break;
      }
      flight packet = fill(storage, std::min(verdict.max_submissions, most_per_packet_));
      // All that was looked at may have settled without a packet. The queue is shorter then: the policy sees it anew.
      if (packet.count > 0) return commit(packet, view, verdict.reason, now);
    }
    return {};
  }

  /// A packet left the device: its members are done with `result`. Returns them linked by `next`, by record and within
  /// a record by arrival; null for a sequence number that is not in flight.
  submission* complete(std::uint32_t sequence, error_code result, time_point now) noexcept {
    const auto found = std::find_if(flights_.begin(), flights_.end(),
                                    [sequence](const flight& packet) { return packet.sequence == sequence; });
    if (found == flights_.end()) return nullptr;
    submission* const members = found->members.release();
    submissions_in_flight_ -= found->count;
    backlog_.completed(found->work, now);
    share_.gone(found->weight);
    *found = flights_.back();
    flights_.pop_back();
    for (submission* one = members; one != nullptr; one = one->next) finish(*one, result);
    return members;
  }

  /// As `complete`, for a packet that the backend did not take. When it was the newest, the next packet has its number
  /// again, because a backend wants numbers without gaps.
  submission* refuse(std::uint32_t sequence, error_code result, time_point now) noexcept {
    submission* const members = complete(sequence, result, now);
    if (members != nullptr && sequence == sequence_) sequence_ = sequence_before_;
    return members;
  }

  /// Submissions that `next` finished without a packet since the last call, linked by `next` in order: with success
  /// when their op has no tiles, with `errc::op_too_large` when it would not fit an empty packet.
  submission* take_settled() noexcept { return settled_.release(); }

  /// Everything pending is done with `result`: linked by `next` in order of arrival. What is in flight stays there.
  submission* abort_pending(error_code result) noexcept {
    detail::submission_chain all;
    while (submission* const one = queue_.oldest()) {
      withdraw(*one);
      finish(*one, result);
      all.push_back(*one);
      ++statistics_.aborted;
    }
    ask_again_.reset();
    return all.release();
  }

  /// When a policy that holds wants `next` called again even if nothing happens. Valid until the next call of `next`.
  std::optional<time_point> ask_again() const noexcept { return ask_again_; }

  /// Tells the policy that nothing more will be submitted (or takes it back). Call `next` after it.
  void drain_mode(bool draining) noexcept { draining_ = draining; }

  std::size_t pending() const noexcept { return queue_.size(); }
  std::size_t packets_in_flight() const noexcept { return flights_.size(); }
  std::size_t submissions_in_flight() const noexcept { return submissions_in_flight_; }

  /// Estimated device time until everything committed is complete.
  std::chrono::nanoseconds work_in_flight(time_point now) const noexcept { return backlog_.left(now); }

  /// Who is told of each packet.
  void observe(packet_observer observer) noexcept { observer_ = observer; }

  const scheduler_statistics& statistics() const noexcept { return statistics_; }

  Policy& used_policy() noexcept { return policy_; }

private:
  /// One committed packet.
  struct flight {
    std::uint32_t sequence = 0;
    std::uint32_t count = 0;
    std::uint32_t fused = 0;
    detail::submission_chain members{};
    time_point oldest = time_point::max();
    std::chrono::nanoseconds work{0};
    std::int64_t weight = 0;  ///< of its members, as `work_share` counts
  };

  enum class outcome : std::uint8_t { placed, settled, full };

  queue_view look(time_point now) const noexcept {
    return {.pending = queue_.size(),
            .oldest_arrival = queue_.oldest()->arrived,
            .packets_in_flight = static_cast<std::uint32_t>(flights_.size()),
            .work_in_flight = backlog_.left(now),
            .rates = rates_,
            .draining = draining_};
  }

  /// Fills a packet from the buckets in their turn. An empty result has settled at least one submission.
  flight fill(std::span<std::byte> storage, std::uint32_t budget) noexcept {
    flight packet{.sequence = detail::next_sequence(sequence_)};
    builder_.begin(storage, packet.sequence);
    estimate_.begin_packet();
    while (detail::bucket* const turn = queue_.front()) {
      const std::uint32_t before = packet.count;
      outcome last = outcome::placed;
      // An emptied bucket has left the queue, and may be looked at: its memory is never given back.
      while (last != outcome::full && packet.count < budget && !turn->members.empty()) {
        last = place(*turn, packet, budget - packet.count);
      }
      if (!turn->members.empty()) {
        if (packet.count > before) queue_.to_back(*turn);
        break;
      }
      if (packet.count == budget) break;
    }
    return packet;
  }

  /// Makes one record of the first members of a bucket.
  outcome place(detail::bucket& from, flight& packet, std::uint32_t budget) noexcept {
    const op_info& info = ops_[from.op_index];
    const std::uint32_t room = builder_.room(info.stride);
    if (room == 0) {
      if (builder_.records() > 0) return outcome::full;
      settle(*from.members.front(), errc::op_too_large);
      return outcome::settled;
    }
    const std::uint32_t most = from.fusable ? std::min({room, max_members_, budget}) : 1;
    builder_.open(from.op_index, info.stride);
    estimate_.begin_record();
    std::uint64_t rows = 0;
    std::int64_t weight = 0;
    const submission* one = from.members.front();
    do {
      builder_.append(one->op, one->op_bytes);
      estimate_.add_member(one->cost);
      weight += share_.weight(one->cost);
      rows += one->rows;
      one = one->next;
    } while (one != nullptr && builder_.member_count() < most && rows + one->rows <= max_fused_rows_);

    const std::uint32_t count = builder_.member_count();
    const std::uint32_t tiles =
        info.plan(builder_.members(), count, {.workers = share_.of(shape_.workers, weight), .host = shape_.host});
    if (tiles == 0) {
      builder_.drop();
      for (std::uint32_t i = 0; i < count; ++i) settle(*from.members.front(), {});
      return outcome::settled;
    }
    if (!builder_.close(tiles)) {
      builder_.drop();
      return outcome::full;
    }
    estimate_.end_record();
    packet.oldest = std::min(packet.oldest, from.members.front()->arrived);
    packet.count += count;
    packet.weight += weight;
    if (count > 1) packet.fused += count;
    for (std::uint32_t i = 0; i < count; ++i) {
      submission& member = *from.members.front();
      queue_.remove(member);
      member.state = submission_state::committed;
      member.sequence = packet.sequence;
      packet.members.push_back(member);
    }
    return outcome::placed;
  }

  std::span<const std::byte> commit(flight& packet, const queue_view& before, commit_reason reason, time_point now) {
    const std::span<const std::byte> bytes = builder_.finish();
    packet.work = estimate_.packet();
    sequence_before_ = std::exchange(sequence_, packet.sequence);
    flights_.push_back(packet);
    submissions_in_flight_ += packet.count;
    backlog_.committed(packet.work, now);

    statistics_.committed += packet.count;
    statistics_.fused += packet.fused;
    statistics_.packets += 1;
    statistics_.records += builder_.records();
    statistics_.tiles += builder_.tiles();
    statistics_.bytes += bytes.size();
    statistics_.packets_by_reason[std::min<std::size_t>(static_cast<std::size_t>(reason), commit_reasons - 1)] += 1;
    if (observer_.call != nullptr) {
      observer_.call(observer_.argument,
                     packet_report{.sequence = packet.sequence,
                                   .reason = reason,
                                   .submissions = packet.count,
                                   .records = builder_.records(),
                                   .fused_submissions = packet.fused,
                                   .tiles = builder_.tiles(),
                                   .bytes = static_cast<std::uint32_t>(bytes.size()),
                                   .oldest_wait = std::max(now - packet.oldest, clock::duration::zero()),
                                   .packets_in_flight_before = before.packets_in_flight,
                                   .work_in_flight_before = before.work_in_flight,
                                   .estimated_work = packet.work,
                                   .left_pending = queue_.size()});
    }
    return bytes;
  }

  void settle(submission& one, error_code result) noexcept {
    withdraw(one);
    finish(one, result);
    settled_.push_back(one);
    ++statistics_.settled;
  }

  void withdraw(submission& one) noexcept {
    queue_.remove(one);
    share_.gone(share_.weight(one.cost));
  }

  static void finish(submission& one, error_code result) noexcept {
    one.state = submission_state::done;
    one.result = result;
  }

  std::span<const op_info> ops_;
  machine_shape shape_;
  device_rates rates_;
  std::uint32_t max_fused_rows_;
  std::uint32_t max_members_;
  std::uint32_t most_per_packet_;
  Policy policy_;
  detail::coalescer queue_;
  packet_builder builder_;
  detail::work_estimate estimate_;
  detail::device_backlog backlog_;
  detail::work_share share_;
  std::vector<flight> flights_;  // a handful, in no order: a linear search over them beats any map
  detail::submission_chain settled_;
  std::uint32_t sequence_ = 0;  // of the newest packet
  std::uint32_t sequence_before_ = 0;
  std::size_t submissions_in_flight_ = 0;
  std::optional<time_point> ask_again_{};
  bool draining_ = false;
  packet_observer observer_{};
  scheduler_statistics statistics_{};
};

}  // namespace cohort::inline COHORT_ABI

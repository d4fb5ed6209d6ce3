// What is known of a packet while it is formed and on the device: whose it is, what its members and records add up to,
// and how long it should take. The table of those in flight is here, too. Private to the scheduler.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/intrusive_list.hpp>
#include <cohort/schedule/latency_model.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/policy.hpp>
#include <cohort/schedule/straggler_watch.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI::detail {

inline constexpr std::uint16_t no_op_index = std::numeric_limits<std::uint16_t>::max();

/// How long a record of one kind takes, and where in its packet's `parts` it counts.
struct record_class {
  std::uint16_t op = no_op_index;
  std::uint32_t position = 0;
  double roofline_ns = 0;
  double predicted_ns = 0;
};

/// What all records of one kind with one member have in common in a packet.
struct lone_class {
  std::uint16_t op = no_op_index;
  std::uint32_t workers = 0;  // their share of them
  op_cost cost{};
  double roofline_ns = 0;
};

/// What is counted of a packet.
struct flight_counts {
  std::uint32_t sequence = 0;
  std::uint32_t count = 0;
  std::uint32_t fused = 0;
  std::uint32_t tiles = 0;  // known when it is committed
  std::uint32_t part_count = 0;
  std::uint32_t orphans = 0;
  std::uint32_t flags = 0;     // as in its header
  bool chained = false;        // it holds links of chains
  std::uint64_t number = 0;    // among all packets, from 1
  std::uint64_t given_up = 0;  // its number among the packets with orphans
  submission_chain members{};
  time_point oldest = time_point::max();
  time_point committed{};
  time_point first_deadline = time_point::max();
  double work_ns = 0;             // predicted
  double padding_ns = 0;          // the part of it that computes nothing; told to observers alone
  double records_ns = 0;          // predicted, without overhead
  double workers_per_weight = 0;  // as `work_share` says when it is begun
  std::int64_t waited = 0;
  std::int64_t weight = 0;    // of its members, as `work_share` counts
  std::uint64_t company = 0;  // as the watch for stragglers says who may ride together
  std::int64_t waited_hidden = 0;
  record_class last{};  // of the newest record
  lone_class lone{};    // of the newest record with one member that `scheduler::place_alone` made
};

/// One committed packet, or the one that is being formed.
struct flight : flight_counts {
  // By class, `part_count` of them. Records of further classes count in the packet's time and teach nothing.
  std::array<latency_model::part, 8> parts{};
  std::array<double, 8> work_of_part{};  // by the rates alone
  std::size_t place = 0;                 // the table's own

  /// A record was closed, the last of so many: its predicted time.
  double add_record(const latency_model& model, std::uint32_t records, std::uint16_t op, double roofline) noexcept {
    // What was found for the record before holds for one that is like it.
    if (records <= 2 || op != last.op || roofline != last.roofline_ns) [[unlikely]] {
      if (records == 2) give_company(model);
      last = part_of(model, records, op, roofline);
    }
    const double predicted = last.predicted_ns;
    work_ns += predicted;
    records_ns += predicted;
    if (last.position < parts.size()) {
      latency_model::part& part = parts[last.position];
      part.records += 1;
      part.predicted_ns += predicted;
      work_of_part[last.position] += roofline;
    }
    return predicted;
  }

  /// Tells the watch for stragglers of a packet that took so long.
  void inform(straggler_watch& stragglers, double overhead_ns, const submission* all, double measured_ns,
              time_point now) const noexcept {
    std::uint32_t records = 0;
    for (std::uint32_t i = 0; i < part_count; ++i) records += parts[i].records;
    for (std::uint32_t i = 0; i < part_count; ++i) {
      const latency_model::part& part = parts[i];
      const double overhead = overhead_ns * part.records / records;
      stragglers.add(
          straggler_watch::op_share{.op = part.op, .company = part.company, .work_ns = work_of_part[i] + overhead});
    }
    for (const submission* one = all; one != nullptr; one = one->next) {
      stragglers.add_tenant(one->tenant, std::max(one->work_ns, 1.0));
    }
    stragglers.measured(measured_ns, now);
  }

  /// What is told of it when it is formed.
  packet_report report(commit_reason reason, const queue_view& before, std::size_t left_pending, std::uint32_t records,
                       std::size_t bytes, std::chrono::nanoseconds work) const noexcept {
    return {.sequence = sequence,
            .reason = reason,
            .submissions = count,
            .records = records,
            .fused_submissions = fused,
            .tiles = tiles,
            .bytes = static_cast<std::uint32_t>(bytes),
            .formed = committed,
            .oldest_wait = std::max(committed - oldest, clock::duration::zero()),
            .waited = std::chrono::nanoseconds{waited},
            .waited_hidden = std::chrono::nanoseconds{waited_hidden},
            .packets_in_flight_before = before.packets_in_flight,
            .work_in_flight_before = before.work_in_flight,
            .estimated_work = work,
            .left_pending = left_pending,
            .least_slack = first_deadline - committed - std::max(before.work_in_flight, before.lead) - work,
            .padding = records_ns > 0 ? padding_ns / records_ns : 0};
  }

private:
  /// The class of a record that was closed, which is new in its packet or not.
  [[gnu::noinline]] record_class part_of(const latency_model& model, std::uint32_t records, std::uint16_t op,
                                         double roofline) noexcept {
    const bool has_company = records > 1;
    const std::uint16_t octave = latency_model::octave_of(roofline);
    std::uint32_t at = 0;
    while (at < part_count && (parts[at].op != op || parts[at].octave != octave)) ++at;
    if (at == part_count && at < parts.size()) {
      // All members: nvcc re-emits such a list by position.
      parts[at] = {
          .op = op, .octave = octave, .company = has_company, .records = 0, .roofline_ns = roofline, .predicted_ns = 0};
      work_of_part[at] = 0;
      ++part_count;
    }
    return {.op = op,
            .position = at,
            .roofline_ns = roofline,
            .predicted_ns = model.predict(op, octave, roofline, has_company)};
  }

  /// The first record of a packet has company after all.
  void give_company(const latency_model& model) noexcept {
    latency_model::part& first = parts[0];
    first.company = true;
    const double together = model.predict(first.op, first.octave, first.roofline_ns, true);
    work_ns += together - first.predicted_ns;
    records_ns += together - first.predicted_ns;
    first.predicted_ns = together;
  }
};

/// What a packet's members add up to, in registers while some are committed: in memory it would have to be read again
/// for each.
class tally {
public:
  tally(const flight_counts& packet, const scheduler_statistics& statistics) noexcept
      : oldest_(packet.oldest),
        first_deadline_(packet.first_deadline),
        waited_(packet.waited),
        waited_hidden_(packet.waited_hidden),
        farthest_behind_(statistics.farthest_behind) {}

  /// One was committed that left so many places later than in order of arrival.
  [[gnu::always_inline]] void add(const submission& one, std::uint64_t behind, std::int64_t busy_until_now,
                                  time_point now) noexcept {
    oldest_ = std::min(oldest_, one.arrived);
    first_deadline_ = std::min(first_deadline_, one.deadline);
    const std::int64_t own_wait = (now - one.arrived).count();
    waited_ += own_wait;
    waited_hidden_ += std::min(own_wait, busy_until_now - one.busy_before);
    farthest_behind_ = std::max(farthest_behind_, behind);
  }

  void keep(flight_counts& packet, scheduler_statistics& statistics) const noexcept {
    packet.oldest = oldest_;
    packet.first_deadline = first_deadline_;
    packet.waited = waited_;
    packet.waited_hidden = waited_hidden_;
    statistics.farthest_behind = farthest_behind_;
  }

private:
  time_point oldest_;
  time_point first_deadline_;
  std::int64_t waited_;
  std::int64_t waited_hidden_;
  std::uint64_t farthest_behind_;
};

/// The packets in flight: a handful, in no order, for a linear search over them beats any map. And some to spare, the
/// first of which is the packet that is being formed.
class flight_table {
public:
  explicit flight_table(std::size_t expected) { reserve(expected); }

  /// Makes sure that there is one to spare. Strong guarantee.
  void reserve_one() {
    if (spare_.empty()) reserve(2 * all_.size());
  }

  /// The packet that is being formed. Precondition: `reserve_one` since the last `push`.
  flight& forming() noexcept { return *spare_.back(); }

  /// It is in flight from now on.
  void push() noexcept {
    spare_.back()->place = all_.size();
    all_.push_back(std::move(spare_.back()));
    spare_.pop_back();
  }

  /// Null for a packet that is not in flight.
  flight* find(std::uint32_t sequence) noexcept {
    const auto found =
        std::find_if(all_.begin(), all_.end(), [sequence](const auto& one) { return one->sequence == sequence; });
    return found == all_.end() ? nullptr : found->get();
  }

  /// Whether a packet is in flight whose number has this lower half.
  bool has(std::uint16_t sequence) const noexcept {
    return std::any_of(all_.begin(), all_.end(),
                       [sequence](const auto& one) { return static_cast<std::uint16_t>(one->sequence) == sequence; });
  }

  void remove(const flight& one) noexcept {
    const std::size_t place = one.place;
    spare_.push_back(std::move(all_[place]));
    if (place + 1 != all_.size()) {
      all_[place] = std::move(all_.back());
      all_[place]->place = place;
    }
    all_.pop_back();
  }

  bool empty() const noexcept { return all_.empty(); }
  std::size_t size() const noexcept { return all_.size(); }
  auto begin() const noexcept { return all_.begin(); }
  auto end() const noexcept { return all_.end(); }

private:
  void reserve(std::size_t count) {
    all_.reserve(count);
    spare_.reserve(count);
    while (all_.size() + spare_.size() < count) spare_.push_back(std::make_unique<flight>());
  }

  std::vector<std::unique_ptr<flight>> all_;
  std::vector<std::unique_ptr<flight>> spare_;
};

}  // namespace cohort::inline COHORT_ABI::detail

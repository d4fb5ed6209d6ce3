// Exactly once, under every interleaving: thousands of seeded random schedules drive the scheduler beside a model that
// is too simple to be wrong, and every submission must be told once, with the result that the model expects.
#include "schedule_fixtures.hpp"
#include "support/sanitizer.hpp"

#include <cohort/schedule/scheduler.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

using namespace schedule_test;
using cohort::coalescing;
using cohort::errc;
using cohort::error_code;
using cohort::submission_state;

namespace {

constexpr std::uint32_t schedules = cohort::testing::sanitized ? 2'500 : 10'000;

/// Cheaper than an assertion of the framework, of which there would be tens of millions.
void must(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

/// Holds, commits and limits as dice fall, so that decisions come in orders that no sensible policy would take.
struct erratic {
  std::mt19937 dice;

  cohort::decision decide(const cohort::queue_view& queue, cohort::time_point now) {
    must(queue.pending > 0, "a policy is asked about an empty queue");
    must(queue.oldest_arrival <= now, "the oldest arrival is in the future");
    if (queue.draining) return cohort::decision::commit_now(cohort::commit_reason::draining);
    const auto throw_of = dice() % 8;
    if (throw_of < 2) return cohort::decision::hold();
    if (throw_of == 2) return cohort::decision::hold_until(now + 5ns);
    return {.commit = true, .max_submissions = throw_of == 3 ? 0xffff'ffffu : static_cast<std::uint32_t>(dice() % 7)};
  }
};

/// What the model knows of one submission.
struct expectation {
  std::pair<std::uint16_t, std::uint64_t> group{};  ///< op and key of its bucket
  std::uint32_t tiles = 0;
  std::uint32_t rows = 0;
  submission_state state = submission_state::created;
};

template <class Policy>
class world {
public:
  world(std::uint32_t seed, Policy policy)
      : dice_(seed),
        options_{.coalesce = static_cast<coalescing>(below(3)),
                 .max_fused_rows = 1 + below(8),
                 .max_members = 1 + below(5),
                 .expected_keys = below(3)},
        limits_(below(4) == 0),
        capacity_(128 + below(600)),
        scheduler_(op_table, cohort::machine_shape{},
                   cohort::device_rates{.flops_per_ns = 1,
                                        .bytes_per_ns = 1,
                                        .packet_overhead = 10ns,
                                        .busy_target = 50ns,
                                        .max_packets = 1 + below(4)},
                   options_, std::move(policy)) {}

  void run() {
    const std::uint32_t steps = 10 + below(60);
    for (std::uint32_t i = 0; i < steps; ++i) {
      step();
      agree();
    }
    shut_down();
    agree();
    must(scheduler_.pending() == 0, "something is still pending after shutdown");
    must(flights_.empty(), "something is still in flight after shutdown");
    for (std::size_t id = 0; id < model_.size(); ++id) {
      must(model_[id].state == submission_state::done, "a submission was lost");
      must(shop_.nodes[id].state == submission_state::done, "a submission does not know that it is done");
    }
    const auto& sum = scheduler_.statistics();
    must(sum.submitted == model_.size(), "the statistics do not count all submissions");
    must(sum.submitted == sum.committed + sum.cancelled + sum.timed_out + sum.aborted + sum.settled,
         "the statistics do not add up");
    must(scheduler_.given_up().orphans == 0, "an orphan was left behind");
    must(sum.orphaned == orphaned_.size(), "the statistics do not count all orphans");
    must(!scheduler_.ask_again().has_value(), "somebody is expected to expire after shutdown");
  }

  std::size_t submissions() const { return model_.size(); }

  std::map<std::string, std::uint64_t> seen;  ///< how often each kind of end was met

private:
  std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>(dice_() % bound); }

  void step() {
    now_ += std::chrono::nanoseconds{below(20)};
    const std::uint32_t what = below(100);
    if (what < 40) {
      for (std::uint32_t i = 1 + below(5); i > 0; --i) submit();
    } else if (what < 62) {
      next();
    } else if (what < 80) {
      complete_any();
    } else if (what < 82) {
      expire();
    } else if (what < 96) {
      cancel_any();
    } else if (what < 98) {
      must(scheduler_.complete(0x8000'0000u + below(10), {}, now_) == nullptr, "an unknown packet completed");
      must(scheduler_.complete(0, {}, now_) == nullptr, "packet 0 completed");
    } else if (what < 99) {
      abort(errc::stopped);
    } else {
      scheduler_.drain_mode(below(2) == 0);
    }
  }

  void submit() {
    const auto op = static_cast<std::uint16_t>(below(3));
    const std::uint32_t tiles = below(8) == 0 ? 0 : 1 + below(3);
    const std::uint64_t key = below(4);
    node& one = shop_.make(op, tiles, key);
    one.rows = 1 + below(3);
    one.cost = {below(40), below(40)};
    if (below(2) == 0) one.next = one.previous = &one;  // whatever an inbox leaves there
    if (limits_ && below(3) == 0) one.expires = now_ + std::chrono::nanoseconds{1 + below(300)};
    expectation expected{.tiles = tiles, .rows = one.rows, .state = submission_state::pending};
    const bool by_key = options_.coalesce == coalescing::fuse_and_pack && op_table[op].fusable && key != 0;
    expected.group = {op, by_key ? key : 0};
    pending_[expected.group].push_back(model_.size());
    model_.push_back(expected);
    scheduler_.submit(one, now_);
  }

  bool next() {
    const std::size_t before = flights_.size();
    const auto bytes = scheduler_.next(now_, std::span(shop_.storage).first(capacity_));
    std::map<std::pair<std::uint16_t, std::uint64_t>, std::vector<std::size_t>> gone;  // by group, in order

    std::vector<std::size_t> members;
    if (!bytes.empty()) {
      const auto packet = decode(bytes, op_table, 0);
      must(bytes.size() <= capacity_, "a packet is larger than its storage");
      sequence_ += 1;
      must(packet.header.sequence == sequence_, "sequence numbers have a gap");
      for (const auto& record : packet.records) check(record, gone, members);
      must(options_.coalesce != coalescing::none || members.size() == 1, "a packet has company against the options");
      for (const std::size_t id : members) {
        must(shop_.nodes[id].sequence == sequence_, "a member does not know its packet");
      }
      flights_[sequence_] = members;
    }

    for (const cohort::submission* one = scheduler_.take_settled(); one != nullptr; one = one->next) {
      const std::size_t id = static_cast<const node*>(one)->as_odd.id;
      if (timed_out(*one, id)) continue;
      const bool large = capacity_ / 16 * 16 < cohort::packet_builder::bytes_for(op_table[one->op_index].stride);
      must(large || model_[id].tiles == 0, "a submission with work was settled without a packet");
      must(model_[id].state == submission_state::pending, "a submission was settled that was not pending");
      gone[model_[id].group].push_back(id);
      end(id, large ? error_code(errc::op_too_large) : error_code());
      ++seen[large ? "too large" : "no tiles"];
    }
    must(scheduler_.take_settled() == nullptr, "settled submissions were given out twice");

    for (auto& [group, taken] : gone) leave_in_order(group, taken);
    if constexpr (!std::is_same_v<Policy, erratic>) {
      must(!bytes.empty() || before > 0 || pending() == 0, "an idle device was left waiting");
    }
    if (!bytes.empty() && below(20) == 0) {
      finish(sequence_, errc::device_lost, true);
      sequence_ -= 1;
      ++seen["refused"];
    }
    return !bytes.empty();
  }

  void check(const decoded_record& record,
             std::map<std::pair<std::uint16_t, std::uint64_t>, std::vector<std::size_t>>& gone,
             std::vector<std::size_t>& members) {
    const auto group = model_.at(record.ids[0]).group;
    std::uint32_t rows = 0;
    std::uint32_t tiles = 0;
    for (const std::size_t id : record.ids) {
      expectation& one = model_.at(id);
      must(one.state == submission_state::pending, "a packet holds a submission that was not pending");
      must(one.group == group, "submissions were fused that must not be");
      must(shop_.nodes[id].state == submission_state::committed, "a member does not know that it is committed");
      one.state = submission_state::committed;
      rows += one.rows;
      tiles += one.tiles;
      members.push_back(id);
      gone[group].push_back(id);
    }
    must(record.header.op == group.first, "a record has another op than its members");
    must(record.header.tiles == tiles, "a record lost tiles");
    if (record.ids.size() == 1) return;
    must(group.second != 0, "submissions were fused that have no key");
    must(rows <= options_.max_fused_rows, "a record is too tall");
    must(record.ids.size() <= options_.max_members, "a record has too many members");
    ++seen["fused"];
  }

  void expire() {
    scheduler_.expire(now_);
    for (const cohort::submission* one = scheduler_.take_settled(); one != nullptr; one = one->next) {
      must(timed_out(*one, static_cast<const node*>(one)->as_odd.id), "someone expired without a time limit");
    }
    for (std::size_t id = 0; id < model_.size(); ++id) {
      const bool over = shop_.nodes[id].expires <= now_;
      must(!over || model_[id].state == submission_state::done, "a time limit was missed");
    }
  }

  /// Whether `one` ended by its time limit, as it then had to.
  bool timed_out(const cohort::submission& one, std::size_t id) {
    if (one.result != errc::timed_out) return false;
    must(one.expires <= now_, "a submission timed out too early");
    if (model_[id].state == submission_state::pending) {
      std::erase(pending_[model_[id].group], id);
      ++seen["timed out, pending"];
    } else {
      must(model_[id].state == submission_state::committed, "a submission timed out that was not inside");
      orphan(id);
      ++seen["timed out, committed"];
    }
    end(id, errc::timed_out);
    return true;
  }

  /// A committed submission is told before its packet is complete.
  void orphan(std::size_t id) {
    orphaned_.insert(id);
    for (auto& [sequence, packet] : flights_) {
      const bool member = std::count(packet.begin(), packet.end(), id) != 0;
      if (member && given_up_.count(sequence) == 0) given_up_[sequence] = ++given_up_packets_;
    }
  }

  /// Those who left a bucket stood first in it; those in packets left in order, and so did those without.
  void leave_in_order(const std::pair<std::uint16_t, std::uint64_t>& group, const std::vector<std::size_t>& taken) {
    auto& queue = pending_[group];
    must(taken.size() <= queue.size(), "more left a bucket than were in it");
    if (limits_) {  // whoever has a time limit may overtake
      for (const std::size_t id : taken) must(std::erase(queue, id) == 1, "someone left a bucket without being in it");
      return;
    }
    const std::set<std::size_t> left(queue.begin(), queue.begin() + static_cast<std::ptrdiff_t>(taken.size()));
    must(left == std::set<std::size_t>(taken.begin(), taken.end()), "someone in a bucket was overtaken");
    for (const auto state : {submission_state::committed, submission_state::done}) {
      std::vector<std::size_t> some;
      std::copy_if(taken.begin(), taken.end(), std::back_inserter(some),
                   [&](std::size_t id) { return model_[id].state == state; });
      must(std::is_sorted(some.begin(), some.end()), "the order within a bucket was not kept");
    }
    queue.erase(queue.begin(), queue.begin() + static_cast<std::ptrdiff_t>(taken.size()));
  }

  void complete_any() {
    if (flights_.empty()) return;
    const auto chosen = std::next(flights_.begin(), below(static_cast<std::uint32_t>(flights_.size())));
    const std::uint32_t kind = below(4);
    finish(chosen->first, kind == 0 ? error_code(errc::device_lost) : error_code(), false);
    ++seen[kind == 0 ? "failed" : "completed"];
  }

  void finish(std::uint32_t sequence, error_code result, bool refused) {
    const cohort::submission* list =
        refused ? scheduler_.refuse(sequence, result, now_) : scheduler_.complete(sequence, result, now_);
    for (const std::size_t id : flights_.at(sequence)) {
      if (orphaned_.count(id) != 0) continue;
      must(list == &shop_.nodes[id], "a packet came back with other members, or in another order");
      end(id, result);
      list = list->next;
    }
    must(list == nullptr, "a packet came back with more members than it left with");
    flights_.erase(sequence);
    given_up_.erase(sequence);
    must(scheduler_.complete(sequence, {}, now_) == nullptr, "a packet completed twice");
  }

  void cancel_any() {
    if (model_.empty()) return;
    const std::size_t id = below(static_cast<std::uint32_t>(model_.size()));
    node& one = shop_.nodes[id];
    const submission_state before = one.state;
    const error_code result = one.result;
    const bool cancelled = scheduler_.cancel(one, now_);
    must(cancelled == (model_[id].state != submission_state::done), "cancel says the wrong thing");
    if (cancelled) {
      const bool committed = model_[id].state == submission_state::committed;
      if (committed) {
        orphan(id);
      } else {
        std::erase(pending_[model_[id].group], id);
      }
      end(id, errc::cancelled);
      ++seen[committed ? "cancelled, committed" : "cancelled, pending"];
    } else {
      must(one.state == before && one.result == result, "cancel changed what it must not");
      ++seen["not cancelled"];
    }
  }

  void abort(error_code result) {
    std::size_t last = 0;
    std::size_t count = 0;
    for (const cohort::submission* one = scheduler_.abort_pending(result, now_); one != nullptr; one = one->next) {
      const std::size_t id = static_cast<const node*>(one)->as_odd.id;
      must(model_[id].state == submission_state::pending, "a submission was aborted that was not pending");
      must(count == 0 || last < id, "aborted submissions are not in order of arrival");
      end(id, result);
      last = id;
      ++count;
      ++seen["aborted"];
    }
    must(count == pending(), "not everything pending was aborted");
    pending_.clear();
  }

  /// The one place where the model lets a submission end, and it does so once.
  void end(std::size_t id, error_code result) {
    must(model_.at(id).state != submission_state::done, "a submission was told twice");
    model_[id].state = submission_state::done;
    must(shop_.nodes[id].state == submission_state::done, "a submission was handed back that is not done");
    must(shop_.nodes[id].result == result, "a submission has another result than it should have");
  }

  void shut_down() {
    if (below(2) == 0) {
      abort(errc::stopped);
    } else {
      scheduler_.drain_mode(true);
      for (int rounds = 0; pending() > 0; ++rounds) {
        must(rounds < 10'000, "draining makes no progress");
        if (!next() && !flights_.empty()) complete_any();
        now_ += 1ns;
      }
    }
    while (!flights_.empty()) complete_any();
  }

  std::size_t pending() const {
    std::size_t count = 0;
    for (const auto& [group, queue] : pending_) count += queue.size();
    return count;
  }

  void agree() const {
    std::size_t in_flight = 0;
    for (const auto& [sequence, members] : flights_) in_flight += members.size();
    must(scheduler_.pending() == pending(), "the number of pending submissions is wrong");
    must(scheduler_.packets_in_flight() == flights_.size(), "the number of packets in flight is wrong");
    must(scheduler_.submissions_in_flight() == in_flight, "the number of submissions in flight is wrong");
    must(scheduler_.work_in_flight(now_) >= 0ns, "the work in flight is negative");
    must(!flights_.empty() || scheduler_.work_in_flight(now_) == 0ns, "an idle device has work");
    std::size_t orphans = 0;
    for (const auto& [sequence, members] : flights_) {
      for (const std::size_t id : members) orphans += orphaned_.count(id);
    }
    std::uint64_t over = given_up_packets_;
    for (const auto& [sequence, number] : given_up_) over = std::min(over, number - 1);
    must(scheduler_.given_up().orphans == orphans, "the number of orphans is wrong");
    must(scheduler_.given_up().packets == given_up_packets_, "the number of packets with orphans is wrong");
    must(scheduler_.given_up().complete == over, "packets with orphans are not counted in their order");
  }

  std::mt19937 dice_;
  cohort::scheduler_options options_;
  bool limits_;  ///< some submissions have a time limit
  std::size_t capacity_;
  workshop shop_;
  cohort::scheduler<Policy> scheduler_;
  cohort::time_point now_{1us};
  std::uint32_t sequence_ = 0;
  std::vector<expectation> model_;  ///< by id
  std::map<std::pair<std::uint16_t, std::uint64_t>, std::deque<std::size_t>>
      pending_;  ///< by bucket, in order of arrival
  std::map<std::uint32_t, std::vector<std::size_t>> flights_;
  std::set<std::size_t> orphaned_;                   ///< cancelled or timed out while committed
  std::map<std::uint32_t, std::uint64_t> given_up_;  ///< packets in flight that hold some, by sequence number
  std::uint64_t given_up_packets_ = 0;
};

template <class Policy>
void run(std::uint32_t seed, Policy policy, std::map<std::string, std::uint64_t>& seen) {
  CAPTURE(seed);
  auto one = std::make_unique<world<Policy>>(seed, std::move(policy));
  REQUIRE_NOTHROW(one->run());
  for (const auto& [kind, count] : one->seen) seen[kind] += count;
  seen["submitted"] += one->submissions();
}

}  // namespace

TEST_CASE(
    "thousands of random interleavings tell every submission once, with its result, and keep the order in each "
    "bucket") {
  std::map<std::string, std::uint64_t> seen;
  for (std::uint32_t seed = 0; seed < schedules; ++seed) {
    switch (seed % 3) {
      case 0: run(seed, cohort::late_binding{}, seen); break;
      case 1: run(seed, cohort::immediate{}, seen); break;
      default: run(seed, erratic{std::mt19937(~seed)}, seen); break;
    }
  }
  // The schedules are of use only if each way to end was taken often.
  for (const char* kind :
       {"completed", "failed", "refused", "cancelled, pending", "cancelled, committed", "not cancelled",
        "timed out, pending", "timed out, committed", "aborted", "no tiles", "too large", "fused"}) {
    CAPTURE(kind);
    CHECK(seen[kind] > schedules / 10);
  }
}

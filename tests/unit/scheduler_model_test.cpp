// The scheduler and its reference in lock-step: thousands of seeded random schedules, and after every call both must
// have said the same. A schedule that fails names its seed; COHORT_SCHEDULE_SEED=N runs that one alone.
#include "reference_scheduler.hpp"
#include "schedule_fixtures.hpp"
#include "support/sanitizer.hpp"

#include <cohort/schedule/batching_policies.hpp>
#include <cohort/schedule/observer.hpp>
#include <cohort/schedule/scheduler.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using namespace schedule_test;
using cohort::errc;
using cohort::error_code;
using cohort::submission_state;

namespace {

constexpr std::uint32_t schedules = cohort::testing::sanitized ? 1'500 : 12'000;
constexpr std::int64_t endless = std::numeric_limits<std::int64_t>::max();

/// Decides as dice fall, so that decisions come in orders that no sensible policy would take.
template <cohort::ordering Order>
struct whim {
  static constexpr cohort::ordering order = Order;
  std::mt19937 dice;

  cohort::decision decide(const cohort::queue_view& queue, cohort::time_point now) {
    const auto fallen = dice() % 8;
    if (fallen < 2 && !queue.draining) return cohort::decision::hold();
    if (fallen == 2 && !queue.draining) return cohort::decision::hold_until(now + 5ns);
    cohort::decision verdict = cohort::decision::commit_now(cohort::commit_reason::other);
    if (fallen < 6) verdict.max_submissions = static_cast<std::uint32_t>(1 + dice() % 6);
    if (fallen > 4) verdict.max_work = std::chrono::nanoseconds{dice() % 4'000};
    return verdict;
  }
};

/// Writes down what a scheduler tells, in the words of the reference.
class listener final : public cohort::schedule_observer {
public:
  std::vector<happening> told;

  void arrived(const cohort::submission& one, cohort::time_point) noexcept override { tell("arrived", {number(one)}); }
  void ended(const cohort::submission& one, cohort::ending how, cohort::time_point) noexcept override {
    tell("ended", {number(one), static_cast<std::int64_t>(how)});
  }
  void formed(const cohort::packet_report& packet, const cohort::submission* members) noexcept override {
    std::vector<std::int64_t> numbers{packet.sequence,
                                      static_cast<std::int64_t>(packet.reason),
                                      packet.records,
                                      packet.fused_submissions,
                                      packet.tiles,
                                      packet.packets_in_flight_before,
                                      packet.work_in_flight_before.count(),
                                      packet.estimated_work.count(),
                                      static_cast<std::int64_t>(packet.left_pending)};
    for (; members != nullptr; members = members->next) numbers.push_back(number(*members));
    numbers.push_back(packet.oldest_wait.count());
    numbers.push_back(packet.least_slack.count());
    tell("formed", std::move(numbers));
  }
  void completed(const cohort::packet_result& packet) noexcept override {
    std::vector<std::int64_t> numbers{packet.sequence,           since_epoch(packet.committed),
                                      since_epoch(packet.began), since_epoch(packet.ended),
                                      packet.predicted.count(),  packet.submissions};
    for (const auto* one = packet.members; one != nullptr; one = one->next) {
      numbers.push_back(number(*one));
      numbers.push_back(one->orphan ? 1 : 0);
    }
    numbers.push_back(packet.missed);
    tell("completed", std::move(numbers));
  }

private:
  static std::int64_t number(const cohort::submission& one) { return static_cast<std::int64_t>(one.id); }
  static std::int64_t since_epoch(cohort::time_point t) { return t.time_since_epoch().count(); }
  void tell(const char* what, std::vector<std::int64_t> numbers) { told.push_back({what, std::move(numbers)}); }
};

std::string text(const std::vector<happening>& all) {
  std::ostringstream out;
  for (const happening& one : all) {
    out << "\n    " << one.what;
    for (const std::int64_t value : one.numbers) out << ' ' << value;
  }
  return out.str();
}

template <class Policy>
class world {
public:
  world(std::uint32_t seed, const Policy& policy, std::map<std::string, std::uint64_t>& seen)
      : seen_(seen),
        dice_(seed),
        options_{.coalesce = static_cast<cohort::coalescing>(below(4) == 0 ? 1 + below(2) : 0),
                 .max_fused_rows = 1 + below(12),
                 .max_members = 1 + below(6),
                 .expected_keys = below(3),
                 .max_overtaken = below(3) == 0 ? 1 + below(20) : 16'384},
        shape_{.workers = 1 + below(6)},
        rates_{.flops_per_ns = 1,
               .bytes_per_ns = 1,
               .packet_overhead = std::chrono::nanoseconds{below(2) * 100},
               .busy_target = std::chrono::nanoseconds{100 + below(3'000)},
               .max_packets = 1 + below(4)},
        capacity_(128 + below(1'500)),
        limits_(below(3) == 0),
        real_(op_table, shape_, rates_, options_, policy),
        reference_(op_table, shape_, rates_, options_, policy) {
    real_.observe(&listener_);
  }

  void run() {
    for (std::uint32_t tenants = below(4); tenants > 0; --tenants) set_tenant();
    for (std::uint32_t steps = 10 + below(60); steps > 0; --steps) {
      step();
      agree();
    }
    now_ += 1;
    if (below(2) == 0) {
      abort();
    } else {
      real_.drain_mode(true);
      reference_.drain_mode(true);
      for (int rounds = 0; real_.pending() > 0; ++rounds) {
        must(rounds < 10'000, "draining makes no progress");
        if (!next()) complete();
        now_ += 50;
        agree();
      }
    }
    while (!reference_.flights().empty()) complete();
    agree();
    const auto& sum = real_.statistics();
    must(sum.submitted ==
             sum.committed + sum.cancelled + sum.timed_out + sum.aborted + sum.settled + sum.refused + sum.dropped,
         "the statistics do not add up");
  }

private:
  std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>(dice_() % bound); }
  cohort::time_point now() const { return workshop::at(std::chrono::nanoseconds{now_}); }

  /// Cheaper than an assertion of the framework, of which there would be tens of millions.
  void must(bool holds, const std::string& what) const {
    if (!holds) throw std::runtime_error(what + "; the last call was " + call_);
  }

  void step() {
    now_ += below(4) == 0 ? below(2'000) : below(150);
    const std::uint32_t what = below(100);
    if (what < 38) {
      for (std::uint32_t i = 1 + below(6); i > 0; --i) submit();
    } else if (what < 60) {
      next();
    } else if (what < 76) {
      complete();
    } else if (what < 84) {
      cancel();
    } else if (what < 88) {
      expire();
    } else if (what < 96) {
      set_tenant();
    } else if (what < 97) {
      remove_tenant();
    } else if (what < 98) {
      abort();
    } else {
      const bool draining = below(2) == 0;
      call_ = "drain_mode";
      real_.drain_mode(draining);
      reference_.drain_mode(draining);
    }
  }

  void set_tenant() {
    call_ = "set_tenant";
    const cohort::tenant_id number = below(6);
    constexpr double weights[] = {0.25, 0.5, 1, 1, 2, 8};  // sums of them are exact
    cohort::tenant_options options{.latency_target = std::chrono::nanoseconds{200 + below(20'000)},
                                   .weight = weights[below(6)]};
    if (below(3) == 0) options.queue_capacity = below(6);
    if (below(2) == 0) options.when_full = cohort::full_queue::suspend;
    if (below(3) == 0) options.when_late = cohort::late_work::drop;
    if (below(3) == 0) options.in_flight_cap = std::chrono::nanoseconds{below(5'000)};
    real_.set_tenant(number, options);
    reference_.set_tenant(number, options);
    tenants_ = std::max(tenants_, number + 1);
  }

  void remove_tenant() {
    call_ = "remove_tenant";
    const cohort::tenant_id number = below(7);
    real_.remove_tenant(number);
    reference_.remove_tenant(number);
  }

  void submit() {
    call_ = "submit";
    const auto op = static_cast<std::uint16_t>(below(3));
    const std::uint32_t tiles = below(12) == 0 ? 0 : below(40) == 0 ? 0x6000'0000u : 1 + below(3);
    node& one = shop_.make(op, tiles, below(4));
    one.rows = 1 + below(3);
    one.cost = {.flops = below(2'000), .bytes = below(500)};
    one.tenant = below(7);
    if (below(4) == 0) one.deadline = workshop::at(std::chrono::nanoseconds{now_ - 100 + below(6'000)});
    if (limits_ && below(3) == 0) one.expires = workshop::at(std::chrono::nanoseconds{now_ - 50 + below(6'000)});
    const auto time = [](cohort::time_point t) { return t.time_since_epoch().count(); };
    known_submission same{.op = op, .tiles = tiles, .key = one.key.words[0], .rows = one.rows, .cost = one.cost};
    same.tenant = one.tenant;
    same.deadline = one.deadline == cohort::time_point::max() ? endless : time(one.deadline);
    same.expires = one.expires == cohort::time_point::max() ? endless : time(one.expires);
    reference_.submit(same, now_);
    real_.submit(one, now());
  }

  bool next() {
    call_ = "next";
    const auto bytes = real_.next(now(), std::span(shop_.storage).first(capacity_));
    const auto expected = reference_.next(now_, capacity_);
    must(bytes.empty() == !expected.has_value(), "one forms a packet, the other does not");
    if (bytes.empty()) return false;
    bytes_ += bytes.size();
    const decoded_packet packet = decode(bytes, op_table, 0);
    must(packet.header.sequence == expected->sequence, "packets have different numbers");
    must(packet.records.size() == expected->records.size(), "packets have different numbers of records");
    for (std::size_t i = 0; i < packet.records.size(); ++i) {
      must(packet.records[i].header.op == expected->records[i].op, "records have different ops");
      must(packet.records[i].header.tiles == expected->records[i].tiles, "records have different tiles");
      std::vector<std::uint64_t> members = packet.records[i].ids;
      for (std::uint64_t& one : members) ++one;  // descriptors count from 0
      must(members == expected->records[i].members, "records have different members, or in another order");
    }
    ++seen_["packets"];
    if (below(25) == 0) {
      call_ = "refuse";
      finished(real_.refuse(expected->sequence, errc::device_lost, now()),
               reference_.refuse(expected->sequence, errc::device_lost, now_));
      ++seen_["packets refused"];
    }
    return true;
  }

  void complete() {
    call_ = "complete";
    if (reference_.flights().empty()) return must(real_.complete(below(9), {}, now()) == nullptr, "nothing completed");
    const auto& any = reference_.flights()[below(static_cast<std::uint32_t>(reference_.flights().size()))];
    const std::uint32_t sequence = any.sequence;
    const error_code result = below(6) == 0 ? error_code(errc::device_lost) : error_code();
    finished(real_.complete(sequence, result, now()), reference_.complete(sequence, result, now_));
  }

  void cancel() {
    call_ = "cancel";
    if (shop_.nodes.empty()) return;
    // The newest most often: it is likely to be inside still.
    const auto all = static_cast<std::uint32_t>(shop_.nodes.size());
    const std::uint32_t which = below(2) == 0 ? below(all) : all - 1 - below(std::min(all, 12u));
    const bool committed = shop_.nodes[which].state == submission_state::committed;
    const bool done = real_.cancel(shop_.nodes[which], now());
    must(done == reference_.cancel(which + 1, now_), "they disagree whether it could be cancelled");
    if (done) ++seen_[committed ? "cancelled on the device" : "cancelled"];
  }

  void expire() {
    call_ = "expire";
    real_.expire(now());
    reference_.expire(now_);
  }

  void abort() {
    call_ = "abort_pending";
    finished(real_.abort_pending(errc::stopped, now()), reference_.abort_pending(errc::stopped));
  }

  void finished(const cohort::submission* list, const std::vector<std::uint64_t>& expected) {
    for (const std::uint64_t number : expected) {
      must(list == &shop_.nodes[number - 1], "others are handed back, or in another order");
      list = list->next;
    }
    must(list == nullptr, "more are handed back");
  }

  /// Everything that can be asked.
  void agree() {
    for (const happening& one : listener_.told) ++seen_[kind(one)];
    if (listener_.told != reference_.told) {
      must(false,
           "the scheduler tells" + text(listener_.told) + "\n  and the reference" + text(reference_.told) + "\n ");
    }
    listener_.told.clear();
    reference_.told.clear();
    finished(real_.take_settled(), std::exchange(reference_.settled, {}));
    for (std::size_t i = 0; i < shop_.nodes.size(); ++i) state_of(shop_.nodes[i], reference_[i + 1]);
    must(real_.pending() == reference_.pending(), "the number of the pending differs");
    must(real_.packets_in_flight() == reference_.packets_in_flight(), "the number of packets in flight differs");
    must(real_.submissions_in_flight() == reference_.submissions_in_flight(), "the number in flight differs");
    must(real_.work_in_flight(now()).count() == reference_.work_left(now_), "the work in flight differs");
    must(real_.ask_again() == reference_.ask_again(), "the time to ask again differs");
    const auto& lost = real_.given_up();
    must(std::tuple(lost.orphans, lost.packets, lost.complete) == reference_.given_up(), "what was given up differs");
    for (cohort::tenant_id id = 0; id < tenants_; ++id) counters_of(id);
    statistics();
  }

  void state_of(const node& one, const known_submission& expected) const {
    using place = known_submission::place;
    const bool inside = expected.where != place::outside && !expected.orphan;
    const auto state = !inside                           ? submission_state::done
                       : expected.where == place::device ? submission_state::committed
                                                         : submission_state::pending;
    must(one.state == state, "submission " + std::to_string(one.id) + " is somewhere else");
    must(inside || one.result == expected.result, "submission " + std::to_string(one.id) + " has another result");
  }

  void counters_of(cohort::tenant_id id) const {
    const auto a = real_.statistics_of(id);
    const auto b = reference_.statistics_of(id);
    const auto all = [](const cohort::tenant_statistics& one) {
      return std::tuple(one.submitted, one.completed, one.missed, one.refused, one.dropped, one.cancelled,
                        one.timed_out, one.pending, one.service.count());
    };
    must(all(a) == all(b), "the counters of tenant " + std::to_string(id) + " differ");
  }

  void statistics() const {
    const auto all = [](const cohort::scheduler_statistics& one) {
      return std::tuple(one.submitted, one.committed, one.fused, one.cancelled, one.timed_out, one.orphaned,
                        one.aborted, one.settled, one.refused, one.dropped, one.missed, one.farthest_behind,
                        one.waited.count(), one.waited_hidden.count(), one.packets, one.records, one.tiles,
                        one.packets_by_reason, one.prediction_error);
    };
    must(all(real_.statistics()) == all(reference_.sum), "the statistics differ");
    must(real_.statistics().bytes == bytes_, "the bytes of all packets differ");
  }

  static std::string kind(const happening& one) {
    return one.what == "ended" ? cohort::to_string(static_cast<cohort::ending>(one.numbers[1])) : one.what;
  }

  std::map<std::string, std::uint64_t>& seen_;  // how often each kind of thing happened
  std::mt19937 dice_;
  cohort::scheduler_options options_;
  cohort::machine_shape shape_;
  cohort::device_rates rates_;
  std::size_t capacity_;
  bool limits_;
  workshop shop_;
  listener listener_;
  cohort::scheduler<Policy> real_;
  reference_scheduler<Policy> reference_;
  std::int64_t now_ = 1'000;
  std::uint32_t tenants_ = 1;
  std::uint64_t bytes_ = 0;
  std::string call_;
};

template <class Policy>
void run(std::uint32_t seed, const Policy& policy, std::map<std::string, std::uint64_t>& seen) {
  INFO("COHORT_SCHEDULE_SEED=" << seed << " runs this schedule alone");
  auto one = std::make_unique<world<Policy>>(seed, policy, seen);
  REQUIRE_NOTHROW(one->run());
}

void run(std::uint32_t seed, std::map<std::string, std::uint64_t>& seen) {
  const std::chrono::nanoseconds some{100 + seed % 1'000 * 3};
  switch (seed % 10) {
    case 0: return run(seed, cohort::late_binding{}, seen);
    case 1: return run(seed, cohort::late_binding{.packet_work = some}, seen);
    case 2: return run(seed, cohort::immediate{}, seen);
    case 3: return run(seed, cohort::fixed_window{.window = some, .most = 1 + seed % 12}, seen);
    case 4: return run(seed, cohort::preferred_sizes{.sizes = {1, 2, 4, 8}, .delay = some}, seen);
    case 5: return run(seed, cohort::aimd{.size = 2}, seen);
    case 6: return run(seed, cohort::deferred_window{.margin = some}, seen);
    case 7: return run(seed, whim<cohort::ordering::arrival>{std::mt19937(~seed)}, seen);
    case 8: return run(seed, cohort::late_binding{.side_by_side = true}, seen);
    default: return run(seed, whim<cohort::ordering::urgency>{std::mt19937(~seed)}, seen);
  }
}

}  // namespace

TEST_CASE("thousands of random schedules: the scheduler does what a plain reading of its rules does") {
  std::map<std::string, std::uint64_t> seen;
  if (const char* const one = std::getenv("COHORT_SCHEDULE_SEED")) {
    return run(static_cast<std::uint32_t>(std::strtoul(one, nullptr, 10)), seen);
  }
  for (std::uint32_t seed = 0; seed < schedules; ++seed) run(seed, seen);
  // The schedules are of use only if each thing happened often.
  for (const char* kind : {"arrived", "formed", "completed", "cancelled", "timed_out", "refused", "dropped", "aborted",
                           "settled", "packets refused", "cancelled on the device"}) {
    CAPTURE(kind);
    CHECK(seen[kind] > schedules / 24);
  }
}

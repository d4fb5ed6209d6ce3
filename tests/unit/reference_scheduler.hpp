// The scheduler once more, to compare with: the rules of docs/scheduling.md in vectors and linear scans. No heap, no
// table, no intrusive list, nothing that is kept up to date where it can be counted anew; slow, and plain enough to be
// read beside the rules. Latency model and policies are the library's own: they have tests of their own.
#pragma once

#include "schedule_fixtures.hpp"

#include <cohort/schedule/latency_model.hpp>
#include <cohort/schedule/policy.hpp>
#include <cohort/schedule/scheduler.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace schedule_test {

/// One thing that an observer is told, or that a call answers: a word, who or what, and numbers.
struct happening {
  std::string what;
  std::vector<std::int64_t> numbers;

  friend bool operator==(const happening&, const happening&) = default;
};

/// Where a submission is, and what the rules know of it. Times are nanoseconds.
struct known_submission {
  enum class place { outside, aside, queue, device };

  std::uint16_t op = 0;
  std::uint32_t tiles = 0;
  std::uint64_t key = 0;
  std::uint32_t rows = 1;
  cohort::op_cost cost{};
  cohort::tenant_id tenant = 0;
  std::int64_t deadline = 0;
  std::int64_t expires = 0;

  place where = place::outside;
  cohort::error_code result{};
  bool orphan = false;
  bool droppable = false;
  bool overdue = false;
  bool wanted = false;
  std::int64_t arrived = 0;
  std::int64_t due = 0;
  std::uint64_t ticket = 0;
  std::int64_t latest_start = 0;
  double charged = 0;
  double work = 0;
  std::int64_t busy_before = 0;
};

template <cohort::policy Policy>
class reference_scheduler {
public:
  using id = std::uint64_t;  // from 1, as the scheduler numbers them
  using group = std::pair<std::uint16_t, std::uint64_t>;
  using place = known_submission::place;

  struct record {
    std::uint16_t op = 0;
    std::vector<id> members;
    std::uint32_t tiles = 0;
  };

  struct packet {
    std::uint32_t sequence = 0;
    std::vector<record> records;
    std::uint32_t fused = 0;
    std::int64_t committed = 0;
    double work = 0;
    double records_work = 0;
    std::vector<cohort::latency_model::part> parts;
    std::size_t lost = 0;  // its number among the packets that lost a waiter, from 1

    std::uint32_t count() const {
      std::size_t sum = 0;
      for (const record& one : records) sum += one.members.size();
      return static_cast<std::uint32_t>(sum);
    }
    std::uint32_t tiles() const {
      std::uint32_t sum = 0;
      for (const record& one : records) sum += one.tiles;
      return sum;
    }
  };

  reference_scheduler(std::span<const cohort::op_info> ops, const cohort::machine_shape& shape,
                      const cohort::device_rates& rates, const cohort::scheduler_options& options, Policy policy)
      : ops_(ops), shape_(shape), rates_(rates), options_(options), policy_(policy), model_(rates, ops.size()) {
    tenants_[0] = {};
  }

  std::vector<happening> told;       // to an observer
  std::vector<id> settled;           // what `take_settled` gives next
  cohort::scheduler_statistics sum;  // without bytes

  const known_submission& operator[](id number) const { return all_[number - 1]; }
  std::size_t packets_in_flight() const { return flights_.size(); }
  const std::vector<packet>& flights() const { return flights_; }

  std::size_t pending() const { return count(place::queue) + count(place::aside); }
  std::size_t submissions_in_flight() const { return count(place::device); }

  void set_tenant(cohort::tenant_id number, const cohort::tenant_options& options) {
    for (cohort::tenant_id before = 0; before < number; ++before) {
      if (!tenants_.contains(before)) tenants_[before].known = false;
    }
    tenants_[number].options = options;
    tenants_[number].known = true;
    look_at(number);
  }

  void remove_tenant(cohort::tenant_id number) {
    if (tenants_.contains(number)) tenants_[number].known = false;
  }

  cohort::tenant_statistics statistics_of(cohort::tenant_id number) const {
    const tenant& one = tenants_.at(number);
    cohort::tenant_statistics counters = one.counters;
    counters.pending = in(place::queue, number);
    counters.service = std::chrono::nanoseconds{static_cast<std::int64_t>(one.service)};
    return counters;
  }

  void submit(known_submission one, std::int64_t now) {
    const id number = all_.size() + 1;
    one.arrived = now;
    all_.push_back(one);
    ++sum.submitted;
    known_submission& self = all_.back();
    const auto refuse = [&](cohort::errc why) {
      self.result = why;
      settled.push_back(number);
      ++sum.refused;
      tell("arrived", {number});
      tell("ended", {number, static_cast<std::int64_t>(cohort::ending::refused)});
    };
    if (!tenants_.contains(one.tenant) || !tenants_[one.tenant].known) return refuse(cohort::errc::tenant_removed);
    tenant& owner = tenants_[one.tenant];
    ++owner.counters.submitted;
    const auto refuse_counted = [&](cohort::errc why) {
      ++owner.counters.refused;
      refuse(why);
    };
    if (one.expires <= now) return refuse_counted(cohort::errc::timed_out);

    const std::int64_t usual = now + target_of(owner.options);
    self.deadline = std::min({one.deadline, one.expires, usual});
    self.charged = model_.predict(one.op, model_.roofline(one.cost), false);
    self.work = self.charged + model_.overhead() + model_.lead();
    self.latest_start = self.deadline - static_cast<std::int64_t>(model_.at_best(self.work));
    self.wanted = owner.options.latency_target != cohort::no_latency_target || self.deadline < usual;
    if (owner.options.when_late == cohort::late_work::drop) {
      if (self.deadline <= now) return refuse_counted(cohort::errc::deadline_passed);
      if (pending() > 0 || !flights_.empty()) {
        if (now + ahead(now) > self.latest_start) return refuse_counted(cohort::errc::deadline_unreachable);
        self.droppable = true;
      }
    }
    const bool full = in(place::queue, one.tenant) >= std::max<std::size_t>(owner.options.queue_capacity, 1);
    if (full && owner.options.when_full == cohort::full_queue::reject) {
      return refuse_counted(cohort::errc::tenant_queue_full);
    }

    // Shares: an idle tenant saves nothing up; what is submitted is due when the share will have served it.
    if (!active(one.tenant)) {
      owner.paid_until = static_cast<double>(now);
      owner.last_due = 0;
    }
    self.where = !full && owner.aside.empty() ? place::queue : place::aside;
    owner.paid_until = std::max(owner.paid_until, static_cast<double>(now)) +
                       self.charged * owner.efficiency * (active_weight() * (1 / owner.options.weight));
    self.due = std::max(self.deadline, static_cast<std::int64_t>(owner.paid_until));
    if (self.deadline == usual) self.due = owner.last_due = std::max(self.due, owner.last_due);
    if (!self.droppable && now + ahead(now) > self.latest_start) put_behind(self, now);
    self.latest_start = self.droppable         ? std::min(self.latest_start, one.expires - 1)
                        : one.expires != never ? one.expires - 1
                                               : self.latest_start;
    self.busy_before = busy(now);
    if (self.where == place::aside) {
      owner.aside.push_back(number);
    } else {
      enter(number);
    }
    tell("arrived", {number});
  }

  bool cancel(id number, std::int64_t) {
    known_submission& one = all_[number - 1];
    if (one.where == place::outside || one.orphan) return false;
    ++tenants_[one.tenant].counters.cancelled;
    if (one.where == place::device) {
      orphan(number, cohort::errc::cancelled);
    } else {
      withdraw(number, cohort::errc::cancelled);
      ++sum.cancelled;
      tell("ended", {number, static_cast<std::int64_t>(cohort::ending::cancelled)});
    }
    return true;
  }

  void expire(std::int64_t now) {
    while (true) {
      id next = 0;
      for (id number = 1; number <= all_.size(); ++number) {
        if (leaves(number) <= now && (next == 0 || leaves(number) < leaves(next))) next = number;
      }
      if (next == 0) return;
      known_submission& one = all_[next - 1];
      if (one.expires > now) {
        drop(next);
      } else if (one.where == place::device) {
        ++tenants_[one.tenant].counters.timed_out;
        orphan(next, cohort::errc::timed_out);
        settled.push_back(next);
      } else {
        ++tenants_[one.tenant].counters.timed_out;
        withdraw(next, cohort::errc::timed_out);
        settled.push_back(next);
        ++sum.timed_out;
        tell("ended", {next, static_cast<std::int64_t>(cohort::ending::timed_out)});
      }
    }
  }

  /// The next packet, with its records.
  std::optional<packet> next(std::int64_t now, std::size_t capacity) {
    policy_asks_again_.reset();
    expire(now);
    let_in();
    while (!queue_.empty()) {
      const cohort::queue_view view{.pending = queue_.size(),
                                    .oldest_arrival = time(all_[queue_.front() - 1].arrived),
                                    .packets_in_flight = static_cast<std::uint32_t>(flights_.size()),
                                    .idle_workers = idle_workers(),
                                    .key_in_flight = key_in_flight(front()),
                                    .work_in_flight = std::chrono::nanoseconds{work_left(now)},
                                    .lead = std::chrono::nanoseconds{lead()},
                                    .round_trip = std::chrono::nanoseconds{whole(model_.lead() + model_.overhead())},
                                    .rates = rates_,
                                    .draining = draining_,
                                    .latest_start = time(std::get<0>(turn_of(front()))),
                                    .wanted = by_urgency && all_[first_of(front()) - 1].wanted};
      const cohort::decision verdict = policy_.decide(view, time(now));
      if (!verdict.commit || verdict.max_submissions == 0) {
        policy_asks_again_ = verdict.ask_again;
        return std::nullopt;
      }
      packet one = fill(capacity, verdict, view, now);
      if (one.count() > 0) return commit(one, view, verdict.reason, now);
    }
    return std::nullopt;
  }

  /// Who is to be told, in order; empty for an unknown packet.
  std::vector<id> complete(std::uint32_t sequence, cohort::error_code result, std::int64_t now, bool ran = true) {
    const auto found =
        std::find_if(flights_.begin(), flights_.end(), [&](const packet& one) { return one.sequence == sequence; });
    if (found == flights_.end()) return {};
    const packet gone = *found;
    const std::int64_t began = std::min(std::max(gone.committed, last_completion_), now);
    const std::int64_t measured = now - began;
    const bool led = last_completion_ < gone.committed + lead();
    const double lead_within = led ? model_.lead() - static_cast<double>(began - gone.committed) : 0;
    if (ran) last_completion_ = std::max(now, last_completion_);
    const double measured_ns = result.failed() ? 0 : static_cast<double>(measured);
    if (!result.failed()) {
      model_.measured(gone.parts.data(), gone.parts.size(), gone.work, led,
                      static_cast<double>(now - (led ? std::min(gone.committed, now) : began)));
    }
    const double scale = gone.records_work > 0 ? measured_ns / gone.records_work : 0;
    std::vector<id> waiting;
    std::vector<std::int64_t> numbers{sequence,    gone.committed, began, now, whole(gone.work + lead_within),
                                      gone.count()};
    std::uint32_t missed = 0;
    for (const record& part : gone.records) {
      for (const id number : part.members) {
        known_submission& one = all_[number - 1];
        tenant& owner = tenants_[one.tenant];
        const double service = scale > 0 ? one.work * scale : measured_ns / gone.count();
        owner.service += service;
        if (one.charged > 0 && service > 0) {
          owner.paid_until -=
              (one.charged * owner.efficiency - service) * (active_weight() * (1 / owner.options.weight));
          owner.efficiency =
              std::clamp(owner.efficiency + (service / one.charged - owner.efficiency) / 16, 1. / 1024, 16.);
        }
        one.where = place::outside;
        owner.in_flight_ns = in(place::device, one.tenant) == 0 ? 0 : owner.in_flight_ns - one.work;
        if (!owner.aside.empty()) look_at(one.tenant);
        numbers.push_back(static_cast<std::int64_t>(number));
        numbers.push_back(one.orphan ? 1 : 0);
        if (one.orphan) continue;
        ++owner.counters.completed;
        if (now > one.deadline) {
          ++missed;
          ++owner.counters.missed;
        }
        one.result = result;
        waiting.push_back(number);
      }
    }
    numbers.push_back(missed);
    sum.missed += missed;
    sum.prediction_error = model_.error();
    if constexpr (requires(const cohort::packet_outcome& outcome) { policy_.completed(outcome); }) {
      policy_.completed({gone.count(), missed, std::chrono::nanoseconds{measured}});
    }
    told.push_back({"completed", std::move(numbers)});
    if (gone.lost > 0) lost_[gone.lost - 1] = true;
    std::erase_if(flights_, [&](const packet& one) { return one.sequence == sequence; });
    std::int64_t left = 0;
    for (const packet& one : flights_) left += whole(one.work);
    device_idle_at_ = std::min(device_idle_at_, now + left);
    if (left > 0) device_idle_at_ = std::max(device_idle_at_, newest_ends_);
    if (flights_.empty()) busy_sum_ += now - busy_since_;
    return waiting;
  }

  std::vector<id> refuse(std::uint32_t sequence, cohort::error_code result, std::int64_t now) {
    if (sequence == sequence_) sequence_ = sequence_before_;
    return complete(sequence, result, now, false);
  }

  std::vector<id> abort_pending(cohort::error_code result) {
    std::vector<id> order = queue_;
    for (const auto& [number, one] : tenants_) order.insert(order.end(), one.aside.begin(), one.aside.end());
    for (const id number : order) {
      withdraw(number, result);
      ++sum.aborted;
      tell("ended", {number, static_cast<std::int64_t>(cohort::ending::aborted)});
    }
    policy_asks_again_.reset();
    return order;
  }

  void drain_mode(bool draining) { draining_ = draining; }

  std::optional<cohort::time_point> ask_again() const {
    std::optional<cohort::time_point> when = pending() > 0 ? policy_asks_again_ : std::nullopt;
    for (id number = 1; number <= all_.size(); ++number) {
      if (leaves(number) != never && (!when || time(leaves(number)) < *when)) when = time(leaves(number));
    }
    return when;
  }

  /// Orphans, packets that ever had one, and how many of the first of those are complete.
  std::tuple<std::size_t, std::uint64_t, std::uint64_t> given_up() const {
    std::size_t orphans = 0;
    for (const known_submission& one : all_) orphans += one.orphan && one.where == place::device ? 1 : 0;
    const auto first = std::find(lost_.begin(), lost_.end(), false);
    return {orphans, lost_.size(), static_cast<std::uint64_t>(first - lost_.begin())};
  }

  std::int64_t work_left(std::int64_t now) const {
    std::int64_t all = 0;
    for (const packet& one : flights_) all += whole(one.work);
    return all > 0 ? std::clamp<std::int64_t>(device_idle_at_ - now, 0, all + newest_lead_) : 0;
  }

  std::uint32_t idle_workers() const {
    std::uint64_t tiles = 0;
    for (const packet& one : flights_) tiles += one.tiles();
    return tiles < shape_.workers ? shape_.workers - static_cast<std::uint32_t>(tiles) : 0;
  }

  bool key_in_flight(const group& which) const {
    const auto found = served_in_.find(which);
    if (options_.coalesce != cohort::coalescing::fuse_and_pack || which.second == 0 || found == served_in_.end()) {
      return false;
    }
    return std::any_of(flights_.begin(), flights_.end(),
                       [&](const packet& one) { return one.sequence == found->second; });
  }

  std::int64_t lead() const { return whole(model_.lead()); }
  std::int64_t ahead(std::int64_t now) const { return std::max<std::int64_t>(work_left(now) - lead(), 0); }

private:
  static constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();
  static constexpr bool by_urgency = cohort::detail::order_of<Policy>() == cohort::ordering::urgency;

  struct tenant {
    cohort::tenant_options options{};
    bool known = true;
    double paid_until = 0;
    std::int64_t last_due = 0;
    double efficiency = 1;
    double service = 0;
    double in_flight_ns = 0;
    std::vector<id> aside;
    cohort::tenant_statistics counters{};
  };

  using turn = std::tuple<std::int64_t, std::uint64_t>;  // due, ticket

  static cohort::time_point time(std::int64_t ns) { return cohort::time_point{std::chrono::nanoseconds{ns}}; }
  static std::int64_t whole(double ns) { return static_cast<std::int64_t>(std::clamp(ns, 0.0, 3.6e12)); }

  void tell(const char* what, std::vector<std::uint64_t> numbers) {
    told.push_back({what, {numbers.begin(), numbers.end()}});
  }

  std::size_t count(place where) const {
    return static_cast<std::size_t>(
        std::count_if(all_.begin(), all_.end(), [&](const auto& one) { return one.where == where; }));
  }
  std::size_t in(place where, cohort::tenant_id owner) const {
    return static_cast<std::size_t>(std::count_if(
        all_.begin(), all_.end(), [&](const auto& one) { return one.where == where && one.tenant == owner; }));
  }
  bool active(cohort::tenant_id owner) const {
    return std::any_of(all_.begin(), all_.end(),
                       [&](const auto& one) { return one.where != place::outside && one.tenant == owner; });
  }
  double active_weight() const {
    double all = 0;
    for (const auto& [number, one] : tenants_) all += active(number) ? one.options.weight : 0;
    return all;
  }
  std::int64_t busy(std::int64_t now) const { return flights_.empty() ? busy_sum_ : busy_sum_ + now - busy_since_; }

  /// When a submission will be dropped or time out.
  std::int64_t leaves(id number) const {
    const known_submission& one = all_[number - 1];
    if (one.where == place::outside || one.orphan) return never;
    return one.droppable && one.where != place::device ? one.latest_start + 1 : one.expires;
  }

  // -- the queue: in order of arrival; buckets are what has one group
  group group_of(id number) const {
    const known_submission& one = all_[number - 1];
    const bool by_key = options_.coalesce == cohort::coalescing::fuse_and_pack && ops_[one.op].fusable;
    return {one.op, by_key ? one.key : 0};
  }

  /// Whose turn it is in a bucket; 0 when it is empty.
  id first_of(const group& which) const {
    id first = 0;
    for (const id number : queue_) {
      if (group_of(number) == which && (first == 0 || rank_of(number) < rank_of(first))) first = number;
    }
    return first;
  }

  turn rank_of(id number) const {
    const known_submission& one = all_[number - 1];
    return {by_urgency ? one.due : 0, one.ticket};
  }

  turn turn_of(const group& which) const {
    if (!by_urgency) return {0, turns_.at(which)};
    const known_submission& first = all_[first_of(which) - 1];
    const bool fusable = which.second != 0;
    const auto members = std::count_if(queue_.begin(), queue_.end(), [&](id one) { return group_of(one) == which; });
    const double company = fusable ? 4 * static_cast<double>(members - 1) : 0;
    return {first.due - static_cast<std::int64_t>(first.work * (1 + company)), first.ticket};
  }

  group front() const {
    std::optional<std::pair<turn, group>> best;
    for (const auto& [which, number] : turns_) {
      const turn one = turn_of(which);
      if (!best || one < best->first) best = {one, which};
    }
    return best->second;
  }

  static std::int64_t target_of(const cohort::tenant_options& options) {
    return options.latency_target == cohort::no_latency_target ? 10'000'000 : options.latency_target.count();
  }

  void put_behind(known_submission& one, std::int64_t now) {
    one.overdue = true;
    one.due = std::max(one.due, now + 8 * target_of(tenants_[one.tenant].options));
  }

  void enter(id number) {
    known_submission& one = all_[number - 1];
    one.where = place::queue;
    one.ticket = ++entered_;
    queue_.push_back(number);
    if (!turns_.contains(group_of(number))) turns_[group_of(number)] = ++last_turn_;
  }

  void leave(id number) {
    std::erase(queue_, number);
    ++left_;
  }

  /// After some have left: a bucket without members has no turn.
  void forget_turns() {
    std::erase_if(turns_, [&](const auto& one) { return first_of(one.first) == 0; });
  }

  std::uint64_t behind(id number) const {
    return left_ > all_[number - 1].ticket ? left_ - all_[number - 1].ticket : 0;
  }

  // -- ways out
  void withdraw(id number, cohort::error_code result) {
    known_submission& one = all_[number - 1];
    tenant& owner = tenants_[one.tenant];
    if (one.where == place::queue) {
      leave(number);
      forget_turns();
    }
    std::erase(owner.aside, number);
    without_service(number, result);
  }

  void without_service(id number, cohort::error_code result) {
    known_submission& one = all_[number - 1];
    tenant& owner = tenants_[one.tenant];
    owner.paid_until -= one.charged * owner.efficiency * (active_weight() * (1 / owner.options.weight));
    one.where = place::outside;
    one.result = result;
    if (!owner.aside.empty()) look_at(one.tenant);
  }

  void drop(id number) {
    ++tenants_[all_[number - 1].tenant].counters.dropped;
    withdraw(number, cohort::errc::dropped);
    settled.push_back(number);
    ++sum.dropped;
    tell("ended", {number, static_cast<std::int64_t>(cohort::ending::dropped)});
  }

  void settle(id number, cohort::error_code result) {
    settled.push_back(number);
    ++sum.settled;
    tell("ended", {number, static_cast<std::int64_t>(cohort::ending::settled)});
    all_[number - 1].result = result;
  }

  /// The waiter is told; the packet goes on.
  void orphan(id number, cohort::errc why) {
    known_submission& one = all_[number - 1];
    one.orphan = true;
    one.result = why;
    ++sum.orphaned;
    for (packet& each : flights_) {
      for (const record& part : each.records) {
        if (std::find(part.members.begin(), part.members.end(), number) == part.members.end()) continue;
        if (each.lost == 0) {
          lost_.push_back(false);
          each.lost = lost_.size();
        }
      }
    }
  }

  // -- before the queue
  bool over_cap(id number) const {
    const known_submission& one = all_[number - 1];
    const tenant& owner = tenants_.at(one.tenant);
    if (owner.options.in_flight_cap == std::chrono::nanoseconds::max()) return false;
    const bool any = in(place::device, one.tenant) > 0;
    return any && owner.in_flight_ns + one.charged > static_cast<double>(owner.options.in_flight_cap.count());
  }

  /// Who was looked at last comes first.
  void look_at(cohort::tenant_id number) {
    if (std::find(to_look_at_.begin(), to_look_at_.end(), number) == to_look_at_.end()) to_look_at_.push_back(number);
  }

  void let_in() {
    for (; !to_look_at_.empty(); to_look_at_.pop_back()) {
      tenant& owner = tenants_[to_look_at_.back()];
      while (!owner.aside.empty() && !over_cap(owner.aside.front()) &&
             in(place::queue, to_look_at_.back()) < std::max<std::size_t>(owner.options.queue_capacity, 1)) {
        const id number = owner.aside.front();
        owner.aside.erase(owner.aside.begin());
        enter(number);
      }
    }
  }

  // -- packets
  static std::size_t index_bytes(std::size_t records) { return (8 * records + 15) / 16 * 16; }

  /// Members that one more record could have.
  std::size_t room(const packet& one, std::size_t capacity, std::size_t stride) const {
    std::size_t taken = sizeof(cohort::packet_header) + sizeof(cohort::record_header);
    for (const record& part : one.records) {
      taken += sizeof(cohort::record_header) + part.members.size() * ops_[part.op].stride;
    }
    taken += index_bytes(one.records.size() + 1);
    capacity = capacity / 16 * 16;
    return taken >= capacity ? 0 : std::min<std::size_t>((capacity - taken) / stride, 65'535);
  }

  packet fill(std::size_t capacity, const cohort::decision& verdict, const cohort::queue_view& view, std::int64_t now) {
    packet one;
    one.sequence = cohort::detail::next_sequence(sequence_);
    one.committed = now;
    one.work = model_.overhead();
    const std::uint32_t budget = options_.coalesce == cohort::coalescing::none ? 1 : verdict.max_submissions;
    if (by_urgency && behind(queue_.front()) > options_.max_overtaken) all_[queue_.front() - 1].due = 0;
    const std::int64_t begins = now + view.ahead().count();
    std::optional<group> served;
    while (!queue_.empty()) {
      const group which = front();
      if (by_urgency) {
        const std::int64_t starts = begins + static_cast<std::int64_t>(one.work - model_.overhead());
        const auto late = [&](const known_submission& first) {
          return !first.droppable && !first.overdue && first.due > 0 && starts > first.latest_start;
        };
        while (late(all_[first_of(which) - 1])) put_behind(all_[first_of(which) - 1], now);
        if (front() != which) continue;
      }
      const bool by_key = options_.coalesce == cohort::coalescing::fuse_and_pack && which.second != 0;
      const std::size_t members = room(one, capacity, ops_[which.first].stride);
      bool full = false;
      if (members == 0 && !one.records.empty()) {
        full = true;
      } else if (members == 0) {
        const id first = first_of(which);
        withdraw(first, cohort::errc::op_too_large);
        settle(first, cohort::errc::op_too_large);
      } else {
        const std::size_t most = by_key ? std::min({members, std::clamp<std::size_t>(options_.max_members, 1, 65'535),
                                                    std::size_t{budget - one.count()}})
                                        : 1;
        full = !place_record(which, most, one, begins, now, served);
      }
      const bool enough = one.count() == budget || (one.work >= static_cast<double>(verdict.max_work.count()) &&
                                                    std::uint64_t{verdict.spread} * one.tiles() >= shape_.workers);
      if (!full && !enough) continue;
      if (!by_urgency && served == which && turns_.contains(which)) turns_[which] = ++last_turn_;
      break;
    }
    return one;
  }

  /// False: the packet is full.
  bool place_record(const group& which, std::size_t most, packet& to, std::int64_t begins, std::int64_t now,
                    std::optional<group>& served) {
    record made;
    made.op = which.first;
    std::uint64_t rows = 0;
    double flops = 0;
    double bytes = 0;
    while (made.members.size() < most) {
      const id number = first_of(which);
      if (number == 0) break;
      known_submission& one = all_[number - 1];
      if (rows > 0 && rows + one.rows > options_.max_fused_rows) break;
      if (one.droppable && begins + static_cast<std::int64_t>(to.work - model_.overhead()) > one.latest_start) {
        const auto turns = turns_;
        drop(number);
        turns_ = turns;  // the bucket is in its turn, also when it has become empty
        continue;
      }
      leave(number);
      if (over_cap(number)) {
        one.where = place::aside;
        tenants_[one.tenant].aside.push_back(number);
        continue;
      }
      made.members.push_back(number);
      made.tiles += one.tiles;
      rows += one.rows;
      flops += static_cast<double>(one.cost.flops);
      bytes = std::max(bytes, static_cast<double>(one.cost.bytes));
    }
    if (made.tiles > std::numeric_limits<std::uint32_t>::max() - to.tiles()) {
      for (const id number : made.members) queue_.push_back(number);
      left_ -= made.members.size();
      forget_turns();
      return false;
    }
    forget_turns();
    if (made.tiles == 0) {
      for (const id number : made.members) {
        without_service(number, {});
        settle(number, {});
      }
      return true;
    }
    to.records.push_back(made);
    served = which;
    served_in_[which] = to.sequence;
    predict(to, which.first, model_.roofline(flops, bytes));
    const double each = last_predicted_ / static_cast<double>(made.members.size());
    if (made.members.size() > 1) to.fused += static_cast<std::uint32_t>(made.members.size());
    for (const id number : made.members) {
      known_submission& one = all_[number - 1];
      tenant& owner = tenants_[one.tenant];
      one.work = each;
      one.where = place::device;
      one.droppable = false;
      owner.in_flight_ns += each;
      if (!owner.aside.empty()) look_at(one.tenant);
      sum.waited += std::chrono::nanoseconds{now - one.arrived};
      sum.waited_hidden += std::chrono::nanoseconds{std::min(now - one.arrived, busy(now) - one.busy_before)};
      sum.farthest_behind = std::max(sum.farthest_behind, behind(number));
    }
    return true;
  }

  /// Adds the predicted time of the newest record: of those alone in their packet, and of those in company.
  void predict(packet& to, std::uint16_t op, double roofline) {
    const bool company = to.records.size() > 1;
    if (to.records.size() == 2) {
      cohort::latency_model::part& first = to.parts.front();
      first.company = true;
      const double more = model_.predict(first.op, first.roofline_ns, true) - first.predicted_ns;
      first.predicted_ns = model_.predict(first.op, first.roofline_ns, true);
      to.work += more;
      to.records_work += more;
    }
    last_predicted_ = model_.predict(op, roofline, company);
    to.work += last_predicted_;
    to.records_work += last_predicted_;
    for (cohort::latency_model::part& known : to.parts) {
      if (known.op != op || known.octave != model_.octave_of(roofline)) continue;
      known.records += 1;
      known.predicted_ns += last_predicted_;
      return;
    }
    if (to.parts.size() < 8) {
      to.parts.push_back({.op = op,
                          .octave = model_.octave_of(roofline),
                          .company = company,
                          .records = 1,
                          .roofline_ns = roofline,
                          .predicted_ns = last_predicted_});
    }
  }

  packet commit(const packet& one, const cohort::queue_view& before, cohort::commit_reason reason, std::int64_t now) {
    sequence_before_ = std::exchange(sequence_, one.sequence);
    if (flights_.empty()) busy_since_ = now;
    flights_.push_back(one);
    newest_lead_ = lead();
    newest_ends_ = now + newest_lead_ + whole(one.work);
    device_idle_at_ = std::max(device_idle_at_ + whole(one.work), newest_ends_);
    sum.committed += one.count();
    sum.fused += one.fused;
    sum.packets += 1;
    sum.records += one.records.size();
    sum.tiles += one.tiles();
    sum.packets_by_reason[static_cast<std::size_t>(reason)] += 1;
    std::vector<std::int64_t> numbers{one.sequence,
                                      static_cast<std::int64_t>(reason),
                                      static_cast<std::int64_t>(one.records.size()),
                                      one.fused,
                                      one.tiles(),
                                      before.packets_in_flight,
                                      before.work_in_flight.count(),
                                      whole(one.work),
                                      static_cast<std::int64_t>(queue_.size())};
    std::int64_t oldest = 0;
    std::int64_t slack = std::numeric_limits<std::int64_t>::max();
    for (const record& part : one.records) {
      for (const id number : part.members) {
        numbers.push_back(static_cast<std::int64_t>(number));
        oldest = std::max(oldest, now - all_[number - 1].arrived);
        slack = std::min(slack, all_[number - 1].deadline - now -
                                    std::max(before.work_in_flight.count(), before.lead.count()) - whole(one.work));
      }
    }
    numbers.push_back(oldest);
    numbers.push_back(slack);
    told.push_back({"formed", std::move(numbers)});
    return one;
  }

  std::span<const cohort::op_info> ops_;
  cohort::machine_shape shape_;
  cohort::device_rates rates_;
  cohort::scheduler_options options_;
  Policy policy_;
  cohort::latency_model model_;
  std::vector<known_submission> all_;  // by number
  std::map<cohort::tenant_id, tenant> tenants_;
  std::vector<cohort::tenant_id> to_look_at_;
  std::vector<id> queue_;  // by arrival
  std::map<group, std::uint64_t> turns_;
  std::map<group, std::uint32_t> served_in_;  // the packet in which a key was last served
  std::uint64_t last_turn_ = 0;
  std::uint64_t entered_ = 0;
  std::uint64_t left_ = 0;
  std::vector<packet> flights_;
  std::vector<bool> lost_;  // packets that lost a waiter: whether each is complete
  double last_predicted_ = 0;
  std::uint32_t sequence_ = 0;
  std::uint32_t sequence_before_ = 0;
  std::int64_t last_completion_ = 0;
  std::int64_t device_idle_at_ = 0;
  std::int64_t newest_ends_ = 0;
  std::int64_t newest_lead_ = 0;
  std::int64_t busy_since_ = 0;
  std::int64_t busy_sum_ = 0;
  std::optional<cohort::time_point> policy_asks_again_;
  bool draining_ = false;
};

}  // namespace schedule_test

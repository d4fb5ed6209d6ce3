// The scheduler: a sans-I/O state machine between submissions and packets. It has one owner, who calls it from one
// thread at a time, passes the time in and carries out what it answers; it starts nothing, waits for nothing, and reads
// no clock. Whoever knows packets and ops may enter; threads, executors and CUDA may not.
//
//     created --submit--> pending --next--> committed --complete--> done
//                            |                  \--cancel, expire--> done; an orphan stays in the packet
//                            |  \--next: nothing to do, or too large--> done (take_settled)
//                            \--cancel, expire, abort_pending--> done
//
// What follows in a chain comes in when the one before it is committed: created --next--> held --next--> pending.
//
// The flow is here. What it rests on has rooms of its own: who waits (coalescer.hpp, waiting_room.hpp before it), who
// leaves by the clock (expiry.hpp), what is expected (forecast.hpp), packets in flight (flight.hpp), what was given up
// in them (orphans.hpp), the way along a chain (chain_links.hpp).
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/chain_links.hpp>
#include <cohort/schedule/coalescer.hpp>
#include <cohort/schedule/expiry.hpp>
#include <cohort/schedule/flight.hpp>
#include <cohort/schedule/forecast.hpp>
#include <cohort/schedule/intrusive_list.hpp>
#include <cohort/schedule/latency_model.hpp>
#include <cohort/schedule/observer.hpp>
#include <cohort/schedule/orphans.hpp>
#include <cohort/schedule/packet.hpp>
#include <cohort/schedule/packet_builder.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/policy.hpp>
#include <cohort/schedule/scheduler_options.hpp>
#include <cohort/schedule/straggler_watch.hpp>
#include <cohort/schedule/submission.hpp>
#include <cohort/schedule/tenant_table.hpp>
#include <cohort/schedule/waiting_room.hpp>
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

namespace cohort::inline COHORT_ABI {

/// Decides what is computed together and when. All times are passed in and should not run backwards.
///
/// Complexity, with n pending: O(log n) for each that comes or leaves, by whatever way; O(1) for what comes in order.
/// Memory: allocates in its constructor, and in `submit`, `next` and `set_tenant` when more keys, submissions of a key
/// or with a time limit, packets or tenants are in use than ever before (`std::bad_alloc` leaves everything as it was),
/// and in `cancel` and `expire` when more than ever are given up on the device at once. Thread-safety: none; distinct
/// schedulers are independent.
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
        max_overtaken_(options.max_overtaken),
        policy_(std::move(policy)),
        queue_(ops, options.coalesce == coalescing::fuse_and_pack, options.expected_keys, order),
        forecast_(rates, ops.size()),
        flights_(std::clamp(rates.max_packets, 4u, 1024u)) {}

  /// Submissions that are still inside when it is destroyed are not told: `abort_pending` and `complete` come first.
  ~scheduler() = default;
  scheduler(const scheduler&) = delete;
  scheduler& operator=(const scheduler&) = delete;

  // -- tenants
  // ---------------------------------------------------------------------------------------------------------

  /// Adds a tenant, or gives it other options: for what comes, and for what waits before its queue. Tenant 0 exists.
  void set_tenant(tenant_id id, const tenant_options& options) {
    tenants_.set(id, options);
    if (stragglers_ != nullptr) stragglers_->reserve_tenants(tenants_.size());
    if (observer_ != nullptr) observer_->tenant_set(id, options);
    aside_.look_at(tenants_[id]);
  }

  /// Refuses what comes from a tenant from now on; what it has inside goes on.
  void remove_tenant(tenant_id id) noexcept { tenants_.remove(id); }

  /// Counters of a tenant that was added once.
  tenant_statistics statistics_of(tenant_id id) const noexcept { return tenants_[id].statistics(); }

  /// The same in a form whose `statistics()` may be called from any thread while the scheduler lives.
  const detail::tenant_state& tenant(tenant_id id) const noexcept { return tenants_[id]; }
  std::size_t tenants() const noexcept { return tenants_.size(); }

  // -- submissions
  // -----------------------------------------------------------------------------------------------------

  /// Takes a submission in: created -> pending. Preconditions: state `created`; `op_index` lies in the op set,
  /// `op_bytes` is that op's size; `op->check()` has passed. Node and descriptor stay where they are until the
  /// submission is done or, for the descriptor, committed.
  ///
  /// A submission may be refused: it is done then, and found in `take_settled`. Errors: `errc::tenant_removed`,
  /// `errc::evicted`, `errc::tenant_queue_full`, `errc::timed_out`; of a tenant that drops late work also
  /// `errc::deadline_passed` and `errc::deadline_unreachable`. A scheduler with nothing inside admits everything whose
  /// deadline lies ahead, so that a wrong prediction corrects itself.
  ///
  /// The last of a chain stands for the chain: its first is submitted, and whatever ends one of them early ends all
  /// with the same error. Each counts as a submission when its turn comes, and all meet one deadline.
  void submit(submission& whole, time_point now) {
    assert(whole.state == submission_state::created);
    submission& one = whole.in_chain() ? detail::first_of(whole) : whole;
    begin(one, now);
    detail::tenant_state* const known = tenants_.find(one.tenant);
    if (known == nullptr) [[unlikely]] {
      return refuse(one, errc::tenant_removed);
    }
    detail::tenant_state& tenant = *known;
    one.account = &tenant;
    if (stragglers_ != nullptr && !stragglers_->admits(one.op_index, one.tenant, now)) [[unlikely]] {
      return refuse(one, errc::evicted, tenant);
    }

    const std::int64_t at = detail::since_epoch(now);
    const std::int64_t usual = at + tenant.target_ns;
    const bool limited = one.expires != time_point::max();
    if (limited) {
      if (one.expires <= now) return refuse(one, errc::timed_out, tenant);
      one.deadline = std::min(one.deadline, one.expires);
    }
    const std::int64_t deadline = std::min(detail::since_epoch(one.deadline), usual);
    one.deadline = time_point{std::chrono::nanoseconds{deadline}};
    one.wanted = tenant.wants || deadline < usual;
    forecast_.assess(one, deadline);
    const detail::forecast::moment& moment = forecast_.moment_of(now);
    if (tenant.when_late == late_work::drop) {
      if (deadline <= at) return refuse(one, errc::deadline_passed, tenant);
      if (!idle()) {
        if (moment.begins > one.latest_start) return refuse(one, errc::deadline_unreachable, tenant);
        one.droppable = true;
      }
    }
    const bool full = tenant.pending >= tenant.queue_capacity;
    if (full && tenant.when_full == full_queue::reject) [[unlikely]] {
      return refuse(one, errc::tenant_queue_full, tenant);
    }

    const bool wait = full || tenant.aside.front() != nullptr;
    const bool leaves = one.droppable || limited;
    if (leaves) expiry_.reserve_one();
    detail::bucket* const home = wait ? nullptr : &queue_.home_of(one);  // nothing below allocates
    const double paid = tenants_.charge(tenant, one.charged_ns, static_cast<double>(at));
    one.turn.due = std::max(detail::share_of_time(one, at, deadline), static_cast<std::int64_t>(paid));
    if (deadline == usual) {  // predictions change, and must not make a tenant's submissions overtake each other
      one.turn.due = std::max(one.turn.due, tenant.last_due);
      tenant.last_due = one.turn.due;
    }
    if (!one.droppable && moment.begins > one.latest_start) put_behind(one, now);
    one.busy_before = moment.busy;
    if (wait) {
      one.next = nullptr;  // whoever brought it may have left it
      aside_.add(one);
    } else {
      queue_.add(one, *home);
      ++tenant.pending;
    }
    one.state = submission_state::pending;
    if (leaves) expiry_.add(one);
    count_in(one, now);
  }

  /// Ends a submission with `errc::cancelled`; the caller tells its waiter. What is pending leaves the queue. What is
  /// committed goes on in its packet without it: an orphan takes its place there, and its result is discarded; the
  /// descriptor is not needed, but what it points to is until the packet is complete (see `given_up`). False, and
  /// nothing changes, when it is not inside, or when there is no memory for an orphan: it completes as usual then.
  bool cancel(submission& one, time_point now) noexcept {
    if (one.in_chain()) return end_chain(one, errc::cancelled, now);
    if (one.state == submission_state::committed) return give_up(one, errc::cancelled);
    if (one.state != submission_state::pending) return false;
    end_pending(one, errc::cancelled, now);
    return true;
  }

  /// Ends what can no longer meet its deadline, where its tenant drops that, and what has reached its time limit,
  /// pending or committed (as `cancel`): it is found in `take_settled`. To be called when the time of `ask_again` has
  /// come, also while the backend has no room. Returns whether anything ended.
  bool expire(time_point now) noexcept {
    bool any = false;
    while (submission* const one = expiry_.front()) {
      if (one->latest_start >= detail::since_epoch(now)) break;
      any = true;
      if (one->expires > now) {
        drop(*one, now);
      } else {
        time_out(*one, now);
      }
    }
    return any;
  }

  /// Asks the policy, and when it says so forms one packet in `storage`; its members are committed under its sequence
  /// number. Empty: nothing to commit now (see `ask_again`). Call until empty while the backend has room, and look at
  /// `take_settled` after.
  ///
  /// \param storage aligned to 16 bytes; `packet_capacity` bytes, or less for smaller packets
  /// \param lead how long after `now` the packet will leave: the policy is told what will be in flight then, because a
  ///        packet that is begun when the device runs dry comes too late
  /// \param growth how many times as much work will be around when a burst is in that still goes on: ops are planned
  ///        for their share of the device then
  std::span<const std::byte> next(time_point now, std::span<std::byte> storage, std::chrono::nanoseconds lead = {},
                                  double growth = 1) {
    flights_.reserve_one();
    ask_again_.reset();
    expire(now);
    aside_.let_in(queue_, tenants_);
    if (held_count_ > 0) let_held_in();
    while (queue_.size() > 0) {
      const queue_view view = look(now + lead);
      const decision verdict = policy_.decide(view, now);
      if (!verdict.commit || verdict.max_submissions == 0) {
        ask_again_ = verdict.ask_again;
        break;
      }
      detail::flight& packet = flights_.forming();
      fill(packet, storage, verdict, detail::since_epoch(now + lead + view.ahead()), growth, now);
      // All that was looked at may have settled without a packet. The queue is shorter then: the policy sees it anew.
      if (packet.count > 0) return commit(packet, view, verdict.reason, now);
      if (held_count_ > 0) let_held_in();  // who had nothing to do may have been followed
    }
    return {};
  }

  /// A packet left the device: its members are done with `result`. Returns them linked by `next`, by record and within
  /// a record by urgency; null for a sequence number that is not in flight, and when all its members were given up.
  submission* complete(std::uint32_t sequence, const error_code& result, time_point now) noexcept {
    submission* const members = complete_unlearnt(sequence, result, now);
    learn();
    return members;
  }

  /// As `complete`, but `learn` is left to the caller, or to the next completion: it takes as long as a submission, for
  /// which there is a better time when members wait for `next`.
  submission* complete_unlearnt(std::uint32_t sequence, const error_code& result, time_point now) noexcept {
    detail::flight* const found = flights_.find(sequence);
    if (found == nullptr) return nullptr;
    const auto [began, measured, predicted] = forecast_.completed(*found, !result.failed(), now);
    submission* members = found->members.release();
    submissions_in_flight_ -= found->count;
    tiles_in_flight_ -= found->tiles;
    share_.gone(found->weight);
    const double measured_ns = result.failed() ? 0 : static_cast<double>(measured.count());
    const double share = found->records_ns > 0 ? measured_ns / found->records_ns : 0;
    const std::uint32_t missed = serve(members, share, measured_ns / found->count, result, now);
    statistics_.missed += missed;
    if constexpr (requires(const packet_outcome& outcome) { policy_.completed(outcome); }) {
      policy_.completed(packet_outcome{found->count, missed, measured});
    }
    if (stragglers_ != nullptr) {
      found->inform(*stragglers_, forecast_.model().overhead(), members, measured_ns, now);
    }
    if (observer_ != nullptr) {
      observer_->completed(packet_result{.sequence = sequence,
                                         .result = result,
                                         .committed = found->committed,
                                         .began = began,
                                         .ended = now,
                                         .predicted = detail::to_nanoseconds(predicted),
                                         .submissions = found->count,
                                         .missed = missed,
                                         .members = members,
                                         .service_scale = share});
    }
    if (found->orphans > 0) members = orphans_.without_orphans(members, found->orphans);
    if ((found->flags & packet_is_followed) != 0) members = ends_of_chains(members, now);
    flights_.remove(*found);
    if (found->orphans > 0) orphans_.count_complete(flights_);
    return members;
  }

  /// What complete packets teach of the device is learned, if it is not yet.
  void learn() noexcept {
    forecast_.learn();
    statistics_.prediction_error = forecast_.model().error();
  }

  /// As `complete`, for a packet that the backend did not take. When it was the newest, the next packet has its number
  /// again, because a backend wants numbers without gaps.
  submission* refuse(std::uint32_t sequence, error_code result, time_point now) noexcept {
    const std::size_t before = flights_.size();
    const time_point last_completion = forecast_.last_completion();
    submission* const members = complete(sequence, result, now);
    forecast_.put_back(last_completion);  // it never ran: the packets in flight did not wait for it
    if (flights_.size() < before && sequence == sequence_) {
      sequence_ = sequence_before_;
      --packets_;
    }
    return members;
  }

  /// Submissions that ended outside `cancel` and `complete` since the last call, linked by `next` in order: refused by
  /// `submit`, dropped, timed out, or finished by `next` with success when their op has no tiles and with
  /// `errc::op_too_large` when it would not fit an empty packet.
  submission* take_settled() noexcept { return settled_.release(); }

  /// Everything pending is done with `result`: linked by `next`, what is in the queue in order of arrival, then what
  /// waits before it by tenant. What is in flight stays there.
  submission* abort_pending(error_code result, time_point now) noexcept {
    detail::submission_chain all;
    const auto abort = [&](submission& one) {
      withdraw(one, result);
      if (submission* const told = detail::who_is_told(one)) all.push_back(*told);
      ++statistics_.aborted;
      if (observer_ != nullptr) observer_->ended(one, ending::aborted, now);
    };
    while (submission* const one = queue_.oldest()) abort(*one);
    while (submission* const one = held_.front()) abort(*one);
    for (tenant_id id = 0; aside_.size() > 0; ++id) {
      while (submission* const one = tenants_[id].aside.front()) abort(*one);
    }
    ask_again_.reset();
    return all.release();
  }

  /// When `next` or, with no room in the backend, `expire` is to be called even if nothing happens: because a policy
  /// that holds said so, or because something pending will have to be dropped.
  std::optional<time_point> ask_again() const noexcept {
    // A policy that holds has nobody to wait for when all have left by another way.
    const std::optional<time_point> held = pending() > 0 ? ask_again_ : std::nullopt;
    const std::optional<time_point> expiry = expiry_.due();
    if (!expiry) return held;
    return held ? std::min(*held, *expiry) : expiry;
  }

  /// Tells the policy that nothing more will be submitted (or takes it back). Call `next` after it.
  void drain_mode(bool draining) noexcept { draining_ = draining; }

  /// With those that wait before the queue. Of a chain at most one.
  std::size_t pending() const noexcept { return queue_.size() + aside_.size() + held_count_; }
  std::size_t packets_in_flight() const noexcept { return flights_.size(); }
  std::size_t submissions_in_flight() const noexcept { return submissions_in_flight_; }

  using given_up_work = cohort::given_up_work;

  /// What a descriptor of theirs points to is the device's while `orphans` is not 0.
  const given_up_work& given_up() const noexcept { return orphans_.given_up(); }

  /// Estimated device time until everything committed is complete.
  std::chrono::nanoseconds work_in_flight(time_point now) const noexcept { return forecast_.left(now); }

  /// Who is told of what happens from now on; null: nobody. It must outlive the scheduler.
  void observe(schedule_observer* observer) {
    if (observer != nullptr) observer->observing(ops_);
    observer_ = observer;
  }

  /// Who looks for stragglers, and may isolate and evict; null: nobody. Before the first submission. It must outlive
  /// the scheduler.
  void watch(straggler_watch* stragglers) {
    if (stragglers != nullptr) {
      stragglers->reserve_ops(ops_.size());
      stragglers->reserve_tenants(tenants_.size());
    }
    stragglers_ = stragglers;
  }

  const scheduler_statistics& statistics() const noexcept { return statistics_; }

  /// What was learned of the device.
  const latency_model& latencies() const noexcept { return forecast_.model(); }

  Policy& used_policy() noexcept { return policy_; }

private:
  static constexpr ordering order = detail::order_of<Policy>();

  enum class outcome : std::uint8_t { placed, settled, full };

  /// What the scheduler keeps of a submission, as of one that has just come.
  void begin(submission& one, time_point now) noexcept {
    assert(one.op_index < ops_.size() && (one.op_bytes + 15) / 16 * 16 == ops_[one.op_index].stride);
    one.id = statistics_.submitted + 1;
    one.arrived = now;
    one.sequence = one.after = 0;
    one.droppable = one.wanted = one.overdue = one.expiring = false;
    one.bucket = nullptr;
    one.previous = one.older = one.newer = nullptr;
  }

  void count_in(submission& one, time_point now) noexcept {
    share_.pending(one.weight);
    ++statistics_.submitted;
    ++one.account->counters.submitted;
    if (observer_ != nullptr) observer_->arrived(one, now);
  }

  bool idle() const noexcept { return flights_.empty() && pending() == 0; }

  queue_view look(time_point now) const noexcept {
    return {.pending = queue_.size(),
            .oldest_arrival = queue_.oldest()->arrived,
            .packets_in_flight = static_cast<std::uint32_t>(flights_.size()),
            .idle_workers =
                shape_.workers - static_cast<std::uint32_t>(std::min<std::uint64_t>(tiles_in_flight_, shape_.workers)),
            .key_in_flight = queue_.front()->fusable && flights_.has(queue_.front()->served_in),
            .work_in_flight = forecast_.left(now),
            .lead = forecast_.lead(),
            .round_trip = detail::to_nanoseconds(forecast_.model().lead() + forecast_.model().overhead()),
            .rates = rates_,
            .draining = draining_,
            .latest_start = time_point{std::chrono::nanoseconds{queue_.front()->turn.due}},
            .wanted = order == ordering::urgency && queue_.front()->members.front()->wanted};
  }

  /// Fills a packet from the buckets in their turn. One that stays empty has settled at least one submission.
  /// \param begins when it will run, in ns since the epoch
  void fill(detail::flight& packet, std::span<std::byte> storage, const decision& verdict, std::int64_t begins,
            double growth, time_point now) noexcept {
    const std::uint32_t budget = std::min(verdict.max_submissions, most_per_packet_);
    const auto max_work_ns = static_cast<double>(verdict.max_work.count());
    // Member by member: nvcc re-emits a list of some by position.
    static_cast<detail::flight_counts&>(packet) = detail::flight_counts();
    packet.sequence = detail::next_sequence(sequence_);
    packet.number = packets_ + 1;
    packet.committed = now;
    packet.work_ns = forecast_.model().overhead();
    packet.workers_per_weight = share_.rate(shape_.workers, growth);
    builder_.begin(storage, packet.sequence);
    if constexpr (order == ordering::urgency) {
      submission& oldest = *queue_.oldest();
      if (queue_.behind(oldest) > max_overtaken_) queue_.rerank(oldest, 0);
    }
    const bool plain = stragglers_ == nullptr && !tenants_.any_cap();
    const std::int64_t busy_until_now = forecast_.busy(now);
    const detail::bucket* served = nullptr;
    while (detail::bucket* const turn = queue_.front()) {
      outcome last = outcome::placed;
      const bool fuses = turn->fusable && turn->members.size() != 1;
      if (!plain || fuses || !place_alone(*turn->members.front(), packet, begins, busy_until_now, now)) {
        last = place(*turn, packet, budget - packet.count, begins, now);
      }
      if (last == outcome::placed) served = turn;
      // One with links of chains gains as long as it leaves any worker idle: what follows waits for its slowest tile
      // and not for the sum of them.
      const bool filled = packet.work_ns >= max_work_ns &&
                          (packet.chained ? 1ull : verdict.spread) * builder_.tiles() >= shape_.workers;
      const bool enough = packet.count == budget || filled;
      if (last != outcome::full && !enough) continue;
      // An emptied bucket has left the queue, and may be looked at: its memory is never given back.
      if (served == turn && !turn->members.empty()) queue_.to_back(*turn);
      break;
    }
  }

  /// Makes a record of the first member of the front bucket, as `place` would, where it is the only one or none of them
  /// fuse: where keys differ that is what most are. False, and nothing has changed, when it is not that simple: it may
  /// have to go elsewhere, there is no room, or thousands are pending. Nobody looks for stragglers, and no tenant has a
  /// cap.
  bool place_alone(submission& one, detail::flight& packet, std::int64_t begins, std::int64_t busy_until_now,
                   time_point now) noexcept {
    const std::int64_t starts = begins + static_cast<std::int64_t>(packet.work_ns - forecast_.model().overhead());
    if (!queue_.has_few()) return false;
    // It may have to be dropped, or to go behind.
    if (starts > one.latest_start && (one.droppable || (order == ordering::urgency && !one.overdue))) return false;
    const op_info& info = ops_[one.op_index];
    if (!builder_.has_room(info.stride)) return false;

    detail::lone_class& kind = packet.lone;
    if (one.op_index != kind.op || one.cost != kind.cost) {
      kind.op = one.op_index;
      kind.workers = detail::work_share::of(shape_.workers, one.weight, packet.workers_per_weight);
      kind.cost = one.cost;
      kind.roofline_ns = forecast_.model().roofline(one.cost);
    }
    const machine_shape part{.workers = kind.workers, .host = shape_.host};
    const std::uint32_t tiles = builder_.add_alone(one.op_index, one.op, one.op_bytes, info.stride, one.weight,
                                                   [&](void* copy) { return info.plan(copy, 1, part); });
    if (tiles == 0) [[unlikely]]
      return false;
    one.bucket->served_in = static_cast<std::uint16_t>(packet.sequence);
    queue_.remove_alone(one);
    packet.weight += one.weight;
    const double before = packet.records_ns;
    const double predicted = packet.add_record(forecast_.model(), builder_.records(), one.op_index, kind.roofline_ns);
    if (observer_ != nullptr && info.padding != nullptr) [[unlikely]] {
      packet.padding_ns += info.padding(builder_.newest(info.stride), 1, part) * (packet.records_ns - before);
    }
    packet.count += 1;
    detail::tally sums(packet, statistics_);
    account_member(packet, one, predicted, busy_until_now, now, sums);
    sums.keep(packet, statistics_);
    packet.members.push_back(one);
    return true;
  }

  /// Makes one record of the first members of a bucket.
  outcome place(detail::bucket& from, detail::flight& packet, std::uint32_t budget, std::int64_t begins,
                time_point now) noexcept {
    const std::int64_t starts = begins + static_cast<std::int64_t>(packet.work_ns - forecast_.model().overhead());
    if constexpr (order == ordering::urgency) {
      // Work that is late already has nothing to lose by waiting for what can still be in time.
      bool reordered = false;
      for (submission* first = from.members.front();
           starts > first->latest_start && !first->droppable && !first->overdue && first->turn.due > 0;
           first = from.members.front()) {
        put_behind(*first, now);
        queue_.rerank(*first, first->turn.due);
        reordered = true;
      }
      if (reordered && queue_.front() != &from) return outcome::settled;
    }
    const op_info& info = ops_[from.op_index];
    const std::uint32_t room = builder_.room(info.stride);
    if (room == 0) [[unlikely]] {
      if (builder_.records() > 0) return outcome::full;
      settle(*from.members.front(), errc::op_too_large, now);
      return outcome::settled;
    }
    std::uint64_t company = company_of(*from.members.front());
    if (packet.count > 0 && company != packet.company) return outcome::full;
    const std::uint32_t most = from.fusable ? std::min({room, max_members_, budget}) : 1;
    builder_.open(from.op_index, info.stride);
    detail::submission_chain taken;
    std::uint64_t rows = 0;
    double flops = 0;  // in double: sums of hostile costs must not wrap
    double bytes = 0;
    std::int64_t weight = 0;
    while (builder_.member_count() < most) {
      submission* const one = from.members.front();
      if (one == nullptr || (rows > 0 && rows + one->rows > max_fused_rows_)) break;
      if (stragglers_ != nullptr && company_of(*one) != company) {
        if (packet.count > 0 || builder_.member_count() > 0) break;
        company = company_of(*one);  // whoever came before it was dropped
      }
      const bool late = one->droppable && starts > one->latest_start;
      if (late || tenants_.over_cap(*one)) [[unlikely]] {
        if (late) {
          drop(*one, now, false);
        } else {
          set_aside(*one);
        }
        continue;
      }
      queue_.take(*one);
      __builtin_prefetch(one->account, 1);
      builder_.append(one->op, one->op_bytes);
      rows += one->rows;
      flops += static_cast<double>(one->cost.flops);
      // `op_cost` does not say how many of its bytes are shared weights, and the ops worth fusing are those whose
      // weights outweigh the rest: the largest member's bytes count once.
      bytes = std::max(bytes, static_cast<double>(one->cost.bytes));
      weight += one->weight;
      taken.push_back(*one);
    }
    const bool through = from.members.empty();
    if (through) {
      queue_.retire(from);
      queue_.prefetch_front();
    }

    const std::uint32_t count = builder_.member_count();
    const machine_shape part{.workers = detail::work_share::of(shape_.workers, weight, packet.workers_per_weight),
                             .host = shape_.host};
    const planned_tiles planned = count == 0 ? planned_tiles{} : info.plan(builder_.members(), count, part);
    const std::uint32_t tiles = planned.count;
    const bool told = observer_ != nullptr && info.padding != nullptr && tiles > 0;
    const double padding = told ? info.padding(builder_.members(), count, part) : 0;
    const bool closed = tiles > 0 && builder_.close(planned, weight);
    if (!closed) builder_.drop();
    if (tiles > 0 && !closed) [[unlikely]] {
      for (submission* one = taken.release(); one != nullptr;) {
        queue_.put_back(from, *std::exchange(one, std::exchange(one->next, nullptr)));
      }
      queue_.settle(from);
      return outcome::full;
    }
    queue_.settle(from);
    if (tiles == 0) [[unlikely]] {
      for (submission* one = taken.release(); one != nullptr;) {
        submission& idle = *std::exchange(one, one->next);
        gone(idle, {});
        ++statistics_.settled;
        if (observer_ != nullptr) observer_->ended(idle, ending::settled, now);
        if (idle.followers > 0) {
          follow(idle, idle.after, now);
        } else {
          settle_told(idle);
        }
      }
      return outcome::settled;
    }
    from.served_in = static_cast<std::uint16_t>(packet.sequence);
    packet.weight += weight;
    packet.company = company;
    if (through) {
      submission* const next = queue_.prefetch_company_of_front();
      if (next != nullptr && next->expiring) expiry_.prefetch(*next);
    }
    const double before = packet.records_ns;
    account(packet, from.op_index, forecast_.model().roofline(flops, bytes), count, taken, now);
    packet.padding_ns += padding * (packet.records_ns - before);
    return outcome::placed;
  }

  /// A record was closed: its members are committed.
  void account(detail::flight& packet, std::uint16_t op, double roofline, std::uint32_t count,
               detail::submission_chain& taken, time_point now) noexcept {
    const double predicted = packet.add_record(forecast_.model(), builder_.records(), op, roofline);
    packet.count += count;
    const double each = count == 1 ? predicted : predicted / count;
    const std::int64_t busy_until_now = forecast_.busy(now);
    if (count > 1) packet.fused += count;
    detail::tally sums(packet, statistics_);
    for (submission* one = taken.first; one != nullptr; one = one->next) {
      account_member(packet, *one, each, busy_until_now, now, sums);
    }
    sums.keep(packet, statistics_);
    packet.members.append(taken);
  }

  /// One is committed, as a member of the newest record. Inlined, or the sums would be in memory after all.
  [[gnu::always_inline]] void account_member(detail::flight& packet, submission& one, double predicted,
                                             std::int64_t busy_until_now, time_point now,
                                             detail::tally& sums) noexcept {
    detail::tenant_state& tenant = *one.account;
    if (one.expiring) expiry_.keep_limit(one);
    one.work_ns = predicted;
    one.state = submission_state::committed;
    one.sequence = packet.sequence;
    --tenant.pending;
    ++tenant.in_flight;
    tenant.in_flight_ns += predicted;
    if (tenant.aside.front() != nullptr) aside_.look_at(tenant);
    if (one.in_chain()) [[unlikely]]
      link(packet, one);
    sums.add(one, queue_.behind(one), busy_until_now, now);
  }

  /// A packet is complete: its members are done, and their tenants' accounts settled. Returns how many missed their
  /// deadlines. Not inlined: its sums want the registers.
  /// \param share service of a member in its predicted time, or 0: each has had `each_ns`
  [[gnu::noinline]] std::uint32_t serve(submission* members, double share, double each_ns, const error_code& result,
                                        time_point now) noexcept {
    std::uint32_t missed = 0;
    for (submission* one = members; one != nullptr;) {
      // Neighbours are mostly of one tenant, whose account is settled once for all of them.
      detail::tenant_state& tenant = *one->account;
      detail::service_of service(tenants_, tenant);
      std::size_t left = 0;
      std::uint64_t completed = 0;
      std::uint64_t late = 0;
      double in_flight_ns = tenant.in_flight_ns;
      do {
        service.add(one->charged_ns, share > 0 ? one->work_ns * share : each_ns);
        in_flight_ns -= one->work_ns;
        if (one->followers > 0) __builtin_prefetch(&one->follower->state);  // `ends_of_chains` will ask
        ++left;
        if (!one->orphan) {
          ++completed;
          if (now > one->deadline && one->followers == 0) ++late;
          if (one->expiring) expiry_.remove(*one);
          detail::finish(*one, one->in_chain() && one->result.failed() ? one->result : result);
        }
        one = one->next;
      } while (one != nullptr && one->account == &tenant);
      service.settle();
      tenant.in_flight -= left;
      tenant.in_flight_ns = tenant.in_flight > 0 ? in_flight_ns : 0;  // no rounding error lives for long
      tenant.counters.completed += completed;
      if (late > 0) tenant.counters.missed += late;
      missed += static_cast<std::uint32_t>(late);
      departed(tenant);
    }
    return missed;
  }

  std::span<const std::byte> commit(detail::flight& packet, const queue_view& before, commit_reason reason,
                                    time_point now) {
    const std::span<const std::byte> bytes = builder_.finish(packet.flags);
    sequence_before_ = std::exchange(sequence_, packet.sequence);
    packets_ = packet.number;
    flights_.push();
    submissions_in_flight_ += packet.count;
    packet.tiles = builder_.tiles();
    tiles_in_flight_ += packet.tiles;
    const std::chrono::nanoseconds work = detail::to_nanoseconds(packet.work_ns);
    forecast_.committed(work, now);

    statistics_.committed += packet.count;
    statistics_.fused += packet.fused;
    statistics_.waited += std::chrono::nanoseconds{packet.waited};
    statistics_.waited_hidden += std::chrono::nanoseconds{packet.waited_hidden};
    statistics_.packets += 1;
    statistics_.records += builder_.records();
    statistics_.tiles += builder_.tiles();
    statistics_.bytes += bytes.size();
    statistics_.packets_by_reason[std::min<std::size_t>(static_cast<std::size_t>(reason), commit_reasons - 1)] += 1;
    if (observer_ != nullptr) {
      observer_->formed(packet.report(reason, before, queue_.size(), builder_.records(), bytes.size(), work),
                        packet.members.first);
    }
    if ((packet.flags & packet_is_followed) != 0) [[unlikely]]
      let_follow(packet.members.first, packet.sequence, now);
    return bytes;
  }

  // -- stragglers
  // ------------------------------------------------------------------------------------------------------

  std::uint64_t company_of(const submission& one) const noexcept {
    return stragglers_ == nullptr ? 0 : stragglers_->company_of(one.op_index, one.tenant);
  }

  // -- ways out of the queue
  // -------------------------------------------------------------------------------------------

  void refuse(submission& one, errc why) noexcept {
    detail::finish(one, why);
    settle_told(one);
    ++statistics_.submitted;
    ++statistics_.refused;
    if (observer_ != nullptr) {
      observer_->arrived(one, one.arrived);
      observer_->ended(one, ending::refused, one.arrived);
    }
  }

  void refuse(submission& one, errc why, detail::tenant_state& tenant) noexcept {
    ++tenant.counters.submitted;
    ++tenant.counters.refused;
    refuse(one, why);
  }

  /// One that has ended is found in `take_settled`, or the last of its chain is, or nobody yet.
  void settle_told(submission& one) noexcept {
    if (submission* const told = detail::who_is_told(one)) settled_.push_back(*told);
  }

  /// Takes a pending one out that was cancelled or has timed out.
  void end_pending(submission& one, errc why, time_point now) noexcept {
    withdraw(one, why);
    const bool late = why == errc::timed_out;
    ++(late ? one.account->counters.timed_out : one.account->counters.cancelled);
    ++(late ? statistics_.timed_out : statistics_.cancelled);
    if (observer_ != nullptr) observer_->ended(one, late ? ending::timed_out : ending::cancelled, now);
  }

  void settle(submission& one, error_code result, time_point now) noexcept {
    withdraw(one, result);
    settle_told(one);
    ++statistics_.settled;
    if (observer_ != nullptr) observer_->ended(one, ending::settled, now);
  }

  void time_out(submission& one, time_point now) noexcept {
    if (one.state == submission_state::pending && !one.in_chain()) {
      end_pending(one, errc::timed_out, now);
      return settled_.push_back(one);
    }
    submission& last = detail::last_of(one);
    const bool ended = one.in_chain() ? end_chain(last, errc::timed_out, now) : give_up(one, errc::timed_out);
    if (ended) return settled_.push_back(last);
    expiry_.remove(one);  // or it would be asked for again
  }

  void drop(submission& one, time_point now, bool settle_bucket = true) noexcept {
    ++one.account->counters.dropped;
    withdraw(one, errc::dropped, settle_bucket);
    settle_told(one);
    ++statistics_.dropped;
    if (observer_ != nullptr) observer_->ended(one, ending::dropped, now);
  }

  /// Ends a pending submission, wherever it waits.
  void withdraw(submission& one, error_code result, bool settle_bucket = true) noexcept {
    if (one.state == submission_state::held) {
      release_held(one);
    } else if (one.bucket == nullptr) {
      aside_.remove(one);
      ++one.account->pending;  // `gone` counts it out
    } else if (settle_bucket) {
      queue_.remove(one);
    } else {
      queue_.take(one);
    }
    gone(one, result);
  }

  /// A pending submission has left the queue without service.
  void gone(submission& one, error_code result) noexcept {
    detail::tenant_state& tenant = *one.account;
    expiry_.remove(one);
    --tenant.pending;
    tenants_.refund(tenant, one.charged_ns);
    share_.gone(one.weight);
    departed(tenant);
    detail::finish(one, result);
  }

  void departed(detail::tenant_state& tenant) noexcept {
    tenants_.left(tenant);
    if (tenant.aside.front() != nullptr) aside_.look_at(tenant);
  }

  /// Due eight of its tenant's targets from now: behind all that can be in time, and not for ever.
  void put_behind(submission& one, time_point now) noexcept {
    one.overdue = true;
    const std::int64_t target = std::min(one.account->target_ns, detail::farthest_target_ns / 8);
    one.turn.due = std::max(one.turn.due, detail::since_epoch(now) + 8 * target);
  }

  // -- on the device without a waiter
  // ----------------------------------------------------------------------------------

  /// Ends a committed submission; an orphan takes its place in the packet. False: there is no memory for one.
  bool give_up(submission& one, errc why) noexcept {
    submission* const orphan = orphans_.take();
    if (orphan == nullptr) return false;
    expiry_.remove(one);
    detail::finish(one, why);
    orphans_.stand_in(*orphan, one, *flights_.find(one.sequence));
    detail::tenant_state& tenant = *one.account;
    ++(why == errc::timed_out ? tenant.counters.timed_out : tenant.counters.cancelled);
    ++statistics_.orphaned;
    return true;
  }

  // -- chains
  // ----------------------------------------------------------------------------------------------------------

  /// Packets that are formed of others before what follows the newest has its turn: its blocks would wait on the
  /// device.
  static constexpr std::int32_t held_for = 3;

  /// A packet holds one of a chain.
  [[gnu::noinline]] void link(detail::flight& packet, const submission& one) noexcept {
    packet.chained = true;
    if (one.followers > 0) {
      packet.flags |= packet_is_followed;
      detail::prefetch(*one.follower);  // it comes in when the packet is formed
    }
    if (one.after == 0) return;
    const detail::flight* const before = flights_.find(one.after);
    if (before == nullptr) return;
    builder_.come_after(1u << std::min<std::uint64_t>(packet.number - before->number - 1, 31));
  }

  /// A packet was committed: takes in what follows its members.
  [[gnu::noinline]] void let_follow(submission* members, std::uint32_t sequence, time_point now) noexcept {
    for (submission* one = members; one != nullptr; one = one->next) {
      if (one->followers > 0) follow(*one, sequence, now);
    }
  }

  /// created -> held, of what follows one that is in packet `after` or had nothing to do. It was admitted with its
  /// chain: nothing refuses it.
  void follow(submission& before, std::uint32_t after, time_point now) noexcept {
    submission& one = *before.follower;
    detail::take_turn(one, before);
    begin(one, now);
    detail::prefetch_descriptor(one);  // to be copied soon
    one.after = after;
    one.account = before.account;
    one.wanted = before.wanted;
    const bool limited = one.expires != time_point::max();
    one.droppable = one.account->when_late == late_work::drop;
    try {
      if (limited || one.droppable) expiry_.reserve_one();
    } catch (const std::bad_alloc&) {
      detail::finish(one, errc::out_of_memory);
      return settle_told(one);
    }
    const std::int64_t deadline = detail::since_epoch(one.deadline);
    const std::int64_t at = detail::since_epoch(now);
    forecast_.assess(one, deadline);
    const double paid = tenants_.charge(*one.account, one.charged_ns, static_cast<double>(at));
    one.turn.due = std::max(detail::share_of_time(one, at, deadline), static_cast<std::int64_t>(paid));
    const detail::forecast::moment& moment = forecast_.moment_of(now);
    if (!one.droppable && moment.begins > one.latest_start) put_behind(one, now);
    one.busy_before = moment.busy;
    one.state = submission_state::held;
    held_.push_back(one);
    ++held_count_;
    ++one.account->pending;
    if (limited || one.droppable) expiry_.add(one);
    count_in(one, now);
  }

  /// held -> pending, of those for whom others have gone first, and of the next few when there are no others.
  [[gnu::noinline]] void let_held_in() {
    const std::uint32_t next = queue_.size() == 0 ? held_.front()->after : 0;
    while (submission* const one = held_.front()) {
      const bool newly = one->after != 0 && static_cast<std::int32_t>(sequence_ - one->after) < held_for;
      if (newly && one->after != next && flights_.find(one->after) != nullptr) break;
      detail::bucket& home = queue_.home_of(*one);
      release_held(*one);
      one->state = submission_state::pending;
      queue_.add(*one, home);
    }
  }

  void release_held(submission& one) noexcept {
    held_.erase(one);
    --held_count_;
  }

  /// Ends a chain that is inside, all of it: what is on the device is given up, what waits leaves. False, and it goes
  /// on, when nothing of it is inside or there is no memory for orphans. The caller tells the last.
  bool end_chain(submission& last, errc why, time_point now) noexcept {
    submission* waiting = nullptr;
    bool inside = false;
    for (submission* one = last.follower;; one = one->follower) {
      if (one->state == submission_state::committed) {
        if (!give_up(*one, why)) return false;
        inside = true;
      } else if (one->state == submission_state::held || one->state == submission_state::pending) {
        waiting = one;
      }
      if (one == &last) break;
    }
    if (waiting != nullptr) end_pending(*waiting, why, now);
    if (waiting == nullptr && !inside) return false;
    detail::finish(last, why);
    return true;
  }

  /// A packet is complete: of `members`, links of chains among them, those who are told, or for whom others are.
  [[gnu::noinline]] submission* ends_of_chains(submission* members, time_point now) noexcept {
    detail::submission_chain told;
    while (members != nullptr) {
      submission& one = *std::exchange(members, members->next);
      submission* const next = one.followers == 0 ? &one : detail::one_that_follows(one);
      if (next == &one) {
        told.push_back(one);
      } else if (next->state == submission_state::done) {  // the last, which had nothing to do or was ended early
        if (one.result.failed() && !next->result.failed()) next->result = one.result;
        told.push_back(*next);
      } else if (!one.result.failed()) {
        continue;
      } else if (next->state == submission_state::committed) {
        next->result = one.result;
      } else {
        withdraw(*next, one.result);
        ++statistics_.aborted;
        if (observer_ != nullptr) observer_->ended(*next, ending::aborted, now);
        if (submission* const last = detail::who_is_told(*next)) told.push_back(*last);
      }
    }
    return told.release();
  }

  // -- before the queue
  // ------------------------------------------------------------------------------------------------

  void set_aside(submission& one) noexcept {
    queue_.take(one);
    --one.account->pending;
    aside_.add(one);
  }

  std::span<const op_info> ops_;
  machine_shape shape_;
  device_rates rates_;
  std::uint32_t max_fused_rows_;
  std::uint32_t max_members_;
  std::uint32_t most_per_packet_;
  std::uint64_t max_overtaken_;
  Policy policy_;
  detail::coalescer queue_;
  detail::expiry expiry_;
  detail::tenant_table tenants_;
  detail::waiting_room aside_;
  detail::orphans orphans_;
  packet_builder builder_;
  detail::forecast forecast_;
  detail::work_share share_;
  detail::flight_table flights_;
  detail::submission_chain settled_;
  std::uint32_t sequence_ = 0;  // of the newest packet
  std::uint32_t sequence_before_ = 0;
  std::uint64_t packets_ = 0;  // committed, and not refused
  std::size_t submissions_in_flight_ = 0;
  std::uint64_t tiles_in_flight_ = 0;
  detail::intrusive_list<submission, &submission::older, &submission::newer> held_;  // in the order of their packets
  std::size_t held_count_ = 0;
  std::optional<time_point> ask_again_{};
  bool draining_ = false;
  schedule_observer* observer_ = nullptr;
  straggler_watch* stragglers_ = nullptr;
  scheduler_statistics statistics_{};
};

}  // namespace cohort::inline COHORT_ABI

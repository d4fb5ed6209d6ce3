// The engine of an executor: inbox, scheduler and backend, and the loop that joins them. It knows neither coroutines
// nor Asio: finished waiters leave through a function pointer. One owner at a time runs `step`: the poller thread, or
// the caller.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/at_exit.hpp>
#include <cohort/detail/burst_wave.hpp>
#include <cohort/detail/cpu.hpp>
#include <cohort/detail/inbox.hpp>
#include <cohort/detail/waiter.hpp>
#include <cohort/error.hpp>
#include <cohort/schedule/intrusive_list.hpp>
#include <cohort/schedule/packet.hpp>
#include <cohort/schedule/scheduler.hpp>
#include <cohort/schedule/tenant_table.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI::detail {

template <policy Policy>
class engine {
public:
  /// Where finished waiters go: a list linked by `next`. Called by the owner.
  using deliver_function = void (*)(void* target, submission* finished);

  engine(std::unique_ptr<backend> device, const scheduler_options& options, Policy policy, std::size_t capacity,
         deliver_function deliver, void* target)
      : capacity_(capacity),
        device_(std::move(device)),
        scheduler_(device_->ops(), device_->shape(), device_->rates(), options, std::move(policy)),
        wave_(device_->shape()),
        needs_polling_(device_->needs_polling()),
        deliver_(deliver),
        target_(target) {
    device_->on_completion([](void* self) { static_cast<engine*>(self)->notice_completion(); }, this);
  }

  ~engine() { assert(outstanding_.load(std::memory_order_relaxed) == 0); }  // relaxed: every other user is gone
  engine(const engine&) = delete;
  engine& operator=(const engine&) = delete;

  // -- any thread
  // ---------------------------------------------------------------------------------------------------------

  /// Takes a waiter in; true: it will be delivered once. False: it is done already, `result` says why, nobody will be
  /// told.
  bool submit(waiter& one) noexcept {
    // relaxed: this thread finds its own id only if it wrote it itself, in the step that is running it.
    const bool owner_submits = owner_.load(std::memory_order_relaxed) == std::this_thread::get_id();
    if (owner_submits && places_ > 0) {
      --places_;
    } else if (outstanding_.fetch_add(1, std::memory_order_seq_cst) >= capacity_) {
      // seq_cst, as the load of stopping_ and the owner's two accesses in the other order: either the owner sees this
      // one outstanding and waits for its arrival, or this thread sees that the engine stops.
      return reject(one, errc::queue_full);
    }
    if (stopping_.load(std::memory_order_seq_cst)) return reject(one, errc::stopped);
    if (one.cancellable) {
      // acq_rel: a cancellation before this point is seen here; one after it sees the waiter as written so far.
      const auto before = one.phase.fetch_or(waiter::submitted, std::memory_order_acq_rel);
      if ((before & waiter::cancel_asked) != 0) return reject(one, errc::cancelled);
    }
    if (owner_submits) {
      local_.push_back(one);
      if (wave_.is_wave_with_one_more()) take_wave();
    } else {
      inbox_.push(one.arrival);  // the waiter may be gone after this
    }
    return true;
  }

  /// Asks to withdraw a waiter that was or will be submitted. It still completes through its delivery, which does not
  /// wait for the device any more.
  void cancel(waiter& one) noexcept {
    // acq_rel: pairs with the same in submit and finish, so that exactly one side knows that a message is due.
    const auto before = one.phase.fetch_or(waiter::cancel_asked, std::memory_order_acq_rel);
    if ((before & waiter::submitted) != 0 && (before & (waiter::closed | waiter::cancel_asked)) == 0) {
      one.cancellation.sender = &one;
      one.cancellation.what = message::cancellation;
      inbox_.push(one.cancellation);  // the waiter may be gone after this
    }
  }

  /// From now on submissions are refused; what is pending is told `errc::stopped`; what is committed completes.
  void request_stop() noexcept {
    stopping_.store(true, std::memory_order_seq_cst);  // seq_cst: see submit
    wake();
  }

  bool stopping() const noexcept {
    return stopping_.load(std::memory_order_acquire);
  }  // acquire: pairs with request_stop

  /// Accepted submissions that were not delivered yet, or that were given up and are still on the device. Acquire:
  /// their deliveries, and what the device did, happened before a zero.
  std::size_t outstanding() const noexcept { return outstanding_.load(std::memory_order_acquire); }

  /// Blocks until nothing is outstanding. Not from the owner.
  void wait_until_idle() const noexcept {
    for (auto left = outstanding(); left != 0; left = outstanding()) {
      outstanding_.wait(left, std::memory_order_acquire);  // acquire: as in outstanding()
    }
  }

  /// Asks the owner to drain the device and leave it, or to come back. `paused` says when it has.
  void request_pause(bool pause) noexcept {
    pause_asked_.store(pause, std::memory_order_release);  // release: pairs with the owner's acquire in step
    wake();
  }

  bool paused() const noexcept {
    return paused_.load(std::memory_order_acquire);
  }  // acquire: the device was left before

  void wait_until_paused() const noexcept {
    paused_.wait(false, std::memory_order_acquire);
  }  // acquire: as in paused()

  /// How the last attempt to leave the device ended. Valid while paused.
  error_code pause_result() const noexcept { return pause_result_; }

  /// Adds a tenant or changes its options, before any submission that is handed in after this call.
  void set_tenant(tenant_id id, const tenant_options& options) { change_tenant(id, options); }

  /// Refuses what the tenant hands in after this call.
  void remove_tenant(tenant_id id) { change_tenant(id, std::nullopt); }

  /// Counters of a tenant; zeros until the owner has seen it.
  tenant_statistics statistics_of(tenant_id id) const {
    std::lock_guard lock(tenants_mutex_);
    return id < tenants_.size() && tenants_[id] != nullptr ? tenants_[id]->statistics() : tenant_statistics{};
  }

  scheduler_statistics statistics() const {
    std::lock_guard lock(statistics_mutex_);
    return statistics_;
  }

  std::vector<latency_report> latencies() const { return scheduler_.latencies().report(device_->ops()); }

  backend& device() noexcept { return *device_; }

  // -- before the first step
  // ----------------------------------------------------------------------------------------------

  /// Deliveries run waiters inside `step`.
  void deliver_inline(bool value) noexcept { inline_delivery_ = value; }

  /// Who is told of what happens, and who looks for stragglers; null: nobody.
  void observe(schedule_observer* observer, straggler_watch* stragglers) {
    scheduler_.observe(observer);
    scheduler_.watch(stragglers);
    if (observer != nullptr && observer->times_decisions()) decisions_ = observer;
  }

  /// Marks the thread that owns the engine: what it submits takes the plain local list. Each `step` does it for its
  /// time; a thread that is the owner for good does it once, and spares submitters a line that changes with each step.
  class owning {
  public:
    // relaxed, all: only the same thread ever finds its own id here (see submit).
    explicit owning(engine& e) noexcept
        : engine_(e), first_(e.owner_.load(std::memory_order_relaxed) != std::this_thread::get_id()) {
      if (first_) e.owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    }
    ~owning() {
      if (first_) engine_.owner_.store(std::thread::id{}, std::memory_order_relaxed);
    }
    owning(const owning&) = delete;
    owning& operator=(const owning&) = delete;

  private:
    engine& engine_;
    bool first_;
  };

  // -- owner
  // --------------------------------------------------------------------------------------------------------------

  /// Takes messages and completions in, commits what the policy wants committed, delivers what is finished. Never
  /// blocks. Returns whether anything happened.
  bool step() {
    const owning inside(*this);
    const time_point now = clock::now();
    bool moved = take_messages(now);
    if (needs_polling_ ? scheduler_.packets_in_flight() > 0 : std::exchange(completion_seen_, false)) {
      moved |= take_completions(now);
    }
    if (scheduler_.expire(now)) moved = true;  // also while the device is busy or takes no packet
    finish_all(scheduler_.take_settled());
    const bool pause = pause_asked_.load(std::memory_order_acquire);  // acquire: pairs with request_pause
    bool committed = false;
    if (!pause) {
      if (paused_.load(std::memory_order_relaxed)) set_paused(false);  // relaxed: only the owner writes it
      committed = commit(now, wave_.burst_is_over());
      moved |= committed;
    } else if (scheduler_.packets_in_flight() == 0 && !paused_.load(std::memory_order_relaxed)) {  // relaxed: as above
      pause_result_ = device_->pause();
      set_paused(true);
      moved = true;
    }
    moved |= deliver();
    // Not while those who were just told, and have submitted again, wait for their packet.
    if (committed || local_.first == nullptr) scheduler_.learn();
    if (moved) looks_ = 0;
    return moved;
  }

  /// Blocks while there is nothing to do. Returns at once while a device needs polling.
  void rest() noexcept {
    if (needs_polling_ && scheduler_.packets_in_flight() > 0) {
      // Most packets are complete within some 20 us, which is about as many looks; half a microsecond in the system for
      // each of them would come on top of the round trip. Also where this process has one core alone: who is waited for
      // is no thread, and whoever else wants the core gets it soon.
      if (looks_ < 256) {
        ++looks_;
        spin_pause();
      } else {
        std::this_thread::yield();
      }
      return;
    }
    if (local_.first != nullptr) return;
    if (std::exchange(delivered_, false) && await_answer()) return;
    inbox_.sleep(scheduler_.ask_again().value_or(time_point::max()));
  }

  /// Wakes the owner so that it looks at the flags. Any thread.
  void wake() noexcept {
    // acq_rel: a request that finds the link in use is seen by the owner, which clears the mark before it looks at the
    // flags.
    if (!control_sent_.exchange(true, std::memory_order_acq_rel)) inbox_.push(control_);
  }

private:
  void change_tenant(tenant_id id, std::optional<tenant_options> options) {
    {
      std::lock_guard lock(tenants_mutex_);
      tenant_changes_.emplace_back(id, std::move(options));
    }
    tenants_changed_.store(true, std::memory_order_release);  // release: pairs with the owner's look at it
    wake();                                                   // what waits for room may find some
  }

  bool reject(waiter& one, errc why) noexcept {
    one.result = why;
    one.state = submission_state::done;
    leave(1);
    return false;
  }

  /// Counts deliveries out and tells who waits for idleness.
  void leave(std::size_t count) noexcept {
    if (count == 0) return;
    // release: what was delivered happened before a zero that wait_until_idle sees; seq_cst includes it, see submit.
    if (outstanding_.fetch_sub(count, std::memory_order_seq_cst) == count) outstanding_.notify_all();
  }

  /// What is given up counts as outstanding twice at most, while its waiter is on its way, and once until its packet is
  /// complete. Returns how many of `ready` and of those that the device has left are to be counted out.
  std::size_t account_given_up(std::size_t ready) noexcept {
    const auto now = scheduler_.given_up();
    if (now == given_up_) return ready;
    device_->given_up(now.packets, now.complete);  // before anybody is told, who then may give memory back
    const std::size_t before = std::exchange(given_up_, now).orphans;
    if (before + ready >= now.orphans) return before + ready - now.orphans;
    // relaxed: it only grows here, while submissions are outstanding that keep it from being zero.
    outstanding_.fetch_add(now.orphans - before - ready, std::memory_order_relaxed);
    return 0;
  }

  void notice_completion() noexcept {
    // acq_rel: a completion that finds the link in use was stored before the owner clears the mark and looks.
    if (!completion_sent_.exchange(true, std::memory_order_acq_rel)) inbox_.push(completion_);
  }

  bool take_messages(time_point now) {
    bool any = false;
    // The inbox is emptied before the tenants are looked at: whoever submitted for a new tenant had set it before.
    inbox_link* link = inbox_.take();
    // acquire: pairs with set_tenant. A change that comes after the exchange sets the mark again.
    if (tenants_changed_.load(std::memory_order_acquire) &&
        tenants_changed_.exchange(false, std::memory_order_acquire)) {
      take_tenants();
    }
    any |= take_local(now);
    for (; link != nullptr; any = true) {
      const inbox_link& current = *std::exchange(link, link->next);
      // Another thread has written it: all its lines are fetched together, while this one's work is done.
      if (link != nullptr && link->what == message::arrival) prefetch(*link->sender);
      switch (current.what) {
        case message::arrival:
          arrive(*current.sender, now);
          if (wave_.is_wave_with_one_more()) commit_early(now);
          break;
        case message::cancellation: withdraw(*current.sender, now); break;
        case message::completion:
          completion_sent_.exchange(false, std::memory_order_acq_rel);  // acq_rel: see notice_completion
          completion_seen_ = true;
          break;
        case message::control: control_sent_.exchange(false, std::memory_order_acq_rel); break;  // acq_rel: see wake
      }
    }
    if (stopping_.load(std::memory_order_seq_cst) && scheduler_.pending() > 0) {  // seq_cst: see submit
      finish_all(scheduler_.abort_pending(errc::stopped, now));
      any = true;
    }
    return any;
  }

  bool take_local(time_point now) {
    submission* list = local_.release();
    const bool any = list != nullptr;
    while (list != nullptr) arrive(static_cast<waiter&>(*std::exchange(list, list->next)), now);
    return any;
  }

  /// In the middle of a delivery: those that are told submit again, and the device need not wait until all have. Nobody
  /// is told from here; what ends without a packet is delivered by the next step.
  [[gnu::noinline]] void take_wave() noexcept {
    const time_point now = clock::now();
    // acquire: as in take_messages, whose order it keeps: tenants before those who submit for them
    if (tenants_changed_.load(std::memory_order_acquire)) return;
    take_local(now);
    commit_early(now);
  }

  void commit_early(time_point now) noexcept {
    if (pause_asked_.load(std::memory_order_acquire)) return;  // acquire: pairs with request_pause
    // What is complete now must not count as in flight, nor as having taken until the whole burst was in.
    if (needs_polling_ && scheduler_.packets_in_flight() > 0) take_completions(now);
    try {
      commit(now, false, wave_.growth());
    } catch (const std::bad_alloc&) {
      // Nothing has changed; the step that comes tries again, and tells its caller.
    }
  }

  void take_tenants() {
    std::lock_guard lock(tenants_mutex_);
    for (const auto& [id, options] : tenant_changes_) {
      if (!options) {
        scheduler_.remove_tenant(id);
        continue;
      }
      scheduler_.set_tenant(id, *options);
      if (id >= tenants_.size()) tenants_.resize(id + 1);
      tenants_[id] = &scheduler_.tenant(id);
    }
    tenant_changes_.clear();
  }

  void arrive(waiter& one, time_point now) {
    if (one.cancel_received) return finish(one, errc::cancelled);
    if (stopping_.load(std::memory_order_seq_cst)) return finish(one, errc::stopped);  // seq_cst: see submit
    try {
      scheduler_.submit(one, now);
      // At once: a cancellation in the next message must find it passed on.
      if (one.state == submission_state::done) finish_all(scheduler_.take_settled());
    } catch (const std::bad_alloc&) {
      finish(one, errc::out_of_memory);
    }
  }

  void withdraw(waiter& one, time_point now) noexcept {
    one.cancel_received = true;
    if (one.state == submission_state::done) {
      pass_on(one);  // it was finished, and waited for this message only
    } else if (scheduler_.cancel(one, now)) {
      close(one);
    }
  }

  bool take_completions(time_point now) noexcept {
    bool any = false;
    for (std::size_t count = completions_.size(); count == completions_.size();) {
      count = device_->poll(completions_);
      for (std::size_t i = 0; i < count; ++i) {
        finish_all(scheduler_.complete_unlearnt(completions_[i].sequence, completions_[i].result, now));
      }
      any |= count > 0;
    }
    return any;
  }

  /// \param rest of a burst, a part of which has left. It would have left with that part, had the device been given the
  ///        time, so it is not held: the policy is asked as if what is in flight were done.
  /// \param growth as for `scheduler::next`
  bool commit(time_point now, bool rest, double growth = 1) {
    bool any = false;
    while (scheduler_.pending() > 0 && device_->has_room()) {
      const std::size_t flying = scheduler_.submissions_in_flight();
      const std::span<const std::byte> packet = next_packet(now, rest, growth);
      finish_all(scheduler_.take_settled());
      if (packet.empty()) break;
      const auto& header = *reinterpret_cast<const packet_header*>(packet.data());
      wave_.learn(scheduler_.submissions_in_flight() - flying, header.records, header.tiles);
      if (const error_code refused = device_->commit(packet)) {
        finish_all(scheduler_.refuse(header.sequence, refused, now));
      }
      any = true;
    }
    if (any) {
      std::lock_guard lock(statistics_mutex_);
      statistics_ = scheduler_.statistics();
    }
    return any;
  }

  std::span<const std::byte> next_packet(time_point now, bool rest, double growth) {
    std::chrono::nanoseconds lead = std::min(scheduler_.pending(), packet_capacity / std::size_t{64}) * forming_time;
    if (rest) lead = std::max(lead, scheduler_.work_in_flight(now));
    if (decisions_ == nullptr) return scheduler_.next(now, storage_, lead, growth);
    const time_point before = clock::now();
    const std::span<const std::byte> packet = scheduler_.next(now, storage_, lead, growth);
    decisions_->decided(clock::now() - before);
    return packet;
  }

  /// After a delivery: whoever was told often submits again within microseconds, and being woken costs more than
  /// looking out for it. True when a message came. Not while a device works that takes this machine's cores.
  bool await_answer() const noexcept {
    if (cores_ < 2 || scheduler_.packets_in_flight() > 0) return false;
    return look_out([this] { return !inbox_.empty(); });
  }

  bool deliver() {
    const std::size_t count = account_given_up(std::exchange(ready_count_, 0));
    submission* const finished = ready_.release();
    if (finished == nullptr && count == 0) return false;
    // Those who are told here often submit again at once. They take the places of those that are done, so that the
    // queue has room for them and an atomic count is touched once for all; what they leave is counted out at the end.
    if (inline_delivery_) places_ = count;
    const auto done = at_exit([&]() noexcept { leave(inline_delivery_ ? std::exchange(places_, 0) : count); });
    if (finished != nullptr) {
      delivered_ = !inline_delivery_;
      deliver_(target_, finished);
    }
    return true;
  }

  void finish(waiter& one, errc why) noexcept {
    one.state = submission_state::done;
    one.result = why;
    close(one);
  }

  void finish_all(submission* list) noexcept {
    while (list != nullptr) {
      // Those whom nobody can cancel are passed on as they are linked.
      submission_chain chain{list, nullptr};
      for (; list != nullptr && !static_cast<waiter*>(list)->cancellable; list = list->next) {
        chain.last = list;
        ++ready_count_;
      }
      if (chain.last != nullptr) {
        chain.last->next = nullptr;
        ready_.append(chain);
      }
      if (list != nullptr) close(static_cast<waiter&>(*std::exchange(list, list->next)));
    }
  }

  /// Ends the time in which other threads may ask for cancellation, and passes the waiter on unless one of them has
  /// asked and its message is still on the way.
  void close(waiter& one) noexcept {
    if (one.cancellable && !one.cancel_received) {
      // acq_rel: pairs with cancel
      if ((one.phase.fetch_or(waiter::closed, std::memory_order_acq_rel) & waiter::cancel_asked) != 0) return;
    }
    pass_on(one);
  }

  void pass_on(waiter& one) noexcept {
    ready_.push_back(one);
    ++ready_count_;
  }

  void set_paused(bool value) noexcept {
    paused_.store(value, std::memory_order_release);  // release: the device was left before
    paused_.notify_all();
  }

  /// What a submission adds to the time until its packet leaves, on a core of today.
  static constexpr std::chrono::nanoseconds forming_time{40};

  // The inbox outlives the backend, whose threads push to it until the backend is destroyed.
  inbox inbox_;
  inbox_link completion_{.next = nullptr, .sender = nullptr, .what = message::completion};
  inbox_link control_{.next = nullptr, .sender = nullptr, .what = message::control};
  std::atomic<bool> completion_sent_{false};
  std::atomic<bool> control_sent_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> pause_asked_{false};
  std::atomic<bool> paused_{false};
  std::atomic<std::thread::id> owner_{};
  const std::size_t capacity_;
  // On lines of its own: submitters and the owner both write it, while all around it is written seldom.
  alignas(64) std::atomic<std::size_t> outstanding_{0};
  alignas(64) std::unique_ptr<backend> device_;
  scheduler<Policy> scheduler_;
  schedule_observer* decisions_ = nullptr;  // wants to know how long each decision takes
  submission_chain local_;                  // submitted by the owner itself
  submission_chain ready_;
  std::array<packet_completion, 16> completions_{};  // of one look, whose contents nobody needs after it
  burst_wave wave_;
  bool needs_polling_;
  std::size_t ready_count_ = 0;
  std::size_t places_ = 0;  // still counted in outstanding_, and free for what the owner submits while it delivers
  typename scheduler<Policy>::given_up_work given_up_{};  // as the device was told
  bool completion_seen_ = false;
  bool inline_delivery_ = false;
  bool delivered_ = false;  // to other threads, since the last rest
  unsigned looks_ = 0;      // in vain, since anything happened
  unsigned cores_ = usable_cores();
  deliver_function deliver_;
  void* target_;
  error_code pause_result_{};
  mutable std::mutex tenants_mutex_;
  std::vector<std::pair<tenant_id, std::optional<tenant_options>>> tenant_changes_;  // guarded by tenants_mutex_
  std::vector<const tenant_state*> tenants_{&scheduler_.tenant(0)};                  // guarded by tenants_mutex_
  std::atomic<bool> tenants_changed_{false};
  mutable std::mutex statistics_mutex_;
  scheduler_statistics statistics_{};  // guarded by statistics_mutex_
  alignas(128) std::array<std::byte, packet_capacity> storage_;
};

}  // namespace cohort::inline COHORT_ABI::detail

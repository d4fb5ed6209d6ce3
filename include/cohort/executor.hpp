// The executor: where coroutines and Asio meet the device. It owns a backend, drives the engine on a thread of its own
// or in the caller's loop, and resumes whoever waited.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/chain.hpp>
#include <cohort/clock.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/async_submission.hpp>
#include <cohort/detail/at_exit.hpp>
#include <cohort/detail/cpu.hpp>
#include <cohort/detail/delivery.hpp>
#include <cohort/detail/engine.hpp>
#include <cohort/detail/request.hpp>
#include <cohort/detail/start.hpp>
#include <cohort/detail/submit_awaiter.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/observer.hpp>
#include <cohort/schedule/policy.hpp>
#include <cohort/schedule/scheduler.hpp>
#include <cohort/schedule/straggler_watch.hpp>
#include <cohort/task.hpp>
#include <cohort/tenant.hpp>

#include <boost/asio/async_result.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/throw_exception.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// Who runs the executor's loop.
enum class drive : std::uint8_t {
  thread,  ///< a poller thread of its own; coroutines continue on the Asio executor
  caller,  ///< whoever calls `poll`, `run` or `run_until_idle`; coroutines continue inside that call: the least latency
};

/// Set once, at construction.
struct executor_options {
  drive driven_by = drive::thread;
  /// Submissions accepted and not yet delivered, and those that were cancelled and are still on the device: one more is
  /// told `errc::queue_full`.
  std::size_t capacity = 65'536;
  scheduler_options scheduling{};  ///< what may be coalesced, and how much of it
  /// Told of what happens, on the thread that drives; must not block. Both outlive the executor; null: nobody.
  schedule_observer* observer = nullptr;
  straggler_watch* stragglers = nullptr;  ///< finds ops and tenants that have become slow
};

/// Schedules ops of the set `Ops` on one device.
///
/// \tparam Ops          an `op_set`; the backend must have been made for the same set
/// \tparam AsioExecutor a concrete Asio executor type, on which coroutines continue under `drive::thread`
/// \tparam Policy       decides when pending work is committed
///
/// Thread-safety: all functions from any thread, `pause` by one at a time. Under `drive::caller` the functions that
/// drive
/// (`poll`, `run`, `run_until_idle`, `drain`, `pause`, the destructor) from one thread at a time. Buffers that an op
/// names must live, and must not be touched, until its submission has completed; after one that was cancelled, see
/// `buffer`.
template <class Ops, class AsioExecutor = boost::asio::io_context::executor_type, policy Policy = late_binding>
class executor {
  using engine_type = detail::engine<Policy>;

public:
  using ops = Ops;
  using executor_type = AsioExecutor;
  using tenant_type = tenant<executor>;

  /// \throws system_error errc::shape_mismatch when `device` was made for another op set; std::invalid_argument when
  /// null.
  executor(AsioExecutor asio_executor, std::unique_ptr<backend> device, executor_options options = {},
           Policy policy = {})
      : asio_executor_(std::move(asio_executor)),
        options_(options),
        engine_(checked(std::move(device)), options.scheduling, std::move(policy), options.capacity, &executor::deliver,
                this) {
    tenants_.emplace_back();
    engine_.observe(options.observer, options.stragglers);
    engine_.deliver_inline(options.driven_by == drive::caller);
    // Not where a device works on the cores that would wait.
    if (options.driven_by == drive::thread && engine_.device().needs_polling() && detail::usable_cores() > 1) {
      meeting_ = std::make_shared<detail::meeting_point>();
    }
    if (options.driven_by == drive::thread) poller_ = std::thread([this] { poll_until_stopped(); });
  }

  /// Takes an execution context (`io_context`, `thread_pool`) in place of its executor.
  template <class Context>
    requires std::derived_from<Context, boost::asio::execution_context> &&
             std::same_as<typename Context::executor_type, AsioExecutor>
  executor(Context& context, std::unique_ptr<backend> device, executor_options options = {}, Policy policy = {})
      : executor(context.get_executor(), std::move(device), options, std::move(policy)) {}

  executor(const executor&) = delete;
  executor& operator=(const executor&) = delete;

  /// Stops (see `stop`) and waits until the device has completed what was committed and every waiter was told.
  ~executor() {
    stop();
    if (poller_.joinable()) {
      poller_.join();
    } else {
      while (engine_.outstanding() > 0) {
        if (!engine_.step()) engine_.rest();
      }
    }
  }

  /// For `co_await`: suspends until the op has completed, coalesced with whatever else is pending. Throws
  /// `system_error` when it did not succeed. The op is copied; no memory is allocated. A stop request of the awaiting
  /// task ends the wait at once (`errc::cancelled`): a pending op never runs, one on the device runs for nobody. Must
  /// be awaited at most once.
  ///
  /// Limits: the earliest of `limits`, those of the awaiting task (`with_deadline`, `with_timeout`) and the tenant's
  /// target.
  template <class Op>
  [[nodiscard]] auto submit(const Op& op, tenant_id tenant = 0, const request_limits& limits = no_limits) {
    return awaiter<detail::on_error::throws>(detail::op_request<Ops, Op>(op), tenant, limits);
  }

  /// The same for a chain: suspends until its last op has completed. The chain is not copied.
  [[nodiscard]] auto submit(chain<Ops>& all, tenant_id tenant = 0, const request_limits& limits = no_limits) {
    return awaiter<detail::on_error::throws>(detail::chain_request<Ops>(all), tenant, limits);
  }

  /// As `submit`, but `co_await` returns the `error_code`.
  template <class Op>
  [[nodiscard]] auto try_submit(const Op& op, tenant_id tenant = 0, const request_limits& limits = no_limits) {
    return awaiter<detail::on_error::returns>(detail::op_request<Ops, Op>(op), tenant, limits);
  }
  [[nodiscard]] auto try_submit(chain<Ops>& all, tenant_id tenant = 0, const request_limits& limits = no_limits) {
    return awaiter<detail::on_error::returns>(detail::chain_request<Ops>(all), tenant, limits);
  }

  /// The same as an Asio asynchronous operation.
  ///
  /// Handler signature: `void(error_code)`. Executor: the handler's associated executor, by default `get_executor()`;
  /// the handler is never called from inside this function. Allocation: one block from the associated allocator.
  /// Per-operation cancellation: any type, as for `submit`. Errors: those of `errc`, and the backend's.
  template <class Op, class CompletionToken>
  auto async_submit(const Op& op, CompletionToken&& token, tenant_id tenant = 0,
                    const request_limits& limits = no_limits) {
    return boost::asio::async_initiate<CompletionToken, void(error_code)>(
        initiate_submission(*this), token, detail::op_request<Ops, Op>(op), tenant, limits);
  }
  template <class CompletionToken>
  auto async_submit(chain<Ops>& all, CompletionToken&& token, tenant_id tenant = 0,
                    const request_limits& limits = no_limits) {
    return boost::asio::async_initiate<CompletionToken, void(error_code)>(
        initiate_submission(*this), token, detail::chain_request<Ops>(all), tenant, limits);
  }

  // -- tenants: all of these from any thread, at any time
  // --------------------------------------------------------------------

  /// Adds a tenant. \throws std::invalid_argument when `options` make no sense (see `check`)
  tenant_type make_tenant(tenant_options options) {
    check(options);
    std::lock_guard lock(tenants_mutex_);
    const auto id = static_cast<tenant_id>(tenants_.size());
    tenants_.push_back(std::move(options));
    engine_.set_tenant(id, tenants_.back());
    return tenant_type(*this, id);
  }

  /// The tenant of submissions that name none.
  tenant_type default_tenant() noexcept { return tenant_type(*this, 0); }

  /// Gives a tenant other options, for what it submits from now on, and for what waits before its queue. One that was
  /// removed is back. \throws std::invalid_argument when they make no sense, std::out_of_range for an unknown tenant
  void set_options(tenant_id id, tenant_options options) {
    check(options);
    std::lock_guard lock(tenants_mutex_);
    tenants_.at(id) = std::move(options);
    engine_.set_tenant(id, tenants_[id]);
  }

  /// What a tenant was last given. \throws std::out_of_range
  tenant_options options_of(tenant_id id) const {
    std::lock_guard lock(tenants_mutex_);
    return tenants_.at(id);
  }

  /// What a tenant submits from now on ends with `errc::tenant_removed`; what it has inside completes as usual. Its id
  /// is not used again, and its statistics remain. \throws std::out_of_range for an unknown tenant,
  /// std::invalid_argument for the default tenant
  void remove_tenant(tenant_id id) {
    if (id == 0) boost::throw_exception(std::invalid_argument("cohort: the default tenant cannot be removed"));
    std::lock_guard lock(tenants_mutex_);
    static_cast<void>(tenants_.at(id));
    engine_.remove_tenant(id);
  }

  /// Counters of a tenant, each as of a moment ago. \throws std::out_of_range
  tenant_statistics statistics_of(tenant_id id) const {
    std::lock_guard lock(tenants_mutex_);
    static_cast<void>(tenants_.at(id));
    return engine_.statistics_of(id);
  }

  // -- under drive::caller
  // ------------------------------------------------------------------------------------------------

  /// One turn of the loop: never blocks. Returns whether anything happened. Inside a coroutine that `poll` runs it does
  /// nothing and returns false.
  bool poll() {
    if (std::exchange(driving_, true)) return false;
    const auto done = detail::at_exit([this]() noexcept { driving_ = false; });
    return engine_.step();
  }

  /// Drives until nothing is outstanding; sleeps while the device works, if the device can wake it.
  void run_until_idle() {
    while (engine_.outstanding() > 0) poll_or_rest();
  }

  /// Starts a task and drives until it has finished; returns its result or throws its exception. The task may wait for
  /// this executor only: nothing else is driven.
  template <class T>
  T run(task<T> work, std::stop_token stop = {}) {
    std::exception_ptr error;
    std::optional<detail::value_of<T>> value;
    if constexpr (std::is_void_v<T>) {
      detail::start(std::move(work), std::move(stop), [&error, &value](std::exception_ptr e) {
        error = std::move(e);
        value.emplace();
      });
    } else {
      detail::start(std::move(work), std::move(stop), [&error, &value](std::exception_ptr e, std::optional<T> v) {
        error = std::move(e);
        value = std::move(v);
      });
    }
    while (!value.has_value() && !error) poll_or_rest();
    if (error) std::rethrow_exception(error);
    if constexpr (!std::is_void_v<T>) return std::move(*value);
  }

  // -- in both modes
  // ------------------------------------------------------------------------------------------------------

  /// Blocks until everything accepted so far, and what it submits meanwhile, has been delivered, and the device is done
  /// with what was cancelled. Under `drive::caller` it drives. Not from a coroutine that this executor resumes.
  void drain() {
    if (poller_.joinable()) {
      engine_.wait_until_idle();
    } else {
      run_until_idle();
    }
  }

  /// Does not block. Later submissions and pending ones are told `errc::stopped`; committed ones complete as usual.
  void stop() noexcept { engine_.request_stop(); }

  /// Holds new packets back, waits for the committed ones, and leaves the device to whoever must use it otherwise.
  /// Submissions are accepted and wait. One caller at a time.
  error_code pause() {
    engine_.request_pause(true);
    if (poller_.joinable()) {
      engine_.wait_until_paused();
    } else {
      while (!engine_.paused()) poll_or_rest();
    }
    return engine_.pause_result();
  }

  /// Ends a pause.
  void resume() noexcept { engine_.request_pause(false); }

  /// Counters of the scheduler, as of the newest packet.
  scheduler_statistics statistics() const { return engine_.statistics(); }

  /// Device time of each class of work lately, and how well it was predicted. Any thread.
  std::vector<latency_report> latencies() const { return engine_.latencies(); }

  const AsioExecutor& get_executor() const noexcept { return asio_executor_; }

  /// The device, for its memory and its name. Its packet functions belong to the executor.
  backend& device() noexcept { return engine_.device(); }

private:
  class initiate_submission {
  public:
    using executor_type = AsioExecutor;

    explicit initiate_submission(executor& self) noexcept : self_(&self) {}
    const executor_type& get_executor() const noexcept { return self_->asio_executor_; }

    template <class Handler, class Request>
    void operator()(Handler&& handler, const Request& request, tenant_id tenant, const request_limits& limits) const {
      detail::async_submission<Request, engine_type, AsioExecutor, std::decay_t<Handler>>::start(
          self_->engine_, self_->asio_executor_, request, tenant, limits, std::forward<Handler>(handler));
    }

  private:
    executor* self_;
  };

  template <detail::on_error Style, class Request>
  auto awaiter(const Request& request, tenant_id tenant, const request_limits& limits) noexcept {
    return detail::submit_awaiter<Request, engine_type, Style>(engine_, request, tenant, limits);
  }

  /// \throws std::invalid_argument
  static void check(const tenant_options& options) {
    if (const char* const wrong = options.check()) {
      boost::throw_exception(std::invalid_argument("cohort: tenant " + options.name + ": " + wrong));
    }
  }

  static std::unique_ptr<backend> checked(std::unique_ptr<backend> device) {
    if (device == nullptr) boost::throw_exception(std::invalid_argument("an executor needs a backend"));
    constexpr auto expected = Ops::table();
    const auto have = device->ops();
    const bool same = std::equal(
        expected.begin(), expected.end(), have.begin(), have.end(),
        [](const op_info& a, const op_info& b) { return a.stride == b.stride && std::strcmp(a.name, b.name) == 0; });
    if (!same) {
      boost::throw_exception(system_error(errc::shape_mismatch, "the backend was made for another op_set"));
    }
    return device;
  }

  static void deliver(void* self, submission* finished) {
    auto& me = *static_cast<executor*>(self);
    if (me.meeting_ != nullptr && me.meeting_->hand_over(finished)) return;
    detail::delivery<AsioExecutor> all(me.asio_executor_, finished, me.meeting_);
    if (me.options_.driven_by == drive::caller) {
      all();
    } else {
      boost::asio::post(me.asio_executor_, std::move(all));
    }
  }

  void poll_or_rest() {
    if (!poll()) engine_.rest();
  }

  void poll_until_stopped() {
    const typename engine_type::owning always(engine_);
    while (!engine_.stopping() || engine_.outstanding() > 0) {
      if (!engine_.step()) engine_.rest();
    }
  }

  AsioExecutor asio_executor_;
  executor_options options_;
  engine_type engine_;
  mutable std::mutex tenants_mutex_;
  std::deque<tenant_options> tenants_;  // guarded by tenants_mutex_; a deque, so that references stay
  bool driving_ = false;
  std::shared_ptr<detail::meeting_point> meeting_;  // shared with handlers on their way, which may outlive the executor
  std::thread poller_;
};

}  // namespace cohort::inline COHORT_ABI

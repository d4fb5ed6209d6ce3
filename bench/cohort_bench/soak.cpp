// soak: minutes of everything at once on the host backend: what fuses and what packs, tenants that drop late work and
// one with a short queue, time limits, cancellations, and now and then an op that keeps the device busy for long. Every
// submission must end once, time limits must fire while the device is busy, and neither throughput nor memory may
// drift. The ops wait instead of computing: what is soaked is everything around them, and other processes do not count.
#include "command.hpp"
#include "limits.hpp"
#include "report.hpp"

#include <cohort/backend/host.hpp>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/schedule/observer.hpp>
#include <cohort/spawn.hpp>
#include <cohort/task.hpp>

#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <random>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

namespace cohort_bench {
namespace {

using namespace std::chrono_literals;

void wait(std::uint32_t ns) { std::this_thread::sleep_for(std::chrono::nanoseconds(ns)); }

/// From any thread, also while an op that was given up still runs.
std::uint32_t add(std::uint32_t& counter, std::uint32_t value) {
  return std::atomic_ref(counter).fetch_add(value, std::memory_order_relaxed);  // relaxed: a count, and nothing else
}

/// Counts that it ran, and takes a while. Packed.
struct alignas(16) packed_wait {
  static constexpr const char* name = "packed_wait";
  std::uint32_t* ran = nullptr;
  std::uint32_t ns = 0;
  std::uint32_t unused = 0;

  std::uint32_t tiles() const { return 1; }
  cohort::op_cost cost() const { return {.flops = 20ull * ns, .bytes = 0}; }
  template <class Context>
  void run(Context&, std::uint32_t) const {
    add(*ran, 1);
    wait(ns);
  }
};

/// The same for ops that share something: fused, they wait once.
struct alignas(16) fused_wait {
  static constexpr const char* name = "fused_wait";
  std::uint32_t* ran = nullptr;
  std::uint64_t shared = 1;
  std::uint32_t ns = 0;
  std::uint32_t unused[3] = {};

  static std::uint32_t plan(std::span<fused_wait>, const cohort::machine_shape&) { return 1; }
  cohort::coalescing_key key() const { return {{shared, 0, 0, 0}}; }
  std::uint32_t rows() const { return 1; }
  cohort::op_cost cost() const { return {.flops = 20ull * ns, .bytes = 0}; }
  template <class Context>
  static void run(Context&, const fused_wait* members, std::uint32_t count, std::uint32_t) {
    for (std::uint32_t i = 0; i < count; ++i) add(*members[i].ran, 1);
    wait(members->ns);
  }
};

using ops = cohort::op_set<packed_wait, fused_wait>;
using executor = cohort::executor<ops>;
using backend = cohort::host_backend<ops>;

/// Times by their size, in memory that does not grow.
class time_histogram {
public:
  void add(std::int64_t ns) {
    const double slot = ns < 1 ? 0 : 8 * std::log2(static_cast<double>(ns));
    ++counts_[std::min(static_cast<std::size_t>(slot), counts_.size() - 1)];
    ++total_;
  }
  /// At most 9 % above the truth; in ms.
  double quantile_ms(double q) const {
    double below = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      below += static_cast<double>(counts_[i]);
      if (total_ > 0 && below >= q * static_cast<double>(total_))
        return std::exp2(static_cast<double>(i + 1) / 8) / 1e6;
    }
    return 0;
  }
  std::uint64_t total() const { return total_; }

private:
  std::array<std::uint64_t, 8 * 40> counts_{};
  std::uint64_t total_ = 0;
};

/// Told of everything on the thread that drives; read when that has stopped.
class witness final : public cohort::schedule_observer {
public:
  std::uint64_t arrived_count = 0, in_packets = 0, back_from_device = 0, packets = 0, fused = 0;
  std::array<std::uint64_t, cohort::endings> ended_count{};
  std::uint64_t while_busy = 0;  // of those that were dropped or timed out in the queue
  time_histogram late;           // how long after its time each of them ended

  void arrived(const cohort::submission&, cohort::time_point) noexcept override { ++arrived_count; }
  void formed(const cohort::packet_report& packet, const cohort::submission*) noexcept override {
    in_packets += packet.submissions;
    fused += packet.fused_submissions;
    ++packets;
    ++in_flight_;
  }
  void completed(const cohort::packet_result& packet) noexcept override {
    back_from_device += packet.submissions;
    --in_flight_;
  }
  void ended(const cohort::submission& one, cohort::ending how, cohort::time_point now) noexcept override {
    ++ended_count[static_cast<std::size_t>(how)];
    if (how != cohort::ending::dropped && how != cohort::ending::timed_out) return;
    // Dropped ahead of its time, when its turn came and it would have begun too late: counts as on time.
    late.add(std::max<std::int64_t>(now.time_since_epoch().count() - one.latest_start - 1, 0));
    while_busy += in_flight_ > 0 ? 1 : 0;
  }

private:
  std::uint32_t in_flight_ = 0;
};

double resident_mib() {
  std::ifstream file("/proc/self/statm");
  double total = 0;
  double resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 20);
}

class soak {
public:
  explicit soak(report& to) : to_(to) {
    auto device = std::make_unique<backend>(
        cohort::host_options{.workers = 2, .device_bytes = std::size_t{1} << 20, .pinned_bytes = std::size_t{4} << 20});
    memory_ = device.get();
    gpu_ = std::make_unique<executor>(io_, std::move(device), cohort::executor_options{.observer = &seen_});
    const auto add_tenant = [&](cohort::tenant_options options) { return gpu_->make_tenant(std::move(options)).id(); };
    steady_ = add_tenant({.name = "steady", .latency_target = 50ms});
    heavy_ = add_tenant({.name = "heavy", .latency_target = 50ms, .weight = 4, .in_flight_cap = 2ms});
    dropping_ = add_tenant({.name = "dropping", .latency_target = 6ms, .when_late = cohort::late_work::drop});
    short_ = add_tenant({.name = "short queue", .latency_target = 20ms, .queue_capacity = 4});
    patient_ = add_tenant(
        {.name = "suspends", .latency_target = 20ms, .queue_capacity = 4, .when_full = cohort::full_queue::suspend});
    boulders_ = add_tenant({.name = "boulders", .latency_target = 1s});
  }

  void run(std::chrono::milliseconds duration) {
    // What a thread that only sleeps is late by on this machine now.
    const std::jthread sleeper([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        const auto until = clock::now() + 1ms;
        std::this_thread::sleep_until(until);
        sleep_late_.add((clock::now() - until).count());
      }
    });
    cancellable_.resize(16);
    for (std::size_t i = 0; i < 24; ++i) start(keep_on(i % 2 == 0 ? steady_ : heavy_, i % 3 != 0));
    for (std::size_t i = 0; i < cancellable_.size(); ++i) start(keep_being_cancelled(i));
    for (int i = 0; i < 8; ++i) start(keep_on(patient_, i % 2 == 0));
    soak_for(duration);
    stopping_ = true;
    while (running_ > 0) run_until(clock::now() + 1ms);
    gpu_->drain();
    run_until(clock::now() + 1ms);  // deliveries on their way own memory
  }

  /// After `run`.
  void check() {
    using cohort::ending;
    const auto ended = [&](ending how) { return seen_.ended_count[static_cast<std::size_t>(how)]; };
    std::uint64_t all_ended = 0;
    for (const std::uint64_t count : seen_.ended_count) all_ended += count;
    const auto in_use = memory_->memory(cohort::memory_kind::pinned).in_use;
    to_.row({{"requests", started_},
             {"completed", ended_well_},
             {"packets", seen_.packets},
             {"fused", seen_.fused},
             {"dropped", ended(ending::dropped)},
             {"timed_out_in_the_queue", ended(ending::timed_out)},
             {"timed_out", late_to_waiter_.total()},
             {"cancelled_in_the_queue", ended(ending::cancelled)},
             {"refused", ended(ending::refused)},
             {"late_p50_ms", number(seen_.late.quantile_ms(0.5))},
             {"late_p99_ms", number(seen_.late.quantile_ms(0.99))},
             {"sleep_late_p99_ms", number(sleep_late_.quantile_ms(0.99))},
             {"late_to_waiter_p99_ms", number(late_to_waiter_.quantile_ms(0.99))},
             {"arena_in_use_at_the_end", in_use}});
    if (told_ != started_) to_.wrong("not every request was told once");
    if (seen_.arrived_count != seen_.in_packets + all_ended) to_.wrong("a submission ended more or less than once");
    if (seen_.back_from_device != seen_.in_packets) to_.wrong("a submission went to the device and did not come back");
    if (wrong_ > 0) to_.wrong(std::to_string(wrong_) + " ops ran more or less often than their waiters were told");
    if (!last_surprise_.empty()) to_.wrong("an unexpected error: " + last_surprise_);
    if (in_use != 0) to_.wrong("memory of the arena was not given back");
    for (const ending how : {ending::dropped, ending::timed_out, ending::cancelled, ending::refused}) {
      if (ended(how) == 0) to_.wrong(std::string("nothing was ") + cohort::to_string(how));
    }
    if (seen_.fused == 0) to_.wrong("nothing was fused");

    const double busy_share = static_cast<double>(seen_.while_busy) / static_cast<double>(seen_.late.total());
    const double flat = rates_.back() / rates_.front();
    const double late = seen_.late.quantile_ms(0.99);
    to_.target("throughput of the last fifth over that of the first", 0.9, flat);
    to_.target("ms that drops and time limits in the queue are late, beyond a sleeping thread's, 99 %", 1,
               late - sleep_late_.quantile_ms(0.99), bound::at_most);
    to_.target("share of them that fired while the device was busy", 0.9, busy_share);
    to_.target("MiB by which resident memory grew after the first fifth", 4, resident_.back() - resident_.front(),
               bound::at_most);
    // What no load of the machine explains.
    if (flat < 0.1) to_.wrong("throughput broke down");
    if (late > 200) to_.wrong("drops and time limits wait for the device");
    if (busy_share < 0.5) to_.wrong("drops and time limits do not fire while the device is busy");
    if (resident_.back() - resident_.front() > 64) to_.wrong("memory grows");
  }

private:
  static constexpr std::size_t fifths = 5;

  void run_until(clock::time_point when) {
    io_.restart();
    io_.run_until(when);
  }

  void soak_for(std::chrono::milliseconds duration) {
    const auto begin = clock::now();
    auto tick = begin;
    std::uint64_t turn = 0;
    for (std::size_t fifth = 0; fifth < fifths; ++fifth) {
      const auto begun = clock::now();
      const std::uint64_t before = ended_well_;
      for (const auto until = begin + (fifth + 1) * duration / fifths; clock::now() < until; ++turn) {
        tick = std::max(tick + 1ms, clock::now() - 20ms);  // whoever was kept from working does not catch up with all
        run_until(tick);
        disturb(turn);
      }
      const double seconds = std::chrono::duration<double>(clock::now() - begun).count();
      rates_.push_back(static_cast<double>(ended_well_ - before) / seconds);
      resident_.push_back(resident_mib());
      to_.row({{"fifth", fifth + 1},
               {"seconds", seconds},
               {"completed_per_second", rates_.back()},
               {"resident_mib", resident_.back()},
               {"arena_in_use", memory_->memory(cohort::memory_kind::pinned).in_use},
               {"requests", started_}});
    }
  }

  void start(cohort::task<> what) { cohort::spawn(io_, std::move(what), boost::asio::detached); }

  /// What is not always there: requests that come whatever the device does, cancellations, boulders.
  void disturb(std::uint64_t turn) {
    if (running_ < 400) {
      start(once(dropping_, turn % 2 == 0, {}));
      start(once(steady_, turn % 3 == 0,
                 {.expires = cohort::clock::now() + 1ms + std::chrono::microseconds(dice_() % 6'000)}));
      if (turn % 8 == 0) {
        for (int i = 0; i < 8; ++i) start(once(short_, true, {}));
      }
      if (turn % 128 == 0) start(boulder());
    }
    for (int i = 0; i < 2; ++i) {
      // A copy: what goes on inside request_stop may put another one in its place.
      std::stop_source one = cancellable_[dice_() % cancellable_.size()];
      one.request_stop();
    }
  }

  cohort::task<> keep_on(cohort::tenant_id tenant, bool fuse) {
    while (!stopping_) co_await once(tenant, fuse, {});
  }

  cohort::task<> keep_being_cancelled(std::size_t position) {
    while (!stopping_) {
      cancellable_[position] = std::stop_source();
      co_await cohort::with_stop_token(once(steady_, position % 2 == 0, {}), cancellable_[position].get_token());
    }
  }

  /// Keeps one worker busy for as long as what is dropped meanwhile cannot wait; the other is needed by the rest.
  cohort::task<> boulder() { co_await submit<packed_wait>({}, boulders_, {.ns = 20'000'000}); }

  cohort::task<> once(cohort::tenant_id tenant, bool fuse, cohort::request_limits limits) {
    const auto ns = static_cast<std::uint32_t>(300'000 + dice_() % 600'000);
    if (fuse) {
      co_await submit<fused_wait>(limits, tenant, {.shared = 1 + dice_() % 3, .ns = ns});
    } else {
      co_await submit<packed_wait>(limits, tenant, {.ns = ns});
    }
  }

  /// One request, told once: its op has run once where it succeeded, and never where it never left the queue.
  template <class Op>
  cohort::task<> submit(cohort::request_limits limits, cohort::tenant_id tenant, Op op) {
    ++started_;
    ++running_;
    auto ran = cohort::make_pinned_buffer<std::uint32_t>(gpu_->device(), 1);
    ran[0] = 0;
    op.ran = ran.data();
    const cohort::error_code result = co_await gpu_->try_submit(op, tenant, limits);
    ++told_;
    --running_;
    const std::uint32_t times = add(ran[0], 0);
    const bool may_run = result == cohort::errc::cancelled || result == cohort::errc::timed_out;
    if (!result.failed()) {
      ++ended_well_;
      wrong_ += times == 1 ? 0 : 1;
    } else if (may_run) {
      wrong_ += times <= 1 ? 0 : 1;
    } else {
      wrong_ += times == 0 ? 0 : 1;
      const bool expected = result == cohort::errc::dropped || result == cohort::errc::deadline_unreachable ||
                            result == cohort::errc::tenant_queue_full;
      if (!expected) last_surprise_ = result.message();
    }
    if (result == cohort::errc::timed_out) late_to_waiter_.add((cohort::clock::now() - limits.expires).count());
  }

  report& to_;
  boost::asio::io_context io_{1};
  witness seen_;
  backend* memory_ = nullptr;
  std::unique_ptr<executor> gpu_;
  cohort::tenant_id steady_{}, heavy_{}, dropping_{}, short_{}, patient_{}, boulders_{};
  std::mt19937 dice_{1};
  std::vector<std::stop_source> cancellable_;
  bool stopping_ = false;
  std::uint64_t started_ = 0, told_ = 0, running_ = 0, ended_well_ = 0, wrong_ = 0;
  std::string last_surprise_;
  time_histogram late_to_waiter_;
  time_histogram sleep_late_;  // the sleeper's, until it has ended
  std::vector<double> rates_, resident_;
};

int run_soak(const options& chosen) {
  report to("soak", chosen);
  to.environment()["backend"] = "host";
  const unsigned seconds = chosen.seconds > 0 ? chosen.seconds : chosen.quick ? 5 : 300;
  to.note(std::to_string(seconds) +
          " s; ops wait instead of computing, so that throughput is the device's and not the CPU's");
  soak all(to);
  all.run(std::chrono::seconds(seconds));
  all.check();
  return to.finish();
}

const registration announced({"soak", place::host,
                              "time limits, drops, cancellations and coalescing mixed, for minutes", &run_soak});

}  // namespace
}  // namespace cohort_bench

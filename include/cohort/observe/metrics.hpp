// Counters and histograms of a scheduler in the text format that Prometheus scrapes. Whoever wants them gives a
// `metrics` to the executor, and serves `text()` at /metrics.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/observe/detail/exposition.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/observer.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/submission.hpp>
#include <cohort/schedule/tenant_table.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// Counts what a scheduler does.
///
/// For one executor. Cost: one uncontended lock and a few additions for each event, and two looks at the clock for each
/// decision. Memory: allocates when a tenant submits or is set for the first time, and in `text`. A tenant that finds
/// no memory is not counted by name. Thread-safety: `text` from any thread; it holds the driving thread up while it
/// copies.
class metrics final : public schedule_observer {
public:
  /// All metrics in the text format, version 0.0.4 (`Content-Type: text/plain; version=0.0.4`).
  std::string text() const {
    const state now = copy();
    detail::exposition out;
    write_tenants(out, now);
    write_ops(out, now);
    write_packets(out, now);
    return out.take();
  }

  void observing(std::span<const op_info> ops) override {
    std::lock_guard lock(mutex_);
    state_.ops.clear();
    state_.series_of_op.clear();
    for (const op_info& info : ops) {
      // Two types may share a name, and a series must be named once.
      const auto same = [&info](const op_series& one) { return one.name == info.name; };
      const auto found = std::find_if(state_.ops.begin(), state_.ops.end(), same);
      state_.series_of_op.push_back(static_cast<std::size_t>(found - state_.ops.begin()));
      if (found == state_.ops.end()) state_.ops.push_back(op_series{.name = info.name});
    }
  }

  void tenant_set(tenant_id id, const tenant_options& options) override {
    std::lock_guard lock(mutex_);
    state_.tenants[id].name = options.name;
  }

  void arrived(const submission& one, time_point) noexcept override {
    std::lock_guard lock(mutex_);
    if (tenant_series* const tenant = tenant_of(one)) ++tenant->submitted;
  }

  void formed(const packet_report& packet, const submission* members) noexcept override {
    std::lock_guard lock(mutex_);
    ++state_.packets[std::min<std::size_t>(static_cast<std::size_t>(packet.reason), commit_reasons - 1)];
    state_.packet_ops.add(packet.submissions);
    state_.packet_records.add(packet.records);
    state_.padding.add(packet.padding);
    state_.waited += packet.waited;
    state_.waited_hidden += packet.waited_hidden;
    const auto ahead = packet.work_in_flight_before + packet.estimated_work;
    for (const submission* one = members; one != nullptr; one = one->next) {
      state_.wait.add(seconds(packet.formed - one->arrived));
      state_.slack.add(seconds(one->deadline - packet.formed - ahead));
    }
  }

  void completed(const packet_result& packet) noexcept override {
    std::lock_guard lock(mutex_);
    const auto measured = packet.measured();
    state_.device_busy += measured;
    const bool failed = packet.result.failed();
    if (!failed && measured.count() > 0) {
      const auto off = static_cast<double>((packet.predicted - measured).count());
      state_.prediction_error.add(std::abs(off) / static_cast<double>(measured.count()));
    }
    const std::size_t company = packet.submissions > 1 ? 1 : 0;
    for (const submission* one = packet.members; one != nullptr; one = one->next) {
      if (tenant_series* const tenant = tenant_of(*one)) {
        if (!failed) tenant->service += packet.service(*one);
        if (one->orphan) {
          const ending how = one->result == errc::timed_out ? ending::timed_out : ending::cancelled;
          ++tenant->ended[static_cast<std::size_t>(how)];
        } else {
          ++(failed ? tenant->failed : tenant->completed);
          if (packet.ended > one->deadline) ++tenant->missed;
        }
      }
      if (failed || one->orphan) continue;
      op_series& op = state_.ops[state_.series_of_op[one->op_index]];
      op.latency[company].add(seconds(packet.ended - one->arrived));
      // Completions that are seen together count as one after the other, the later ones as no time.
      if (measured.count() > 0) op.device[company].add(seconds(packet.service(*one)));
    }
  }

  void ended(const submission& one, ending how, time_point) noexcept override {
    std::lock_guard lock(mutex_);
    if (tenant_series* const tenant = tenant_of(one)) ++tenant->ended[static_cast<std::size_t>(how)];
  }

  bool times_decisions() const noexcept override { return true; }

  void decided(std::chrono::nanoseconds took) noexcept override {
    std::lock_guard lock(mutex_);
    state_.decision.add(seconds(took));
  }

private:
  /// Upper bounds of the buckets: fixed, so that a series never changes its shape.
  static constexpr std::array latency_bounds{1e-6, 2.5e-6, 5e-6,   1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3,
                                             5e-3, 1e-2,   2.5e-2, 5e-2, 0.1,    0.25, 0.5,  1.0,    2.5,  5.0,  10.0};
  static constexpr std::array slack_bounds{-1.0, -0.1,   -1e-2, -1e-3, -1e-4, 0.0, 1e-4,
                                           1e-3, 2.5e-3, 5e-3,  1e-2,  0.1,   1.0};
  static constexpr std::array count_bounds{1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0};
  static constexpr std::array error_bounds{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0};
  static constexpr std::array share_bounds{0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0};
  static constexpr std::array decision_bounds{1e-7, 2e-7, 5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3};

  using latency_histogram = detail::histogram<latency_bounds>;

  struct tenant_series {
    std::string name{};
    std::uint64_t submitted = 0;
    std::uint64_t completed = 0;
    std::uint64_t failed = 0;
    std::uint64_t missed = 0;
    std::array<std::uint64_t, endings> ended{};
    std::chrono::nanoseconds service{0};
  };

  /// The second of each pair: with company in the packet.
  struct op_series {
    std::string name{};
    std::array<latency_histogram, 2> latency{};
    std::array<latency_histogram, 2> device{};
  };

  struct state {
    std::map<tenant_id, tenant_series> tenants{{0, {.name = "default"}}};
    std::vector<op_series> ops{};
    std::vector<std::size_t> series_of_op{};
    std::array<std::uint64_t, commit_reasons> packets{};
    detail::histogram<count_bounds> packet_ops{};
    detail::histogram<count_bounds> packet_records{};
    detail::histogram<share_bounds> padding{};
    latency_histogram wait{};
    detail::histogram<slack_bounds> slack{};
    detail::histogram<error_bounds> prediction_error{};
    detail::histogram<decision_bounds> decision{};
    std::chrono::nanoseconds waited{0};
    std::chrono::nanoseconds waited_hidden{0};
    std::chrono::nanoseconds device_busy{0};
  };

  static double seconds(std::chrono::nanoseconds time) noexcept { return 1e-9 * static_cast<double>(time.count()); }

  state copy() const {
    std::lock_guard lock(mutex_);
    return state_;
  }

  tenant_series* tenant_of(const submission& one) noexcept {
    const auto found = state_.tenants.find(one.tenant);
    if (found != state_.tenants.end()) return &found->second;
    try {  // a submission for a tenant that nobody added
      tenant_series fresh{.name = std::to_string(one.tenant)};
      return &state_.tenants.emplace(one.tenant, std::move(fresh)).first->second;
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
  }

  static void write_tenants(detail::exposition& out, const state& now) {
    const auto each = [&](std::string_view name, auto value) {
      for (const auto& [id, one] : now.tenants) {
        out.sample(name, {{"tenant", one.name}, {"tenant_id", std::to_string(id)}}, value(one));
      }
    };
    out.family("cohort_submissions_total", "counter", "Submissions that reached the scheduler.");
    each("cohort_submissions_total", [](const tenant_series& one) { return one.submitted; });

    out.family("cohort_ends_total", "counter", "Submissions that ended, by how.");
    for (const auto& [id, one] : now.tenants) {
      const auto sample = [&, id = id, name = one.name](const char* how, std::uint64_t value) {
        out.sample("cohort_ends_total", {{"tenant", name}, {"tenant_id", std::to_string(id)}, {"ending", how}}, value);
      };
      sample("completed", one.completed);
      sample("failed", one.failed);
      for (std::size_t i = 0; i < endings; ++i) sample(to_string(static_cast<ending>(i)), one.ended[i]);
    }

    out.family("cohort_deadline_misses_total", "counter", "Submissions that left the device after their deadline.");
    each("cohort_deadline_misses_total", [](const tenant_series& one) { return one.missed; });
    out.family("cohort_service_seconds_total", "counter", "Measured device time that tenants were served with.");
    each("cohort_service_seconds_total", [](const tenant_series& one) { return seconds(one.service); });
  }

  static void write_ops(detail::exposition& out, const state& now) {
    const auto each = [&](std::string_view name, auto member) {
      for (const op_series& one : now.ops) {
        for (const std::size_t company : {0u, 1u}) {
          out.sample(name, {{"op", one.name}, {"company", company == 0 ? "no" : "yes"}}, (one.*member)[company]);
        }
      }
    };
    out.family("cohort_op_latency_seconds", "histogram",
               "Time from submission to completion, by op and whether others were in the packet.");
    each("cohort_op_latency_seconds", &op_series::latency);
    out.family("cohort_op_device_seconds", "histogram", "An op's share of the measured device time of its packet.");
    each("cohort_op_device_seconds", &op_series::device);
  }

  static void write_packets(detail::exposition& out, const state& now) {
    out.family("cohort_packets_total", "counter", "Packets formed, by the policy's reason.");
    for (std::size_t i = 0; i < commit_reasons; ++i) {
      out.sample("cohort_packets_total", {{"reason", to_string(static_cast<commit_reason>(i))}}, now.packets[i]);
    }
    out.histogram_family("cohort_packet_ops", "Submissions in a packet.", now.packet_ops);
    out.histogram_family("cohort_packet_records", "Records in a packet, after fusion.", now.packet_records);
    out.histogram_family("cohort_packet_padding_ratio",
                         "Part of a packet's predicted device time in which tiles compute what lies beyond a result.",
                         now.padding);
    out.histogram_family("cohort_wait_seconds", "Time from submission to the packet.", now.wait);
    out.histogram_family("cohort_dispatch_slack_seconds",
                         "Time left to a submission's deadline when its packet was formed, less the work ahead of it.",
                         now.slack);
    out.histogram_family("cohort_prediction_error_ratio",
                         "Difference of predicted and measured device time of a packet, over measured.",
                         now.prediction_error);
    out.histogram_family("cohort_decision_seconds", "Time that the scheduler took for a decision, packet or none.",
                         now.decision);
    const auto counter = [&](std::string_view name, std::string_view help, std::chrono::nanoseconds value) {
      out.family(name, "counter", help);
      out.sample(name, {}, seconds(value));
    };
    counter("cohort_waited_seconds_total", "Time that submissions waited for their packets, summed.", now.waited);
    counter("cohort_waited_hidden_seconds_total", "The part of it in which the device was at work for others.",
            now.waited_hidden);
    counter("cohort_device_busy_seconds_total", "Time in which packets ran, as seen from the host.", now.device_busy);
  }

  mutable std::mutex mutex_;
  state state_{};  // guarded by mutex_
};

}  // namespace cohort::inline COHORT_ABI

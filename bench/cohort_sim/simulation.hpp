// One run: the scheduler itself against the device model, by discrete events on virtual time. An open loop: arrivals
// come when they are meant to, whatever the server does. Each request is a chain of ops, as a coroutine is: the next op
// is submitted when the one before has come back.
#pragma once

#include "device_model.hpp"
#include "models.hpp"
#include "outcome.hpp"
#include "workload.hpp"

#include <cohort/schedule/scheduler.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <queue>
#include <span>
#include <utility>
#include <vector>

namespace cohort_sim {

struct setup {
  device_parameters device{};
  /// What the scheduler is told of the device: what the CUDA backend says on an H200, whatever the truth is.
  cohort::device_rates rates{.flops_per_ns = 33e3,
                             .bytes_per_ns = 4.1e3,
                             .packet_overhead = std::chrono::nanoseconds(3000),
                             .busy_target = std::chrono::nanoseconds(4000),
                             .max_packets = 8};
  cohort::scheduler_options scheduling{};
  /// Costs that ops tell, over what they are: nobody counts exactly.
  double dense_cost = 0.7;
  double attention_cost = 1.8;
  double resume = 500;  ///< ns from a completion to the submission of the next op
  std::uint64_t seed = 1;
};

/// Runs one workload under one policy. Not for a second run.
template <class Policy>
class simulation {
public:
  simulation(const workload& load, const setup& how, Policy policy)
      : load_(load),
        how_(how),
        device_(how.device, how.seed),
        scheduler_(op_table, cohort::machine_shape{.workers = 528, .host = false}, how.rates, how.scheduling,
                   std::move(policy)),
        requests_(std::make_unique<request[]>(load.arrivals.size())) {
    for (std::uint32_t t = 0; t < load.tenants.size(); ++t) scheduler_.set_tenant(t, load.tenants[t]);
    for (const served_model& one : load.models) models_.push_back(stages_of(one.kind));
    result_.requests.resize(load.arrivals.size());
  }

  outcome run() {
    std::size_t arrived = 0;
    const auto& arrivals = load_.arrivals;
    while (true) {
      double next = never;
      if (arrived < arrivals.size()) next = std::min(next, static_cast<double>(arrivals[arrived].at.count()));
      if (!resumes_.empty()) next = std::min(next, resumes_.top().at);
      if (!flights_.empty()) next = std::min(next, flights_.front().seen);
      // A time that is over asked for a packet that the device had no room for: a completion comes before it.
      if (const auto again = scheduler_.ask_again(); again && ns(*again) > now_) next = std::min(next, ns(*again));
      if (next == never) break;
      now_ = next;
      // Completions first, then what they let go on, then what is new: the order in which an executor's step goes.
      while (!flights_.empty() && flights_.front().seen <= now_) complete();
      while (!resumes_.empty() && resumes_.top().at <= now_) {
        request& one = *resumes_.top().who;
        resumes_.pop();
        submit(one);
      }
      while (arrived < arrivals.size() && static_cast<double>(arrivals[arrived].at.count()) <= now_) {
        requests_[arrived].index = static_cast<std::uint32_t>(arrived);
        submit(requests_[arrived++]);
      }
      step();
    }
    if (arrivals.size() > 1) result_.duration = static_cast<double>((arrivals.back().at - arrivals.front().at).count());
    result_.busy = device_.busy();
    result_.counters = scheduler_.statistics();
    return std::move(result_);
  }

  const cohort::scheduler<Policy>& scheduler() const { return scheduler_; }

private:
  static constexpr double never = 1e300;

  struct request : cohort::submission {
    std::uint32_t index = 0;
    std::uint32_t stage = 0;
    alignas(16) std::byte op_storage[64];
  };

  struct resumption {
    double at;
    std::uint64_t order;
    request* who;
    friend bool operator<(const resumption& a, const resumption& b) {
      return a.at != b.at ? a.at > b.at : a.order > b.order;
    }
  };

  struct flight {
    std::uint32_t sequence;
    double seen;
  };

  static double ns(cohort::time_point t) { return static_cast<double>(t.time_since_epoch().count()); }
  cohort::time_point now() const { return cohort::time_point{std::chrono::nanoseconds{std::llround(now_)}}; }
  const cohort_load::arrival& arrival_of(const request& one) const { return load_.arrivals[one.index]; }

  /// Submits the op of the stage at which the request stands. The whole request's deadline holds for each of its ops.
  void submit(request& one) {
    const auto& from = arrival_of(one);
    const stage& s = models_[from.model][one.stage];
    const bool shared = shares_weights(load_.models[from.model].kind);
    static_cast<cohort::submission&>(one) = {};
    one.tenant = from.tenant;
    one.op = one.op_storage;
    one.op_index = s.op;
    one.op_bytes = sizeof(dense);
    double factor = how_.attention_cost;
    if (s.op == dense_op) {
      factor = how_.dense_cost;
      const dense op{
          .weights = from.model * 64u + (shared ? 0u : one.stage) + 1, .row_count = s.rows, .n = s.n, .k = s.k};
      one.key = op.key();
      one.rows = op.rows();
      one.cost = op.cost();
      std::memcpy(one.op_storage, &op, sizeof op);
    } else {
      const attention op{.tokens = s.rows, .heads = s.n, .head_size = s.k};
      one.cost = op.cost();
      std::memcpy(one.op_storage, &op, sizeof op);
    }
    one.cost.flops = static_cast<std::uint64_t>(factor * static_cast<double>(one.cost.flops));
    one.cost.bytes = static_cast<std::uint64_t>(factor * static_cast<double>(one.cost.bytes));
    one.deadline = cohort::time_point{from.at + load_.target_of(from)};
    scheduler_.submit(one, now());
  }

  void step() {
    scheduler_.expire(now());
    settle();
    while (scheduler_.pending() > 0 && flights_.size() < device_.slots()) {
      const std::span<const std::byte> packet = scheduler_.next(now(), storage_);
      settle();
      if (packet.empty()) break;
      std::uint32_t sequence = 0;
      std::memcpy(&sequence, packet.data(), sizeof sequence);
      flights_.push_back({sequence, device_.commit(packet, now_)});
    }
  }

  void complete() {
    const flight done = flights_.front();
    flights_.erase(flights_.begin());
    for (cohort::submission* one = scheduler_.complete(done.sequence, {}, now()); one != nullptr;) {
      auto& who = static_cast<request&>(*std::exchange(one, one->next));
      const auto& from = arrival_of(who);
      if (++who.stage < models_[from.model].size()) {
        resumes_.push({now_ + how_.resume, ++order_, &who});
        continue;
      }
      const double latency = now_ - static_cast<double>(from.at.count());
      const auto target = static_cast<double>(load_.target_of(from).count());
      end(who, latency <= target ? fate::in_time : fate::late, latency);
    }
  }

  void settle() {
    for (cohort::submission* one = scheduler_.take_settled(); one != nullptr;) {
      end(static_cast<request&>(*std::exchange(one, one->next)), fate::dropped, 0);
    }
  }

  void end(const request& who, fate how, double latency) {
    verdict& one = result_.requests[who.index];
    if (one.how != fate::waiting) ++result_.ended_twice;
    one = {.tenant = arrival_of(who).tenant, .how = how, .latency = latency};
  }

  const workload& load_;
  setup how_;
  device_model device_;
  cohort::scheduler<Policy> scheduler_;
  std::vector<std::vector<stage>> models_;
  std::unique_ptr<request[]> requests_;
  std::priority_queue<resumption> resumes_;
  std::vector<flight> flights_;  // in order, as the device completes them
  outcome result_;
  double now_ = 0;
  std::uint64_t order_ = 0;
  alignas(16) std::byte storage_[cohort::packet_capacity];
};

}  // namespace cohort_sim

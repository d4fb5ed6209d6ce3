// An arm of `slo`: a way to serve requests of many tenants on one device. Requests come to it one by one, and it is
// polled: what it does when is its own affair.
#pragma once

#include "../limits.hpp"
#include "models.hpp"

#include <cohort/schedule/packet_report.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cohort_bench::slo {

/// When requests ended, by their number. One thread.
class request_log {
public:
  static constexpr std::int64_t running = std::numeric_limits<std::int64_t>::max();
  static constexpr std::int64_t dropped = -1;  ///< never started: found no buffer, or came far too late
  static constexpr std::int64_t failed = -2;

  explicit request_log(std::size_t requests) : ended_(requests, running) {}

  void begin(clock::time_point at) { begin_ = at; }
  void finished(std::uint32_t request, bool good) {
    ended_[request] = good ? std::chrono::nanoseconds(clock::now() - begin_).count() : failed;
  }
  void drop(std::uint32_t request) { ended_[request] = dropped; }

  /// Nanoseconds from the beginning, or one of the above.
  std::int64_t ended(std::size_t request) const { return ended_[request]; }

private:
  clock::time_point begin_{};
  std::vector<std::int64_t> ended_;
};

/// Latency that requests of a kind must stay below, in ns.
using target_times = std::array<double, kinds>;

class arm {
public:
  explicit arm(std::string name) : name_(std::move(name)) {}
  virtual ~arm() = default;
  arm(const arm&) = delete;
  arm& operator=(const arm&) = delete;

  const std::string& name() const { return name_; }

  /// Takes the device, and gives it back: between the two nobody else may use it. Nothing is inside when it leaves.
  virtual void enter() {}
  virtual void leave() {}

  /// What is promised from now on, for whoever can make use of it.
  virtual void aim(const target_times&) {}

  /// A request has arrived: it takes one of its tenant's buffers. False when none is free. Never waits.
  virtual bool start(std::uint32_t tenant, std::uint32_t request) = 0;

  /// One turn; never waits. Returns whether anything happened.
  virtual bool poll() = 0;

  /// Requests that were started and have not ended.
  virtual std::size_t inside() const = 0;

  /// Before a check, with nothing inside: the next two requests of each tenant, started before the next poll, have
  /// input variants 0 and 1 and leave their outputs at `output(tenant, variant)`.
  virtual void rewind() = 0;
  virtual void* output(std::uint32_t tenant, std::uint32_t variant) = 0;

  /// Of a scheduler, for those that have one.
  virtual std::optional<cohort::scheduler_statistics> statistics() const { return std::nullopt; }

  /// Who is told of requests that end.
  void report_to(std::shared_ptr<request_log> log) { log_ = std::move(log); }

protected:
  request_log& log() { return *log_; }

private:
  std::string name_;
  std::shared_ptr<request_log> log_;  // shared: requests that a trial gave up still end, in the arm's destructor
};

/// Buffers of equal makeup for each tenant, the warmest first.
class slot_pool {
public:
  slot_pool(std::size_t tenants, std::uint32_t each) : each_(each), free_(tenants) { rewind(); }

  static constexpr std::uint32_t none = ~0u;

  std::uint32_t take(std::uint32_t tenant) {
    std::vector<std::uint32_t>& some = free_[tenant];
    if (some.empty()) return none;
    const std::uint32_t slot = some.back();
    some.pop_back();
    return slot;
  }
  void give_back(std::uint32_t tenant, std::uint32_t slot) { free_[tenant].push_back(slot); }

  /// All are free, and are taken from 0 on.
  void rewind() {
    for (std::vector<std::uint32_t>& some : free_) {
      some.clear();
      for (std::uint32_t i = each_; i > 0; --i) some.push_back(i - 1);
    }
  }

private:
  std::uint32_t each_;
  std::vector<std::vector<std::uint32_t>> free_;
};

/// All tenants' models, and buffers for requests that are served one by one.
template <class T>
class fleet {
public:
  /// Tenant i runs a model of kind i mod 3.
  fleet(const model_sizes& sizes, std::uint32_t tenants, std::uint32_t slots_each, store& memory)
      : slots_each_(slots_each) {
    for (std::uint32_t i = 0; i < tenants; ++i) {
      const model<T>& of =
          *models_.emplace_back(std::make_unique<model<T>>(static_cast<kind>(i % kinds), sizes, i + 1, memory));
      const std::size_t bytes = work_area<T>::bytes(of, 1);
      auto* const block = static_cast<std::byte*>(memory.take(slots_each * bytes));
      const work_area<T> first(of, 1, 0, block, memory);
      for (std::uint32_t j = 1; j < slots_each; ++j) (void)work_area<T>(of, 1, j, block + j * bytes, memory);
      all_.push_back({first, first.make_program(1), bytes});
    }
  }

  std::uint32_t tenants() const { return static_cast<std::uint32_t>(models_.size()); }
  std::uint32_t slots_each() const { return slots_each_; }
  const model<T>& model_of(std::uint32_t tenant) const { return *models_[tenant]; }

  /// The ops of a request in the first slot; those in another are `shifted` by `offset`.
  const program<T>& ops(std::uint32_t tenant) const { return all_[tenant].ops; }
  std::size_t offset(std::uint32_t tenant, std::uint32_t slot) const { return slot * all_[tenant].slot_bytes; }

  T* output(std::uint32_t tenant, std::uint32_t slot) const {
    return all_[tenant].first.output(0) + offset(tenant, slot) / sizeof(T);
  }

private:
  struct buffers {
    work_area<T> first;
    program<T> ops;
    std::size_t slot_bytes;
  };

  std::uint32_t slots_each_;
  std::vector<std::unique_ptr<model<T>>> models_;
  std::vector<buffers> all_;  // by tenant
};

}  // namespace cohort_bench::slo

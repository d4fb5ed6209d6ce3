// Open loop: requests start when they are meant to, whatever became of those before. What an arm made of it is judged
// over all that were offered.
#pragma once

#include "../../load/arrivals.hpp"
#include "../statistics.hpp"
#include "arm.hpp"

#include <cohort/detail/cpu.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace cohort_bench::slo {

/// One run of an arm under one load.
class trial {
public:
  trial(std::vector<cohort_load::arrival> arrivals, std::chrono::nanoseconds warm_up, std::chrono::nanoseconds end)
      : arrivals_(std::move(arrivals)),
        log_(std::make_shared<request_log>(arrivals_.size())),
        warm_up_(warm_up),
        end_(end) {}

  /// A request that could not be started so long after its arrival is dropped: no target is as long, and a trial of an
  /// arm that is overwhelmed must end.
  static constexpr std::chrono::milliseconds hopeless{100};

  /// Drives the arm until all requests have ended. Throws when they have not `patience` after the last arrival.
  /// \param polite yields the processor while nothing happens: for an arm that needs it
  void run(arm& by, bool polite, std::chrono::nanoseconds patience = std::chrono::seconds(3)) {
    constexpr std::size_t most_at_once = 64;  // between two polls
    by.report_to(log_);
    const clock::time_point begin = clock::now() + std::chrono::microseconds(100);
    log_->begin(begin);
    std::size_t next = 0;
    while (next < arrivals_.size() || by.inside() > 0) {
      const auto now = clock::now() - begin;
      bool moved = false;
      for (std::size_t i = 0; i < most_at_once && next < arrivals_.size() && arrivals_[next].at <= now; ++i) {
        const auto request = static_cast<std::uint32_t>(next++);
        const bool late = now - arrivals_[request].at > hopeless;
        if (late || !by.start(arrivals_[request].tenant, request)) log_->drop(request);
        moved = true;
      }
      moved |= by.poll();
      if (now > end_ + patience) throw std::runtime_error(by.name() + ": requests that were started do not end");
      if (moved) continue;
      if (polite) {
        std::this_thread::yield();
      } else {
        cohort::detail::spin_pause();
      }
    }
  }

  /// Calls `visit(arrival, latency in ns)` for each request after the warm-up; the latency counts from the intended
  /// arrival, and is infinite for what was dropped or failed.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (std::size_t i = 0; i < arrivals_.size(); ++i) {
      const cohort_load::arrival& one = arrivals_[i];
      if (one.at < warm_up_) continue;
      const std::int64_t ended = log_->ended(i);
      visit(one, ended < 0 ? std::numeric_limits<double>::infinity() : static_cast<double>(ended - one.at.count()));
    }
  }

  std::size_t count(std::int64_t how) const {
    std::size_t all = 0;
    for (std::size_t i = 0; i < arrivals_.size(); ++i) all += arrivals_[i].at >= warm_up_ && log_->ended(i) == how;
    return all;
  }

  double seconds() const { return std::chrono::duration<double>(end_ - warm_up_).count(); }

private:
  std::vector<cohort_load::arrival> arrivals_;
  std::shared_ptr<request_log> log_;
  std::chrono::nanoseconds warm_up_, end_;
};

/// A trial in numbers. Rates per second, latencies in us; a quantile that falls on a dropped request is infinite.
struct verdict {
  double offered = 0;
  double attainment = missing;  ///< in time, over offered
  double goodput = 0;           ///< in time
  double drop_rate = 0;         ///< dropped, over offered
  std::size_t requests = 0;
  std::size_t failed = 0;
  std::array<summary, kinds> latency;
};

inline verdict judge(const trial& one, const target_times& targets) {
  verdict v;
  std::size_t met = 0;
  std::array<std::vector<double>, kinds> latency;
  one.for_each([&](const cohort_load::arrival& request, double ns) {
    const std::size_t what = request.tenant % kinds;
    ++v.requests;
    met += ns <= targets[what];
    latency[what].push_back(ns * 1e-3);
  });
  for (std::size_t i = 0; i < kinds; ++i) v.latency[i] = summary(std::move(latency[i]));
  const auto all = static_cast<double>(v.requests);
  v.offered = all / one.seconds();
  v.goodput = static_cast<double>(met) / one.seconds();
  v.failed = one.count(request_log::failed);
  if (v.requests > 0) {
    v.attainment = static_cast<double>(met) / all;
    v.drop_rate = static_cast<double>(one.count(request_log::dropped)) / all;
  }
  return v;
}

}  // namespace cohort_bench::slo

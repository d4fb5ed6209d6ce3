// What became of the requests of one run, and what is made of it: goodput, attainment and drops together, never one
// alone.
#pragma once

#include <cohort/schedule/packet_report.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace cohort_sim {

enum class fate : std::uint8_t { waiting, in_time, late, dropped };

/// One request; latency counts from its intended arrival.
struct verdict {
  std::uint32_t tenant = 0;
  fate how = fate::waiting;
  double latency = 0;  ///< ns; of those that were served
};

struct outcome {
  std::vector<verdict> requests;  ///< in order of arrival
  double duration = 0;            ///< ns, from the first intended arrival to the last
  double busy = 0;                ///< ns in which packets held the device
  std::uint64_t ended_twice = 0;  ///< must be 0
  cohort::scheduler_statistics counters{};

  double share(fate how) const {
    const auto count =
        std::count_if(requests.begin(), requests.end(), [how](const verdict& v) { return v.how == how; });
    return requests.empty() ? 0 : static_cast<double>(count) / static_cast<double>(requests.size());
  }
  double attainment() const { return share(fate::in_time); }
  double drop_rate() const { return share(fate::dropped); }

  /// Requests in time, per second.
  double goodput() const {
    return duration > 0 ? attainment() * static_cast<double>(requests.size()) / duration * 1e9 : 0;
  }

  /// Of the time that ops waited in the queue, the part in which packets were in flight.
  double wait_hidden() const {
    const auto waited = static_cast<double>(counters.waited.count());
    return waited > 0 ? static_cast<double>(counters.waited_hidden.count()) / waited : 1;
  }

  double submissions_per_packet() const {
    return counters.packets > 0 ? static_cast<double>(counters.committed) / static_cast<double>(counters.packets) : 0;
  }

  /// Latencies of those that were served, of all tenants or of one.
  std::vector<double> latencies() const {
    return latencies_of([](const verdict&) { return true; });
  }
  std::vector<double> latencies(std::uint32_t tenant) const {
    return latencies_of([tenant](const verdict& v) { return v.tenant == tenant; });
  }

  template <class Wanted>
  std::vector<double> latencies_of(Wanted&& wanted) const {
    std::vector<double> all;
    for (const verdict& one : requests) {
      if ((one.how == fate::in_time || one.how == fate::late) && wanted(one)) all.push_back(one.latency);
    }
    return all;
  }
};

}  // namespace cohort_sim

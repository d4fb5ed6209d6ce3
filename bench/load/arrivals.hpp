// Open-loop load: when requests are meant to arrive, whose they are, and what they ask for. Known before a run begins,
// so that a server that falls behind finds its requests waiting. Simulator and benchmarks enter.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cohort_load {

/// One request. `at` is its intended arrival, from the beginning of the run: latency counts from there.
struct arrival {
  std::chrono::nanoseconds at{0};
  std::uint32_t tenant = 0;
  std::uint32_t model = 0;

  friend bool operator==(const arrival&, const arrival&) = default;
};

/// How gaps between arrivals are distributed. Whatever the law, the mean rate is the one asked for.
enum class law : std::uint8_t {
  poisson,  ///< exponential gaps
  gamma,  ///< Gamma gaps; `shape` is their coefficient of variation (4: bursty, as in Clipper's and Clockwork's loads)
  log_normal,  ///< log-normal gaps; `shape` is sigma of the logarithm
  bursts,  ///< Poisson that is on for a tenth of the time and off for the rest; `shape` is the mean arrivals of a burst
};

struct gaps {
  law kind = law::poisson;
  double shape = 1;

  friend bool operator==(const gaps&, const gaps&) = default;
};

/// A law under the name by which command lines know it.
struct named_gaps {
  std::string_view name;
  gaps law;
};

/// What cohort is measured with: simulator and device see the same loads.
inline constexpr std::array<named_gaps, 5> measured_laws{{{"poisson", {law::poisson, 1}},
                                                          {"gamma", {law::gamma, 4}},
                                                          {"log_normal_1.5", {law::log_normal, 1.5}},
                                                          {"log_normal_2", {law::log_normal, 2}},
                                                          {"bursts", {law::bursts, 50}}}};

inline std::string name_of(const gaps& one) {
  char text[32] = "Poisson";
  switch (one.kind) {
    case law::poisson: break;
    case law::gamma: std::snprintf(text, sizeof text, "Gamma CV %g", one.shape); break;
    case law::log_normal: std::snprintf(text, sizeof text, "log-normal %g", one.shape); break;
    case law::bursts: std::snprintf(text, sizeof text, "bursts of %g", one.shape); break;
  }
  return text;
}

/// Who sends, and how much of the whole.
struct source {
  std::uint32_t tenant = 0;
  std::uint32_t model = 0;
  double share = 1;
};

namespace detail {

/// Gaps of mean 1, drawn one after the other.
class gap_sequence {
public:
  explicit gap_sequence(const gaps& g) : kind_(g.kind), shape_(g.shape) {
    if (!(g.shape > 0)) throw std::invalid_argument("a law of arrivals needs a shape above 0");
    if (g.kind == law::bursts && g.shape < 1) throw std::invalid_argument("a burst has at least one arrival");
    const double cv = g.shape;
    gamma_ = std::gamma_distribution<double>(1 / (cv * cv), cv * cv);
    log_normal_ = std::lognormal_distribution<double>(-g.shape * g.shape / 2, g.shape);
  }

  template <class Engine>
  double operator()(Engine& random) {
    switch (kind_) {
      case law::gamma: return gamma_(random);
      case law::log_normal: return log_normal_(random);
      case law::bursts: return burst_gap(random);
      case law::poisson: break;
    }
    return exponential_(random);
  }

private:
  /// Inside a burst the rate is ten times the mean; the number of arrivals in a burst is geometric, and the pause after
  /// it makes up for the rest.
  template <class Engine>
  double burst_gap(Engine& random) {
    constexpr double on = 0.1;
    const double inside = exponential_(random) * on;
    if (std::uniform_real_distribution<double>()(random) * shape_ >= 1) return inside;
    return inside + exponential_(random) * shape_ * (1 - on);
  }

  law kind_;
  double shape_;
  std::exponential_distribution<double> exponential_{1.0};
  std::gamma_distribution<double> gamma_;
  std::lognormal_distribution<double> log_normal_;
};

}  // namespace detail

/// Arrivals of `duration`, in order of time: one stream of `rate` per second whose gaps follow a law, each request from
/// a source drawn by its share. Equal arguments give equal arrivals.
///
/// \throws std::invalid_argument for a rate or shares that are not above 0, or no source
inline std::vector<arrival> generate(const gaps& g, double rate, std::chrono::nanoseconds duration,
                                     std::span<const source> sources, std::uint64_t seed) {
  if (!(rate > 0) || sources.empty()) throw std::invalid_argument("arrivals need a rate above 0 and a source");
  std::vector<double> until;  // cumulated shares
  double sum = 0;
  for (const source& one : sources) {
    if (!(one.share > 0)) throw std::invalid_argument("a source of arrivals needs a share above 0");
    until.push_back(sum += one.share);
  }
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> where(0, sum);
  detail::gap_sequence gap(g);
  std::vector<arrival> all;
  const double mean_ns = 1e9 / rate;
  const auto end = static_cast<double>(duration.count());
  for (double at = gap(random) * mean_ns; at < end; at += gap(random) * mean_ns) {
    const auto found = std::upper_bound(until.begin(), until.end() - 1, where(random));
    const source& from = sources[static_cast<std::size_t>(found - until.begin())];
    all.push_back({std::chrono::nanoseconds{static_cast<std::int64_t>(at)}, from.tenant, from.model});
  }
  return all;
}

/// `count` sources with one tenant and one model each; the shares are equal, or fall as 1 / rank^skew (Zipf).
inline std::vector<source> sources_of(std::uint32_t count, double skew = 0) {
  std::vector<source> all;
  for (std::uint32_t i = 0; i < count; ++i) all.push_back({i, i, std::pow(i + 1.0, -skew)});
  return all;
}

/// Several streams as one, in order of time.
inline std::vector<arrival> merged(std::span<const std::vector<arrival>> streams) {
  std::vector<arrival> all;
  for (const auto& one : streams) {
    std::vector<arrival> both;
    both.reserve(all.size() + one.size());
    std::merge(all.begin(), all.end(), one.begin(), one.end(), std::back_inserter(both),
               [](const arrival& a, const arrival& b) { return a.at < b.at; });
    all.swap(both);
  }
  return all;
}

}  // namespace cohort_load

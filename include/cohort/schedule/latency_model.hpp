// How long work takes: op costs turned into time by a device's rates, corrected by what was measured. Distributions are
// kept by class, in bounded memory, and the model counts its own error. No clock, no device: it is told.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/published.hpp>
#include <cohort/op.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// A rolling distribution of durations: four counters per octave from 16 ns to an hour, halved together whenever
/// `window` samples are in, so that the past fades. A quantile is at most 19 % above the truth.
class rolling_histogram {
public:
  static constexpr std::uint32_t window = 1024;

  void add(double ns) noexcept {
    ++counts_[slot(ns)];
    if (++total_ < window) return;
    std::uint32_t left = 0;
    for (auto& count : counts_) left += (count = static_cast<std::uint16_t>(count / 2));
    total_ = left;
  }

  /// Upper end of the counter that holds the quantile `q` of (0, 1]; 0 without samples.
  double quantile(double q) const noexcept {
    const double wanted = q * static_cast<double>(samples());
    double below = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      below += counts_[i];
      if (below > 0 && below >= wanted) return least * std::exp2(static_cast<double>(i + 1) / per_octave);
    }
    return 0;
  }

  std::uint32_t samples() const noexcept { return total_; }

private:
  static constexpr double least = 16;
  static constexpr double per_octave = 4;

  /// Quarters of octaves above the least, by exponent and fraction: a logarithm takes some fifty instructions more.
  static std::size_t slot(double ns) noexcept {
    static_assert(per_octave == 4);
    if (!(ns > least)) return 0;
    constexpr auto bits_of = [](double x) { return std::bit_cast<std::uint64_t>(x); };
    constexpr std::uint32_t fraction_bits = 52;
    constexpr std::uint64_t one = bits_of(1);
    const std::uint64_t above = bits_of(ns) - bits_of(least);  // an octave is a step of the exponent
    const std::uint64_t fraction = one | (above & ((std::uint64_t{1} << fraction_bits) - 1));
    std::size_t quarter = 0;
    for (const double root : {1.1892071150027210667, 1.4142135623730950488, 1.6817928305074290861}) {
      quarter += fraction >= bits_of(root) ? 1 : 0;
    }
    return std::min<std::size_t>(4 * (above >> fraction_bits) + quarter, 151);
  }

  std::array<detail::published<std::uint16_t>, 152> counts_{};
  detail::published<std::uint32_t> total_;
};

/// What is known of one class of work: an op type, a power of four of its estimated time, alone in its packet or not.
struct latency_class {
  rolling_histogram measured;               ///< device time of a record
  detail::published<double> correction{1};  ///< measured over estimated
  detail::published<double> error{0};       ///< rolling mean of |predicted - measured| / measured
};

/// A class as users see it. Times are of one record: of an op, or of several that were fused.
struct latency_report {
  const char* op = "";
  bool company = false;                  ///< others were in its packet
  std::chrono::nanoseconds at_least{0};  ///< by the device's rates alone; the class ends at four times that
  std::uint32_t samples = 0;             ///< of the newest thousand or so
  std::chrono::nanoseconds p50{0};
  std::chrono::nanoseconds p95{0};
  std::chrono::nanoseconds p99{0};
  double correction = 1;  ///< predicted over what the rates say
  double error = 0;       ///< rolling mean of |predicted - measured| / measured
};

/// Predicts device time. Begins with the roofline of the device's rates and learns a correction by class, what a packet
/// costs beside its records (the overhead), and how long one that meets an idle device is on its way before and after
/// (the lead): a full device hides that, so that packets follow each other by overhead and records alone.
///
/// A packet is measured as a whole. What the prediction missed is shared among its terms in proportion to each, and
/// each moves an eighth of the way towards what would have made the prediction true: equations solved in turn
/// (Kaczmarz, 1937), relative to what is known. Packets of one class make that exact; mixed ones converge.
class latency_model {
public:
  explicit latency_model(const device_rates& rates, std::size_t ops)
      : ns_per_flop_(inverse(rates.flops_per_ns)),
        ns_per_byte_(inverse(rates.bytes_per_ns)),
        overhead_ns_(static_cast<double>(rates.packet_overhead.count())),
        lead_ns_(overhead_ns_),
        told_ns_(overhead_ns_),
        by_op_(ops) {
    for (auto& one : by_op_) one = std::make_unique<classes>();
  }

  /// By the rates alone: the longer of arithmetic and memory traffic.
  double roofline(double flops, double bytes) const noexcept {
    return std::min(std::max(flops * ns_per_flop_, bytes * ns_per_byte_), longest_ns);
  }

  double roofline(const op_cost& cost) const noexcept {
    return roofline(static_cast<double>(cost.flops), static_cast<double>(cost.bytes));
  }

  /// Of a packet on a device that is kept full. Begins with what the rates say.
  double overhead() const noexcept { return overhead_ns_; }

  /// What a packet takes beyond overhead and records when it meets an idle device. Begins with the overhead that the
  /// rates say: half of an empty round trip.
  double lead() const noexcept { return lead_ns_; }

  /// Records of one op whose rooflines are in one octave belong to one class. An octave here is two powers of two.
  static std::uint16_t octave_of(double ns) noexcept {
    // Through a signed number: processors convert to those in one instruction, and `ns` is at most an hour.
    const auto whole = static_cast<std::uint64_t>(static_cast<std::int64_t>(ns));
    return static_cast<std::uint16_t>(std::min<std::size_t>(std::bit_width(whole) / 2, octaves - 1));
  }

  /// Predicted device time, without the packet's overhead, of a record whose roofline is `ns`.
  double predict(std::uint16_t op, std::uint16_t octave, double ns, bool company) const noexcept {
    return std::min(ns * class_of(op, octave, company).correction, longest_ns);
  }

  double predict(std::uint16_t op, double ns, bool company) const noexcept {
    return predict(op, octave_of(ns), ns, company);
  }

  /// One class of the records of a measured packet.
  struct part {
    std::uint16_t op = 0;
    std::uint16_t octave = 0;
    bool company = false;
    std::uint32_t records = 0;
    double roofline_ns = 0;   ///< of one record, the newest
    double predicted_ns = 0;  ///< of all of them
  };

  /// Learns from a packet. `predicted_ns`: overhead and records. `led`: it met an idle device, or was committed so late
  /// that the lead is in what was measured. What was measured as no time at all teaches nothing.
  void measured(const part* parts, std::size_t count, double predicted_ns, bool led, double measured_ns) noexcept {
    if (!(measured_ns > 0) || !(predicted_ns > 0)) return;
    const double all = predicted_ns + (led ? lead_ns_ : 0);
    ++packets_;
    error_ += (std::abs(all - measured_ns) / std::max(all, measured_ns) - error_) / std::min<double>(64, packets_);
    at_best_ = 1 / (1 + error_);
    const double ratio = std::clamp(measured_ns / all, 1. / 8, 8.);
    const auto square = [all](double ns) { return ns / all * (ns / all); };
    double squares = square(overhead_ns_) + (led ? square(lead_ns_) : 0);
    for (const part* one = parts; one != parts + count; ++one) squares += square(one->predicted_ns);
    const auto factor = [&](double ns, double gain) {
      return std::clamp(1 + gain * (ratio - 1) * (ns / all) / squares, 0.5, 4.);
    };
    const auto toll = [&](double ns) { return std::clamp(ns * factor(ns, 1. / 16), told_ns_ / 8, 8 * told_ns_); };
    for (const part* one = parts; one != parts + count; ++one) {
      latency_class& known = class_of(one->op, one->octave, one->company);
      known.measured.add(one->predicted_ns * ratio / one->records);
      known.error += (std::abs(1 / ratio - 1) - known.error) / 16;
      // The first packets are trusted more: rates that are off by much should not last for many packets.
      const double gain = known.measured.samples() < 8 ? 0.5 : 0.125;
      known.correction = std::clamp(known.correction * factor(one->predicted_ns, gain), 1. / 64, 4096.);
    }
    if (led) lead_ns_ = toll(lead_ns_);
    overhead_ns_ = toll(overhead_ns_);
  }

  /// Rolling mean over packets of |predicted - measured| over the larger of the two.
  double error() const noexcept { return error_; }

  /// What `ns` predicted may turn out as, if the prediction is too long by as much as predictions usually err.
  double at_best(double ns) const noexcept { return ns * at_best_; }

  std::size_t ops() const noexcept { return by_op_.size(); }

  /// What was measured of each class. Any thread.
  std::vector<latency_report> report(std::span<const op_info> ops) const {
    std::vector<latency_report> all;
    for_each([&](std::size_t op, std::size_t log2_ns, bool company, const latency_class& one) {
      const auto quantile = [&one](double q) {
        return std::chrono::nanoseconds{static_cast<std::int64_t>(one.measured.quantile(q))};
      };
      all.push_back({.op = ops[op].name,
                     .company = company,
                     .at_least = std::chrono::nanoseconds{(std::int64_t{1} << log2_ns) / 2},
                     .samples = one.measured.samples(),
                     .p50 = quantile(0.5),
                     .p95 = quantile(0.95),
                     .p99 = quantile(0.99),
                     .correction = one.correction,
                     .error = one.error});
    });
    return all;
  }

  /// Calls `visit(op, log2 of roofline ns, company, latency_class)` for every class with samples.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (std::size_t op = 0; op < by_op_.size(); ++op) {
      for (std::size_t i = 0; i < by_op_[op]->size(); ++i) {
        const latency_class& one = (*by_op_[op])[i];
        if (one.measured.samples() > 0) visit(op, i / 2 * 2, i % 2 != 0, one);
      }
    }
  }

private:
  /// An hour: costs beyond it are mistakes, and sums of a few such packets must stay far from overflow.
  static constexpr double longest_ns = 3.6e12;
  static constexpr std::size_t octaves = 16;  // two powers of two each, up to four seconds

  using classes = std::array<latency_class, 2 * octaves>;

  /// A rate that is not a positive number means "unknown"; such work is taken for free instead of endless.
  static double inverse(double rate) noexcept { return rate > 0 ? 1 / rate : 0; }

  latency_class& class_of(std::uint16_t op, std::size_t octave, bool company) const noexcept {
    return (*by_op_[op])[2 * octave + (company ? 1 : 0)];
  }

  double ns_per_flop_;
  double ns_per_byte_;
  double overhead_ns_;
  double lead_ns_;
  double told_ns_;  // the overhead that the rates say
  std::vector<std::unique_ptr<classes>> by_op_;
  double packets_ = 0;
  double error_ = 0;
  double at_best_ = 1;  // 1 / (1 + error)
};

}  // namespace cohort::inline COHORT_ABI

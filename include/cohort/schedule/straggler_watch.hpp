// Finds stragglers: op types and tenants whose latency degrades against their own history. It is told what was expected
// and what was measured, asks a hook of the user what to do about it, and notices recovery. No clock, no device.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// What a straggler is.
enum class straggler_scope : std::uint8_t { op, tenant };

/// What is to become of a straggler until it has recovered.
enum class straggler_action : std::uint8_t {
  keep,     ///< nothing changes
  isolate,  ///< it has packets of its own, so that nobody waits for it
  evict,    ///< its submissions are refused with `errc::evicted`, but for one in each `probe_interval`
};

/// What the hook is told.
struct straggler_report {
  straggler_scope scope = straggler_scope::op;
  std::uint32_t index = 0;  ///< position in the op set, or tenant id
  double factor = 1;        ///< recent latency over its history
  time_point when{};
  bool recovered = false;  ///< it was a straggler and is none any more; the answer to this is ignored
};

struct straggler_options {
  double degraded_above = 2.0;    ///< factor over history at which one becomes a straggler
  double recovered_below = 1.3;   ///< factor at which it is none any more
  std::uint32_t persistence = 8;  ///< packets in a row that must say so
  std::uint32_t minimum = 64;     ///< packets before one is judged
  std::chrono::nanoseconds probe_interval = std::chrono::milliseconds(100);
};

/// Told of every packet: what it held and how long it took.
///
/// Only packets are measured, not what is in them. So each packet is one equation: its expected time, by the long
/// history of its records, times a factor of each op and one of each tenant. All that are in it move a part of the way
/// to its solution, by their shares (normalised least mean squares, of logarithms), and an op four times as far as a
/// tenant: what one tenant alone suffers from is his, and what all suffer from is the op's. What rides with a straggler
/// is blamed as long as it always does, and cleared by packets without it. The history is by op, size and company, so
/// that neither a change of sizes nor of load looks like one of speed; it stands still while a packet holds a
/// straggler.
///
/// Memory: allocates in `reserve_*` alone. Thread-safety: none; it belongs to the scheduler's owner, who calls the
/// hook.
class straggler_watch {
public:
  /// Answers what to do. Must not throw, block, or call the watch.
  using hook = std::function<straggler_action(const straggler_report&)>;

  explicit straggler_watch(hook told, const straggler_options& options = {})
      : options_(options), told_(std::move(told)) {}

  /// One op's records in a packet.
  struct op_share {
    std::uint16_t op = 0;
    bool company = false;  ///< others were in the packet
    double work_ns = 0;    ///< by the device's rates alone: no correction that was learned
  };

  void reserve_ops(std::size_t count) {
    ops_.resize(std::max(ops_.size(), count));
    history_.resize(std::max(history_.size(), count));
    history_of_packet_.reserve(64);
    ops_of_packet_.reserve(64);
  }

  void reserve_tenants(std::size_t count) {
    tenants_.resize(std::max(tenants_.size(), count));
    tenants_of_packet_.reserve(tenants_.size());
  }

  /// First of a packet's: an op and its work. At most 64 of them are looked at.
  void add(const op_share& share) noexcept {
    if (!(share.work_ns > 0) || history_of_packet_.size() == 64) return;
    history& past = history_[share.op][2 * size_of(share.work_ns) + (share.company ? 1 : 0)];
    history_of_packet_.push_back({&past, share.work_ns});
    member& one = ops_[share.op];
    const double expected = share.work_ns * usual(share, past);
    if (one.share == 0) ops_of_packet_.push_back(share.op);
    one.share += expected;
    expected_ns_ += expected;
  }

  /// Then whose it was: a tenant and its part of the work, in any unit.
  void add_tenant(tenant_id tenant, double part) noexcept {
    if (!(part > 0) || tenant >= tenants_.size()) return;
    if (tenants_[tenant].share == 0) tenants_of_packet_.push_back(tenant);
    tenants_[tenant].share += part;
    parts_ += part;
  }

  /// At last: how long the packet took. No time at all tells nothing.
  void measured(double ns, time_point now) noexcept {
    if (ns > 0 && expected_ns_ > 0 && parts_ > 0) {
      bool sound = true;
      double by_ops = 0;
      double by_tenants = 0;
      for (const std::uint32_t op : ops_of_packet_) {
        sound = sound && !ops_[op].straggling;
        by_ops += ops_[op].share * ops_[op].recent;
      }
      for (const std::uint32_t tenant : tenants_of_packet_) {
        sound = sound && !tenants_[tenant].straggling;
        by_tenants += tenants_[tenant].share * tenants_[tenant].recent;
      }
      // One hiccup must not look like a long decline.
      const double off = std::clamp(std::log(ns / (by_ops * by_tenants / parts_)), -3.0, 3.0);
      correct(ops_, ops_of_packet_, by_ops, off / 6);
      correct(tenants_, tenants_of_packet_, by_tenants, off / 24);
      if (sound) learn(ns);
      for (const std::uint32_t op : ops_of_packet_) judge(straggler_scope::op, op, ops_[op], sound, now);
      for (const std::uint32_t tenant : tenants_of_packet_) {
        judge(straggler_scope::tenant, tenant, tenants_[tenant], sound, now);
      }
    }
    forget_packet();
  }

  /// Whether a submission may come in. Of what is evicted one may, now and then: how else would it recover?
  bool admits(std::uint16_t op, tenant_id tenant, time_point now) noexcept {
    member& of_op = ops_[op];
    member& of_tenant = tenants_[tenant];
    const bool out_op = of_op.action == straggler_action::evict;
    const bool out_tenant = of_tenant.action == straggler_action::evict;
    if ((out_op && now < of_op.next_probe) || (out_tenant && now < of_tenant.next_probe)) return false;
    if (out_op) of_op.next_probe = now + options_.probe_interval;
    if (out_tenant) of_tenant.next_probe = now + options_.probe_interval;
    return true;
  }

  /// Submissions may share a packet when this is equal; 0 for all that is sound. What is let in as a probe rides alone.
  std::uint64_t company_of(std::uint16_t op, tenant_id tenant) const noexcept {
    const std::uint64_t of_op = ops_[op].action == straggler_action::keep ? 0 : std::uint64_t{op} + 1;
    const std::uint64_t of_tenant = tenants_[tenant].action == straggler_action::keep ? 0 : std::uint64_t{tenant} + 1;
    return of_op << 33 | of_tenant;
  }

  /// Recent latency over history; 1 without evidence.
  double factor(straggler_scope scope, std::uint32_t index) const noexcept {
    return bank(scope)[index].recent / bank(scope)[index].usual;
  }

  bool straggling(straggler_scope scope, std::uint32_t index) const noexcept { return bank(scope)[index].straggling; }

private:
  /// An op or a tenant.
  struct member {
    double share = 0;   // of the packet that is being told
    double recent = 1;  // measured over expected, lately
    double usual = 1;   // the same, in the long run
    std::uint32_t packets = 0;
    std::uint32_t in_a_row = 0;
    bool straggling = false;
    straggler_action action = straggler_action::keep;
    time_point next_probe{};
  };

  /// Measured over work of one class of records, in the long run.
  struct history {
    double ratio = 1;
    std::uint32_t packets = 0;
  };

  struct told_share {
    history* past;
    double work_ns;
  };

  static constexpr std::size_t sizes = 16;  // two powers of two each, up to four seconds

  static std::size_t size_of(double ns) noexcept {
    return std::min(static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(std::min(ns, 1e15)))) / 2,
                    sizes - 1);
  }

  const std::vector<member>& bank(straggler_scope scope) const noexcept {
    return scope == straggler_scope::op ? ops_ : tenants_;
  }

  /// What is new in its kind is expected to be as it was with company, or without.
  double usual(const op_share& share, const history& past) const noexcept {
    if (past.packets > 0) return past.ratio;
    return history_[share.op][2 * size_of(share.work_ns) + (share.company ? 0 : 1)].ratio;
  }

  /// Moves those of a packet, by their shares of what was predicted, so that it would have been true.
  static void correct(std::vector<member>& all, const std::vector<std::uint32_t>& present, double predicted,
                      double step) noexcept {
    double power = 0;
    const auto share = [&](const member& one) { return one.share * one.recent / predicted; };
    for (const std::uint32_t index : present) power += share(all[index]) * share(all[index]);
    for (const std::uint32_t index : present) {
      member& one = all[index];
      one.recent = std::clamp(one.recent * std::exp(step * share(one) / power), 1. / 64, 64.);
    }
  }

  void judge(straggler_scope scope, std::uint32_t index, member& one, bool sound, time_point now) noexcept {
    ++one.packets;
    if (sound) one.usual += (one.recent - one.usual) / std::min<double>(512, one.packets);
    if (one.packets < options_.minimum) return;
    const double factor = one.recent / one.usual;
    const bool turning = one.straggling ? factor < options_.recovered_below : factor > options_.degraded_above;
    one.in_a_row = turning ? one.in_a_row + 1 : 0;
    if (one.in_a_row < options_.persistence) return;
    one.in_a_row = 0;
    one.straggling = !one.straggling;
    one.action = straggler_action::keep;
    if (told_) {
      const straggler_action answer = told_(straggler_report{
          .scope = scope, .index = index, .factor = factor, .when = now, .recovered = !one.straggling});
      if (one.straggling) one.action = answer;
    }
    one.next_probe = now + options_.probe_interval;
  }

  void learn(double ns) noexcept {
    double predicted = 0;
    double power = 0;
    for (const told_share& one : history_of_packet_) {
      predicted += one.work_ns * one.past->ratio;
      power += one.work_ns * one.work_ns;
    }
    for (const told_share& one : history_of_packet_) {
      history& past = *one.past;
      const double gain = 1 / std::min<double>(512, ++past.packets);
      past.ratio = std::clamp(past.ratio + gain * (ns - predicted) * one.work_ns / power, 1. / 1024, 65536.);
    }
  }

  void forget_packet() noexcept {
    for (const std::uint32_t op : ops_of_packet_) ops_[op].share = 0;
    for (const std::uint32_t tenant : tenants_of_packet_) tenants_[tenant].share = 0;
    ops_of_packet_.clear();
    tenants_of_packet_.clear();
    history_of_packet_.clear();
    expected_ns_ = parts_ = 0;
  }

  straggler_options options_;
  hook told_;
  std::vector<member> ops_;
  std::vector<member> tenants_;
  std::vector<std::array<history, 2 * sizes>> history_;  // by op; then by size and company
  std::vector<std::uint32_t> ops_of_packet_;
  std::vector<std::uint32_t> tenants_of_packet_;
  std::vector<told_share> history_of_packet_;
  double expected_ns_ = 0;
  double parts_ = 0;
};

}  // namespace cohort::inline COHORT_ABI

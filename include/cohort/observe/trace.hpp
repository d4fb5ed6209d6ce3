// Records what a scheduler does, in memory taken up front: one record for each submission when it has ended, and one
// for each packet when it is complete. Whoever wants a trace gives a recorder to the executor; chrome_trace.hpp writes
// it.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/observer.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/submission.hpp>
#include <cohort/schedule/tenant_table.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// A submission from beginning to end.
struct traced_op {
  std::uint64_t id = 0;
  tenant_id tenant = 0;
  std::uint16_t op = 0;
  ending how = ending::settled;  ///< meaningless with a packet
  std::uint32_t packet = 0;      ///< its sequence number; 0: it never was in one
  std::uint32_t rows = 1;
  time_point arrived{};
  time_point committed{};
  time_point ended{};
  time_point deadline{};
  error_code result{};
};

/// A packet from beginning to end.
struct traced_packet {
  packet_report report{};
  time_point began{};
  time_point ended{};
  std::chrono::nanoseconds predicted{0};
  std::uint32_t missed = 0;
  error_code result{};
};

/// What a recorder holds, oldest first. Every op that names a packet has that packet here too, unless several packets
/// with its number are (a backend refused one): then the one that ended when the op did is its own.
struct trace_snapshot {
  std::vector<std::string> op_names;              ///< by position in the op set
  std::map<tenant_id, std::string> tenant_names;  ///< of those that have one
  std::vector<traced_op> ops;
  std::vector<traced_packet> packets;
  std::uint64_t lost_ops = 0;  ///< ended, and overwritten by newer ones or too many at once
  std::uint64_t lost_packets = 0;
};

namespace detail {

/// The newest `capacity` of what is pushed.
template <class T>
class ring_log {
public:
  explicit ring_log(std::size_t capacity) : all_(std::max<std::size_t>(capacity, 1)) {}

  void push(const T& one) noexcept { all_[pushed_++ % all_.size()] = one; }

  std::uint64_t lost() const noexcept { return pushed_ - held(); }

  std::vector<T> oldest_first() const {
    std::vector<T> out;
    out.reserve(held());
    for (std::uint64_t i = lost(); i < pushed_; ++i) out.push_back(all_[i % all_.size()]);
    return out;
  }

private:
  std::size_t held() const noexcept { return static_cast<std::size_t>(std::min<std::uint64_t>(pushed_, all_.size())); }

  std::vector<T> all_;
  std::uint64_t pushed_ = 0;
};

}  // namespace detail

/// Keeps the newest ops and packets that have ended, so that what it holds is whole: no beginning without its end. What
/// is still pending or on the device is not in it yet.
///
/// For one executor. Memory: allocates in its constructor, for names, and in `snapshot`; recording allocates nothing.
/// Cost: one uncontended lock for each packet formed, each packet completed, and each op that ended without a packet.
/// Thread-safety: `snapshot` from any thread; it holds the driving thread up while it copies.
class trace_recorder final : public schedule_observer {
public:
  /// \param capacity ops that are kept, and packets; some 250 bytes for both
  explicit trace_recorder(std::size_t capacity = 65'536) : ops_(capacity), packets_(capacity), open_(1024) {}

  trace_snapshot snapshot() const {
    std::lock_guard lock(mutex_);
    return {.op_names = op_names_,
            .tenant_names = tenant_names_,
            .ops = ops_.oldest_first(),
            .packets = packets_.oldest_first(),
            .lost_ops = ops_.lost() + lost_ops_,
            .lost_packets = packets_.lost() + lost_packets_};
  }

  void observing(std::span<const op_info> ops) override {
    std::lock_guard lock(mutex_);
    op_names_.clear();
    for (const op_info& one : ops) op_names_.emplace_back(one.name);
  }

  void tenant_set(tenant_id id, const tenant_options& options) override {
    std::lock_guard lock(mutex_);
    tenant_names_[id] = options.name;
  }

  void formed(const packet_report& packet, const submission*) noexcept override {
    std::lock_guard lock(mutex_);
    // Without a place for it the packet is told as lost when it completes.
    if (open_count_ < open_.size()) open_[open_count_++] = packet;
  }

  void completed(const packet_result& packet) noexcept override {
    std::lock_guard lock(mutex_);
    const auto end = open_.begin() + static_cast<std::ptrdiff_t>(open_count_);
    const auto found =
        std::find_if(open_.begin(), end, [&](const packet_report& one) { return one.sequence == packet.sequence; });
    if (found == end) {
      ++lost_packets_;
      lost_ops_ += packet.submissions;
      return;
    }
    packets_.push(traced_packet{.report = *found,
                                .began = packet.began,
                                .ended = packet.ended,
                                .predicted = packet.predicted,
                                .missed = packet.missed,
                                .result = packet.result});
    *found = open_[--open_count_];
    for (const submission* one = packet.members; one != nullptr; one = one->next) {
      traced_op op = describe(*one, packet.ended);
      op.packet = packet.sequence;
      op.committed = packet.committed;
      ops_.push(op);
    }
  }

  void ended(const submission& one, ending how, time_point now) noexcept override {
    traced_op op = describe(one, now);
    op.how = how;
    std::lock_guard lock(mutex_);
    ops_.push(op);
  }

private:
  static traced_op describe(const submission& one, time_point now) noexcept {
    return {.id = one.id,
            .tenant = one.tenant,
            .op = one.op_index,
            .rows = one.rows,
            .arrived = one.arrived,
            .ended = std::max(now, one.arrived),
            .deadline = one.deadline,
            .result = one.result};
  }

  mutable std::mutex mutex_;
  // All that follows is guarded by mutex_.
  std::vector<std::string> op_names_;
  std::map<tenant_id, std::string> tenant_names_{{0, "default"}};
  detail::ring_log<traced_op> ops_;
  detail::ring_log<traced_packet> packets_;
  std::vector<packet_report> open_;  // formed and not completed: the first `open_count_`
  std::size_t open_count_ = 0;
  std::uint64_t lost_ops_ = 0;
  std::uint64_t lost_packets_ = 0;
};

}  // namespace cohort::inline COHORT_ABI

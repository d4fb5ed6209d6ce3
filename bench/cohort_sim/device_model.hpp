// A device on virtual time, after measurements of the resident superkernel on one H200 (docs/benchmarks). It is told
// packets as bytes, as a backend is, and knows nothing of what the scheduler believes of it.
#pragma once

#include "models.hpp"

#include <cohort/schedule/packet.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>

namespace cohort_sim {

/// Nanoseconds, and operations or bytes in one.
///
/// A packet is seen by the device some time after its doorbell, and its completion by the host some time after its end;
/// in between it holds the device for its work, or for as long as handing it out takes. Its last tile ends later by
/// the time that one tile takes from its first to its last step, while the next packet's tiles already run. So a packet
/// with nothing to do is back after 5.9 us, and when the device is kept full there is one every 2 us.
struct device_parameters {
  double doorbell = 1950;
  double notice = 1950;
  double hand_out = 2000;
  double per_record = 20;
  double per_member = 13;     ///< a descriptor is copied
  double tile_start = 700;    ///< loads of the first slice, and the last stores
  double tile_step = 2.8;     ///< of the reduction over k
  double least_flops = 80e3;  ///< of small records; large ones reach more
  double most_flops = 300e3;
  double half_way = 1e9;  ///< operations of a record that is half way between the two
  double bytes = 3200;
  double noise = 0.05;  ///< sigma of the logarithm of each packet's time
  std::uint32_t slots = 16;
};

class device_model {
public:
  explicit device_model(const device_parameters& parameters = {}, std::uint64_t seed = 1)
      : parameters_(parameters), random_(seed), noise_(0, parameters.noise) {}

  std::uint32_t slots() const noexcept { return parameters_.slots; }

  /// Rings the doorbell at `now`; returns when the host sees that the packet is complete. Packets leave in order.
  double commit(std::span<const std::byte> packet, double now) {
    const load work = decode(packet);
    const double factor = std::exp(noise_(random_));
    const double begin = std::max(now + parameters_.doorbell, free_);
    free_ = begin + factor * std::max(parameters_.hand_out, work.throughput);
    busy_ += free_ - begin;
    const double end = begin + factor * (parameters_.hand_out + std::max(work.latency, work.throughput));
    last_seen_ = std::max(last_seen_, end + parameters_.notice);
    return last_seen_;
  }

  /// Time for which packets held the device.
  double busy() const noexcept { return busy_; }

private:
  struct load {
    double throughput = 0;  // if every worker is busy
    double latency = 0;     // of the longest tile
  };

  load decode(std::span<const std::byte> packet) const {
    const auto header = read<cohort::packet_header>(packet, 0);
    load sum;
    std::size_t at = sizeof header;
    for (std::uint32_t i = 0; i < header.records; ++i) {
      const auto record = read<cohort::record_header>(packet, at);
      at += sizeof record;
      sum.throughput += parameters_.per_record + record.members * parameters_.per_member;
      if (record.op == dense_op) {
        add_dense(packet.subspan(at), record.members, sum);
      } else {
        add_attention(packet.subspan(at), record.members, sum);
      }
      at += record.members * sizeof(dense);
    }
    return sum;
  }

  void add_dense(std::span<const std::byte> members, std::uint32_t count, load& sum) const {
    const auto first = read<dense>(members, 0);
    double rows = 0;
    for (std::uint32_t m = 0; m < count; ++m) rows += read<dense>(members, m * sizeof(dense)).row_count;
    const double n = first.n;
    const double k = first.k;
    const double padded = std::ceil(rows / 16) * 16;  // tensor cores take 16 rows or none
    const double flops = 2 * padded * n * k;
    const double rate = parameters_.least_flops +
                        (parameters_.most_flops - parameters_.least_flops) * flops / (flops + parameters_.half_way);
    const double bytes = 2 * (n * k + rows * (n + k));  // weights once
    sum.throughput += std::max(flops / rate, bytes / parameters_.bytes);
    sum.latency = std::max(sum.latency, parameters_.tile_start + parameters_.tile_step * k);
  }

  void add_attention(std::span<const std::byte> members, std::uint32_t count, load& sum) const {
    for (std::uint32_t m = 0; m < count; ++m) {
      const auto one = read<attention>(members, m * sizeof(attention));
      const double width = static_cast<double>(one.heads) * one.head_size;
      const double tokens = one.tokens;
      sum.throughput +=
          std::max(4 * tokens * tokens * width / parameters_.least_flops, 8 * tokens * width / parameters_.bytes);
      sum.latency = std::max(sum.latency, 2 * parameters_.tile_start + 4 * parameters_.tile_step * tokens);
    }
  }

  template <class T>
  static T read(std::span<const std::byte> bytes, std::size_t at) {
    T value;
    std::memcpy(&value, bytes.subspan(at, sizeof value).data(), sizeof value);
    return value;
  }

  device_parameters parameters_;
  std::mt19937_64 random_;
  std::normal_distribution<double> noise_;
  double free_ = 0;
  double last_seen_ = 0;
  double busy_ = 0;
};

}  // namespace cohort_sim

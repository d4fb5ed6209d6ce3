// Lines of packets that come after others: tiles read what the tiles of a packet before them have written. For any
// bench with a packet source and a ledger. Tests only.
#pragma once

#include "protocol_packets.hpp"

#include <cohort/schedule/packet.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <utility>
#include <vector>

namespace cohort::testing {

/// Several lines of packets, interleaved at random: each packet reads what the one before it in its line has written,
/// and some read what two lines have written.
class lines {
public:
  struct packet {
    std::uint32_t sequence = 0;
    std::vector<std::uint32_t> out;
    std::uint32_t expected = 0;
  };

  /// \param other a line whose newest packet it reads as well
  template <class Bench>
  void commit(Bench& b, std::size_t line, std::size_t other, std::uint32_t tiles, std::uint32_t fillers) {
    all_.resize(std::max({all_.size(), line + 1, other + 1}));
    b.source.begin();
    const std::uint32_t sequence = b.source.last();
    std::deque<packet> made;
    for (const std::size_t from : {line, other}) {
      if (from == other && other == line && !made.empty()) continue;
      packet& next = made.emplace_back();
      next.sequence = sequence;
      next.out.assign(tiles, 0);
      next.expected = 1;
      follow_op op{next.out.data(), nullptr, tiles, 0};
      std::uint32_t after = 0;
      if (!all_[from].empty()) {
        const packet& before = all_[from].back();
        op.in = before.out.data();
        op.inputs = static_cast<std::uint32_t>(before.out.size());
        next.expected += op.inputs * before.expected;
        before_.push_back({before.sequence, sequence});
        after = 1u << std::min(sequence - before.sequence - 1, 31u);
      }
      b.source.append(op);
      b.source.come_after(after);
    }
    for (std::uint32_t i = 0; i < fillers; ++i) b.source.template add<add_op>(1);  // beyond the inline part of a slot
    b.commit(b.source.finish(cohort::packet_is_followed));
    for (std::size_t i = 0; i < made.size(); ++i) all_[i == 0 ? line : other].push_back(std::move(made[i]));
  }

  /// Everything is as it must be, and was reported in an order in which nothing is before what it came after.
  void check(const std::vector<std::uint32_t>& order) const {
    std::map<std::uint32_t, std::size_t> place;
    for (std::size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
    for (const auto& [first, second] : before_) REQUIRE(place.at(first) < place.at(second));
    for (const std::deque<packet>& line : all_) {
      for (const packet& one : line) {
        for (const std::uint32_t value : one.out) REQUIRE(value == one.expected);
      }
    }
  }

private:
  std::vector<std::deque<packet>> all_;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> before_;  // sequences
};

template <class Bench>
void random_lines(Bench& b, std::uint32_t count, unsigned seed) {
  std::mt19937 random(seed);
  lines all;
  for (std::uint32_t i = 0; i < count; ++i) {
    all.commit(b, random() % 3, random() % 3, 1 + random() % 7, random() % 8 == 0 ? 30 : 0);
    if (random() % 4 == 0) b.poll();
    if (random() % 64 == 0) b.drain();
  }
  b.drain();
  all.check(b.order);
  CHECK(b.lost == 0);
}

}  // namespace cohort::testing

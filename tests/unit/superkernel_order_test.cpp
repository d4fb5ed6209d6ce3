// Packets that come after others, over an emulated device: tiles read what the tiles of a packet before them have
// written, in plain memory.
#include "support/emulated_device.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace detail = cohort::detail;
using namespace cohort::testing;
using namespace std::chrono_literals;

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
        // Packets before the last 31 are complete: the ring holds no more.
        if (sequence - before.sequence <= 31) after = 1u << (sequence - before.sequence - 1);
      }
      b.source.append(op);
      b.source.come_after(after);
    }
    for (std::uint32_t i = 0; i < fillers; ++i) b.source.template add<add_op>(1);  // beyond the inline part of a slot
    b.commit(b.source.finish(cohort::packet_is_followed));
    for (std::size_t i = 0; i < made.size(); ++i) all_[i == 0 ? line : other].push_back(std::move(made[i]));
  }

  void check() const {
    for (const std::deque<packet>& line : all_) {
      for (const packet& one : line) {
        for (const std::uint32_t value : one.out) REQUIRE(value == one.expected);
      }
    }
  }

private:
  std::vector<std::deque<packet>> all_;
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
  all.check();
  CHECK(b.lost == 0);
}

TEST_CASE("tiles read what the packet before theirs has written, across every wrap") {
  for (const std::uint32_t first : {1u, 1024u * 64 - 50u, 0u - 100u}) {
    CAPTURE(first);
    bench<small_machine> b({}, {.time_limit = 60s, .first_ticket = first});
    b.start();
    random_lines(b, 400, first);
  }
}

TEST_CASE("also where teams bring some of them, which are announced out of order") {
  bench<wide_machine> b;
  b.start();
  random_lines(b, 200, 5);
}

TEST_CASE("also across residencies that end in between, and in bounded ones") {
  bench<small_machine> brief({.linger = 0us, .longest = 2ms});
  brief.start();
  random_lines(brief, 200, 6);
  CHECK(brief.device.launches() > 2);
  bench<small_machine> bounded({}, {.time_limit = 60s, .bounded = true});
  bounded.start();
  random_lines(bounded, 60, 7);
}

TEST_CASE("a packet is not reported before one that it came after") {
  bench<small_machine> b;
  b.start();
  std::vector<std::uint32_t> order;
  lines all;
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 8; ++i) all.commit(b, 0, 0, 2, 0);
    while (b.host.in_flight() != 0) {
      std::array<cohort::packet_completion, 8> out;
      const std::size_t count = b.host.poll(out);
      for (std::size_t i = 0; i < count; ++i) {
        b.seen.insert(out[i].sequence);
        order.push_back(out[i].sequence);
      }
    }
  }
  for (std::size_t i = 0; i < order.size(); ++i) REQUIRE(order[i] == i + 1);
  all.check();
}

TEST_CASE("a wait for what does not become complete ends in an error word") {
  static std::atomic<bool> release;
  release = false;
  bench<small_machine> b({.linger = 1ms, .limit = 1s}, {.time_limit = 60s});
  b.start();
  b.source.begin();
  b.source.call(
      [](void*, std::uint32_t) {
        while (!release.load()) std::this_thread::sleep_for(1ms);
      },
      nullptr, 1);
  b.commit(b.source.finish(cohort::packet_is_followed));
  b.source.begin();
  b.source.add<add_op>(3);
  b.source.come_after(1);
  b.commit(b.source.finish());
  while (b.host.in_flight() != 0) b.poll();
  CHECK(b.lost == 2);
  CHECK(detail::fault_code(b.host.fault()) == detail::ring_fault::silent_relay);
  CHECK(b.host.reason() == make_error_code(detail::ring_fault::silent_relay));
  release = true;
}

}  // namespace

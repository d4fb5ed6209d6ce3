// Packets that come after others, on the host backend: which of its packets a crew starts, and in which order it
// reports them.
#include "support/packet_ledger.hpp"
#include "support/packet_lines.hpp"
#include "support/protocol_packets.hpp"

#include <cohort/backend/host.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/packet.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <thread>
#include <vector>

namespace {

using namespace cohort::testing;
using namespace std::chrono_literals;

using ops = cohort::op_set<add_op, fused_op, wide_op, follow_op, call_op>;

/// A packet of one tile, which runs until the test lets it go.
struct held {
  std::atomic<bool> started{false};
  std::atomic<bool> let_go{false};

  void go() {
    let_go = true;
    let_go.notify_all();
  }
  static void run(void* self, std::uint32_t) {
    held& one = *static_cast<held*>(self);
    one.started = true;
    one.let_go.wait(false);
  }
};

/// A host backend and a ledger of what completed. Every wait is bounded: a test that hangs fails.
struct bench : packet_ledger {
  explicit bench(unsigned workers, unsigned packets = 4)
      : device({.workers = workers, .device_bytes = 1 << 16, .pinned_bytes = 1 << 16, .packets = packets}) {
    device.on_completion([](void* self) { static_cast<bench*>(self)->told.fetch_add(1); }, this);
  }

  /// What a failed test left held would never end.
  ~bench() {
    for (held& each : all_held) each.go();
  }

  template <class Condition>
  void await(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + 60s;
    while (!condition()) {
      REQUIRE(std::chrono::steady_clock::now() < end);
      std::this_thread::yield();
    }
  }

  void commit(std::span<const std::byte> packet) {
    await([&] {
      if (!device.has_room()) poll();
      return device.has_room();
    });
    REQUIRE_FALSE(device.commit(packet));
    ++committed;
  }

  /// A packet that others may follow, itself after those that `after` names.
  void commit_add(std::uint32_t after = 0, std::uint32_t tiles = 3) {
    source.begin();
    source.add<add_op>(tiles);
    source.come_after(after);
    commit(source.finish(cohort::packet_is_followed));
  }
  held& commit_held(std::uint32_t after = 0) {
    held& one = all_held.emplace_back();
    source.begin();
    source.call(held::run, &one);
    source.come_after(after);
    commit(source.finish(cohort::packet_is_followed));
    return one;
  }

  void poll() { poll_up_to(3); }
  std::size_t poll_up_to(std::size_t most) {
    std::vector<cohort::packet_completion> out(most);
    const std::size_t count = device.poll(out);
    enter(std::span(out).first(count), source);
    return count;
  }

  void drain() {
    await([&] {
      poll();
      return seen.size() == committed;
    });
  }

  packet_source<ops> source;  // these three first: they outlive whatever still runs its packets
  std::deque<held> all_held;
  std::atomic<std::uint32_t> told{0};
  cohort::host_backend<ops> device;
};

using sequences = std::vector<std::uint32_t>;

TEST_CASE("tiles read what the packet before theirs has written, whatever the crew") {
  for (const unsigned workers : {0u, 1u, 2u, 4u}) {
    for (const unsigned packets : {1u, 2u, 4u, 33u, 64u}) {
      CAPTURE(workers);
      CAPTURE(packets);
      bench b(workers, packets);
      random_lines(b, 400, 10 * workers + packets);
    }
  }
}

TEST_CASE("a packet does not start before what it comes after is complete, and others go on meanwhile") {
  bench b(2);
  held& first = b.commit_held();
  held& second = b.commit_held(1);
  second.go();
  b.await([&] { return first.started.load(); });
  // The other worker takes the oldest packet that it may.
  for (std::uint32_t i = 0; i < 20; ++i) {
    b.commit_add();
    b.await([&] { return b.poll_up_to(4) != 0; });
  }
  CHECK_FALSE(second.started);
  CHECK(b.seen.count(1) + b.seen.count(2) == 0);
  first.go();
  b.drain();
  CHECK(second.started);
  CHECK(sequences(b.order.end() - 2, b.order.end()) == sequences{1, 2});
}

TEST_CASE("a packet waits for all that it comes after") {
  for (const int released_first : {0, 1}) {
    CAPTURE(released_first);
    bench b(2);
    held* const before[] = {&b.commit_held(), &b.commit_held()};
    held& last = b.commit_held(0b11);
    last.go();
    b.await([&] { return before[0]->started && before[1]->started; });
    before[released_first]->go();
    b.await([&] { return b.told == 1; });
    b.commit_add();
    // By the free worker, which would have taken the older packet.
    b.await([&] {
      b.poll();
      return b.seen.size() == 2;
    });
    CHECK_FALSE(last.started);
    before[1 - released_first]->go();
    b.drain();
    CHECK(last.started);
    CHECK(b.order.back() == 3);
  }
}

TEST_CASE("ten packets that wait for one start when it is complete, and then one that waits for one of them") {
  bench b(4, 16);
  held& first = b.commit_held();
  std::vector<held*> next;
  for (std::uint32_t i = 0; i < 10; ++i) {  // more than are looked up at once
    next.push_back(&b.commit_held(1u << i));
    next.back()->go();
  }
  held& last = b.commit_held(1);
  last.go();
  b.await([&] { return first.started.load(); });
  first.go();
  b.drain();
  for (const held* each : next) CHECK(each->started);
  CHECK(last.started);
  CHECK(b.order.front() == 1);
}

TEST_CASE("a packet that comes after what is complete starts at once, whether that was reported or not") {
  bench b(2);
  for (const bool reported : {false, true}) {
    CAPTURE(reported);
    const std::uint32_t before = b.told;
    b.commit_add();
    b.await([&] { return b.told == before + 1; });
    if (reported) CHECK(b.poll_up_to(4) == 1);
    b.commit_add(1);
    b.await([&] { return b.told == before + 2; });  // nobody polls
    CHECK(b.poll_up_to(4) == (reported ? 1 : 2));
  }
  CHECK(b.order == sequences{1, 2, 3, 4});
}

TEST_CASE("a packet also comes after those that were committed 32 or more before it, by one bit for all") {
  for (const std::uint32_t between : {36u, 300u}) {  // 300: the other slots are used again and again
    CAPTURE(between);
    bench b(2, 64);
    held& first = b.commit_held();
    b.await([&] { return first.started.load(); });
    for (std::uint32_t i = 0; i < between; ++i) b.commit_add();
    held& after_near = b.commit_held(0x7fff'ffff);
    held& after_far = b.commit_held(1u << 31);
    after_near.go();
    after_far.go();
    b.await([&] { return b.told == between + 1; });
    CHECK(after_near.started);
    b.commit_add();
    b.await([&] {
      b.poll();
      return b.seen.size() == between + 2;
    });
    CHECK_FALSE(after_far.started);
    first.go();
    b.drain();
    CHECK(after_far.started);
    CHECK(sequences(b.order.end() - 2, b.order.end()) == sequences{1, between + 3});
  }
}

TEST_CASE("a packet does not wait for one that nobody follows") {
  bench b(2, 64);
  held& other = b.all_held.emplace_back();
  b.source.begin();
  b.source.call(held::run, &other);
  b.commit(b.source.finish());
  for (std::uint32_t i = 0; i < 40; ++i) b.commit_add();
  b.commit_add(1u << 31);  // the bit stands for all that are so far back, and that one would not tell
  b.await([&] {
    b.poll();
    return b.seen.size() == 41;
  });
  other.go();
  b.drain();
}

TEST_CASE("nothing is reported before what it came after, however few completions are asked for") {
  for (const std::size_t most : {1, 2, 4}) {
    CAPTURE(most);
    bench b(2, 4);
    // Slots are taken again in an order that is not that of the packets.
    b.commit_add();
    held& early = b.commit_held();
    b.await([&] { return b.told == 1 && early.started; });
    CHECK(b.poll_up_to(most) == 1);
    b.commit_add(1);     // where the first was, before the one that it comes after
    b.commit_add(1);     // after that one
    b.commit_add(0b11);  // after both
    early.go();
    b.await([&] { return b.told == 5; });
    while (b.seen.size() != 5) REQUIRE(b.poll_up_to(most) > 0);
    CHECK(b.order == sequences{1, 2, 3, 4, 5});
  }
}

TEST_CASE("without workers a packet that waits has its turn when it may, and a poll still runs one packet") {
  bench b(0);
  b.commit_add();
  b.commit_add(1);
  b.commit_add();
  b.commit_add(0b101);
  for (std::uint32_t i = 1; i <= 4; ++i) {
    CHECK(b.poll_up_to(4) == 1);
    CHECK(b.order.back() == i);
  }
}

TEST_CASE("pause and the end of a backend run what waits, too") {
  for (const unsigned workers : {0u, 1u, 3u}) {
    CAPTURE(workers);
    packet_source<ops> source;
    const auto commit_all = [&](auto& device) {
      for (std::uint32_t i = 0; i < 4; ++i) {
        source.begin();
        source.add<add_op>(5);
        if (i > 0) source.come_after(1);
        REQUIRE_FALSE(device.commit(source.finish(cohort::packet_is_followed)));
      }
    };
    {
      cohort::host_backend<ops> device({.workers = workers, .device_bytes = 1 << 16, .pinned_bytes = 1 << 16});
      commit_all(device);
      REQUIRE_FALSE(device.pause());
      for (std::uint32_t sequence = 1; sequence <= 4; ++sequence) CHECK(source.check(sequence) == outcome::done);
      std::array<cohort::packet_completion, 4> out;
      REQUIRE(device.poll(out) == 4);
      for (std::uint32_t i = 0; i < 4; ++i) CHECK(out[i].sequence == i + 1);
      commit_all(device);
    }
    for (std::uint32_t sequence = 5; sequence <= 8; ++sequence) CHECK(source.check(sequence) == outcome::done);
  }
}

}  // namespace

// The superkernel's protocol over an emulated device.
#include "support/emulated_device.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

namespace detail = cohort::detail;
using namespace cohort::testing;
using namespace std::chrono_literals;

TEST_CASE("every tile runs once and every packet completes once, across every wrap of slots, stamps and tickets") {
  for (const std::uint32_t first : {1u, 65536u * 3 - 100u, 0u - 100u, (1u << 20) - 100u}) {
    CAPTURE(first);
    bench<small_machine> b({}, {.time_limit = 60s, .first_ticket = first});
    b.start();
    CHECK(b.host.workers() == 3);
    random_packets(b, 800, first);
    CHECK(b.lost == 0);
  }
}

TEST_CASE("packets whose results stay on the device complete once, too") {
  bench<small_machine> b({.device_results = true}, {.time_limit = 60s});
  b.start();
  random_packets(b, 400, 5);
  CHECK(b.lost == 0);
}

TEST_CASE("several pollers and helpers bring whole packets") {
  bench<wide_machine> b;
  b.start();
  random_packets(b, 200, 7);
  b.source.begin();  // the largest packet that fits
  while (b.source.room_for(sizeof(add_op))) b.source.add<add_op>(1);
  b.commit(b.source.finish());
  b.source.begin();
  b.source.add<wide_op>(2);
  while (b.source.room_for(sizeof(wide_op))) b.source.add<wide_op>(1);
  b.commit(b.source.finish());
  b.drain();
  CHECK(b.lost == 0);
}

TEST_CASE("a packet that finds the device idle comes whole, whatever the relay expects of it") {
  static_assert(detail::stamped_bytes(512) == 512 && detail::stamped_bytes(528) == detail::short_bytes);
  static_assert(detail::stamped_bytes(1536 | detail::finds_idle) == 1536);
  static_assert(detail::stamped_bytes(1552 | detail::finds_idle) == detail::short_bytes);
  bench<wide_machine> b;
  b.start();
  std::mt19937 random(29);
  const auto packet_of = [&](std::size_t bytes) {
    b.source.begin();
    constexpr std::size_t record = sizeof(cohort::record_header) + sizeof(add_op);
    for (std::size_t size = sizeof(cohort::packet_header) + record; size + record <= bytes; size += record) {
      b.source.add<add_op>(1);
    }
    b.source.add<add_op>(2);
    return b.source.finish();
  };
  // Small, all in elements, with bulk; one after the other, each alone or with others behind it.
  for (int round = 0; round < 150; ++round) {
    const std::size_t sizes[] = {128, 700, 1400, 1530, 1600, 4000};
    b.commit(packet_of(sizes[random() % std::size(sizes)]));
    while (random() % 3 == 0) b.commit(packet_of(sizes[random() % std::size(sizes)]));
    b.drain();
    if (random() % 2 == 0) std::this_thread::sleep_for(200us);  // some looks without a packet
  }
  CHECK(b.lost == 0);
}

TEST_CASE("bounded residencies take exactly what is in the ring") {
  bench<small_machine> b({}, {.time_limit = 60s, .bounded = true, .first_ticket = 65530});
  b.start();
  const std::uint32_t before = b.device.launches();
  for (int i = 0; i < 8; ++i) b.commit(b.source.one(2));
  CHECK(b.device.launches() == before);
  b.drain();
  CHECK(b.device.launches() == before + 1);
  random_packets(b, 60, 3);
}

TEST_CASE("a residency that lingers out while a doorbell rings comes back") {
  std::mt19937 random(11);
  for (const auto linger : {0us, 30us, 300us}) {
    bench<small_machine> b({.linger = linger});
    b.start();
    for (int i = 0; i < 40; ++i) {
      b.commit(b.source.random(random));
      if (random() % 3 == 0) b.drain();
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 400));
    }
    b.drain();
    CHECK(b.device.launches() > 2);
    CHECK(b.lost == 0);
  }
}

TEST_CASE("a residency leaves after its longest time though there is work, and the next one goes on") {
  bench<small_machine> b({.linger = 1s, .longest = 1ms});
  b.start();
  random_packets(b, 150, 5);
  CHECK(b.device.launches() > 2);
}

TEST_CASE("pause completes what was committed, frees the device and keeps the completions for poll") {
  bench<small_machine> b({.linger = 10s});
  b.start();
  std::mt19937 random(23);
  for (int round = 0; round < 6; ++round) {
    for (int i = 0; i < 1 + round; ++i) b.commit(b.source.random(random));
    REQUIRE_FALSE(b.host.pause());
    cohort::error_code why;
    CHECK(b.device.state(why) == detail::launch_state::idle);
    CHECK(b.host.in_flight() == static_cast<std::uint32_t>(1 + round));
    b.drain();
  }
  REQUIRE_FALSE(b.host.pause());
}

TEST_CASE("shutting down with work in flight runs each packet wholly or not at all") {
  for (unsigned seed = 0; seed < 8; ++seed) {
    machine_options options{.linger = 10s};
    small_machine device(options);
    detail::ring_host<small_machine> host(device.ring(), device, {.time_limit = 60s});
    REQUIRE_FALSE(host.prove());
    packet_source<protocol_ops> source;
    std::mt19937 random(seed);
    for (int i = 0; i < 8; ++i) REQUIRE_FALSE(host.commit(source.random(random)));
    std::this_thread::sleep_for(std::chrono::microseconds(300 * seed));
    REQUIRE(host.shut_down());
    bool taken = true;
    for (std::uint32_t sequence = 1; sequence <= source.last(); ++sequence) {
      const outcome seen = source.check(sequence);
      CHECK(seen != outcome::broken);
      if (seen == outcome::untouched) taken = false;
      // In order: nothing behind a packet that was left in the ring.
      if (!taken) CHECK(seen == outcome::untouched);
    }
  }
}

TEST_CASE("a worker that sleeps through announcements without tiles for it catches up") {
  // 23 workers; packets of one tile go to them in turn. Worker 21 does not look until those for 0 to 20 are complete:
  // by then the places where it looks hold later announcements.
  std::atomic<bool> asleep{true};
  machine_options options{.multiprocessors = 24, .blocks_each = 1, .linger = 10s};
  options.before_look = [&](std::uint32_t block) {
    // One block per multiprocessor: its number is its index, and the last one relays.
    while (block == 21 && asleep.load(std::memory_order_relaxed)) std::this_thread::sleep_for(100us);
  };
  asleep = false;
  bench<small_machine> b(std::move(options));
  b.start();
  CHECK(b.host.workers() == 23);
  asleep = true;
  for (int i = 0; i < 21; ++i) b.commit(b.source.one());
  b.drain();
  b.commit(b.source.one());
  std::this_thread::sleep_for(2ms);
  CHECK(b.host.in_flight() == 1);  // that one is worker 21's
  asleep = false;
  b.drain();
  for (int i = 0; i < 60; ++i) b.commit(b.source.one(1 + i % 30));
  b.drain();
}

TEST_CASE("a slow worker delays packets but breaks nothing, in residencies that end early as well") {
  machine_options options{.linger = 100us};
  options.before_look = [](std::uint32_t block) {
    if (block == 1) std::this_thread::sleep_for(300us);
  };
  bench<small_machine> b(std::move(options), {.time_limit = 60s, .first_ticket = 0u - 40u});
  b.start();
  random_packets(b, 100, 17);
}

struct placement {
  std::array<std::atomic<std::uint32_t>, 64> multiprocessor{};
  static void note(void* self, std::uint32_t tile) {
    // Relaxed: read after the packet completed.
    static_cast<placement*>(self)->multiprocessor[tile].store(this_multiprocessor, std::memory_order_relaxed);
  }
};

TEST_CASE("small packets in a row land on different multiprocessors, tiles of one packet too") {
  bench<small_machine> b({.multiprocessors = 4, .blocks_each = 2, .linger = 10s});
  b.start();
  std::array<placement, 4> single;
  for (placement& each : single) {
    b.source.begin();
    b.source.call(&placement::note, &each);
    b.commit(b.source.finish());
  }
  b.drain();
  std::set<std::uint32_t> used;
  for (const placement& each : single) used.insert(each.multiprocessor[0].load());
  CHECK(used.size() == 4);

  // The workers go on where the packets before ended: 3 more tiles exhaust the 7 workers, then the next 4 start over.
  placement three;
  placement four;
  b.source.begin();
  b.source.call(&placement::note, &three, 3);
  b.commit(b.source.finish());
  b.source.begin();
  b.source.call(&placement::note, &four, 4);
  b.commit(b.source.finish());
  b.drain();
  used.clear();
  for (int tile = 0; tile < 4; ++tile) used.insert(four.multiprocessor[tile].load());
  CHECK(used.size() == 4);
}

TEST_CASE("multiprocessors beyond the budget are left to others") {
  bench<small_machine> b({.multiprocessors = 4, .blocks_each = 2, .budget = 2, .linger = 10s});
  b.start();
  CHECK(b.host.workers() == 3);
  placement all;
  b.source.begin();
  b.source.call(&placement::note, &all, 64);
  b.commit(b.source.finish());
  b.drain();
  std::set<std::uint32_t> used;
  for (const auto& each : all.multiprocessor) used.insert(each.load());
  CHECK(used == std::set<std::uint32_t>{1, 4});
}

// ---- when things go wrong ----

template <class Bench>
void expect_lost(Bench& b, std::uint32_t packets) {
  b.drain();
  CHECK(b.lost == packets);
  CHECK(b.host.lost());
  CHECK_FALSE(b.host.has_room());
  CHECK(b.host.commit(b.source.one()) == cohort::errc::device_lost);
  CHECK(b.host.pause() == cohort::errc::device_lost);
  b.poll();
  CHECK(b.seen.size() == packets);
}

TEST_CASE("a packet that arrives in part ends in an error word") {
  bench<small_machine> b({.linger = 10s, .limit = 500ms});
  b.start();
  b.commit(b.source.one());
  b.drain();
  // A host that stops in the middle of a doorbell: the size is there, the rest is not.
  std::uint64_t& size = b.device.ring().slots[2].elements[1];
  std::atomic_ref<std::uint64_t>(size).store(detail::make_element(2, 64), std::memory_order_release);
  for (int i = 0; i < 10000 && b.host.fault() == 0; ++i) std::this_thread::sleep_for(1ms);
  CHECK(detail::fault_code(b.host.fault()) == detail::ring_fault::torn_packet);
  CHECK(static_cast<std::uint32_t>(b.host.fault()) == 2);
  b.commit(b.source.one());
  b.drain();
  CHECK(b.lost == 1);
}

TEST_CASE("a header that contradicts itself ends in an error word") {
  bench<small_machine> b({.linger = 10s});
  b.start();
  alignas(16) std::array<std::byte, 48> packet{};
  const cohort::packet_header header{.sequence = 1, .bytes = 40, .tiles = 1, .records = 1};
  std::memcpy(packet.data(), &header, sizeof header);
  b.commit(packet);
  expect_lost(b, 1);
  CHECK(detail::fault_code(b.host.fault()) == detail::ring_fault::bad_packet);
}

TEST_CASE("workers that hear nothing from the relay leave with an error word") {
  std::atomic<bool> stuck{false};
  machine_options options{.linger = 1ms, .limit = 400ms};
  options.before_poll = [&] {
    while (stuck.load(std::memory_order_relaxed)) std::this_thread::sleep_for(1ms);
  };
  bench<small_machine> b(std::move(options));
  b.start();
  stuck = true;
  b.commit(b.source.one());
  expect_lost(b, 1);
  CHECK(detail::fault_code(b.host.fault()) == detail::ring_fault::silent_relay);
  stuck = false;
}

TEST_CASE("a grid that does not become resident as a whole ends in an error word") {
  bench<small_machine> b({.limit = 200ms, .missing_blocks = 1});
  CHECK(b.host.prove());
  CHECK(b.host.lost());
  CHECK(detail::fault_code(b.host.fault()) == detail::ring_fault::start_barrier);
}

TEST_CASE("a grid without a worker is refused") {
  bench<small_machine> b({.multiprocessors = 1, .blocks_each = 1});
  const cohort::error_code failed = b.host.prove();
  CHECK(failed == make_error_code(detail::ring_fault::no_workers));
  CHECK(failed == boost::system::errc::no_such_device);
  CHECK(failed.message().find("two blocks") != std::string::npos);
}

TEST_CASE("a tile that does not end loses the device after the time limit, and the packets behind it with it") {
  std::atomic<bool> stuck{true};
  {
    bench<small_machine> b({.linger = 1ms}, {.time_limit = 1s});
    b.start();
    b.source.begin();
    b.source.call(
        [](void* flag, std::uint32_t) {
          while (static_cast<std::atomic<bool>*>(flag)->load(std::memory_order_relaxed)) {
            std::this_thread::sleep_for(1ms);
          }
        },
        &stuck);
    b.commit(b.source.finish());
    b.drain();
    CHECK(b.lost == 1);
    CHECK(b.host.reason() == cohort::errc::device_lost);
    CHECK_FALSE(b.host.shut_down());  // still running: the memory must stay
    stuck = false;
  }
}

TEST_CASE("a launch that fails loses the device with the launcher's reason") {
  bench<small_machine> b({.linger = 0us});
  b.start();
  b.device.refuse_launches();
  b.commit(b.source.one());
  expect_lost(b, 1);
  CHECK(b.host.reason() == cohort::errc::out_of_memory);
}

TEST_CASE("a launcher that reports a failure loses the device") {
  std::atomic<bool> stuck{true};
  bench<small_machine> b({.linger = 1ms});
  b.start();
  b.source.begin();
  b.source.call(
      [](void* flag, std::uint32_t) {
        while (static_cast<std::atomic<bool>*>(flag)->load(std::memory_order_relaxed)) {
          std::this_thread::sleep_for(1ms);
        }
      },
      &stuck);
  b.commit(b.source.finish());
  b.device.fail_state();
  b.drain();
  CHECK(b.lost == 1);
  CHECK(b.host.reason() == cohort::errc::stopped);
  stuck = false;
}

}  // namespace

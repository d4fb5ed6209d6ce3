// Packets that come after others, over an emulated device: tiles read what the tiles of a packet before them have
// written, in plain memory.
#include "support/emulated_device.hpp"
#include "support/packet_lines.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace {

namespace detail = cohort::detail;
using namespace cohort::testing;
using namespace std::chrono_literals;

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
  lines all;
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 8; ++i) all.commit(b, 0, 0, 2, 0);
    b.drain();
  }
  all.check(b.order);
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

// What became of the packets of a source: the ledger of tests that commit packets by hand. Compiled by host compilers
// and by nvcc. Tests only.
#pragma once

#include "protocol_packets.hpp"

#include <cohort/backend/backend.hpp>
#include <cohort/error.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <vector>

namespace cohort::testing {

struct packet_ledger {
  /// Enters what was reported: each packet once, and complete only if its tiles have run.
  template <class Ops>
  void enter(std::span<const packet_completion> reported, packet_source<Ops>& source) {
    for (const packet_completion& each : reported) {
      CHECK(seen.insert(each.sequence).second);
      order.push_back(each.sequence);
      if (each.result) {
        CHECK(each.result == errc::device_lost);
        ++lost;
        continue;  // a worker may still run what was lost: its buffers stay
      }
      if (source.check(each.sequence) != outcome::done) {
        FAIL_CHECK("packet " << each.sequence << " reported as complete is not");
      }
      source.forget(each.sequence);
    }
  }

  std::set<std::uint32_t> seen;
  std::vector<std::uint32_t> order;  ///< in which they were reported
  std::size_t committed = 0;
  std::uint32_t lost = 0;
};

}  // namespace cohort::testing

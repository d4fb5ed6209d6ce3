// Work that was given up and still runs: orphans stand in its packets for submissions whose waiters were told before,
// and somebody counts when the last of them is gone. Private to the scheduler; what is counted is for everyone.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/flight.hpp>
#include <cohort/schedule/intrusive_list.hpp>
#include <cohort/schedule/orphan_pool.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace cohort::inline COHORT_ABI {

/// Work that was given up and may still run.
struct given_up_work {
  std::size_t orphans = 0;     ///< submissions that were cancelled or timed out, and whose packet is not complete
  std::uint64_t packets = 0;   ///< packets that ever held some, numbered from 1 as they lost their first waiter
  std::uint64_t complete = 0;  ///< the first so many of them are complete
  friend bool operator==(const given_up_work&, const given_up_work&) = default;
};

namespace detail {

/// Puts orphans into packets and sets them free.
class orphans {
public:
  /// \throws std::bad_alloc
  orphans() : pool_(64) {}

  const given_up_work& given_up() const noexcept { return given_up_; }

  /// An orphan for `stand_in`; null when there is no memory for one.
  submission* take() noexcept { return pool_.take(); }

  /// The orphan takes the place in its packet of one that has ended.
  void stand_in(submission& orphan, submission& one, flight& packet) noexcept {
    orphan = one;
    orphan.op = nullptr;
    orphan.orphan = true;
    orphan.follower = nullptr;
    orphan.followers = 0;
    if (packet.orphans == 0) {
      // Links back are made when they are needed: it takes no longer than to complete the packet.
      submission* before = nullptr;
      for (submission* each = packet.members.first; each != nullptr; each = each->next) {
        each->previous = std::exchange(before, each);
      }
      packet.given_up = ++given_up_.packets;
    }
    ++packet.orphans;
    ++given_up_.orphans;
    orphan.previous = std::exchange(one.previous, nullptr);
    orphan.next = std::exchange(one.next, nullptr);
    (orphan.previous != nullptr ? orphan.previous->next : packet.members.first) = &orphan;
    (orphan.next != nullptr ? orphan.next->previous : packet.members.last) = &orphan;
  }

  /// A packet of `members` is complete: sets its orphans free and returns the others.
  submission* without_orphans(submission* members, std::uint32_t orphans) noexcept {
    submission_chain others;
    while (members != nullptr) {
      submission& one = *std::exchange(members, members->next);
      if (one.orphan) {
        pool_.give_back(one);
      } else {
        one.previous = nullptr;
        others.push_back(one);
      }
    }
    given_up_.orphans -= orphans;
    return others.release();
  }

  /// To be called when a packet with orphans has left those in flight.
  void count_complete(const flight_table& flights) noexcept {
    given_up_.complete = given_up_.packets;
    for (const auto& packet : flights) {
      if (packet->orphans > 0) given_up_.complete = std::min(given_up_.complete, packet->given_up - 1);
    }
  }

private:
  orphan_pool pool_;
  given_up_work given_up_{};
};

}  // namespace detail

}  // namespace cohort::inline COHORT_ABI

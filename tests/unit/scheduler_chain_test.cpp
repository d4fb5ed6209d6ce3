// Chains in the scheduler on virtual time, against a device that is played.
#include "schedule_fixtures.hpp"

#include <cohort/error.hpp>
#include <cohort/schedule/scheduler.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <random>
#include <span>
#include <utility>
#include <vector>

using namespace cohort;
using namespace std::chrono_literals;

namespace {

using schedule_test::decoded_packet;
using schedule_test::node;

/// Links nodes as `chain` does; the last is handed in.
node& chained(std::span<node* const> all) {
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    all[i]->follower = all[i + 1];
    all[i]->followers = static_cast<std::uint32_t>(all.size() - 1 - i);
  }
  if (all.size() > 1) all.back()->follower = all.front();
  return *all.back();
}

struct room : schedule_test::workshop {
  explicit room(scheduler_options options = {}) : tested(schedule_test::op_table, {}, {.max_packets = 8}, options) {}

  node& make_chain(std::size_t length, std::uint64_t key = 0) {
    std::vector<node*> all;
    for (std::size_t i = 0; i < length; ++i) all.push_back(&make(schedule_test::fused, 1, key));
    return chained(all);
  }

  decoded_packet next() {
    const auto bytes = tested.next(at(now), storage);
    REQUIRE_FALSE(bytes.empty());
    return schedule_test::decode(bytes, schedule_test::op_table);
  }
  bool holds() { return tested.next(at(now), storage).empty(); }

  std::vector<node*> complete(const decoded_packet& packet, error_code result = {}) {
    std::vector<node*> told;
    for (submission* one = tested.complete(packet.header.sequence, result, at(now)); one != nullptr; one = one->next) {
      told.push_back(static_cast<node*>(one));
    }
    return told;
  }
  std::vector<node*> settled() {
    std::vector<node*> told;
    for (submission* one = tested.take_settled(); one != nullptr; one = one->next) {
      told.push_back(static_cast<node*>(one));
    }
    return told;
  }

  scheduler<immediate> tested;
  std::chrono::nanoseconds now = 1s;
};

TEST_CASE("what follows leaves in a later packet that says which ones it comes after") {
  room r;
  node& last = r.make_chain(3);
  r.tested.submit(last, r.at(r.now));
  CHECK(r.tested.pending() == 1);
  const auto first = r.next();
  CHECK(first.header.after == 0);
  CHECK(first.header.flags == packet_is_followed);
  CHECK(r.tested.pending() == 1);
  const auto second = r.next();
  CHECK(second.header.after == 1);
  const auto third = r.next();
  CHECK(third.header.after == 1);
  CHECK(third.header.flags == 0);
  CHECK(r.tested.pending() == 0);
  CHECK(r.complete(first).empty());
  CHECK(r.complete(second).empty());
  CHECK(r.complete(third) == std::vector<node*>{&last});
  CHECK_FALSE(last.result.failed());
  CHECK(r.tested.statistics().committed == 3);
}

TEST_CASE("what has completed before is not waited for") {
  room r;
  node& last = r.make_chain(2);
  r.tested.submit(last, r.at(r.now));
  const auto first = r.next();
  CHECK(r.complete(first).empty());
  const auto second = r.next();
  CHECK(second.header.after == 0);
  CHECK(r.complete(second).size() == 1);
}

TEST_CASE("equal steps of chains fuse") {
  room r;
  std::vector<node*> lasts;
  for (int i = 0; i < 5; ++i) {
    std::vector<node*> all;
    for (std::uint64_t step = 1; step <= 3; ++step) all.push_back(&r.make(schedule_test::fused, 1, step));
    lasts.push_back(&chained(all));
    r.tested.submit(*lasts.back(), r.at(r.now));
  }
  std::vector<decoded_packet> packets;
  for (int step = 0; step < 3; ++step) {
    packets.push_back(r.next());
    REQUIRE(packets.back().records.size() == 1);
    CHECK(packets.back().records[0].ids.size() == 5);
  }
  CHECK(r.holds());
  CHECK(r.complete(packets[0]).empty());
  CHECK(r.complete(packets[1]).empty());
  CHECK(r.complete(packets[2]) == lasts);
}

TEST_CASE("a chain that comes back finds its keys wherever they are by then") {
  room r({.expected_keys = 4});
  std::vector<node*> all;
  for (std::uint64_t step = 1; step <= 6; ++step) all.push_back(&r.make(schedule_test::fused, 1, step));
  std::uint64_t fresh = 100;
  for (std::size_t others = 0; others < 40; ++others) {
    CAPTURE(others);
    node& last = chained(all);
    last.state = submission_state::created;
    r.tested.submit(last, r.at(r.now));
    for (std::uint64_t step = 1; step <= all.size(); ++step) {
      // Whoever has the key of this step now leaves with it, and nobody else does.
      node& companion = r.make(schedule_test::fused, 1, step);
      r.tested.submit(companion, r.at(r.now));
      const auto packet = r.next();
      REQUIRE(packet.records.size() == 1);
      CHECK(packet.records[0].ids.size() == 2);
      const auto told = r.complete(packet);
      CHECK(std::ranges::find(told, &companion) != told.end());
      CHECK((std::ranges::find(told, &last) != told.end()) == (step == all.size()));
    }
    for (std::size_t i = 0; i < others; ++i) r.tested.submit(r.make(schedule_test::fused, 1, ++fresh), r.at(r.now));
    while (r.tested.pending() > 0) r.complete(r.next());
  }
}

TEST_CASE("others go first while what would be waited for is new, and nobody waits for nothing") {
  room r({.coalesce = coalescing::none});
  r.tested.submit(r.make_chain(2, 1), r.at(r.now));
  const auto first = r.next();
  for (std::uint64_t i = 0; i < 4; ++i) r.tested.submit(r.make(schedule_test::fused, 1, 10 + i), r.at(r.now));
  CHECK(first.header.after == 0);
  std::vector<std::uint32_t> after;
  for (int i = 0; i < 5; ++i) after.push_back(r.next().header.after);
  CHECK(after == std::vector<std::uint32_t>{0, 0, 0, 0, 1 << 4});  // in order of arrival
}

/// Commits at once, so many submissions to a packet.
struct of_size {
  std::uint32_t most = 1;
  decision decide(const queue_view&, time_point) const {
    decision now = decision::commit_now(commit_reason::other);
    now.max_submissions = most;
    return now;
  }
};

TEST_CASE("a packet comes after all that its members follow, however far behind") {
  for (const std::uint32_t others : {5u, 40u}) {
    CAPTURE(others);
    schedule_test::workshop w;
    scheduler<of_size> tested(schedule_test::op_table, {}, {.max_packets = 64});
    const auto next = [&] { return schedule_test::decode(tested.next(w.at(1s), w.storage), schedule_test::op_table); };
    std::uint64_t key = 0;
    const auto fresh = [&] { return &w.make(schedule_test::fused, 1, ++key); };
    for (int i = 0; i < 2; ++i) {
      std::vector<node*> pair{fresh(), fresh()};
      tested.submit(chained(pair), w.at(1s));
    }
    for (std::uint32_t i = 0; i < others; ++i) tested.submit(*fresh(), w.at(1s));
    for (std::uint32_t i = 0; i < 2 + others; ++i) CHECK(next().header.after == 0);
    tested.used_policy().most = 2;
    const auto both = next();
    CHECK(both.ids().size() == 2);
    CHECK(both.header.after == (others == 5 ? 0b1100000u : 1u << 31));
  }
}

TEST_CASE("a link without tiles is passed over, wherever it stands") {
  for (std::size_t idle = 0; idle < 3; ++idle) {
    CAPTURE(idle);
    room r;
    std::vector<node*> all;
    for (std::size_t i = 0; i < 3; ++i) all.push_back(&r.make(schedule_test::fused, i == idle ? 0 : 1, i + 1));
    node& last = chained(all);
    r.tested.submit(last, r.at(r.now));
    const auto first = r.next();
    const auto second = r.next();
    CHECK(second.header.after == 1);
    CHECK(r.holds());
    CHECK(r.settled().empty());
    CHECK(r.complete(first).empty());
    CHECK(r.complete(second) == std::vector<node*>{&last});
    CHECK_FALSE(last.result.failed());
  }
  room r;
  std::vector<node*> all{&r.make(schedule_test::fused, 0, 1), &r.make(schedule_test::fused, 0, 2)};
  node& last = chained(all);
  r.tested.submit(last, r.at(r.now));
  CHECK(r.holds());
  CHECK(r.settled() == std::vector<node*>{&last});
}

TEST_CASE("a failed packet ends its chains, wherever their next link is") {
  SUBCASE("held") {
    room r;
    node& last = r.make_chain(3);
    r.tested.submit(last, r.at(r.now));
    const auto first = r.next();
    CHECK(r.complete(first, errc::device_lost) == std::vector<node*>{&last});
    CHECK(last.result == errc::device_lost);
    CHECK(r.tested.pending() == 0);
  }
  SUBCASE("on the device") {
    room r;
    node& last = r.make_chain(2);
    r.tested.submit(last, r.at(r.now));
    const auto first = r.next();
    const auto second = r.next();
    CHECK(r.complete(first, errc::device_lost).empty());
    CHECK(r.complete(second) == std::vector<node*>{&last});
    CHECK(last.result == errc::device_lost);
  }
  SUBCASE("done, without tiles") {
    room r;
    std::vector<node*> all{&r.make(schedule_test::fused, 1, 1), &r.make(schedule_test::fused, 0, 2)};
    node& last = chained(all);
    r.tested.submit(last, r.at(r.now));
    const auto first = r.next();
    CHECK(r.holds());
    CHECK(r.complete(first, errc::device_lost) == std::vector<node*>{&last});
    CHECK(last.result == errc::device_lost);
  }
  SUBCASE("not taken by the backend") {
    room r;
    node& last = r.make_chain(2);
    r.tested.submit(last, r.at(r.now));
    const auto first = r.next();
    submission* const told = r.tested.refuse(first.header.sequence, errc::device_lost, r.at(r.now));
    CHECK(told == &last);
    CHECK(r.tested.pending() == 0);
  }
}

TEST_CASE("a refused chain is told once") {
  room r;
  node& last = r.make_chain(3);
  last.tenant = 7;  // nobody knows it
  r.tested.submit(last, r.at(r.now));
  CHECK(r.settled() == std::vector<node*>{&last});
  CHECK(last.result == errc::tenant_removed);
  CHECK(r.tested.pending() == 0);
}

/// Random chains and others, with cancellations, time limits, failures and a stop: each ends once, nothing stays, and a
/// packet never leaves before what its members follow, unless it says after whom it comes.
class storm {
public:
  explicit storm(unsigned seed) : random_(seed), room_({.coalesce = seed % 3 == 0 ? coalescing::none : coalescing{}}) {
    if (seed % 2 == 0) {
      room_.tested.set_tenant(1, {.name = "one", .latency_target = 40us, .when_late = late_work::drop});
    } else {
      room_.tested.set_tenant(1, {.name = "one", .queue_capacity = 3, .when_full = full_queue::suspend});
    }
  }

  void run() {
    for (int i = 0; i < 300; ++i) {
      room_.now += std::chrono::nanoseconds(draw(3000));
      switch (draw(8)) {
        case 0:
        case 1: submit(); break;
        case 2: cancel(); break;
        case 3:
          if (draw(20) == 0) take(room_.tested.abort_pending(errc::stopped, room_.at(room_.now)));
          break;
        case 4:
        case 5: complete(); break;
        default: commit(); break;
      }
      room_.tested.expire(room_.at(room_.now));
      take(room_.tested.take_settled());
    }
    while (room_.tested.pending() > 0 || !flying_.empty()) {
      room_.now += 1us;
      commit();
      if (!flying_.empty()) complete();
      take(room_.tested.take_settled());
    }
    CHECK(waiting_.empty());
    CHECK(room_.tested.given_up().orphans == 0);
    CHECK(room_.tested.submissions_in_flight() == 0);
  }

private:
  std::uint32_t draw(std::uint32_t below) { return static_cast<std::uint32_t>(random_() % below); }

  void submit() {
    std::vector<node*> all;
    const std::uint32_t length = 1 + draw(6);
    for (std::uint32_t i = 0; i < length; ++i) {
      all.push_back(&room_.make(schedule_test::fused, draw(12) == 0 ? 0 : 1 + draw(3), draw(4)));
    }
    node& last = chained(all);
    last.tenant = draw(2);
    if (draw(4) == 0) last.expires = room_.at(room_.now + std::chrono::nanoseconds(draw(20000)));
    waiting_.emplace(&last, all);
    room_.tested.submit(last, room_.at(room_.now));
    take(room_.tested.take_settled());
  }

  void cancel() {
    if (waiting_.empty()) return;
    auto place = waiting_.begin();
    std::advance(place, draw(static_cast<std::uint32_t>(waiting_.size())));
    if (!room_.tested.cancel(*place->first, room_.at(room_.now))) return;
    CHECK(place->first->result == errc::cancelled);
    end(*place->first);
  }

  void commit() {
    if (flying_.size() == 6) return;
    const auto bytes = room_.tested.next(room_.at(room_.now), room_.storage);
    take(room_.tested.take_settled());
    if (bytes.empty()) return;
    const decoded_packet packet = schedule_test::decode(bytes, schedule_test::op_table);
    flight mine{packet.header.sequence, {}};
    for (std::size_t i = 0; i < committed_.size() && i < 31; ++i) {
      const std::uint32_t before = committed_[committed_.size() - 1 - i];
      if ((packet.header.after >> i & 1) == 0) continue;
      CHECK(flies(before));
      mine.after.push_back(before);
    }
    for (const std::uint64_t id : packet.ids()) {
      packet_of_[id] = packet.header.sequence;
      // The link before it, if there is one, has completed, or is in a packet that this one comes after.
      if (id == 0 || room_.nodes[id - 1].followers == 0 || !packet_of_.contains(id - 1)) continue;
      const std::uint32_t before = packet_of_[id - 1];
      CHECK(before != packet.header.sequence);
      if (flies(before)) CHECK(std::ranges::find(mine.after, before) != mine.after.end());
    }
    committed_.push_back(packet.header.sequence);
    flying_.push_back(mine);
  }

  bool flies(std::uint32_t sequence) const {
    return std::ranges::any_of(flying_, [&](const flight& each) { return each.sequence == sequence; });
  }

  /// Any that may: no packet is reported before those that it came after.
  void complete() {
    if (flying_.empty()) return;
    std::vector<std::size_t> may;
    for (std::size_t i = 0; i < flying_.size(); ++i) {
      if (std::ranges::none_of(flying_[i].after, [&](std::uint32_t before) { return flies(before); })) may.push_back(i);
    }
    REQUIRE_FALSE(may.empty());
    const std::size_t which = may[draw(static_cast<std::uint32_t>(may.size()))];
    const std::uint32_t sequence = flying_[which].sequence;
    flying_.erase(flying_.begin() + static_cast<std::ptrdiff_t>(which));
    const error_code result = draw(15) == 0 ? error_code(errc::device_lost) : error_code{};
    take(room_.tested.complete(sequence, result, room_.at(room_.now)));
  }

  void take(submission* list) {
    while (list != nullptr) end(static_cast<node&>(*std::exchange(list, list->next)));
  }

  /// From here on its memory is the waiter's: whoever still uses it is found out by what is in it.
  void end(node& last) {
    const auto found = waiting_.find(&last);
    REQUIRE(found != waiting_.end());
    CHECK(last.state == submission_state::done);
    for (node* const each : found->second) {
      each->next = each->older = each->newer = each->previous = reinterpret_cast<submission*>(std::uintptr_t{0xdead0});
      each->bucket = nullptr;
      each->state = submission_state::done;
    }
    waiting_.erase(found);
  }

  std::mt19937 random_;
  room room_;
  std::map<node*, std::vector<node*>> waiting_;
  std::map<std::uint64_t, std::uint32_t> packet_of_;
  struct flight {
    std::uint32_t sequence = 0;
    std::vector<std::uint32_t> after;
  };
  std::vector<std::uint32_t> committed_;  // in order
  std::deque<flight> flying_;
};

TEST_CASE("thousands of random chains end once") {
  for (unsigned seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    storm(seed).run();
  }
}

}  // namespace

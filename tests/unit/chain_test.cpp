// Chains: in the scheduler on virtual time, against a device that is played; then through an executor and the host
// backend, whose threads run packets side by side.
#include "../support/add_one.hpp"
#include "../support/manual_backend.hpp"
#include "schedule_fixtures.hpp"

#include <cohort/backend/host.hpp>
#include <cohort/chain.hpp>
#include <cohort/detail/cpu.hpp>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/spawn.hpp>
#include <cohort/task.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

using namespace cohort;
using namespace std::chrono_literals;

namespace {

// -- the scheduler --

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

// -- the executor --

/// y = 2 x + 1, with some work before it writes, so that who does not wait for it reads what was there before.
struct alignas(16) step_op {
  static constexpr const char* name = "step";
  const std::uint64_t* x = nullptr;
  std::uint64_t* y = nullptr;
  std::uint64_t key_ = 0;
  std::uint32_t count = 1;
  std::uint32_t first = 0;

  static std::uint32_t plan(std::span<step_op> members, const machine_shape&) {
    std::uint32_t tiles = 0;
    for (step_op& one : members) {
      one.first = tiles;
      tiles += one.count;
    }
    return tiles;
  }
  coalescing_key key() const { return {{key_, 0, 0, 1}}; }
  std::uint32_t rows() const { return 1; }
  error_code check() const { return x == nullptr || y == nullptr ? errc::null_pointer : error_code{}; }

  template <class Context>
  static void run(Context&, const step_op* members, std::uint32_t count, std::uint32_t tile) {
    std::uint32_t which = 0;
    while (which + 1 < count && members[which + 1].first <= tile) ++which;
    const step_op& mine = members[which];
    // All tiles read what all tiles of the step before have written.
    std::uint64_t sum = 0;
    for (std::uint32_t i = 0; i < mine.count; ++i) sum += mine.x[i];
    for (std::uint32_t i = 0; i < 300; ++i) detail::spin_pause();
    mine.y[tile - mine.first] = 2 * sum + 1;
  }
};

using kernels = op_set<step_op, testing::add_one>;

constexpr std::uint32_t width = 3;

/// What a chain of `steps` leaves in each place.
std::uint64_t expected(std::uint64_t input, std::size_t steps) {
  std::uint64_t value = input;
  for (std::size_t i = 0; i < steps; ++i) value = 2 * (width * value) + 1;
  return value;
}

/// A request: the steps of a chain from buffer to buffer.
struct request {
  explicit request(std::size_t steps) : buffers(steps + 1) {
    for (std::size_t i = 0; i < steps; ++i) {
      all.then(step_op{.x = buffers[i].data(), .y = buffers[i + 1].data(), .key_ = i % 4, .count = width});
    }
  }
  void reset(std::uint64_t input) {
    for (auto& each : buffers) each.fill(0);
    buffers.front().fill(input);
  }
  bool is_right() const {
    return std::ranges::all_of(
        buffers.back(), [&](std::uint64_t value) { return value == expected(buffers.front()[0], buffers.size() - 1); });
  }

  std::vector<std::array<std::uint64_t, width>> buffers;
  chain<kernels> all;
};

template <class Executor>
task<> use(Executor& gpu, request& one, int times, int& wrong) {
  for (int i = 0; i < times; ++i) {
    one.reset(static_cast<std::uint64_t>(i) + 1);
    co_await gpu.submit(one.all);
    if (!one.is_right()) ++wrong;
  }
}

TEST_CASE("many chains over the threads of the host backend give the right results, again and again") {
  for (const unsigned workers : {0u, 1u, 3u}) {
    CAPTURE(workers);
    boost::asio::io_context io;
    executor<kernels> gpu(io, std::make_unique<host_backend<kernels>>(host_options{.workers = workers}),
                          {.driven_by = drive::caller});
    std::deque<request> requests;
    int wrong = 0;
    std::vector<std::future<void>> ended;
    for (std::size_t i = 0; i < 24; ++i) {
      request& one = requests.emplace_back(1 + i % 9);
      ended.push_back(spawn(io, use(gpu, one, 20, wrong), boost::asio::use_future));
    }
    while (std::ranges::any_of(ended, [](auto& each) { return each.wait_for(0s) != std::future_status::ready; })) {
      io.restart();
      io.poll();
      gpu.poll();
    }
    for (auto& each : ended) each.get();
    CHECK(wrong == 0);
  }
}

TEST_CASE("a chain through the poller thread and Asio") {
  boost::asio::thread_pool pool(2);
  executor<kernels, boost::asio::thread_pool::executor_type> gpu(
      pool, std::make_unique<host_backend<kernels>>(host_options{.workers = 2}));
  const auto tenant = gpu.make_tenant({.name = "chains", .latency_target = 1ms});
  std::deque<request> requests;
  for (std::size_t i = 0; i < 16; ++i) requests.emplace_back(5).reset(i);
  for (int times = 0; times < 10; ++times) {
    std::vector<std::future<void>> ended;
    for (request& one : requests) {
      ended.push_back(times % 2 == 0 ? gpu.async_submit(one.all, boost::asio::use_future)
                                     : tenant.async_submit(one.all, boost::asio::use_future));
    }
    for (auto& each : ended) each.get();
    for (const request& one : requests) CHECK(one.is_right());
  }
  gpu.drain();
  CHECK(tenant.statistics().completed == 16 * 5 * 5);  // each op counts
}

TEST_CASE("a chain that is empty, wrong or on its way") {
  boost::asio::io_context io;
  auto device = std::make_unique<testing::manual_backend<kernels>>();
  auto& manual = *device;
  executor<kernels> gpu(io, std::move(device), {.driven_by = drive::caller});

  chain<kernels> nothing;
  CHECK(nothing.empty());
  gpu.run([](auto& to, auto& all) -> task<> { co_await to.submit(all); }(gpu, nothing));

  chain<kernels> bad;
  std::uint64_t x[width] = {};
  bad.then(step_op{.x = x, .y = x}).then(step_op{});
  CHECK(bad.check() == errc::null_pointer);
  CHECK(gpu.run([](auto& to, auto& all) -> task<error_code> { co_return co_await to.try_submit(all); }(gpu, bad)) ==
        errc::null_pointer);
  CHECK_FALSE(bad.in_use());
  std::string said;
  try {
    gpu.run([](auto& to, auto& all) -> task<> { co_await to.submit(all); }(gpu, bad));
  } catch (const system_error& error) {
    said = error.what();
  }
  CHECK(said.find("chain") != std::string::npos);
  bad.clear();
  CHECK(bad.empty());
  CHECK_FALSE(bad.check().failed());

  request one(3);
  one.reset(4);
  std::optional<error_code> first;
  std::optional<error_code> second;
  gpu.async_submit(one.all, [&](error_code e) { first = e; });
  CHECK(one.all.in_use());
  gpu.async_submit(one.all, [&](error_code e) { second = e; });
  io.poll();
  CHECK(second == error_code(errc::chain_in_use));
  CHECK(one.all.in_use());
  while (!first) {
    gpu.poll();
    (void)manual.complete({});
    io.restart();
    io.poll();
  }
  CHECK_FALSE(first->failed());
  CHECK(one.is_right());
  CHECK_FALSE(one.all.in_use());
}

TEST_CASE("a cancelled chain may go at once, wherever its links are") {
  for (int committed = 0; committed < 4; ++committed) {
    CAPTURE(committed);
    boost::asio::io_context io;
    auto device = std::make_unique<testing::manual_backend<kernels>>();
    auto& manual = *device;
    executor<kernels> gpu(io, std::move(device), {.driven_by = drive::caller});
    request buffers(3);
    buffers.reset(1);
    auto all = std::make_unique<chain<kernels>>(buffers.all);
    boost::asio::cancellation_signal stop;
    error_code result;
    bool ended = false;
    const auto turn = [&] {
      gpu.poll();
      io.restart();
      io.poll();
    };
    if (committed == 0) CHECK_FALSE(gpu.pause());
    gpu.async_submit(*all, boost::asio::bind_cancellation_slot(stop.slot(), [&](error_code e) {
      result = e;
      ended = true;
    }));
    for (int i = 0; i < 3; ++i) turn();
    for (int i = 1; i < committed; ++i) {
      REQUIRE(manual.complete({}));
      turn();
    }
    REQUIRE_FALSE(ended);
    stop.emit(boost::asio::cancellation_type::terminal);
    for (int i = 0; i < 3; ++i) turn();
    CHECK(ended);
    CHECK(result == errc::cancelled);
    all.reset();
    gpu.resume();
    for (gpu.poll(); manual.complete({}); gpu.poll()) {
    }
    gpu.drain();
  }
}

}  // namespace

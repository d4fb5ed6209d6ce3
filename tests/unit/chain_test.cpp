// Chains through an executor and the host backend, whose threads run packets side by side, or a backend that completes
// when the test says so.
#include "../support/add_one.hpp"
#include "../support/manual_backend.hpp"

#include <cohort/backend/host.hpp>
#include <cohort/chain.hpp>
#include <cohort/detail/cpu.hpp>
#include <cohort/executor.hpp>
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
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

using namespace cohort;
using namespace std::chrono_literals;

namespace {

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

TEST_CASE("a chain that failed begins anew, and so do its copies") {
  boost::asio::io_context io;
  auto device = std::make_unique<testing::manual_backend<kernels>>();
  auto& manual = *device;
  executor<kernels> gpu(io, std::move(device), {.driven_by = drive::caller});
  const auto run = [&](chain<kernels>& one, std::size_t failing) {
    std::optional<error_code> result;
    gpu.async_submit(one, [&](error_code e) { result = e; });
    for (std::size_t packet = 0; !result; ++packet) {
      gpu.poll();
      (void)manual.complete(packet == failing ? make_error_code(errc::device_lost) : error_code{});
      gpu.poll();
      io.restart();
      io.poll();
    }
    return *result;
  };
  constexpr std::size_t never = 1000;
  request buffers(4);
  auto first = std::make_unique<chain<kernels>>(buffers.all);
  for (std::size_t failing = 0; failing < 4; ++failing) {
    CAPTURE(failing);
    buffers.reset(1 + failing);
    CHECK(run(*first, failing) == errc::device_lost);
    CHECK_FALSE(first->in_use());
    buffers.reset(2 + failing);
    CHECK_FALSE(run(*first, never).failed());
    CHECK(buffers.is_right());
  }
  chain<kernels> second = *first;  // after its links were told of each other
  first->clear();
  request others(4);
  for (std::size_t i = 0; i < 4; ++i) {  // where the links of the second were
    first->then(step_op{.x = others.buffers[i].data(), .y = others.buffers[i + 1].data(), .count = width});
  }
  buffers.reset(7);
  CHECK_FALSE(run(second, never).failed());
  CHECK(buffers.is_right());
  first.reset();
  second.reserve(100);
  buffers.reset(8);
  CHECK_FALSE(run(second, never).failed());
  CHECK(buffers.is_right());
  chain<kernels> third = std::move(second);
  buffers.reset(9);
  CHECK_FALSE(run(third, never).failed());
  CHECK(buffers.is_right());
  std::array<std::uint64_t, width> further{};
  third.then(step_op{.x = buffers.buffers.back().data(), .y = further.data(), .count = width});
  buffers.reset(10);
  CHECK_FALSE(run(third, never).failed());
  CHECK(further[0] == expected(10, 5));
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

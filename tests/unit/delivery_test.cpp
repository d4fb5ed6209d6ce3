// How finished waiters reach an Asio executor, and the meeting point at which a handler waits for more of them.
#include "../support/add_one.hpp"
#include "../support/manual_backend.hpp"

#include <cohort/detail/delivery.hpp>
#include <cohort/executor.hpp>
#include <cohort/spawn.hpp>
#include <cohort/task.hpp>

#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

using namespace cohort;
using detail::meeting_point;
using testing::add_one;

namespace {

/// Counts how often it was told, and notes when it was freed untold.
struct told final : detail::waiter {
  explicit told(bool fails = false)
      : waiter(
            [](waiter& self) {
              auto& me = static_cast<told&>(self);
              ++me.count;
              if (me.fails) throw std::runtime_error("told");
            },
            [](waiter& self) { ++static_cast<told&>(self).abandoned; }),
        fails(fails) {}
  int count = 0;
  int abandoned = 0;
  bool fails;
};

template <class... More>
submission* linked(told& first, More&... more) {
  if constexpr (sizeof...(more) > 0) first.next = linked(more...);
  return &first;
}

using io_delivery = detail::delivery<boost::asio::io_context::executor_type>;

using kernels = op_set<add_one>;
/// Is polled, as a GPU is: only then do handlers wait.
using polled = testing::manual_backend<kernels>;

template <class Executor>
task<> submit_often(Executor& gpu, std::atomic<int>& target, int times) {
  for (int i = 0; i < times; ++i) co_await gpu.submit(add_one{&target});
}

}  // namespace

TEST_CASE("nobody is handed a list who does not wait, and who waits in vain has left") {
  meeting_point meeting;
  told one;
  CHECK_FALSE(meeting.hand_over(&one));
  CHECK(meeting.wait() == nullptr);
  CHECK_FALSE(meeting.hand_over(&one));
}

TEST_CASE("nobody waits while a handler is on its way") {
  boost::asio::io_context io;
  const auto meeting = std::make_shared<meeting_point>();
  told one;
  std::optional<io_delivery> on_its_way(std::in_place, io.get_executor(), linked(one), meeting);
  std::atomic<bool> done{false};
  // Would be handed the list at once if it waited.
  std::thread waiting([&] {
    for (int i = 0; i < 1000; ++i) CHECK(meeting->wait() == nullptr);
    done = true;
  });
  told other;
  while (!done) {
    if (meeting->hand_over(&other)) FAIL_CHECK("somebody waited");
  }
  waiting.join();
  on_its_way.reset();
  CHECK(one.count == 0);
  CHECK(one.abandoned == 1);
}

TEST_CASE("each list that was handed over is received once") {
  constexpr std::size_t lists = 2'000;
  meeting_point meeting;
  std::vector<std::unique_ptr<told>> all;
  for (std::size_t i = 0; i < lists; ++i) all.push_back(std::make_unique<told>());
  std::atomic<std::size_t> received{0};
  const auto receive = [&] {
    while (received < lists) {
      if (submission* const list = meeting.wait()) {
        ++static_cast<told*>(list)->count;
        ++received;
      }
    }
  };
  std::thread first(receive);
  std::thread second(receive);
  for (const auto& one : all) {
    while (!meeting.hand_over(one.get())) std::this_thread::yield();
  }
  first.join();
  second.join();
  for (const auto& one : all) CHECK(one->count == 1);
}

TEST_CASE("whoever stands behind one whose handler throws is told by another handler") {
  for (const bool meets : {false, true}) {
    boost::asio::io_context io;
    told a;
    told b(true);
    told c;
    boost::asio::post(
        io, io_delivery(io.get_executor(), linked(a, b, c), meets ? std::make_shared<meeting_point>() : nullptr));
    CHECK_THROWS_AS(io.run(), std::runtime_error);
    CHECK(c.count == 0);
    io.run();
    for (const told* one : {&a, &b, &c}) {
      CHECK(one->count == 1);
      CHECK(one->abandoned == 0);
    }
  }
}

TEST_CASE("a handler that never runs frees its waiters untold") {
  told a;
  told b;
  {
    boost::asio::io_context io;
    boost::asio::post(io, io_delivery(io.get_executor(), linked(a, b), std::make_shared<meeting_point>()));
  }
  CHECK(a.count + b.count == 0);
  CHECK(a.abandoned == 1);
  CHECK(b.abandoned == 1);
}

TEST_CASE("tasks on a device that is polled end once each, on one thread and on several") {
  constexpr int tasks = 32;
  constexpr int times = 300;
  std::atomic<int> ran{0};
  {
    boost::asio::io_context io(1);
    executor<kernels> gpu(io, std::make_unique<polled>(true), {.driven_by = drive::thread});
    for (int i = 0; i < tasks; ++i) spawn(io.get_executor(), submit_often(gpu, ran, times), boost::asio::detached);
    io.run();
    CHECK(ran == tasks * times);
  }
  boost::asio::thread_pool pool(3);
  executor<kernels, boost::asio::thread_pool::executor_type> gpu(pool, std::make_unique<polled>(true),
                                                                 {.driven_by = drive::thread});
  for (int i = 0; i < tasks; ++i) spawn(pool.get_executor(), submit_often(gpu, ran, times), boost::asio::detached);
  pool.join();
  CHECK(ran == 2 * tasks * times);
}

TEST_CASE("other handlers of an io_context get their turn while ops come and go without end") {
  boost::asio::io_context io(1);
  executor<kernels> gpu(io, std::make_unique<polled>(true), {.driven_by = drive::thread});
  std::atomic<int> ran{0};
  bool stop = false;  // one thread runs all that touch it
  const auto forever = [](executor<kernels>& on, std::atomic<int>& target, bool& until) -> task<> {
    while (!until) co_await on.submit(add_one{&target});
  };
  for (int i = 0; i < 4; ++i) spawn(io.get_executor(), forever(gpu, ran, stop), boost::asio::detached);
  int turns = 0;
  const auto take_turn = [&](auto&& self) -> void {
    if (++turns == 100) {
      stop = true;
    } else {
      boost::asio::post(io, [&, self] { self(self); });
    }
  };
  boost::asio::post(io, [&] { take_turn(take_turn); });
  io.run();
  CHECK(turns == 100);
  CHECK(ran > 0);
}

TEST_CASE("an executor may go while a handler still waits for more") {
  boost::asio::io_context io(1);
  std::atomic<int> ran{0};
  for (int round = 0; round < 200; ++round) {
    io.restart();
    auto gpu = std::make_unique<executor<kernels>>(io, std::make_unique<polled>(true),
                                                   executor_options{.driven_by = drive::thread});
    spawn(io.get_executor(), submit_often(*gpu, ran, 3), [&](std::exception_ptr) {
      // In the middle of the handler that has told the task, or in one after it.
      boost::asio::post(io, [&] { gpu.reset(); });
    });
    io.run();
    CHECK(gpu == nullptr);
  }
  CHECK(ran == 600);
}

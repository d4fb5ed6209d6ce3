// overhead: what an operation costs the CPU, from submission to resumption, against a device that takes no time. Beside
// it stands what Asio takes for a handler and for a coroutine.
#include "command.hpp"
#include "immediate_backend.hpp"
#include "limits.hpp"
#include "linear_ops.hpp"
#include "report.hpp"
#include "statistics.hpp"

#include <cohort/detail/cpu.hpp>
#include <cohort/executor.hpp>
#include <cohort/spawn.hpp>
#include <cohort/task.hpp>
#include <cohort/when_all.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <ctime>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace cohort_bench {
namespace {

using ops = linear_ops<float>;
using executor = cohort::executor<ops>;
using linear = cohort::ops::linear<float>;

constexpr std::size_t pending = 64;

/// Time of both threads together, where there are two.
double cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

/// Submits `times` times, one after the other.
template <class Op>
cohort::task<> submit_often(executor& gpu, Op op, int times) {
  for (int i = 0; i < times; ++i) co_await gpu.submit(op);
}

/// The same with a coroutine of its own for each operation.
cohort::task<> submit_once(executor& gpu, const linear& op) { co_await gpu.submit(op); }

cohort::task<> submit_in_children(executor& gpu, linear op, int times) {
  for (int i = 0; i < times; ++i) co_await submit_once(gpu, op);
}

/// A product whose key is that of `key`: its operands are never looked at.
linear make_op(std::vector<float>& memory, std::size_t key) {
  const problem p{16, 1, 16};
  float* const base = memory.data();
  return as_op<float>({p, base + 256 * (key + 1), base, base + 128});
}

/// Has `pending` tasks run to their end, in the caller-driven mode.
template <class Make>
void drive_by_caller(Make&& make) {
  boost::asio::io_context io;
  executor gpu(io, std::make_unique<immediate_backend<ops>>(), {.driven_by = cohort::drive::caller});
  std::vector<cohort::task<>> all;
  // Without a stop token, as spawned tasks are: a withdrawal that nobody can ask for is not prepared for.
  for (std::size_t i = 0; i < pending; ++i) all.push_back(cohort::with_stop_token(make(gpu, i), std::stop_token()));
  gpu.run(cohort::when_all(std::move(all)));
}

/// The same through the poller thread; tasks run on an io_context of this thread.
template <class Make>
void drive_by_thread(Make&& make) {
  boost::asio::io_context io(1);
  executor gpu(io, std::make_unique<immediate_backend<ops>>(), {.driven_by = cohort::drive::thread});
  for (std::size_t i = 0; i < pending; ++i) cohort::spawn(io.get_executor(), make(gpu, i), boost::asio::detached);
  io.run();
}

/// Posts itself until its turns are used up.
struct posting {
  boost::asio::io_context* io;
  int left;
  void operator()() {
    if (--left > 0) boost::asio::post(*io, *this);
  }
};

void post_often(int times) {
  boost::asio::io_context io(1);
  for (std::size_t i = 0; i < pending; ++i) boost::asio::post(io, posting{&io, times});
  io.run();
}

boost::asio::awaitable<void> await_posts(int times) {
  for (int i = 0; i < times; ++i) co_await boost::asio::post(boost::asio::use_awaitable);
}

void await_often(int times) {
  boost::asio::io_context io(1);
  for (std::size_t i = 0; i < pending; ++i) boost::asio::co_spawn(io, await_posts(times), boost::asio::detached);
  io.run();
}

boost::asio::awaitable<void> await_children(int times) {
  const auto where = co_await boost::asio::this_coro::executor;
  for (int i = 0; i < times; ++i) co_await boost::asio::co_spawn(where, await_posts(0), boost::asio::use_awaitable);
}

void spawn_often(int times) {
  boost::asio::io_context io(1);
  for (std::size_t i = 0; i < pending; ++i) boost::asio::co_spawn(io, await_children(times), boost::asio::detached);
  io.run();
}

/// What a word takes to another core and back, in ns: virtual processors may lie on one die at one time and on two at
/// another, and all that passes between threads takes as much longer.
double there_and_back_ns() {
  constexpr int times = 20'000;
  struct alignas(128) word {
    std::atomic<int> value{0};
  } there, back;
  const auto pass = [](std::atomic<int>& from, std::atomic<int>& to, int i) {
    while (from.load(std::memory_order_acquire) != i) cohort::detail::spin_pause();
    to.store(i, std::memory_order_release);
  };
  std::thread other([&] {
    for (int i = 1; i <= times; ++i) pass(there.value, back.value, i);
  });
  there.value.store(1, std::memory_order_release);
  while (back.value.load(std::memory_order_acquire) != 1) cohort::detail::spin_pause();  // both are running
  const auto begin = clock::now();
  for (int i = 2; i <= times; ++i) {
    there.value.store(i, std::memory_order_release);
    while (back.value.load(std::memory_order_acquire) != i) cohort::detail::spin_pause();
  }
  const double each = 1e3 * microseconds_since(begin) / (times - 1);
  other.join();
  return each;
}

struct contender {
  std::string name;
  std::function<void(int)> run;  ///< `pending` times so many operations
  std::vector<double> wall{}, cpu{};
};

int run_overhead(const options& chosen) {
  report to("overhead", chosen);
  to.note("ns per operation, 64 pending, a device that takes no time; cpu: of all threads of the process together");
  std::vector<float> memory(256 * (pending + 2));
  const auto same_key = [&](executor& gpu, std::size_t, int times) {
    return submit_often(gpu, make_op(memory, 0), times);
  };
  const auto own_key = [&](executor& gpu, std::size_t i, int times) {
    return submit_often(gpu, make_op(memory, i), times);
  };
  const auto nothing = [&](executor& gpu, std::size_t, int times) { return submit_often(gpu, no_op{}, times); };
  const auto children = [&](executor& gpu, std::size_t i, int times) {
    return submit_in_children(gpu, make_op(memory, i), times);
  };
  const auto by_caller = [](auto make) {
    return [make](int times) { drive_by_caller([&](executor& gpu, std::size_t i) { return make(gpu, i, times); }); };
  };
  const auto by_thread = [](auto make) {
    return [make](int times) { drive_by_thread([&](executor& gpu, std::size_t i) { return make(gpu, i, times); }); };
  };
  std::vector<contender> all{{"caller-driven, 64 keys", by_caller(own_key)},
                             {"caller-driven, one key", by_caller(same_key)},
                             {"caller-driven, no-op", by_caller(nothing)},
                             {"caller-driven, a child task each", by_caller(children)},
                             {"poller thread and Asio, 64 keys", by_thread(own_key)},
                             {"poller thread and Asio, one key", by_thread(same_key)},
                             {"poller thread and Asio, no-op", by_thread(nothing)},
                             {"asio::post", post_often},
                             {"asio::awaitable, co_await post", await_often},
                             {"asio::co_spawn each", spawn_often}};

  // Interleaved: this machine's other work hits all alike. Construction and threads are a part that many operations
  // make small.
  const int rounds = chosen.quick ? 5 : 21;
  const int times = chosen.quick ? 1'000 : 10'000;
  const bool apart = cohort::detail::usable_cores() > 1;  // on one core the two would wait for their time slices
  std::vector<double> distance;
  for (int round = -1; round < rounds; ++round) {
    if (apart) distance.push_back(there_and_back_ns());
    for (contender& one : all) {
      if (one.name.find(chosen.problem) == std::string::npos) continue;
      const double cpu = cpu_ns();
      const auto begin = clock::now();
      one.run(times);
      const double operations = static_cast<double>(times) * pending;
      const double wall_ns = 1e3 * microseconds_since(begin) / operations;
      const double own_ns = (cpu_ns() - cpu) / operations;
      if (round < 0) continue;
      one.wall.push_back(wall_ns);
      one.cpu.push_back(own_ns);
    }
  }
  if (apart) {
    distance.push_back(there_and_back_ns());
    char text[128];
    std::snprintf(text, sizeof text,
                  "a word to another core and back, before each round: median %.0f ns, least %.0f, most %.0f",
                  median(distance), least(distance), *std::max_element(distance.begin(), distance.end()));
    to.note(text);
    to.row({{"what", "a word to another core and back"},
            {"wall_ns", number(median(distance))},
            {"least_wall_ns", number(least(distance))},
            {"most_wall_ns", number(*std::max_element(distance.begin(), distance.end()))}});
  }
  const double post = median(all[7].cpu);
  const table_printer printer({{"", 34}, {"/post", 7}, {"cpu ns", 8, 1}, {"wall ns", 8, 1}, {"least", 8, 1}});
  printer.header();
  for (const contender& one : all) {
    printer.row({one.name, median(one.cpu) / post, median(one.cpu), median(one.wall), least(one.cpu)});
    to.row({{"what", one.name},
            {"cpu_ns", number(median(one.cpu))},
            {"wall_ns", number(median(one.wall))},
            {"least_cpu_ns", number(least(one.cpu))},
            {"over_post", number(median(one.cpu) / post)}});
  }
  for (std::size_t i = 0; i < 3; ++i)
    to.target("cpu ns per operation, " + all[i].name, 100, median(all[i].cpu), bound::at_most);
  for (std::size_t i = 4; i < 7; ++i)
    to.target("cpu ns per operation, " + all[i].name, 300, median(all[i].cpu), bound::at_most);
  return to.finish();
}

const registration announced({"overhead", place::host, "CPU time of an operation, submit to resume, beside Asio's own",
                              &run_overhead});

}  // namespace
}  // namespace cohort_bench

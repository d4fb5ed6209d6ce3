// latency: one op at a time, a no-op and a small product, from the call to the result. Beside our round trip stand the
// ways in which a program gets a kernel done and learns of it, and the raw mailbox, which nothing resident can beat.
#include "../command.hpp"
#include "../limits.hpp"
#include "../no_op.hpp"
#include "../report.hpp"
#include "../statistics.hpp"
#include "ceilings.hpp"
#include "contest.hpp"
#include "mailbox.hpp"
#include "operands.hpp"
#include "paused_executor.hpp"

#include <cohort/spawn.hpp>

#include <atomic>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace cohort_bench {
namespace {

/// A way to have something done: `count` round trips, us of each.
struct way {
  std::string name;
  std::function<std::vector<double>(int)> measure;
  std::vector<double> samples{};
};

template <class Work>
std::vector<double> time_each(int count, Work&& work) {
  std::vector<double> samples;
  samples.reserve(static_cast<std::size_t>(count));
  for (int i = -100; i < count; ++i) {
    const auto begin = clock::now();
    work();
    const double us = microseconds_since(begin);
    if (i >= 0) samples.push_back(us);
  }
  return samples;
}

/// The four ways of launching: `enqueue` puts the work into the stream.
template <class Enqueue>
std::vector<way> launches(const stream& in, Enqueue enqueue) {
  std::vector<way> all;
  all.push_back({"launch + synchronize", [&in, enqueue](int count) {
                   return time_each(count, [&] {
                     enqueue();
                     synchronize(in);
                   });
                 }});
  all.push_back({"launch + event poll", [&in, enqueue](int count) {
                   const event done = make_event();
                   return time_each(count, [&] {
                     enqueue();
                     cuda_check(cudaEventRecord(done.get(), in.get()), "cudaEventRecord");
                     cudaError_t state = cudaErrorNotReady;
                     while (state == cudaErrorNotReady) state = cudaEventQuery(done.get());
                     cuda_check(state, "cudaEventQuery");
                   });
                 }});
  all.push_back({"launch + host function", [&in, enqueue](int count) {
                   std::atomic<std::uint32_t> called{0};
                   std::uint32_t expected = 0;
                   auto samples = time_each(count, [&] {
                     enqueue();
                     const auto tell = [](void* flag) {
                       // release: pairs with the acquire below
                       static_cast<std::atomic<std::uint32_t>*>(flag)->fetch_add(1, std::memory_order_release);
                     };
                     cuda_check(cudaLaunchHostFunc(in.get(), tell, &called), "cudaLaunchHostFunc");
                     ++expected;
                     while (called.load(std::memory_order_acquire) != expected) {
                     }
                   });
                   synchronize(in);
                   return samples;
                 }});
  all.push_back({"graph + synchronize", [&in, enqueue](int count) {
                   const graph_exec recorded = capture(in, enqueue);
                   return time_each(count, [&] {
                     cuda_check(cudaGraphLaunch(recorded.get(), in.get()), "cudaGraphLaunch");
                     synchronize(in);
                   });
                 }});
  return all;
}

template <class Executor, class Op>
cohort::task<std::vector<double>> round_trips(Executor& gpu, Op op, int count) {
  std::vector<double> samples;
  samples.reserve(static_cast<std::size_t>(count));
  for (int i = -100; i < count; ++i) {
    const auto begin = clock::now();
    co_await gpu.submit(op);
    const double us = microseconds_since(begin);
    if (i >= 0) samples.push_back(us);
  }
  co_return samples;
}

template <class T, class Op>
way our_way(linear_executor<T>& gpu, const Op& op, std::string name = std::string(ours)) {
  return {std::move(name), [&gpu, op](int count) {
            const typename linear_executor<T>::residency on(gpu);
            return gpu.get().run(round_trips(gpu.get(), op, count));
          }};
}

/// The same through the poller thread: the coroutine runs on an io_context of this thread.
class by_thread {
public:
  using executor = cohort::executor<linear_ops<float>>;

  by_thread() : gpu_(io_, make_linear_backend<float>(benchmark_options()), {.driven_by = cohort::drive::thread}) {
    leave();
  }

  std::vector<double> measure(int count) {
    gpu_.resume();
    std::vector<double> samples;
    std::exception_ptr failure;
    cohort::spawn(io_.get_executor(), round_trips(gpu_, no_op{}, count),
                  [&](std::exception_ptr error, std::vector<double> all) {
                    failure = std::move(error);
                    samples = std::move(all);
                  });
    io_.restart();
    io_.run();
    leave();
    if (failure) std::rethrow_exception(failure);
    return samples;
  }

private:
  void leave() {
    if (const cohort::error_code failed = gpu_.pause()) throw cohort::system_error(failed, "pausing the executor");
  }

  boost::asio::io_context io_;
  executor gpu_;
};

/// All ways in turn, `rounds` times.
void measure(const std::string& what, std::vector<way>& ways, int rounds, int each, report& to) {
  for (int round = 0; round < rounds; ++round) {
    for (way& one : ways) {
      const auto some = one.measure(each);
      one.samples.insert(one.samples.end(), some.begin(), some.end());
    }
  }
  const double mine = median(ways.back().samples);
  const table_printer printer({{"what", 22}, {"way", 30}, {"/ours", 7}, {"p50 us", 8}, {"p99", 8}, {"p99.9", 8}});
  printer.header();
  for (const way& one : ways) {
    const summary s(one.samples);
    printer.row({what, one.name, s.p50() / mine, s.p50(), s.p99(), s.p999()});
    to.row({{"what", what},
            {"way", one.name},
            {"ratio", number(s.p50() / mine)},
            {"p50_us", number(s.p50())},
            {"p99_us", number(s.p99())},
            {"p999_us", number(s.p999())},
            {"samples", s.count()}});
  }
}

summary samples_of(const std::vector<way>& ways, std::string_view name) {
  for (const way& one : ways) {
    if (one.name == name) return summary(one.samples);
  }
  return {};
}

struct effort {
  int rounds, each;
};

void no_ops(const cublas_streams& cublas, const effort& e, report& to) {
  linear_executor<float> gpu;
  cohort::cuda_options for_the_host = benchmark_options();
  for_the_host.results_stay_on_device = false;
  linear_executor<float> shown({}, {}, for_the_host);
  by_thread threaded;
  std::vector<way> ways;
  ways.push_back({"mailbox, one block", [](int count) {
                    mailbox one(mailbox_form::one_block);
                    return one.round_trips(count);
                  }});
  ways.push_back({"mailbox, relayed", [](int count) {
                    mailbox one(mailbox_form::relayed);
                    return one.round_trips(count);
                  }});
  for (way& one : launches(cublas.at(0), [&cublas] { launch_empty(cublas.at(0).get()); })) {
    ways.push_back(std::move(one));
  }
  ways.push_back({"cohort, poller thread, Asio", [&threaded](int count) { return threaded.measure(count); }});
  ways.push_back(our_way(shown, no_op{}, "cohort, results for the host"));
  ways.push_back(our_way(gpu, no_op{}));
  measure("no-op", ways, e.rounds, e.each, to);
  const summary mine = samples_of(ways, ours);
  to.target("no-op round trip, us", 8, mine.p50(), bound::at_most);
  to.target("no-op round trip over the raw mailbox behind a relay", 1.2,
            mine.p50() / samples_of(ways, "mailbox, relayed").p50(), bound::at_most);
  to.target("no-op round trip over launch + synchronize", 0.65,
            mine.p50() / samples_of(ways, "launch + synchronize").p50(), bound::at_most);
  to.target("p99 of the no-op round trip over its median", 1.5, mine.p99() / mine.p50(), bound::at_most);
}

template <class T>
void products(const cublas_streams& cublas, const effort& e, report& to) {
  constexpr element_type type = type_of<T>;
  const problem shape{256, 256, 256};
  const operand_pool pool(shape, type, 1);
  const std::vector<batch> sets = pool.sets(1, 1);
  const gemm one = sets.front().front();
  linear_executor<T> gpu;
  const std::string what = std::string(name_of(type)) + " " + shape.name();

  std::vector<way> ways = launches(cublas.at(0), [&cublas, one] { enqueue(cublas.handle(0), one, type); });
  for (way& launch : ways) launch.name = "cuBLAS, " + launch.name;
  ways.push_back(our_way(gpu, as_op<T>(one)));
  verifier check(type, sets);
  for (way& each : ways) {
    check.poison(1);
    (void)each.measure(1);
    synchronize_device();
    const double error = check.error(1);
    if (!check.right(error)) to.wrong(what + ": " + each.name + " has a relative error of " + std::to_string(error));
  }
  measure(what, ways, e.rounds, e.each, to);
  const summary mine = samples_of(ways, ours);
  to.target("p99 of the round trip of " + what + " over its median", 1.5, mine.p99() / mine.p50(), bound::at_most);
}

int run_latency(const options& chosen) {
  if (!device_present()) return skipped;
  report to("latency", chosen);
  describe_device(to);
  const cublas_streams cublas;
  to.note("one at a time, R = 1, operands in L2; ways in turn, many times over; peers while our executor is paused");
  to.note("mailbox, relayed: host word, relay block, one of the other blocks, counter, host word: the way of a packet");
  to.note("results for the host: without results_stay_on_device, which the mailboxes have, too");
  const effort e = chosen.quick ? effort{5, 400} : effort{20, 5'000};
  no_ops(cublas, e, to);
  if (chosen.type != "bf16") products<float>(cublas, e, to);
  if (chosen.type != "fp32") products<cohort::bf16>(cublas, e, to);
  return to.finish();
}

const registration announced({"latency", place::gpu,
                              "one op at a time, there and back, against launches and the raw mailbox", &run_latency});

}  // namespace
}  // namespace cohort_bench

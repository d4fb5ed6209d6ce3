// The crews that benchmarks time: each batch submits every op of its set once, and failures come out.
#include "../../bench/cohort_bench/crew.hpp"

#include <cohort/backend/host.hpp>
#include <cohort/executor.hpp>
#include <cohort/op.hpp>

#include <boost/asio/io_context.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <memory>
#include <vector>

namespace {

/// Counts how often it ran.
struct alignas(16) count_up {
  static constexpr const char* name = "count_up";
  int* counter = nullptr;

  std::uint32_t tiles() const { return 1; }
  cohort::error_code check() const {
    return counter == nullptr ? cohort::error_code(cohort::errc::null_pointer) : cohort::error_code();
  }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t) const { ++*counter; }
};

using ops = cohort::op_set<count_up>;

struct fixture {
  fixture(std::size_t set_count, std::size_t r) : counters(set_count * r), sets(set_count) {
    for (std::size_t i = 0; i < counters.size(); ++i) sets[i / r].push_back(count_up{&counters[i]});
  }

  boost::asio::io_context io;
  // Without workers tiles run where the executor is driven: counters need not be atomic.
  cohort::executor<ops> gpu{io,
                            std::make_unique<cohort::host_backend<ops>>(cohort::host_options{.workers = 0}),
                            {.driven_by = cohort::drive::caller}};
  std::vector<int> counters;
  std::vector<std::vector<count_up>> sets;
};

TEST_CASE("timed batches go round the sets, and samples are those after the warm-up") {
  fixture f(3, 5);
  const auto samples =
      cohort_bench::time_batches(f.gpu, f.sets, {.warm_up = 2, .fewest = 4, .most = 4, .budget_us = 0});
  CHECK(samples.size() == 4);
  for (const int ran : f.counters) CHECK(ran == 2);  // 6 batches over 3 sets
}

TEST_CASE("a batch is one packet when nothing else is in flight") {
  fixture f(1, 64);
  (void)cohort_bench::time_batches(f.gpu, f.sets, {.warm_up = 0, .fewest = 3, .most = 3, .budget_us = 0});
  CHECK(f.gpu.statistics().packets == 3);
}

TEST_CASE("crews that keep a device full run every set equally often") {
  fixture f(8, 3);
  CHECK(cohort_bench::time_kept_full(f.gpu, f.sets, 4, 10) > 0);
  for (const int ran : f.counters) CHECK(ran == 5);  // 4 crews of 10 batches over 8 sets
}

TEST_CASE("a submission that fails ends the crew with its error") {
  fixture f(1, 4);
  f.sets[0][2].counter = nullptr;
  CHECK_THROWS_AS((void)cohort_bench::time_batches(f.gpu, f.sets, {}), cohort::system_error);
  CHECK_THROWS_AS((void)cohort_bench::time_kept_full(f.gpu, f.sets, 2, 3), cohort::system_error);
}

}  // namespace

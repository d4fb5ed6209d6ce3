// The driver of cohort_bench slo: open loop, what is judged, and the search for a rate; and its models on the host.
#include "../../bench/cohort_bench/slo/arrivals_of.hpp"
#include "../../bench/cohort_bench/slo/open_loop.hpp"
#include "../../bench/cohort_bench/slo/rate_search.hpp"
#include "../../bench/cohort_bench/slo/reference.hpp"

#include <cohort/backend/host_context.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

using namespace cohort_bench::slo;
using namespace std::chrono_literals;
using cohort_load::arrival;

namespace {

/// Serves whatever has `room`, after so many polls.
class slow_arm final : public arm {
public:
  slow_arm(std::size_t room, int polls) : arm("slow"), room_(room), polls_(polls) {}
  bool start(std::uint32_t, std::uint32_t request) override {
    if (inside_.size() == room_) return false;
    inside_.push_back({request, polls_});
    return true;
  }
  bool poll() override {
    for (auto& [request, left] : inside_) {
      if (--left == 0) log().finished(request, request != fails);
    }
    return std::erase_if(inside_, [](const auto& one) { return one.second == 0; }) > 0;
  }
  std::size_t inside() const override { return inside_.size(); }
  void rewind() override {}
  void* output(std::uint32_t, std::uint32_t) override { return nullptr; }

  std::uint32_t fails = ~0u;

private:
  std::size_t room_;
  int polls_;
  std::vector<std::pair<std::uint32_t, int>> inside_;
};

constexpr target_times no_hurry{1e12, 1e12, 1e12};

class plain_store final : public store {
public:
  void* take(std::size_t bytes) override {
    all_.emplace_back(std::calloc(bytes + 256, 1), &std::free);
    void* at = all_.back().get();
    std::size_t space = bytes + 256;
    return std::align(256, bytes, at, space);
  }
  void write(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void read(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }

private:
  std::vector<std::unique_ptr<void, decltype(&std::free)>> all_;
};

/// Runs ops one after the other, each tile on this thread.
template <class T>
void run(const program<T>& ops) {
  struct alignas(128) line {
    std::byte bytes[128];
  };
  std::vector<line> scratch(slo_ops<T>::host_scratch_bytes / sizeof(line) + 1);
  cohort::host_context context(scratch.front().bytes);
  for (const step<T>& one : ops) {
    std::visit(
        [&](auto op) {
          using op_type = decltype(op);
          REQUIRE_FALSE(cohort::detail::check(op).failed());
          const std::uint32_t tiles = op_type::plan(std::span<op_type>(&op, 1), {.workers = 1, .host = true});
          for (std::uint32_t tile = 0; tile < tiles; ++tile) op_type::run(context, &op, 1, tile);
        },
        one);
  }
}

}  // namespace

TEST_CASE("latency counts from the intended arrival, also of a request that is started late") {
  slow_arm slow(1'000, 1);
  trial one({{0ns, 0, 0}, {1ns, 0, 0}}, 0ns, 1ms);
  one.run(slow, false);
  const verdict v = judge(one, no_hurry);
  CHECK(v.requests == 2);
  CHECK(v.attainment == 1);
  one.for_each([](const arrival&, double ns) { CHECK(ns > 0); });
  CHECK(judge(one, {1, 1, 1}).attainment == 0);
}

TEST_CASE("what is dropped or failed counts as offered and not in time") {
  slow_arm slow(3, 10);
  slow.fails = 1;
  std::vector<arrival> burst(4, arrival{0ns, 0, 0});
  trial one(std::move(burst), 0ns, 1ms);
  one.run(slow, false);
  const verdict v = judge(one, no_hurry);
  CHECK(v.requests == 4);
  CHECK(v.failed == 1);
  CHECK(v.drop_rate == doctest::Approx(0.25));
  CHECK(v.attainment == doctest::Approx(0.5));
  CHECK(v.goodput == doctest::Approx(2 / 1e-3));
}

TEST_CASE("what arrives in the warm-up is served and not counted") {
  slow_arm slow(10, 1);
  trial one({{0ns, 0, 0}, {2ms, 1, 1}}, 1ms, 3ms);
  one.run(slow, false);
  const verdict v = judge(one, no_hurry);
  CHECK(v.requests == 1);
  CHECK(v.latency[0].count() == 0);
  CHECK(v.latency[1].count() == 1);
}

TEST_CASE("an arm whose requests do not end is given up") {
  slow_arm stuck(10, 1'000'000'000);
  trial one({{0ns, 0, 0}}, 0ns, 1ms);
  CHECK_THROWS_AS(one.run(stuck, false, 10ms), std::runtime_error);
}

TEST_CASE("the search finds the largest rate that attains, from below and from above") {
  const search_plan plan{.first_rate = 1000, .doublings = 10, .bisections = 5, .trials = 2};
  const auto search = [&plan](auto&& attains) {
    rate_search one(plan);
    for (int trials = 0; !one.done(); ++trials) {
      REQUIRE(trials < plan.trials * (plan.doublings + plan.bisections));
      one.tried(attains(one.rate()));
    }
    return one.found();
  };
  const double step = std::exp2(1.0 / 32) * 1.0001;
  for (const double most : {150.0, 999.0, 1000.0, 12'345.0}) {
    const double found = search([most](double rate) { return rate <= most; });
    CHECK(found <= most);
    CHECK(found * step >= most);
  }
  CHECK(search([](double) { return false; }) == 0);
  CHECK(search([](double) { return true; }) == doctest::Approx(1000 * std::exp2(9)));
  bool stops = false;  // every other trial is spoilt
  const double found = search([&stops](double rate) { return rate <= 12'345 && (stops = !stops); });
  CHECK(found * step >= 12'345);
}

TEST_CASE("arrivals have the law of a name that is known, or those of a file that can be read") {
  CHECK(law_of("gamma") == cohort_load::gaps{cohort_load::law::gamma, 4});
  CHECK(law_of("log_normal_2").shape == 2);
  CHECK_THROWS_WITH_AS(law_of("pareto"), doctest::Contains("bursts"), std::runtime_error);
  CHECK_THROWS_AS(recorded_in("/nowhere/trace.csv"), std::runtime_error);
  const std::string path = (std::filesystem::temp_directory_path() / "cohort_slo_test.csv").string();
  std::ofstream(path) << "seconds,tenant,model\n";
  CHECK_THROWS_AS(recorded_in(path), std::runtime_error);
  std::ofstream(path) << "seconds,tenant,model\n0.5,7,1\n";
  CHECK(recorded_in(path) == std::vector{arrival{500ms, 7, 1}});
  std::filesystem::remove(path);
}

TEST_CASE_TEMPLATE("each model computes its reference, alone, in another buffer and in a batch", T, float,
                   cohort::bf16) {
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 3e-2;
  plain_store memory;
  for (const kind what : {kind::mlp, kind::bert, kind::lstm}) {
    const model<T> of(what, sizes_on_host, 7, memory);
    const auto output_of = [&](const T* y) { return std::vector<T>(y, y + of.outputs()); };
    const matrix wanted[] = {reference(of, 0), reference(of, 1)};

    const std::size_t bytes = work_area<T>::bytes(of, 1);
    auto* const block = static_cast<std::byte*>(memory.take(2 * bytes));
    const work_area<T> first(of, 1, 0, block, memory);
    const work_area<T> second(of, 1, 1, block + bytes, memory);
    program<T> ops = first.make_program(1);
    run(ops);
    for (step<T>& one : ops) {
      std::visit([&](auto& op) { op = shifted(op, bytes); }, one);
    }
    run(ops);
    CHECK(error_of(output_of(first.output(0)), wanted[0]) <= tolerance);
    CHECK(error_of(output_of(second.output(0)), wanted[1]) <= tolerance);
    CHECK(error_of(output_of(second.output(0)), wanted[0]) > 0.1);

    const work_area<T> many(of, 4, 0, memory.take(work_area<T>::bytes(of, 4)), memory);
    run(many.make_program(3));
    for (std::uint32_t i = 0; i < 3; ++i) {
      CHECK(error_of(output_of(many.output(i)), wanted[i % 2]) <= tolerance);
    }
  }
}

// Open-loop arrivals: their laws, their sources, and traces as files.
#include "../../bench/load/arrivals.hpp"
#include "../../bench/load/trace_file.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using namespace cohort_load;
using namespace std::chrono_literals;

namespace {

struct moments {
  double mean = 0;
  double cv = 0;
};

moments gaps_of(const std::vector<arrival>& all) {
  double sum = 0;
  double squares = 0;
  for (std::size_t i = 1; i < all.size(); ++i) {
    const auto gap = static_cast<double>((all[i].at - all[i - 1].at).count());
    sum += gap;
    squares += gap * gap;
  }
  const auto n = static_cast<double>(all.size() - 1);
  const double mean = sum / n;
  return {mean, std::sqrt(squares / n - mean * mean) / mean};
}

std::vector<arrival> many(const gaps& g, std::uint64_t seed = 1) {
  return generate(g, 1e5, 20s, std::vector<source>{{7, 9, 1}}, seed);
}

}  // namespace

TEST_CASE("every law keeps the mean rate, and has the variation that it says") {
  // The coefficient of variation of log-normal gaps is sqrt(exp(sigma^2) - 1); its estimate converges slowly.
  struct {
    gaps g;
    double cv, off;
  } const laws[] = {{{law::poisson, 1}, 1, 0.02},
                    {{law::gamma, 4}, 4, 0.05},
                    {{law::log_normal, 1.5}, std::sqrt(std::exp(2.25) - 1), 0.15}};
  for (const auto& one : laws) {
    const moments seen = gaps_of(many(one.g));
    CHECK(seen.mean == doctest::Approx(1e4).epsilon(0.03));
    CHECK(seen.cv == doctest::Approx(one.cv).epsilon(one.off));
  }
  CHECK(gaps_of(many({law::log_normal, 2})).mean == doctest::Approx(1e4).epsilon(0.05));
}

TEST_CASE("bursts hold as many arrivals as asked for, ten times as dense as the mean") {
  const auto all = many({law::bursts, 50});
  CHECK(gaps_of(all).mean == doctest::Approx(1e4).epsilon(0.05));
  // Inside a burst the mean gap is 1 us; a pause is 450 us in the mean, so few are below 30 us.
  std::size_t pauses = 0;
  double inside = 0;
  for (std::size_t i = 1; i < all.size(); ++i) {
    const auto gap = all[i].at - all[i - 1].at;
    if (gap > 30us) {
      ++pauses;
    } else {
      inside += static_cast<double>(gap.count());
    }
  }
  const auto n = static_cast<double>(all.size());
  CHECK(n / static_cast<double>(pauses) == doctest::Approx(50).epsilon(0.15));
  CHECK(inside / (n - static_cast<double>(pauses)) == doctest::Approx(1000).epsilon(0.2));
}

TEST_CASE("arrivals come in order of time, and equal seeds give equal arrivals") {
  const auto all = many({law::gamma, 4});
  for (std::size_t i = 1; i < all.size(); ++i) REQUIRE(all[i - 1].at <= all[i].at);
  CHECK(all.back().at < 20s);
  CHECK(all == many({law::gamma, 4}));
  CHECK(all != many({law::gamma, 4}, 2));
}

TEST_CASE("sources send by their shares; with skew the first sends most") {
  std::map<std::uint32_t, double> seen;
  const auto all = generate({}, 1e5, 10s, std::vector<source>{{0, 3, 1}, {1, 4, 3}}, 5);
  for (const arrival& one : all) {
    seen[one.tenant] += 1.0 / static_cast<double>(all.size());
    REQUIRE(one.model == one.tenant + 3);
  }
  CHECK(seen[1] == doctest::Approx(0.75).epsilon(0.01));
  const auto skewed = sources_of(4, 1);
  CHECK(skewed[0].share / skewed[3].share == doctest::Approx(4));
  CHECK(sources_of(10'000).back().share == 1);
}

TEST_CASE("merged streams are one, and lose nothing") {
  const std::vector<std::vector<arrival>> both{generate({}, 1e4, 1s, std::vector<source>{{0, 0, 1}}, 1),
                                               generate({}, 3e4, 1s, std::vector<source>{{1, 0, 1}}, 2)};
  const auto all = merged(both);
  CHECK(all.size() == both[0].size() + both[1].size());
  for (std::size_t i = 1; i < all.size(); ++i) REQUIRE(all[i - 1].at <= all[i].at);
}

TEST_CASE("rates, shapes and shares that make no sense are refused") {
  const std::vector<source> one{{0, 0, 1}};
  CHECK_THROWS_AS(generate({}, 0, 1s, one, 1), std::invalid_argument);
  CHECK_THROWS_AS(generate({}, 1, 1s, {}, 1), std::invalid_argument);
  CHECK_THROWS_AS(generate({law::bursts, 0.5}, 1, 1s, one, 1), std::invalid_argument);
  CHECK_THROWS_AS(generate({law::gamma, 0}, 1, 1s, one, 1), std::invalid_argument);
  CHECK_THROWS_AS(generate({}, 1, 1s, std::vector<source>{{0, 0, -1}}, 1), std::invalid_argument);
}

TEST_CASE("a trace is read as it was written") {
  const auto all = many({law::log_normal, 2});
  std::stringstream file;
  write_trace(file, all);
  CHECK(read_trace(file) == all);
}

TEST_CASE("a trace that is malformed is refused with its line") {
  const auto message = [](const std::string& text) -> std::string {
    std::istringstream in(text);
    try {
      (void)read_trace(in);
    } catch (const trace_error& error) {
      return error.what();
    }
    return "accepted";
  };
  const std::string header = "seconds,tenant,model\n";
  CHECK(message("") == "line 1 of the trace: the header 'seconds,tenant,model' is expected");
  CHECK(message("time,tenant\n") == "line 1 of the trace: the header 'seconds,tenant,model' is expected");
  CHECK(message(header + "0.1,1\n") == "line 2 of the trace: three fields are expected");
  CHECK(message(header + "0.1,1,2,3\n") == "line 2 of the trace: three fields are expected");
  CHECK(message(header + "0.1,-1,2\n") == "line 2 of the trace: the tenant is '-1'");
  CHECK(message(header + "0.1,1,\n") == "line 2 of the trace: the model is ''");
  CHECK(message(header + "0.1x,1,2\n") == "line 2 of the trace: the time is '0.1x'");
  CHECK(message(header + "nan,1,2\n") == "line 2 of the trace: the time is out of range");
  CHECK(message(header + "0.2,1,2\n0.1,1,2\n") == "line 3 of the trace: the time is before that of the line above");
  CHECK(message(header) == "accepted");
  CHECK(message(header + "0.5,1,2\r\n\r\n") == "accepted");
}

// ops::linear on the device against float64, for every pair of tails of N and K and a few large products.
#include "support/cuda_test_options.hpp"
#include "support/figure.hpp"

#include <cohort/backend/cuda.cuh>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/ops/linear.hpp>
#include <cohort/when_all.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <deque>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using cohort::bf16;
using cohort::fp16;

template <class T>
constexpr double tolerance = std::is_same_v<T, float>  ? 1e-5
                             : std::is_same_v<T, fp16> ? 2e-3
                                                       : 1e-2;

struct extent {
  std::size_t m, n, k;
};

template <class T>
struct product {
  product(cohort::backend& device, const extent& size, std::mt19937& random)
      : e(size),
        x(cohort::make_pinned_buffer<T>(device, e.m * e.k)),
        w(cohort::make_pinned_buffer<T>(device, e.n * e.k)),
        bias(cohort::make_pinned_buffer<T>(device, e.n)),
        y(cohort::make_pinned_buffer<T>(device, e.m * e.n)) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (auto* operand : {&x, &w, &bias}) {
      for (T& value : *operand) value = cohort::from_float<T>(uniform(random));
    }
    std::memset(static_cast<void*>(y.data()), 0xff, y.size_bytes());
  }

  /// |y - reference| / |reference| in the 2-norm; NaN where an element was not written. Large products: every 7th row
  /// and every 13th feature.
  double error() const {
    const bool large = e.m * e.n * e.k > 4'000'000;
    double difference = 0, size = 0;
    for (std::size_t m = 0; m < e.m; m += large ? 7 : 1) {
      for (std::size_t n = 0; n < e.n; n += large ? 13 : 1) {
        double sum = cohort::to_float(bias.data()[n]);
        for (std::size_t k = 0; k < e.k; ++k) {
          sum += static_cast<double>(cohort::to_float(x.data()[m * e.k + k])) *
                 static_cast<double>(cohort::to_float(w.data()[n * e.k + k]));
        }
        const double got = cohort::to_float(y.data()[m * e.n + n]);
        difference += (got - sum) * (got - sum);
        size += sum * sum;
      }
    }
    return std::sqrt(difference / size);
  }

  extent e;
  cohort::pinned_buffer<T> x, w, bias, y;
};

template <class T>
cohort::task<> multiply(cohort::executor<cohort::op_set<cohort::ops::linear<T>>>& gpu, product<T>& p) {
  co_await gpu.submit(
      cohort::ops::make_linear<T>(p.x.span(), p.w.span(), p.bias.span(), p.y.span(), {p.e.m, p.e.n, p.e.k}));
}

constexpr std::size_t sizes[] = {1, 2, 3, 5, 8, 16, 17, 31, 33, 64, 65, 100, 127, 128, 129, 255, 300};
constexpr extent large[] = {{64, 4096, 1024}, {1, 4096, 1024}, {256, 256, 1152}, {256, 128, 1152},
                            {512, 1, 512},    {384, 32, 384},  {300, 1000, 777}, {1024, 512, 512}};

}  // namespace

/// Alone a product has the device to itself, and the segments of K are shared by warps or by blocks; among others it
/// has a few blocks, and the taller ones walk through K. Many more packets than the ring has slots: counters are used
/// again.
TEST_CASE_TEMPLATE("device: products with segments of K give the same bits alone and among 63 others", T, float, fp16,
                   bf16) {
  using kernels = cohort::op_set<cohort::ops::linear<T>>;
  cohort::cuda_options options = cohort::testing::cuda_test_options(std::size_t{1} << 24);
  options.pinned_bytes = std::size_t{1} << 28;
  boost::asio::io_context io;
  cohort::executor<kernels> gpu(io, std::make_unique<cohort::cuda_backend<kernels>>(options),
                                {.driven_by = cohort::drive::caller});
  std::mt19937 random(5);
  std::deque<product<T>> all;
  constexpr std::size_t depths[] = {512, 801, 1152, 2310};
  for (std::size_t i = 0; i < 64; ++i) {
    all.emplace_back(gpu.device(), extent{1 + i * 37 % 130, 33 + i % 3 * 64, depths[i % std::size(depths)]}, random);
  }
  const auto bits = [](const product<T>& p) {
    const auto bytes = std::as_bytes(p.y.span());
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  std::vector<std::vector<std::byte>> alone;
  for (auto& each : all) {
    gpu.run(multiply<T>(gpu, each));
    CHECK(each.error() < tolerance<T>);
    alone.push_back(bits(each));
  }
  for (int round = 0; round < cohort::testing::rounds(50); ++round) {
    for (auto& each : all) std::memset(static_cast<void*>(each.y.data()), 0xff, each.y.size_bytes());
    std::vector<cohort::task<>> tasks;
    for (auto& each : all) tasks.push_back(multiply<T>(gpu, each));
    if (round % 2 == 0) {
      gpu.run(cohort::when_all(std::move(tasks)));
    } else {
      for (auto& each : tasks) gpu.run(std::move(each));
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      INFO("round ", round, ", product ", i);
      CHECK(bits(all[i]) == alone[i]);
    }
  }
}

TEST_CASE_TEMPLATE("device: every shape of the table gives the product", T, float, fp16, bf16) {
  using kernels = cohort::op_set<cohort::ops::linear<T>>;
  cohort::cuda_options options = cohort::testing::cuda_test_options(std::size_t{1} << 24);
  options.pinned_bytes = std::size_t{1} << 28;
  boost::asio::io_context io;
  cohort::executor<kernels> gpu(io, std::make_unique<cohort::cuda_backend<kernels>>(options),
                                {.driven_by = cohort::drive::caller});
  std::mt19937 random(3);
  std::deque<product<T>> all;
  std::size_t turn = 0;
  for (const std::size_t n : sizes) {
    for (const std::size_t k : sizes) {
      all.emplace_back(gpu.device(), extent{sizes[turn * 5 % std::size(sizes)], n, k}, random);
      ++turn;
    }
  }
  for (const extent& e : large) all.emplace_back(gpu.device(), e, random);
  std::vector<cohort::task<>> tasks;
  for (auto& each : all) tasks.push_back(multiply<T>(gpu, each));
  gpu.run(cohort::when_all(std::move(tasks)));
  double worst = 0;
  for (const auto& each : all) {
    INFO(each.e.m, " x ", each.e.n, " x ", each.e.k);
    const double error = each.error();
    CHECK(error < tolerance<T>);
    worst = std::max(worst, error);
  }
  cohort::testing::figure(std::string("linear ") + cohort::type_name<T>() + ", largest relative error of " +
                              std::to_string(all.size()) + " shapes",
                          worst);
}

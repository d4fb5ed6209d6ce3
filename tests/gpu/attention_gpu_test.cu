// ops::attention on the device against float64: every form of it, which shares of a tile heads and queries have, and
// rows that are not aligned.
#include "support/cuda_test_options.hpp"
#include "support/figure.hpp"

#include <cohort/backend/cuda.cuh>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/ops/attention.hpp>
#include <cohort/when_all.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <deque>
#include <limits>
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
  std::size_t tokens, heads, size;
  bool causal;
  std::size_t gap;  ///< elements between the rows of two tokens
};

template <class T>
struct sequence {
  sequence(cohort::backend& device, const extent& all, std::mt19937& random)
      : e(all),
        stride(e.heads * e.size + e.gap),
        q(cohort::make_pinned_buffer<T>(device, e.tokens * stride)),
        k(cohort::make_pinned_buffer<T>(device, e.tokens * stride)),
        v(cohort::make_pinned_buffer<T>(device, e.tokens * stride)),
        out(cohort::make_pinned_buffer<T>(device, e.tokens * stride)) {
    std::uniform_real_distribution<float> uniform(-3, 3);
    for (auto* operand : {&q, &k, &v}) {
      for (T& value : *operand) value = cohort::from_float<T>(uniform(random));
    }
    std::memset(static_cast<void*>(out.data()), 0xff, out.size_bytes());
  }

  /// |out - reference| / |reference| in the 2-norm; NaN where an element was not written.
  double error() const {
    const auto at = [&](const cohort::pinned_buffer<T>& from, std::size_t token, std::size_t column) {
      return static_cast<double>(cohort::to_float(from.data()[token * stride + column]));
    };
    double difference = 0, norm = 0;
    std::vector<double> weights(e.tokens);
    for (std::size_t h = 0; h < e.heads; ++h) {
      for (std::size_t i = 0; i < e.tokens; ++i) {
        const std::size_t end = e.causal ? i + 1 : e.tokens;
        double most = -std::numeric_limits<double>::infinity(), total = 0;
        for (std::size_t j = 0; j < end; ++j) {
          weights[j] = 0;
          for (std::size_t d = 0; d < e.size; ++d) weights[j] += at(q, i, h * e.size + d) * at(k, j, h * e.size + d);
          weights[j] /= std::sqrt(static_cast<double>(e.size));
          most = std::max(most, weights[j]);
        }
        for (std::size_t j = 0; j < end; ++j) total += weights[j] = std::exp(weights[j] - most);
        for (std::size_t d = 0; d < e.size; ++d) {
          double value = 0;
          for (std::size_t j = 0; j < end; ++j) value += weights[j] / total * at(v, j, h * e.size + d);
          const double got = at(out, i, h * e.size + d);
          difference += (got - value) * (got - value);
          norm += value * value;
        }
      }
    }
    return std::sqrt(difference / norm);
  }

  extent e;
  std::size_t stride;
  cohort::pinned_buffer<T> q, k, v, out;
};

template <class T>
cohort::task<> attend(cohort::executor<cohort::op_set<cohort::ops::attention<T>>>& gpu, sequence<T>& s) {
  cohort::ops::attention_shape shape;
  shape.tokens = s.e.tokens;
  shape.heads = s.e.heads;
  shape.head_size = s.e.size;
  shape.q_stride = shape.k_stride = shape.v_stride = shape.out_stride = s.stride;
  shape.causal = s.e.causal;
  co_await gpu.submit(cohort::ops::make_attention<T>(s.q.span(), s.k.span(), s.v.span(), s.out.span(), shape));
}

constexpr std::size_t lengths[] = {1, 2, 15, 16, 17, 31, 32, 33, 48, 64, 65, 100, 128, 129, 200};
constexpr std::size_t head_sizes[] = {1, 3, 8, 16, 24, 32, 33, 40, 64, 65, 80, 96, 127, 128};

}  // namespace

TEST_CASE_TEMPLATE("device: attention of every length and head size is what float64 says", T, float, fp16, bf16) {
  using kernels = cohort::op_set<cohort::ops::attention<T>>;
  cohort::cuda_options options = cohort::testing::cuda_test_options(std::size_t{1} << 24);
  options.pinned_bytes = std::size_t{1} << 28;
  boost::asio::io_context io;
  cohort::executor<kernels> gpu(io, std::make_unique<cohort::cuda_backend<kernels>>(options),
                                {.driven_by = cohort::drive::caller});
  std::mt19937 random(3);
  std::deque<sequence<T>> all;
  std::size_t turn = 0;
  for (const std::size_t length : lengths) {
    for (const std::size_t size : head_sizes) {
      all.emplace_back(gpu.device(), extent{length, 1 + turn % 5, size, turn % 2 != 0, turn % 3 == 2 ? 3u : 0u},
                       random);
      ++turn;
    }
  }
  std::vector<cohort::task<>> tasks;
  for (auto& each : all) tasks.push_back(attend<T>(gpu, each));
  gpu.run(cohort::when_all(std::move(tasks)));
  double worst = 0;
  for (const auto& each : all) {
    INFO(each.e.tokens, " tokens, ", each.e.heads, " heads of ", each.e.size, each.e.causal ? ", causal" : "", ", gap ",
         each.e.gap);
    const double error = each.error();
    CHECK(error < tolerance<T>);
    worst = std::max(worst, error);
  }
  cohort::testing::figure(std::string("attention ") + cohort::type_name<T>() + ", largest relative error of " +
                              std::to_string(all.size()) + " shapes",
                          worst);
}

// Load never changes a result: every op of the library gives the same bits alone and in packets with 1, 7 and 63
// others, through the whole path from co_await to the workers, and so do chains of them. For the backend that the test
// gives.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/chain.hpp>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/ops/attention.hpp>
#include <cohort/ops/copy.hpp>
#include <cohort/ops/elementwise.hpp>
#include <cohort/ops/embedding.hpp>
#include <cohort/ops/layer_norm.hpp>
#include <cohort/ops/linear.hpp>
#include <cohort/ops/pooling.hpp>
#include <cohort/ops/reduction.hpp>
#include <cohort/ops/rms_norm.hpp>
#include <cohort/ops/softmax.hpp>
#include <cohort/when_all.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace load_invariance {

using namespace cohort;

struct double_it {
  static constexpr const char* name = "double_it";
  COHORT_HD
  float operator()(float x) const { return 2.0f * x; }
};

template <class T>
using every_op =
    op_set<ops::linear<T>, ops::layer_norm<T>, ops::rms_norm<T>, ops::softmax<T>, ops::attention<T>, ops::embedding<T>,
           ops::mean_pooling<T>, ops::elementwise<double_it, T, T>, ops::reduction<ops::sum_of, T>, ops::copy>;

inline constexpr std::size_t hidden = 48, heads = 3, features = 40;

/// Requests of varied length with operands of their own; the weights are shared.
template <class T>
struct fixture {
  using kernels = every_op<T>;
  using gpu_type = executor<kernels>;

  explicit fixture(std::unique_ptr<backend> device) : gpu(io, std::move(device), {.driven_by = drive::caller}) {}

  boost::asio::io_context io;
  gpu_type gpu;
  std::mt19937 random{7};
  pinned_buffer<T> weights = filled(features * hidden), bias = filled(features), gamma = filled(hidden),
                   table = filled(30 * hidden);

  struct request {
    std::size_t rows;
    pinned_buffer<T> in, out;
    pinned_buffer<std::int32_t> ids;
    pinned_buffer<float> result;
  };

  pinned_buffer<T> filled(std::size_t size) {
    auto buffer = make_pinned_buffer<T>(gpu.device(), size);
    std::normal_distribution<float> normal;
    for (T& value : buffer) value = from_float<T>(normal(random));
    return buffer;
  }

  request make_request() {
    const std::size_t rows = 1 + random() % 9;
    request r{rows, filled(rows * 3 * hidden), filled(rows * 3 * hidden),
              make_pinned_buffer<std::int32_t>(gpu.device(), rows), make_pinned_buffer<float>(gpu.device(), hidden)};
    for (auto& id : r.ids) id = static_cast<std::int32_t>(random() % 30);
    return r;
  }

  static void poison(request& r) {
    std::memset(static_cast<void*>(r.out.data()), 0xff, r.out.size_bytes());
    std::memset(r.result.data(), 0xff, r.result.size_bytes());
  }

  static std::vector<std::byte> bytes_of(const request& r) {
    const auto out = std::as_bytes(r.out.span()), result = std::as_bytes(r.result.span());
    std::vector<std::byte> all(out.begin(), out.end());
    all.insert(all.end(), result.begin(), result.end());
    return all;
  }

  template <class Make>
  static task<> submit(gpu_type& gpu, request& r, Make make) {
    co_await gpu.submit(make(r));
  }

  template <class Make>
  void check(Make make) {
    std::deque<request> all;
    for (int i = 0; i < 64; ++i) all.push_back(make_request());
    std::vector<std::vector<std::byte>> alone;
    for (request& r : all) {
      poison(r);
      const auto untouched = bytes_of(r);
      gpu.run(submit(gpu, r, make));
      alone.push_back(bytes_of(r));
      REQUIRE(alone.back() != untouched);
    }
    for (const std::size_t company : {1, 7, 63}) {
      for (request& r : all) poison(r);
      std::vector<task<>> together;
      for (std::size_t i = 0; i <= company; ++i) together.push_back(submit(gpu, all[i], make));
      const auto before = gpu.statistics().packets;
      gpu.run(when_all(std::move(together)));
      CHECK(2 * (gpu.statistics().packets - before) <= company + 1);  // they did share packets
      for (std::size_t i = 0; i <= company; ++i) {
        INFO("request ", i, " among ", company, " others");
        CHECK(bytes_of(all[i]) == alone[i]);
      }
    }
  }

  /// Calls `use` with the ops of a request, each of which needs what the one before it wrote. Of two kinds, so that
  /// different ops meet in a packet: layer, norm, layer with residual, pooling; and norm, layer, norm, pooling.
  template <class Use>
  void for_each_step(request& r, bool begins_with_norm, Use use) {
    const std::size_t wide = r.rows * hidden, narrow = r.rows * features;
    const auto x = r.in.view(0, wide);
    if (begins_with_norm) {
      use(ops::make_layer_norm<T>(x, gamma.view(), {}, r.out.view(0, wide), r.rows, hidden));
      use(ops::make_linear<T>(r.out.view(0, wide), weights.view(), bias.view(), r.out.view(wide, narrow),
                              {r.rows, features, hidden}, ops::activation::gelu));
      use(ops::make_layer_norm<T>(r.out.view(wide, narrow), bias.view(), {}, r.out.view(wide + narrow, narrow), r.rows,
                                  features));
      use(ops::make_mean_pooling<T>(r.out.view(wide + narrow, narrow), r.result.span(), r.rows, features));
    } else {
      use(ops::make_linear<T>(x, weights.view(), bias.view(), r.out.view(0, narrow), {r.rows, features, hidden},
                              ops::activation::gelu));
      use(ops::make_layer_norm<T>(r.out.view(0, narrow), bias.view(), {}, r.out.view(narrow, narrow), r.rows,
                                  features));
      use(ops::make_linear<T>(r.out.view(narrow, narrow), weights.view(), {}, r.out.view(2 * narrow, wide),
                              {r.rows, hidden, features}, ops::activation::none, x));
      use(ops::make_mean_pooling<T>(r.out.view(2 * narrow, wide), r.result.span(), r.rows, hidden));
    }
  }

  template <class Op>
  static task<> submit_one(gpu_type& gpu, const Op& op) {
    co_await gpu.submit(op);
  }
  static task<> submit_chain(gpu_type& gpu, chain<kernels>& all) { co_await gpu.submit(all); }

  /// Chains give what their ops give when each is submitted by itself and awaited, in all that they write.
  void check_chains() {
    std::deque<request> all;
    std::deque<chain<kernels>> chains(64);
    std::vector<std::vector<std::byte>> alone;
    for (std::size_t i = 0; i < chains.size(); ++i) {
      request& r = all.emplace_back(make_request());
      poison(r);
      for_each_step(r, i % 2 == 1, [&](const auto& op) {
        const auto before = bytes_of(r);
        gpu.run(submit_one(gpu, op));
        REQUIRE(bytes_of(r) != before);
        chains[i].then(op);
      });
      alone.push_back(bytes_of(r));
    }
    for (const std::size_t company : {0, 1, 7, 63}) {
      for (request& r : all) poison(r);
      std::vector<task<>> together;
      for (std::size_t i = 0; i <= company; ++i) together.push_back(submit_chain(gpu, chains[i]));
      const auto before = gpu.statistics();
      gpu.run(when_all(std::move(together)));
      const auto after = gpu.statistics();
      const std::size_t steps = after.committed - before.committed;
      CHECK(steps == 4 * (company + 1));
      if (company > 0) CHECK(2 * (after.packets - before.packets) <= steps);  // they did share packets
      if (company > 1) CHECK(after.fused > before.fused);
      for (std::size_t i = 0; i <= company; ++i) {
        INFO("chain ", i, " among ", company, " others");
        CHECK(bytes_of(all[i]) == alone[i]);
      }
    }
  }
};

/// Every op of the library in T, a subcase for each, on `device`, whose arenas must hold 16 MiB and 64 MiB.
template <class T>
void check_every_op(std::unique_ptr<backend> device) {
  fixture<T> f(std::move(device));
  using request = typename fixture<T>::request;
  const auto x = [](request& r, std::size_t width) { return r.in.view(0, r.rows * width); };
  const auto y = [](request& r, std::size_t width) { return r.out.view(0, r.rows * width); };
  SUBCASE("linear") {
    f.check([&](request& r) {
      return ops::make_linear<T>(x(r, hidden), f.weights.view(), f.bias.view(), y(r, features),
                                 {r.rows, features, hidden}, ops::activation::gelu);
    });
  }
  SUBCASE("layer_norm") {
    f.check([&](request& r) {
      return ops::make_layer_norm<T>(x(r, hidden), f.gamma.view(), f.gamma.view(), y(r, hidden), r.rows, hidden);
    });
  }
  SUBCASE("rms_norm") {
    f.check(
        [&](request& r) { return ops::make_rms_norm<T>(x(r, hidden), f.gamma.view(), y(r, hidden), r.rows, hidden); });
  }
  SUBCASE("softmax") {
    f.check([&](request& r) { return ops::make_softmax<T>(x(r, hidden), y(r, hidden), r.rows, hidden); });
  }
  SUBCASE("attention") {
    f.check([&](request& r) {
      return ops::make_packed_attention<T>(x(r, 3 * hidden), y(r, hidden),
                                           {.tokens = r.rows, .heads = heads, .head_size = hidden / heads});
    });
  }
  SUBCASE("embedding") {
    f.check([&](request& r) {
      return ops::make_embedding<T>({f.table.view(), f.table.view(), {}, hidden}, r.ids.span(), y(r, hidden));
    });
  }
  SUBCASE("mean_pooling") {
    f.check([&](request& r) { return ops::make_mean_pooling<T>(x(r, hidden), r.result.span(), r.rows, hidden); });
  }
  SUBCASE("elementwise") {
    f.check([&](request& r) { return ops::make_elementwise(double_it{}, y(r, hidden), x(r, hidden)); });
  }
  SUBCASE("reduction") {
    f.check([&](request& r) { return ops::make_reduction<ops::sum_of>(x(r, hidden), r.result.span()); });
  }
  SUBCASE("copy") {
    f.check([&](request& r) { return ops::make_copy(x(r, hidden), y(r, hidden)); });
  }
}

}  // namespace load_invariance

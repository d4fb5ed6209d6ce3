// The elementary functions of ops, against float64 over the whole range of float, and the activations made of them.
#include <cohort/backend/host_context.hpp>
#include <cohort/ops/activation.hpp>
#include <cohort/types.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace ops = cohort::ops;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Largest of `error(x)` over floats of every sign and exponent.
template <class Error>
double largest(Error error) {
  double most = 0.0;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 10007) {
    const float x = cohort::detail::bits_to_float(static_cast<std::uint32_t>(bits));
    if (x == x) most = std::max(most, error(x));
  }
  return most;
}

/// The function as a context's loop computes it: for the processor's widest instructions.
template <class F>
std::vector<float> in_a_loop(const std::vector<float>& x, F f) {
  cohort::host_context context(nullptr);
  std::vector<float> y(x.size());
  const float* from = x.data();
  float* to = y.data();
  context.for_each(static_cast<std::uint32_t>(x.size()), [=](std::uint32_t i) { to[i] = f(from[i]); });
  return y;
}

}  // namespace

TEST_CASE("exp is right to 2 units in the last place, subnormal results included") {
  CHECK(largest([](float x) {
          const double exact = std::exp(static_cast<double>(x));
          const double result = ops::detail::exp(x);
          if (exact > static_cast<double>(std::numeric_limits<float>::max())) return std::isinf(result) ? 0.0 : 100.0;
          const double unit = std::ldexp(1.0, std::max(-149, exact > 0.0 ? std::ilogb(exact) - 23 : -149));
          return std::abs(result - exact) / unit;
        }) < 2.0);
  CHECK(ops::detail::exp(0.0f) == 1.0f);
  CHECK(ops::detail::exp(infinity) == infinity);
  CHECK(ops::detail::exp(-infinity) == 0.0f);
  CHECK(std::isnan(ops::detail::exp(std::nanf(""))));
}

TEST_CASE("erf and tanh are right to 4e-7 of their value") {
  CHECK(largest([](float x) {
          const double exact = std::erf(static_cast<double>(x));
          return std::abs(ops::detail::erf(x) - exact) / std::max(std::abs(exact), 1e-30);
        }) < 4e-7);
  CHECK(largest([](float x) {
          const double exact = std::tanh(static_cast<double>(x));
          return std::abs(ops::detail::tanh(x) - exact) / std::max(std::abs(exact), 1e-30);
        }) < 4e-7);
  CHECK(ops::detail::erf(infinity) == 1.0f);
  CHECK(ops::detail::tanh(-infinity) == -1.0f);
  CHECK(std::isnan(ops::detail::erf(std::nanf(""))));
  CHECK(std::isnan(ops::detail::tanh(-std::nanf(""))));
}

TEST_CASE("activations are what float64 says, alone and in the loops of a host context") {
  std::vector<float> x;
  for (int i = -3000; i <= 3000; ++i) x.push_back(static_cast<float>(i) * 0.005f);
  const auto check = [&](ops::activation which, double (*exact)(double)) {
    CAPTURE(static_cast<int>(which));
    double alone = 0.0;
    double looped = 0.0;
    ops::with_activation(which, [&](auto f) {
      const std::vector<float> y = in_a_loop(x, f);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double scale = std::max(1.0, std::abs(static_cast<double>(x[i])));
        looped = std::max(looped, std::abs(y[i] - exact(x[i])) / scale);
        alone = std::max(alone, std::abs(ops::apply(which, x[i]) - exact(x[i])) / scale);
      }
    });
    CHECK(alone < 4e-7);
    CHECK(looped < 4e-7);
  };
  check(ops::activation::none, [](double v) { return v; });
  check(ops::activation::relu, [](double v) { return std::max(v, 0.0); });
  check(ops::activation::gelu, [](double v) { return 0.5 * v * (1.0 + std::erf(v / std::sqrt(2.0))); });
  check(ops::activation::silu, [](double v) { return v / (1.0 + std::exp(-v)); });
  check(ops::activation::tanh, [](double v) { return std::tanh(v); });
}

TEST_CASE("activations keep NaN, and their limits at infinity") {
  for (const auto which : {ops::activation::none, ops::activation::relu, ops::activation::gelu, ops::activation::silu,
                           ops::activation::tanh}) {
    CHECK(std::isnan(ops::apply(which, std::nanf(""))));
    CHECK(ops::apply(which, infinity) == (which == ops::activation::tanh ? 1.0f : infinity));
  }
  CHECK(ops::apply(ops::activation::relu, -infinity) == 0.0f);
  CHECK(ops::apply(ops::activation::tanh, -infinity) == -1.0f);
  CHECK(ops::apply(ops::activation::silu, -1000.0f) == 0.0f);
  CHECK(ops::apply(ops::activation::gelu, -1000.0f) == 0.0f);
}

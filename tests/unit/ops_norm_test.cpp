// Layer norm, RMS norm and softmax: every element type and both kinds of tile context, against float64.
#include "ops_fixtures.hpp"

#include <cohort/ops/layer_norm.hpp>
#include <cohort/ops/rms_norm.hpp>
#include <cohort/ops/softmax.hpp>

#include <limits>

using namespace ops_test;
namespace ops = cohort::ops;
using cohort::errc;

namespace {

constexpr std::size_t widths[] = {1, 2, 3, 31, 33, 64, 127, 256, 384, 1000};
constexpr std::size_t heights[] = {1, 5};

std::vector<double> layer_norm_reference(const std::vector<double>& x, const std::vector<double>& residual,
                                         const std::vector<double>& gamma, const std::vector<double>& beta,
                                         std::size_t hidden, double epsilon) {
  std::vector<double> y(x.size());
  for (std::size_t begin = 0; begin < x.size(); begin += hidden) {
    double mean = 0.0;
    double variance = 0.0;
    const auto value = [&](std::size_t i) { return x[begin + i] + (residual.empty() ? 0.0 : residual[begin + i]); };
    for (std::size_t i = 0; i < hidden; ++i) mean += value(i) / static_cast<double>(hidden);
    for (std::size_t i = 0; i < hidden; ++i) {
      variance += (value(i) - mean) * (value(i) - mean) / static_cast<double>(hidden);
    }
    for (std::size_t i = 0; i < hidden; ++i) {
      y[begin + i] = (value(i) - mean) / std::sqrt(variance + epsilon) * gamma[i] + (beta.empty() ? 0.0 : beta[i]);
    }
  }
  return y;
}

}  // namespace

TEST_CASE_TEMPLATE("layer norm is what float64 says, with and without residual and beta", T, float, fp16, bf16) {
  for (const runner where : runners) {
    for (const std::size_t hidden : widths) {
      for (const std::size_t rows : heights) {
        for (const bool all : {false, true}) {
          CAPTURE(static_cast<int>(where));
          CAPTURE(hidden);
          CAPTURE(rows);
          CAPTURE(all);
          const auto x = random_values<T>(rows * hidden, 1, 3.0, 0.5);
          const auto residual = all ? random_values<T>(rows * hidden, 2) : std::vector<double>{};
          const auto gamma = random_values<T>(hidden, 3, 1.0, 1.0);
          const auto beta = all ? random_values<T>(hidden, 4) : std::vector<double>{};
          const guarded<T> gx(x), gr(residual), gg(gamma), gb(beta);
          guarded<T> y(rows * hidden);
          run(ops::make_layer_norm<T>(gx.view(), gg.view(), gb.view(), y.span(), rows, hidden, 1e-5f, gr.view()),
              where);
          const auto expected = layer_norm_reference(x, residual, gamma, beta, hidden, 1e-5);
          CHECK(relative_error(y.values(), expected) < tolerance<T>);
          CHECK(y.intact());
        }
      }
    }
  }
}

TEST_CASE("layer norm keeps its precision far from zero, because the variance has a pass of its own") {
  for (const runner where : runners) {
    const auto x = random_values<float>(384, 1, 1.0, 1000.0);
    const std::vector<double> gamma(384, 1.0);
    const guarded<float> gx(x), gg(gamma);
    guarded<float> y(384);
    run(ops::make_layer_norm<float>(gx.view(), gg.view(), {}, y.span(), 1, 384), where);
    CHECK(relative_error(y.values(), layer_norm_reference(x, {}, gamma, {}, 384, 1e-12)) < 2e-4);
  }
}

TEST_CASE_TEMPLATE("layer norm in place over x or over the residual gives the bits of layer norm elsewhere", T, float,
                   bf16) {
  for (const runner where : runners) {
    const guarded<T> gamma(random_values<T>(33, 3)), beta(random_values<T>(33, 4));
    guarded<T> x(random_values<T>(7 * 33, 1)), residual(random_values<T>(7 * 33, 2)), y(7 * 33);
    const auto make = [&](std::span<T> to) {
      return ops::make_layer_norm<T>(x.view(), gamma.view(), beta.view(), to, 7, 33, 1e-12f, residual.view());
    };
    run(make(y.span()), where);
    guarded<T> kept = residual;
    run(make(residual.span()), where);
    CHECK(residual == y);
    residual = kept;
    run(make(x.span()), where);
    CHECK(x == y);
  }
}

TEST_CASE_TEMPLATE("rows that begin anywhere have the bits of rows that are aligned", T, float, fp16, bf16) {
  constexpr std::size_t rows = 3;
  for (const runner where : runners) {
    for (const std::size_t hidden : {64, 100, 256, 400}) {
      CAPTURE(static_cast<int>(where));
      CAPTURE(hidden);
      const auto values = random_values<T>(rows * hidden, 1);
      const guarded<T> gamma(random_values<T>(hidden, 3)), beta(random_values<T>(hidden, 4));
      const auto bits_at = [&](std::size_t offset, auto make) {
        guarded<T> x(offset + values.size()), y(offset + values.size());
        for (std::size_t i = 0; i < values.size(); ++i) {
          x[offset + i] = cohort::from_float<T>(static_cast<float>(values[i]));
        }
        run(make(x.view().subspan(offset), y.span().subspan(offset)), where);
        CHECK(y.intact());
        std::vector<T> made(y.data() + offset, y.data() + offset + values.size());
        return made;
      };
      const auto check = [&](auto make) {
        const std::vector<T> aligned = bits_at(0, make);
        for (const std::size_t offset : {1, 3}) {
          CHECK(std::memcmp(bits_at(offset, make).data(), aligned.data(), aligned.size() * sizeof(T)) == 0);
        }
      };
      check([&](auto x, auto y) { return ops::make_layer_norm<T>(x, gamma.view(), beta.view(), y, rows, hidden); });
      check([&](auto x, auto y) { return ops::make_rms_norm<T>(x, gamma.view(), y, rows, hidden); });
      check([&](auto x, auto y) { return ops::make_softmax<T>(x, y, rows, hidden); });
    }
  }
}

TEST_CASE_TEMPLATE("RMS norm is what float64 says, also in place", T, float, fp16, bf16) {
  for (const runner where : runners) {
    for (const std::size_t hidden : widths) {
      for (const std::size_t rows : heights) {
        CAPTURE(static_cast<int>(where));
        CAPTURE(hidden);
        CAPTURE(rows);
        const auto x = random_values<T>(rows * hidden, 1, 2.0);
        const auto gamma = random_values<T>(hidden, 2, 1.0, 1.0);
        std::vector<double> expected(x.size());
        for (std::size_t begin = 0; begin < x.size(); begin += hidden) {
          double squares = 0.0;
          for (std::size_t i = 0; i < hidden; ++i) squares += x[begin + i] * x[begin + i];
          const double scale = 1.0 / std::sqrt(squares / static_cast<double>(hidden) + 1e-6);
          for (std::size_t i = 0; i < hidden; ++i) expected[begin + i] = x[begin + i] * scale * gamma[i];
        }
        guarded<T> gx(x), y(x.size());
        const guarded<T> gg(gamma);
        run(ops::make_rms_norm<T>(gx.view(), gg.view(), y.span(), rows, hidden), where);
        CHECK(relative_error(y.values(), expected) < tolerance<T>);
        CHECK(y.intact());
        run(ops::make_rms_norm<T>(gx.view(), gg.view(), gx.span(), rows, hidden), where);
        CHECK(gx == y);
      }
    }
  }
}

TEST_CASE_TEMPLATE("softmax is what float64 says, also in place", T, float, fp16, bf16) {
  for (const runner where : runners) {
    for (const std::size_t columns : widths) {
      for (const std::size_t rows : heights) {
        for (const float scale : {1.0f, -0.25f}) {
          CAPTURE(static_cast<int>(where));
          CAPTURE(columns);
          CAPTURE(rows);
          const auto x = random_values<T>(rows * columns, 1, 20.0, 100.0);
          std::vector<double> expected(x.size());
          for (std::size_t begin = 0; begin < x.size(); begin += columns) {
            double most = -std::numeric_limits<double>::infinity();
            double total = 0.0;
            for (std::size_t i = 0; i < columns; ++i) most = std::max(most, scale * x[begin + i]);
            for (std::size_t i = 0; i < columns; ++i) total += std::exp(scale * x[begin + i] - most);
            for (std::size_t i = 0; i < columns; ++i) {
              expected[begin + i] = std::exp(scale * x[begin + i] - most) / total;
            }
          }
          guarded<T> gx(x), y(x.size());
          run(ops::make_softmax<T>(gx.view(), y.span(), rows, columns, scale), where);
          CHECK(relative_error(y.values(), expected) < tolerance<T>);
          CHECK(y.intact());
          run(ops::make_softmax<T>(gx.view(), gx.span(), rows, columns, scale), where);
          CHECK(gx == y);
        }
      }
    }
  }
}

TEST_CASE("softmax gives 0 to -infinity, and NaN to a row without a finite element or with a NaN") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const runner where : runners) {
    guarded<float> x(3 * 40), y(3 * 40);
    for (std::size_t i = 0; i < 40; ++i) {
      x[i] = i % 2 == 0 ? -infinity : 1.0f;
      x[40 + i] = -infinity;
      x[80 + i] = i == 17 ? std::nanf("") : 1.0f;
    }
    run(ops::make_softmax<float>(x.view(), y.span(), 3, 40), where);
    for (std::size_t i = 0; i < 40; ++i) {
      CHECK(y[i] == doctest::Approx(i % 2 == 0 ? 0.0 : 0.05));
      CHECK(std::isnan(y[40 + i]));
      CHECK(std::isnan(y[80 + i]));
    }
  }
}

TEST_CASE_TEMPLATE("normalisations give the same bits for any order and size of tiles", T, float, fp16, bf16) {
  for (const runner where : runners) {
    const std::size_t rows = where == runner::host ? 101 : 21;
    const std::size_t hidden = where == runner::host ? 1000 : 100;
    const guarded<T> x(random_values<T>(rows * hidden, 1)), gamma(random_values<T>(hidden, 2));
    check_same_bits<T>(rows * hidden, where, [&](std::span<T> y) {
      return ops::make_layer_norm<T>(x.view(), gamma.view(), gamma.view(), y, rows, hidden);
    });
    check_same_bits<T>(rows * hidden, where,
                       [&](std::span<T> y) { return ops::make_rms_norm<T>(x.view(), gamma.view(), y, rows, hidden); });
    check_same_bits<T>(rows * hidden, where,
                       [&](std::span<T> y) { return ops::make_softmax<T>(x.view(), y, rows, hidden); });
  }
}

TEST_CASE_TEMPLATE("a row of a normalisation does not depend on the rows beside it", T, float, bf16) {
  for (const runner where : runners) {
    const guarded<T> x(random_values<T>(9 * 127, 1)), gamma(random_values<T>(127, 2));
    guarded<T> together(9 * 127);
    run(ops::make_layer_norm<T>(x.view(), gamma.view(), {}, together.span(), 9, 127), where);
    for (std::size_t row = 0; row < 9; ++row) {
      guarded<T> alone(127);
      run(ops::make_layer_norm<T>(x.view().subspan(row * 127), gamma.view(), {}, alone.span(), 1, 127), where);
      CHECK(std::memcmp(alone.data(), together.data() + row * 127, 127 * sizeof(T)) == 0);
    }
  }
}

TEST_CASE("normalisations refuse wrong arguments, each with its error") {
  guarded<float> x(64), g(8), b(8), y(64);
  const auto norm = [&](auto gx, auto gg, auto gb, auto gy, std::size_t rows, std::size_t hidden,
                        std::span<const float> residual = {}) {
    return checked(ops::make_layer_norm<float>(gx, gg, gb, gy, rows, hidden, 1e-12f, residual));
  };
  const std::span<float> none;
  CHECK_FALSE(norm(x.span(), g.span(), b.span(), y.span(), 8, 8));
  CHECK(norm(none, g.span(), b.span(), y.span(), 8, 8) == errc::null_pointer);
  CHECK(norm(x.span(), none, b.span(), y.span(), 8, 8) == errc::null_pointer);
  CHECK(norm(x.span(), g.span(), b.span(), none, 8, 8) == errc::null_pointer);
  CHECK_FALSE(norm(x.span(), g.span(), none, y.span(), 8, 8));
  CHECK(norm(shifted(x.span()), g.span(), b.span(), y.span(), 8, 8) == errc::misaligned);
  CHECK(norm(x.span(), g.span(), shifted(b.span()), y.span(), 8, 8) == errc::misaligned);
  CHECK(norm(x.span(), g.span(), b.span(), y.span(), 8, 8, shifted(x.span())) == errc::misaligned);
  CHECK(norm(x.span(), g.span(), b.span(), y.span(), 0, 8) == errc::bad_size);
  CHECK(norm(x.span(), g.span(), b.span(), y.span(), 8, 0) == errc::bad_size);
  CHECK(norm(x.span(), g.span(), b.span(), y.span(), std::size_t{1} << 61, 8) == errc::bad_size);
  CHECK(norm(x.span(), g.span(), b.span(), y.span(), (std::size_t{1} << 31) - 1, (std::size_t{1} << 31) - 1) ==
        errc::bad_size);
  CHECK(norm(x.span().first(63), g.span(), b.span(), y.span(), 8, 8) == errc::buffer_too_small);
  CHECK(norm(x.span(), g.span(), b.span(), y.span().first(63), 8, 8) == errc::buffer_too_small);
  CHECK(norm(x.span(), g.span(), b.span(), y.span(), 8, 8, x.span().first(8)) == errc::buffer_too_small);
  CHECK(norm(x.span(), g.span(), b.span(), y.span(), 4, 16) == errc::shape_mismatch);
  CHECK(norm(x.span(), g.span(), b.span().first(7), y.span(), 8, 8) == errc::shape_mismatch);
  CHECK_FALSE(norm(x.span(), g.span(), b.span(), x.span(), 8, 8));
  CHECK(norm(x.span(), g.span(), b.span(), x.span().subspan(8), 7, 8) == errc::aliasing);
  CHECK(norm(x.span(), g.span(), b.span(), y.span(), 7, 8, y.span().subspan(1)) == errc::aliasing);
  CHECK(norm(x.span(), y.span().first(8), b.span(), y.span(), 8, 8) == errc::aliasing);
  CHECK(norm(x.span(), g.span(), y.span().last(8), y.span(), 8, 8) == errc::aliasing);
  CHECK(checked(ops::layer_norm<float>{}) == errc::null_pointer);

  const auto rms = [&](auto gx, auto gg, auto gy, std::size_t rows, std::size_t hidden) {
    return checked(ops::make_rms_norm<float>(gx, gg, gy, rows, hidden));
  };
  CHECK_FALSE(rms(x.span(), g.span(), y.span(), 8, 8));
  CHECK(rms(x.span(), none, y.span(), 8, 8) == errc::null_pointer);
  CHECK(rms(x.span(), shifted(g.span()), y.span(), 8, 8) == errc::misaligned);
  CHECK(rms(x.span(), g.span(), y.span(), 8, 0) == errc::bad_size);
  CHECK(rms(x.span(), g.span(), y.span(), 9, 8) == errc::buffer_too_small);
  CHECK(rms(x.span(), g.span(), y.span(), 16, 4) == errc::shape_mismatch);
  CHECK(rms(x.span(), g.span(), x.span().subspan(1), 7, 8) == errc::aliasing);

  const auto soft = [&](auto gx, auto gy, std::size_t rows, std::size_t columns) {
    return checked(ops::make_softmax<float>(gx, gy, rows, columns));
  };
  CHECK_FALSE(soft(x.span(), y.span(), 8, 8));
  CHECK(soft(none, y.span(), 8, 8) == errc::null_pointer);
  CHECK(soft(x.span(), none, 8, 8) == errc::null_pointer);
  CHECK(soft(x.span(), shifted(y.span()), 8, 8) == errc::misaligned);
  CHECK(soft(x.span(), y.span(), 0, 8) == errc::bad_size);
  CHECK(soft(x.span(), y.span(), 8, 9) == errc::buffer_too_small);
  CHECK(soft(x.span(), x.span().subspan(1), 7, 8) == errc::aliasing);
}

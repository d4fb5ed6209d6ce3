// Element-wise, reduction, copy and fill.
#include "ops_fixtures.hpp"

#include <cohort/ops/copy.hpp>
#include <cohort/ops/elementwise.hpp>
#include <cohort/ops/reduction.hpp>

#include <limits>
#include <string_view>

using namespace ops_test;
namespace ops = cohort::ops;
using cohort::errc;

namespace {

constexpr std::size_t counts[] = {1, 2, 3, 31, 33, 127, 384, 1000, 5000};

struct scaled_sum {
  static constexpr const char* name = "scaled_sum";
  float factor = 1.0f;
  COHORT_HD
  float operator()(float a, float b) const { return factor * a + b; }
};

struct negate {
  COHORT_HD
  float operator()(float a) const { return -a; }
};

struct three {
  COHORT_HD
  float operator()(float a, float b, float c) const { return a * b - c; }
};

struct sum_of_squares {
  COHORT_HD
  static float identity() { return 0.0f; }
  COHORT_HD
  float operator()(float a, float b) const { return a + b; }
  COHORT_HD
  float element(float x) const { return x * x; }
};

struct root_mean_square : sum_of_squares {
  COHORT_HD
  float finish(float total, std::uint32_t n) const { return std::sqrt(total / static_cast<float>(n)); }
};

}  // namespace

TEST_CASE_TEMPLATE("element-wise applies the functor to each element, also in place", T, float, fp16, bf16) {
  for (const runner where : runners) {
    for (const std::size_t count : counts) {
      CAPTURE(static_cast<int>(where));
      CAPTURE(count);
      const auto a = random_values<T>(count, 1);
      const auto b = random_values<T>(count, 2);
      std::vector<double> expected(count);
      for (std::size_t i = 0; i < count; ++i) expected[i] = 1.5 * a[i] + b[i];
      const guarded<T> ga(a);
      guarded<T> gb(b), out(count);
      run(ops::make_elementwise(scaled_sum{1.5f}, out.span(), ga.view(), gb.span()), where);
      CHECK(relative_error(out.values(), expected) < tolerance<T>);
      CHECK(out.intact());
      run(ops::make_elementwise(scaled_sum{1.5f}, gb.span(), ga.view(), gb.view()), where);
      CHECK(gb == out);
    }
  }
}

TEST_CASE("element-wise takes one to three inputs of different types") {
  for (const runner where : runners) {
    const guarded<bf16> a(random_values<bf16>(100, 1));
    const guarded<fp16> b(random_values<fp16>(100, 2));
    const guarded<float> c(random_values<float>(100, 3));
    guarded<float> out(100), minus(100);
    run(ops::make_elementwise(three{}, out.span(), a.view(), b.view(), c.view()), where);
    run(ops::make_elementwise(negate{}, minus.span(), a.view()), where);
    const auto av = a.values(), bv = b.values(), cv = c.values();
    for (std::size_t i = 0; i < 100; ++i) {
      CHECK(out[i] == doctest::Approx(av[i] * bv[i] - cv[i]).epsilon(1e-5));
      CHECK(minus[i] == -av[i]);
    }
  }
}

TEST_CASE("an element-wise op is named by its functor") {
  CHECK(ops::elementwise<scaled_sum, float, float, float>::name == std::string_view("scaled_sum"));
  CHECK(ops::elementwise<negate, float, float>::name == std::string_view("elementwise"));
  CHECK(ops::reduction<ops::max_of, float>::name == std::string_view("max"));
  CHECK(ops::reduction<sum_of_squares, float>::name == std::string_view("reduction"));
}

TEST_CASE_TEMPLATE("reductions are what float64 says", T, float, fp16, bf16) {
  for (const runner where : runners) {
    for (const std::size_t count : counts) {
      CAPTURE(static_cast<int>(where));
      CAPTURE(count);
      const auto x = random_values<T>(count, 1, 1.0, 0.25);
      double sum = 0.0, squares = 0.0;
      for (const double value : x) {
        sum += value;
        squares += value * value;
      }
      const guarded<T> gx(x);
      const auto reduce = [&](auto f) {
        guarded<float> out(1);
        run(ops::make_reduction(gx.view(), out.span(), f), where);
        CHECK(out.intact());
        return static_cast<double>(out[0]);
      };
      const double n = static_cast<double>(count);
      CHECK(std::abs(reduce(ops::sum_of{}) - sum) < 1e-6 * n);
      CHECK(std::abs(reduce(ops::mean_of{}) - sum / n) < 1e-6);
      CHECK(reduce(ops::max_of{}) == *std::max_element(x.begin(), x.end()));
      CHECK(reduce(ops::min_of{}) == *std::min_element(x.begin(), x.end()));
      CHECK(reduce(sum_of_squares{}) == doctest::Approx(squares).epsilon(1e-6));
      CHECK(reduce(root_mean_square{}) == doctest::Approx(std::sqrt(squares / n)).epsilon(1e-6));
    }
  }
}

TEST_CASE("maximum and minimum are NaN if any element is, wherever it stands") {
  for (const runner where : runners) {
    for (const std::size_t at : {0u, 1u, 16u, 50u, 99u}) {
      guarded<float> x(random_values<float>(100, 1)), most(1), least(1);
      x[at] = std::nanf("");
      run(ops::make_reduction(x.view(), most.span(), ops::max_of{}), where);
      run(ops::make_reduction(x.view(), least.span(), ops::min_of{}), where);
      CHECK(std::isnan(most[0]));
      CHECK(std::isnan(least[0]));
    }
  }
}

TEST_CASE("copy moves all bytes and no others, whatever the alignment") {
  for (const runner where : runners) {
    for (const std::size_t bytes : {1u, 2u, 15u, 16u, 17u, 31u, 33u, 127u, 1000u, 32767u, 32768u, 32769u, 100001u}) {
      for (const std::size_t from : {0u, 1u, 8u}) {
        for (const std::size_t to : {0u, 1u, 5u}) {
          if (bytes > 1000 && from != to && from != 8) continue;
          CAPTURE(static_cast<int>(where));
          CAPTURE(bytes);
          CAPTURE(from);
          CAPTURE(to);
          std::vector<unsigned char> source(bytes + 32), destination(bytes + 64, 0xa5), expected;
          for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<unsigned char>(i * 31 + i / 256);
          expected = destination;
          std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(from), bytes,
                      expected.begin() + static_cast<std::ptrdiff_t>(16 + to));
          run(ops::make_copy(std::span(source).subspan(from, bytes), std::span(destination).subspan(16 + to)), where);
          CHECK(destination == expected);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("fill sets all elements and no others", T, float, fp16, std::uint8_t, double) {
  for (const runner where : runners) {
    for (const std::size_t count : {1u, 3u, 1000u, 40000u}) {
      std::vector<unsigned char> bytes((count + 16) * sizeof(T), 0xa5);
      T* begin = reinterpret_cast<T*>(bytes.data()) + 8;
      T value{};
      std::memset(static_cast<void*>(&value), 0x3c, sizeof value);
      run(ops::make_fill(std::span<T>(begin, count), value), where);
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        const bool inside = i >= 8 * sizeof(T) && i < (8 + count) * sizeof(T);
        if (bytes[i] != (inside ? 0x3c : 0xa5)) FAIL_CHECK("byte " << i << " of " << bytes.size());
      }
    }
  }
}

TEST_CASE_TEMPLATE("vector ops give the same bits for any order and size of tiles", T, float, bf16) {
  for (const runner where : runners) {
    const std::size_t count = 70001;
    const guarded<T> x(random_values<T>(count, 1));
    check_same_bits<T>(count, where, [&](std::span<T> out) {
      return ops::make_elementwise(scaled_sum{0.3f}, out, x.view(), x.view());
    });
    check_same_bits<float>(1, where,
                           [&](std::span<float> out) { return ops::make_reduction(x.view(), out, ops::sum_of{}); });
    check_same_bits<T>(count, where, [&](std::span<T> out) { return ops::make_copy(x.view(), out); });
  }
}

TEST_CASE("vector ops refuse wrong arguments, each with its error") {
  guarded<float> x(64), y(64), out(64);
  guarded<bf16> narrow(64);
  const std::span<float> none;
  const auto apply = [&](auto o, auto a, auto b) { return checked(ops::make_elementwise(scaled_sum{}, o, a, b)); };
  CHECK_FALSE(apply(out.span(), x.span(), y.span()));
  CHECK_FALSE(apply(x.span(), x.span(), x.span()));
  CHECK(apply(none, x.span(), y.span()) == errc::null_pointer);
  CHECK(apply(out.span(), none, y.span()) == errc::null_pointer);
  CHECK(apply(out.span(), x.span(), none) == errc::null_pointer);
  CHECK(apply(shifted(out.span()), x.span(), y.span()) == errc::misaligned);
  CHECK(apply(out.span(), x.span(), shifted(y.span())) == errc::misaligned);
  CHECK(apply(out.span().first(0), x.span().first(0), y.span().first(0)) == errc::bad_size);
  CHECK(apply(out.span(), x.span().first(63), y.span()) == errc::shape_mismatch);
  CHECK(apply(out.span().first(63), x.span(), y.span()) == errc::shape_mismatch);
  CHECK(apply(x.span().subspan(1), x.span().first(63), y.span().first(63)) == errc::aliasing);
  const std::span<bf16> over_x(reinterpret_cast<bf16*>(x.data()), 64);
  CHECK(apply(over_x, x.span(), y.span()) == errc::aliasing);
  CHECK(apply(std::span<float>(x.data(), (std::size_t{1} << 31)), std::span<float>(y.data(), (std::size_t{1} << 31)),
              std::span<float>(y.data(), (std::size_t{1} << 31))) == errc::bad_size);

  const auto reduce = [&](auto a, auto o) { return checked(ops::make_reduction(a, o, ops::sum_of{})); };
  CHECK_FALSE(reduce(x.view(), out.span()));
  CHECK(reduce(none, out.span()) == errc::null_pointer);
  CHECK(reduce(x.view(), none) == errc::null_pointer);
  CHECK(reduce(shifted(x.span()), out.span()) == errc::misaligned);
  CHECK(reduce(x.view().first(0), out.span()) == errc::bad_size);
  CHECK(reduce(x.view(), out.span().first(0)) == errc::buffer_too_small);
  CHECK(reduce(x.view(), x.span().subspan(63)) == errc::aliasing);

  const auto move = [&](auto from, auto to) { return checked(ops::make_copy(from, to)); };
  CHECK_FALSE(move(x.view(), y.span()));
  CHECK(move(none, y.span()) == errc::null_pointer);
  CHECK(move(x.view(), none) == errc::null_pointer);
  CHECK(move(x.view().first(0), y.span()) == errc::bad_size);
  CHECK(move(x.view(), y.span().first(63)) == errc::buffer_too_small);
  CHECK(move(x.view(), x.span()) == errc::aliasing);
  CHECK(move(x.view().first(33), x.span().subspan(32, 32)) == errc::buffer_too_small);
  CHECK(move(x.view().first(32), x.span().subspan(31, 33)) == errc::aliasing);

  CHECK_FALSE(checked(ops::make_fill(x.span(), 1.0f)));
  CHECK(checked(ops::make_fill(none, 1.0f)) == errc::null_pointer);
  CHECK(checked(ops::make_fill(x.span().first(0), 1.0f)) == errc::bad_size);
  CHECK(checked(ops::make_fill(shifted(x.span()), 1.0f)) == errc::misaligned);
  CHECK(checked(ops::copy{}) == errc::null_pointer);
}

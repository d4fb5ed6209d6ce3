// What the tests of the engines of ops::linear share: layers and requests in guarded buffers, a reference in float64,
// and what must hold of an engine whichever it is. An engine is what `run(engine, members)` and `describe(engine)` are
// for; all of one kind must give the same bits.
#pragma once

#include "../support/sanitizer.hpp"

#include <cohort/ops/linear.hpp>
#include <cohort/types.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace linear_test {

using namespace cohort;
using ops::activation;

/// A buffer at a chosen distance from a 64-byte boundary, between two zones that nobody may write.
template <class T>
class guarded {
public:
  explicit guarded(std::size_t size, std::size_t shift = 0)
      : size_(size), bytes_((size + shift) * sizeof(T) + 64 + 2 * zone) {
    const auto base = reinterpret_cast<std::uintptr_t>(bytes_.data()) + zone;
    begin_ = (base + 63) / 64 * 64 - reinterpret_cast<std::uintptr_t>(bytes_.data()) + shift * sizeof(T);
    std::fill(bytes_.begin(), bytes_.end(), std::byte{0xff});  // NaN in every element type
  }

  T* data() { return reinterpret_cast<T*>(bytes_.data() + begin_); }
  std::span<T> span() { return {data(), size_}; }

  bool guards_intact() const {
    const auto untouched = [](std::byte b) { return b == std::byte{0xff}; };
    const auto end = bytes_.begin() + static_cast<std::ptrdiff_t>(begin_ + size_ * sizeof(T));
    return std::all_of(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(begin_), untouched) &&
           std::all_of(end, bytes_.end(), untouched);
  }

private:
  static constexpr std::size_t zone = 64;

  std::size_t size_;
  std::size_t begin_ = 0;
  std::vector<std::byte> bytes_;
};

template <class T>
void fill(std::span<T> values, std::uint32_t seed) {
  std::minstd_rand random(seed + 1);
  for (T& value : values) {
    value = from_float<T>(static_cast<float>(static_cast<std::int32_t>(random() % 2001) - 1000) * 1e-3f);
  }
}

struct form {
  activation act = activation::none;
  bool bias = false;
  bool residual = false;
  std::size_t shift = 0;  // elements by which all operands miss alignment
};

/// A layer's weights and one request to it.
template <class T>
struct weights {
  weights(std::size_t n_, std::size_t k_, const form& f_)
      : n(n_), k(k_), f(f_), w(n_ * k_, f_.shift), bias(f_.bias ? n_ : 0, f_.shift) {
    fill(w.span(), 1);
    fill(bias.span(), 2);
  }

  std::size_t n;
  std::size_t k;
  form f;
  guarded<T> w;
  guarded<T> bias;
};

template <class T>
struct request {
  request(weights<T>& layer_, std::size_t rows_, std::uint32_t seed)
      : layer(&layer_),
        rows(rows_),
        x(rows_ * layer_.k, layer_.f.shift),
        residual(layer_.f.residual ? rows_ * layer_.n : 0, layer_.f.shift),
        y(rows_ * layer_.n, layer_.f.shift) {
    fill(x.span(), seed * 2 + 10);
    fill(residual.span(), seed * 2 + 11);
  }

  ops::linear<T> op() {
    return ops::make_linear<T>(x.span(), layer->w.span(), layer->bias.span(), y.span(), {rows, layer->n, layer->k},
                               layer->f.act, residual.span());
  }

  /// |y - reference| / |reference| in the 2-norm, the reference in float64.
  double error() { return error(layer->n); }

  /// Of the first `features` features of each row.
  double error(std::size_t features) {
    double difference = 0;
    double size = 0;
    std::vector<double> wide(layer->k);
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < layer->k; ++i) wide[i] = to_float(x.data()[r * layer->k + i]);
      for (std::size_t n = 0; n < features; ++n) {
        const T* const w = layer->w.data() + n * layer->k;
        double sum = 0;
        for (std::size_t i = 0; i < layer->k; ++i) sum += wide[i] * static_cast<double>(to_float(w[i]));
        if (layer->f.bias) sum += to_float(layer->bias.data()[n]);
        switch (layer->f.act) {
          case activation::none: break;
          case activation::relu: sum = std::max(sum, 0.0); break;
          case activation::gelu: sum = 0.5 * sum * (1 + std::erf(sum / std::sqrt(2.0))); break;
          case activation::silu: sum = sum / (1 + std::exp(-sum)); break;
          case activation::tanh: sum = std::tanh(sum); break;
        }
        if (layer->f.residual) sum += to_float(residual.data()[r * layer->n + n]);
        const double got = to_float(y.data()[r * layer->n + n]);
        difference += (got - sum) * (got - sum);
        size += sum * sum;
      }
    }
    return std::sqrt(difference / (size + 1e-30));
  }

  bool same_bits(request& other) { return std::memcmp(y.data(), other.y.data(), rows * layer->n * sizeof(T)) == 0; }

  weights<T>* layer;
  std::size_t rows;
  guarded<T> x;
  guarded<T> residual;
  guarded<T> y;
};

template <class T>
inline constexpr double tolerance = std::is_same_v<T, float>  ? 1e-5
                                    : std::is_same_v<T, fp16> ? 2e-3
                                                              : 1e-2;

struct extent {
  std::size_t rows;
  std::size_t n;
  std::size_t k;
};

/// All of them. For a sanitizer, which is slow, the first: every thread does in it all that it does in the others.
template <class T, std::size_t Size>
std::span<const T> some(const T (&all)[Size]) {
  return std::span(all).first(testing::sanitized ? 1 : Size);
}

inline constexpr form all_forms[] = {
    {.act = activation::none},
    {.act = activation::none, .bias = true, .residual = true},
    {.act = activation::relu, .bias = true},
    {.act = activation::gelu, .bias = true, .residual = true},
    {.act = activation::silu, .residual = true},
    {.act = activation::tanh, .bias = true, .shift = 1},
};

template <class Engine, class T>
void expect_product(const Engine& e, request<T>& r) {
  CAPTURE(describe(e));
  CAPTURE(r.rows);
  CAPTURE(r.layer->n);
  CAPTURE(r.layer->k);
  const ops::linear<T> op = r.op();
  REQUIRE(!op.check());
  run(e, std::vector{op});
  CHECK(r.error() < tolerance<T>);
  CHECK(r.y.guards_intact());
}

/// Members with 1 to 5 rows around the one at `place`, which has `rows`.
template <class T, class Engine>
void expect_company_changes_nothing(const Engine& alone, const Engine& together, const form& f, extent size,
                                    std::size_t others, std::size_t place) {
  CAPTURE(describe(alone));
  CAPTURE(describe(together));
  CAPTURE(others);
  weights<T> layer(size.n, size.k, f);
  request<T> lonely(layer, size.rows, 0);
  run(alone, std::vector{lonely.op()});

  std::vector<std::unique_ptr<request<T>>> requests;
  std::vector<ops::linear<T>> members;
  for (std::size_t i = 0; i <= others; ++i) {
    const bool it = i == place;
    requests.push_back(std::make_unique<request<T>>(layer, it ? size.rows : i * 7 % 5 + 1,
                                                    it ? 0 : static_cast<std::uint32_t>(i) + 100));
    members.push_back(requests.back()->op());
    CHECK(members.back().key() == members.front().key());
  }
  run(together, members);
  CHECK(requests[place]->same_bits(lonely));
  for (auto& each : requests) {
    CHECK(each->y.guards_intact());
    CHECK(each->error() < tolerance<T>);
  }
}

/// Infinities and NaN of one member stay in its rows.
template <class T, class Engine>
void expect_rows_apart(const Engine& e) {
  CAPTURE(describe(e));
  weights<T> layer(35, 43, {});
  request<T> clean(layer, 4, 1);
  run(e, std::vector{clean.op()});
  request<T> wild(layer, 3, 2);
  request<T> after(layer, 3, 3);
  for (T& value : wild.x.span()) value = from_float<T>(std::numeric_limits<float>::infinity());
  std::copy_n(wild.x.data(), 3 * 43, after.x.data());
  wild.x.data()[50] = from_float<T>(std::numeric_limits<float>::quiet_NaN());
  request<T> beside(layer, 4, 1);
  run(e, std::vector{wild.op(), beside.op(), after.op()});
  CHECK(beside.same_bits(clean));
  CHECK(std::isnan(to_float(wild.y.data()[35])));
}

/// y may be the residual itself.
template <class T, class Engine>
void expect_residual_in_place(const Engine& e) {
  CAPTURE(describe(e));
  weights<T> layer(67, 40, all_forms[1]);
  request<T> apart(layer, 19, 1);
  run(e, std::vector{apart.op()});
  request<T> in_place(layer, 19, 1);
  std::copy_n(in_place.residual.data(), 19 * 67, in_place.y.data());
  ops::linear<T> op = in_place.op();
  op.residual = op.y;
  REQUIRE(!op.check());
  run(e, std::vector{op});
  CHECK(in_place.same_bits(apart));
  CHECK(in_place.y.guards_intact());
}

}  // namespace linear_test

// Attention: every element type and both kinds of tile context, against float64.
#include "ops_fixtures.hpp"

#include <cohort/ops/attention.hpp>

#include <limits>

using namespace ops_test;
namespace ops = cohort::ops;
using cohort::errc;

namespace {

/// The last one takes the form for tensor cores, where there is one for the type.
constexpr runner attention_runners[] = {runner::host, runner::block, runner::warps};

struct problem {
  std::size_t heads;
  std::size_t size;
  bool causal;
  std::vector<std::uint32_t> offsets;
};

/// q, k, v are [tokens][heads * size].
std::vector<double> reference(const problem& p, const std::vector<double>& q, const std::vector<double>& k,
                              const std::vector<double>& v) {
  const std::size_t width = p.heads * p.size;
  std::vector<double> out(q.size());
  for (std::size_t s = 0; s + 1 < p.offsets.size(); ++s) {
    for (std::size_t head = 0; head < p.heads; ++head) {
      for (std::size_t i = p.offsets[s]; i < p.offsets[s + 1]; ++i) {
        const std::size_t end = p.causal ? i + 1 : p.offsets[s + 1];
        std::vector<double> weights;
        double most = -std::numeric_limits<double>::infinity();
        for (std::size_t j = p.offsets[s]; j < end; ++j) {
          double dot = 0.0;
          for (std::size_t d = 0; d < p.size; ++d) {
            dot += q[i * width + head * p.size + d] * k[j * width + head * p.size + d];
          }
          weights.push_back(dot / std::sqrt(static_cast<double>(p.size)));
          most = std::max(most, weights.back());
        }
        double total = 0.0;
        for (double& weight : weights) total += weight = std::exp(weight - most);
        for (std::size_t j = p.offsets[s]; j < end; ++j) {
          for (std::size_t d = 0; d < p.size; ++d) {
            out[i * width + head * p.size + d] += weights[j - p.offsets[s]] / total * v[j * width + head * p.size + d];
          }
        }
      }
    }
  }
  return out;
}

template <class T>
struct inputs {
  explicit inputs(const problem& p)
      : tokens(p.offsets.back()),
        width(p.heads * p.size),
        q(random_values<T>(tokens * width, 1, 3.0)),
        k(random_values<T>(tokens * width, 2, 3.0)),
        v(random_values<T>(tokens * width, 3)),
        expected(reference(p, q, k, v)) {}

  std::size_t tokens;
  std::size_t width;
  std::vector<double> q, k, v, expected;
};

ops::attention_shape shape_of(const problem& p) {
  return {.tokens = p.offsets.back(), .heads = p.heads, .head_size = p.size, .causal = p.causal};
}

}  // namespace

TEST_CASE_TEMPLATE("attention over one sequence is what float64 says, for any length", T, float, fp16, bf16) {
  for (const runner where : attention_runners) {
    for (const std::uint32_t length : {1u, 2u, 3u, 15u, 31u, 33u, 64u, 65u, 127u, 300u}) {
      if (where != runner::host && length > 127) continue;  // emulated barriers are slow
      for (const bool causal : {false, true}) {
        const problem p{.heads = length > 100 ? 1u : 2u,
                        .size = length == 31 ? 128u : 32u,
                        .causal = causal,
                        .offsets = {0, length}};
        CAPTURE(static_cast<int>(where));
        CAPTURE(length);
        CAPTURE(causal);
        const inputs<T> in(p);
        const guarded<T> q(in.q), k(in.k), v(in.v);
        guarded<T> out(in.q.size());
        run(ops::make_attention<T>(q.view(), k.view(), v.view(), out.span(), shape_of(p)), where);
        CHECK(relative_error(out.values(), in.expected) < tolerance<T>);
        CHECK(out.intact());
      }
    }
  }
}

TEST_CASE_TEMPLATE("attention works for any head size up to 128", T, float, bf16) {
  for (const runner where : attention_runners) {
    for (const std::size_t size : {1u, 3u, 16u, 31u, 33u, 64u, 80u, 127u, 128u}) {
      const problem p{.heads = 3, .size = size, .causal = false, .offsets = {0, 37}};
      CAPTURE(static_cast<int>(where));
      CAPTURE(size);
      const inputs<T> in(p);
      const guarded<T> q(in.q), k(in.k), v(in.v);
      guarded<T> out(in.q.size());
      run(ops::make_attention<T>(q.view(), k.view(), v.view(), out.span(), shape_of(p)), where);
      CHECK(relative_error(out.values(), in.expected) < tolerance<T>);
      CHECK(out.intact());
    }
  }
}

TEST_CASE_TEMPLATE("a long sequence streams through its keys", T, float, bf16) {
  for (const runner where : attention_runners) {
    const problem p{.heads = 1, .size = 8, .causal = false, .offsets = {0, where == runner::host ? 1000u : 160u}};
    const inputs<T> in(p);
    const guarded<T> q(in.q), k(in.k), v(in.v);
    guarded<T> out(in.q.size());
    run(ops::make_attention<T>(q.view(), k.view(), v.view(), out.span(), shape_of(p)), where);
    CHECK(relative_error(out.values(), in.expected) < tolerance<T>);
  }
}

TEST_CASE_TEMPLATE("a sequence has the same bits alone, beside others in one op, and packed with strides", T, float,
                   fp16, bf16) {
  for (const runner where : attention_runners) {
    for (const bool causal : {false, true}) {
      const problem p{.heads = 2, .size = 24, .causal = causal, .offsets = {0, 7, 7, 72, 73, 110}};
      const inputs<T> in(p);
      const std::size_t width = in.width;
      const guarded<T> q(in.q), k(in.k), v(in.v);
      guarded<T> together(in.q.size());
      ops::attention_shape shape = shape_of(p);
      shape.offsets = p.offsets;
      run(ops::make_attention<T>(q.view(), k.view(), v.view(), together.span(), shape), where);
      CHECK(relative_error(together.values(), in.expected) < tolerance<T>);
      CHECK(together.intact());

      // `longest` is a hint: one that is far too small leaves nothing out.
      shape.longest = 3;
      guarded<T> hinted(in.q.size());
      run(ops::make_attention<T>(q.view(), k.view(), v.view(), hinted.span(), shape), where);
      CHECK(hinted == together);

      guarded<T> packed(3 * in.q.size());
      for (std::size_t token = 0; token < in.tokens; ++token) {
        for (std::size_t i = 0; i < width; ++i) {
          packed[token * 3 * width + i] = q.data()[token * width + i];
          packed[token * 3 * width + width + i] = k.data()[token * width + i];
          packed[token * 3 * width + 2 * width + i] = v.data()[token * width + i];
        }
      }
      for (std::size_t s = 0; s + 1 < p.offsets.size(); ++s) {
        const std::size_t begin = p.offsets[s];
        const std::size_t length = p.offsets[s + 1] - begin;
        if (length == 0) continue;
        const ops::attention_shape one{.tokens = length, .heads = 2, .head_size = 24, .causal = causal};
        const std::size_t bytes = length * width * sizeof(T);
        guarded<T> alone(length * width);
        run(ops::make_attention<T>(q.view().subspan(begin * width), k.view().subspan(begin * width),
                                   v.view().subspan(begin * width), alone.span(), one),
            where);
        CHECK(std::memcmp(alone.data(), together.data() + begin * width, bytes) == 0);
        guarded<T> strided(length * width);
        run(ops::make_packed_attention<T>(packed.view().subspan(begin * 3 * width), strided.span(), one), where);
        CHECK(std::memcmp(strided.data(), together.data() + begin * width, bytes) == 0);
      }
    }
  }
}

TEST_CASE("attention writes between the rows of a strided output nothing") {
  for (const runner where : attention_runners) {
    const problem p{.heads = 1, .size = 5, .causal = false, .offsets = {0, 9}};
    const inputs<float> in(p);
    const guarded<float> q(in.q), k(in.k), v(in.v);
    guarded<float> out(8 * 7 + 5);
    ops::attention_shape shape = shape_of(p);
    shape.out_stride = 7;
    run(ops::make_attention<float>(q.view(), k.view(), v.view(), out.span(), shape), where);
    CHECK(out.intact());
    for (std::size_t i = 0; i < out.size(); ++i) CHECK(std::isnan(out[i]) == (i % 7 >= 5));
  }
}

TEST_CASE("hostile offsets touch nothing outside the buffers") {
  for (const runner where : attention_runners) {
    const problem p{.heads = 1, .size = 4, .causal = false, .offsets = {0, 10}};
    const inputs<float> in(p);
    const guarded<float> q(in.q), k(in.k), v(in.v);
    guarded<float> out(in.q.size());
    const std::vector<std::uint32_t> offsets{5, 2, 0xffffffffu, 12, 3, 0};
    ops::attention_shape shape = shape_of(p);
    shape.offsets = offsets;
    run(ops::make_attention<float>(q.view(), k.view(), v.view(), out.span(), shape), where);
    CHECK(out.intact());
    // The second one is cut off to [2, 10); the others are empty.
    for (std::size_t i = 0; i < out.size(); ++i) CHECK(std::isnan(out[i]) == (i < 8));
  }
}

TEST_CASE_TEMPLATE("a NaN in one head stays in that head", T, float, bf16) {
  for (const runner where : attention_runners) {
    const problem p{.heads = 3, .size = 8, .causal = false, .offsets = {0, 40}};
    const inputs<T> in(p);
    guarded<T> q(in.q), k(in.k), v(in.v), out(in.q.size());
    k[20 * 24 + 8] = cohort::from_float<T>(std::nanf(""));
    run(ops::make_attention<T>(q.view(), k.view(), v.view(), out.span(), shape_of(p)), where);
    const std::vector<double> found = out.values();
    for (std::size_t i = 0; i < found.size(); ++i) CHECK(std::isnan(found[i]) == (i % 24 >= 8 && i % 24 < 16));
  }
}

TEST_CASE_TEMPLATE("a tile with several heads, or with a part of a head's columns, is what float64 says", T, fp16,
                   bf16) {
  const problem problems[] = {
      {.heads = 5, .size = 32, .causal = false, .offsets = {0, 9}},    // four heads to a tile, the last one alone
      {.heads = 3, .size = 64, .causal = true, .offsets = {0, 16}},    // one place of four empty
      {.heads = 3, .size = 40, .causal = false, .offsets = {0, 31}},   // two heads
      {.heads = 3, .size = 128, .causal = true, .offsets = {0, 16}},   // two heads, each of two warps
      {.heads = 1, .size = 96, .causal = false, .offsets = {0, 129}},  // more keys than are on their way at once
      {.heads = 1, .size = 64, .causal = true, .offsets = {0, 200}},
  };
  for (const problem& p : problems) {
    CAPTURE(p.size);
    CAPTURE(p.offsets.back());
    const inputs<T> in(p);
    const guarded<T> q(in.q), k(in.k), v(in.v);
    guarded<T> out(in.q.size());
    run(ops::make_attention<T>(q.view(), k.view(), v.view(), out.span(), shape_of(p)), runner::warps);
    CHECK(relative_error(out.values(), in.expected) < tolerance<T>);
    CHECK(out.intact());
  }
}

TEST_CASE_TEMPLATE("sequences longer than was said share a tile of four heads", T, float, bf16) {
  const problem p{.heads = 5, .size = 16, .causal = false, .offsets = {0, 3, 73, 80}};
  const inputs<T> in(p);
  const guarded<T> q(in.q), k(in.k), v(in.v);
  guarded<T> out(in.q.size());
  ops::attention_shape shape = shape_of(p);
  shape.offsets = p.offsets;
  shape.longest = 7;
  run(ops::make_attention<T>(q.view(), k.view(), v.view(), out.span(), shape), runner::warps);
  CHECK(relative_error(out.values(), in.expected) < tolerance<T>);
  CHECK(out.intact());
}

TEST_CASE_TEMPLATE("rows that are aligned to nothing but their elements give the same bits", T, float, bf16) {
  for (const runner where : {runner::block, runner::warps}) {
    const problem p{.heads = 2, .size = 32, .causal = true, .offsets = {0, 41}};
    const inputs<T> in(p);
    const guarded<T> q(in.q), k(in.k), v(in.v);
    guarded<T> aligned(in.q.size());
    run(ops::make_attention<T>(q.view(), k.view(), v.view(), aligned.span(), shape_of(p)), where);
    const std::size_t stride = in.width + 3;
    const auto shifted_rows = [&](const guarded<T>& from) {
      guarded<T> to(1 + in.tokens * stride);
      for (std::size_t i = 0; i < from.size(); ++i) to[1 + i / in.width * stride + i % in.width] = from.data()[i];
      return to;
    };
    const guarded<T> other_q = shifted_rows(q), other_k = shifted_rows(k), other_v = shifted_rows(v);
    guarded<T> out(1 + in.tokens * stride);
    ops::attention_shape shape = shape_of(p);
    shape.q_stride = shape.k_stride = shape.v_stride = shape.out_stride = stride;
    run(ops::make_attention<T>(other_q.view().subspan(1), other_k.view().subspan(1), other_v.view().subspan(1),
                               out.span().subspan(1), shape),
        where);
    CHECK(out.intact());
    guarded<T> untouched(out.size());
    for (std::size_t i = 0; i < aligned.size(); ++i) {
      untouched[1 + i / in.width * stride + i % in.width] = aligned[i];
    }
    CHECK(out == untouched);
  }
}

TEST_CASE_TEMPLATE("a negative scale is that of negative queries, and scores far apart leave one value", T, float,
                   bf16) {
  for (const runner where : attention_runners) {
    const problem p{.heads = 1, .size = 32, .causal = false, .offsets = {0, 40}};
    inputs<T> in(p);
    for (double& value : in.q) value = -value;
    const guarded<T> q(in.q), k(in.k), v(in.v);
    guarded<T> out(in.q.size());
    ops::attention_shape shape = shape_of(p);
    shape.scale = -1.0f / std::sqrt(32.0f);
    run(ops::make_attention<T>(q.view(), k.view(), v.view(), out.span(), shape), where);
    CHECK(relative_error(out.values(), in.expected) < tolerance<T>);

    shape.scale = -1e6f;
    run(ops::make_attention<T>(q.view(), k.view(), v.view(), out.span(), shape), where);
    const std::vector<double> found = out.values();
    for (std::size_t i = 0; i < in.tokens; ++i) {
      const auto equals = [&](std::size_t j) {
        return std::equal(found.begin() + static_cast<std::ptrdiff_t>(i * 32),
                          found.begin() + static_cast<std::ptrdiff_t>(i * 32 + 32),
                          in.v.begin() + static_cast<std::ptrdiff_t>(j * 32));
      };
      std::size_t equal = 0;
      for (std::size_t j = 0; j < in.tokens; ++j) equal += equals(j) ? 1 : 0;
      CHECK(equal == 1);
    }
  }
}

TEST_CASE_TEMPLATE("attention gives the same bits for any order and size of tiles", T, float, fp16, bf16) {
  for (const runner where : attention_runners) {
    const problem p{.heads = 5, .size = 16, .causal = true, .offsets = {0, 50}};
    const inputs<T> in(p);
    const guarded<T> q(in.q), k(in.k), v(in.v);
    check_same_bits<T>(in.q.size(), where, [&](std::span<T> out) {
      return ops::make_attention<T>(q.view(), k.view(), v.view(), out, shape_of(p));
    });
  }
}

TEST_CASE("attention refuses wrong arguments, each with its error") {
  guarded<float> q(64), k(64), v(64), out(64), packed(3 * 64);
  const std::span<float> none;
  const auto make = [&](auto gq, auto gk, auto gv, auto go, const ops::attention_shape& shape) {
    return checked(ops::make_attention<float>(gq, gk, gv, go, shape));
  };
  const ops::attention_shape good{.tokens = 4, .heads = 2, .head_size = 8};
  const auto with = [&](auto change) {
    ops::attention_shape shape = good;
    change(shape);
    return make(q.span(), k.span(), v.span(), out.span(), shape);
  };
  CHECK_FALSE(with([](auto&) {}));
  CHECK(make(none, k.span(), v.span(), out.span(), good) == errc::null_pointer);
  CHECK(make(q.span(), none, v.span(), out.span(), good) == errc::null_pointer);
  CHECK(make(q.span(), k.span(), none, out.span(), good) == errc::null_pointer);
  CHECK(make(q.span(), k.span(), v.span(), none, good) == errc::null_pointer);
  CHECK(make(shifted(q.span()), k.span(), v.span(), out.span(), good) == errc::misaligned);
  CHECK(make(q.span(), k.span(), v.span(), shifted(out.span()), good) == errc::misaligned);
  CHECK(make(q.span().first(63), k.span(), v.span(), out.span(), good) == errc::buffer_too_small);
  CHECK(make(q.span(), k.span().first(63), v.span(), out.span(), good) == errc::buffer_too_small);
  CHECK(make(q.span(), k.span(), v.span().first(63), out.span(), good) == errc::buffer_too_small);
  CHECK(make(q.span(), k.span(), v.span(), out.span().first(63), good) == errc::buffer_too_small);
  CHECK(with([](auto& s) { s.q_stride = 17; }) == errc::buffer_too_small);
  CHECK(with([](auto& s) { s.tokens = 0; }) == errc::bad_size);
  CHECK(with([](auto& s) { s.heads = 0; }) == errc::bad_size);
  CHECK(with([](auto& s) { s.head_size = 0; }) == errc::bad_size);
  CHECK(with([](auto& s) { s.heads = 65536; }) == errc::bad_size);
  CHECK(with([](auto& s) { s.tokens = std::size_t{1} << 62; }) == errc::bad_size);
  CHECK(with([](auto& s) { s.k_stride = std::size_t{1} << 62; }) == errc::bad_size);
  CHECK(with([](auto& s) { s.v_stride = 15; }) == errc::shape_mismatch);
  CHECK(make(q.span(), k.span(), v.span(), q.span(), good) == errc::aliasing);
  CHECK(make(q.span(), k.span(), v.span(), v.span(), good) == errc::aliasing);
  guarded<float> wide(2 * 129), result(129);
  const ops::attention_shape large{.tokens = 1, .heads = 1, .head_size = 129};
  CHECK(make(wide.span(), wide.span(), wide.span(), result.span(), large) == errc::op_too_large);

  std::vector<std::uint32_t> offsets{0};
  CHECK(with([&](auto& s) { s.offsets = offsets; }) == errc::bad_size);
  offsets = {0, 2, 4};
  CHECK_FALSE(with([&](auto& s) { s.offsets = offsets; }));
  CHECK(with([&](auto& s) { s.offsets = shifted(std::span(offsets)); }) == errc::misaligned);
  const std::span<const std::uint32_t> inside(reinterpret_cast<const std::uint32_t*>(out.data()), 3);
  CHECK(with([&](auto& s) { s.offsets = inside; }) == errc::aliasing);

  CHECK_FALSE(checked(ops::make_packed_attention<float>(packed.view(), out.span(), good)));
  CHECK(checked(ops::make_packed_attention<float>(packed.view().first(191), out.span(), good)) ==
        errc::buffer_too_small);
  CHECK(checked(ops::make_packed_attention<float>(packed.view().first(5), out.span(), good)) == errc::buffer_too_small);
  CHECK(checked(ops::make_packed_attention<float>({}, out.span(), good)) == errc::null_pointer);
  CHECK(checked(ops::attention<float>{}) == errc::null_pointer);
}

// Embedding lookup and mean pooling: the two ends of a sentence encoder.
#include "ops_fixtures.hpp"

#include <cohort/ops/embedding.hpp>
#include <cohort/ops/pooling.hpp>

using namespace ops_test;
namespace ops = cohort::ops;
using cohort::errc;

namespace {

std::vector<double> pooled(const std::vector<double>& x, std::size_t tokens, std::size_t hidden, bool normalise) {
  std::vector<double> mean(hidden);
  for (std::size_t i = 0; i < tokens * hidden; ++i) mean[i % hidden] += x[i] / static_cast<double>(tokens);
  double squares = 0.0;
  for (const double value : mean) squares += value * value;
  if (normalise) {
    for (double& value : mean) value /= std::max(std::sqrt(squares), 1e-12);
  }
  return mean;
}

}  // namespace

TEST_CASE_TEMPLATE("embedding adds the rows of its tables", T, float, fp16, bf16) {
  constexpr std::size_t vocabulary = 50, reach = 40;
  for (const runner where : runners) {
    for (const std::size_t hidden : {1u, 2u, 3u, 31u, 33u, 127u, 384u, 1000u}) {
      CAPTURE(static_cast<int>(where));
      CAPTURE(hidden);
      const auto words = random_values<T>(vocabulary * hidden, 1);
      const auto places = random_values<T>(reach * hidden, 2);
      const auto kinds = random_values<T>(2 * hidden, 3);
      const guarded<T> gw(words), gp(places), gk(kinds);
      const std::vector<std::int32_t> ids{0, 49, 7, 7, 23}, at{39, 0, 5, 4, 3}, kind{0, 1, 1, 0, 1};
      const auto expected = [&](bool position, bool own_position, bool type, bool own_type) {
        std::vector<double> out;
        for (std::size_t i = 0; i < ids.size(); ++i) {
          for (std::size_t d = 0; d < hidden; ++d) {
            const std::size_t p = own_position ? static_cast<std::size_t>(at[i]) : i + 3;
            const std::size_t t = own_type ? static_cast<std::size_t>(kind[i]) : 0;
            out.push_back(words[static_cast<std::size_t>(ids[i]) * hidden + d] +
                          (position ? places[p * hidden + d] : 0.0) + (type ? kinds[t * hidden + d] : 0.0));
          }
        }
        return out;
      };
      {
        guarded<T> out(ids.size() * hidden);
        run(ops::make_embedding<T>({.tokens = gw.view(), .hidden = hidden}, ids, out.span()), where);
        CHECK(out.values() == expected(false, false, false, false));
        CHECK(out.intact());
      }
      {
        guarded<T> out(ids.size() * hidden);
        run(ops::make_embedding<T>({gw.view(), gp.view(), gk.view(), hidden}, ids, out.span(), {.first_position = 3}),
            where);
        CHECK(relative_error(out.values(), expected(true, false, true, false)) < tolerance<T>);
      }
      {
        guarded<T> out(ids.size() * hidden);
        run(ops::make_embedding<T>({gw.view(), gp.view(), gk.view(), hidden}, ids, out.span(), {at, kind, 0}), where);
        CHECK(relative_error(out.values(), expected(true, true, true, true)) < tolerance<T>);
        CHECK(out.intact());
      }
    }
  }
}

TEST_CASE_TEMPLATE("an id outside its table gives a row of NaN and reads nothing", T, float, fp16, bf16) {
  for (const runner where : runners) {
    const guarded<T> words(random_values<T>(10 * 5, 1)), places(random_values<T>(4 * 5, 2)),
        kinds(random_values<T>(10, 3));
    const std::vector<std::int32_t> ids{3, -1, 10, 9, 2147483647, 1, 1, 1, 1}, at{0, 0, 0, 3, 0, 4, -1, 0, 0},
        kind{0, 0, 0, 1, 0, 0, 0, 2, -5};
    guarded<T> out(ids.size() * 5);
    run(ops::make_embedding<T>({words.view(), places.view(), kinds.view(), 5}, ids, out.span(), {at, kind, 0}), where);
    for (std::size_t i = 0; i < out.size(); ++i) {
      CHECK(std::isnan(cohort::to_float(out[i])) == (i / 5 != 0 && i / 5 != 3));
    }
    CHECK(out.intact());
  }
}

TEST_CASE("embedding refuses wrong arguments, each with its error") {
  guarded<float> words(80), places(40), kinds(16), out(40);
  const std::vector<std::int32_t> ids{1, 2, 3, 4, 5};
  const std::span<float> none;
  const auto make = [&](const ops::embedding_tables<float>& tables, std::span<const std::int32_t> i, std::span<float> o,
                        const ops::embedding_places& at = {}) {
    return checked(ops::make_embedding<float>(tables, i, o, at));
  };
  const ops::embedding_tables<float> tables{words.view(), places.view(), kinds.view(), 8};
  const auto with = [&](auto change) {
    ops::embedding_tables<float> changed = tables;
    change(changed);
    return make(changed, ids, out.span());
  };
  CHECK_FALSE(make(tables, ids, out.span()));
  CHECK(make(tables, {}, out.span()) == errc::null_pointer);
  CHECK(make(tables, ids, none) == errc::null_pointer);
  CHECK(with([&](auto& t) { t.tokens = none; }) == errc::null_pointer);
  CHECK_FALSE(with([&](auto& t) { t.positions = none; }));
  CHECK(make(tables, ids, shifted(out.span())) == errc::misaligned);
  CHECK(make(tables, shifted(std::span(ids)), out.span()) == errc::misaligned);
  CHECK(with([&](auto& t) { t.positions = shifted(places.span()); }) == errc::misaligned);
  CHECK(with([&](auto& t) { t.hidden = 0; }) == errc::bad_size);
  CHECK(with([&](auto& t) { t.hidden = std::size_t{1} << 60; }) == errc::bad_size);
  CHECK(make(tables, std::span(ids).first(0), out.span()) == errc::bad_size);
  CHECK(make(tables, ids, out.span().first(39)) == errc::buffer_too_small);
  CHECK(make(tables, ids, out.span(), {.first_position = 1}) == errc::buffer_too_small);
  CHECK(make(tables, ids, out.span(), {.first_position = std::size_t{1} << 40}) == errc::bad_size);
  CHECK_FALSE(make(tables, ids, out.span(), {.position_ids = ids}));
  CHECK(make(tables, ids, out.span(), {.position_ids = std::span(ids).first(4)}) == errc::buffer_too_small);
  CHECK(make(tables, ids, out.span(), {.type_ids = std::span(ids).first(4)}) == errc::buffer_too_small);
  CHECK(with([&](auto& t) { t.tokens = words.view().first(79); }) == errc::shape_mismatch);
  CHECK(with([&](auto& t) { t.types = kinds.view().first(12); }) == errc::shape_mismatch);
  CHECK(with([&](auto& t) { t.types = kinds.view().first(5); }) == errc::shape_mismatch);
  CHECK(make(tables, ids, words.span()) == errc::aliasing);
  CHECK(make(tables, ids, places.span()) == errc::aliasing);
  const std::span<float> over_ids(reinterpret_cast<float*>(const_cast<std::int32_t*>(ids.data())), 40);
  CHECK(make(tables, ids, over_ids) == errc::aliasing);
  CHECK(checked(ops::embedding<float>{}) == errc::null_pointer);
}

TEST_CASE_TEMPLATE("mean pooling is what float64 says, normalised and plain", T, float, fp16, bf16) {
  for (const runner where : runners) {
    for (const std::size_t hidden : {1u, 2u, 3u, 31u, 33u, 127u, 384u, 1000u, 6144u}) {
      for (const std::size_t tokens : {1u, 2u, 33u}) {
        for (const bool normalise : {false, true}) {
          CAPTURE(static_cast<int>(where));
          CAPTURE(hidden);
          CAPTURE(tokens);
          const auto x = random_values<T>(tokens * hidden, 1, 1.0, 0.3);
          const guarded<T> gx(x);
          guarded<float> out(hidden);
          run(ops::make_mean_pooling<T>(gx.view(), out.span(), tokens, hidden, normalise), where);
          CHECK(relative_error(out.values(), pooled(x, tokens, hidden, normalise)) < tolerance<float>);
          CHECK(out.intact());
          guarded<T> narrow(hidden);
          run(ops::make_mean_pooling<T, T>(gx.view(), narrow.span(), tokens, hidden, normalise), where);
          CHECK(relative_error(narrow.values(), pooled(x, tokens, hidden, normalise)) < tolerance<T>);
        }
      }
    }
  }
}

TEST_CASE("mean pooling of zeros is zeros, not NaN") {
  for (const runner where : runners) {
    const guarded<float> x(std::vector<double>(4 * 6, 0.0));
    guarded<float> out(6);
    run(ops::make_mean_pooling<float>(x.view(), out.span(), 4, 6), where);
    CHECK(out.values() == std::vector<double>(6, 0.0));
  }
}

TEST_CASE_TEMPLATE("lookup and pooling give the same bits for any order and size of tiles", T, float, bf16) {
  for (const runner where : runners) {
    const std::size_t tokens = where == runner::host ? 100 : 20;
    const guarded<T> words(random_values<T>(10 * 1000, 1));
    std::vector<std::int32_t> ids(tokens);
    for (std::size_t i = 0; i < tokens; ++i) ids[i] = static_cast<std::int32_t>(i * 7 % 10);
    check_same_bits<T>(tokens * 1000, where, [&](std::span<T> out) {
      return ops::make_embedding<T>({words.view(), words.view(), {}, 1000}, ids, out, {ids, {}, 0});
    });
    check_same_bits<float>(
        1000, where, [&](std::span<float> out) { return ops::make_mean_pooling<T>(words.view(), out, 10, 1000); });
  }
}

TEST_CASE("mean pooling refuses wrong arguments, each with its error") {
  guarded<float> x(64), out(8);
  const std::span<float> none;
  const auto make = [&](auto gx, auto go, std::size_t tokens, std::size_t hidden) {
    return checked(ops::make_mean_pooling<float>(gx, go, tokens, hidden));
  };
  CHECK_FALSE(make(x.span(), out.span(), 8, 8));
  CHECK(make(none, out.span(), 8, 8) == errc::null_pointer);
  CHECK(make(x.span(), none, 8, 8) == errc::null_pointer);
  CHECK(make(shifted(x.span()), out.span(), 8, 8) == errc::misaligned);
  CHECK(make(x.span(), out.span(), 0, 8) == errc::bad_size);
  CHECK(make(x.span(), out.span(), 8, 0) == errc::bad_size);
  CHECK(make(x.span(), out.span(), std::size_t{1} << 60, 8) == errc::bad_size);
  CHECK(make(x.span(), out.span(), 9, 8) == errc::buffer_too_small);
  CHECK(make(x.span(), out.span(), 4, 16) == errc::buffer_too_small);
  CHECK(make(x.span(), x.span().last(8), 8, 8) == errc::aliasing);
  guarded<float> wide(6145), wide_out(6145);
  CHECK(make(wide.span(), wide_out.span(), 1, 6145) == errc::op_too_large);
  CHECK(checked(ops::mean_pooling<float>{}) == errc::null_pointer);
}

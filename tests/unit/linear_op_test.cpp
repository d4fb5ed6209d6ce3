// What must hold of the descriptor of ops::linear: checks that find every mistake, keys that let fuse what may fuse,
// and plans that cover the product with tiles. The engines that run them: linear_host_test.cpp, linear_block_test.cpp.
#include <cohort/ops/linear.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace {

using namespace cohort;
using ops::activation;
namespace gemm = ops::detail::gemm;

}  // namespace

TEST_SUITE("linear op") {
  TEST_CASE("segments cover K, begin where slices do, and are few") {
    for (const std::uint32_t n : {1u, 4096u, 16383u, 16384u}) {
      for (std::uint32_t k = 1; k < 5000; ++k) {
        const std::uint32_t depth = gemm::segment_depth(n, k);
        const std::uint32_t count = gemm::segments_of(n, k);
        const bool good = depth % gemm::segment_unit == 0 && count >= 1 && count <= gemm::most_segments &&
                          depth * (count - 1) < k && k <= depth * count && (count > 1) == gemm::is_cut(n, k);
        if (!good) FAIL_CHECK(n << " features, K = " << k);
      }
    }
    CHECK(gemm::segments_of(4096, 4096) == 4);
    CHECK(gemm::segments_of(256, 1152) == 4);
    CHECK(gemm::segments_of(256, 512) == 4);
    CHECK(gemm::segments_of(256, 511) == 1);
    CHECK(gemm::segments_of(32000, 4096) == 1);
  }

  TEST_CASE("plan shares tiles where they are too few for the workers, and not where they are enough") {
    const auto choice = []<class T>(T, std::uint64_t rows, std::uint32_t n, std::uint32_t k, std::uint32_t workers) {
      const gemm::block_choice chosen = gemm::choose_block<T>(rows, n, k, workers);
      CHECK(gemm::tiles_of(rows, n, gemm::block_tile<T>(chosen.variant)) * chosen.parts <=
            std::max<std::uint64_t>(workers, gemm::tiles_of(rows, n, gemm::block_tile<T>(chosen.variant))));
      return std::pair<int, int>(chosen.variant, chosen.parts);
    };
    CHECK(choice(bf16{}, 64, 4096, 4096, 527) == std::pair(3, 4));
    CHECK(choice(float{}, 128, 256, 1152, 527) == std::pair(3, 4));
    CHECK(choice(float{}, 128, 256, 1152, 4) == std::pair(5, 1));
    CHECK(choice(float{}, 256, 256, 256, 527) == std::pair(2, 1));
    CHECK(choice(float{}, 128, 256, 512, 527).second == 1);
    CHECK(choice(float{}, 1, 1024, 1024, 527) == std::pair(0, 1));
    CHECK(choice(float{}, 1, 1024, 1024, 4) == std::pair(0, 1));
    CHECK(choice(bf16{}, 128, 256, 1152, 527) == std::pair(0, 1));
    CHECK(choice(bf16{}, 128, 256, 1152, 4) == std::pair(4, 1));
    CHECK(choice(bf16{}, 128, 256, 512, 200).second == 1);
    CHECK(choice(bf16{}, 1, 16384, 4096, 527) == std::pair(2, 1));
    CHECK(choice(bf16{}, 1, 16384, 512, 1100) == std::pair(1, 1));
    CHECK(choice(bf16{}, 1, 512, 512, 527) == std::pair(0, 1));
    CHECK(choice(bf16{}, 256, 256, 256, 527) == std::pair(1, 1));
    CHECK(choice(bf16{}, 256, 256, 256, 256) == std::pair(1, 1));
    CHECK(choice(bf16{}, 256, 256, 256, 255) == std::pair(3, 1));
    CHECK(choice(bf16{}, 16, 12800, 256, 527) == std::pair(2, 1));
    CHECK(choice(bf16{}, 4096, 4096, 4096, 527) == std::pair(4, 1));
  }

  TEST_CASE("plan says whether the tiles of a product will meet, on a device alone") {
    const auto wants = [](std::uint32_t rows, std::uint32_t n, std::uint32_t k, const machine_shape& shape) {
      std::vector<float> x(std::size_t{rows} * k), w(std::size_t{n} * k), y(std::size_t{rows} * n);
      auto op = ops::make_linear<float>(x, w, {}, y, {rows, n, k});
      const planned_tiles tiles = detail::plan_erased<ops::linear<float>>(&op, 1, shape);
      CHECK(tiles.count > 0);
      CHECK(tiles.want_exchange == (op.parts > 1));
      return tiles.want_exchange;
    };
    CHECK(wants(128, 256, 1152, {.workers = 527, .host = false}));
    CHECK_FALSE(wants(128, 256, 1152, {.workers = 4, .host = false}));
    CHECK_FALSE(wants(256, 256, 256, {.workers = 527, .host = false}));
    CHECK_FALSE(wants(128, 256, 1152, {.workers = 527, .host = true}));
  }

  TEST_CASE("plan stacks the members' rows and covers them with tiles") {
    const std::vector<float> x(70 * 8);
    const std::vector<float> w(100 * 8);
    std::vector<float> y(70 * 100);
    std::vector<ops::linear<float>> members;
    for (const std::size_t rows : {3u, 1u, 70u})
      members.push_back(ops::make_linear<float>(x, w, {}, y, {rows, 100, 8}));
    const std::uint32_t tiles = ops::linear<float>::plan(members, {.workers = 528, .host = false});
    CHECK(members[0].first_row == 0);
    CHECK(members[1].first_row == 3);
    CHECK(members[2].first_row == 4);
    CHECK(members[2].total_rows == 74);
    CHECK(members[0].variant == members[2].variant);
    const gemm::tile_extent tile = gemm::block_tile<float>(members[0].variant);
    CHECK(tiles == (74 + tile.rows - 1) / tile.rows * ((100 + tile.columns - 1) / tile.columns));
    CHECK(members[2].rows() == 70);
    CHECK(members[2].cost().flops == 2u * 70 * 100 * 8);
    CHECK(members[2].cost().bytes == 4u * (70 * 8 + 100 * 8 + 70 * 100));
  }

  TEST_CASE("plan takes larger tiles for larger packets, and cuts host work for all workers") {
    const auto variant = [](std::uint64_t rows, std::uint32_t n, std::uint32_t k) {
      return static_cast<int>(gemm::choose_walking_block<bf16>(rows, n, k, 528));
    };
    CHECK(variant(1, 512, 511) == 1);  // all of K at once
    CHECK(variant(1, 512, 512) == 2);  // is cut
    CHECK(variant(32, 384, 384) == 1);
    CHECK(variant(32, 384, 1024) == 2);
    CHECK(variant(64, 8192, 256) == 3);
    CHECK(variant(4096, 4096, 256) == 4);
    CHECK(gemm::choose_host_columns(64, 4096, 1024, 2) == gemm::host_columns);
    CHECK(gemm::choose_host_columns(64, 1024, 1024, 8) == 32);
    CHECK(gemm::choose_host_columns(1, 16, 16, 8) == gemm::host_columns);  // not worth dividing
  }

  TEST_CASE("padding is what the tiles have beyond the product") {
    const auto padding = [](std::uint32_t rows, std::uint32_t n, bool host) {
      std::vector<ops::linear<float>> members(2);
      for (auto& one : members) {
        one.row_count = rows / 2;
        one.n = n;
        one.k = 64;
      }
      const machine_shape shape{.workers = 8, .host = host};
      const std::uint32_t tiles = ops::linear<float>::plan(members, shape);
      const double share = ops::linear<float>::padding(members, shape);
      if (!host) {
        const auto extent = gemm::block_tile<float>(members[0].variant);
        const double area = double(tiles) * extent.rows * extent.columns;
        CHECK(share == doctest::Approx(1 - double(rows) * n / area));
      }
      return share;
    };
    CHECK(padding(1024, 1024, false) == 0);
    CHECK(padding(2, 1024, false) == doctest::Approx(0.5));  // the smallest tile has four rows
    CHECK(padding(1022, 1000, false) > 0);
    CHECK(padding(2, 1024, true) == 0);
    CHECK(padding(2, 17, true) == doctest::Approx(1 - 17. / 32));
  }

  TEST_CASE("ops fuse only when everything but x, y and the residual's place agrees") {
    const std::vector<float> x(2 * 8);
    const std::vector<float> w(8 * 8);
    const std::vector<float> bias(8);
    const std::vector<float> residual(2 * 8);
    std::vector<float> y(2 * 8);
    const auto op = ops::make_linear<float>(x, w, bias, y, {2, 8, 8}, activation::none, residual);
    REQUIRE(!op.check());
    CHECK(static_cast<bool>(op.key()));
    const auto differs = [&](auto change) {
      ops::linear<float> other = op;
      change(other);
      return other.key() != op.key();
    };
    CHECK(differs([](auto& o) { o.w += 1; }));
    CHECK(differs([](auto& o) { o.bias = nullptr; }));
    CHECK(differs([](auto& o) { o.residual = nullptr; }));
    CHECK(differs([](auto& o) { o.n = 7; }));
    CHECK(differs([](auto& o) { o.k = 7; }));
    CHECK(differs([](auto& o) { o.act = activation::relu; }));
    CHECK(!differs([](auto& o) { o.x += 1; }));
    CHECK(!differs([](auto& o) { o.y += 1; }));
    CHECK(!differs([](auto& o) { o.residual += 1; }));
    CHECK(!differs([](auto& o) { o.row_count = 1; }));
  }

  TEST_CASE("check names each mistake") {
    std::vector<float> x(4 * 8);
    std::vector<float> w(16 * 8);
    std::vector<float> bias(16);
    std::vector<float> y(4 * 16);
    std::vector<float> residual(4 * 16);
    using in = std::span<const float>;
    using out = std::span<float>;
    const auto check = [&](in x_, in w_, in bias_, out y_, ops::linear_shape shape, in residual_ = {}) {
      return ops::make_linear<float>(x_, w_, bias_, y_, shape, activation::none, residual_).check();
    };
    const ops::linear_shape shape{4, 16, 8};
    CHECK(!check(x, w, bias, y, shape, residual));
    CHECK(!check(x, w, {}, y, shape));
    CHECK(!check(x, w, bias, y, {3, 16, 8}, residual));  // larger buffers than needed

    CHECK(check({}, w, bias, y, shape) == errc::null_pointer);
    CHECK(check(x, {}, bias, y, shape) == errc::null_pointer);
    CHECK(check(x, w, bias, {}, shape) == errc::null_pointer);
    CHECK(ops::linear<float>{}.check() == errc::null_pointer);

    const auto skewed = [](in s) {
      return in(reinterpret_cast<const float*>(reinterpret_cast<const char*>(s.data()) + 2), s.size());
    };
    CHECK(check(skewed(x), w, bias, y, {3, 16, 8}) == errc::misaligned);
    CHECK(check(x, skewed(w), bias, y, shape) == errc::misaligned);
    CHECK(check(x, w, skewed(bias), y, shape) == errc::misaligned);
    CHECK(check(x, w, bias, y, shape, skewed(residual)) == errc::misaligned);

    CHECK(check(in(x).first(31), w, bias, y, shape) == errc::buffer_too_small);
    CHECK(check(x, in(w).first(127), bias, y, shape) == errc::buffer_too_small);
    CHECK(check(x, w, bias, out(y).first(63), shape) == errc::buffer_too_small);
    CHECK(check(x, w, bias, y, shape, in(residual).first(63)) == errc::buffer_too_small);

    for (const ops::linear_shape bad : {ops::linear_shape{0, 16, 8}, {4, 0, 8}, {4, 16, 0}}) {
      CHECK(check(x, w, {}, y, bad) == errc::bad_size);
    }
    const std::size_t huge = std::size_t{1} << 33;
    CHECK(check(x, w, {}, y, {huge, 16, 8}) == errc::bad_size);
    CHECK(check(x, w, {}, y, {std::size_t{1} << 63, 16, 8}) == errc::bad_size);
    CHECK(check(x, w, {}, y, {std::size_t{1} << 30, 1, std::size_t{1} << 30}) == errc::bad_size);
    CHECK(check(x, w, {}, y, {1, std::size_t{1} << 30, std::size_t{1} << 30}) == errc::bad_size);

    CHECK(check(x, w, in(bias).first(15), y, shape) == errc::shape_mismatch);

    std::vector<float> shared(256);
    const out all(shared);
    CHECK(check(all.subspan(0, 32), w, bias, all.subspan(31, 64), shape) == errc::aliasing);
    CHECK(!check(all.subspan(0, 32), w, bias, all.subspan(32, 64), shape));
    CHECK(check(x, all.subspan(0, 128), bias, all.subspan(127, 64), shape) == errc::aliasing);
    CHECK(check(x, w, all.subspan(10, 16), all.subspan(0, 64), shape) == errc::aliasing);
    CHECK(check(x, w, bias, all.subspan(0, 64), shape, all.subspan(1, 64)) == errc::aliasing);
    CHECK(!check(x, w, bias, all.subspan(0, 64), shape, all.subspan(0, 64)));
  }

  TEST_CASE("a layer makes ops from views, with the rows that x holds") {
    std::vector<float> x(4 * 8);
    std::vector<float> w(16 * 8);
    std::vector<float> bias(16);
    std::vector<float> y(4 * 16);
    ops::linear_layer<float> layer{.w = w, .bias = bias, .n = 16, .k = 8, .act = activation::gelu};
    const ops::linear<float> op = layer(x, y);
    CHECK(!op.check());
    CHECK(op.rows() == 4);
    CHECK(op.act == activation::gelu);
    CHECK(!layer(x, y, y).check());
    CHECK(layer(std::span(x).first(31), y).check() == errc::shape_mismatch);
    CHECK(layer(std::span(x).first(24), y).check() == errc::shape_mismatch);
    CHECK(layer(x, std::span(y).first(48)).check() == errc::buffer_too_small);
    layer.k = 0;
    CHECK(layer(x, y).check() == errc::bad_size);
    layer.k = 4;
    CHECK(layer(std::span(x).first(16), y).check() == errc::shape_mismatch);  // the weights have another shape
  }
}

// What must hold of the engines of ops::linear on a device, whose code runs on an emulated thread block here: right
// products for every shape with every tile, and results that do not depend on the company. The host's:
// linear_host_test.cpp; descriptor and plans: linear_op_test.cpp.
#include "linear_fixtures.hpp"
#include "support/block_emulator.hpp"

#include <cohort/ops/linear.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

using namespace linear_test;
namespace gemm = ops::detail::gemm;

struct block_engine {
  enum class kind { warpgroup, tensor, scalar } which = kind::scalar;
  int variant = -1;  // -1: as planned
  std::uint32_t workers = 8;
  std::uint32_t batch = 3;  // tiles that a block gets at a time
  bool shared = false;      // a tile's segments of K are parts, each a tile of its own
  bool memory = true;       // there is room for all parts to meet
};

std::string describe(const block_engine& e) {
  return "kind " + std::to_string(static_cast<int>(e.which)) + ", variant " + std::to_string(e.variant);
}

using emulator = testing::block_emulator<128, 32>;

emulator& block() {
  static emulator instance(gemm::block_scratch_bytes);
  return instance;
}

/// Where the tiles of a record meet, as the superkernel gives it.
class exchange_memory {
public:
  exchange_memory(std::uint32_t tiles, std::uint32_t offered)
      : counters_(tiles), pieces_(tiles * std::size_t{gemm::part_bytes} / sizeof(float), std::nanf("")) {
    exchange_ = {reinterpret_cast<std::byte*>(pieces_.data()), counters_.data(), offered, gemm::part_bytes};
  }

  operator tile_exchange() const { return exchange_; }

  bool counters_are_zero() const {
    return std::all_of(counters_.begin(), counters_.end(), [](std::uint32_t count) { return count == 0; });
  }

private:
  std::vector<std::uint32_t> counters_;
  std::vector<float> pieces_;
  tile_exchange exchange_;
};

template <class T>
void run(const block_engine& e, std::vector<ops::linear<T>> members) {
  std::uint32_t tiles = ops::linear<T>::plan(members, {.workers = e.workers, .host = false});
  const auto count = static_cast<std::uint32_t>(members.size());
  if (e.variant >= 0) {
    const std::uint32_t parts = e.shared ? gemm::segments_of(members[0].n, members[0].k) : 1;
    for (auto& member : members) {
      member.variant = static_cast<std::uint8_t>(e.variant);
      member.parts = static_cast<std::uint8_t>(parts);
    }
    tiles = static_cast<std::uint32_t>(gemm::tiles_of(members[0].total_rows, members[0].n,
                                                      gemm::block_tile<T>(static_cast<std::uint32_t>(e.variant)))) *
            parts;
  }
  exchange_memory exchange(tiles, e.memory ? tiles : tiles - 1);
  // As a worker of several gets them: every other tile, some at a time.
  constexpr std::uint32_t workers = 2;
  std::vector<tile_work> works;
  for (std::uint32_t worker = 0; worker < workers; ++worker) {
    for (std::uint32_t tile = worker; tile < tiles; tile += workers)
      works.push_back({members.data(), count, tile, exchange});
  }
  const auto batches = static_cast<std::uint32_t>((works.size() + e.batch - 1) / e.batch);
  block().run(batches, [&](emulator::context& context, std::uint32_t turn) {
    const tile_work* const some = works.data() + turn * e.batch;
    const auto left = static_cast<std::uint32_t>(works.size()) - turn * e.batch;
    const std::uint32_t length = std::min(e.batch, left);
    if (e.which == block_engine::kind::warpgroup) {
      gemm::run_block<ops::linear<T>, gemm::arithmetic::wgmma>(context, some, length);
    } else if (e.which == block_engine::kind::tensor) {
      gemm::run_block<ops::linear<T>, gemm::arithmetic::mma>(context, some, length);
    } else {
      gemm::run_block<ops::linear<T>, gemm::arithmetic::scalar>(context, some, length);
    }
  });
  CHECK(exchange.counters_are_zero());
}

/// Whether a product may get the tile shape: of 16-bit types one is for short K alone.
template <class T>
bool has_variant(std::uint32_t variant, std::size_t n, std::size_t k) {
  if (std::is_same_v<T, float> || variant != gemm::at_once_variant) return true;
  return gemm::may_come_at_once(static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(k));
}

template <class T>
std::vector<block_engine> block_engines(block_engine::kind which, std::size_t n, std::size_t k) {
  std::vector<block_engine> all;
  for (std::uint32_t variant = 0; variant < gemm::block_variants<T>; ++variant) {
    if (has_variant<T>(variant, n, k)) all.push_back({.which = which, .variant = static_cast<int>(variant)});
  }
  return all;
}

/// The block engine that all current devices have for T.
template <class T>
constexpr block_engine::kind native_block =
    std::is_same_v<T, float> ? block_engine::kind::scalar : block_engine::kind::tensor;

/// The block engines that current devices use for T, and a product of n features and depth k; by default one that may
/// have them all.
template <class T>
std::vector<block_engine> native_engines(std::size_t n = 1, std::size_t k = 1) {
  std::vector<block_engine> all = block_engines<T>(native_block<T>, n, k);
  if constexpr (!std::is_same_v<T, float>) {
    for (const block_engine& e : block_engines<T>(block_engine::kind::warpgroup, n, k)) all.push_back(e);
  }
  return all;
}

}  // namespace

TEST_SUITE("linear on a block") {
  TEST_CASE_TEMPLATE("tails of M, N and K give the product with every tile", T, float, fp16, bf16) {
    constexpr extent table[] = {{1, 1, 1},    {2, 3, 5},    {5, 33, 31},   {8, 64, 64},   {17, 65, 100},
                                {33, 31, 17}, {65, 66, 33}, {64, 64, 128}, {3, 100, 129}, {100, 16, 2}};
    std::size_t turn = 0;
    for (const extent& size : table) {
      for (const block_engine& e : native_engines<T>(size.n, size.k)) {
        form f = all_forms[turn % std::size(all_forms)];
        if (turn % 4 == 3) f.shift = 1;
        weights<T> layer(size.n, size.k, f);
        request<T> r(layer, size.rows, static_cast<std::uint32_t>(turn));
        expect_product(e, r);
        ++turn;
      }
    }
  }

  TEST_CASE_TEMPLATE("16-bit types without tensor cores give the product", T, fp16, bf16) {
    std::size_t turn = 0;
    for (const extent size : {extent{2, 3, 5}, extent{17, 33, 70}, extent{65, 40, 33}}) {
      for (const block_engine& e : block_engines<T>(block_engine::kind::scalar, size.n, size.k)) {
        weights<T> layer(size.n, size.k, all_forms[turn % std::size(all_forms)]);
        request<T> r(layer, size.rows, static_cast<std::uint32_t>(turn));
        expect_product(e, r);
        ++turn;
      }
    }
  }

  TEST_CASE_TEMPLATE("the pipeline wraps around its stages", T, float, bf16) {
    for (const block_engine& e : native_engines<T>(32, 584)) {
      weights<T> layer(32, 584, all_forms[3]);
      request<T> r(layer, 16, 5);
      expect_product(e, r);
    }
  }

  TEST_CASE_TEMPLATE("a warp that falls behind reads nothing that the others overwrite", T, float, bf16) {
    // One slice, and enough to wrap around and to go on with the next tile.
    for (const std::size_t k : {32u, 420u}) {
      for (std::uint32_t variant = 0; variant < gemm::block_variants<T>; ++variant) {
        weights<T> layer(64, k, all_forms[3]);
        request<T> r(layer, 64, 5);
        std::vector<ops::linear<T>> members{r.op()};
        ops::linear<T>::plan(members, {.workers = 8, .host = false});
        members[0].variant = static_cast<std::uint8_t>(variant);
        const gemm::tile_extent extent = gemm::block_tile<T>(variant);
        const auto tiles = static_cast<std::uint32_t>(gemm::tiles_of(64, 64, extent));
        const std::uint32_t slow = variant % 2 == 0 ? 0 : 3;
        // Both tiles in one batch: a chain where K is deep enough.
        const tile_work works[] = {{members.data(), 1, 0, {}}, {members.data(), 1, 1, {}}};
        block().let_lag(slow);
        block()([&](emulator::context& context) { ops::linear<T>::run_batch(context, works, std::min(2u, tiles)); });
        block().let_none_lag();
        r.rows = std::min<std::size_t>(64, extent.rows * 2);
        CAPTURE(variant);
        CAPTURE(k);
        CHECK(r.error(std::min<std::size_t>(64, extent.columns)) < tolerance<T>);
      }
    }
  }

  TEST_CASE_TEMPLATE("tiles that follow one another in a pipeline give the bits of tiles on their own", T, float,
                     bf16) {
    constexpr std::size_t depths[] = {gemm::chained_depth + 74, gemm::chained_depth};
    for (const std::size_t k : some(depths)) {
      weights<T> layer(140, k, all_forms[3]);
      for (block_engine e : native_engines<T>(140, k)) {
        CAPTURE(describe(e));
        CAPTURE(k);
        std::vector<request<T>> apart, chained;
        for (std::size_t i = 0; i < 3; ++i) {
          apart.emplace_back(layer, 5 + 30 * i, i);
          chained.emplace_back(layer, 5 + 30 * i, i);
        }
        const auto ops_of = [](auto& requests) {
          std::vector<ops::linear<T>> all;
          for (auto& r : requests) all.push_back(r.op());
          return all;
        };
        e.batch = 1;
        run(e, ops_of(apart));
        e.batch = 8;
        run(e, ops_of(chained));
        for (std::size_t i = 0; i < 3; ++i) {
          CHECK(chained[i].same_bits(apart[i]));
          CHECK(chained[i].error() < tolerance<T>);
          CHECK(chained[i].y.guards_intact());
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("all tiles, aligned or not, give the same bits", T, float, bf16) {
    for (const extent size : {extent{18, 40, 72}, extent{9, 70, 42}, extent{19, 70, 504}, extent{3, 35, 450}}) {
      form f = all_forms[3];
      weights<T> layer(size.n, size.k, f);
      request<T> first(layer, size.rows, 7);
      run(block_engine{.which = native_block<T>, .variant = 0}, std::vector{first.op()});
      for (const std::size_t shift : {0, 3}) {
        f.shift = shift;
        weights<T> shifted(size.n, size.k, f);
        for (const block_engine& e : native_engines<T>(size.n, size.k)) {
          CAPTURE(shift);
          CAPTURE(describe(e));
          request<T> again(shifted, size.rows, 7);
          run(e, std::vector{again.op()});
          CHECK(again.same_bits(first));
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("segments of K give the same bits walked by one block or shared by several, on every tile", T,
                     float, fp16, bf16) {
    constexpr extent table[] = {{19, 33, 801}, {1, 70, 768}, {130, 40, 1030}, {7, 21, 530}};
    for (const extent& size : some(table)) {
      weights<T> layer(size.n, size.k, all_forms[3]);
      request<T> first(layer, size.rows, 7);
      run(block_engine{.which = native_block<T>, .variant = gemm::first_shared_variant<T>}, std::vector{first.op()});
      CHECK(first.error() < tolerance<T>);
      for (block_engine e : native_engines<T>(size.n, size.k)) {
        const bool may_share = e.variant >= static_cast<int>(gemm::first_shared_variant<T>) &&
                               e.variant < static_cast<int>(gemm::shared_variants_end<T>);
        for (const int way : {0, 1, 2}) {
          e.shared = way != 0;
          e.memory = way != 2;
          if (e.shared && !may_share) continue;
          CAPTURE(describe(e));
          CAPTURE(way);
          CAPTURE(size.k);
          request<T> again(layer, size.rows, 7);
          run(e, std::vector{again.op()});
          CHECK(again.same_bits(first));
          CHECK(again.y.guards_intact());
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("members with a residual in place share tiles and keep their bits", T, float, bf16) {
    weights<T> layer(67, 900, all_forms[1]);
    std::vector<request<T>> alone, together;
    for (std::size_t i = 0; i < 5; ++i) {
      for (auto* requests : {&alone, &together}) {
        request<T>& r = requests->emplace_back(layer, 1 + i * 3, static_cast<std::uint32_t>(i));
        std::copy_n(r.residual.data(), r.rows * 67, r.y.data());
      }
    }
    const auto in_place = [](request<T>& r) {
      ops::linear<T> op = r.op();
      op.residual = op.y;
      return op;
    };
    for (auto& r : alone) run(block_engine{.which = native_block<T>, .variant = 0}, std::vector{in_place(r)});
    std::vector<ops::linear<T>> members;
    for (auto& r : together) members.push_back(in_place(r));
    run(block_engine{.which = native_block<T>, .variant = gemm::first_shared_variant<T>, .shared = true}, members);
    for (std::size_t i = 0; i < alone.size(); ++i) CHECK(together[i].same_bits(alone[i]));
  }

  TEST_CASE_TEMPLATE("parts of a tile on blocks that run at the same time end it once", T, float, bf16) {
    constexpr std::uint32_t depth = 1030;
    weights<T> layer(40, depth, all_forms[3]);
    request<T> first(layer, 6, 7);
    run(block_engine{.which = native_block<T>, .variant = 0}, std::vector{first.op()});
    const std::uint32_t parts = gemm::segments_of(40, depth);
    REQUIRE(parts == 4);
    std::vector<std::unique_ptr<emulator>> blocks;
    for (std::uint32_t i = 0; i < parts; ++i) blocks.push_back(std::make_unique<emulator>(gemm::block_scratch_bytes));
    exchange_memory exchange(64, 64);  // used again and again, as a slot's is
    for (int round = 0; round < 5; ++round) {
      request<T> again(layer, 6, 7);
      std::vector<ops::linear<T>> members{again.op()};
      ops::linear<T>::plan(members, {.workers = 64, .host = false});
      members[0].variant = gemm::first_shared_variant<T>;
      members[0].parts = static_cast<std::uint8_t>(parts);
      const std::uint32_t tiles = gemm::block_tiles<T>(6, 40, gemm::first_shared_variant<T>) * parts;
      std::vector<std::thread> together;
      for (std::uint32_t i = 0; i < parts; ++i) {
        together.emplace_back([&, i] {
          blocks[i]->run((tiles - i + parts - 1) / parts, [&](emulator::context& context, std::uint32_t turn) {
            const tile_work work{members.data(), 1, turn * parts + i, exchange};
            ops::linear<T>::run_batch(context, &work, 1);
          });
        });
      }
      for (std::thread& each : together) each.join();
      CHECK(again.same_bits(first));
      CHECK(exchange.counters_are_zero());
    }
  }

  TEST_CASE_TEMPLATE("an op's bits are the same alone and among 1, 7 and 63 others", T, float, bf16) {
    int variant = 0;
    for (const std::size_t others : {1u, 7u, 63u}) {
      const block_engine alone{.which = native_block<T>, .variant = (variant + 1) % 3};
      const block_engine together{.which = native_block<T>, .variant = variant};
      expect_company_changes_nothing<T>(alone, together, all_forms[3], {3, 30, 40}, others, others / 2);
      ++variant;
    }
  }

  TEST_CASE_TEMPLATE("infinities and NaN of one member stay in its rows", T, float, bf16) {
    for (const block_engine& e : native_engines<T>()) expect_rows_apart<T>(e);
  }

  TEST_CASE_TEMPLATE("y may be the residual itself", T, float, bf16) {
    for (const block_engine& e : native_engines<T>()) expect_residual_in_place<T>(e);
  }

  TEST_CASE("the eight rows of a matrix load lie in different banks, and no two pieces share a place") {
    constexpr std::uint32_t rows = 128;
    constexpr std::uint32_t pieces = 8;
    std::vector<bool> taken(rows * pieces);
    for (std::uint32_t row = 0; row < rows; row += 8) {
      for (std::uint32_t piece = 0; piece < pieces; ++piece) {
        std::uint32_t banks = 0;
        for (std::uint32_t r = row; r < row + 8; ++r) {
          const std::uint32_t place = gemm::swizzled_place(r, piece);
          REQUIRE(place + 16 <= rows * 128);
          CHECK(!taken[place / 16]);
          taken[place / 16] = true;
          banks |= 1u << place / 16 % 8;
        }
        CHECK(banks == 0xffu);
      }
    }
  }
}

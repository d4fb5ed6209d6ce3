// What must hold of the engines of ops::linear: right products for every shape on every engine that a machine without a
// GPU can run (host instruction sets, and the device's engines on an emulated thread block), and results that do not
// depend on the company. Its descriptor and its plans: linear_op_test.cpp.
#include <cohort/backend/host_context.hpp>
#include <cohort/ops/linear.hpp>

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
#include <thread>
#include <type_traits>
#include <vector>

#include "support/block_emulator.hpp"
#include "support/sanitizer.hpp"

namespace {

using namespace cohort;
using ops::activation;
namespace gemm = ops::detail::gemm;

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
constexpr double tolerance = std::is_same_v<T, float>  ? 1e-5
                             : std::is_same_v<T, fp16> ? 2e-3
                                                       : 1e-2;

/// A way to run ops. All of one kind must give the same bits whatever `variant` and `workers` are.
struct engine {
  enum class kind { host, warpgroup_block, tensor_block, scalar_block } which = kind::host;
  gemm::host_isa isa = gemm::host_isa::portable;
  int variant = -1;  // of a block; -1: as planned
  std::uint32_t workers = 8;
  std::uint32_t batch = 3;  // tiles that a block gets at a time
  bool shared = false;      // a tile's segments of K are parts, each a tile of its own
  bool memory = true;       // there is room for all parts to meet
};

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
void run(const engine& e, std::vector<ops::linear<T>> members) {
  const bool host = e.which == engine::kind::host;
  std::uint32_t tiles = ops::linear<T>::plan(members, {.workers = e.workers, .host = host});
  const auto count = static_cast<std::uint32_t>(members.size());
  if (host) {
    const auto scratch = std::make_unique<gemm::host_scratch>();
    std::memset(static_cast<void*>(scratch.get()), 0xff, sizeof *scratch);
    for (std::uint32_t tile = 0; tile < tiles; ++tile) {
      gemm::run_host(reinterpret_cast<std::byte*>(scratch.get()), members.data(), count, tile, e.isa);
    }
    return;
  }
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
    if (e.which == engine::kind::warpgroup_block) {
      gemm::run_block<ops::linear<T>, gemm::arithmetic::wgmma>(context, some, length);
    } else if (e.which == engine::kind::tensor_block) {
      gemm::run_block<ops::linear<T>, gemm::arithmetic::mma>(context, some, length);
    } else {
      gemm::run_block<ops::linear<T>, gemm::arithmetic::scalar>(context, some, length);
    }
  });
  CHECK(exchange.counters_are_zero());
}

std::vector<engine> host_engines() {
  std::vector<engine> all;
  for (int isa = 0; isa <= static_cast<int>(gemm::detect_host_isa()); ++isa) {
    all.push_back({.which = engine::kind::host, .isa = static_cast<gemm::host_isa>(isa)});
  }
  return all;
}

template <class T>
std::vector<engine> block_engines(engine::kind which) {
  std::vector<engine> all;
  for (int variant = 0; variant < static_cast<int>(gemm::block_variants<T>); ++variant) {
    all.push_back({.which = which, .variant = variant});
  }
  return all;
}

/// The block engine that all current devices have for T.
template <class T>
constexpr engine::kind native_block =
    std::is_same_v<T, float> ? engine::kind::scalar_block : engine::kind::tensor_block;

/// The block engines that current devices use for T.
template <class T>
std::vector<engine> native_engines() {
  std::vector<engine> all = block_engines<T>(native_block<T>);
  if constexpr (!std::is_same_v<T, float>) {
    for (const engine& e : block_engines<T>(engine::kind::warpgroup_block)) all.push_back(e);
  }
  return all;
}

template <class T>
void expect_product(const engine& e, request<T>& r) {
  CAPTURE(static_cast<int>(e.which));
  CAPTURE(static_cast<int>(e.isa));
  CAPTURE(e.variant);
  CAPTURE(r.rows);
  CAPTURE(r.layer->n);
  CAPTURE(r.layer->k);
  const ops::linear<T> op = r.op();
  REQUIRE(!op.check());
  run<T>(e, {op});
  CHECK(r.error() < tolerance<T>);
  CHECK(r.y.guards_intact());
}

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

constexpr std::size_t sizes[] = {1, 2, 3, 5, 8, 16, 17, 31, 33, 64, 65, 100, 127, 128, 129, 255, 300};

constexpr form all_forms[] = {
    {.act = activation::none},
    {.act = activation::none, .bias = true, .residual = true},
    {.act = activation::relu, .bias = true},
    {.act = activation::gelu, .bias = true, .residual = true},
    {.act = activation::silu, .residual = true},
    {.act = activation::tanh, .bias = true, .shift = 1},
};

/// Members with 1 to 5 rows around the one at `place`, which has `rows`.
template <class T>
void expect_company_changes_nothing(const engine& alone, const engine& together, const form& f, extent size,
                                    std::size_t others, std::size_t place) {
  CAPTURE(static_cast<int>(alone.which));
  CAPTURE(alone.variant);
  CAPTURE(together.variant);
  CAPTURE(others);
  weights<T> layer(size.n, size.k, f);
  request<T> lonely(layer, size.rows, 0);
  run<T>(alone, {lonely.op()});

  std::vector<std::unique_ptr<request<T>>> requests;
  std::vector<ops::linear<T>> members;
  for (std::size_t i = 0; i <= others; ++i) {
    const bool it = i == place;
    requests.push_back(std::make_unique<request<T>>(layer, it ? size.rows : i * 7 % 5 + 1,
                                                    it ? 0 : static_cast<std::uint32_t>(i) + 100));
    members.push_back(requests.back()->op());
    CHECK(members.back().key() == members.front().key());
  }
  run<T>(together, members);
  CHECK(requests[place]->same_bits(lonely));
  for (auto& each : requests) {
    CHECK(each->y.guards_intact());
    CHECK(each->error() < tolerance<T>);
  }
}

}  // namespace

TEST_SUITE("linear") {
  TEST_CASE_TEMPLATE("host: every pair of tails of N and K gives the product", T, float, fp16, bf16) {
    const auto engines = host_engines();
    std::size_t turn = 0;
    for (const std::size_t n : sizes) {
      for (const std::size_t k : sizes) {
        // Every size of M comes up with every residue of N and K in turn; large products only now and then.
        std::size_t m = sizes[turn * 5 % std::size(sizes)];
        if (m * n * k > 600'000) m = turn % 8 + 1;
        weights<T> layer(n, k, all_forms[turn % std::size(all_forms)]);
        request<T> r(layer, m, static_cast<std::uint32_t>(turn));
        expect_product(engines[turn % engines.size()], r);
        ++turn;
      }
    }
  }

  TEST_CASE_TEMPLATE("host: large products with several passes over K and tiles of rows", T, float, bf16) {
    for (const extent size :
         {extent{64, 200, 1024}, extent{3, 130, 2500}, extent{130, 40, 1152}, extent{70, 33, 1030}}) {
      for (const engine& e : host_engines()) {
        weights<T> layer(size.n, size.k, all_forms[1]);
        request<T> r(layer, size.rows, 3);
        expect_product(e, r);
      }
    }
  }

  TEST_CASE_TEMPLATE("host: every form of the epilogue", T, float, fp16, bf16) {
    for (const form& f : all_forms) {
      for (const engine& e : host_engines()) {
        weights<T> layer(37, 48, f);
        request<T> r(layer, 6, 3);
        expect_product(e, r);
      }
    }
  }

  TEST_CASE_TEMPLATE("block: tails of M, N and K give the product with every tile", T, float, fp16, bf16) {
    constexpr extent table[] = {{1, 1, 1},    {2, 3, 5},    {5, 33, 31},   {8, 64, 64},   {17, 65, 100},
                                {33, 31, 17}, {65, 66, 33}, {64, 64, 128}, {3, 100, 129}, {100, 16, 2}};
    std::size_t turn = 0;
    for (const extent& size : table) {
      for (const engine& e : native_engines<T>()) {
        form f = all_forms[turn % std::size(all_forms)];
        if (turn % 4 == 3) f.shift = 1;
        weights<T> layer(size.n, size.k, f);
        request<T> r(layer, size.rows, static_cast<std::uint32_t>(turn));
        expect_product(e, r);
        ++turn;
      }
    }
  }

  TEST_CASE_TEMPLATE("block: 16-bit types without tensor cores give the product", T, fp16, bf16) {
    std::size_t turn = 0;
    for (const extent size : {extent{2, 3, 5}, extent{17, 33, 70}, extent{65, 40, 33}}) {
      for (const engine& e : block_engines<T>(engine::kind::scalar_block)) {
        weights<T> layer(size.n, size.k, all_forms[turn % std::size(all_forms)]);
        request<T> r(layer, size.rows, static_cast<std::uint32_t>(turn));
        expect_product(e, r);
        ++turn;
      }
    }
  }

  TEST_CASE_TEMPLATE("block: the pipeline wraps around its stages", T, float, bf16) {
    for (const engine& e : native_engines<T>()) {
      weights<T> layer(32, 584, all_forms[3]);
      request<T> r(layer, 16, 5);
      expect_product(e, r);
    }
  }

  TEST_CASE_TEMPLATE("block: a warp that falls behind reads nothing that the others overwrite", T, float, bf16) {
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

  TEST_CASE_TEMPLATE("block: tiles that follow one another in a pipeline give the bits of tiles on their own", T, float,
                     bf16) {
    constexpr std::size_t depths[] = {gemm::chained_depth + 74, gemm::chained_depth};
    for (const std::size_t k : some(depths)) {
      weights<T> layer(140, k, all_forms[3]);
      for (engine e : native_engines<T>()) {
        CAPTURE(static_cast<int>(e.which));
        CAPTURE(e.variant);
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
        run<T>(e, ops_of(apart));
        e.batch = 8;
        run<T>(e, ops_of(chained));
        for (std::size_t i = 0; i < 3; ++i) {
          CHECK(chained[i].same_bits(apart[i]));
          CHECK(chained[i].error() < tolerance<T>);
          CHECK(chained[i].y.guards_intact());
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("block: all tiles, aligned or not, give the same bits", T, float, bf16) {
    for (const extent size : {extent{18, 40, 72}, extent{9, 70, 42}}) {
      form f = all_forms[3];
      weights<T> layer(size.n, size.k, f);
      request<T> first(layer, size.rows, 7);
      run<T>({.which = native_block<T>, .variant = 0}, {first.op()});
      for (const std::size_t shift : {0, 3}) {
        f.shift = shift;
        weights<T> shifted(size.n, size.k, f);
        for (const engine& e : native_engines<T>()) {
          CAPTURE(shift);
          CAPTURE(e.variant);
          request<T> again(shifted, size.rows, 7);
          run<T>(e, {again.op()});
          CHECK(again.same_bits(first));
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("block: segments of K give the same bits walked by one block or shared by several, on every tile",
                     T, float, fp16, bf16) {
    constexpr extent table[] = {{19, 33, 801}, {1, 70, 768}, {130, 40, 1030}, {7, 21, 530}};
    for (const extent& size : some(table)) {
      weights<T> layer(size.n, size.k, all_forms[3]);
      request<T> first(layer, size.rows, 7);
      run<T>({.which = native_block<T>, .variant = 1}, {first.op()});
      CHECK(first.error() < tolerance<T>);
      for (engine e : native_engines<T>()) {
        const bool may_share = e.variant >= static_cast<int>(gemm::first_shared_variant) &&
                               e.variant < static_cast<int>(gemm::shared_variants_end<T>);
        for (const int way : {0, 1, 2}) {
          e.shared = way != 0;
          e.memory = way != 2;
          if (e.shared && !may_share) continue;
          CAPTURE(static_cast<int>(e.which));
          CAPTURE(e.variant);
          CAPTURE(way);
          CAPTURE(size.k);
          request<T> again(layer, size.rows, 7);
          run<T>(e, {again.op()});
          CHECK(again.same_bits(first));
          CHECK(again.y.guards_intact());
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("block: members with a residual in place share tiles and keep their bits", T, float, bf16) {
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
    for (auto& r : alone) run<T>({.which = native_block<T>, .variant = 0}, {in_place(r)});
    std::vector<ops::linear<T>> members;
    for (auto& r : together) members.push_back(in_place(r));
    run<T>({.which = native_block<T>, .variant = 1, .shared = true}, members);
    for (std::size_t i = 0; i < alone.size(); ++i) CHECK(together[i].same_bits(alone[i]));
  }

  TEST_CASE_TEMPLATE("block: parts of a tile on blocks that run at the same time end it once", T, float, bf16) {
    constexpr std::uint32_t depth = 1030;
    weights<T> layer(40, depth, all_forms[3]);
    request<T> first(layer, 6, 7);
    run<T>({.which = native_block<T>, .variant = 0}, {first.op()});
    const std::uint32_t parts = gemm::segments_of(40, depth);
    REQUIRE(parts == 4);
    std::vector<std::unique_ptr<emulator>> blocks;
    for (std::uint32_t i = 0; i < parts; ++i) blocks.push_back(std::make_unique<emulator>(gemm::block_scratch_bytes));
    exchange_memory exchange(64, 64);  // used again and again, as a slot's is
    for (int round = 0; round < 5; ++round) {
      request<T> again(layer, 6, 7);
      std::vector<ops::linear<T>> members{again.op()};
      ops::linear<T>::plan(members, {.workers = 64, .host = false});
      members[0].variant = gemm::first_shared_variant;
      members[0].parts = static_cast<std::uint8_t>(parts);
      const std::uint32_t tiles = gemm::block_tiles<T>(6, 40, gemm::first_shared_variant) * parts;
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

  TEST_CASE_TEMPLATE("host: any number of workers and any alignment give the same bits", T, float, fp16, bf16) {
    for (engine e : host_engines()) {
      for (const extent size : {extent{35, 272, 208}, extent{3, 300, 1100}, extent{2, 64, 64}}) {
        form f = all_forms[3];
        weights<T> layer(size.n, size.k, f);
        request<T> first(layer, size.rows, 7);
        e.workers = 1;
        run<T>(e, {first.op()});
        for (const std::size_t shift : {0, 1, 5}) {
          f.shift = shift;
          weights<T> shifted(size.n, size.k, f);
          for (const std::uint32_t workers : {2u, 64u}) {
            e.workers = workers;
            request<T> again(shifted, size.rows, 7);
            run<T>(e, {again.op()});
            CHECK(again.same_bits(first));
          }
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("host: an op's bits are the same alone and among 1, 7 and 63 others", T, float, fp16, bf16) {
    for (const engine& e : host_engines()) {
      for (const std::size_t others : {1u, 7u, 63u}) {
        for (const form& f : {all_forms[1], all_forms[3]}) {
          expect_company_changes_nothing<T>(e, e, f, {3, 50, 96}, others, others / 2);
          expect_company_changes_nothing<T>(e, e, f, {1, 33, 70}, others, others);
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("block: an op's bits are the same alone and among 1, 7 and 63 others", T, float, bf16) {
    int variant = 0;
    for (const std::size_t others : {1u, 7u, 63u}) {
      const engine alone{.which = native_block<T>, .variant = (variant + 1) % 3};
      const engine together{.which = native_block<T>, .variant = variant};
      expect_company_changes_nothing<T>(alone, together, all_forms[3], {3, 30, 40}, others, others / 2);
      ++variant;
    }
  }

  TEST_CASE_TEMPLATE("infinities and NaN of one member stay in its rows", T, float, bf16) {
    std::vector<engine> engines = host_engines();
    for (const engine& e : native_engines<T>()) engines.push_back(e);
    for (const engine& e : engines) {
      weights<T> layer(35, 43, {});
      request<T> clean(layer, 4, 1);
      run<T>(e, {clean.op()});
      request<T> wild(layer, 3, 2);
      request<T> after(layer, 3, 3);
      for (T& value : wild.x.span()) value = from_float<T>(std::numeric_limits<float>::infinity());
      std::copy_n(wild.x.data(), 3 * 43, after.x.data());
      wild.x.data()[50] = from_float<T>(std::numeric_limits<float>::quiet_NaN());
      request<T> beside(layer, 4, 1);
      run<T>(e, {wild.op(), beside.op(), after.op()});
      CHECK(beside.same_bits(clean));
      CHECK(std::isnan(to_float(wild.y.data()[35])));
    }
  }

  TEST_CASE_TEMPLATE("y may be the residual itself", T, float, bf16) {
    std::vector<engine> engines = host_engines();
    for (const engine& e : native_engines<T>()) engines.push_back(e);
    for (const engine& e : engines) {
      weights<T> layer(67, 40, all_forms[1]);
      request<T> apart(layer, 19, 1);
      run<T>(e, {apart.op()});
      request<T> in_place(layer, 19, 1);
      std::copy_n(in_place.residual.data(), 19 * 67, in_place.y.data());
      ops::linear<T> op = in_place.op();
      op.residual = op.y;
      REQUIRE(!op.check());
      run<T>(e, {op});
      CHECK(in_place.same_bits(apart));
      CHECK(in_place.y.guards_intact());
    }
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

  TEST_CASE("the host context runs the op with this processor's engine") {
    weights<float> layer(40, 64, all_forms[3]);
    request<float> direct(layer, 5, 1);
    run<float>({.isa = gemm::detect_host_isa()}, {direct.op()});
    request<float> through(layer, 5, 1);
    std::vector<ops::linear<float>> members{through.op()};
    const std::uint32_t tiles = ops::linear<float>::plan(members, {.workers = 2, .host = true});
    static_assert(ops::linear<float>::host_scratch_bytes >= sizeof(gemm::host_scratch));
    const auto scratch = std::make_unique<gemm::host_scratch>();
    host_context context(reinterpret_cast<std::byte*>(scratch.get()));
    for (std::uint32_t tile = 0; tile < tiles; ++tile) ops::linear<float>::run(context, members.data(), 1, tile);
    CHECK(through.same_bits(direct));
  }
}

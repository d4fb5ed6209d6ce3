// What ops rely on in a tile context, for the host's and for the emulated block's.
#include "ops_fixtures.hpp"

#include <cohort/ops/attention.hpp>
#include <cohort/ops/softmax.hpp>

#include <atomic>

using namespace ops_test;
namespace ops = cohort::ops;

namespace {

constexpr std::uint32_t counts[] = {0, 1, 2, 15, 16, 17, 31, 33, 64, 65, 127, 1000};

/// Runs `f(context)` once on a host thread, and once on each thread of an emulated block.
template <class F>
void everywhere(F f) {
  alignas(128) std::byte scratch[128];
  cohort::host_context host(scratch);
  f(host);
  block()([&](auto& context) { f(context); });
}

}  // namespace

TEST_CASE("for_each calls each index once, on teams and on groups") {
  for (const std::uint32_t count : counts) {
    std::vector<std::atomic<int>> by_team(count), by_group(count);
    std::atomic<int> groups{0}, blocks{0};
    everywhere([&](auto& context) {
      // Relaxed: the end of the run orders these before the checks.
      context.for_each(count, [&](std::uint32_t i) { by_team[i].fetch_add(1, std::memory_order_relaxed); });
      context.group().for_each(count, [&](std::uint32_t i) { by_group[i].fetch_add(1, std::memory_order_relaxed); });
      if (context.rank() == 0) blocks.fetch_add(1, std::memory_order_relaxed);
      if (context.group().rank() == 0) groups.fetch_add(1, std::memory_order_relaxed);
    });
    CHECK(blocks == 2);
    CHECK(groups == 3);
    for (std::uint32_t i = 0; i < count; ++i) {
      CHECK(by_team[i] == blocks);
      CHECK(by_group[i] == groups);
    }
  }
}

TEST_CASE("reductions give every thread one result, and nothing has the neutral one") {
  for (const std::uint32_t count : counts) {
    const auto x = random_values<float>(count, 5);
    double sum = 0.0, most = -std::numeric_limits<double>::infinity();
    for (const double value : x) {
      sum += value;
      most = std::max(most, value);
    }
    std::atomic<int> wrong{0};
    everywhere([&](auto& context) {
      const auto value = [&x](std::uint32_t i) { return static_cast<float>(x[i]); };
      const auto smaller = [](float a, float b) { return a < b ? a : b; };
      const auto good = [&](auto& team) {
        return std::abs(team.sum(count, value) - sum) < 1e-4 && team.max(count, value) == static_cast<float>(most) &&
               (count > 0 || team.reduce(count, 7.0f, value, smaller) == 7.0f);
      };
      auto&& group = context.group();
      // Relaxed: the end of the run orders it before the check.
      if (!good(context)) wrong.fetch_add(1, std::memory_order_relaxed);
      if (!good(group)) wrong.fetch_add(1, std::memory_order_relaxed);
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("the two instruction sets of a host context combine in the same order") {
  const auto x = random_values<float>(1000, 5);
  const auto value = [&x](std::uint32_t i) { return static_cast<float>(x[i]); };
  cohort::host_context context(nullptr);
  CHECK(context.sum(1000, value) == cohort::detail::host_reduce(1000, 0.0f, value, cohort::detail::add{}));
}

TEST_CASE("a barrier of the emulated block shows to all what was written before it, and scratch starts poisoned") {
  std::atomic<int> wrong{0};
  block().run(20, [&](auto& context, std::uint32_t tile) {
    auto* words = reinterpret_cast<std::uint32_t*>(context.scratch());
    // Relaxed: the end of the run orders it before the check.
    if (words[context.rank()] != 0xffffffffu) wrong.fetch_add(1, std::memory_order_relaxed);
    words[context.rank()] = tile + context.rank();
    context.sync();
    const std::uint32_t other = (context.rank() + 17) % context.size();
    if (words[other] != tile + other) wrong.fetch_add(1, std::memory_order_relaxed);
    auto* mine = reinterpret_cast<std::uint32_t*>(context.group().exchange());
    mine[context.group().rank()] = context.group_index();
    context.group().sync();
    if (mine[(context.group().rank() + 5) % context.group().size()] != context.group_index())
      wrong.fetch_add(1, std::memory_order_relaxed);
  });
  CHECK(wrong == 0);
}

TEST_CASE("ops run on blocks of any shape: 64 and 128 threads in groups of 32, 4 in groups of 1") {
  const guarded<float> x(random_values<float>(3 * 33 * 8, 1));
  guarded<float> shares(33 * 24), attended(33 * 8);
  const auto softmax = [&](std::span<float> y) { return ops::make_softmax<float>(x.view(), y, 33, 24); };
  const auto attention = [&](std::span<float> y) {
    return ops::make_packed_attention<float>(x.view(), y, {.tokens = 33, .heads = 1, .head_size = 8, .causal = true});
  };
  run(softmax(shares.span()), runner::host);
  run(attention(attended.span()), runner::host);
  const auto agrees = [](auto& emulator, auto make, const guarded<float>& expected) {
    guarded<float> y(expected.size());
    auto op = make(y.span());
    const std::uint32_t tiles = op.plan(std::span(&op, 1), {.workers = 1, .host = false});
    emulator.run(tiles, [&](auto& context, std::uint32_t tile) { op.run(context, &op, 1, tile); });
    CHECK(relative_error(y.values(), expected.values()) < 1e-6);
    CHECK(y.intact());
  };
  const auto on = [&](auto& emulator) {
    agrees(emulator, softmax, shares);
    agrees(emulator, attention, attended);
  };
  cohort::testing::block_emulator<64> usual;
  cohort::testing::block_emulator<128> large;
  cohort::testing::block_emulator<4, 1> odd;
  on(usual);
  on(large);
  on(odd);
}

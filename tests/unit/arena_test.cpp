// The arena against a model that knows nothing but intervals.
#include <cohort/arena.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <thread>
#include <vector>

namespace {

using cohort::arena;

// An address that nothing may be read from: an arena over a device's memory has no other.
// NOLINTNEXTLINE(performance-no-int-to-ptr)
void* const untouchable = reinterpret_cast<void*>(std::uintptr_t{0x7000'0000'0000});

std::uintptr_t address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

std::size_t round_up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }

/// What is in use, and by exhaustive search what could be.
class model {
public:
  model(std::uintptr_t begin, std::uintptr_t end) : begin_(begin), end_(end) {}

  void add(std::uintptr_t at, std::size_t bytes) { used_[at] = bytes; }
  void remove(std::uintptr_t at) { used_.erase(at); }

  bool is_free(std::uintptr_t at, std::size_t bytes) const {
    if (at < begin_ || at + bytes > end_) return false;
    return std::none_of(used_.begin(), used_.end(),
                        [&](const auto& block) { return at < block.first + block.second && block.first < at + bytes; });
  }

  /// Size of the smallest gap in which such a block fits, 0 when there is none.
  std::size_t best_gap(std::size_t bytes, std::size_t alignment) const {
    std::size_t best = 0;
    for_each_gap([&](std::uintptr_t from, std::uintptr_t to) {
      if (round_up(from, alignment) + bytes <= to && (best == 0 || to - from < best)) best = to - from;
    });
    return best;
  }

  std::size_t gap_around(std::uintptr_t at) const {
    std::size_t found = 0;
    for_each_gap([&](std::uintptr_t from, std::uintptr_t to) {
      if (from <= at && at < to) found = to - from;
    });
    return found;
  }

  std::size_t largest_gap() const {
    std::size_t largest = 0;
    for_each_gap([&](std::uintptr_t from, std::uintptr_t to) { largest = std::max<std::size_t>(largest, to - from); });
    return largest;
  }

  std::size_t in_use() const {
    std::size_t sum = 0;
    for (const auto& [at, bytes] : used_) sum += bytes;
    return sum;
  }

  std::size_t size() const { return used_.size(); }

private:
  template <class F>
  void for_each_gap(F f) const {
    std::uintptr_t from = begin_;
    for (const auto& [at, bytes] : used_) {
      if (at > from) f(from, at);
      from = at + bytes;
    }
    if (end_ > from) f(from, end_);
  }

  std::uintptr_t begin_;
  std::uintptr_t end_;
  std::map<std::uintptr_t, std::size_t> used_;
};

}  // namespace

TEST_CASE("random requests get what the model says: best fit, aligned, disjoint, merged when returned") {
  for (std::uint32_t seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    constexpr std::size_t granularity = 256;
    constexpr std::size_t size = 1 << 18;
    arena tested(untouchable, size, granularity);
    model expected(address(untouchable), address(untouchable) + size);
    std::vector<void*> held;
    std::size_t high_water = 0;
    std::size_t refused = 0;
    for (int step = 0; step < 4000; ++step) {
      // The share of requests swings, so that the arena fills up and empties again.
      const bool request = held.empty() || random() % 100 < (step / 500 % 2 == 0 ? 65u : 40u);
      if (request) {
        const std::size_t bytes = 1 + random() % (random() % 8 == 0 ? 20'000 : 1'500);
        const std::size_t alignment = std::size_t{1} << (random() % 14);
        const std::size_t gap = expected.best_gap(round_up(bytes, granularity), std::max(alignment, granularity));
        void* got = tested.allocate(bytes, alignment);
        REQUIRE((got != nullptr) == (gap != 0));
        if (got == nullptr) {
          ++refused;
          continue;
        }
        REQUIRE(address(got) % std::max(alignment, granularity) == 0);
        REQUIRE(expected.is_free(address(got), round_up(bytes, granularity)));
        REQUIRE(expected.gap_around(address(got)) == gap);
        REQUIRE(tested.block_bytes(got) == round_up(bytes, granularity));
        expected.add(address(got), round_up(bytes, granularity));
        held.push_back(got);
      } else {
        std::swap(held[random() % held.size()], held.back());
        void* const returned = held.back();
        held.pop_back();
        REQUIRE(tested.deallocate(returned));
        REQUIRE_FALSE(tested.deallocate(returned));
        expected.remove(address(returned));
      }
      high_water = std::max(high_water, expected.in_use());
      const auto statistics = tested.statistics();
      REQUIRE(statistics.in_use == expected.in_use());
      REQUIRE(statistics.largest_free == expected.largest_gap());
      REQUIRE(statistics.blocks_in_use == expected.size());
      REQUIRE(statistics.high_water == high_water);
    }
    CHECK(refused > 0);  // else the arena never was full, and the test is too easy
    for (void* each : held) REQUIRE(tested.deallocate(each));
    const auto statistics = tested.statistics();
    CHECK(statistics.in_use == 0);
    CHECK(statistics.blocks_in_use == 0);
    CHECK(statistics.largest_free == size);
    CHECK(tested.allocate(size) == untouchable);
  }
}

TEST_CASE("pointers that are not blocks in use are refused and change nothing") {
  arena tested(untouchable, 1 << 16);
  void* const first = tested.allocate(1000);
  void* const second = tested.allocate(1000);
  REQUIRE(first != nullptr);
  REQUIRE(second != nullptr);
  int foreign = 0;
  CHECK_FALSE(tested.deallocate(nullptr));
  CHECK_FALSE(tested.deallocate(&foreign));
  CHECK_FALSE(tested.deallocate(static_cast<char*>(first) + 256));
  CHECK(tested.block_bytes(static_cast<char*>(first) + 256) == 0);
  CHECK(tested.deallocate(first));
  CHECK_FALSE(tested.deallocate(first));
  CHECK(tested.block_bytes(first) == 0);
  CHECK(tested.statistics().in_use == 1024);
  CHECK(tested.deallocate(second));
}

TEST_CASE("requests that make no sense get null") {
  arena tested(untouchable, 1 << 16);
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  CHECK(tested.allocate(0) == nullptr);
  CHECK(tested.allocate(16, 0) == nullptr);
  CHECK(tested.allocate(16, 48) == nullptr);
  CHECK(tested.allocate(most) == nullptr);
  CHECK(tested.allocate(most - 255) == nullptr);
  CHECK(tested.allocate((1 << 16) + 1) == nullptr);
  CHECK(tested.allocate(16, std::size_t{1} << 63) == nullptr);
  CHECK(tested.statistics().blocks_in_use == 0);
  CHECK(tested.allocate(1 << 16) == untouchable);
}

TEST_CASE("an arena uses only whole granules of what it was given") {
  arena crooked(static_cast<char*>(untouchable) + 1, 1000);
  CHECK(crooked.statistics().capacity == 512);
  CHECK(crooked.allocate(512) == static_cast<char*>(untouchable) + 256);
  CHECK(crooked.allocate(1) == nullptr);

  for (const std::size_t size : {std::size_t{0}, std::size_t{100}, std::size_t{255}}) {
    arena small(static_cast<char*>(untouchable) + 1, size);
    CHECK(small.statistics().capacity == 0);
    CHECK(small.allocate(1) == nullptr);
  }
  arena nothing(nullptr, 0);
  CHECK(nothing.allocate(1) == nullptr);
  CHECK_FALSE(nothing.deallocate(nullptr));
}

TEST_CASE("threads that share an arena never hold the same memory") {
  arena tested(untouchable, 1 << 20);
  std::vector<std::vector<std::pair<void*, std::size_t>>> held(4);
  std::vector<int> failed(4, 0);
  {
    std::vector<std::thread> threads;
    threads.reserve(held.size());
    for (std::size_t me = 0; me < held.size(); ++me) {
      threads.emplace_back([&, me] {
        std::mt19937 random(static_cast<std::uint32_t>(me));
        for (int step = 0; step < 3000; ++step) {
          if (held[me].size() < 50 && random() % 2 == 0) {
            const std::size_t bytes = 1 + random() % 3000;
            if (void* got = tested.allocate(bytes)) held[me].emplace_back(got, bytes);
          } else if (!held[me].empty()) {
            std::swap(held[me][random() % held[me].size()], held[me].back());
            if (!tested.deallocate(held[me].back().first)) ++failed[me];
            held[me].pop_back();
          }
        }
      });
    }
    for (auto& each : threads) each.join();
  }
  CHECK(failed == std::vector<int>(4, 0));
  model all(address(untouchable), address(untouchable) + (1 << 20));
  for (const auto& mine : held) {
    for (const auto& [at, bytes] : mine) {
      REQUIRE(all.is_free(address(at), round_up(bytes, 256)));
      all.add(address(at), round_up(bytes, 256));
    }
  }
  CHECK(tested.statistics().in_use == all.in_use());
  CHECK(tested.statistics().blocks_in_use == all.size());
}

TEST_CASE("what is returned while work runs is free when all of that work is complete, in whatever order blocks came") {
  cohort::arena tested(untouchable, 1 << 16);
  const auto in_use = [&] { return tested.statistics().blocks_in_use; };
  void* const a = tested.allocate(256);
  void* const b = tested.allocate(256);
  void* const c = tested.allocate(256);
  void* const d = tested.allocate(256);
  tested.hold_back(1, 0);
  CHECK(tested.deallocate(b));
  CHECK_FALSE(tested.deallocate(b));  // returned is returned
  CHECK(tested.block_bytes(b) == 0);
  CHECK(in_use() == 4);
  tested.hold_back(2, 0);
  CHECK(tested.deallocate(a));
  tested.hold_back(3, 1);
  CHECK(in_use() == 3);
  CHECK(tested.deallocate(c));
  CHECK(tested.allocate(256) == b);
  CHECK(tested.deallocate(b));
  tested.hold_back(3, 2);
  CHECK(in_use() == 3);
  std::vector<std::pair<void*, std::size_t>> freed;
  tested.hold_back(3, 3, [&](void* block, std::size_t bytes) { freed.emplace_back(block, bytes); });
  CHECK(freed == std::vector<std::pair<void*, std::size_t>>{{c, 256}, {b, 256}});
  CHECK(tested.deallocate(d, [&](void* block, std::size_t bytes) { freed.emplace_back(block, bytes); }));
  CHECK(freed.back() == std::pair<void*, std::size_t>{d, 256});
  CHECK(in_use() == 0);
  CHECK(tested.allocate(1 << 16) == untouchable);
}

// The queue against a sorted set, for elements that come in order, in none, and nearly in order.
#include <cohort/schedule/mostly_sorted_queue.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <deque>
#include <iterator>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace {

struct element {
  explicit element(std::pair<int, int> rank) : rank(rank) {}
  cohort::detail::heap_links<element> links;
  std::pair<int, int> rank;
};

struct by_rank {
  bool operator()(const element& a, const element& b) const noexcept { return a.rank < b.rank; }
};

struct pointers_by_rank {
  bool operator()(const element* a, const element* b) const noexcept { return a->rank < b->rank; }
};

using queue = cohort::detail::mostly_sorted_queue<element, &element::links, by_rank>;

}  // namespace

TEST_CASE("the front is the least of those inside, whatever the order in which they come and go") {
  for (const int disorder : {0, 3, 1'000'000}) {
    CAPTURE(disorder);
    for (unsigned seed = 1; seed <= 20; ++seed) {
      CAPTURE(seed);
      std::mt19937 dice(seed);
      queue tested;
      std::deque<element> memory;
      std::set<element*, pointers_by_rank> inside;
      std::vector<element*> outside;
      for (int step = 0; step < 4'000; ++step) {
        if (inside.empty() || dice() % 8 < 5) {
          const int rank = step + static_cast<int>(dice() % (static_cast<unsigned>(disorder) + 1));
          element* one = nullptr;
          if (!outside.empty() && dice() % 2 == 0) {  // one that was inside may come again
            one = outside.back();
            outside.pop_back();
            one->rank = {rank, step};
          } else {
            one = &memory.emplace_back(std::pair{rank, step});
          }
          tested.insert(*one);
          inside.insert(one);
        } else {
          auto at = inside.begin();
          if (dice() % 4 == 0) std::advance(at, static_cast<std::ptrdiff_t>(dice() % inside.size()));
          tested.erase(**at);
          outside.push_back(*at);
          inside.erase(at);
        }
        REQUIRE(tested.empty() == inside.empty());
        REQUIRE(tested.front() == (inside.empty() ? nullptr : *inside.begin()));
      }
      while (element* const one = tested.front()) {
        REQUIRE(one == *inside.begin());
        inside.erase(inside.begin());
        tested.erase(*one);
      }
      CHECK(inside.empty());
      CHECK(tested.empty());
    }
  }
}

TEST_CASE("one that is erased next may have another rank already") {
  queue tested;
  std::deque<element> all;
  for (int i = 0; i < 5; ++i) tested.insert(all.emplace_back(std::pair{i, 0}));
  tested.insert(all.emplace_back(std::pair{-1, 0}));  // out of order
  for (element* const one : {&all[0], &all[5]}) {
    one->rank = {100, 0};
    tested.erase(*one);
    tested.insert(*one);
  }
  CHECK(tested.front() == &all[1]);
}

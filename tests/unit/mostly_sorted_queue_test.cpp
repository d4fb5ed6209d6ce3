// The queue against a sorted set, for elements that come in order, in none, and nearly in order.
#include <cohort/schedule/mostly_sorted_queue.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace {

struct element {
  explicit element(std::pair<int, int> turn) : turn(turn) {}
  cohort::detail::queue_links<element> order{};
  std::uint32_t place = 0;
  std::pair<int, int> turn;
};

struct pointers_by_turn {
  bool operator()(const element* a, const element* b) const noexcept { return a->turn < b->turn; }
};

using queue = cohort::detail::mostly_sorted_queue<element>;

}  // namespace

TEST_CASE("the front is the least of those inside, whatever the order in which they come and go") {
  for (const int disorder : {0, 3, 1'000'000}) {
    CAPTURE(disorder);
    for (unsigned seed = 1; seed <= 20; ++seed) {
      CAPTURE(seed);
      std::mt19937 dice(seed);
      queue tested;
      std::deque<element> memory;
      std::set<element*, pointers_by_turn> inside;
      std::vector<element*> outside;
      for (int step = 0; step < 4'000; ++step) {
        if (inside.empty() || dice() % 8 < 5) {
          const int rank = step + static_cast<int>(dice() % (static_cast<unsigned>(disorder) + 1));
          element* one = nullptr;
          if (!outside.empty() && dice() % 2 == 0) {  // one that was inside may come again
            one = outside.back();
            outside.pop_back();
            one->turn = {rank, step};
          } else {
            one = &memory.emplace_back(std::pair{rank, step});
          }
          tested.reserve_one();
          if (inside.empty() && dice() % 2 == 0) {
            tested.insert_first(*one);
          } else {
            tested.insert(*one);
          }
          inside.insert(one);
        } else {
          auto at = inside.begin();
          if (dice() % 4 == 0) std::advance(at, static_cast<std::ptrdiff_t>(dice() % inside.size()));
          element& one = **at;
          inside.erase(at);
          if (dice() % 4 == 0) {
            tested.rerank(one, std::pair{one.turn.first + static_cast<int>(dice() % 200) - 100, step});
            inside.insert(&one);
          } else {
            if (inside.empty() && dice() % 2 == 0) {
              tested.erase_last(one);
            } else if (tested.front() == &one && dice() % 2 == 0) {
              tested.erase_front(one);
            } else {
              tested.erase(one);
            }
            outside.push_back(&one);
          }
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
  tested.reserve(6);
  for (int i = 0; i < 5; ++i) tested.insert(all.emplace_back(std::pair{i, 0}));
  tested.insert(all.emplace_back(std::pair{-1, 0}));  // out of order
  for (element* const one : {&all[0], &all[5]}) {
    one->turn = {100, 0};
    tested.erase(*one);
    tested.insert(*one);
  }
  CHECK(tested.front() == &all[1]);
}

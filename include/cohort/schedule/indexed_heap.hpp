// A priority queue that keeps its keys together, for many elements that are spread over memory.
#pragma once

#include <cohort/config.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace cohort::inline COHORT_ABI::detail {

/// For a heap whose elements are near anyway.
struct ignore_approach {
  template <class T>
  void operator()(const T&, int) const noexcept {}
};

/// A heap with four children to a node in one array of keys and addresses; each element knows its place there. Elements
/// are written to when they move, which nobody waits for, and not read: where links in thousands of elements make the
/// heap, each of the ten or so that are compared for the next front is a cache miss.
///
/// \tparam PlaceOf a functor that gives a reference to the `std::uint32_t` of an element that is the heap's while it is
///         inside
/// \tparam KeyOf a functor that gives an element's key, by value; it is asked when the element is inserted. Keys have a
///         strict order `<`
/// \tparam Approach a functor that is called with an element and 2 or 1 when it has come so near to the front because
///         another left: for whoever can fetch early what is needed at its turn
///
/// `insert` takes O(1) for keys in no order, `erase` O(log n), `front` O(1).
template <class T, class PlaceOf, class KeyOf, class Approach = ignore_approach>
class indexed_heap {
public:
  T* front() const noexcept { return nodes_.empty() ? nullptr : nodes_.front().element; }
  bool empty() const noexcept { return nodes_.empty(); }

  /// Makes room for `count` elements. Strong guarantee.
  void reserve(std::size_t count) {
    if (count > nodes_.capacity()) nodes_.reserve(count);
  }
  void reserve_one() {
    if (nodes_.size() == nodes_.capacity()) nodes_.reserve(2 * nodes_.size() + 16);
  }

  /// Fetches those among whom the next front but one is.
  void prefetch_next() const noexcept {
    const std::size_t end = std::min(nodes_.size(), children + 1);
    for (std::size_t i = 1; i < end; ++i) __builtin_prefetch(nodes_[i].element, 1);
  }

  /// Fetches what the erasure of an element looks at first.
  void prefetch(T& one) const noexcept {
    const std::size_t at = PlaceOf()(one);
    __builtin_prefetch(&nodes_[at], 1);
    if (at > 0) __builtin_prefetch(&nodes_[above(at)]);
    __builtin_prefetch(nodes_.data() + children * at + 1);
  }

  // Not inlined: whoever tries it seldom needs it, and wants to be small.

  /// Does not allocate. Precondition: there is room for it.
  [[gnu::noinline]] void insert(T& one) noexcept {
    nodes_.push_back({});
    rise(nodes_.size() - 1, {KeyOf()(one), &one});
  }

  [[gnu::noinline]] void erase(T& one) noexcept {
    const std::size_t hole = PlaceOf()(one);
    const node last = nodes_.back();
    nodes_.pop_back();
    if (hole < nodes_.size()) place(hole, last);
  }

  /// Puts an element where it belongs whose key has changed.
  [[gnu::noinline]] void update(T& one) noexcept { place(PlaceOf()(one), {KeyOf()(one), &one}); }

private:
  using key_type = decltype(KeyOf()(*static_cast<const T*>(nullptr)));

  struct node {
    key_type key{};
    T* element = nullptr;
  };

  static constexpr std::size_t children = 4;
  static std::size_t above(std::size_t at) noexcept { return (at - 1) / children; }

  void put(std::size_t at, const node& one) noexcept {
    nodes_[at] = one;
    PlaceOf()(*one.element) = static_cast<std::uint32_t>(at);
  }

  /// Places `one`, for which there is a hole at `at`.
  void place(std::size_t at, const node& one) noexcept {
    if (at > 0 && one.key < nodes_[above(at)].key) {
      rise(at, one);
    } else {
      sink(at, one);
    }
  }

  /// The same, there or nearer to the front.
  void rise(std::size_t at, const node& one) noexcept {
    while (at > 0 && one.key < nodes_[above(at)].key) {
      put(at, nodes_[above(at)]);
      at = above(at);
    }
    put(at, one);
  }

  /// The same, there or farther from the front.
  void sink(std::size_t at, const node& one) noexcept {
    const std::size_t size = nodes_.size();
    for (std::size_t first = children * at + 1; first < size; first = children * at + 1) {
      std::size_t least = first;
      const std::size_t end = std::min(first + children, size);
      for (std::size_t i = first + 1; i < end; ++i) {
        if (nodes_[i].key < nodes_[least].key) least = i;
      }
      if (!(nodes_[least].key < one.key)) break;
      put(at, nodes_[least]);
      if (at > 0 && at <= children + children * children) Approach()(*nodes_[least].element, at <= children ? 1 : 2);
      at = least;
    }
    put(at, one);
  }

  std::vector<node> nodes_;
};

}  // namespace cohort::inline COHORT_ABI::detail

// A priority queue whose links live in its elements: nothing is allocated, and an element may leave from anywhere.
#pragma once

#include <cohort/config.hpp>

namespace cohort::inline COHORT_ABI::detail {

/// What an element of a `pairing_heap` carries for it.
template <class T>
struct heap_links {
  T* child;
  T* next;      ///< sibling
  T* previous;  ///< sibling before it, or the parent of a first child
};

/// \tparam Before a strict order of elements; what it reads must not change while they are inside
///
/// `insert` and `front` are O(1), `pop` and `erase` O(log n) amortised (Fredman, Sedgewick, Sleator and Tarjan, 1986).
/// An element that has collected no children, as one that leaves before its turn seldom has, is erased in O(1).
template <class T, heap_links<T> T::* Links, class Before>
class pairing_heap {
public:
  T* front() const noexcept { return root_; }
  bool empty() const noexcept { return root_ == nullptr; }

  void insert(T& one) noexcept {
    one.*Links = {};
    root_ = root_ == nullptr ? &one : meld(root_, &one);
  }

  void erase(T& one) noexcept {
    T* const rest = combine((one.*Links).child);
    if (root_ == &one) {
      root_ = rest;
    } else {
      unlink(one);
      if (rest != nullptr) root_ = meld(root_, rest);
    }
    one.*Links = {};
  }

private:
  static T* meld(T* a, T* b) noexcept {
    if (Before()(*b, *a)) {
      T* const lower = a;
      a = b;
      b = lower;
    }
    auto& parent = a->*Links;
    auto& child = b->*Links;
    child.next = parent.child;
    child.previous = a;
    if (parent.child != nullptr) (parent.child->*Links).previous = b;
    parent.child = b;
    return a;
  }

  static void unlink(T& one) noexcept {
    auto& links = one.*Links;
    auto& before = links.previous->*Links;
    (before.child == &one ? before.child : before.next) = links.next;
    if (links.next != nullptr) (links.next->*Links).previous = links.previous;
  }

  /// Melds siblings in pairs from left to right, then the pairs from right to left: that is what bounds the cost.
  static T* combine(T* first) noexcept {
    T* pairs = nullptr;
    while (first != nullptr) {
      T* const a = first;
      T* const b = (a->*Links).next;
      first = b == nullptr ? nullptr : (b->*Links).next;
      (a->*Links).next = nullptr;
      T* pair = a;
      if (b != nullptr) {
        (b->*Links).next = nullptr;
        pair = meld(a, b);
      }
      (pair->*Links).next = pairs;
      pairs = pair;
    }
    T* all = nullptr;
    while (pairs != nullptr) {
      T* const one = pairs;
      pairs = (one->*Links).next;
      (one->*Links).next = nullptr;
      all = all == nullptr ? one : meld(all, one);
    }
    if (all != nullptr) (all->*Links).previous = nullptr;
    return all;
  }

  T* root_ = nullptr;
};

}  // namespace cohort::inline COHORT_ABI::detail

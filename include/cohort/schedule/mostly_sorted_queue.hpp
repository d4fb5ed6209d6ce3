// A priority queue for elements that mostly come in order. Its links live in its elements, as those of the heap that it
// falls back on. Private to the schedule floor.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/pairing_heap.hpp>

namespace cohort::inline COHORT_ABI::detail {

/// Whoever is not before the last of a sorted list is appended to it; the others go to a heap. What arrives in order
/// costs a list's links and one comparison, and whoever leaves the list touches its neighbours alone.
///
/// \tparam Before a strict order of elements; what it reads must not change while they are inside, but for that of one
///         which is erased next
///
/// `insert` and `front` are O(1), `erase` as in `pairing_heap` for those that came out of order and else O(1).
template <class T, heap_links<T> T::* Links, class Before>
class mostly_sorted_queue {
public:
  T* front() const noexcept {
    T* const stray = strays_.front();
    if (stray == nullptr) return first_;
    return first_ == nullptr || Before()(*stray, *first_) ? stray : first_;
  }

  bool empty() const noexcept { return first_ == nullptr && strays_.empty(); }

  void insert(T& one) noexcept {
    if (last_ != nullptr && Before()(one, *last_)) return strays_.insert(one);
    auto& links = one.*Links;
    links.child = &one;  // the mark of the list: no element of a heap is its own child
    links.next = nullptr;
    links.previous = last_;
    (last_ != nullptr ? (last_->*Links).next : first_) = &one;
    last_ = &one;
  }

  void erase(T& one) noexcept {
    const auto& links = one.*Links;
    if (links.child != &one) return strays_.erase(one);
    (links.previous != nullptr ? (links.previous->*Links).next : first_) = links.next;
    (links.next != nullptr ? (links.next->*Links).previous : last_) = links.previous;
  }

private:
  T* first_ = nullptr;  // of the sorted list
  T* last_ = nullptr;
  pairing_heap<T, Links, Before> strays_;
};

}  // namespace cohort::inline COHORT_ABI::detail

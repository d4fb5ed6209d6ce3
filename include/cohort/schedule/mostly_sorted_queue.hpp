// A priority queue for elements that mostly come in order. Private to the schedule floor.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/indexed_heap.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>

namespace cohort::inline COHORT_ABI::detail {

/// What an element of a `mostly_sorted_queue` carries for it, as `order`.
template <class T>
struct queue_links {
  T* next;
  T* previous;
};

/// Whoever is not before the last of a sorted list is appended to it; the others go to a heap. What arrives in order
/// costs a list's links and one comparison, and whoever leaves the list touches its neighbours alone. What comes out of
/// order costs what it costs in an `indexed_heap`.
///
/// An element is ranked by its member `turn`, which must not change while it is inside, but for that of one which is
/// erased next. Its members `order` (`queue_links`) and `place` (`std::uint32_t`) are the queue's.
/// \tparam Approach as that of `indexed_heap`
template <class T, class Approach = ignore_approach>
class mostly_sorted_queue {
public:
  T* front() const noexcept {
    if (!any_strays_) [[likely]]
      return first_;
    T* const stray = strays_->front();
    return first_ == nullptr || stray->turn < first_->turn ? stray : first_;
  }

  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }

  /// Fetches those among whom the next front but one is.
  void prefetch_next() const noexcept {
    if (first_ != nullptr && first_->order.next != nullptr) __builtin_prefetch(first_->order.next, 1);
    if (any_strays_) strays_->prefetch_next();
  }

  /// Makes room for `count` elements. Strong guarantee.
  void reserve(std::size_t count) {
    if (count > std::size_t{1} << room_) [[unlikely]]
      grow(count);
  }
  void reserve_one() {
    if (size_ >> room_ != 0) [[unlikely]]
      grow(std::size_t{size_} + 1);
  }

  /// Does not allocate. Precondition: there is room for it.
  void insert(T& one) noexcept {
    ++size_;
    if (last_ != nullptr && one.turn < last_->turn) {
      any_strays_ = true;
      return strays_->insert(one);
    }
    one.place = listed;
    one.order = {nullptr, last_};
    (last_ != nullptr ? last_->order.next : first_) = &one;
    last_ = &one;
  }

  /// As `insert`, into an empty queue.
  void insert_first(T& one) noexcept {
    size_ = 1;
    one.place = listed;
    one.order = {nullptr, nullptr};
    first_ = last_ = &one;
  }

  /// As `erase`, of the only element.
  void erase_last(T& one) noexcept {
    if (one.place != listed) [[unlikely]]
      return erase(one);
    size_ = 0;
    first_ = last_ = nullptr;
  }

  /// As `erase`, of the front.
  void erase_front(T& one) noexcept {
    if (one.place != listed) [[unlikely]]
      return erase(one);
    --size_;
    first_ = one.order.next;
    (first_ != nullptr ? first_->order.previous : last_) = nullptr;
  }

  void erase(T& one) noexcept {
    --size_;
    if (one.place != listed) {
      strays_->erase(one);
      any_strays_ = !strays_->empty();
      return;
    }
    (one.order.previous != nullptr ? one.order.previous->order.next : first_) = one.order.next;
    (one.order.next != nullptr ? one.order.next->order.previous : last_) = one.order.previous;
  }

  /// As erased, ranked and inserted.
  template <class Turn>
  void rerank(T& one, const Turn& turn) noexcept {
    if (one.place != listed) {
      one.turn = turn;
      return strays_->update(one);
    }
    erase(one);
    one.turn = turn;
    insert(one);
  }

private:
  static constexpr std::uint32_t listed = std::numeric_limits<std::uint32_t>::max();  // no place in a heap

  struct turn_of {
    auto operator()(const T& one) const noexcept { return one.turn; }
  };
  struct place_of {
    std::uint32_t& operator()(T& one) const noexcept { return one.place; }
  };
  using heap = indexed_heap<T, place_of, turn_of, Approach>;

  void grow(std::size_t count) {
    if (strays_ == nullptr) strays_ = std::make_unique<heap>();
    const auto room = static_cast<std::uint8_t>(std::bit_width(count));  // to spare: it grows seldom
    strays_->reserve(std::size_t{1} << room);
    room_ = room;
  }

  T* first_ = nullptr;  // of the sorted list
  T* last_ = nullptr;
  std::unique_ptr<heap> strays_{};
  std::uint32_t size_ = 0;
  bool any_strays_ = false;
  std::uint8_t room_ = 0;  // for so many, as a power of two; one alone is always in order
};

}  // namespace cohort::inline COHORT_ABI::detail

// Two lists without storage of their own, for whatever carries the links: a doubly linked one to unlink from the middle
// of, and a singly linked chain to hand a batch over in. Private to the schedule floor.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/submission.hpp>

#include <cassert>

namespace cohort::inline COHORT_ABI::detail {

/// Doubly linked through two members of the node. A node that is in no list has null links, which `push_back` and
/// `erase` assert and restore: a node linked twice is found in Debug builds.
template <class Node, Node* Node::* Previous, Node* Node::* Next>
class intrusive_list {
public:
  intrusive_list() = default;
  intrusive_list(const intrusive_list&) = delete;
  intrusive_list& operator=(const intrusive_list&) = delete;

  bool empty() const noexcept { return first_ == nullptr; }
  Node* front() const noexcept { return first_; }

  void push_back(Node& node) noexcept {
    assert(node.*Previous == nullptr && node.*Next == nullptr && first_ != &node);
    node.*Previous = last_;
    (last_ != nullptr ? last_->*Next : first_) = &node;
    last_ = &node;
  }

  void erase(Node& node) noexcept {
    Node* const before = node.*Previous;
    Node* const after = node.*Next;
    assert((before != nullptr || first_ == &node) && (after != nullptr || last_ == &node));
    (before != nullptr ? before->*Next : first_) = after;
    (after != nullptr ? after->*Previous : last_) = before;
    node.*Previous = nullptr;
    node.*Next = nullptr;
  }

private:
  Node* first_ = nullptr;
  Node* last_ = nullptr;
};

/// Submissions linked by `next` alone, in the order in which they were appended.
struct submission_chain {
  submission* first = nullptr;
  submission* last = nullptr;

  void push_back(submission& one) noexcept {
    one.next = nullptr;
    (last != nullptr ? last->next : first) = &one;
    last = &one;
  }

  void append(submission_chain& other) noexcept {
    if (other.first == nullptr) return;
    (last != nullptr ? last->next : first) = other.first;
    last = other.last;
    other.first = other.last = nullptr;
  }

  submission* release() noexcept {
    submission* const chain = first;
    first = last = nullptr;
    return chain;
  }
};

}  // namespace cohort::inline COHORT_ABI::detail

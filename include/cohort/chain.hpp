// Chains: ops of which each needs what the one before it wrote, submitted as one. Their order is kept on the device, so
// that nothing returns to the host between them, and each still shares packets with whatever else is pending.
#pragma once

#include <cohort/config.hpp>
#include <cohort/detail/request.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/submission.hpp>

#include <cstddef>
#include <cstring>
#include <vector>

namespace cohort::inline COHORT_ABI {

namespace detail {
template <class Ops>
class chain_request;
}

/// Ops of the set `Ops` in their order, by value. `executor::submit` takes one by reference: it must live, and must not
/// be changed, copied or submitted again, until the submission has completed; then it may be submitted again, and costs
/// neither memory nor another look at its ops. A submission that was cancelled or timed out has completed when its
/// waiter is told.
///
/// Each op is coalesced as if it had been submitted by itself when the one before it left for the device; the latency
/// target of the tenant, and a deadline, are for the whole. The first error ends the chain, and is its result; what has
/// run by then has written its outputs.
///
/// Thread-safety: none; distinct chains are independent.
template <class Ops>
class chain {
public:
  /// Appends an op, which is checked here: the first error is what a submission of the chain ends with, before anything
  /// of it runs.
  template <class Op>
  chain& then(const Op& op) {
    static_assert(Ops::template contains<Op>, "this op is not in the chain's op_set: add it to the list");
    link& one = links_.emplace_back();
    std::memcpy(one.op, &op, sizeof(Op));
    detail::describe<Ops>(one.node, *reinterpret_cast<const Op*>(one.op));
    if (!wrong_.failed()) wrong_ = detail::check(op);
    return *this;
  }

  std::size_t size() const noexcept { return links_.size(); }
  bool empty() const noexcept { return links_.empty(); }
  void reserve(std::size_t ops) { links_.reserve(ops); }

  /// Takes all ops out.
  void clear() noexcept {
    links_.clear();
    wrong_ = {};
  }

  /// The first error that the check of an op found.
  const error_code& check() const noexcept { return wrong_; }

  /// Whether it was submitted, and has not completed.
  bool in_use() const noexcept { return in_use_; }

private:
  friend class detail::chain_request<Ops>;

  struct alignas(64) link {
    submission node{};
    alignas(16) std::byte op[Ops::largest_stride];
  };

  /// `last` becomes the submission of the last op, behind the others.
  error_code begin(submission& last) noexcept {
    if (in_use_) return errc::chain_in_use;
    if (wrong_.failed() || links_.empty()) return wrong_;
    in_use_ = true;
    if (!are_linked()) link_all();
    const link& described = links_.back();
    last.op = described.op;
    last.op_bytes = described.node.op_bytes;
    last.op_index = described.node.op_index;
    last.rows = described.node.rows;
    last.key = described.node.key;
    last.cost = described.node.cost;
    last.home = described.node.home;
    const bool alone = links_.size() == 1;
    last.follower = alone ? nullptr : &links_.front().node;
    if (!alone) links_[links_.size() - 2].node.follower = &last;
    return {};
  }

  /// After `begin`: `last` was told.
  void end(const submission& last) noexcept {
    if (!links_.empty()) links_.back().node.home = last.home;
    in_use_ = false;
  }

  /// Whether all that lie here now have been told of each other here: not when ops were appended, nor when they lie
  /// elsewhere since, as those of a copy do.
  bool are_linked() const noexcept {
    const link& first = links_.front();
    return first.node.op == first.op && first.node.followers + 1 == links_.size();
  }

  void link_all() noexcept {
    for (std::size_t i = 0; i + 1 < links_.size(); ++i) {
      links_[i].node.op = links_[i].op;
      links_[i].node.follower = &links_[i + 1].node;
      links_[i].node.followers = static_cast<std::uint32_t>(links_.size() - 1 - i);
    }
  }

  std::vector<link> links_;
  error_code wrong_{};
  bool in_use_ = false;
};

namespace detail {

template <class Ops>
class chain_request {
public:
  explicit chain_request(chain<Ops>& all) noexcept : all_(&all) {}

  static constexpr void describe(submission&) noexcept {}
  error_code begin(submission& one) noexcept {
    const error_code wrong = all_->begin(one);
    began_ = !wrong.failed();
    return wrong;
  }
  bool is_empty() const noexcept { return all_->empty(); }
  void end(const submission& one) noexcept {
    if (began_) all_->end(one);
  }
  static constexpr const char* name() noexcept { return "chain"; }

private:
  chain<Ops>* all_;
  bool began_ = false;
};

}  // namespace detail

}  // namespace cohort::inline COHORT_ABI

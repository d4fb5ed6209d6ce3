// What is handed in with one submission: an op by value, or a chain by reference. Awaiters and Asio operations hold a
// request and know no more of it than this.
//
// A request has `describe(submission&)`, which fills in what comes from whoever submits; `error_code
// begin(submission&)` just before it is submitted, which may refuse; `is_empty()`, whether there is nothing to do;
// `end(const submission&)` when it was told; and `name()` for messages.
#pragma once

#include <cohort/clock.hpp>
#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/submission.hpp>

namespace cohort::inline COHORT_ABI::detail {

/// Fills the part of a submission that comes from the op.
template <class Ops, class Op>
void describe(submission& one, const Op& op) noexcept {
  static_assert(Ops::template contains<Op>, "this op is not in the executor's op_set: add it to the list");
  one.op = &op;
  one.op_bytes = sizeof(Op);
  one.op_index = Ops::template index_of<Op>;
  one.cost = cost(op);
  if constexpr (fusable_op<Op>) {
    one.key = op.key();
    one.rows = op.rows();
  }
}

/// Fills the part that comes from whoever submits it.
inline void set_limits(submission& one, tenant_id tenant, const request_limits& limits) noexcept {
  one.tenant = tenant;
  one.deadline = limits.deadline;
  one.expires = limits.expires;
}

template <class Ops, class Op>
class op_request {
public:
  explicit op_request(const Op& op) noexcept : op_(op) {}

  void describe(submission& one) const noexcept { detail::describe<Ops>(one, op_); }
  error_code begin(submission&) const noexcept { return check(op_); }
  static constexpr bool is_empty() noexcept { return false; }
  static constexpr void end(const submission&) noexcept {}
  static constexpr const char* name() noexcept { return Op::name; }

private:
  Op op_;
};

}  // namespace cohort::inline COHORT_ABI::detail

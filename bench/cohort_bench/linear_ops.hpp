// Our side of a product: the op sets that benchmarks are compiled for, and batches as ops.
#pragma once

#include "no_op.hpp"
#include "problem.hpp"

#include <cohort/op.hpp>
#include <cohort/ops/linear.hpp>
#include <cohort/types.hpp>

#include <span>
#include <vector>

namespace cohort_bench {

/// One element type to a superkernel: fp32 tiles beside bf16 tiles cost each other registers.
template <class T>
using linear_ops = cohort::op_set<cohort::ops::linear<T>, no_op>;

template <class T>
cohort::ops::linear<T> as_op(const gemm& one) {
  const problem& p = one.shape;
  return cohort::ops::make_linear<T>(std::span<const T>(static_cast<const T*>(one.x), p.x_size()),
                                     std::span<const T>(static_cast<const T*>(one.w), p.w_size()), {},
                                     std::span<T>(static_cast<T*>(one.y), p.y_size()), {p.n, p.m, p.k});
}

template <class T>
std::vector<std::vector<cohort::ops::linear<T>>> as_ops(const std::vector<batch>& sets) {
  std::vector<std::vector<cohort::ops::linear<T>>> result;
  for (const batch& set : sets) {
    auto& ops = result.emplace_back();
    for (const gemm& one : set) ops.push_back(as_op<T>(one));
  }
  return result;
}

}  // namespace cohort_bench

// The ops that the models of `slo` are made of, as one superkernel.
#pragma once

#include "lstm_cell.hpp"

#include <cohort/op.hpp>
#include <cohort/ops/attention.hpp>
#include <cohort/ops/layer_norm.hpp>
#include <cohort/ops/linear.hpp>
#include <cohort/types.hpp>

namespace cohort_bench::slo {

template <cohort::element T>
using slo_ops =
    cohort::op_set<cohort::ops::linear<T>, cohort::ops::attention<T>, cohort::ops::layer_norm<T>, lstm_cell<T>>;

}  // namespace cohort_bench::slo

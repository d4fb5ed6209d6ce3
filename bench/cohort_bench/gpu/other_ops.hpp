// Every op of the library but linear, as one superkernel.
#pragma once

#include <cohort/op.hpp>
#include <cohort/ops/attention.hpp>
#include <cohort/ops/copy.hpp>
#include <cohort/ops/elementwise.hpp>
#include <cohort/ops/embedding.hpp>
#include <cohort/ops/layer_norm.hpp>
#include <cohort/ops/pooling.hpp>
#include <cohort/ops/reduction.hpp>
#include <cohort/ops/rms_norm.hpp>
#include <cohort/ops/softmax.hpp>
#include <cohort/types.hpp>

namespace cohort_bench {

struct addition {
  static constexpr const char* name = "addition";
  COHORT_HD
  float operator()(float a, float b) const { return a + b; }
};

namespace op {
using cohort::bf16;
using layer_norm = cohort::ops::layer_norm<bf16>;
using rms_norm = cohort::ops::rms_norm<bf16>;
using softmax = cohort::ops::softmax<bf16>;
using attention = cohort::ops::attention<bf16>;
using embedding = cohort::ops::embedding<bf16>;
using pooling = cohort::ops::mean_pooling<bf16, float>;
using reduction = cohort::ops::reduction<cohort::ops::sum_of, float>;
using elementwise = cohort::ops::elementwise<addition, bf16, bf16, bf16>;
using copy = cohort::ops::copy;
}  // namespace op

using other_ops = cohort::op_set<op::layer_norm, op::rms_norm, op::softmax, op::attention, op::embedding, op::pooling,
                                 op::reduction, op::elementwise, op::copy>;

}  // namespace cohort_bench

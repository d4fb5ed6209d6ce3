// The ops of the server, and where the backend is made.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/linear.hpp>

#include <memory>

using kernels = cohort::op_set<cohort::ops::linear<float>>;

std::unique_ptr<cohort::backend> make_backend();  // kernels.cu

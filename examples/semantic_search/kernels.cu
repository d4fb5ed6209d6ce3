// The only file that needs nvcc: it instantiates the superkernels. Compiled by g++ -x c++ it makes the host backend.
#include "kernels.hpp"

#include <cohort/backend/automatic.hpp>

namespace cohort_demo {

template <>
std::unique_ptr<cohort::backend> make_backend<float>() {
  return cohort::automatic_backend<minilm_ops<float>>();
}

template <>
std::unique_ptr<cohort::backend> make_backend<cohort::bf16>() {
  return cohort::automatic_backend<minilm_ops<cohort::bf16>>();
}

}  // namespace cohort_demo

// The only file that needs nvcc: it instantiates the superkernel. Compiled by g++ -x c++ it makes the host backend.
#include "kernels.hpp"

#include <cohort/backend/automatic.hpp>

std::unique_ptr<cohort::backend> make_backend() { return cohort::automatic_backend<kernels>(); }

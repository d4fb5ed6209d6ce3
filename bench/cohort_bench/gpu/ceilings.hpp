// What this device can do at most, measured: the floors of all benchmarks come from here.
#pragma once

#include "../problem.hpp"
#include "../report.hpp"
#include "peers.hpp"

namespace cohort_bench {

struct ceilings {
  double copy_bytes_per_us = 0;  ///< device memory, bytes read and written
  double l2_bytes_per_us = 0;    ///< reads that the L2 serves
  double fp32_flops_per_us = 0;  ///< a large product by cuBLAS, true fp32
  double bf16_flops_per_us = 0;
  double mailbox_us = 0;  ///< there and back, behind a relay: the way of a packet with nothing in it

  double flops_per_us(element_type type) const {
    return type == element_type::fp32 ? fp32_flops_per_us : bf16_flops_per_us;
  }

  /// The least time in us for so much work: the longer of traffic and arithmetic.
  double floor_us(double flops, double bytes, element_type type, bool in_l2) const;

  /// From submission to resumption: no work that is asked for from the host takes less.
  double least_us(double floor_us) const { return mailbox_us + floor_us; }
};

/// Measures; the executor must be off the device. Adds what it finds to the report's environment.
ceilings measure_ceilings(const cublas_streams& cublas, report& to);

/// GPU, driver, CUDA, cuBLAS and the SM clock, as clock64 over globaltimer, into the report's environment.
void describe_device(report& to);

}  // namespace cohort_bench

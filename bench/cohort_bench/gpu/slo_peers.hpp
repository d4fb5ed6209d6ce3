// The peers of `slo`: what a good engineer would do with CUDA graphs and cuBLAS.
#pragma once

#include "../slo/arm.hpp"
#include "cublas_linear.hpp"

#include <cstdint>
#include <memory>

namespace cohort_bench::slo {

/// How a request gets into its stream: op by op, as most servers do; or as one launch of a graph, of which there is one
/// for each buffer of each tenant, recorded ahead.
enum class by : std::uint8_t { launches, graphs };

/// Each request on a stream of its own. At most 32 requests are on the device, as many as there are hardware queues;
/// the others wait in order of arrival. The end of a request is an event that is polled for.
std::unique_ptr<arm> make_stream_per_request(by how, const fleet<cohort::bf16>& all, cublas_linear& cublas,
                                             store& memory);

/// A dynamic batcher for each model, as inference servers have: what arrived within 100 us of the first goes together,
/// at most 32 requests, padded to a power of two, as one launch of a graph recorded for that size; one batch of a model
/// at a time, each model on a stream of its own.
std::unique_ptr<arm> make_batcher(const fleet<cohort::bf16>& all, cublas_linear& cublas, store& memory);

}  // namespace cohort_bench::slo

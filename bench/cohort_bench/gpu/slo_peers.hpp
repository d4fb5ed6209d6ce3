// The peers of `slo`: what a good engineer would do with CUDA graphs and cuBLAS.
#pragma once

#include "../slo/arm.hpp"
#include "cublas_linear.hpp"

#include <cstdint>
#include <memory>

namespace cohort_bench::slo {

/// How a request or a batch gets into its stream: op by op, as most servers do; or as one launch of a graph that was
/// recorded ahead, for each buffer of each tenant or for each size of a batch.
enum class by : std::uint8_t { launches, graphs };

/// Each request on a stream of its own. At most 32 requests are on the device, as many as there are hardware queues;
/// the others wait in order of arrival. The end of a request is an event that is polled for.
std::unique_ptr<arm> make_stream_per_request(by how, const fleet<cohort::bf16>& all, cublas_linear& cublas,
                                             store& memory);

/// A dynamic batcher for each model, as inference servers have: what arrived within 100 us of the first goes together,
/// at most 32 requests, padded to a power of two; one batch of a model at a time, each model on a stream of its own.
/// What servers pay to bring the inputs of a batch together is not counted.
std::unique_ptr<arm> make_batcher(by how, const fleet<cohort::bf16>& all, cublas_linear& cublas, store& memory);

}  // namespace cohort_bench::slo

// The peers: ways to have cuBLAS compute a batch of products. What may be known ahead is prepared ahead: handles,
// streams, workspaces, pointer arrays on the device, graphs. Timed are the calls and the wait for their end.
#pragma once

#include "../limits.hpp"
#include "../problem.hpp"
#include "cuda_support.hpp"

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

namespace cohort_bench {

/// Streams, each with a handle and a workspace of its own: handles that share a workspace would serialise.
class cublas_streams {
public:
  static constexpr std::size_t most = 32;

  cublas_streams();

  const stream& at(std::size_t i) const { return streams_[i % most]; }
  cublasHandle_t handle(std::size_t i) const { return handles_[i % most].get(); }

private:
  std::vector<device_memory> workspaces_;
  std::vector<stream> streams_;
  std::vector<cublas_handle> handles_;
};

/// One product, asynchronously. fp32 is true fp32.
void enqueue(cublasHandle_t handle, const gemm& one, element_type type);

class peer {
public:
  explicit peer(std::string_view name) : name_(name) {}
  virtual ~peer() = default;
  peer(const peer&) = delete;
  peer& operator=(const peer&) = delete;

  std::string_view name() const { return name_; }

  /// Before anything is timed. The sets stay alive. Throws when cuBLAS cannot do it.
  virtual void prepare(element_type type, const std::vector<batch>& sets) = 0;

  /// Computes one set and returns when its results are there.
  virtual void run(std::size_t set) = 0;

private:
  std::string_view name_;
};

/// Time-only: one product after the other, each waited for.
std::unique_ptr<peer> make_one_at_a_time(const cublas_streams& cublas);
/// All into one stream, one wait.
std::unique_ptr<peer> make_one_stream(const cublas_streams& cublas);
/// Space-only: one product to a stream, round robin over at most 32, one wait for the device.
std::unique_ptr<peer> make_streams(const cublas_streams& cublas);
/// A CUDA graph with up to 32 parallel branches.
std::unique_ptr<peer> make_graph(const cublas_streams& cublas);
/// cublasGemmBatchedEx: one shape only.
std::unique_ptr<peer> make_batched(const cublas_streams& cublas);
/// cublasGemmGroupedBatchedEx: one group for each shape.
std::unique_ptr<peer> make_grouped(const cublas_streams& cublas);

/// Runs set after set; wall times in us.
std::vector<double> time_peer(peer& one, std::size_t sets, const limits& l);

}  // namespace cohort_bench

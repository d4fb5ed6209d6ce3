// A linear layer through cublasLt or cuBLAS.
//
// To cuBLAS, which is column-major, y[rows][n] = x[rows][k] w[n][k]^T is D[n x rows] = A^T B with A = w, B = x, and the
// bias runs along the rows of D.
#include "cublas_linear.hpp"

#include "slo_kernels.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>
#include <vector>

namespace cohort_bench::slo {
namespace {

using cohort::ops::activation;

template <class Handle, auto Destroy>
struct destroy {
  void operator()(Handle one) const noexcept { (void)Destroy(one); }
};
template <class Handle, auto Destroy>
using owner = std::unique_ptr<std::remove_pointer_t<Handle>, destroy<Handle, Destroy>>;

using description = owner<cublasLtMatmulDesc_t, &cublasLtMatmulDescDestroy>;
using layout = owner<cublasLtMatrixLayout_t, &cublasLtMatrixLayoutDestroy>;
using preference = owner<cublasLtMatmulPreference_t, &cublasLtMatmulPreferenceDestroy>;

layout make_layout(std::uint32_t rows, std::uint32_t columns) {
  cublasLtMatrixLayout_t one = nullptr;
  cublas_check(cublasLtMatrixLayoutCreate(&one, CUDA_R_16BF, rows, columns, rows), "cublasLtMatrixLayoutCreate");
  return layout(one);
}

/// The op as one call.
class fused_call {
public:
  explicit fused_call(const cublas_linear::op& op)
      : op_(op), w_(make_layout(op.k, op.n)), x_(make_layout(op.k, op.row_count)), y_(make_layout(op.n, op.row_count)) {
    if (op.act != activation::none && op.residual != nullptr) {
      throw cublas_error("an epilogue adds the residual before the activation");
    }
    cublasLtMatmulDesc_t one = nullptr;
    cublas_check(cublasLtMatmulDescCreate(&one, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    what_.reset(one);
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue());
    if (op.bias != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, op.bias);
  }

  std::vector<cublasLtMatmulAlgo_t> algorithms(cublasLtHandle_t lt) const {
    cublasLtMatmulPreference_t one = nullptr;
    cublas_check(cublasLtMatmulPreferenceCreate(&one), "cublasLtMatmulPreferenceCreate");
    const preference limits(one);
    const std::size_t most = cublas_linear::workspace_bytes;
    cublas_check(
        cublasLtMatmulPreferenceSetAttribute(one, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most),
        "cublasLtMatmulPreferenceSetAttribute");
    std::array<cublasLtMatmulHeuristicResult_t, 8> found{};
    int count = 0;
    cublas_check(cublasLtMatmulAlgoGetHeuristic(lt, what_.get(), w_.get(), x_.get(), y_.get(), y_.get(), one,
                                                static_cast<int>(found.size()), found.data(), &count),
                 "cublasLtMatmulAlgoGetHeuristic");
    std::vector<cublasLtMatmulAlgo_t> all;
    for (int i = 0; i < count; ++i) {
      const cublasLtMatmulHeuristicResult_t& each = found[static_cast<std::size_t>(i)];
      if (each.state == CUBLAS_STATUS_SUCCESS && each.workspaceSize <= most) all.push_back(each.algo);
    }
    return all;
  }

  void enqueue(cublasLtHandle_t lt, const cublasLtMatmulAlgo_t& algorithm, void* workspace, cudaStream_t in) const {
    const float alpha = 1;
    const float beta = op_.residual != nullptr ? 1 : 0;
    const cohort::bf16* const added = op_.residual != nullptr ? op_.residual : op_.y;
    cublas_check(cublasLtMatmul(lt, what_.get(), &alpha, op_.w, w_.get(), op_.x, x_.get(), &beta, added, y_.get(),
                                op_.y, y_.get(), &algorithm, workspace, cublas_linear::workspace_bytes, in),
                 "cublasLtMatmul");
  }

private:
  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    cublas_check(cublasLtMatmulDescSetAttribute(what_.get(), attribute, &value, sizeof value),
                 "cublasLtMatmulDescSetAttribute");
  }

  cublasLtEpilogue_t epilogue() const {
    const bool bias = op_.bias != nullptr;
    switch (op_.act) {
      case activation::none: return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
      case activation::relu: return bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
      case activation::gelu: return bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
      default: throw cublas_error("no epilogue has this activation");
    }
  }

  const cublas_linear::op& op_;
  description what_;
  layout w_, x_, y_;
};

}  // namespace

cublas_linear::cublas_linear() {
  cublasLtHandle_t lt = nullptr;
  cublas_check(cublasLtCreate(&lt), "cublasLtCreate");
  lt_.reset(lt);
  cublasHandle_t handle = nullptr;
  cublas_check(cublasCreate(&handle), "cublasCreate");
  cublas_.reset(handle);
}

void cublas_linear::bind(void* workspace, const stream& in) {
  workspace_ = workspace;
  in_ = in.get();
  cublas_check(cublasSetStream(cublas_.get(), in_), "cublasSetStream");
  cublas_check(cublasSetWorkspace(cublas_.get(), workspace, workspace_bytes), "cublasSetWorkspace");
}

void cublas_linear::tune(const op& one) {
  if (best_.contains(shape_of(one))) return;
  std::vector<choice> all{choice{}};
  try {
    for (const cublasLtMatmulAlgo_t& algorithm : fused_call(one).algorithms(lt_.get()))
      all.push_back({true, algorithm});
  } catch (const cublas_error&) {
    // No such call: the other way is left.
  }
  bind(tuning_workspace_.get(), tuning_);
  double least_us = std::numeric_limits<double>::infinity();
  choice best;
  for (const choice& how : all) {
    try {
      const double us = measure(one, how);
      if (us >= least_us) continue;
      least_us = us;
      best = how;
    } catch (const cublas_error&) {
      // The heuristic offers what a shape cannot have at times.
    }
  }
  best_[shape_of(one)] = best;
}

void cublas_linear::enqueue(const op& one) { enqueue(one, best_.at(shape_of(one))); }

std::size_t cublas_linear::fused() const {
  return static_cast<std::size_t>(
      std::count_if(best_.begin(), best_.end(), [](const auto& one) { return one.second.fused; }));
}

void cublas_linear::enqueue(const op& one, const choice& how) {
  if (how.fused) {
    fused_call(one).enqueue(lt_.get(), how.algorithm, workspace_, in_);
    return;
  }
  const auto n = static_cast<int>(one.n);
  const auto rows = static_cast<int>(one.row_count);
  const auto k = static_cast<int>(one.k);
  const float alpha = 1;
  const float beta = 0;
  cublas_check(cublasGemmEx(cublas_.get(), CUBLAS_OP_T, CUBLAS_OP_N, n, rows, k, &alpha, one.w, CUDA_R_16BF, k, one.x,
                            CUDA_R_16BF, k, &beta, one.y, CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
               "cublasGemmEx");
  if (one.bias != nullptr || one.residual != nullptr || one.act != activation::none) launch_epilogue(one, in_);
}

/// In us, of one among many in a graph: without the cost of launching.
double cublas_linear::measure(const op& one, const choice& how) {
  constexpr int times = 20;
  enqueue(one, how);  // what is loaded late must not be loaded while a graph is recorded
  synchronize(tuning_);
  const graph_exec all = capture(tuning_, [&] {
    for (int i = 0; i < times; ++i) enqueue(one, how);
  });
  const event begin = make_event(cudaEventDefault);
  const event end = make_event(cudaEventDefault);
  float least_ms = std::numeric_limits<float>::infinity();
  for (int i = 0; i < 4; ++i) {
    cuda_check(cudaEventRecord(begin.get(), tuning_.get()), "cudaEventRecord");
    cuda_check(cudaGraphLaunch(all.get(), tuning_.get()), "cudaGraphLaunch");
    cuda_check(cudaEventRecord(end.get(), tuning_.get()), "cudaEventRecord");
    synchronize(tuning_);
    float ms = 0;
    cuda_check(cudaEventElapsedTime(&ms, begin.get(), end.get()), "cudaEventElapsedTime");
    least_ms = std::min(least_ms, ms);
  }
  return 1e3 * static_cast<double>(least_ms) / times;
}

}  // namespace cohort_bench::slo

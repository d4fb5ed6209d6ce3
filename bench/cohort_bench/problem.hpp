// The problems: products of the papers and of small models, under the papers' names.
//
// The papers write M x N x K for M output features, N tokens and K input features. Our linear op then has N rows, n = M
// and k = K: y[N][M] = x[N][K] w[M][K]^T. To cuBLAS, which is column-major, the same memory is C[M x N] = A^T B with
// A = w and B = x, all K-contiguous. Each of the R problems of a batch has weights of its own: nothing can be fused.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cohort_bench {

enum class element_type : std::uint8_t { fp32, bf16 };

constexpr const char* name_of(element_type type) { return type == element_type::fp32 ? "fp32" : "bf16"; }
constexpr std::size_t size_of(element_type type) { return type == element_type::fp32 ? 4 : 2; }

/// Largest relative error, in the 2-norm of one product, that is right. TF32 in place of fp32 is not.
constexpr double tolerance_of(element_type type) { return type == element_type::fp32 ? 1e-5 : 1e-2; }

struct problem {
  std::uint32_t m = 0;  ///< output features: rows of w
  std::uint32_t n = 0;  ///< tokens: rows of x and y
  std::uint32_t k = 0;

  std::string name() const { return std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k); }
  double flops() const { return 2.0 * m * n * k; }
  std::size_t w_size() const { return std::size_t{m} * k; }
  std::size_t x_size() const { return std::size_t{n} * k; }
  std::size_t y_size() const { return std::size_t{n} * m; }
  std::size_t bytes(element_type type) const { return (w_size() + x_size() + y_size()) * size_of(type); }

  friend bool operator==(const problem&, const problem&) = default;
};

/// RNN, LSTM, ResNet conv2_2, a square one, and two layers of MiniLM with one sentence of 32 tokens.
inline constexpr std::array<problem, 6> table_problems = {
    {{512, 1, 512}, {1024, 1, 1024}, {256, 128, 1152}, {256, 256, 256}, {384, 32, 384}, {1536, 32, 384}}};

/// Independent problems in a batch.
inline constexpr std::array<std::uint32_t, 8> table_grid = {1, 2, 4, 8, 16, 32, 64, 118};

/// One product and where its operands are, on the device or the host.
struct gemm {
  problem shape;
  const void* w = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
};

/// What is computed together.
using batch = std::vector<gemm>;

inline double flops_of(const batch& all) {
  double sum = 0;
  for (const gemm& one : all) sum += one.shape.flops();
  return sum;
}

inline double bytes_of(const batch& all, element_type type) {
  double sum = 0;
  for (const gemm& one : all) sum += static_cast<double>(one.shape.bytes(type));
  return sum;
}

}  // namespace cohort_bench

// MiniLM on the device, against embeddings of an independent implementation; the superkernels are in the .cu file.
#include "support/cuda_test_options.hpp"
#include "support/minilm_agreement.hpp"

#include <doctest/doctest.h>

#include <cstddef>

using namespace cohort_demo;

namespace {

/// All of them, but under a sanitizer a few.
std::size_t texts() { return static_cast<std::size_t>(cohort::testing::rounds(400)); }

}  // namespace

TEST_CASE("device: synthetic MiniLM agrees with the independent implementation in fp32") {
  const bert_weights weights = synthetic_weights(bert_config());
  golden::check<float>(make_backend<float>(), weights, "minilm_synthetic_golden", 0.9999, texts());
}

TEST_CASE("device: synthetic MiniLM agrees with the independent implementation in bf16") {
  const bert_weights weights = synthetic_weights(bert_config());
  golden::check<cohort::bf16>(make_backend<cohort::bf16>(), weights, "minilm_synthetic_golden", 0.999, texts());
}

TEST_CASE("device: MiniLM with its real weights agrees with the independent implementation") {
  const auto weights = golden::real_weights();
  if (!weights) return;
  golden::check<cohort::bf16>(make_backend<cohort::bf16>(), *weights, "minilm_golden", 0.999, texts());
}

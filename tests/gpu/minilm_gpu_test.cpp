// MiniLM on the device, against embeddings of an independent implementation; the superkernels are in the .cu file.
#include "support/minilm_agreement.hpp"

#include <boost/json/src.hpp>

#include <doctest/doctest.h>

using namespace cohort_demo;

TEST_CASE("device: synthetic MiniLM agrees with the independent implementation in fp32 and bf16") {
  const bert_weights weights = synthetic_weights(bert_config());
  golden::check<float>(make_backend<float>(), weights, "minilm_synthetic_golden", 0.9999);
  golden::check<cohort::bf16>(make_backend<cohort::bf16>(), weights, "minilm_synthetic_golden", 0.999);
}

TEST_CASE("device: MiniLM with its real weights agrees with the independent implementation") {
  const auto weights = golden::real_weights();
  if (!weights) return;
  golden::check<cohort::bf16>(make_backend<cohort::bf16>(), *weights, "minilm_golden", 0.999);
}

// MiniLM on the host backend, against embeddings of an independent implementation.
#include "support/minilm_agreement.hpp"
#include "support/sanitizer.hpp"

#include <semantic_search/minilm.hpp>

#include <cohort/backend/host.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <limits>
#include <memory>
#include <string>

using namespace cohort_demo;

namespace {

// A sanitizer is slow, and after a few texts it has seen all the code.
constexpr std::size_t texts = cohort::testing::sanitized ? 4 : std::numeric_limits<std::size_t>::max();

template <class T>
void check(const bert_weights& weights, const std::string& stem, double at_least) {
  golden::check<T>(std::make_unique<cohort::host_backend<minilm_ops<T>>>(), weights, stem, at_least, texts);
}

}  // namespace

TEST_CASE("synthetic MiniLM agrees with the independent implementation in fp32 and bf16") {
  const bert_weights weights = synthetic_weights(bert_config());
  check<float>(weights, "minilm_synthetic_golden", 0.9999);
  check<cohort::bf16>(weights, "minilm_synthetic_golden", 0.999);
}

TEST_CASE("MiniLM with its real weights agrees with the independent implementation") {
  const auto weights = golden::real_weights();
  if (!weights) return;
  REQUIRE(golden::read_embeddings("minilm_golden").size() >= 32);
  check<float>(*weights, "minilm_golden", 0.9999);
  check<cohort::bf16>(*weights, "minilm_golden", 0.999);
}

TEST_CASE("an empty text and one of too many tokens end in an error or an embedding, and nothing hangs") {
  using kernels = minilm_ops<float>;
  using executor = cohort::executor<kernels>;
  boost::asio::io_context io;
  executor gpu(io, std::make_unique<cohort::host_backend<kernels>>(), {.driven_by = cohort::drive::caller});
  bert_config config;
  config.vocabulary = 100;
  config.layers = 1;
  minilm<float, executor> model(gpu, config);
  gpu.run(model.load(synthetic_weights(config)));
  CHECK_THROWS_AS(gpu.run(model.embed({})), cohort::system_error);
  const auto tokenizer = wordpiece::hashed(config.vocabulary);
  CHECK(gpu.run(model.embed(tokenizer.encode(""))).size() == config.hidden);
  std::string long_text;
  for (int i = 0; i < 10'000; ++i) long_text += "word" + std::to_string(i) + " ";
  CHECK(gpu.run(model.embed(tokenizer.encode(long_text))).size() == config.hidden);
}

// MiniLM through the executor on a backend, against embeddings of an independent implementation.
#pragma once

#include "support/figure.hpp"
#include "support/minilm_golden.hpp"

#include <semantic_search/minilm.hpp>

#include <cohort/backend/backend.hpp>
#include <cohort/when_all.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace golden {

/// The real weights, or nothing and a message where the model is not.
inline std::optional<cohort_demo::bert_weights> real_weights() {
  const auto folder = model_folder();
  if (!folder) {
    MESSAGE("skipped: the model is not here; scripts/fetch_model gets it");
    return std::nullopt;
  }
  const auto config = cohort_demo::bert_config::load(*folder / "config.json");
  return cohort_demo::load_weights(cohort_demo::safetensors::open(*folder / "model.safetensors"), config);
}

/// The texts of `stem`, or the first `most` of them, as concurrent requests on `device`: each embedding at least that
/// close to the golden one.
template <class T>
void check(std::unique_ptr<cohort::backend> device, const cohort_demo::bert_weights& weights, const std::string& stem,
           double at_least, std::size_t most = std::numeric_limits<std::size_t>::max()) {
  using kernels = cohort_demo::minilm_ops<T>;
  using executor = cohort::executor<kernels>;
  boost::asio::io_context io;
  executor gpu(io, std::move(device), {.driven_by = cohort::drive::caller});
  cohort_demo::minilm<T, executor> model(gpu, weights.config);
  gpu.run(model.load(weights));

  const auto before = gpu.statistics();
  auto items = golden::read_embeddings(stem);
  if (items.size() > most) items.resize(most);
  std::vector<cohort::task<std::vector<float>>> all;
  for (const auto& item : items) all.push_back(model.embed(item.ids));
  const auto embeddings = gpu.run(cohort::when_all(std::move(all)));
  double worst = 1;
  for (std::size_t i = 0; i < items.size(); ++i) {
    INFO(items[i].text.substr(0, 80));
    const double cosine = golden::cosine(embeddings[i], items[i].embedding);
    CHECK(cosine >= at_least);
    worst = std::min(worst, cosine);
  }
  cohort::testing::figure(
      stem + " " + cohort::type_name<T>() + ", 1 - smallest cosine of " + std::to_string(items.size()) + " texts",
      1 - worst);
  const auto after = gpu.statistics();
  CHECK((after.packets - before.packets) * items.size() / 2 <=
        after.committed - before.committed);  // they were coalesced
}

}  // namespace golden

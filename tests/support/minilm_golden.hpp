// What the tests know of the independent implementation: texts, token ids and embeddings from tests/data, written by
// scripts/golden_embeddings.py, and where the real model lies, if it does. For tests only; see bert_config.hpp for
// Boost.JSON.
#pragma once

#include <boost/json/parse.hpp>
#include <boost/json/value_to.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace golden {

struct item {
  std::string text;
  std::vector<std::int32_t> ids;  // with [CLS] and [SEP]
  std::vector<float> embedding;   // of length 1; empty where only tokens are recorded
};

inline std::filesystem::path data_folder() { return std::filesystem::path(COHORT_SOURCE_DIR) / "tests" / "data"; }

/// The folder of the real model: COHORT_MODEL_DIR, or where scripts/fetch_model puts it. Nothing if it is not there,
/// and then the tests that need it say that they are skipped.
inline std::optional<std::filesystem::path> model_folder() {
  const auto variable = [](const char* name) -> std::string {
    const char* const value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const std::string named = variable("COHORT_MODEL_DIR"); !named.empty()) return named;
  const std::string cache = variable("XDG_CACHE_HOME");
  const std::filesystem::path root =
      cache.empty() ? std::filesystem::path(variable("HOME")) / ".cache" : std::filesystem::path(cache);
  const std::filesystem::path folder = root / "cohort" / "minilm-l6-v2";
  std::error_code ignored;
  for (const char* file : {"model.safetensors", "vocab.txt", "config.json"}) {
    if (!std::filesystem::is_regular_file(folder / file, ignored)) return std::nullopt;
  }
  return folder;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Texts and token ids of tests/data/NAME.
inline std::vector<item> read_texts(const std::string& name) {
  const boost::json::value document = boost::json::parse(read_file(data_folder() / name));
  std::vector<item> items;
  for (const boost::json::value& entry : document.at("items").as_array()) {
    item& read = items.emplace_back();
    read.text = boost::json::value_to<std::string>(entry.at("text"));
    read.ids = boost::json::value_to<std::vector<std::int32_t>>(entry.at("ids"));
  }
  return items;
}

/// Texts, token ids and embeddings of tests/data/STEM.json and STEM.bin. `stem` is "minilm_golden" (real weights) or
/// "minilm_synthetic_golden" (synthetic_weights with seed 0).
inline std::vector<item> read_embeddings(const std::string& stem, std::size_t hidden = 384) {
  std::vector<item> items = read_texts(stem + ".json");
  std::ifstream file(data_folder() / (stem + ".bin"), std::ios::binary);
  for (item& each : items) {
    each.embedding.resize(hidden);
    const auto bytes = static_cast<std::streamsize>(hidden * sizeof(float));
    if (!file.read(reinterpret_cast<char*>(each.embedding.data()), bytes))
      throw std::runtime_error(stem + ".bin is too short");
  }
  if (file.peek() != std::ifstream::traits_type::eof()) throw std::runtime_error(stem + ".bin is too long");
  return items;
}

inline double cosine(std::span<const float> a, std::span<const float> b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return ab / std::sqrt(aa * bb);
}

}  // namespace golden

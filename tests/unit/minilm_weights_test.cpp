#include "minilm_reference.hpp"
#include "support/minilm_golden.hpp"
#include "support/sanitizer.hpp"

#include <semantic_search/weights.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

using namespace cohort_demo;

namespace {

// The plain forward pass is slow without optimisation and under a sanitizer: such builds check the first texts only.
#if defined(__OPTIMIZE__)
constexpr bool slow = cohort::testing::sanitized;
#else
constexpr bool slow = true;
#endif
constexpr std::size_t token_budget = slow ? 60 : static_cast<std::size_t>(-1);

void check_embeddings(const bert_weights& weights, const std::string& stem, std::size_t at_least) {
  const auto items = golden::read_embeddings(stem);
  REQUIRE(items.size() >= at_least);
  std::size_t checked = 0, tokens = 0;
  double worst = 1;
  for (const golden::item& item : items) {
    tokens += item.ids.size();
    if (tokens > token_budget) break;
    INFO("text: ", item.text);
    const double cosine = golden::cosine(minilm_reference::embed(weights, item.ids), item.embedding);
    CHECK(cosine >= 0.9999);
    worst = std::min(worst, cosine);
    ++checked;
  }
  CHECK(checked >= 3);
  MESSAGE(stem, ": ", checked, " of ", items.size(), " texts, 1 - smallest cosine = ", 1 - worst);
}

bert_config tiny_config() {
  bert_config config;
  config.vocabulary = 7;
  config.hidden = 4;
  config.layers = 1;
  config.heads = 2;
  config.intermediate = 6;
  config.positions = 5;
  config.token_types = 2;
  return config;
}

using tensor_list = std::map<std::string, std::pair<std::vector<std::size_t>, std::string>>;  // name -> shape, dtype

tensor_list tensors_of(const bert_config& config) {
  tensor_list list;
  detail::assemble(config, [&](const std::string& name, detail::tensor_shape shape) {
    list[name] = {shape, "F32"};
    return std::vector<float>();
  });
  return list;
}

std::vector<std::byte> file_of(const tensor_list& list, const std::string& prefix = "") {
  std::string header = "{";
  std::vector<float> data;
  for (const auto& [name, tensor] : list) {
    std::string shape;
    std::size_t count = 1;
    for (const std::size_t extent : tensor.first) {
      shape += (shape.empty() ? "" : ",") + std::to_string(extent);
      count *= extent;
    }
    const std::vector<float> values = synthetic_tensor(name, count, tensor.first.back());
    header += (header.size() > 1 ? ",\"" : "\"") + prefix + name + R"(":{"dtype":")" + tensor.second +
              R"(","shape":[)" + shape + R"(],"data_offsets":[)" + std::to_string(4 * data.size()) + "," +
              std::to_string(4 * (data.size() + count)) + "]}";
    data.insert(data.end(), values.begin(), values.end());
  }
  header += "}";
  std::vector<std::byte> file(8 + header.size() + 4 * data.size());
  const std::uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  std::memcpy(file.data() + 8, header.data(), header.size());
  std::memcpy(file.data() + 8 + header.size(), data.data(), 4 * data.size());
  return file;
}

std::string failure(const tensor_list& list, const bert_config& config) {
  const auto bytes = file_of(list);
  try {
    load_weights(safetensors::view(bytes), config);
  } catch (const model_error& error) {
    return error.what();
  }
  return "none";
}

std::string config_failure(const std::string& json) {
  try {
    bert_config::parse(json);
  } catch (const model_error& error) {
    return error.what();
  }
  return "none";
}

std::string config_json(const std::string& field = "", const std::string& value = "") {
  std::map<std::string, std::string> fields = {
      {"hidden_act", "\"gelu\""}, {"vocab_size", "30522"},       {"hidden_size", "384"},
      {"num_hidden_layers", "6"}, {"num_attention_heads", "12"}, {"intermediate_size", "1536"},
      {"type_vocab_size", "2"},   {"layer_norm_eps", "1e-12"},   {"max_position_embeddings", "512"},
      {"model_type", "\"bert\""},
  };
  if (!field.empty() && value.empty()) fields.erase(field);
  if (!value.empty()) fields[field] = value;
  std::string json;
  for (const auto& [name, text] : fields) json += (json.empty() ? "{\"" : ",\"") + name + "\":" + text;
  return json + "}";
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("minilm: synthetic weights through the plain forward pass give the golden embeddings") {
  check_embeddings(synthetic_weights(bert_config{}), "minilm_synthetic_golden", 8);
}

TEST_CASE("minilm: the real weights through the plain forward pass give the golden embeddings" *
          doctest::skip(!golden::model_folder())) {
  const auto folder = *golden::model_folder();
  const bert_config config = bert_config::load(folder / "config.json");
  CHECK(config == bert_config{});
  check_embeddings(load_weights(safetensors::open(folder / "model.safetensors"), config), "minilm_golden", 40);
}

TEST_CASE("minilm: synthetic values are those that the definition in synthetic.hpp gives") {
  static_assert(fnv1a("") == 0xcbf29ce484222325ULL);
  static_assert(fnv1a("a") == 0xaf63dc4c8601ec8cULL);
  static_assert(splitmix64(1234567, 0) == 6457827717110365317ULL);
  static_assert(splitmix64(1234567, 1) == 3203168211198807973ULL);
  const auto word = synthetic_tensor("embeddings.word_embeddings.weight", 1000, 384);
  const auto norm = synthetic_tensor("embeddings.LayerNorm.weight", 1000, 0);
  const auto deep = synthetic_tensor("encoder.layer.0.output.dense.weight", 1000, 1536);
  for (std::size_t i = 0; i < 1000; ++i) {
    REQUIRE(std::abs(word[i]) <= 0.1F);
    REQUIRE(std::abs(norm[i] - 1) <= 0.1001F);
    REQUIRE(std::abs(deep[i]) <= 0.0443F);
  }
  CHECK(word != synthetic_tensor("embeddings.word_embeddings.weight", 1000, 384, 1));
}

TEST_CASE("minilm: weights load by role, with or without the prefix bert.") {
  const bert_config config = tiny_config();
  const tensor_list list = tensors_of(config);
  CHECK(list.size() == 5 + 16);
  const bert_weights expected = synthetic_weights(config);
  for (const char* prefix : {"", "bert."}) {
    const auto bytes = file_of(list, prefix);
    const bert_weights loaded = load_weights(safetensors::view(bytes), config);
    REQUIRE(loaded.layers.size() == 1);
    CHECK(loaded.position_embeddings == expected.position_embeddings);
    CHECK(loaded.layers[0].value.weight == expected.layers[0].value.weight);
    CHECK(loaded.layers[0].intermediate.outputs == 6);
    CHECK(loaded.layers[0].intermediate.inputs == 4);
    CHECK(loaded.layers[0].output_norm.bias == expected.layers[0].output_norm.bias);
  }
}

TEST_CASE("minilm: a missing tensor, a wrong shape and a wrong type are named") {
  const bert_config config = tiny_config();
  for (const auto& [name, ignored] : tensors_of(config)) {
    tensor_list list = tensors_of(config);
    list.erase(name);
    CHECK(has(failure(list, config), ("'" + name + "' is missing").c_str()));
  }
  tensor_list list = tensors_of(config);
  list["encoder.layer.0.intermediate.dense.weight"].first = {4, 6};
  CHECK(has(failure(list, config), "has shape [4, 6], config.json asks for [6, 4]"));
  list = tensors_of(config);
  list["encoder.layer.0.intermediate.dense.weight"].first = {24};
  CHECK(has(failure(list, config), "has shape [24]"));
  list = tensors_of(config);
  list["embeddings.LayerNorm.bias"].second = "I32";
  CHECK(has(failure(list, config), "'embeddings.LayerNorm.bias': a tensor of type I32"));
}

TEST_CASE("minilm: config.json is read, and a missing, absurd or foreign field is named") {
  CHECK(bert_config::parse(config_json()) == bert_config{});
  CHECK(has(config_failure(""), "not valid JSON"));
  CHECK(has(config_failure(std::string(100'000, '[')), "not valid JSON"));
  CHECK(has(config_failure("[]"), "not a JSON object"));
  for (const char* field : {"hidden_act", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                            "intermediate_size", "type_vocab_size", "layer_norm_eps", "max_position_embeddings"}) {
    CHECK(has(config_failure(config_json(field)), (std::string(field) + " is missing").c_str()));
    CHECK(config_failure(config_json(field, "null")) != "none");
    CHECK(config_failure(config_json(field, "-1")) != "none");
    CHECK(config_failure(config_json(field, "9223372036854775807")) != "none");
  }
  CHECK(has(config_failure(config_json("num_attention_heads", "7")), "not a multiple"));
  CHECK(has(config_failure(config_json("hidden_act", "\"relu\"")), "not \"gelu\""));
  CHECK_THROWS_AS(bert_config::load("/nonexistent/config.json"), model_error);
}

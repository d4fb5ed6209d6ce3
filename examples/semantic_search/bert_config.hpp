// The shape of a BERT encoder, as config.json states it.
//
// Boost.JSON: exactly one translation unit of the program includes <boost/json/src.hpp>, or the program links
// boost_json.
#pragma once

#include "model_error.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace cohort_demo {

/// Sizes of a BERT encoder with GELU (erf) and absolute positions; the defaults are those of all-MiniLM-L6-v2.
struct bert_config {
  std::size_t vocabulary = 30522;
  std::size_t hidden = 384;
  std::size_t layers = 6;
  std::size_t heads = 12;
  std::size_t intermediate = 1536;  ///< width of the feed-forward layer
  std::size_t positions = 512;      ///< rows of the position table: no sequence may be longer
  std::size_t token_types = 2;
  float layer_norm_epsilon = 1e-12F;

  std::size_t head_size() const noexcept { return hidden / heads; }

  friend bool operator==(const bert_config&, const bert_config&) = default;

  /// Reads the fields of Hugging Face's config.json; what is not about the encoder's shape is ignored.
  /// Errors: model_error if the text is no JSON object, a field is missing or outside its bounds, or the activation or
  /// the kind of positions is another one.
  static bert_config parse(std::string_view json, const std::string& origin = "config.json");

  /// The same from a file. Errors: also model_error if it cannot be read or is larger than 1 MB.
  static bert_config load(const std::filesystem::path& path);
};

namespace detail {

struct config_reader {
  const boost::json::object& fields;
  const std::string& origin;

  [[noreturn]] void fail(std::string_view name, const char* what) const {
    throw model_error(origin + ": " + std::string(name) + " " + what);
  }

  const boost::json::value& field(std::string_view name) const {
    const auto* value = fields.if_contains({name.data(), name.size()});
    if (value == nullptr) fail(name, "is missing");
    return *value;
  }

  /// Bounds keep every product of sizes far from overflow, whatever a hostile file says.
  std::size_t size(std::string_view name, std::int64_t most) const {
    const auto* number = field(name).if_int64();
    if (number == nullptr) fail(name, "is not an integer");
    if (*number < 1 || *number > most) fail(name, "is outside the sizes that this reader accepts");
    return static_cast<std::size_t>(*number);
  }

  void expect(std::string_view name, std::string_view value) const {
    const auto* text = field(name).if_string();
    if (text == nullptr || std::string_view(text->data(), text->size()) != value) {
      fail(name, ("is not \"" + std::string(value) + "\", the only kind that is implemented").c_str());
    }
  }
};

}  // namespace detail

inline bert_config bert_config::parse(std::string_view json, const std::string& origin) {
  boost::json::error_code error;
  const boost::json::value document = boost::json::parse({json.data(), json.size()}, error);
  if (error) throw model_error(origin + ": is not valid JSON: " + error.message());
  if (!document.is_object()) throw model_error(origin + ": is not a JSON object");
  const detail::config_reader read{document.get_object(), origin};
  read.expect("hidden_act", "gelu");
  if (document.get_object().contains("position_embedding_type")) read.expect("position_embedding_type", "absolute");
  bert_config config;
  config.vocabulary = read.size("vocab_size", 10'000'000);
  config.hidden = read.size("hidden_size", 65'536);
  config.layers = read.size("num_hidden_layers", 1'000);
  config.heads = read.size("num_attention_heads", 65'536);
  config.intermediate = read.size("intermediate_size", 1'000'000);
  config.positions = read.size("max_position_embeddings", 1'000'000);
  config.token_types = read.size("type_vocab_size", 65'536);
  if (config.hidden % config.heads != 0) read.fail("hidden_size", "is not a multiple of num_attention_heads");
  boost::json::error_code not_a_number;
  const double epsilon = read.field("layer_norm_eps").to_number<double>(not_a_number);
  if (not_a_number || !(epsilon > 0 && epsilon < 1)) read.fail("layer_norm_eps", "is not a number between 0 and 1");
  config.layer_norm_epsilon = static_cast<float>(epsilon);
  return config;
}

inline bert_config bert_config::load(const std::filesystem::path& path) {
  constexpr std::uintmax_t most = 1'000'000;
  std::error_code failed;
  const std::uintmax_t size = std::filesystem::file_size(path, failed);
  if (failed) throw model_error(path.string() + ": cannot be opened: " + failed.message());
  if (size > most) throw model_error(path.string() + ": is too large for a config.json");
  std::string text(static_cast<std::size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(text.size()))) {
    throw model_error(path.string() + ": cannot be read");
  }
  return parse(text, path.string());
}

}  // namespace cohort_demo

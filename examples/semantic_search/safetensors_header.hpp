// The JSON header of a safetensors file, read as it stands, before anything is checked against the file's size.
// Only safetensors.hpp looks in here.
//
// Boost.JSON: exactly one translation unit of the program includes <boost/json/src.hpp>, or the program links
// boost_json.
#pragma once

#include "model_error.hpp"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/error.hpp>
#include <boost/json/parse_options.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cohort_demo::detail {

/// One tensor as the header states it. Nothing in it may be trusted yet.
struct header_entry {
  std::string name;
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0, end = 0;
};

/// Events of Boost.JSON's parser for `{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}`, with
/// an optional `"__metadata__": {"key": "value"}`. Events instead of a parsed document, because a document keeps only
/// the last of two equal keys, and a repeated name must be refused, not resolved. Every deviation throws model_error
/// from the event.
class header_handler {
public:
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_rank = 32;

  std::vector<header_entry> entries;

  bool on_document_begin(boost::json::error_code&) { return true; }
  bool on_document_end(boost::json::error_code&) { return true; }

  bool on_object_begin(boost::json::error_code&) {
    if (place_ == place::outside) {
      place_ = place::top;
    } else if (place_ == place::top) {
      enter_member();
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool on_object_end(std::size_t, boost::json::error_code&) {
    if (place_ == place::tensor) {
      for (std::size_t i = 0; i < seen_.size(); ++i) {
        if (!seen_[i]) fail(std::string("has no ") + field_names[i]);
      }
    }
    place_ = place_ == place::top ? place::outside : place::top;
    return true;
  }

  bool on_array_begin(boost::json::error_code&) {
    if (place_ != place::tensor || field_ == dtype_field) unexpected("an array");
    place_ = place::array;
    offsets_ = 0;
    return true;
  }

  bool on_array_end(std::size_t, boost::json::error_code&) {
    place_ = place::tensor;
    if (field_ == offsets_field && offsets_ != 2) fail("data_offsets is not a pair of numbers");
    return true;
  }

  bool on_key_part(boost::json::string_view part, std::size_t, boost::json::error_code&) { return append(part); }

  bool on_key(boost::json::string_view part, std::size_t, boost::json::error_code&) {
    append(part);
    const std::string key = std::exchange(text_, {});
    if (place_ == place::top) {
      name_ = key;
    } else if (place_ == place::tensor) {
      field_ = 0;
      while (field_ < seen_.size() && key != field_names[field_]) ++field_;
      if (field_ == seen_.size()) fail("has an unknown field " + in_quotes(key));
      if (std::exchange(seen_[field_], true)) fail(std::string("states ") + field_names[field_] + " twice");
    }
    return true;
  }

  bool on_string_part(boost::json::string_view part, std::size_t, boost::json::error_code&) { return append(part); }

  bool on_string(boost::json::string_view part, std::size_t, boost::json::error_code&) {
    append(part);
    std::string value = std::exchange(text_, {});
    if (place_ == place::metadata) return true;
    if (place_ != place::tensor || field_ != dtype_field) unexpected("a string");
    entries.back().dtype = std::move(value);
    return true;
  }

  bool on_number_part(boost::json::string_view, boost::json::error_code&) { return true; }

  bool on_int64(std::int64_t value, boost::json::string_view, boost::json::error_code&) {
    if (value < 0) unexpected("a negative number");
    return number(static_cast<std::uint64_t>(value));
  }

  bool on_uint64(std::uint64_t value, boost::json::string_view, boost::json::error_code&) { return number(value); }

  bool on_double(double, boost::json::string_view, boost::json::error_code&) {
    unexpected("a number that is no integer of 64 bits");
  }

  bool on_bool(bool, boost::json::error_code&) { unexpected("a truth value"); }
  bool on_null(boost::json::error_code&) { unexpected("null"); }
  bool on_comment_part(boost::json::string_view, boost::json::error_code&) { return true; }
  bool on_comment(boost::json::string_view, boost::json::error_code&) { return true; }

private:
  enum class place { outside, top, metadata, tensor, array };
  static constexpr std::array<const char*, 3> field_names = {"dtype", "shape", "data_offsets"};
  static constexpr std::size_t dtype_field = 0, offsets_field = 2;

  [[noreturn]] void fail(const std::string& what) const {
    throw model_error("tensor " + in_quotes(name_) + " " + what);
  }

  [[noreturn]] void unexpected(const char* what) const {
    if (place_ == place::outside) throw model_error(std::string("the header is ") + what + ", not an object");
    if (place_ == place::metadata) throw model_error(std::string("__metadata__ holds ") + what + ", not only strings");
    fail(std::string("has ") + what + " where none belongs");
  }

  void enter_member() {
    if (name_ == "__metadata__") {
      place_ = place::metadata;
      return;
    }
    place_ = place::tensor;
    seen_ = {};
    entries.emplace_back().name = name_;
  }

  bool append(boost::json::string_view part) {
    text_.append(part.data(), part.size());
    return true;
  }

  bool number(std::uint64_t value) {
    if (place_ != place::array) unexpected("a number");
    header_entry& entry = entries.back();
    if (field_ == offsets_field) {
      if (offsets_ == 2) fail("data_offsets is not a pair of numbers");
      (offsets_++ == 0 ? entry.begin : entry.end) = value;
    } else {
      if (entry.shape.size() == max_rank) fail("has more than 32 dimensions");
      entry.shape.push_back(value);
    }
    return true;
  }

  place place_ = place::outside;
  std::string text_;  // the key or string being collected: the parser hands over escapes piece by piece
  std::string name_;
  std::array<bool, 3> seen_{};
  std::size_t field_ = 0;
  std::size_t offsets_ = 0;
};

/// Errors: model_error for anything but one well-formed JSON object of the shape above, followed by white space at
/// most.
inline std::vector<header_entry> parse_header(std::string_view json) {
  boost::json::basic_parser<header_handler> parser{boost::json::parse_options{}};
  boost::json::error_code error;
  const std::size_t used = parser.write_some(false, json.data(), json.size(), error);
  if (error) {
    throw model_error("the header is not valid JSON at byte " + std::to_string(used) + ": " + error.message());
  }
  if (json.find_first_not_of(" \t\r\n", used) != std::string_view::npos) {
    throw model_error("the header goes on after its JSON object, at byte " + std::to_string(used));
  }
  return std::move(parser.handler().entries);
}

}  // namespace cohort_demo::detail

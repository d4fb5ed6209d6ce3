// The tokenizer of BERT's uncased models: text in, token ids out. Everything about languages is in unicode.hpp.
#pragma once

#include "fnv1a.hpp"
#include "model_error.hpp"
#include "unicode.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cohort_demo {

using token_id = std::int32_t;

/// WordPiece: words are split at white space, punctuation and ideographs, lower-cased and stripped of accents, then cut
/// into the longest pieces that the vocabulary knows, from the left. The ids are those of Hugging Face's
/// BertTokenizerFast, including its habit of reading "[SEP]" and its like in the text as the special token.
///
/// Any bytes are accepted as text: what is not valid UTF-8 is dropped, as HF drops U+FFFD. Immutable once made, so any
/// number of threads may encode at the same time.
class wordpiece {
public:
  static constexpr std::size_t default_max_tokens = 256;  ///< what all-MiniLM-L6-v2 was trained to read

  /// One token per line, its id the line's number from 0. Errors: model_error if the file cannot be read, is empty,
  /// repeats a token, or lacks [UNK], [CLS] or [SEP].
  static wordpiece load(const std::filesystem::path& path) {
    const std::string origin = path.string();
    std::error_code ignored;
    std::ifstream file(path, std::ios::binary);
    if (!file || !std::filesystem::is_regular_file(path, ignored)) {
      throw model_error(origin + ": the vocabulary cannot be opened");
    }
    std::vector<std::string> tokens;
    for (std::string line; std::getline(file, line);) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      tokens.push_back(std::move(line));
    }
    if (file.bad()) throw model_error(origin + ": the vocabulary cannot be read");
    return wordpiece(tokens, origin);
  }

  /// The same from memory; `origin` stands for the file in messages.
  explicit wordpiece(const std::vector<std::string>& tokens, const std::string& origin = "vocabulary") {
    if (tokens.empty()) throw model_error(origin + ": the vocabulary is empty");
    size_ = tokens.size();
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::string& token = tokens[i];
      const bool continuation = token.size() > 2 && token.starts_with("##");
      table& where = continuation ? continuations_ : words_;
      if (!where.emplace(continuation ? token.substr(2) : token, static_cast<token_id>(i)).second) {
        throw model_error(origin + ": the vocabulary names " + in_quotes(token) + " twice");
      }
    }
    unknown_ = required("[UNK]", origin);
    begin_ = required("[CLS]", origin);
    end_ = required("[SEP]", origin);
    for (const char* name : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
      if (const auto found = words_.find(std::string_view(name)); found != words_.end()) {
        specials_.emplace_back(name, found->second);
      }
    }
  }

  /// A toy vocabulary for runs without a model's files: [PAD] [UNK] [CLS] [SEP] [MASK] are 0 to 4, and every word is
  /// one token, 5 + fnv1a(word) % (size - 5). Equal words get equal ids, which is all that synthetic weights can make
  /// use of. Errors: model_error if size is below 6.
  static wordpiece hashed(std::size_t size) {
    if (size < 6) throw model_error("a hashed vocabulary needs at least 6 tokens");
    wordpiece toy({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"});
    toy.size_ = size;
    toy.hashed_ = true;
    return toy;
  }

  /// How many ids there are: all ids are below it.
  std::size_t size() const noexcept { return size_; }

  /// [CLS], the pieces of the text, [SEP]. Cut so that it never holds more than max_tokens ids; then the text's end is
  /// what is lost. Errors: model_error if max_tokens is below 2.
  std::vector<token_id> encode(std::string_view text, std::size_t max_tokens = default_max_tokens) const {
    if (max_tokens < 2) throw model_error("max_tokens leaves no room for [CLS] and [SEP]");
    const std::size_t limit = max_tokens - 1;
    std::vector<token_id> ids{begin_};
    word current;
    // Stops once the room is full, so that a long text costs no more than a page of it.
    for (std::size_t position = 0; position < text.size() && ids.size() < limit;) {
      if (text[position] == '[') {
        if (const auto* special = special_at(text.substr(position))) {
          flush(current, ids);
          ids.push_back(special->second);
          position += special->first.size();
          continue;
        }
      }
      read(unicode::decode(text, position), current, ids);
    }
    flush(current, ids);
    ids.resize(std::min(ids.size(), limit));
    ids.push_back(end_);
    return ids;
  }

private:
  struct string_hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
  };
  using table = std::unordered_map<std::string, token_id, string_hash, std::equal_to<>>;

  static constexpr std::size_t longest_word = 100;  // in code points; longer ones are [UNK], as in BERT

  /// A word being collected, with the place where each of its code points starts. Past longest_word it only counts.
  struct word {
    std::string text;
    std::array<std::size_t, longest_word + 1> starts{};
    std::size_t count = 0;

    void add(char32_t c) {
      if (count < longest_word) {
        starts[count] = text.size();
        unicode::append_utf8(text, c);
        starts[count + 1] = text.size();
      }
      ++count;
    }
    void clear() {
      text.clear();
      count = 0;
    }
  };

  token_id required(std::string_view name, const std::string& origin) const {
    const auto found = words_.find(name);
    if (found == words_.end()) throw model_error(origin + ": the vocabulary has no " + std::string(name));
    return found->second;
  }

  const std::pair<std::string, token_id>* special_at(std::string_view text) const noexcept {
    for (const auto& special : specials_) {
      if (text.starts_with(special.first)) return &special;
    }
    return nullptr;
  }

  void read(char32_t c, word& current, std::vector<token_id>& ids) const {
    if (c < 0x80 && ((c >= U'a' && c <= U'z') || (c >= U'0' && c <= U'9'))) return current.add(c);
    if (unicode::is_removed(c)) return;
    if (unicode::is_white_space(c)) return flush(current, ids);
    const bool alone = unicode::is_ideograph(c);
    if (alone) flush(current, ids);
    const unicode::folded folded = unicode::fold(c);
    for (std::size_t i = 0; i < folded.count; ++i) {
      const bool separate = unicode::is_punctuation(folded.points[i]);
      if (separate) flush(current, ids);
      current.add(folded.points[i]);
      if (separate) flush(current, ids);
    }
    if (alone) flush(current, ids);
  }

  /// Appends the pieces of a finished word and clears it.
  void flush(word& current, std::vector<token_id>& ids) const {
    if (current.count == 0) return;
    if (current.count > longest_word) {
      ids.push_back(unknown_);
    } else if (hashed_) {
      ids.push_back(static_cast<token_id>(5 + fnv1a(current.text) % (size_ - 5)));
    } else {
      append_pieces(current, ids);
    }
    current.clear();
  }

  void append_pieces(const word& whole, std::vector<token_id>& ids) const {
    const std::size_t before = ids.size();
    const std::string_view text = whole.text;
    for (std::size_t first = 0; first < whole.count;) {
      const table& where = first == 0 ? words_ : continuations_;
      std::size_t last = whole.count;
      table::const_iterator found = where.end();
      for (; last > first; --last) {
        found = where.find(text.substr(whole.starts[first], whole.starts[last] - whole.starts[first]));
        if (found != where.end()) break;
      }
      if (last == first) {  // one piece that is not known makes the whole word unknown
        ids.resize(before);
        ids.push_back(unknown_);
        return;
      }
      ids.push_back(found->second);
      first = last;
    }
  }

  table words_, continuations_;
  std::vector<std::pair<std::string, token_id>> specials_;
  std::size_t size_ = 0;
  token_id unknown_ = 0, begin_ = 0, end_ = 0;
  bool hashed_ = false;
};

}  // namespace cohort_demo

#include "support/minilm_golden.hpp"

#include <semantic_search/wordpiece.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <system_error>
#include <vector>

using namespace cohort_demo;

namespace {

const wordpiece& small() {
  static const wordpiece instance({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "run",
                                   "##ning", "a", "b", "##b", ".", ",", "cafe", "the", "\xE4\xB8\xAD", "\xE6\x96\x87"});
  return instance;
}

using ids = std::vector<token_id>;

struct scratch_file {
  std::filesystem::path path;

  explicit scratch_file(const std::string& content) {
    path = std::filesystem::temp_directory_path() / ("cohort_vocabulary_" + std::to_string(std::random_device{}()));
    std::ofstream(path, std::ios::binary) << content;
  }
  ~scratch_file() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
};

std::string failure(const std::filesystem::path& path) {
  try {
    wordpiece::load(path);
  } catch (const model_error& error) {
    return error.what();
  }
  return "none";
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("wordpiece: golden ids of over 100 varied texts, with the part of the real vocabulary that they need") {
  std::ifstream file(golden::data_folder() / "wordpiece_vocabulary.tsv", std::ios::binary);
  REQUIRE(file);
  std::vector<std::string> tokens;
  std::vector<token_id> real_ids;
  for (std::string line; std::getline(file, line);) {
    const std::size_t tab = line.find('\t');
    real_ids.push_back(std::stoi(line.substr(0, tab)));
    tokens.push_back(line.substr(tab + 1));
  }
  const wordpiece tokenizer(tokens);
  const auto items = golden::read_texts("wordpiece_golden.json");
  REQUIRE(items.size() >= 100);
  for (const golden::item& item : items) {
    INFO("text: ", item.text);
    ids found = tokenizer.encode(item.text);
    for (token_id& id : found) id = real_ids[static_cast<std::size_t>(id)];
    CHECK(found == item.ids);
  }
}

TEST_CASE("wordpiece: golden ids with the whole real vocabulary" * doctest::skip(!golden::model_folder())) {
  const wordpiece tokenizer = wordpiece::load(*golden::model_folder() / "vocab.txt");
  CHECK(tokenizer.size() == 30522);
  for (const char* name : {"wordpiece_golden.json", "minilm_golden.json"}) {
    for (const golden::item& item : golden::read_texts(name)) {
      INFO("text: ", item.text);
      CHECK(tokenizer.encode(item.text) == item.ids);
    }
  }
}

TEST_CASE("wordpiece: words are cut into the longest known pieces from the left") {
  CHECK(small().encode("unaffable") == ids{2, 5, 6, 7, 3});
  CHECK(small().encode("Running, the CAF\xC3\x89.") == ids{2, 8, 9, 14, 16, 15, 13, 3});
  CHECK(small().encode("abb") == ids{2, 10, 12, 12, 3});
  CHECK(small().encode("\xE4\xB8\xAD\xE6\x96\x87") == ids{2, 17, 18, 3});
}

TEST_CASE("wordpiece: a word with one unknown piece is one [UNK]") {
  CHECK(small().encode("unaffablez a") == ids{2, 1, 10, 3});
  CHECK(small().encode("zzz zzz") == ids{2, 1, 1, 3});
}

TEST_CASE("wordpiece: a word of 100 code points is cut, one of 101 is [UNK]") {
  CHECK(small().encode("a" + std::string(99, 'b')).size() == 102);
  CHECK(small().encode("a" + std::string(100, 'b')) == ids{2, 1, 3});
  CHECK(small().encode(std::string(1'000'000, 'b') + " a") == ids{2, 1, 10, 3});
}

TEST_CASE("wordpiece: no text and white space give [CLS] [SEP]") {
  CHECK(small().encode("") == ids{2, 3});
  CHECK(small().encode(" \t\r\n\xC2\xA0\xE3\x80\x80") == ids{2, 3});
  CHECK(small().encode(std::string(3, '\0')) == ids{2, 3});
}

TEST_CASE("wordpiece: 10,000 words are cut to max_tokens, the last of which is [SEP]") {
  std::string text;
  for (int i = 0; i < 10'000; ++i) text += "a b ";
  ids expected{2};
  for (int i = 0; i < 127; ++i) expected.insert(expected.end(), {10, 11});
  expected.push_back(3);
  CHECK(small().encode(text) == expected);
  CHECK(small().encode(text).size() == 256);
  CHECK(small().encode(text, 2) == ids{2, 3});
  CHECK(small().encode(text, 3) == ids{2, 10, 3});
  CHECK(small().encode("unaffable", 4) == ids{2, 5, 6, 3});
  CHECK_THROWS_AS(small().encode(text, 1), model_error);
}

TEST_CASE("wordpiece: what is not valid UTF-8 is dropped and the rest is kept") {
  const ids plain{2, 10, 12, 3};  // "ab"
  for (const char* bad : {"a\xFF"
                          "b",
                          "a\xC0\x80"
                          "b",
                          "a\xE4\xB8"
                          "b",
                          "a\xED\xA0\x80"
                          "b",
                          "a\xF4\x90\x80\x80"
                          "b",
                          "a\xF0\x9F\x98"
                          "b",
                          "a\x80\x80"
                          "b",
                          "ab\xC3", "ab\xF0\x9F",
                          "\xFE"
                          "ab",
                          "a\xE0\x80\xAF"
                          "b"}) {
    CHECK(small().encode(bad) == plain);
  }
  std::mt19937 random(7);
  for (int i = 0; i < 2'000; ++i) {
    std::string noise(random() % 300, '\0');
    for (char& c : noise) c = static_cast<char>(random());
    const ids found = small().encode(noise);
    REQUIRE(found.size() >= 2);
    REQUIRE(found.size() <= 256);
    for (const token_id id : found) REQUIRE((id >= 0 && id < static_cast<token_id>(small().size())));
  }
}

TEST_CASE("wordpiece: the name of a special token in the text is that token, as in the reference tokenizer") {
  CHECK(small().encode("a[SEP]b [MASK]") == ids{2, 10, 3, 11, 4, 3});
  CHECK(small().encode("[sep]") == ids{2, 1, 1, 1, 3});
}

TEST_CASE("wordpiece: a vocabulary that is missing, empty, repeated or without its special tokens is refused by name") {
  CHECK(has(failure("/nonexistent/vocab.txt"), "/nonexistent/vocab.txt: the vocabulary cannot be opened"));
  CHECK(has(failure(std::filesystem::temp_directory_path()), "cannot be opened"));
  CHECK(has(failure(scratch_file("").path), "is empty"));
  CHECK(has(failure(scratch_file("[CLS]\n[SEP]\na\n").path), "has no [UNK]"));
  CHECK(has(failure(scratch_file("[UNK]\n[SEP]\na\n").path), "has no [CLS]"));
  CHECK(has(failure(scratch_file("[UNK]\n[CLS]\na\n").path), "has no [SEP]"));
  CHECK(has(failure(scratch_file("[UNK]\n[CLS]\n[SEP]\na\na\n").path), "names 'a' twice"));
}

TEST_CASE("wordpiece: a vocabulary with Windows line ends and without a last line end is read") {
  const scratch_file file("[UNK]\r\n[CLS]\r\n[SEP]\r\nhello\r\n##s");
  const wordpiece tokenizer = wordpiece::load(file.path);
  CHECK(tokenizer.size() == 5);
  CHECK(tokenizer.encode("Hellos") == ids{1, 3, 4, 2});
}

TEST_CASE("wordpiece: the hashed toy vocabulary gives equal words equal ids below its size") {
  const wordpiece toy = wordpiece::hashed(30522);
  const ids found = toy.encode("The moon, the MOON");
  REQUIRE(found.size() == 7);
  CHECK(found[1] == found[4]);
  CHECK(found[2] == found[5]);
  CHECK(found[1] != found[2]);
  for (const token_id id : found) CHECK((id >= 2 && id < 30522));
  for (const golden::item& item : golden::read_texts("minilm_synthetic_golden.json"))
    CHECK(toy.encode(item.text) == item.ids);
  CHECK_THROWS_AS(wordpiece::hashed(5), model_error);
}

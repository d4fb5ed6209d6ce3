#include <semantic_search/corpus.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>

using namespace cohort_demo;

namespace {
const std::filesystem::path folder = std::filesystem::path(COHORT_SOURCE_DIR) / "examples" / "semantic_search";
}

TEST_CASE("corpus: passages are distinct, and each question's answer is in exactly one of them") {
  const auto passages = load_corpus(folder / "corpus.txt");
  CHECK(passages.size() >= 200);
  CHECK(std::set<std::string>(passages.begin(), passages.end()).size() == passages.size());
  const auto questions = load_questions(folder / "questions.txt");
  CHECK(questions.size() == 12);
  for (const question& q : questions) {
    INFO("question: ", q.text);
    REQUIRE(!q.answer.empty());
    CHECK(std::count_if(passages.begin(), passages.end(),
                        [&](const std::string& p) { return p.find(q.answer) != std::string::npos; }) == 1);
  }
}

TEST_CASE("corpus: a file that is missing, or a folder, is refused by name") {
  CHECK_THROWS_WITH_AS(load_corpus("/nonexistent/corpus.txt"), "/nonexistent/corpus.txt: cannot be opened",
                       model_error);
  CHECK_THROWS_AS(load_corpus(folder), model_error);
}

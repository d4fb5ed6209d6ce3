// The texts of the demo: corpus.txt and questions.txt, or files of the same form that a user brings.
#pragma once

#include "model_error.hpp"

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace cohort_demo {

/// A question, and words that only the passage with its answer contains; `answer` is empty where none are known.
struct question {
  std::string text, answer;
};

/// The lines of a text file without empty lines, comments ('#' in front) and Windows line ends.
/// Errors: model_error if the file cannot be read or has no such line.
inline std::vector<std::string> load_corpus(const std::filesystem::path& path) {
  std::error_code ignored;
  std::ifstream file(path, std::ios::binary);
  if (!file || !std::filesystem::is_regular_file(path, ignored))
    throw model_error(path.string() + ": cannot be opened");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty() && line.front() != '#') lines.push_back(std::move(line));
  }
  if (file.bad()) throw model_error(path.string() + ": cannot be read");
  if (lines.empty()) throw model_error(path.string() + ": has no line of text");
  return lines;
}

/// The same for questions: what follows a tab is the mark of the answer. Errors: those of load_corpus.
inline std::vector<question> load_questions(const std::filesystem::path& path) {
  std::vector<question> questions;
  for (const std::string& line : load_corpus(path)) {
    const std::size_t tab = line.find('\t');
    questions.push_back({line.substr(0, tab), tab == std::string::npos ? "" : line.substr(tab + 1)});
  }
  return questions;
}

}  // namespace cohort_demo

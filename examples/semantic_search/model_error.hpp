// The one exception of the demo's loaders: a file that is missing, damaged or hostile, and what is wrong with it.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

namespace cohort_demo {

/// Thrown by every loader in this folder. what() names the file and the fault in words for the person who chose the
/// file.
class model_error : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

/// A name taken from an untrusted file, fit for a message: at most 80 bytes, control characters shown as '?'.
inline std::string in_quotes(std::string_view name) {
  constexpr std::size_t longest = 80;
  std::string out = "'";
  for (const char c : name.substr(0, longest)) {
    out += (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) ? '?' : c;
  }
  out += name.size() > longest ? "...'" : "'";
  return out;
}

}  // namespace cohort_demo

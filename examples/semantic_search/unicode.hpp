// Text as BERT's uncased models see it: UTF-8 in, folded code points out. wordpiece.hpp is the only visitor.
//
// What lies outside: the tables know Unicode 14. Characters assigned later are passed through unchanged, and conjoining
// marks that are not non-spacing (a handful in Indic scripts) are not put into canonical order.
#pragma once

#include "unicode_tables.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>

namespace cohort_demo::unicode {

inline constexpr char32_t replacement = 0xFFFD;

/// Reads one code point at `position` and moves past it. Malformed input (overlong forms, surrogates, values above
/// U+10FFFF, cut-off sequences) gives U+FFFD and moves past its longest valid beginning, at least one byte, as Unicode
/// recommends. Precondition: position < text.size().
inline char32_t decode(std::string_view text, std::size_t& position) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(position++);
  if (lead < 0x80) return lead;
  int following = 0;
  std::uint8_t low = 0x80, high = 0xBF;  // bounds of the second byte: they exclude what is overlong or out of range
  if (lead >= 0xC2 && lead <= 0xDF) {
    following = 1;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    following = 2;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    following = 3;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return replacement;
  }
  char32_t value = lead & (0x3FU >> following);
  for (int i = 0; i < following; ++i) {
    if (position == text.size() || byte(position) < low || byte(position) > high) return replacement;
    value = (value << 6) | (byte(position++) & 0x3FU);
    low = 0x80;
    high = 0xBF;
  }
  return value;
}

inline void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t bits) { out.push_back(static_cast<char>(bits)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x1'0000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

template <std::size_t Count>
constexpr bool in_runs(const code_point_run (&runs)[Count], char32_t c) noexcept {
  const auto* after = std::upper_bound(std::begin(runs), std::end(runs), c,
                                       [](char32_t value, const code_point_run& run) { return value < run.first; });
  return after != std::begin(runs) && c <= std::prev(after)->last;
}

constexpr bool is_removed(char32_t c) noexcept { return in_runs(removed, c); }
constexpr bool is_white_space(char32_t c) noexcept { return in_runs(white_space, c); }
constexpr bool is_punctuation(char32_t c) noexcept { return in_runs(punctuation, c); }

/// Ideographs, which BERT makes words of their own. The ranges are those that BERT's tokenizers use, not a Unicode
/// property.
constexpr bool is_ideograph(char32_t c) noexcept {
  constexpr code_point_run ranges[] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
                                       {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F}};
  return in_runs(ranges, c);
}

/// Up to three code points by value.
struct folded {
  std::array<char32_t, 3> points{};
  std::size_t count = 0;
};

/// Lower-cased base letters: canonical decomposition, non-spacing marks dropped, lower case. Source: UAX #15 and, for
/// the arithmetic of Hangul syllables, section 3.12 of the Unicode standard.
inline folded fold(char32_t c) noexcept {
  if (c >= 0xAC00 && c <= 0xD7A3) {
    const char32_t index = c - 0xAC00, tail = index % 28;
    return {{0x1100 + index / 588, 0x1161 + index % 588 / 28, 0x11A7 + tail}, tail == 0 ? std::size_t{2} : 3};
  }
  const auto* after = std::upper_bound(std::begin(folds), std::end(folds), c,
                                       [](char32_t value, const fold_run& run) { return value < run.first; });
  if (after != std::begin(folds)) {
    const fold_run& run = *std::prev(after);
    if (c <= run.last && (c - run.first) % static_cast<char32_t>(run.step) == 0) {
      return {{static_cast<char32_t>(static_cast<std::int64_t>(c) + run.delta)}, 1};
    }
  }
  const auto* sequence = std::lower_bound(std::begin(fold_sequences), std::end(fold_sequences), c,
                                          [](const fold_sequence& s, char32_t value) { return s.from < value; });
  if (sequence == std::end(fold_sequences) || sequence->from != c) return {{c}, 1};
  folded result;
  for (const char32_t point : sequence->to) {
    if (point != 0) result.points[result.count++] = point;
  }
  return result;
}

}  // namespace cohort_demo::unicode

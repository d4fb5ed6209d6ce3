// The text format of Prometheus, version 0.0.4, and histograms as it wants them. Private to the observers.
#pragma once

#include <cohort/config.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace cohort::inline COHORT_ABI::detail {

/// Counts values by upper bounds, which are an array of ascending numbers with a name.
template <const auto& Bounds>
class histogram {
public:
  static constexpr const auto& bounds = Bounds;
  static_assert(std::is_sorted(Bounds.begin(), Bounds.end()));

  void add(double value) noexcept {
    ++counts_[static_cast<std::size_t>(std::lower_bound(Bounds.begin(), Bounds.end(), value) - Bounds.begin())];
    sum_ += value;
  }

  /// Values that are at most `bounds[i]` and above the bound before; with `i` past the bounds, above all.
  std::uint64_t count(std::size_t i) const noexcept { return counts_[i]; }
  double sum() const noexcept { return sum_; }

private:
  std::array<std::uint64_t, Bounds.size() + 1> counts_{};
  double sum_ = 0;
};

class exposition {
public:
  using labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

  /// Begins a metric. All its samples follow before the next metric.
  void family(std::string_view name, std::string_view type, std::string_view help) {
    append("# HELP ", name, " ");
    append(help, "\n# TYPE ", name);
    append(" ", type, "\n");
  }

  template <class Number>
  void sample(std::string_view name, labels with, Number value) {
    append(name);
    write_labels(with, {});
    write_value(value);
  }

  template <const auto& Bounds>
  void sample(std::string_view name, labels with, const histogram<Bounds>& values) {
    std::uint64_t below = 0;
    for (std::size_t i = 0; i <= Bounds.size(); ++i) {
      below += values.count(i);
      append(name, "_bucket");
      if (i < Bounds.size()) {
        char digits[32];
        const auto end = std::to_chars(digits, digits + sizeof digits, Bounds[i]).ptr;
        write_labels(with, std::string_view(digits, static_cast<std::size_t>(end - digits)));
      } else {
        write_labels(with, "+Inf");
      }
      write_value(below);
    }
    append(name, "_sum");
    write_labels(with, {});
    write_value(values.sum());
    append(name, "_count");
    write_labels(with, {});
    write_value(below);
  }

  template <const auto& Bounds>
  void histogram_family(std::string_view name, std::string_view help, const histogram<Bounds>& values) {
    family(name, "histogram", help);
    sample(name, {}, values);
  }

  std::string take() noexcept { return std::move(text_); }

private:
  template <class... Parts>
  void append(Parts... parts) {
    (text_.append(parts), ...);
  }

  void write_labels(labels with, std::string_view upper_bound) {
    if (with.size() == 0 && upper_bound.empty()) return;
    char separator = '{';
    const auto write = [&](std::string_view name, std::string_view value) {
      text_ += std::exchange(separator, ',');
      append(name, "=\"");
      for (const char c : value) {
        if (c == '\\' || c == '"') text_ += '\\';
        if (c == '\n') {
          append("\\n");
        } else {
          text_ += c;
        }
      }
      text_ += '"';
    };
    for (const auto& [name, value] : with) write(name, value);
    if (!upper_bound.empty()) write("le", upper_bound);
    text_ += '}';
  }

  template <class Number>
  void write_value(Number value) {
    char digits[32];
    text_ += ' ';
    text_.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
    text_ += '\n';
  }

  std::string text_;
};

}  // namespace cohort::inline COHORT_ABI::detail

// Arrivals as a file: CSV with the header `seconds,tenant,model`, one request to a line, in order of time. What was
// recorded elsewhere can be replayed, and what was generated can be looked at.
#pragma once

#include "arrivals.hpp"

#include <charconv>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <istream>
#include <ostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cohort_load {

/// A trace that cannot be read: which line, and what is wrong with it.
struct trace_error : std::runtime_error {
  trace_error(std::size_t line, const std::string& what)
      : std::runtime_error("line " + std::to_string(line) + " of the trace: " + what) {}
};

namespace detail {

template <class T>
T field(std::string_view& rest, bool last, std::size_t line, const char* name) {
  const std::size_t comma = rest.find(',');
  if ((comma == std::string_view::npos) != last) throw trace_error(line, "three fields are expected");
  const std::string_view text = rest.substr(0, comma);
  rest = last ? std::string_view() : rest.substr(comma + 1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) {
    throw trace_error(line, std::string(name) + " is '" + std::string(text) + "'");
  }
  return value;
}

}  // namespace detail

/// \throws trace_error for a missing header, a malformed line, a negative or falling time; an empty trace is one.
inline std::vector<arrival> read_trace(std::istream& in) {
  constexpr double most_seconds = 9e9;  // nanoseconds must fit
  std::vector<arrival> all;
  std::string text;
  std::size_t line = 0;
  while (std::getline(in, text)) {
    ++line;
    if (!text.empty() && text.back() == '\r') text.pop_back();
    if (line == 1) {
      if (text != "seconds,tenant,model") throw trace_error(line, "the header 'seconds,tenant,model' is expected");
      continue;
    }
    if (text.empty()) continue;
    std::string_view rest = text;
    const auto seconds = detail::field<double>(rest, false, line, "the time");
    if (!(seconds >= 0) || seconds > most_seconds) throw trace_error(line, "the time is out of range");
    const auto tenant = detail::field<std::uint32_t>(rest, false, line, "the tenant");
    const auto model = detail::field<std::uint32_t>(rest, true, line, "the model");
    const std::chrono::nanoseconds at{std::llround(seconds * 1e9)};
    if (!all.empty() && at < all.back().at) throw trace_error(line, "the time is before that of the line above");
    all.push_back({at, tenant, model});
  }
  if (line == 0) throw trace_error(1, "the header 'seconds,tenant,model' is expected");
  return all;
}

inline void write_trace(std::ostream& out, const std::vector<arrival>& all) {
  out << "seconds,tenant,model\n";
  for (const arrival& one : all) {
    const auto ns = one.at.count();
    std::string fraction = std::to_string(ns % 1'000'000'000);
    fraction.insert(0, 9 - fraction.size(), '0');
    out << ns / 1'000'000'000 << '.' << fraction << ',' << one.tenant << ',' << one.model << '\n';
  }
}

}  // namespace cohort_load

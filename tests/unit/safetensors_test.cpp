#include <semantic_search/safetensors.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace cohort_demo;

namespace {

using bytes = std::vector<std::byte>;

bytes with_length(std::uint64_t length, std::string_view header, std::size_t data) {
  bytes file(8 + header.size() + data);
  std::memcpy(file.data(), &length, 8);
  std::memcpy(file.data() + 8, header.data(), header.size());
  for (std::size_t i = 0; i < data; ++i) file[8 + header.size() + i] = static_cast<std::byte>(i);
  return file;
}

bytes file_of(std::string_view header, std::size_t data) { return with_length(header.size(), header, data); }

std::string failure(const bytes& file) {
  try {
    safetensors::view(file);
  } catch (const model_error& error) {
    return error.what();
  }
  return "none";
}

/// Checks that the header is refused and that the message holds the words given.
void refused(std::string_view header, std::size_t data, std::string_view words) {
  const std::string message = failure(file_of(header, data));
  INFO("header: ", std::string(header.substr(0, 200)), ", message: ", message);
  CHECK(message.find(words) != std::string::npos);
}

std::string tensor(std::string_view fields) { return R"({"a":{)" + std::string(fields) + "}}"; }

/// A file in the temporary folder that goes when the test ends.
struct scratch_file {
  std::filesystem::path path;

  explicit scratch_file(const bytes& content) {
    path = std::filesystem::temp_directory_path() / ("cohort_safetensors_" + std::to_string(std::random_device{}()));
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
  }
  ~scratch_file() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
};

constexpr std::string_view two_tensors =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[2],"data_offsets":[24,40]},)"
    R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";

}  // namespace

TEST_CASE("safetensors: a valid file gives each tensor its type, shape and bytes") {
  const bytes file = file_of(two_tensors, 40);
  const safetensors opened = safetensors::view(file);
  REQUIRE(opened.tensors().size() == 2);
  const tensor_view& a = opened.at("a");
  CHECK(a.type == dtype::f32);
  CHECK(a.shape == std::vector<std::uint64_t>{2, 3});
  CHECK(a.elements() == 6);
  CHECK(a.bytes.data() == file.data() + 8 + two_tensors.size());
  CHECK(a.bytes.size() == 24);
  CHECK(to_integers(opened.at("b")) == std::vector<std::int64_t>{0x1F1E'1D1C'1B1A'1918, 0x2726'2524'2322'2120});
  CHECK(opened.find("c") == nullptr);
}

TEST_CASE("safetensors: scalars, empty tensors, escaped names and padding after the header are valid") {
  const bytes file = file_of(
      R"({"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"e\u0041":{"dtype":"F32","shape":[0,7],"data_offsets":[1,1]}}   )",
      1);
  const safetensors opened = safetensors::view(file);
  CHECK(opened.at("s").elements() == 1);
  CHECK(opened.at("eA").elements() == 0);
  CHECK(to_floats(opened.at("eA")).empty());
  CHECK(safetensors::view(file_of("{}", 0)).tensors().empty());
}

TEST_CASE("safetensors: F32, F16, BF16 and F64 convert to float from unaligned addresses") {
  std::string header =
      R"({"h":{"dtype":"F16","shape":[8],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},)"
      R"("f":{"dtype":"F32","shape":[2],"data_offsets":[22,30]},"d":{"dtype":"F64","shape":[1],"data_offsets":[30,38]}})";
  if (header.size() % 2 == 0) header += ' ';  // an odd header puts every tensor at an odd offset
  bytes file = file_of(header, 38);
  std::byte* const data = file.data() + 8 + header.size();
  const std::uint16_t halves[] = {0x3C00, 0xC000, 0x0001, 0x8000, 0x7BFF, 0x7C00, 0x7E00, 0x03FF};
  const std::uint16_t bfloats[] = {0x3F80, 0xC049, 0x0080};
  const float floats[] = {1.5F, -0.1F};
  const double wide = 1e300;
  std::memcpy(data, halves, 16);
  std::memcpy(data + 16, bfloats, 6);
  std::memcpy(data + 22, floats, 8);
  std::memcpy(data + 30, &wide, 8);

  const safetensors opened = safetensors::view(file);
  const std::vector<float> h = to_floats(opened.at("h"));
  CHECK(h[0] == 1.0F);
  CHECK(h[1] == -2.0F);
  CHECK(h[2] == 0x1p-24F);
  CHECK((h[3] == 0.0F && std::signbit(h[3])));
  CHECK(h[4] == 65504.0F);
  CHECK(h[5] == std::numeric_limits<float>::infinity());
  CHECK(std::isnan(h[6]));
  CHECK(h[7] == 1023 * 0x1p-24F);
  CHECK(to_floats(opened.at("b")) == std::vector<float>{1.0F, -3.140625F, 0x1p-126F});
  CHECK(to_floats(opened.at("f")) == std::vector<float>{1.5F, -0.1F});
  CHECK(std::isinf(to_floats(opened.at("d"))[0]));
  CHECK_THROWS_AS(to_integers(opened.at("f")), model_error);
}

TEST_CASE("safetensors: every half converts to the float of the same value") {
  for (std::uint32_t bits = 0; bits < 0x1'0000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const int exponent = (half >> 10) & 0x1F;
    const int fraction = half & 0x3FF;
    if (exponent == 0x1F) continue;
    const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    if (static_cast<double>(detail::half_to_float(half)) != ((half & 0x8000) != 0 ? -magnitude : magnitude)) {
      FAIL_CHECK("half " << bits);
    }
  }
}

TEST_CASE("safetensors: a file that is cut off anywhere is refused") {
  const bytes file = file_of(two_tensors, 40);
  for (std::size_t size = 0; size < file.size(); ++size) {
    if (failure(bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size))) == "none")
      FAIL_CHECK("at " << size);
  }
}

TEST_CASE("safetensors: a header length beyond the file or beyond 100 MB is refused") {
  CHECK(failure(with_length(100, "{}", 0)).find("past the end of the file") != std::string::npos);
  CHECK(failure(with_length(100'000'001, "{}", 0)).find("100 MB") != std::string::npos);
  CHECK(failure(with_length(std::numeric_limits<std::uint64_t>::max(), "{}", 0)).find("100 MB") != std::string::npos);
  CHECK(failure(with_length(std::numeric_limits<std::uint64_t>::max() - 7, "{}", 0)).find("100 MB") !=
        std::string::npos);
}

TEST_CASE("safetensors: what is not one JSON object of the right form is refused") {
  refused("", 0, "not valid JSON");
  refused("{", 0, "not valid JSON");
  refused("{} x", 0, "goes on after");
  refused("{}{}", 0, "goes on after");
  refused("nonsense", 0, "not valid JSON");
  refused("{\"a\xFF\":1}", 0, "not valid JSON");
  refused("[]", 0, "an array, not an object");
  refused("7", 0, "a number, not an object");
  refused("null", 0, "null, not an object");
  refused(R"({"a":[]})", 0, "an array where none belongs");
  refused(R"({"a":"x"})", 0, "a string where none belongs");
  refused(R"({"a":{"dtype":{}}})", 0, "an object where none belongs");
  refused(R"({"__metadata__":{"x":1}})", 0, "not only strings");
  refused(R"({"__metadata__":{"x":{}}})", 0, "not only strings");
  refused(R"({"__metadata__":3})", 0, "a number");
}

TEST_CASE("safetensors: deep nesting is refused, not followed") {
  std::string deep(100'000, '[');
  refused(deep, 0, "not an object");
  refused(R"({"a":{"shape":)" + deep, 0, "where none belongs");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  refused(objects, 0, "unknown field 'a'");
}

TEST_CASE("safetensors: a tensor with missing, repeated, unknown or ill-typed fields is refused") {
  refused(tensor(""), 0, "has no dtype");
  refused(tensor(R"("dtype":"F32","shape":[1])"), 4, "has no data_offsets");
  refused(tensor(R"("dtype":"F32","data_offsets":[0,4])"), 4, "has no shape");
  refused(tensor(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), 4, "states dtype twice");
  refused(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1)"), 4, "unknown field 'x'");
  refused(tensor(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])"), 4, "unknown dtype 'F31'");
  refused(tensor(R"("dtype":7,"shape":[1],"data_offsets":[0,4])"), 4, "a number where none belongs");
  refused(tensor(R"("dtype":["F32"],"shape":[1],"data_offsets":[0,4])"), 4, "an array where none belongs");
  refused(tensor(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), 4, "a number where none belongs");
  refused(tensor(R"("dtype":"F32","shape":"1","data_offsets":[0,4])"), 4, "a string where none belongs");
  refused(tensor(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), 4, "an array where none belongs");
  refused(tensor(R"("dtype":"F32","shape":[true],"data_offsets":[0,4])"), 4, "a truth value");
  refused(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), 4, "not a pair");
  refused(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])"), 4, "not a pair");
}

TEST_CASE("safetensors: negative, fractional and oversized numbers are refused") {
  refused(tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4, "a negative number");
  refused(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])"), 4, "a negative number");
  refused(tensor(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])"), 4, "no integer of 64 bits");
  refused(tensor(R"("dtype":"F32","shape":[1e0],"data_offsets":[0,4])"), 4, "no integer of 64 bits");
  refused(tensor(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4])"), 4, "no integer of 64 bits");
  std::string many = "1";
  for (int i = 0; i < 32; ++i) many += ",1";
  refused(tensor(R"("dtype":"F32","data_offsets":[0,4],"shape":[)" + many + "]"), 4, "more than 32 dimensions");
}

TEST_CASE("safetensors: a shape whose size overflows is refused, also beside an extent of zero") {
  refused(tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0, "overflows");
  refused(tensor(R"("dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4])"), 4, "overflows");
  refused(tensor(R"("dtype":"U8","shape":[0,18446744073709551615,2],"data_offsets":[0,0])"), 0, "overflows");
}

TEST_CASE("safetensors: offsets that run backwards, past the end, or do not fit shape and type are refused") {
  refused(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4, "run backwards");
  refused(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), 4, "past the end of the data");
  refused(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615])"), 4,
          "past the end");
  refused(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4, "take 8 bytes");
  refused(tensor(R"("dtype":"F16","shape":[1],"data_offsets":[0,4])"), 4, "take 2 bytes");
}

TEST_CASE("safetensors: overlaps, holes, unused bytes and repeated names are refused") {
  const auto pair = [](std::string_view first, std::string_view second, std::string_view name) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + std::string(first) + R"(},")" + std::string(name) +
           R"(":{"dtype":"U8","shape":[4],"data_offsets":)" + std::string(second) + "}}";
  };
  CHECK(failure(file_of(pair("[0,4]", "[4,8]", "b"), 8)) == "none");
  refused(pair("[0,4]", "[3,7]", "b"), 7, "'b' overlaps");
  refused(pair("[0,4]", "[0,4]", "b"), 4, "overlaps");
  refused(pair("[0,4]", "[5,9]", "b"), 9, "a hole in the data before tensor 'b'");
  refused(pair("[0,4]", "[4,8]", "b"), 9, "end at byte 8 of 9");
  refused(pair("[0,4]", "[4,8]", "a"), 8, "'a' is named twice");
  refused(pair("[0,4]", "[4,8]", R"(\u0061)"), 8, "'a' is named twice");
}

TEST_CASE("safetensors: a hostile name cannot flood or control the message") {
  const std::string name = "\\u001b[2J" + std::string(100'000, 'n');
  const std::string message = failure(file_of(R"({")" + name + R"(":{}})", 0));
  CHECK(message.size() < 300);
  CHECK(message.find('\x1b') == std::string::npos);
}

TEST_CASE("safetensors: a missing tensor is named together with the file") {
  const bytes file = file_of(two_tensors, 40);
  const safetensors opened = safetensors::view(file, "weights");
  CHECK_THROWS_WITH_AS(opened.at("c"), "weights: tensor 'c' is missing", model_error);
}

TEST_CASE("safetensors: files are read from disk, and what cannot be opened is named") {
  {
    const scratch_file valid(file_of(two_tensors, 40));
    safetensors opened = safetensors::open(valid.path);
    const safetensors moved = std::move(opened);
    CHECK(moved.at("a").bytes[5] == std::byte{5});
  }
  const scratch_file empty(bytes{});
  CHECK_THROWS_AS(safetensors::open(empty.path), model_error);
  CHECK_THROWS_AS(safetensors::open(std::filesystem::temp_directory_path()), model_error);
  try {
    safetensors::open("/nonexistent/model.safetensors");
    FAIL("a missing file was opened");
  } catch (const model_error& error) {
    CHECK(std::string(error.what()).find("/nonexistent/model.safetensors: cannot be opened") == 0);
  }
}

TEST_CASE(
    "safetensors: 20,000 seeded mutants of a valid file are parsed or refused with model_error, and read within "
    "bounds") {
  const bytes original = file_of(two_tensors, 40);
  const std::string_view tokens[] = {"{",
                                     "}",
                                     "[",
                                     "]",
                                     ",",
                                     ":",
                                     "\"",
                                     "-1",
                                     "0",
                                     "24",
                                     "99999999999999999999",
                                     "1e9",
                                     "null",
                                     "\"a\":",
                                     "\"dtype\"",
                                     "\"shape\"",
                                     "\"data_offsets\"",
                                     "\"F16\"",
                                     "\\u0000",
                                     "\xFF"};
  std::mt19937 random(20190901);
  const auto below = [&](std::size_t bound) {
    return std::uniform_int_distribution<std::size_t>(0, bound - 1)(random);
  };
  std::size_t parsed = 0, refusals = 0;
  for (int i = 0; i < 20'000; ++i) {
    bytes mutant = original;
    for (std::size_t edits = 1 + below(3); edits > 0 && !mutant.empty(); --edits) {
      const auto at = mutant.begin() + static_cast<std::ptrdiff_t>(below(mutant.size()));
      switch (below(5)) {
        case 0: *at = static_cast<std::byte>(below(256)); break;
        case 1: *at ^= static_cast<std::byte>(1U << below(8)); break;
        case 2:
          mutant.erase(at, at + static_cast<std::ptrdiff_t>(std::min<std::size_t>(1 + below(8), mutant.end() - at)));
          break;
        case 3: mutant.resize(below(mutant.size() + 1)); break;
        case 4: {
          const std::string_view token = tokens[below(std::size(tokens))];
          const auto* first = reinterpret_cast<const std::byte*>(token.data());
          mutant.insert(at, first, first + token.size());
          break;
        }
      }
    }
    // Half of the mutants get a fitting length again: otherwise few would reach the parser.
    if (mutant.size() >= 48 && below(2) == 0) {
      const std::uint64_t length = mutant.size() - 48;
      std::memcpy(mutant.data(), &length, 8);
    }
    try {
      const safetensors opened = safetensors::view(mutant);
      for (const auto& [name, view] : opened.tensors()) {
        const std::byte* const end = mutant.data() + mutant.size();
        if (view.bytes.data() < mutant.data() || view.bytes.data() + view.bytes.size() > end)
          FAIL("a view leaves the file");
        if (view.type == dtype::f32 || view.type == dtype::f16) REQUIRE(to_floats(view).size() == view.elements());
      }
      ++parsed;
    } catch (const model_error&) {
      ++refusals;
    }
  }
  CHECK(parsed > 100);
  CHECK(refusals > 100);
}

// Fuzzes the safetensors reader: any bytes are parsed or refused with model_error, and no view leaves the file.
//   clang++-19 -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I examples tests/fuzz/safetensors_fuzz.cpp -o
//   safetensors_fuzz
//   ./safetensors_fuzz -max_total_time=180 -max_len=4096
// For a fuzzer that never guesses the length field: bytes that begin with '{' are given a fitting one.
#include <semantic_search/safetensors.hpp>

#include <boost/json/src.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::byte> file(size);
  if (size != 0) std::memcpy(file.data(), data, size);
  if (size != 0 && data[0] == '{') {
    // The header ends at the first zero byte; what follows that byte is the tensors' data.
    const void* const zero = std::memchr(data, 0, size);
    const std::uint64_t length = zero == nullptr ? size : static_cast<const std::uint8_t*>(zero) - data;
    file.insert(file.begin(), 8, std::byte{});
    std::memcpy(file.data(), &length, sizeof length);
    if (zero != nullptr) file.erase(file.begin() + 8 + static_cast<std::ptrdiff_t>(length));
  }
  using namespace cohort_demo;
  try {
    const safetensors opened = safetensors::view(file);
    for (const auto& [name, view] : opened.tensors()) {
      if (view.bytes.size() > file.size() || view.bytes.data() < file.data() ||
          view.bytes.data() + view.bytes.size() > file.data() + file.size()) {
        std::abort();
      }
      try {
        if (to_floats(view).size() != view.elements()) std::abort();
      } catch (const model_error&) {
        if (view.type == dtype::i64 && to_integers(view).size() != view.elements()) std::abort();
      }
    }
  } catch (const model_error&) {
  }
  return 0;
}

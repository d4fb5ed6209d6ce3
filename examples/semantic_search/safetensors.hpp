// Reader of safetensors files: a header length (u64, little endian), a JSON header, then the tensors' raw bytes.
// Weights come in through this door, so it trusts nothing: every number is checked before a byte is handed out.
#pragma once

#include "mapped_file.hpp"
#include "model_error.hpp"
#include "safetensors_header.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cohort_demo {

static_assert(std::endian::native == std::endian::little, "safetensors holds little-endian values");

enum class dtype { boolean, u8, i8, f8_e5m2, f8_e4m3, u16, i16, f16, bf16, u32, i32, f32, u64, i64, f64 };

/// One tensor of an open file: row major, without padding. `bytes` may start at any address: copy values out with
/// memcpy. Valid as long as the bytes of the safetensors object it came from.
struct tensor_view {
  dtype type = dtype::f32;
  std::vector<std::uint64_t> shape;  ///< empty for a scalar
  std::span<const std::byte> bytes;  ///< elements() times the size of the type, exactly

  std::uint64_t elements() const noexcept {
    std::uint64_t product = 1;
    for (const std::uint64_t extent : shape) product *= extent;  // cannot overflow: the reader has checked it
    return product;
  }
};

namespace detail {

struct dtype_info {
  std::string_view name;
  dtype type;
  std::size_t size;
};

inline constexpr std::array<dtype_info, 15> dtypes = {{
    {"BOOL", dtype::boolean, 1},
    {"U8", dtype::u8, 1},
    {"I8", dtype::i8, 1},
    {"F8_E5M2", dtype::f8_e5m2, 1},
    {"F8_E4M3", dtype::f8_e4m3, 1},
    {"U16", dtype::u16, 2},
    {"I16", dtype::i16, 2},
    {"F16", dtype::f16, 2},
    {"BF16", dtype::bf16, 2},
    {"U32", dtype::u32, 4},
    {"I32", dtype::i32, 4},
    {"F32", dtype::f32, 4},
    {"U64", dtype::u64, 8},
    {"I64", dtype::i64, 8},
    {"F64", dtype::f64, 8},
}};

/// IEEE binary16 to binary32; exact for every value, NaN payloads kept.
inline float half_to_float(std::uint16_t half) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1FU;
  std::uint32_t fraction = half & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F80'0000U | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;  // zero and subnormals
  return sign != 0 ? -magnitude : magnitude;
}

inline float bfloat_to_float(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

template <typename Stored, typename Result, typename Convert>
std::vector<Result> converted(const tensor_view& tensor, Convert convert) {
  std::vector<Result> values(tensor.bytes.size() / sizeof(Stored));
  for (std::size_t i = 0; i < values.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, tensor.bytes.data() + i * sizeof(Stored), sizeof(Stored));
    values[i] = convert(stored);
  }
  return values;
}

}  // namespace detail

/// The name of a type as the format spells it, for instance "BF16".
inline std::string_view to_string(dtype type) {
  return std::find_if(detail::dtypes.begin(), detail::dtypes.end(), [&](const auto& d) { return d.type == type; })
      ->name;
}

/// All elements as float, in order. Takes F32, F16, BF16 and F64 (rounded to nearest). Errors: model_error for other
/// types.
inline std::vector<float> to_floats(const tensor_view& tensor) {
  switch (tensor.type) {
    case dtype::f32: return detail::converted<float, float>(tensor, std::identity{});
    case dtype::f16: return detail::converted<std::uint16_t, float>(tensor, detail::half_to_float);
    case dtype::bf16: return detail::converted<std::uint16_t, float>(tensor, detail::bfloat_to_float);
    case dtype::f64: return detail::converted<double, float>(tensor, [](double v) { return static_cast<float>(v); });
    default:
      throw model_error("a tensor of type " + std::string(to_string(tensor.type)) + " does not hold real numbers");
  }
}

/// All elements as 64-bit integers, in order. Takes I64 and I32. Errors: model_error for other types.
inline std::vector<std::int64_t> to_integers(const tensor_view& tensor) {
  switch (tensor.type) {
    case dtype::i64: return detail::converted<std::int64_t, std::int64_t>(tensor, std::identity{});
    case dtype::i32: return detail::converted<std::int32_t, std::int64_t>(tensor, std::identity{});
    default: throw model_error("a tensor of type " + std::string(to_string(tensor.type)) + " does not hold integers");
  }
}

/// An open safetensors file: its tensors by name. Immutable once made, so any number of threads may read it. Move-only.
class safetensors {
public:
  using map = std::map<std::string, tensor_view, std::less<>>;
  static constexpr std::uint64_t max_header_bytes =
      100'000'000;  ///< the limit of the format's reference implementation

  /// Maps the file and checks all of its header. Errors: model_error that names the file and the fault.
  static safetensors open(const std::filesystem::path& path) {
    safetensors opened;
    opened.file_ = mapped_file(path);
    opened.origin_ = path.string();
    opened.read(opened.file_.bytes());
    return opened;
  }

  /// The same over bytes in memory, which the caller keeps alive and unchanged. `origin` stands for the file in
  /// messages.
  static safetensors view(std::span<const std::byte> bytes, std::string origin = "safetensors") {
    safetensors opened;
    opened.origin_ = std::move(origin);
    opened.read(bytes);
    return opened;
  }

  const map& tensors() const noexcept { return tensors_; }
  const std::string& origin() const noexcept { return origin_; }

  /// Null if there is no such tensor.
  const tensor_view* find(std::string_view name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

  /// Errors: model_error if there is no such tensor.
  const tensor_view& at(std::string_view name) const {
    if (const tensor_view* found = find(name)) return *found;
    throw model_error(origin_ + ": tensor " + in_quotes(name) + " is missing");
  }

private:
  safetensors() = default;

  void read(std::span<const std::byte> bytes) try {
    if (bytes.size() < 8) throw model_error("the file ends before its header length (8 bytes)");
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    if (length > max_header_bytes) {
      throw model_error("the header length " + std::to_string(length) + " is above the limit of 100 MB");
    }
    if (length > bytes.size() - 8) {
      throw model_error("the header length " + std::to_string(length) + " goes past the end of the file (" +
                        std::to_string(bytes.size()) + " bytes)");
    }
    const auto* text = reinterpret_cast<const char*>(bytes.data()) + 8;
    std::vector<detail::header_entry> entries = detail::parse_header({text, static_cast<std::size_t>(length)});
    const auto data = bytes.subspan(8 + static_cast<std::size_t>(length));
    for (detail::header_entry& entry : entries) add(entry, data);
    check_layout(entries, data.size());
  } catch (const model_error& error) {
    throw model_error(origin_ + ": " + error.what());
  }

  void add(detail::header_entry& entry, std::span<const std::byte> data) {
    const auto fail = [&](const std::string& what) {
      throw model_error("tensor " + in_quotes(entry.name) + " " + what);
    };
    const auto* const info = std::find_if(detail::dtypes.begin(), detail::dtypes.end(),
                                          [&](const detail::dtype_info& d) { return d.name == entry.dtype; });
    if (info == detail::dtypes.end()) fail("has the unknown dtype " + in_quotes(entry.dtype));
    const std::string offsets = "[" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + "]";
    if (entry.begin > entry.end) fail("has data_offsets " + offsets + ", which run backwards");
    if (entry.end > data.size()) {
      fail("has data_offsets " + offsets + ", past the end of the data (" + std::to_string(data.size()) + " bytes)");
    }
    // Checked even where a later extent is zero: no product of a view's extents may overflow, in whatever order.
    std::uint64_t size = info->size;
    bool empty = false;
    for (const std::uint64_t extent : entry.shape) {
      if (extent == 0) {
        empty = true;
      } else if (__builtin_mul_overflow(size, extent, &size)) {
        fail("has a shape whose size overflows 64 bits");
      }
    }
    if (empty) size = 0;
    if (size != entry.end - entry.begin) {
      fail("has data_offsets " + offsets + ", but its shape and dtype take " + std::to_string(size) + " bytes");
    }
    tensor_view view{info->type, std::move(entry.shape),
                     data.subspan(static_cast<std::size_t>(entry.begin), static_cast<std::size_t>(size))};
    if (!tensors_.emplace(entry.name, std::move(view)).second) fail("is named twice");
  }

  /// The format allows neither overlaps nor holes: in order of their offsets, the tensors tile the data.
  static void check_layout(std::vector<detail::header_entry>& entries, std::size_t data_bytes) {
    std::sort(entries.begin(), entries.end(),
              [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    std::uint64_t end = 0;
    for (const detail::header_entry& entry : entries) {
      if (entry.begin < end) throw model_error("tensor " + in_quotes(entry.name) + " overlaps the one before it");
      if (entry.begin > end) throw model_error("there is a hole in the data before tensor " + in_quotes(entry.name));
      end = entry.end;
    }
    if (end != data_bytes) {
      throw model_error("the tensors end at byte " + std::to_string(end) + " of " + std::to_string(data_bytes) +
                        " bytes of data");
    }
  }

  mapped_file file_;
  std::string origin_;
  map tensors_;
};

}  // namespace cohort_demo

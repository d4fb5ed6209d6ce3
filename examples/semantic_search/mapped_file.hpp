// A read-only view of a file through the page cache. The safetensors reader stands on it; nothing else needs it.
#pragma once

#include "model_error.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

namespace cohort_demo {

/// The bytes of one regular file, mapped read-only (POSIX). Move-only. The file must not be truncated while it is
/// mapped: the operating system answers a read past its new end with SIGBUS. Reading from several threads is safe.
class mapped_file {
public:
  mapped_file() = default;

  /// Errors: model_error if the path does not name a readable regular file.
  explicit mapped_file(const std::filesystem::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) fail(path, "cannot be opened");
    struct stat info{};
    if (::fstat(descriptor, &info) != 0) {
      close_and_fail(descriptor, path, "cannot be examined");
    }
    if (!S_ISREG(info.st_mode)) {
      ::close(descriptor);
      throw model_error(path.string() + ": is not a regular file");
    }
    size_ = static_cast<std::size_t>(info.st_size);
    if (size_ != 0) {  // mmap refuses a length of zero; an empty file is an empty view
      void* const address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
      if (address == MAP_FAILED) close_and_fail(descriptor, path, "cannot be mapped");
      data_ = static_cast<const std::byte*>(address);
    }
    ::close(descriptor);  // the mapping keeps the file alive
  }

  mapped_file(mapped_file&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

  mapped_file& operator=(mapped_file&& other) noexcept {
    if (this != &other) {
      unmap();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }

  ~mapped_file() { unmap(); }

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

private:
  [[noreturn]] static void fail(const std::filesystem::path& path, const char* what) {
    throw model_error(path.string() + ": " + what + ": " + std::strerror(errno));
  }

  [[noreturn]] static void close_and_fail(int descriptor, const std::filesystem::path& path, const char* what) {
    const int cause = errno;
    ::close(descriptor);
    errno = cause;
    fail(path, what);
  }

  void unmap() noexcept {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace cohort_demo

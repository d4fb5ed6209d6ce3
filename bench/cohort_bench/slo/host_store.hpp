// Memory of the host for models that run there, or nowhere.
#pragma once

#include "models.hpp"

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace cohort_bench::slo {

class host_store final : public store {
public:
  void* take(std::size_t bytes) override {
    all_.emplace_back(static_cast<std::byte*>(::operator new(bytes, alignment)));
    std::memset(all_.back().get(), 0, bytes);
    return all_.back().get();
  }
  void write(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void read(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }

private:
  static constexpr std::align_val_t alignment{256};
  struct deleter {
    void operator()(std::byte* block) const noexcept { ::operator delete(block, alignment); }
  };
  std::vector<std::unique_ptr<std::byte, deleter>> all_;
};

}  // namespace cohort_bench::slo

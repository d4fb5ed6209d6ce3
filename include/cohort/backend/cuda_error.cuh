// CUDA's error codes as boost error codes, and the one way by which cohort calls the CUDA runtime. Needs the toolkit.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>

#include <cuda_runtime_api.h>

#include <boost/system/error_category.hpp>
#include <boost/system/error_condition.hpp>

#include <string>

namespace cohort::inline COHORT_ABI {

namespace detail {

class cuda_category_type final : public boost::system::error_category {
public:
  using boost::system::error_category::message;

  /// The id makes copies in several shared libraries one category.
  constexpr cuda_category_type() noexcept : error_category(0x5e17'a0c8'93d4'2bf1ULL) {}

  const char* name() const noexcept override { return "cohort.cuda"; }

  std::string message(int value) const override {
    const auto error = static_cast<cudaError_t>(value);
    return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
  }

  boost::system::error_condition default_error_condition(int value) const noexcept override {
    namespace generic = boost::system::errc;
    switch (static_cast<cudaError_t>(value)) {
      case cudaErrorMemoryAllocation: return generic::make_error_condition(generic::not_enough_memory);
      case cudaErrorNoDevice:
      case cudaErrorInsufficientDriver:
      case cudaErrorInvalidDevice: return generic::make_error_condition(generic::no_such_device);
      case cudaErrorInvalidValue: return generic::make_error_condition(generic::invalid_argument);
      case cudaErrorNotSupported: return generic::make_error_condition(generic::not_supported);
      default: return {value, *this};
    }
  }
};

}  // namespace detail

/// The category of `cudaError_t`.
inline const boost::system::error_category& cuda_category() noexcept {
  static const detail::cuda_category_type instance{};
  return instance;
}

namespace detail {

/// Every call of the CUDA runtime goes through here or through `cuda_check`. An error is taken out of the runtime's
/// "last error", so that nobody else trips over it later.
inline error_code cuda_try(cudaError_t status) noexcept {
  if (status == cudaSuccess) return {};
  (void)cudaGetLastError();
  return {static_cast<int>(status), cuda_category()};
}

/// Throws `system_error` with CUDA's code; `what` says what was tried.
inline void cuda_check(cudaError_t status, const char* what) {
  if (const error_code failed = cuda_try(status)) throw system_error(failed, what);
}

/// Makes a device current for the calling thread while it lives. Only where CUDA is called at all: never on the way of
/// a packet.
class cuda_device_scope {
public:
  explicit cuda_device_scope(int device) noexcept {
    if (cuda_try(cudaGetDevice(&before_)) || before_ == device) {
      before_ = device;
      (void)cuda_try(cudaSetDevice(device));
    } else {
      restore_ = !cuda_try(cudaSetDevice(device));
    }
  }
  ~cuda_device_scope() {
    if (restore_) (void)cuda_try(cudaSetDevice(before_));
  }
  cuda_device_scope(const cuda_device_scope&) = delete;
  cuda_device_scope& operator=(const cuda_device_scope&) = delete;

private:
  int before_ = -1;
  bool restore_ = false;
};

}  // namespace detail

}  // namespace cohort::inline COHORT_ABI

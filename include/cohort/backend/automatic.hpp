// Chooses a backend: CUDA where this file is compiled by nvcc and the program finds a device, else host threads. Users
// enter here when one program shall run in both places.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/backend/cuda_options.hpp>
#include <cohort/backend/host.hpp>
#include <cohort/config.hpp>
#include <cohort/error.hpp>

#include <boost/system/errc.hpp>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#if defined(__CUDACC__)
#include <cohort/backend/cuda.cuh>
#endif

namespace cohort::inline COHORT_ABI {

/// Options of both; those of the backend that is not chosen are not looked at.
struct backend_options {
  host_options host{};
  cuda_options cuda{};
};

namespace detail {

enum class backend_wish { any, host, cuda };

/// What the environment variable COHORT_BACKEND asks for. Throws `system_error` (invalid argument) for a word it does
/// not know.
inline backend_wish wished_backend() {
  const char* const value = std::getenv("COHORT_BACKEND");
  const std::string_view wish = value == nullptr ? "" : value;
  if (wish.empty()) return backend_wish::any;
  if (wish == "host") return backend_wish::host;
  if (wish == "cuda") return backend_wish::cuda;
  throw system_error(boost::system::errc::make_error_code(boost::system::errc::invalid_argument),
                     "cohort: COHORT_BACKEND=" + std::string(wish) + " is neither host nor cuda");
}

}  // namespace detail

// One name, two definitions: a program may have both, in .cpp and in .cu files, and they are different functions.
#if defined(__CUDACC__)
inline namespace with_cuda {

/// First device that the superkernel can live on; none also when there is no driver.
inline std::optional<int> find_cuda_device() noexcept {
  int devices = 0;
  if (detail::cuda_try(cudaGetDeviceCount(&devices))) return std::nullopt;
  for (int device = 0; device < devices; ++device) {
    try {
      detail::check_device(device);
      return device;
    } catch (const system_error&) {  // not this one
    }
  }
  return std::nullopt;
}

/// The CUDA backend when there is a device (`options.cuda.device` if it is able), else the host backend. The
/// environment variable COHORT_BACKEND, `host` or `cuda`, decides instead when it is set. Throws what the backend's
/// constructor throws, so also when CUDA is asked for and there is no device.
template <class Ops>
std::unique_ptr<backend> automatic_backend(const backend_options& options = {}) {
  const detail::backend_wish wish = detail::wished_backend();
  const bool cuda = wish == detail::backend_wish::cuda || (wish == detail::backend_wish::any && find_cuda_device());
  if (cuda) return std::make_unique<cuda_backend<Ops>>(options.cuda);
  return std::make_unique<host_backend<Ops>>(options.host);
}

}  // namespace with_cuda
#else
inline namespace without_cuda {

/// None: this file was not compiled by nvcc.
inline std::optional<int> find_cuda_device() noexcept { return std::nullopt; }

/// The host backend, because this file was not compiled by nvcc. Throws `system_error` (no such device) when the
/// environment variable COHORT_BACKEND asks for `cuda`, and what the backend's constructor throws.
template <class Ops>
std::unique_ptr<backend> automatic_backend(const backend_options& options = {}) {
  if (detail::wished_backend() == detail::backend_wish::cuda) {
    throw system_error(boost::system::errc::make_error_code(boost::system::errc::no_such_device),
                       "cohort: COHORT_BACKEND=cuda, but automatic_backend was not compiled by nvcc");
  }
  return std::make_unique<host_backend<Ops>>(options.host);
}

}  // namespace without_cuda
#endif

}  // namespace cohort::inline COHORT_ABI

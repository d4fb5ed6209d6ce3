// Copy bandwidth, L2 bandwidth and GEMM rates, and what the device is called.
#include "ceilings.hpp"

#include "../statistics.hpp"
#include "kernels.hpp"
#include "mailbox.hpp"
#include "operands.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

namespace cohort_bench {
namespace {

/// Median device time in us of what `enqueue` puts into the stream.
template <class Enqueue>
double device_time(const stream& in, int times, Enqueue&& enqueue_one) {
  const event begin = make_event(cudaEventDefault);
  const event end = make_event(cudaEventDefault);
  std::vector<double> samples;
  for (int i = -2; i < times; ++i) {
    cuda_check(cudaEventRecord(begin.get(), in.get()), "cudaEventRecord");
    enqueue_one();
    cuda_check(cudaEventRecord(end.get(), in.get()), "cudaEventRecord");
    synchronize(in);
    float ms = 0;
    cuda_check(cudaEventElapsedTime(&ms, begin.get(), end.get()), "cudaEventElapsedTime");
    if (i >= 0) samples.push_back(1e3 * static_cast<double>(ms));
  }
  return median(samples);
}

double gemm_rate(const cublas_streams& cublas, element_type type, std::uint32_t side) {
  const operand_pool pool({side, side, side}, type, 1);
  const gemm one = pool.at(0);
  const double us = device_time(cublas.at(0), 10, [&] { enqueue(cublas.handle(0), one, type); });
  return one.shape.flops() / us;
}

std::string driver() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  return line.empty() ? "unknown" : line;
}

}  // namespace

double ceilings::floor_us(double flops, double bytes, element_type type, bool in_l2) const {
  return std::max(flops / flops_per_us(type), bytes / (in_l2 ? l2_bytes_per_us : copy_bytes_per_us));
}

ceilings measure_ceilings(const cublas_streams& cublas, report& to) {
  ceilings result;
  constexpr std::size_t large = std::size_t{1} << 30;
  {
    const device_memory from = make_device_memory(large);
    const device_memory into = make_device_memory(large);
    launch_fill(from.get(), large / 4, element_type::fp32, 3, cublas.at(0).get());
    const double copied = device_time(cublas.at(0), 10, [&] {
      cuda_check(cudaMemcpyAsync(into.get(), from.get(), large, cudaMemcpyDeviceToDevice, cublas.at(0).get()),
                 "cudaMemcpyAsync");
    });
    const double by_kernel =
        device_time(cublas.at(0), 10, [&] { launch_copy(from.get(), into.get(), large, cublas.at(0).get()); });
    result.copy_bytes_per_us = 2.0 * large / std::min(copied, by_kernel);
    constexpr std::size_t resident = std::size_t{16} << 20;
    constexpr int times = 32;
    const double read = device_time(cublas.at(0), 10, [&] {
      launch_read(from.get(), resident, times, static_cast<std::uint32_t*>(into.get()), cublas.at(0).get());
    });
    result.l2_bytes_per_us = static_cast<double>(resident) * times / read;
  }
  result.fp32_flops_per_us = gemm_rate(cublas, element_type::fp32, 4096);
  result.bf16_flops_per_us = gemm_rate(cublas, element_type::bf16, 8192);
  result.mailbox_us = median(mailbox(mailbox_form::relayed).round_trips(2'000));
  std::printf("# ceilings: copy %.2f TB/s, L2 read %.2f TB/s, GEMM fp32 %.1f and bf16 %.0f TFLOP/s, mailbox %.2f us\n",
              result.copy_bytes_per_us * 1e-6, result.l2_bytes_per_us * 1e-6, result.fp32_flops_per_us * 1e-6,
              result.bf16_flops_per_us * 1e-6, result.mailbox_us);
  to.environment()["ceilings"] = {{"copy_tb_per_s", number(result.copy_bytes_per_us * 1e-6)},
                                  {"l2_read_tb_per_s", number(result.l2_bytes_per_us * 1e-6)},
                                  {"gemm_fp32_tflops", number(result.fp32_flops_per_us * 1e-6)},
                                  {"gemm_bf16_tflops", number(result.bf16_flops_per_us * 1e-6)},
                                  {"mailbox_us", number(result.mailbox_us)}};
  return result;
}

void describe_device(report& to) {
  load_kernels();
  cudaDeviceProp device{};
  cuda_check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  int driver_cuda = 0;
  int runtime = 0;
  cuda_check(cudaDriverGetVersion(&driver_cuda), "cudaDriverGetVersion");
  cuda_check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  std::size_t cublas = 0;
  int part = 0;  // 13.1.0 becomes 130100
  for (const libraryPropertyType property : {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL}) {
    cublas_check(cublasGetProperty(property, &part), "cublasGetProperty");
    cublas = cublas * 100 + static_cast<std::size_t>(part);
  }
  // Clocks rise with work, so a long and then a short look.
  const host_memory ticks = make_host_memory(2 * sizeof(std::uint64_t));
  auto* const out = static_cast<std::uint64_t*>(ticks.get());
  for (const std::uint64_t ns : {20'000'000u, 2'000'000u}) {
    launch_clock(out, ns, nullptr);
    synchronize_device();
  }
  const double mhz = 1e3 * static_cast<double>(out[0]) / static_cast<double>(out[1]);
  std::printf("# %s, %d SMs, SM clock %.0f MHz, driver CUDA %d, runtime %d, cuBLAS %zu\n", device.name,
              device.multiProcessorCount, mhz, driver_cuda, runtime, cublas);
  to.note("ours: operands and results stay in device memory (cuda_options::results_stay_on_device)");
  boost::json::object& e = to.environment();
  e["gpu"] = device.name;
  e["sms"] = device.multiProcessorCount;
  e["l2_bytes"] = device.l2CacheSize;
  e["driver"] = driver();
  e["driver_cuda"] = driver_cuda;
  e["cuda_runtime"] = runtime;
  e["cublas"] = cublas;
  e["sm_clock_mhz"] = number(mhz);
}

bool device_present() {
  int devices = 0;
  if (!cuda_try(cudaGetDeviceCount(&devices)) && devices > 0) return true;
  std::printf("skipped: no CUDA device\n");
  return false;
}

}  // namespace cohort_bench

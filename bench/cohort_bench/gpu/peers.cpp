// cuBLAS, one product at a time, in streams, in a graph, batched and grouped.
#include "peers.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace cohort_bench {
namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what NVIDIA recommends for Hopper

cudaDataType_t data_type(element_type type) { return type == element_type::fp32 ? CUDA_R_32F : CUDA_R_16BF; }

constexpr float one_f = 1;
constexpr float zero_f = 0;

/// Device pointer arrays of a set: w, x, y, each as long as the set.
class pointer_arrays {
public:
  explicit pointer_arrays(const batch& set) : size_(set.size()) {
    std::vector<const void*> all;
    for (const gemm& one : set) all.push_back(one.w);
    for (const gemm& one : set) all.push_back(one.x);
    for (const gemm& one : set) all.push_back(one.y);
    memory_ = upload(all);
  }
  const void* const* w() const { return static_cast<const void* const*>(memory_.get()); }
  const void* const* x() const { return w() + size_; }
  void* const* y() const { return static_cast<void* const*>(memory_.get()) + 2 * size_; }

private:
  std::size_t size_;
  device_memory memory_;
};

class one_at_a_time final : public peer {
public:
  explicit one_at_a_time(const cublas_streams& cublas) : peer("time-only"), cublas_(cublas) {}

  void prepare(element_type type, const std::vector<batch>& sets) override {
    type_ = type;
    sets_ = &sets;
  }
  void run(std::size_t set) override {
    for (const gemm& one : (*sets_)[set]) {
      enqueue(cublas_.handle(0), one, type_);
      synchronize(cublas_.at(0));
    }
  }

private:
  const cublas_streams& cublas_;
  element_type type_{};
  const std::vector<batch>* sets_ = nullptr;
};

class in_streams final : public peer {
public:
  in_streams(const cublas_streams& cublas, std::string_view name, std::size_t streams)
      : peer(name), cublas_(cublas), streams_(streams) {}

  void prepare(element_type type, const std::vector<batch>& sets) override {
    type_ = type;
    sets_ = &sets;
  }
  void run(std::size_t set) override {
    std::size_t i = 0;
    for (const gemm& one : (*sets_)[set]) enqueue(cublas_.handle(i++ % streams_), one, type_);
    if (streams_ == 1) {
      synchronize(cublas_.at(0));
    } else {
      synchronize_device();  // kinder than a wait for each stream
    }
  }

private:
  const cublas_streams& cublas_;
  std::size_t streams_;
  element_type type_{};
  const std::vector<batch>* sets_ = nullptr;
};

class in_graph final : public peer {
public:
  explicit in_graph(const cublas_streams& cublas) : peer("graph"), cublas_(cublas) {}

  void prepare(element_type type, const std::vector<batch>& sets) override {
    graphs_.clear();
    for (const batch& set : sets) {
      graphs_.push_back(capture(cublas_.at(0), [&] { record(type, set); }));
    }
  }
  void run(std::size_t set) override {
    cuda_check(cudaGraphLaunch(graphs_[set].get(), cublas_.at(0).get()), "cudaGraphLaunch");
    synchronize(cublas_.at(0));
  }

private:
  void record(element_type type, const batch& set) {
    const std::size_t branches = std::min(set.size(), cublas_streams::most);
    cuda_check(cudaEventRecord(fork_.get(), cublas_.at(0).get()), "cudaEventRecord");
    for (std::size_t b = 1; b < branches; ++b) {
      cuda_check(cudaStreamWaitEvent(cublas_.at(b).get(), fork_.get(), 0), "cudaStreamWaitEvent");
    }
    for (std::size_t i = 0; i < set.size(); ++i) enqueue(cublas_.handle(i % branches), set[i], type);
    for (std::size_t b = 1; b < branches; ++b) {
      cuda_check(cudaEventRecord(join_[b].get(), cublas_.at(b).get()), "cudaEventRecord");
      cuda_check(cudaStreamWaitEvent(cublas_.at(0).get(), join_[b].get(), 0), "cudaStreamWaitEvent");
    }
  }

  static std::vector<event> make_events() {
    std::vector<event> all;
    for (std::size_t i = 0; i < cublas_streams::most; ++i) all.push_back(make_event());
    return all;
  }

  const cublas_streams& cublas_;
  event fork_ = make_event();
  std::vector<event> join_ = make_events();
  std::vector<graph_exec> graphs_;
};

class batched final : public peer {
public:
  explicit batched(const cublas_streams& cublas) : peer("batched"), cublas_(cublas) {}

  void prepare(element_type type, const std::vector<batch>& sets) override {
    type_ = type;
    shape_ = sets.front().front().shape;
    count_ = static_cast<int>(sets.front().size());
    arrays_.clear();
    for (const batch& set : sets) {
      for (const gemm& one : set) {
        if (!(one.shape == shape_)) throw cublas_error("a batched call has one shape");
      }
      arrays_.emplace_back(set);
    }
  }
  void run(std::size_t set) override {
    const pointer_arrays& a = arrays_[set];
    const auto m = static_cast<int>(shape_.m);
    const auto n = static_cast<int>(shape_.n);
    const auto k = static_cast<int>(shape_.k);
    const cudaDataType_t data = data_type(type_);
    cublas_check(
        cublasGemmBatchedEx(cublas_.handle(0), CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one_f, a.w(), data, k, a.x(), data,
                            k, &zero_f, a.y(), data, m, count_, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmBatchedEx");
    synchronize(cublas_.at(0));
  }

private:
  const cublas_streams& cublas_;
  element_type type_{};
  problem shape_;
  int count_ = 0;
  std::vector<pointer_arrays> arrays_;
};

class grouped final : public peer {
public:
  explicit grouped(const cublas_streams& cublas) : peer("grouped"), cublas_(cublas) {}

  void prepare(element_type type, const std::vector<batch>& sets) override {
    type_ = type;
    sets_.clear();
    for (const batch& set : sets) sets_.emplace_back(set);
    run(0);  // what cuBLAS cannot do is said here
  }
  void run(std::size_t set) override {
    const groups& g = sets_[set];
    const cudaDataType_t data = data_type(type_);
    cublas_check(cublasGemmGroupedBatchedEx(
                     cublas_.handle(0), g.transposed.data(), g.plain.data(), g.m.data(), g.n.data(), g.k.data(),
                     g.alpha.data(), g.arrays.w(), data, g.k.data(), g.arrays.x(), data, g.k.data(), g.beta.data(),
                     g.arrays.y(), data, g.m.data(), static_cast<int>(g.m.size()), g.sizes.data(), CUBLAS_COMPUTE_32F),
                 "cublasGemmGroupedBatchedEx");
    synchronize(cublas_.at(0));
  }

private:
  struct groups {
    explicit groups(batch set) : groups(sort(set), set) {}

    std::vector<int> m, n, k, sizes;
    std::vector<cublasOperation_t> transposed, plain;
    std::vector<float> alpha, beta;
    pointer_arrays arrays;

  private:
    struct sorted {};

    /// Equal shapes side by side.
    static sorted sort(batch& set) {
      std::stable_sort(set.begin(), set.end(), [](const gemm& a, const gemm& b) {
        const auto key = [](const problem& p) { return std::pair(std::pair(p.k, p.m), p.n); };
        return key(a.shape) > key(b.shape);
      });
      return {};
    }

    groups(sorted, const batch& set) : arrays(set) {
      for (std::size_t i = 0; i < set.size(); ++i) {
        const problem& p = set[i].shape;
        if (i > 0 && p == set[i - 1].shape) {
          ++sizes.back();
          continue;
        }
        m.push_back(static_cast<int>(p.m));
        n.push_back(static_cast<int>(p.n));
        k.push_back(static_cast<int>(p.k));
        sizes.push_back(1);
      }
      transposed.assign(m.size(), CUBLAS_OP_T);
      plain.assign(m.size(), CUBLAS_OP_N);
      alpha.assign(m.size(), 1.0f);
      beta.assign(m.size(), 0.0f);
    }
  };

  const cublas_streams& cublas_;
  element_type type_{};
  std::vector<groups> sets_;
};

}  // namespace

cublas_streams::cublas_streams() {
  for (std::size_t i = 0; i < most; ++i) {
    workspaces_.push_back(make_device_memory(workspace_bytes));
    streams_.push_back(make_stream());
    cublasHandle_t handle = nullptr;
    cublas_check(cublasCreate(&handle), "cublasCreate");
    handles_.emplace_back(handle);
    cublas_check(cublasSetStream(handle, streams_.back().get()), "cublasSetStream");
    cublas_check(cublasSetWorkspace(handle, workspaces_.back().get(), workspace_bytes), "cublasSetWorkspace");
    cublas_check(cublasSetMathMode(handle, CUBLAS_DEFAULT_MATH), "cublasSetMathMode");
  }
}

void enqueue(cublasHandle_t handle, const gemm& one, element_type type) {
  const auto m = static_cast<int>(one.shape.m);
  const auto n = static_cast<int>(one.shape.n);
  const auto k = static_cast<int>(one.shape.k);
  const cudaDataType_t data = data_type(type);
  cublas_check(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one_f, one.w, data, k, one.x, data, k, &zero_f,
                            one.y, data, m, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
               "cublasGemmEx");
}

std::unique_ptr<peer> make_one_at_a_time(const cublas_streams& cublas) {
  return std::make_unique<one_at_a_time>(cublas);
}
std::unique_ptr<peer> make_one_stream(const cublas_streams& cublas) {
  return std::make_unique<in_streams>(cublas, "one stream", 1);
}
std::unique_ptr<peer> make_streams(const cublas_streams& cublas) {
  return std::make_unique<in_streams>(cublas, "streams", cublas_streams::most);
}
std::unique_ptr<peer> make_graph(const cublas_streams& cublas) { return std::make_unique<in_graph>(cublas); }
std::unique_ptr<peer> make_batched(const cublas_streams& cublas) { return std::make_unique<batched>(cublas); }
std::unique_ptr<peer> make_grouped(const cublas_streams& cublas) { return std::make_unique<grouped>(cublas); }

std::vector<double> time_peer(peer& one, std::size_t sets, const limits& l) {
  std::vector<double> samples;
  samples.reserve(static_cast<std::size_t>(l.most));
  std::size_t set = 0;
  for (sampling still(l); still.more();) {
    const auto begin = clock::now();
    one.run(set);
    const double us = microseconds_since(begin);
    set = set + 1 == sets ? 0 : set + 1;
    if (!still.warming()) samples.push_back(us);
    still.took(us);
  }
  return samples;
}

}  // namespace cohort_bench

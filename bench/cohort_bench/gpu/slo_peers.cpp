// The peers of `slo`: one stream to a request, and a batcher to a model; each with launches or with graphs.
#include "slo_peers.hpp"

#include "slo_kernels.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace cohort_bench::slo {
namespace {

using cohort::bf16;

// In one poll: a query of an event costs half a microsecond, a launch ten times that.
constexpr std::size_t most_queries = 8;
constexpr std::size_t most_launches = 4;

/// Chooses how cuBLAS computes the linear ops of a program.
void tune(cublas_linear& cublas, const program<bf16>& ops) {
  for (const step<bf16>& one : ops) {
    if (const auto* const linear = std::get_if<cohort::ops::linear<bf16>>(&one)) cublas.tune(*linear);
  }
}

/// Puts the ops into the stream that cuBLAS is bound to, each with its addresses shifted.
void enqueue(cublas_linear& cublas, const program<bf16>& ops, std::size_t by, const stream& in) {
  for (const step<bf16>& one : ops) {
    std::visit(
        [&](const auto& op) {
          if constexpr (std::is_same_v<std::decay_t<decltype(op)>, cohort::ops::linear<bf16>>) {
            cublas.enqueue(shifted(op, by));
          } else {
            launch(shifted(op, by), in.get());
          }
        },
        one);
  }
}

graph_exec record(cublas_linear& cublas, const program<bf16>& ops, std::size_t by, void* workspace, const stream& in) {
  cublas.bind(workspace, in);
  return capture(in, [&] { enqueue(cublas, ops, by, in); });
}

/// Whether what was recorded before the event has ended.
bool has_ended(const event& one) {
  const cudaError_t state = cudaEventQuery(one.get());
  if (state == cudaErrorNotReady) return false;
  cuda_check(state, "cudaEventQuery");
  return true;
}

/// Graphs and memory may not go while the device uses them.
class stream_arm : public arm {
public:
  using arm::arm;
  ~stream_arm() override { (void)cuda_try(cudaDeviceSynchronize()); }
  void leave() override { synchronize_device(); }
};

class stream_per_request final : public stream_arm {
public:
  stream_per_request(by how, const fleet<bf16>& all, cublas_linear& cublas, store& memory)
      : stream_arm(how == by::graphs ? "one stream per request, graphs" : "one stream per request, launches"),
        how_(how),
        all_(all),
        cublas_(cublas),
        slots_(all.tenants(), all.slots_each()) {
    for (std::size_t i = 0; i < streams; ++i) {
      lanes_.push_back({make_stream(), make_event(), memory.take(cublas_linear::workspace_bytes)});
      free_.push_back(i);
    }
    graphs_.resize(all.tenants());
    for (std::uint32_t i = 0; i < all.tenants(); ++i) {
      tune(cublas, all.ops(i));
      for (std::uint32_t j = 0; how == by::graphs && j < all.slots_each(); ++j) {
        void* const workspace = memory.take(cublas_linear::workspace_bytes);
        graphs_[i].push_back(record(cublas, all.ops(i), all.offset(i, j), workspace, lanes_[0].queue));
      }
    }
  }

  bool start(std::uint32_t tenant, std::uint32_t request) override {
    const std::uint32_t slot = slots_.take(tenant);
    if (slot == slot_pool::none) return false;
    waiting_.push_back({tenant, slot, request, 0});
    return true;
  }

  bool poll() override {
    bool moved = false;
    for (std::size_t looks = std::min(most_queries, running_.size()); looks > 0 && !running_.empty(); --looks) {
      if (next_ >= running_.size()) next_ = 0;
      const ticket one = running_[next_];
      if (!has_ended(lanes_[one.lane].end)) {
        ++next_;
        continue;
      }
      log().finished(one.request, true);
      slots_.give_back(one.tenant, one.slot);
      free_.push_back(one.lane);
      running_[next_] = running_.back();
      running_.pop_back();
      moved = true;
    }
    for (std::size_t i = 0; i < most_launches && !waiting_.empty() && !free_.empty(); ++i) {
      ticket one = waiting_.front();
      waiting_.pop_front();
      one.lane = free_.back();
      free_.pop_back();
      const lane& on = lanes_[one.lane];
      if (how_ == by::graphs) {
        cuda_check(cudaGraphLaunch(graphs_[one.tenant][one.slot].get(), on.queue.get()), "cudaGraphLaunch");
      } else {
        cublas_.bind(on.workspace, on.queue);
        enqueue(cublas_, all_.ops(one.tenant), all_.offset(one.tenant, one.slot), on.queue);
      }
      cuda_check(cudaEventRecord(on.end.get(), on.queue.get()), "cudaEventRecord");
      running_.push_back(one);
      moved = true;
    }
    return moved;
  }

  std::size_t inside() const override { return waiting_.size() + running_.size(); }
  void rewind() override { slots_.rewind(); }
  void* output(std::uint32_t tenant, std::uint32_t variant) override { return all_.output(tenant, variant); }

private:
  static constexpr std::size_t streams = 32;

  struct lane {
    stream queue;
    event end;
    void* workspace;
  };
  struct ticket {
    std::uint32_t tenant, slot, request;
    std::size_t lane;
  };

  by how_;
  const fleet<bf16>& all_;
  cublas_linear& cublas_;
  slot_pool slots_;
  std::vector<lane> lanes_;
  std::vector<std::size_t> free_;
  std::vector<std::vector<graph_exec>> graphs_;  // by tenant and slot, where there are any
  std::deque<ticket> waiting_;
  std::vector<ticket> running_;
  std::size_t next_ = 0;  // to be asked of `running_`
};

class batcher final : public stream_arm {
public:
  batcher(by how, const fleet<bf16>& all, cublas_linear& cublas, store& memory)
      : stream_arm(how == by::graphs ? "batcher, 100 us window, graphs" : "batcher, 100 us window, launches"),
        cublas_(cublas),
        most_(all.slots_each()) {
    for (std::uint32_t i = 0; i < all.tenants(); ++i) {
      model_queue& one = queues_.emplace_back(all.model_of(i), memory);
      one.workspace = memory.take(cublas_linear::workspace_bytes);
      for (const std::uint32_t size : sizes) {
        const program<bf16>& ops = one.ops.emplace_back(one.area.make_program(size));
        tune(cublas, ops);
        if (how == by::graphs) one.graphs.push_back(record(cublas, ops, 0, one.workspace, one.queue));
      }
    }
  }

  bool start(std::uint32_t tenant, std::uint32_t request) override {
    model_queue& one = queues_[tenant];
    if (one.waiting.size() + one.running.size() >= most_) return false;
    one.waiting.push_back({request, clock::now()});
    ++inside_;
    return true;
  }

  bool poll() override {
    bool moved = false;
    std::size_t launches = 0;
    std::size_t queries = 0;
    const clock::time_point now = clock::now();
    for (std::size_t i = 0; i < queues_.size(); ++i) {
      model_queue& one = queues_[(next_ + i) % queues_.size()];
      if (!one.running.empty() && queries < most_queries) {
        ++queries;
        if (has_ended(one.end)) {
          for (const std::uint32_t request : one.running) log().finished(request, true);
          inside_ -= one.running.size();
          one.running.clear();
          moved = true;
        }
      }
      const bool ready = one.running.empty() && !one.waiting.empty() &&
                         (one.waiting.size() >= sizes.back() || now - one.waiting.front().arrived >= window);
      if (!ready || launches == most_launches) continue;
      launch_batch(one);
      ++launches;
    }
    next_ = (next_ + 1) % queues_.size();
    return moved || launches > 0;
  }

  std::size_t inside() const override { return inside_; }
  void rewind() override {}
  void* output(std::uint32_t tenant, std::uint32_t variant) override { return queues_[tenant].area.output(variant); }

private:
  static constexpr std::chrono::microseconds window{100};
  static constexpr std::array<std::uint32_t, 6> sizes = {1, 2, 4, 8, 16, 32};

  struct arrived_request {
    std::uint32_t request;
    clock::time_point arrived;
  };
  struct model_queue {
    model_queue(const model<bf16>& of, store& memory)
        : area(of, sizes.back(), 0, memory.take(work_area<bf16>::bytes(of, sizes.back())), memory) {}

    work_area<bf16> area;
    std::vector<program<bf16>> ops;  // by size
    std::vector<graph_exec> graphs;  // by size, where there are any
    void* workspace = nullptr;
    stream queue = make_stream();
    event end = make_event();
    std::deque<arrived_request> waiting;
    std::vector<std::uint32_t> running;
  };

  void launch_batch(model_queue& one) {
    while (!one.waiting.empty() && one.running.size() < sizes.back()) {
      one.running.push_back(one.waiting.front().request);
      one.waiting.pop_front();
    }
    const auto fits = std::lower_bound(sizes.begin(), sizes.end(), one.running.size());
    const auto size = static_cast<std::size_t>(fits - sizes.begin());
    if (!one.graphs.empty()) {
      cuda_check(cudaGraphLaunch(one.graphs[size].get(), one.queue.get()), "cudaGraphLaunch");
    } else {
      cublas_.bind(one.workspace, one.queue);
      enqueue(cublas_, one.ops[size], 0, one.queue);
    }
    cuda_check(cudaEventRecord(one.end.get(), one.queue.get()), "cudaEventRecord");
  }

  cublas_linear& cublas_;
  std::size_t most_;
  std::deque<model_queue> queues_;  // by tenant
  std::size_t inside_ = 0;
  std::size_t next_ = 0;
};

}  // namespace

std::unique_ptr<arm> make_stream_per_request(by how, const fleet<bf16>& all, cublas_linear& cublas, store& memory) {
  return std::make_unique<stream_per_request>(how, all, cublas, memory);
}

std::unique_ptr<arm> make_batcher(by how, const fleet<bf16>& all, cublas_linear& cublas, store& memory) {
  return std::make_unique<batcher>(how, all, cublas, memory);
}

}  // namespace cohort_bench::slo

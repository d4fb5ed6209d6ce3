// What must hold of the engines of ops::linear on the host: right products for every shape with every instruction set
// that this machine has, and results that do not depend on the company. The device's: linear_block_test.cpp; descriptor
// and plans: linear_op_test.cpp.
#include "linear_fixtures.hpp"

#include <cohort/backend/host_context.hpp>
#include <cohort/ops/linear.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace linear_test;
namespace gemm = ops::detail::gemm;

struct host_engine {
  gemm::host_isa isa = gemm::host_isa::portable;
  std::uint32_t workers = 8;
};

std::string describe(const host_engine& e) {
  return "isa " + std::to_string(static_cast<int>(e.isa)) + ", workers " + std::to_string(e.workers);
}

template <class T>
void run(const host_engine& e, std::vector<ops::linear<T>> members) {
  const std::uint32_t tiles = ops::linear<T>::plan(members, {.workers = e.workers, .host = true});
  const auto count = static_cast<std::uint32_t>(members.size());
  const auto scratch = std::make_unique<gemm::host_scratch>();
  std::memset(static_cast<void*>(scratch.get()), 0xff, sizeof *scratch);
  for (std::uint32_t tile = 0; tile < tiles; ++tile) {
    gemm::run_host(reinterpret_cast<std::byte*>(scratch.get()), members.data(), count, tile, e.isa);
  }
}

std::vector<host_engine> host_engines() {
  std::vector<host_engine> all;
  for (int isa = 0; isa <= static_cast<int>(gemm::detect_host_isa()); ++isa) {
    all.push_back({.isa = static_cast<gemm::host_isa>(isa)});
  }
  return all;
}

constexpr std::size_t sizes[] = {1, 2, 3, 5, 8, 16, 17, 31, 33, 64, 65, 100, 127, 128, 129, 255, 300};

}  // namespace

TEST_SUITE("linear on the host") {
  TEST_CASE_TEMPLATE("every pair of tails of N and K gives the product", T, float, fp16, bf16) {
    const auto engines = host_engines();
    std::size_t turn = 0;
    for (const std::size_t n : sizes) {
      for (const std::size_t k : sizes) {
        // Every size of M comes up with every residue of N and K in turn; large products only now and then.
        std::size_t m = sizes[turn * 5 % std::size(sizes)];
        if (m * n * k > 600'000) m = turn % 8 + 1;
        weights<T> layer(n, k, all_forms[turn % std::size(all_forms)]);
        request<T> r(layer, m, static_cast<std::uint32_t>(turn));
        expect_product(engines[turn % engines.size()], r);
        ++turn;
      }
    }
  }

  TEST_CASE_TEMPLATE("large products with several passes over K and tiles of rows", T, float, bf16) {
    for (const extent size :
         {extent{64, 200, 1024}, extent{3, 130, 2500}, extent{130, 40, 1152}, extent{70, 33, 1030}}) {
      for (const host_engine& e : host_engines()) {
        weights<T> layer(size.n, size.k, all_forms[1]);
        request<T> r(layer, size.rows, 3);
        expect_product(e, r);
      }
    }
  }

  TEST_CASE_TEMPLATE("every form of the epilogue", T, float, fp16, bf16) {
    for (const form& f : all_forms) {
      for (const host_engine& e : host_engines()) {
        weights<T> layer(37, 48, f);
        request<T> r(layer, 6, 3);
        expect_product(e, r);
      }
    }
  }

  TEST_CASE_TEMPLATE("any number of workers and any alignment give the same bits", T, float, fp16, bf16) {
    for (host_engine e : host_engines()) {
      for (const extent size : {extent{35, 272, 208}, extent{3, 300, 1100}, extent{2, 64, 64}}) {
        form f = all_forms[3];
        weights<T> layer(size.n, size.k, f);
        request<T> first(layer, size.rows, 7);
        e.workers = 1;
        run(e, std::vector{first.op()});
        for (const std::size_t shift : {0, 1, 5}) {
          f.shift = shift;
          weights<T> shifted(size.n, size.k, f);
          for (const std::uint32_t workers : {2u, 64u}) {
            e.workers = workers;
            request<T> again(shifted, size.rows, 7);
            run(e, std::vector{again.op()});
            CHECK(again.same_bits(first));
          }
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("an op's bits are the same alone and among 1, 7 and 63 others", T, float, fp16, bf16) {
    for (const host_engine& e : host_engines()) {
      for (const std::size_t others : {1u, 7u, 63u}) {
        for (const form& f : {all_forms[1], all_forms[3]}) {
          expect_company_changes_nothing<T>(e, e, f, {3, 50, 96}, others, others / 2);
          expect_company_changes_nothing<T>(e, e, f, {1, 33, 70}, others, others);
        }
      }
    }
  }

  TEST_CASE_TEMPLATE("infinities and NaN of one member stay in its rows", T, float, bf16) {
    for (const host_engine& e : host_engines()) expect_rows_apart<T>(e);
  }

  TEST_CASE_TEMPLATE("y may be the residual itself", T, float, bf16) {
    for (const host_engine& e : host_engines()) expect_residual_in_place<T>(e);
  }

  TEST_CASE("the host context runs the op with this processor's engine") {
    weights<float> layer(40, 64, all_forms[3]);
    request<float> direct(layer, 5, 1);
    run(host_engine{.isa = gemm::detect_host_isa()}, std::vector{direct.op()});
    request<float> through(layer, 5, 1);
    std::vector<ops::linear<float>> members{through.op()};
    const std::uint32_t tiles = ops::linear<float>::plan(members, {.workers = 2, .host = true});
    static_assert(ops::linear<float>::host_scratch_bytes >= sizeof(gemm::host_scratch));
    const auto scratch = std::make_unique<gemm::host_scratch>();
    host_context context(reinterpret_cast<std::byte*>(scratch.get()));
    for (std::uint32_t tile = 0; tile < tiles; ++tile) ops::linear<float>::run(context, members.data(), 1, tile);
    CHECK(through.same_bits(direct));
  }
}

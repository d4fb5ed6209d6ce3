// The op of embedding lookup: rows of a table, with the position and token-type rows that BERT adds. Users enter here.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/ops/detail/arguments.hpp>
#include <cohort/ops/detail/packs.hpp>
#include <cohort/ops/detail/rows.hpp>
#include <cohort/types.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace cohort::inline COHORT_ABI::ops {

/// out[i] = table[ids[i]] + positions[first_position + p] + types[t] for each of `tokens` rows of `hidden` elements,
/// with p = position_ids[i], or i where there are none, and t = type_ids[i], or 0. The last two summands are there when
/// their tables are. Dense row-major tables of T, ids are int32; pointers aligned to their element; sums in fp32,
/// rounded to T once. Make one with `make_embedding`.
///
/// Ids lie in memory that the host cannot always read, so they are checked where they are used: a row for which any id
/// is outside its table becomes NaN, and nothing outside the table is read. `out` may overlap nothing else.
template <element T>
struct alignas(16) embedding {
  using value_type = T;
  static constexpr const char* name = detail::name_for<T>("embedding<fp32>", "embedding<fp16>", "embedding<bf16>");

  const std::int32_t* ids = nullptr;
  const T* table = nullptr;
  const T* positions = nullptr;                ///< null: none
  const std::int32_t* position_ids = nullptr;  ///< null: 0, 1, 2, ...
  const T* types = nullptr;                    ///< null: none
  const std::int32_t* type_ids = nullptr;      ///< null: all 0
  T* out = nullptr;
  std::uint32_t tokens = 0;
  std::uint32_t hidden = 0;
  std::uint32_t table_rows = 0;
  std::uint32_t position_rows = 0;
  std::uint32_t type_rows = 0;
  std::uint32_t first_position = 0;
  std::uint16_t tile_rows = 0;  ///< note of `plan`
  std::uint8_t fault = 0;       ///< what `make_embedding` found wrong: an errc, 0 for nothing

  /// null_pointer, misaligned, buffer_too_small, bad_size, shape_mismatch or aliasing; no error if the op may run.
  error_code check() const noexcept {
    const std::uint64_t elements = detail::tensor_size({tokens, hidden});
    const std::uint64_t width = hidden;
    return detail::argument_check{}
        .required(ids)
        .required(table)
        .required(out)
        .aligned(positions)
        .aligned(position_ids)
        .aligned(types)
        .aligned(type_ids)
        .recorded(fault)
        .sides({tokens, hidden})
        .sides({table_rows, hidden})
        .require(positions == nullptr || detail::tensor_size({position_rows, hidden}) != 0, errc::bad_size)
        .require(types == nullptr || detail::tensor_size({type_rows, hidden}) != 0, errc::bad_size)
        .require(
            positions == nullptr || position_ids != nullptr || std::uint64_t{first_position} + tokens <= position_rows,
            errc::buffer_too_small)
        .apart(out, elements, ids, tokens)
        .apart(out, elements, table, table_rows * width)
        .apart(out, elements, positions, position_rows * width)
        .apart(out, elements, position_ids, tokens)
        .apart(out, elements, types, type_rows * width)
        .apart(out, elements, type_ids, tokens);
  }

  op_cost cost() const noexcept {
    const std::uint64_t elements = std::uint64_t{tokens} * hidden;
    const std::uint64_t summands = 1u + (positions != nullptr) + (types != nullptr);
    return {.flops = elements * (summands - 1),
            .bytes = elements * (summands + 1) * sizeof(T) + 4 * std::uint64_t{tokens}};
  }

  static std::uint32_t plan(std::span<embedding> members, const machine_shape& shape) {
    embedding& op = members.front();
    op.tile_rows = detail::rows_per_tile(shape, op.tokens, op.hidden);
    return detail::divide_up(op.tokens, op.tile_rows);
  }

  template <class Context>
  COHORT_HD
  static void run(Context& context, const embedding* members, std::uint32_t, std::uint32_t tile) {
    const embedding op = *members;
    detail::with_constant(op.positions != nullptr, [&](auto has_position) {
      detail::with_constant(op.types != nullptr, [&](auto has_type) {
        detail::for_each_row(context, op.tokens, op.tile_rows, tile, [&](auto& group, std::uint32_t row) {
          look_up<Context::cooperative, decltype(has_position)::value, decltype(has_type)::value>(group, op, row);
        });
      });
    });
  }

private:
  template <bool InPacks, bool HasPosition, bool HasType, class Group>
  COHORT_HD
  static void look_up(Group& group, const embedding& op, std::uint32_t row) {
    T* out = op.out + std::size_t{row} * op.hidden;
    // A negative id wraps to more than any table has.
    const auto id = static_cast<std::uint32_t>(op.ids[row]);
    bool inside = id < op.table_rows;
    std::uint64_t position = op.first_position;
    std::uint32_t type = 0;
    if constexpr (HasPosition) {
      position += op.position_ids != nullptr ? static_cast<std::uint32_t>(op.position_ids[row]) : row;
      inside = inside && position < op.position_rows;
    }
    if constexpr (HasType) {
      if (op.type_ids != nullptr) type = static_cast<std::uint32_t>(op.type_ids[row]);
      inside = inside && type < op.type_rows;
    }
    if (!inside) {
      const T nan = from_float<T>(cohort::detail::bits_to_float(0x7fc00000u));
      group.for_each(op.hidden, [=](std::uint32_t i) { out[i] = nan; });
      return;
    }
    const T* token = op.table + std::size_t{id} * op.hidden;
    const T* place = HasPosition ? op.positions + position * op.hidden : nullptr;
    const T* kind = HasType ? op.types + std::size_t{type} * op.hidden : nullptr;
    const auto sum = [=]<std::uint32_t N>(std::uint32_t at, float(&to)[N]) {
      const auto add = [&](const T* table) {
        float summand[N];
        detail::load_pack(table + at, summand);
        COHORT_OPS_UNROLLED
        for (std::uint32_t i = 0; i < N; ++i) to[i] += summand[i];
      };
      detail::load_pack(token + at, to);
      if constexpr (HasPosition) add(place);
      if constexpr (HasType) add(kind);
    };
    constexpr std::uint32_t size = detail::pack_size<T>;
    if (InPacks && op.hidden % size == 0 && detail::aligned_to_packs<size>(token, place, kind, out)) {
      group.for_each(op.hidden / size, [=](std::uint32_t i) {
        float row[size];
        sum(i * size, row);
        detail::store_pack(out + i * size, row);
      });
    } else {
      group.for_each(op.hidden, [=](std::uint32_t i) {
        float value[1];
        sum(i, value);
        out[i] = from_float<T>(value[0]);
      });
    }
  }
};

/// The tables of `make_embedding`: views that the caller keeps alive until the last op made from them has completed.
/// Each holds a whole number of rows of `hidden` elements (else shape_mismatch); empty means none, except for `tokens`.
template <element T>
struct embedding_tables {
  std::span<const T> tokens;
  std::span<const T> positions = {};
  std::span<const T> types = {};
  std::size_t hidden = 0;
};

/// Where the tokens of `make_embedding` stand. Empty spans as in `embedding`; others must have an id for each token.
struct embedding_places {
  std::span<const std::int32_t> position_ids = {};
  std::span<const std::int32_t> type_ids = {};
  std::size_t first_position = 0;
};

/// Makes the op for ids.size() tokens. Mistakes are recorded in it and come out of `check()`. `out` may be larger than
/// the op needs.
template <element T>
embedding<T> make_embedding(const embedding_tables<T>& tables, std::span<const std::int32_t> ids,
                            std::type_identity_t<std::span<T>> out, const embedding_places& places = {}) {
  embedding<T> op;
  op.ids = ids.data();
  op.table = tables.tokens.data();
  op.positions = tables.positions.empty() ? nullptr : tables.positions.data();
  op.types = tables.types.empty() ? nullptr : tables.types.data();
  op.position_ids = places.position_ids.empty() ? nullptr : places.position_ids.data();
  op.type_ids = places.type_ids.empty() ? nullptr : places.type_ids.data();
  op.out = out.data();
  op.tokens = detail::side(ids.size());
  op.hidden = detail::side(tables.hidden);
  const std::uint64_t elements = detail::tensor_size({ids.size(), tables.hidden});
  if (elements == 0 || places.first_position > detail::largest_side) {
    op.fault = static_cast<std::uint8_t>(errc::bad_size);
    return op;
  }
  op.first_position = static_cast<std::uint32_t>(places.first_position);
  op.table_rows = detail::side(tables.tokens.size() / tables.hidden);
  op.position_rows = detail::side(tables.positions.size() / tables.hidden);
  op.type_rows = detail::side(tables.types.size() / tables.hidden);
  if (out.size() < elements || (op.position_ids != nullptr && places.position_ids.size() < ids.size()) ||
      (op.type_ids != nullptr && places.type_ids.size() < ids.size())) {
    op.fault = static_cast<std::uint8_t>(errc::buffer_too_small);
  } else {
    op.fault = detail::fault_unless(tables.tokens.size() % tables.hidden == 0 &&
                                        tables.positions.size() % tables.hidden == 0 &&
                                        tables.types.size() % tables.hidden == 0,
                                    errc::shape_mismatch);
  }
  return op;
}

static_assert(sizeof(embedding<float>) <= 96 && op<embedding<float>> && op<embedding<fp16>> && op<embedding<bf16>>);

}  // namespace cohort::inline COHORT_ABI::ops

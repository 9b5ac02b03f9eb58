// Projections by bfloat16 weights: y [rows, out] = x [rows, in] x weight [out, in] + bias.
//
// The weight is laid out in groups of 64 outputs, each one stream that is read once from front to
// back:  [out / 64][in / 2][64 lanes of two neighbours along `in`]
// An output sums over `in` in the same order whatever the number of rows, so that a token's result
// does not depend on what else is in its batch.
#pragma once

#include <algorithm>

#include "cpu_matmul.h"

namespace baton {

constexpr int64_t kGroup = 64;                  // outputs of a group
constexpr int64_t kLeftBytes = 384 * 1024;      // of x that stay in the second-level cache
constexpr int64_t kGroupPanels = kGroup / kLanes;

struct Projection {
  const bf16* x;
  const uint32_t* weight;
  const float* bias;  // [out], or null
  void* y;
  bool wide;  // y is float, else bfloat16
  int64_t rows, out, in;
  int threads;

  int64_t groups() const { return (out + kGroup - 1) / kGroup; }
};

// Lays out one group of weight [out, in]; outputs beyond the last are zero.
inline void pack_group(const bf16* weight, uint32_t* packed, int64_t out, int64_t in,
                       int64_t group) {
  const int64_t steps = in / 2;
  uint32_t* to = packed + group * steps * kGroup;
  for (int64_t from = 0; from < steps; from += 64)
    for (int64_t lane = 0; lane < kGroup; ++lane) {
      const int64_t row = group * kGroup + lane;
      for (int64_t step = from; step < std::min(steps, from + 64); ++step) {
        uint32_t pair = 0;
        if (row < out) std::memcpy(&pair, weight + row * in + 2 * step, 4);
        to[step * kGroup + lane] = pair;
      }
    }
}

inline void pack_weight(const bf16* weight, uint32_t* packed, int64_t out, int64_t in,
                        int threads) {
  const int64_t groups = (out + kGroup - 1) / kGroup;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t group = 0; group < groups; ++group) pack_group(weight, packed, out, in, group);
}

template <int ROWS, int PANELS, class Fetch>
inline void project_tile(const Projection& task, int64_t row0, int64_t group, int64_t panel0,
                         Fetch fetch) {
  f32x16 sums[ROWS][PANELS];
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
    for (int panel = 0; panel < PANELS; ++panel) sums[row][panel] = splat(0);
  const int64_t steps = task.in / 2;
  const Panels weight{task.weight + group * steps * kGroup + panel0 * kLanes, kLanes, kGroup};
  accumulate<bf16, ROWS, PANELS>(sums, task.x + row0 * task.in, task.in, weight, steps, fetch);
#pragma GCC unroll 8
  for (int panel = 0; panel < PANELS; ++panel) {
    const int64_t at = group * kGroup + (panel0 + panel) * kLanes;
    const int count = static_cast<int>(std::min<int64_t>(kLanes, task.out - at));
    if (count <= 0) break;
    const f32x16 bias = task.bias ? load_floats(task.bias + at, count) : splat(0);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row) {
      const int64_t to = (row0 + row) * task.out + at;
      if (task.wide)
        store_floats(sums[row][panel] + bias, static_cast<float*>(task.y) + to, count);
      else
        store_floats(sums[row][panel] + bias, static_cast<bf16*>(task.y) + to, count);
    }
  }
}

template <int ROWS, class Fetch>
inline void project_rows(const Projection& task, int64_t row, int64_t group, Fetch fetch) {
  for (int64_t panel = 0; panel < kGroupPanels; panel += kTilePanels)
    project_tile<ROWS, kTilePanels>(task, row, group, panel, fetch);
}

template <class Fetch>
inline void project_height(const Projection& task, int64_t height, int64_t row, int64_t group,
                           Fetch fetch) {
  switch (height) {
    case 1: return project_rows<1>(task, row, group, fetch);
    case 2: return project_rows<2>(task, row, group, fetch);
#if defined(__AVX512F__)
    case 3: return project_rows<3>(task, row, group, fetch);
    case 4: return project_rows<4>(task, row, group, fetch);
    case 5: return project_rows<5>(task, row, group, fetch);
    case 6: return project_rows<6>(task, row, group, fetch);
#endif
  }
}

// Rows [from, to) of one group, in tiles of nearly equal height. Each of several tiles fetches its
// share of the next group, so that memory is read while cached weights are multiplied.
inline void project_block(const Projection& task, int64_t from, int64_t to, int64_t group,
                          bool fetch_next) {
  const int64_t tiles = (to - from + kTileRows - 1) / kTileRows;
  const int64_t group_bytes = task.in / 2 * kGroup * 4;
  const char* next = reinterpret_cast<const char*>(task.weight) + (group + 1) * group_bytes;
  for (int64_t tile = 0, row = from; tile < tiles; ++tile) {
    const int64_t height = (to - row + tiles - tile - 1) / (tiles - tile);
    if (fetch_next && tiles > 1)
      project_height(task, height, row, group,
                     Ahead{next + group_bytes / tiles * tile, kGroup * 4 / tiles});
    else
      project_height(task, height, row, group, Nothing{});
    row += height;
  }
}

// Blocks of rows that stay cached walk over the groups; the threads share the groups out.
inline void project(const Projection& task) {
  const int64_t fitting = kLeftBytes / (2 * task.in) / kTileRows * kTileRows;
  const int64_t block_rows = std::max<int64_t>(fitting, 4 * kTileRows);
  const int64_t blocks = (task.rows + block_rows - 1) / block_rows, groups = task.groups();
  const int64_t run = std::max<int64_t>(1, groups / (4 * task.threads));
  const int64_t runs = (groups + run - 1) / run;
#pragma omp parallel for num_threads(task.threads) schedule(dynamic, 1)
  for (int64_t item = 0; item < blocks * runs; ++item) {
    const int64_t from = item / runs * block_rows, first = item % runs * run;
    const int64_t last = std::min(groups, first + run);
    for (int64_t group = first; group < last; ++group)
      project_block(task, from, std::min(task.rows, from + block_rows), group, group + 1 < last);
  }
}

}  // namespace baton

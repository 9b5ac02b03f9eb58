// What both attention kernels share: where a sequence's keys and values lie, and how they are laid
// out for a product.
#pragma once

#include <algorithm>

#include "cpu_simd.h"

namespace baton {

constexpr int kBlock = 16;  // tokens of a cache block; the kernels rely on its being kLanes

// One step's queries over one layer of the cache.
template <class T>
struct Attention {
  const T* q;             // [tokens, num_heads, head_dim]
  const T* layer_kv;      // [num_blocks, 2, num_kv_heads, kBlock, head_dim], a head's rows together
  const int32_t* tables;  // [sequences, table_width]
  const int32_t* query_start;
  const int32_t* context_len;
  T* out;  // [tokens, num_heads, head_dim]
  int64_t sequences, table_width, num_heads, num_kv_heads, head_dim;
  int64_t block_stride, part_stride;  // elements from block to block, from keys to values
  int64_t window;  // 0: none
  float scale;     // of scores, so that weights are powers of two: log2(e) / sqrt(head_dim)
  int threads;

  int64_t group() const { return num_heads / num_kv_heads; }
  int64_t queries(int64_t sequence) const {
    return query_start[sequence + 1] - query_start[sequence];
  }
  // First position that the query at `position` sees.
  int64_t first_seen(int64_t position) const {
    return window ? std::max<int64_t>(0, position - window + 1) : 0;
  }
  const T* keys(int64_t sequence, int64_t block, int64_t kv_head) const {
    const int64_t home = tables[sequence * table_width + block];
    return layer_kv + home * block_stride + kv_head * kBlock * head_dim;
  }
};

// Values are laid out with their depth - neighbouring tokens - sharing a lane. For bfloat16 the
// interleaving stays within 128 bits, which permutes the lanes; dim_of() tells what a lane holds.
template <class T, int D>
struct Values {
  static constexpr int kDepth = Depth<T>::value;
  static constexpr int kSteps = kBlock / kDepth;
  static constexpr int kUnit = kLanes * kDepth;
  static constexpr int kWidth = (D + kUnit - 1) / kUnit * kUnit;  // lanes of one step
};

inline int dim_of(int lane, bf16) {
  const int in_group = lane % 32, half = in_group / 16, within = in_group % 16;
  return lane / 32 * 32 + within / 4 * 8 + half * 4 + within % 4;
}
inline int dim_of(int lane, float) { return lane; }

// Sixteen neighbouring dims out of two lane vectors of sums: the first or the second half of them.
template <class T>
inline f32x16 ordered(const float* lanes, int half) {
  if (Depth<T>::value == 1) return load<f32x16>(lanes + half * kLanes);
  const f32x16 a = load<f32x16>(lanes), b = load<f32x16>(lanes + kLanes);
  return half ? __builtin_shufflevector(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29,
                                        30, 31)
              : __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22,
                                        23);
}

// A row's `count` elements from `at` on, zero beyond the row's end.
template <class T, int D>
inline u32x16 row_lanes(const T* row, int at) {
  constexpr int kFull = 64 / sizeof(T);
  if (D % kFull == 0 || at + kFull <= D) return load<u32x16>(row + at);
  u32x16 lanes = {};
  std::memcpy(&lanes, row + at, (D % kFull) * sizeof(T));
  return lanes;
}

// Lays out the first `rows` tokens of a block of values, zeros for the rest: [kSteps][kWidth].
template <int D>
inline void pack_values(const bf16* block, int64_t rows, uint32_t* to) {
  constexpr int kWidth = Values<bf16, D>::kWidth;
  for (int step = 0; step < kBlock / 2; ++step) {
    const bf16* row = block + 2 * step * D;
    for (int at = 0; at < kWidth; at += 32) {
      u16x32 a = {}, b = {};
      if (2 * step < rows) a = (u16x32)row_lanes<bf16, D>(row, at);
      if (2 * step + 1 < rows) b = (u16x32)row_lanes<bf16, D>(row + D, at);
      store(to + step * kWidth + at,
            __builtin_shufflevector(a, b, 0, 32, 1, 33, 2, 34, 3, 35, 8, 40, 9, 41, 10, 42, 11, 43,
                                    16, 48, 17, 49, 18, 50, 19, 51, 24, 56, 25, 57, 26, 58, 27, 59));
      store(to + step * kWidth + at + 16,
            __builtin_shufflevector(a, b, 4, 36, 5, 37, 6, 38, 7, 39, 12, 44, 13, 45, 14, 46, 15, 47,
                                    20, 52, 21, 53, 22, 54, 23, 55, 28, 60, 29, 61, 30, 62, 31, 63));
    }
  }
}

template <int D>
inline void pack_values(const float* block, int64_t rows, uint32_t* to) {
  constexpr int kWidth = Values<float, D>::kWidth;
  for (int step = 0; step < kBlock; ++step)
    for (int at = 0; at < kWidth; at += 16)
      store(to + step * kWidth + at,
            step < rows ? row_lanes<float, D>(block + step * D, at) : u32x16{});
}

}  // namespace baton

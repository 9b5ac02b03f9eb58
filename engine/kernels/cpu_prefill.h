// Attention of runs of query tokens, blocked as in FlashAttention (arXiv 2205.14135, algorithm 1):
// a tile of queries walks over its context in chunks and keeps an online softmax.
//
// Keys and values of one sequence are first laid out for the products, once for all tiles:
//     keys    [block][depth step][16 tokens]         values  [step of tokens][lanes of dims]
#pragma once

#include <vector>

#include "cpu_matmul.h"
#include "cpu_paged.h"

namespace baton {

constexpr int64_t kRows = 96;    // rows of a query tile: tokens times heads of a group
constexpr int64_t kChunk = 128;  // keys of one softmax update

// c [ROWS][PANELS * 16] (+)= a [ROWS][steps lanes] x b.
template <class T, int ROWS, int PANELS>
inline void multiply_tile(const T* a, int64_t a_row, Panels b, int64_t steps, float* c,
                          int64_t c_row, bool add) {
  f32x16 sums[ROWS][PANELS];
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
    for (int panel = 0; panel < PANELS; ++panel)
      sums[row][panel] = add ? load<f32x16>(c + row * c_row + panel * kLanes) : splat(0);
  accumulate<T, ROWS, PANELS>(sums, a, a_row, b, steps);
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
    for (int panel = 0; panel < PANELS; ++panel)
      store(c + row * c_row + panel * kLanes, sums[row][panel]);
}

template <class T, int PANELS>
inline void multiply_column(const T* a, int64_t a_row, Panels b, int64_t steps, float* c,
                            int64_t c_row, int64_t rows, bool add) {
  for (int64_t row = 0; row < rows; row += kTileRows)
    multiply_tile<T, kTileRows, PANELS>(a + row * a_row, a_row, b, steps, c + row * c_row, c_row,
                                        add);
}

// c [rows][panels * 16] (+)= a x b; rows is a multiple of kTileRows.
template <class T>
inline void multiply(const T* a, int64_t a_row, Panels b, int64_t steps, float* c, int64_t c_row,
                     int64_t rows, int64_t panels, bool add) {
  int64_t panel = 0;
  for (; panel + kTilePanels <= panels; panel += kTilePanels)
    multiply_column<T, kTilePanels>(a, a_row, {b.at + panel * b.panel, b.panel, b.step}, steps,
                                    c + panel * kLanes, c_row, rows, add);
  for (; panel < panels; ++panel)
    multiply_column<T, 1>(a, a_row, {b.at + panel * b.panel, b.panel, b.step}, steps,
                          c + panel * kLanes, c_row, rows, add);
}

// One sequence's laid-out context, all kv heads; block 0 holds the first position that is seen.
template <class T, int D>
struct Packed {
  using V = Values<T, D>;
  static constexpr int64_t kKeySteps = D / Depth<T>::value;
  static constexpr int64_t kKeyBlock = kKeySteps * kLanes;
  static constexpr int64_t kValueBlock = V::kSteps * V::kWidth;

  int64_t sequence, first_block, blocks, end;
  uint32_t *keys, *values;

  // Blocks are padded so that a chunk's products never run past the end.
  static int64_t padded(int64_t blocks) { return blocks + kChunk / kBlock; }
  uint32_t* key_block(int64_t kv_head, int64_t block) const {
    return keys + (kv_head * padded(blocks) + block) * kKeyBlock;
  }
  uint32_t* value_block(int64_t kv_head, int64_t block) const {
    return values + (kv_head * padded(blocks) + block) * kValueBlock;
  }
};

template <class T, int D>
void pack_block(const Attention<T>& step, const Packed<T, D>& packed, int64_t kv_head,
                int64_t block) {
  using P = Packed<T, D>;
  uint32_t* keys = packed.key_block(kv_head, block);
  uint32_t* values = packed.value_block(kv_head, block);
  if (block >= packed.blocks) {
    std::memset(keys, 0, P::kKeyBlock * 4);
    std::memset(values, 0, P::kValueBlock * 4);
    return;
  }
  const int64_t home = packed.first_block + block;
  const T* from = step.keys(packed.sequence, home, kv_head);
  uint32_t rows[kBlock][P::kKeySteps];
  std::memcpy(rows, from, sizeof(rows));
  for (int64_t at = 0; at < P::kKeySteps; ++at)
    for (int token = 0; token < kBlock; ++token) keys[at * kLanes + token] = rows[token][at];
  pack_values<D>(from + step.part_stride, packed.end - home * kBlock, values);
}

// A thread's working memory for one query tile.
template <class T, int D>
struct Tile {
  static constexpr int64_t kWidth = Values<T, D>::kWidth;
  std::vector<T> q, weights;
  std::vector<float> scores, sums, best, total;
  explicit Tile(int64_t rows)
      : q(rows * D), weights(rows * kChunk), scores(rows * kChunk), sums(rows * kWidth),
        best(rows), total(rows) {}
};

// -inf for the keys of a row outside [low, high).
inline void hide(float* scores, int64_t low, int64_t high, int64_t keys) {
  for (int64_t i = 0; i < keys; i += kLanes) {
    const i32x16 at = iota() + static_cast<int32_t>(i);
    const i32x16 seen = (at >= static_cast<int32_t>(low)) & (at < static_cast<int32_t>(high));
    store(scores + i, seen ? load<f32x16>(scores + i) : splat(-INFINITY));
  }
}

// One chunk's scores of a row become weights; what was summed up before shrinks to their scale.
template <class T, int D>
inline void soften_row(Tile<T, D>& tile, int64_t row, int64_t keys, float scale) {
  const float* scores = &tile.scores[row * kChunk];
  f32x16 top = load<f32x16>(scores);
  for (int64_t i = kLanes; i < keys; i += kLanes) top = max(top, load<f32x16>(scores + i));
  const float old = tile.best[row], best = std::max(old, reduce_max(top) * scale);
  f32x16 total = splat(0);
  for (int64_t i = 0; i < keys; i += kLanes) {
    const f32x16 weight = exp2_falling(load<f32x16>(scores + i) * scale - best);
    narrow(weight, &tile.weights[row * kChunk + i]);
    total += weight;
  }
  if (best != old) {
    const float shrink = std::exp2(old - best);
    tile.total[row] *= shrink;
    for (int64_t i = 0; i < tile.kWidth; i += kLanes) {
      float* sums = &tile.sums[row * tile.kWidth + i];
      store(sums, load<f32x16>(sums) * shrink);
    }
  }
  tile.total[row] += reduce_sum(total);
  tile.best[row] = best;
}

// A row's sums over its total, in the order of the dims.
template <class T, int D>
inline void write_row(const Tile<T, D>& tile, int64_t row, T* out) {
  const float share = 1.0f / tile.total[row];
  const float* sums = &tile.sums[row * tile.kWidth];
  for (int from = 0; from < D; from += 2 * kLanes)
    for (int half = 0; half < 2 && from + half * kLanes < D; ++half)
      narrow(ordered<T>(sums + from, half) * share, out + from + half * kLanes);
}

// Tokens [first, last) of the sequence's queries, for the heads of one group.
template <class T, int D>
void prefill_tile(const Attention<T>& step, const Packed<T, D>& packed, Tile<T, D>& tile,
                  int64_t kv_head, int64_t first, int64_t last) {
  using V = Values<T, D>;
  const int64_t group = step.group(), rows = (last - first) * group;
  const int64_t padded = (rows + kTileRows - 1) / kTileRows * kTileRows;
  const int64_t row0 = step.query_start[packed.sequence];
  const int64_t position0 = packed.end - step.queries(packed.sequence);
  const int64_t head_row = step.num_heads * D;
  const int64_t q_at = (row0 + first) * head_row + kv_head * group * D;
  for (int64_t token = 0; token < last - first; ++token)
    std::memcpy(&tile.q[token * group * D], step.q + q_at + token * head_row,
                group * D * sizeof(T));
  std::fill(tile.sums.begin(), tile.sums.end(), 0.0f);
  std::fill(tile.best.begin(), tile.best.end(), -1e30f);
  std::fill(tile.total.begin(), tile.total.end(), 0.0f);

  const int64_t origin = packed.first_block * kBlock;  // position of the first laid-out key
  const int64_t end = position0 + last;
  int64_t block = step.first_seen(position0 + first) / kBlock - packed.first_block;
  for (; origin + block * kBlock < end; block += kChunk / kBlock) {
    const int64_t at = origin + block * kBlock;
    const int64_t blocks = (std::min(end - at, kChunk) + kBlock - 1) / kBlock;
    multiply<T>(tile.q.data(), D, {packed.key_block(kv_head, block), Packed<T, D>::kKeyBlock, kLanes},
                Packed<T, D>::kKeySteps, tile.scores.data(), kChunk, padded, blocks, false);
    const bool edge = at < step.first_seen(end - 1) || at + blocks * kBlock > position0 + first + 1;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t position = position0 + first + row / group;
      if (edge)
        hide(&tile.scores[row * kChunk], step.first_seen(position) - at, position + 1 - at,
             blocks * kBlock);
      soften_row(tile, row, blocks * kBlock, step.scale);
    }
    multiply<T>(tile.weights.data(), kChunk, {packed.value_block(kv_head, block), kLanes, V::kWidth},
                blocks * V::kSteps, tile.sums.data(), V::kWidth, padded, V::kWidth / kLanes, true);
  }
  for (int64_t row = 0; row < rows; ++row)
    write_row(tile, row, step.out + q_at + row / group * head_row + row % group * D);
}

template <class T, int D>
Packed<T, D> packed_context(const Attention<T>& step, int64_t sequence, uint32_t* workspace) {
  using P = Packed<T, D>;
  const int64_t end = step.context_len[sequence];
  const int64_t first = step.first_seen(end - step.queries(sequence)) / kBlock;
  const int64_t blocks = (end + kBlock - 1) / kBlock - first;
  uint32_t* values = workspace + step.num_kv_heads * P::padded(blocks) * P::kKeyBlock;
  return {sequence, first, blocks, end, workspace, values};
}

// Bytes of workspace that the longest prefilling context of the step needs.
template <class T, int D>
int64_t prefill_workspace_bytes(const Attention<T>& step) {
  using P = Packed<T, D>;
  int64_t most = 0;
  for (int64_t sequence = 0; sequence < step.sequences; ++sequence) {
    if (step.queries(sequence) < 2) continue;
    const int64_t blocks = packed_context<T, D>(step, sequence, nullptr).blocks;
    most = std::max(most, P::padded(blocks) * (P::kKeyBlock + P::kValueBlock) * 4);
  }
  return most * step.num_kv_heads;
}

template <class T, int D>
void prefill_attention(const Attention<T>& step, uint32_t* workspace) {
  const int64_t group = step.group(), tokens = std::max<int64_t>(1, kRows / group);
  const int64_t tile_rows = (tokens * group + kTileRows - 1) / kTileRows * kTileRows;
#pragma omp parallel num_threads(step.threads)
  {
    Tile<T, D> tile(tile_rows);
    for (int64_t sequence = 0; sequence < step.sequences; ++sequence) {
      const int64_t queries = step.queries(sequence);
      if (queries < 2) continue;
      const auto packed = packed_context<T, D>(step, sequence, workspace);
      const int64_t blocks = packed.padded(packed.blocks);
#pragma omp for schedule(static)
      for (int64_t task = 0; task < blocks * step.num_kv_heads; ++task)
        pack_block<T, D>(step, packed, task / blocks, task % blocks);
      const int64_t tiles = (queries + tokens - 1) / tokens;
      // The last tile has the longest context: longest first balances the threads.
#pragma omp for schedule(dynamic, 1)
      for (int64_t task = 0; task < tiles * step.num_kv_heads; ++task) {
        const int64_t first = (tiles - 1 - task / step.num_kv_heads) * tokens;
        prefill_tile<T, D>(step, packed, tile, task % step.num_kv_heads, first,
                           std::min(queries, first + tokens));
      }
    }
  }
}

}  // namespace baton

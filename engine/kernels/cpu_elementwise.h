// Row-wise operators: norms, rotary encoding with the write into the cache, gated activation.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu_simd.h"

namespace baton {

// Rows are shared out among the threads once there is enough work to pay for waking them.
template <class F>
inline void for_rows(int64_t rows, int64_t row_elements, int threads, F body) {
  if (threads <= 1 || rows * row_elements < 16384) {
    for (int64_t row = 0; row < rows; ++row) body(row);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row) body(row);
}

inline float inverse_rms(const float* x, int64_t size, float eps) {
  f32x16 sums = splat(0);
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const f32x16 part = load<f32x16>(x + i);
    sums += part * part;
  }
  float sum = reduce_sum(sums);
  for (; i < size; ++i) sum += x[i] * x[i];
  return 1.0f / std::sqrt(sum / size + eps);
}

// Calls work(first, count) for each run of up to kLanes neighbours.
template <class F>
inline void for_lanes(int64_t size, F work) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) work(i, kLanes);
  if (i < size) work(i, static_cast<int>(size - i));
}

// out = normalised (residual += x); a null x normalises the residual as it is.
template <class T>
void rms_norm_row(const T* x, T* residual, const T* weight, T* out, float* sum, int64_t size,
                  float eps) {
  for_lanes(size, [&](int64_t i, int count) {
    if (x)
      store_floats(load_floats(residual + i, count) + load_floats(x + i, count), residual + i,
                   count);
    store_floats(load_floats(residual + i, count), sum + i, count);
  });
  const float scale = inverse_rms(sum, size, eps);
  for_lanes(size, [&](int64_t i, int count) {
    store_floats(load_floats(sum + i, count) * scale * load_floats(weight + i, count), out + i,
                 count);
  });
}

template <class T>
void rms_norm(const T* x, T* residual, const T* weight, T* out, int64_t rows, int64_t size,
              float eps, int threads) {
  for_rows(rows, size, threads, [&](int64_t row) {
    static thread_local std::vector<float> sum;
    sum.resize(size);
    const int64_t at = row * size;
    rms_norm_row(x ? x + at : x, residual + at, weight, out + at, sum.data(), size, eps);
  });
}

template <class T>
void silu_mul(const T* gate_up, T* out, int64_t rows, int64_t size, int threads) {
  for_rows(rows, 4 * size, threads, [&](int64_t row) {
    const T *gate = gate_up + row * 2 * size, *up = gate + size;
    for_lanes(size, [&](int64_t i, int count) {
      const f32x16 x = load_floats(gate + i, count), y = load_floats(up + i, count);
      store_floats(x / (exp(-x) + 1.0f) * y, out + row * size + i, count);
    });
  });
}

struct Heads {
  int64_t num_heads, num_kv_heads, head_dim, block_size;
  int64_t block_stride, part_stride;  // of the cache, as in Attention
  float eps;
};

// Normalises (unless the weight is null) and rotates one head: cosines, then sines, in `angles`.
template <class T>
void rotate_head(const T* from, const T* weight, const float* angles, T* to, float* x,
                 const Heads& heads) {
  const int64_t dim = heads.head_dim, half = dim / 2;
  for_lanes(dim, [&](int64_t i, int count) {
    store_floats(load_floats(from + i, count), x + i, count);
  });
  if (weight) {
    const float scale = inverse_rms(x, dim, heads.eps);
    for_lanes(dim, [&](int64_t i, int count) {
      T rounded[kLanes];
      const f32x16 normed = load_floats(x + i, count) * scale * load_floats(weight + i, count);
      store_floats(normed, rounded, count);
      store_floats(load_floats(rounded, count), x + i, count);
    });
  }
  for_lanes(half, [&](int64_t i, int count) {
    const f32x16 low = load_floats(x + i, count), high = load_floats(x + half + i, count);
    const f32x16 cosine = load_floats(angles + i, count);
    const f32x16 sine = load_floats(angles + half + i, count);
    store_floats(low * cosine - high * sine, to + i, count);
    store_floats(high * cosine + low * sine, to + half + i, count);
  });
}

// Writes the rotated queries to q and each token's key and value to its slot of the layer's cache.
template <class T>
void store_kv(const T* qkv, const T* q_norm, const T* k_norm, const float* rope,
              const int64_t* positions, const int64_t* slots, T* layer_kv, T* q, int64_t tokens,
              const Heads& heads, int threads) {
  const int64_t dim = heads.head_dim, kv_heads = heads.num_kv_heads, block = heads.block_size;
  const int64_t width = (heads.num_heads + 2 * kv_heads) * dim;
  for_rows(tokens, 2 * width, threads, [&](int64_t token) {
    static thread_local std::vector<float> scratch;
    scratch.resize(dim);
    float* x = scratch.data();
    const float* angles = rope + positions[token] * dim;
    const T* row = qkv + token * width;
    for (int64_t head = 0; head < heads.num_heads; ++head)
      rotate_head(row + head * dim, q_norm, angles, q + (token * heads.num_heads + head) * dim, x,
                  heads);
    row += heads.num_heads * dim;
    const int64_t home = slots[token] / block, offset = slots[token] % block;
    for (int64_t head = 0; head < kv_heads; ++head) {
      T* key = layer_kv + home * heads.block_stride + (head * block + offset) * dim;
      rotate_head(row + head * dim, k_norm, angles, key, x, heads);
      std::memcpy(key + heads.part_stride, row + (kv_heads + head) * dim, dim * sizeof(T));
    }
  });
}

}  // namespace baton

// Vectors of sixteen 32-bit lanes, written so that any instruction set compiles them.
//
// A lane of bfloat16 data holds two neighbours along the depth of a product; a lane of float data
// holds one. Code that counts in lanes and calls mac() is the same for both.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace baton {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));

struct bf16 {
  uint16_t bits;
};

constexpr int kLanes = 16;

template <class V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <class V>
inline void store(void* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

inline u32x16 splat_bits(uint32_t bits) { return u32x16{} + bits; }

inline f32x16 splat(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return (f32x16)splat_bits(bits);
}

inline i32x16 iota() { return i32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline void from_float(float x, float& to) { to = x; }

// Rounds to the nearest, ties to even, as torch does; a NaN stays one.
inline void from_float(float x, bf16& to) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

inline f32x16 widen(const float* from) { return load<f32x16>(from); }
inline f32x16 widen(const bf16* from) {
  return (f32x16)(__builtin_convertvector(load<u16x16>(from), u32x16) << 16);
}
inline void narrow(f32x16 x, float* to) { store(to, x); }
inline void narrow(f32x16 x, bf16* to) {
#if defined(__AVX512BF16__)
  store(to, _mm512_cvtneps_pbh((__m512)x));
#else
  for (int i = 0; i < kLanes; ++i) from_float(x[i], to[i]);
#endif
}

// Sixteen neighbours, or the first `count` of them and zeros.
template <class T>
inline f32x16 load_floats(const T* from, int count) {
  if (count == kLanes) return widen(from);
  T padded[kLanes] = {};
  std::memcpy(padded, from, count * sizeof(T));
  return widen(padded);
}

template <class T>
inline void store_floats(f32x16 x, T* to, int count) {
  if (count == kLanes) return narrow(x, to);
  T padded[kLanes];
  narrow(x, padded);
  std::memcpy(to, padded, count * sizeof(T));
}

template <class T>
struct Depth;  // how many neighbours along the depth share a lane
template <>
struct Depth<float> {
  static constexpr int value = 1;
};
template <>
struct Depth<bf16> {
  static constexpr int value = 2;
};

template <class T>
inline f32x16 mac(f32x16 sum, u32x16 a, u32x16 b);

template <>
inline f32x16 mac<float>(f32x16 sum, u32x16 a, u32x16 b) {
  return sum + (f32x16)a * (f32x16)b;
}

template <>
inline f32x16 mac<bf16>(f32x16 sum, u32x16 a, u32x16 b) {
#if defined(__AVX512BF16__)
  return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum += (f32x16)(a << 16) * (f32x16)(b << 16);
  return sum + (f32x16)(a & 0xffff0000u) * (f32x16)(b & 0xffff0000u);
#endif
}

inline f32x16 max(f32x16 a, f32x16 b) { return a > b ? a : b; }

// Folds the sixteen lanes by halves; all lanes of the result hold the reduction.
template <class F>
inline float reduce(f32x16 v, F fold) {
  v = fold(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = fold(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = fold(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = fold(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  return v[0];
}
inline float reduce_max(f32x16 v) {
  return reduce(v, [](f32x16 a, f32x16 b) { return max(a, b); });
}
inline float reduce_sum(f32x16 v) {
  return reduce(v, [](f32x16 a, f32x16 b) { return a + b; });
}

// e^x to about 2 units in the last place; 0 below -87, e^88 above 88.
inline f32x16 exp(f32x16 x) {
  const f32x16 low = splat(-87.0f);
  const i32x16 keep = x >= low;
  x = x > splat(88.0f) ? splat(88.0f) : x;
  x = x < low ? low : x;
  const f32x16 shifted = x * 1.44269504f + 12582912.0f;  // the sum's low bits are round(x / ln 2)
  const f32x16 n = shifted - 12582912.0f;
  const f32x16 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  f32x16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const i32x16 exponent = ((i32x16)shifted - 0x4b400000) << 23;
  return (f32x16)(((i32x16)p + exponent) & keep);
}

// 2^x for x <= 0, within 2e-7 of it; what would be below 2^-126 becomes 2^-126.
inline f32x16 exp2_falling(f32x16 x) {
  x = max(x, splat(-126.0f));
  const f32x16 shifted = x + 12582912.0f;  // the sum's low bits are round(x)
  const f32x16 r = x - (shifted - 12582912.0f);
  f32x16 p = r * 1.3276476e-3f + 9.6755419e-3f;
  p = p * r + 5.5507131e-2f;
  p = p * r + 2.4022120e-1f;
  p = p * r + 6.9314694e-1f;
  p = p * r + 1.0f;
  return (f32x16)((i32x16)p + ((i32x16)shifted << 23));
}

// Adds up each of sixteen vectors: lane i of the result is the sum of the lanes of v[i].
inline f32x16 sum_each(f32x16 v[kLanes]) {
#define BATON_FOLD(a, b, ...) \
  (__builtin_shufflevector(a, b, __VA_ARGS__))
  for (int i = 0; i < 8; ++i)
    v[i] = BATON_FOLD(v[i], v[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           BATON_FOLD(v[i], v[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  for (int i = 0; i < 4; ++i)
    v[i] = BATON_FOLD(v[i], v[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
           BATON_FOLD(v[i], v[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  for (int i = 0; i < 2; ++i)
    v[i] = BATON_FOLD(v[i], v[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           BATON_FOLD(v[i], v[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  const f32x16 sums =
      BATON_FOLD(v[0], v[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
      BATON_FOLD(v[0], v[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
#undef BATON_FOLD
  return sums;
}

}  // namespace baton

/* Copies a list of regions between two pools, past the processor's caches: what arrives is read
 * once, much later, so a line that is loaded only to be overwritten is bandwidth lost. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
typedef __m512i vector;
#define LOAD(at) _mm512_loadu_si512((const void *)(at))
#define STREAM(at, value) _mm512_stream_si512((void *)(at), value)
#elif defined(__AVX__)
typedef __m256i vector;
#define LOAD(at) _mm256_loadu_si256((const void *)(at))
#define STREAM(at, value) _mm256_stream_si256((void *)(at), value)
#elif defined(__SSE2__)
typedef __m128i vector;
#define LOAD(at) _mm_loadu_si128((const void *)(at))
#define STREAM(at, value) _mm_stream_si128((void *)(at), value)
#endif

enum { LINE = 64, STEP = 256, SMALL = 2048 };

#ifdef STREAM
static void copy_past_caches(char *to, const char *from, size_t left) {
  size_t head = (size_t)(-(uintptr_t)to) & (LINE - 1);
  memcpy(to, from, head);
  to += head, from += head, left -= head;
  for (; left >= STEP; left -= STEP, to += STEP, from += STEP) {
    vector part[STEP / sizeof(vector)];
    for (size_t i = 0; i < STEP / sizeof(vector); i++) part[i] = LOAD(from + i * sizeof(vector));
    for (size_t i = 0; i < STEP / sizeof(vector); i++) STREAM(to + i * sizeof(vector), part[i]);
  }
  memcpy(to, from, left);
}
#endif

/* One behind the other, into the processor's caches: what is gathered is sent at once.
 * extents: count rows of offset in the source, bytes. */
void baton_gather(char *target, const char *source, const int64_t *extents, int64_t count) {
  for (const int64_t *row = extents, *end = extents + 2 * count; row != end; row += 2) {
    memcpy(target, source + row[0], (size_t)row[1]);
    target += row[1];
  }
}

/* copies: count rows of offset in the source, offset in the target, bytes. */
void baton_copy_regions(char *target, const char *source, const int64_t *copies, int64_t count) {
  for (const int64_t *row = copies, *end = copies + 3 * count; row != end; row += 3) {
    char *to = target + row[1];
    const char *from = source + row[0];
    size_t size = (size_t)row[2];
#ifdef STREAM
    if (size >= SMALL) {
      copy_past_caches(to, from, size);
      continue;
    }
#endif
    memcpy(to, from, size);
  }
#ifdef STREAM
  _mm_sfence();
#endif
}

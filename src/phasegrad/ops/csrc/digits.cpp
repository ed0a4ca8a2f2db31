#include "chunks.h"

// If inputs lie on the levels of an 8-bit converter, their product is one of integers: a level fits in one byte, and a
// weight of 24 bits, the precision of a float, in three. Three products of bytes take half the time of one of floats.

namespace pg {
namespace PG_ISA {

// Levels of inputs; refuses inputs that are not exactly on a level, or not finite.
static inline bool level_row(int8_t* out, const float* x, int64_t n, float range) {
  const float step = range / 127.0f, up = range == 0.0f ? 0.0f : 127.0f / range;
  int32_t off = 0;
#pragma omp simd reduction(| : off)
  for (int64_t j = 0; j < n; ++j) {
    float level = x[j] * up;
    level = level < 127.0f ? (level > -127.0f ? level : -127.0f) : 127.0f;
    level = (level + 12582912.0f) - 12582912.0f;
    off |= level * step == x[j] ? 0 : 1;
    out[j] = (int8_t)(int32_t)level;
  }
  return off == 0;
}

void levels(int8_t* out, int32_t* refused, const float* x, const float* range, int64_t n, int64_t length, int per_row,
            int threads) {
  int32_t off = 0;
#pragma omp parallel for num_threads(threads_for(n* length, threads)) schedule(static) reduction(| : off)
  for (int64_t i = 0; i < n; ++i)
    off |= level_row(out + i * length, x + i * length, length, range[per_row ? i : 0]) ? 0 : 1;
  *refused = off;
}

static inline float most_of(const float* x, int64_t n) {
  vf most = {};
  int64_t i = 0;
  for (; i + W <= n; i += W) most = vmax(most, vabs(load<vf>(x + i)));
  float m = 0.0f;
  for (int j = 0; j < W; ++j) m = most[j] > m ? most[j] : m;
  for (; i < n; ++i) m = __builtin_fabsf(x[i]) > m ? __builtin_fabsf(x[i]) : m;
  return m;
}

// Three signed digits of base 256 per weight, planes [3, n, length], and the unit of the last digit, [tiles, n].
void digits(int8_t* out, float* unit, int32_t* refused, const float* w, int64_t n, int64_t length, int64_t tile,
            int threads) {
  const int64_t tiles = (length + tile - 1) / tile, plane = n * length;
  const float largest = 8323072.0f;  // 127 * 65536: the first digit stays within a byte after the carries
  int32_t off = 0;
#pragma omp parallel for num_threads(threads_for(plane, threads)) schedule(static) reduction(| : off)
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = i * length + t * tile, count = length - t * tile < tile ? length - t * tile : tile;
      const float* row = w + first;
      const float most = most_of(row, count), up = most > 0.0f ? largest / most : 0.0f;
      unit[t * n + i] = most / largest;
      int8_t *low = out + first, *middle = low + plane, *high = middle + plane;
      int32_t odd = most > 0.0f && !(up < 3e38f) ? 1 : 0;
#pragma omp simd reduction(| : odd)
      for (int64_t j = 0; j < count; ++j) {
        const float v = row[j] * up;
        odd |= v - v == 0.0f ? 0 : 1;
        const float c = v < largest ? (v > -largest ? v : -largest) : largest;
        const int32_t whole = (int32_t)(c + (c < 0.0f ? -0.5f : 0.5f));
        const int32_t a = (int8_t)whole, rest = (whole - a) >> 8, b = (int8_t)rest;
        low[j] = (int8_t)a;
        middle[j] = (int8_t)b;
        high[j] = (int8_t)((rest - b) >> 8);
      }
      off |= odd;
    }
  }
  *refused = off;
}

// The product of floats, from the products of three digits, planes [3, rows, columns].
void join_digits(float* y, const int32_t* products, const float* column_unit, const float* range, int64_t rows,
                 int64_t columns, int per_row, int threads) {
  const int64_t plane = rows * columns;
#pragma omp parallel for num_threads(threads_for(plane, threads)) schedule(static)
  for (int64_t i = 0; i < rows; ++i) {
    const float step = range[per_row ? i : 0] / 127.0f;
    const int32_t *low = products + i * columns, *middle = low + plane, *high = middle + plane;
    float* out = y + i * columns;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const float sum = ((float)high[j] * 256.0f + (float)middle[j]) * 256.0f + (float)low[j];
      out[j] = sum * (column_unit[j] * step);
    }
  }
}

}  // namespace PG_ISA
}  // namespace pg

#include "bytes.h"

#include "adc.h"

namespace pg {
namespace PG_ISA {

static inline float largest_of(const float* x, int64_t n) {
  vf most = {};
  int64_t i = 0;
  for (; i + W <= n; i += W) most = vmax(most, vabs(load<vf>(x + i)));
  float m = 0.0f;
  for (int j = 0; j < W; ++j) m = most[j] > m ? most[j] : m;
  for (; i < n; ++i) m = __builtin_fabsf(x[i]) > m ? __builtin_fabsf(x[i]) : m;
  return m;
}

// Bits of all f(worker, i) with i in [0, n), which `threads` workers share evenly: each may have its own memory.
template <class F>
static inline int32_t for_workers(int64_t n, int threads, F f) {
  int32_t found = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : found)
  for (int worker = 0; worker < threads; ++worker)
    for (int64_t i = n * worker / threads; i < n * (worker + 1) / threads; ++i) found |= f(worker, i);
  return found;
}

constexpr float LARGEST_SIZE = 127.0f;

// How often a size is rounded up: with a frequency equal to its fraction, in a low-discrepancy pattern, so that sums are
// unbiased even if every term is far below a step.
struct Rounding {
  uint32_t at, stride;
  inline float operator()(int64_t j) const {
    return (float)(int32_t)((at + (uint32_t)j * stride) >> 8) * 0x1p-24f;
  }
};

static inline uint8_t rounded_size(float size, float up) {
  const float v = size + up;
  return (uint8_t)(int32_t)(v < LARGEST_SIZE ? v : LARGEST_SIZE);  // NaN compares false and becomes the bound
}

// The levels of one row of inputs, plus 128; false if a value is not exactly on a level, or not finite. With
// `converts`, the converter rounds to levels, and only values that are not finite are refused.
static inline bool level_row(uint8_t* out, const float* x, int64_t n, float range, float max_code, bool converts) {
  const float step = range / max_code, inverse = range == 0.0f ? 0.0f : max_code / range, most = 3.4e38f;
  const float up = inverse > most ? most : (inverse < -most ? -most : inverse);
  int32_t off = 0;
#pragma omp simd reduction(| : off)
  for (int64_t j = 0; j < n; ++j) {
    float level = x[j] * up;
    level = level < max_code ? (level > -max_code ? level : -max_code) : max_code;
    level = (level + 12582912.0f) - 12582912.0f;
    off |= (converts ? x[j] - x[j] == 0.0f : level * step == x[j]) ? 0 : 1;
    out[j] = (uint8_t)((int32_t)level + 128);
  }
  return off == 0;
}

// Sizes of the squares of n values; returns their unit.
template <class Values>
static inline float square_row(uint8_t* out, Values values, int64_t n, Rounding rounding) {
  float most = 0.0f;
#pragma omp simd reduction(max : most)
  for (int64_t j = 0; j < n; ++j) {
    const float square = values(j) * values(j);
    most = square > most ? square : most;
  }
  const float inverse = most > 0.0f ? LARGEST_SIZE / most : 0.0f;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) out[j] = rounded_size(values(j) * values(j) * inverse, rounding(j));
  return most / LARGEST_SIZE;
}

// Copy a row of bytes to its place among those of a group, four at a time.
static inline void spread(uint8_t* out, const uint8_t* row, int64_t quads, int64_t apart) {
  for (int64_t q = 0; q < quads; ++q) std::memcpy(out + q * apart, row + q * QUAD, QUAD);
}

// Inputs as bytes.h lays them out: their levels, unless there are no digits, and with `square_unit` [tiles, rows] the
// sizes of their squares. With `converts`, a converter rounds them to levels; otherwise those between levels are
// refused, and in both cases those that are not finite. `room` holds two rows of a tile per thread.
void byte_inputs(uint8_t* out, float* square_unit, int32_t* refused, uint8_t* room, const float* x, const float* range,
                 int64_t rows, int64_t length, int64_t tile, int per_row, int converts, float max_code, int digits,
                 int threads) {
  const int64_t tiles = ceil_div(length, tile), quads = ceil_div(tile, QUAD), width = quads * QUAD;
  const int64_t group = rows_of_group(digits + (square_unit ? 1 : 0)), bytes = group * QUAD;
  const int64_t apart = bytes * ((digits ? 1 : 0) + (square_unit ? 1 : 0));
  *refused = for_workers(ceil_div(rows, group), threads_for(rows * length, threads), [&](int64_t worker, int64_t g) {
    uint8_t *levels = room + worker * 2 * width, *squares = levels + width;
    int32_t off = 0;
    for (int64_t i = 0; i < group * tiles; ++i) {
      const int64_t row = g * group + i / tiles, t = i % tiles, first = t * tile;
      const int64_t count = row >= rows ? 0 : (length - first < tile ? length - first : tile);
      const float* from = x + row * length + first;
      uint8_t* to = out + (g * tiles + t) * quads * apart + i / tiles * QUAD;
      const float limit = row < rows ? range[per_row ? row : 0] : 0.0f, step = limit / max_code;
      std::memset(levels, 0, 2 * width);
      if (digits) {
        off |= level_row(levels, from, count, limit, max_code, converts) ? 0 : 1;
        spread(to, levels, quads, apart);
      }
      if (!square_unit) continue;
      const Rounding rounding = {(uint32_t)row * 3242174889u + (uint32_t)first * 2447445413u, 2447445413u};
      float unit;
      if (digits)
        unit = square_row(squares, [&](int64_t j) { return (float)levels[j] - 128.0f; }, count, rounding) * step * step;
      else
        unit = square_row(squares, [&](int64_t j) { return from[j]; }, count, rounding);
      if (row < rows) square_unit[t * rows + row] = unit;
      spread(to + apart - bytes, squares, quads, apart);
    }
    return off;
  });
}

// Digits of base 256 of one row of weights, the highest first, `count` values each, and the unit of the last digit.
template <int DIGITS>
static inline bool digit_row(int8_t* const* out, float* unit, const float* w, int64_t n, float most) {
  const float largest = DIGITS == 3 ? 8323072.0f : 32512.0f;  // 127 x 256^k: the first digit fits after the carries
  const float up = most > 0.0f ? largest / most : 0.0f;
  int32_t odd = most > 0.0f && !(up < 3e38f) ? 1 : 0;
  *unit = most / largest;
  int8_t *high = out[0], *middle = out[1], *low = out[DIGITS - 1];
#pragma omp simd reduction(| : odd)
  for (int64_t j = 0; j < n; ++j) {
    const float v = w[j] * up;
    odd |= v - v == 0.0f ? 0 : 1;
    const float c = v < largest ? (v > -largest ? v : -largest) : largest;
    int32_t whole = (int32_t)(c + (c < 0.0f ? -0.5f : 0.5f));
    const int32_t a = (int8_t)whole;
    low[j] = (int8_t)a;
    whole = (whole - a) >> 8;
    if (DIGITS == 3) {
      const int32_t b = (int8_t)whole;
      middle[j] = (int8_t)b;
      whole = (whole - b) >> 8;
    }
    high[j] = (int8_t)whole;
  }
  return odd == 0;
}

static inline int32_t sum_of(const int8_t* x, int64_t n) {
  int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += x[j];
  return sum;
}

// Rows of sixteen columns, [16, quads, 4], as [quads, 16, 4] with quads `apart` bytes apart.
static inline void transposed(int8_t* out, const int8_t* rows, int64_t quads, int64_t apart) {
  for (int64_t q = 0; q < quads; ++q)
    for (int64_t j = 0; j < COLUMNS; ++j) std::memcpy(out + q * apart + j * QUAD, rows + (j * quads + q) * QUAD, QUAD);
}

// Weights as bytes.h lays them out; refused if one is not finite (1), or with `most_of` [tiles, columns] if the largest
// of a column is above that (2). `start` [tiles, blocks, digits, 16] takes off what is added to levels; `unit` and
// `size_unit`, which is null without sizes, [tiles, 16 x blocks], are those of the last digit and of the sizes. `room`
// holds the planes of one block and one tile per thread.
void byte_weights(int8_t* out, int32_t* start, float* unit, float* size_unit, int32_t* refused, int8_t* room,
                  const float* w, const float* most_of, int64_t columns, int64_t length, int64_t tile, int digits, int threads) {
  const int64_t tiles = ceil_div(length, tile), quads = ceil_div(tile, QUAD), blocks = ceil_div(columns, COLUMNS);
  const int64_t planes = digits + (size_unit ? 1 : 0), width = quads * QUAD, each = COLUMNS * width;
  *refused = for_workers(blocks, threads_for(columns * length, threads), [&](int64_t worker, int64_t b) {
    int8_t* rows = room + worker * planes * each;
    int32_t off = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = t * tile, count = length - first < tile ? length - first : tile;
      int32_t* starts = start + (t * blocks + b) * digits * COLUMNS;
      std::memset(rows, 0, planes * each);
      for (int64_t j = 0; j < COLUMNS; ++j) {
        const int64_t column = b * COLUMNS + j, at = t * blocks * COLUMNS + column;
        int8_t* to[4] = {};
        for (int64_t p = 0; p < planes; ++p) to[p] = rows + p * each + j * width;
        const float* from = w + column * length + first;
        const float most = column < columns ? largest_of(from, count) : 0.0f;
        const int64_t n = column < columns ? count : 0;
        if (digits) off |= (digits == 3 ? digit_row<3> : digit_row<2>)(to, unit + at, from, n, most) ? 0 : 1;
        if (most_of && column < columns && !(most <= most_of[t * columns + column])) off |= 2;
        for (int p = 0; p < digits; ++p) starts[p * COLUMNS + j] = -128 * sum_of(to[p], n);
        if (!size_unit) continue;
        size_unit[at] = most / LARGEST_SIZE;
        const Rounding rounding = {(uint32_t)column * 3242174889u + (uint32_t)first * 3100463411u, 3100463411u};
        const float inverse = most > 0.0f ? LARGEST_SIZE / most : 0.0f;
        uint8_t* sizes = (uint8_t*)to[digits];
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) sizes[i] = rounded_size(__builtin_fabsf(from[i]) * inverse, rounding(i));
      }
      int8_t* packed = out + (t * blocks + b) * quads * planes * PLANE;
      for (int64_t p = 0; p < planes; ++p) transposed(packed + p * PLANE, rows + p * each, quads, planes * PLANE);
    }
    return off;
  });
}

struct Bytes {  // arguments of a product
  const uint8_t* x;
  const int8_t* w;
  const int32_t* start;
  const float *unit, *size_unit, *square_unit, *range;
  float max_code;
  bool per_row;
  int64_t rows, columns, quads, tiles;
};

// Products y and variances v [rows, columns] of a panel of rows with one tile.
template <class Sums, int DIGITS, int SIZES>
static void multiply_panel(float* y, float* v, const Bytes& c, int64_t tile, int64_t first_row, int64_t last_row) {
  constexpr int PLANES = DIGITS + SIZES, ROWS = rows_of_group(PLANES);
  const int64_t blocks = ceil_div(c.columns, COLUMNS), group_bytes = c.quads * ((DIGITS ? 1 : 0) + SIZES) * ROWS * QUAD;
  alignas(64) int32_t sums[ROWS * PLANES * COLUMNS];
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t at = tile * blocks + b, left = c.columns - b * COLUMNS, n = left < COLUMNS ? left : COLUMNS;
    const float* unit = c.unit + at * COLUMNS;
    for (int64_t row = first_row; row < last_row; row += ROWS) {
      multiply_block<Sums, DIGITS, SIZES>(sums, c.x + (row / ROWS * c.tiles + tile) * group_bytes,
                                          c.w + at * c.quads * PLANES * PLANE, c.start + at * DIGITS * COLUMNS, c.quads);
      for (int64_t i = 0; i < ROWS && row + i < last_row; ++i) {
        const int32_t* s = sums + i * PLANES * COLUMNS;
        const float step = c.range[c.per_row ? row + i : 0] / c.max_code;
        const int64_t to = (row - first_row + i) * c.columns + b * COLUMNS;
        float joined[COLUMNS], spread[COLUMNS];
#pragma omp simd
        for (int64_t j = 0; j < COLUMNS; ++j) {
          float sum = (float)s[j];
          for (int p = 1; p < DIGITS; ++p) sum = sum * 256.0f + (float)s[p * COLUMNS + j];
          joined[j] = sum * (unit[j] * step);
        }
        if (DIGITS) std::memcpy(y + to, joined, n * sizeof(float));
        if (!SIZES) continue;
        const float squares = c.square_unit[tile * c.rows + row + i];
        const float* sizes = c.size_unit + at * COLUMNS;
#pragma omp simd
        for (int64_t j = 0; j < COLUMNS; ++j) spread[j] = (float)s[DIGITS * COLUMNS + j] * (squares * sizes[j]);
        std::memcpy(v + to, spread, n * sizeof(float));
      }
    }
  }
}

typedef void (*Panel)(float*, float*, const Bytes&, int64_t, int64_t, int64_t);

template <class Sums>
static Panel panel_for(int digits, bool sizes) {
  if (digits == 0) return multiply_panel<Sums, 0, 1>;
  if (digits == 3) return sizes ? multiply_panel<Sums, 3, 1> : multiply_panel<Sums, 3, 0>;
  return sizes ? multiply_panel<Sums, 2, 1> : multiply_panel<Sums, 2, 0>;
}

// Rows whose outputs are computed together: a whole number of groups of inputs, and of groups of draws.
static int64_t panel_rows(int64_t columns) { return columns % 4 == 0 ? PANEL : 4 * PANEL; }

// The sum of the outputs of tiles first_tile .. last_tile - 1 after noise and conversion; tile 0 overwrites it, and the
// others are added to it. Without digits, the products of these tiles are `products` [tiles, rows, columns]. `room` holds one panel of outputs per thread, and one of variances if there are sizes.
void byte_product(float* out, int8_t* code, float* room, float* table, const float* products, const uint8_t* x,
                  const int8_t* w, const int32_t* start, const float* unit, const float* size_unit,
                  const float* square_unit, const float* scale, const float* gain, const float* range, int64_t rows,
                  int64_t columns, int64_t length, int64_t tile, int64_t first_tile, int64_t last_tile, int per_row,
                  float levels, int digits, double output_noise, double read_noise, float bound, int mode,
                  double max_code, uint64_t seed, uint64_t offset, int threads) {
  const int64_t tiles = ceil_div(length, tile), quads = ceil_div(tile, QUAD), at_once = panel_rows(columns);
  const Adc a = {(float)output_noise, (float)read_noise, bound, (float)max_code, mode};
  const bool noisy = output_noise > 0.0 || size_unit;
  const Conversion c = {a, scale,        gain,  range, tiles,  rows, columns,
                        1, per_row != 0, noisy, seed,  offset, table, code};
  const Bytes bytes = {x,        w,    start,   unit,  size_unit, square_unit, range, levels, per_row != 0,
                       rows, columns, quads, tiles};
  const Panel multiply = has_vnni() ? panel_for<VnniSums>(digits, size_unit) : panel_for<PlainSums>(digits, size_unit);
  const int64_t panels = ceil_div(rows, at_once), kinds = size_unit ? 2 : 1;
  c.fill_table();
  for_workers(panels, threads, [&](int64_t worker, int64_t p) {
    float *y = room + worker * kinds * at_once * columns, *v = y + at_once * columns;
    const int64_t first_row = p * at_once, last_row = first_row + at_once < rows ? first_row + at_once : rows;
    const int64_t begin = first_row * columns, end = last_row * columns;
    for (int64_t t = first_tile; t < last_tile; ++t) {
      multiply(y, v, bytes, t, first_row, last_row);
      const float* from = digits ? y : products + (t - first_tile) * rows * columns + begin;
      for (int64_t first = begin; first < end; first += CHUNK) {
        const int64_t n = end - first < CHUNK ? end - first : CHUNK;
        Room sum, y_room, v_room;
        if (t) std::memcpy(sum.v, out + first, n * sizeof(float));
        const float* vt = size_unit ? padded(v + first - begin, n, v_room.v) : nullptr;
        c.add(sum.v, t, first, n, padded(from + first - begin, n, y_room.v), vt, t == 0);
        std::memcpy(out + first, sum.v, n * sizeof(float));
      }
    }
    return 0;
  });
}

}  // namespace PG_ISA
}  // namespace pg

#include "bytes.h"

#include "adc.h"

namespace pg {
namespace PG_ISA {

// Largest magnitude of x. Meanwhile the values `ahead` of it are fetched: the processor does not foresee that rows
// continue on another page.
static inline float largest_of(const float* x, int64_t n, int64_t ahead) {
  vf most[4] = {};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      __builtin_prefetch(x + ahead + i + k * W, 0, 3);
      most[k] = vmax(most[k], vabs(load<vf>(x + i + k * W)));
    }
  }
  const vf all = vmax(vmax(most[0], most[1]), vmax(most[2], most[3]));
  float m = 0.0f;
  for (int j = 0; j < W; ++j) m = all[j] > m ? all[j] : m;
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

// How often a size is rounded up: with a frequency equal to its fraction, in a low-discrepancy pattern, so that sums
// are unbiased even if every term is far below a step.
struct Rounding {
  uint32_t at, stride;
  inline float operator()(int64_t j) const { return (float)(int32_t)((at + (uint32_t)j * stride) >> 8) * 0x1p-24f; }
};

static inline uint8_t rounded_size(float size, float up) {
  const float v = size + up;
  return (uint8_t)(int32_t)(v < LARGEST_SIZE ? v : LARGEST_SIZE);  // NaN compares false and becomes the bound
}

// The levels of one row of inputs, plus 128; false if a value is not exactly on a level, or not finite. With
// `converts`, the converter rounds to levels, and only values that are not finite are refused.
static bool level_row(uint8_t* out, float* level_of, const float* x, int64_t n, float range, float max_code,
                      bool converts) {
  const float step = range / max_code, inverse = range == 0.0f ? 0.0f : max_code / range, most = 3.4e38f;
  const float up = inverse > most ? most : (inverse < -most ? -most : inverse);
  int32_t off = 0;
#pragma omp simd reduction(| : off)
  for (int64_t j = 0; j < n; ++j) {
    float level = x[j] * up;
    level = level < max_code ? (level > -max_code ? level : -max_code) : max_code;
    level = (level + 12582912.0f) - 12582912.0f;
    off |= (converts ? x[j] - x[j] == 0.0f : level * step == x[j]) ? 0 : 1;
    level_of[j] = level;
    out[j] = (uint8_t)((int32_t)level + 128);
  }
  return off == 0;
}

static void size_row(uint8_t* out, const float* x, int64_t n, float most, Rounding rounding) {
  const float inverse = most > 0.0f ? LARGEST_SIZE / most : 0.0f;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) out[j] = rounded_size(__builtin_fabsf(x[j]) * inverse, rounding(j));
}

// Sizes of the squares of n values; returns their unit.
static float square_row(uint8_t* out, const float* x, int64_t n, Rounding rounding) {
  const float largest = largest_of(x, n, 0), most = largest * largest;
  const float inverse = most > 0.0f ? LARGEST_SIZE / most : 0.0f;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) out[j] = rounded_size(x[j] * x[j] * inverse, rounding(j));
  return most / LARGEST_SIZE;
}

// Where the bytes of one row and tile go among those of its group.
struct Places {
  int64_t group, tiles, quads;
  inline void put(uint8_t* out, const uint8_t* bytes, int64_t row, int64_t tile) const {
    uint8_t* to = out + ((row / group * tiles + tile) * quads * group + row % group) * QUAD;
    for (int64_t q = 0; q < quads; ++q) std::memcpy(to + q * group * QUAD, bytes + q * QUAD, QUAD);
  }
};

// Inputs as bytes.h lays them out: their levels, if there are `digits`, and the sizes of their squares with units
// [tiles, rows], if `squares` is not null. With `converts`, a converter rounds them to levels; otherwise those between
// levels are refused, and in both cases those that are not finite. `room` holds six bytes per row of a tile and thread.
void byte_inputs(uint8_t* levels, uint8_t* squares, float* square_unit, int32_t* refused, uint8_t* room, const float* x,
                 const float* range, int64_t rows, int64_t length, int64_t tile, int per_row, int converts,
                 float max_code, int digits, int threads) {
  const int64_t tiles = ceil_div(length, tile), quads = ceil_div(tile, QUAD), width = quads * QUAD;
  const Places of_levels = {rows_of_group(digits), tiles, quads},
               of_squares = {rows_of_group(SIZE_PLANES), tiles, quads};
  *refused = for_workers(rows, threads_for(rows * length, threads), [&](int64_t worker, int64_t row) {
    uint8_t *level = room + worker * 6 * width, *square = level + width;
    float* level_of = (float*)(square + width);
    const float limit = range[per_row ? row : 0], step = limit / max_code;
    int32_t off = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = t * tile, count = length - first < tile ? length - first : tile;
      const float* from = x + row * length + first;
      std::memset(level, 0, 2 * width);
      if (digits) {
        off |= level_row(level, level_of, from, count, limit, max_code, converts) ? 0 : 1;
        of_levels.put(levels, level, row, t);
      }
      if (!squares) continue;
      const Rounding rounding = {(uint32_t)row * 3242174889u + (uint32_t)first * 2447445413u, 2447445413u};
      const float unit = square_row(square, digits ? level_of : from, count, rounding);
      square_unit[t * rows + row] = digits ? unit * step * step : unit;
      of_squares.put(squares, square, row, t);
    }
    return off;
  });
}

typedef int8_t vb __attribute__((vector_size(W)));

static inline vi signed_byte(vi x) { return (x << 24) >> 24; }

// Digits of base 256 of one row of weights, the highest first, their sums, and the unit of the last digit; false if a
// weight is not finite. Rows have room for whole vectors.
template <int DIGITS>
static inline bool digit_row(int8_t* const* out, int32_t* sums, float* unit, const float* w, int64_t n, float most) {
  const float largest = DIGITS == 3 ? 8323072.0f : 32512.0f;  // 127 x 256^k: the first digit fits after the carries
  const float up = most > 0.0f ? largest / most : 0.0f;
  const vf half = splat(0.5f), bound = splat(largest);
  vi odd = {}, total[DIGITS] = {};
  *unit = most / largest;
  for (int64_t j = 0; j < n; j += W) {
    float tail[W] = {};
    if (n - j < W) std::memcpy(tail, w + j, (n - j) * sizeof(float));
    const vf v = load<vf>(n - j < W ? tail : w + j) * splat(up), c = vclamp(v, -bound, bound);
    odd |= ~finite(v);
    vi rest = __builtin_convertvector(c + (c < splat(0.0f) ? -half : half), vi);
#pragma GCC unroll 3
    for (int p = DIGITS - 1; p >= 0; --p) {
      const vi digit = signed_byte(rest);
      rest = (rest - digit) >> 8;
      total[p] = total[p] + digit;
      store(out[p] + j, __builtin_convertvector(digit, vb));
    }
  }
  for (int p = 0; p < DIGITS; ++p) {
    sums[p] = 0;
    for (int k = 0; k < W; ++k) sums[p] += total[p][k];
  }
  return !any(odd) && !(most > 0.0f && !(up < 3e38f));
}

typedef int32_t Quads __attribute__((vector_size(PLANE)));  // of the columns of a block

static inline void interleave(Quads a, Quads b, Quads& low, Quads& high) {
#if defined(__clang__)
  low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
  low = __builtin_shuffle(a, b, Quads{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
  high = __builtin_shuffle(a, b, Quads{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
#endif
}

// Rows of sixteen columns, `pitch` bytes apart, as [quads, 16, 4] with quads `apart` bytes apart. Each step doubles how
// many columns a vector interleaves.
static inline void transposed(int8_t* out, const int8_t* rows, int64_t pitch, int64_t quads, int64_t apart) {
  int64_t q = 0;
  for (; q + COLUMNS <= quads; q += COLUMNS) {
    Quads a[COLUMNS], b[COLUMNS];
    for (int64_t j = 0; j < COLUMNS; ++j) a[j] = load<Quads>(rows + j * pitch + q * QUAD);
    for (int j = 0; j < 8; ++j) interleave(a[j], a[j + 8], b[2 * j], b[2 * j + 1]);
    for (int j = 0; j < 8; ++j) interleave(b[j], b[j + 8], a[2 * j], a[2 * j + 1]);
    for (int j = 0; j < 8; ++j) interleave(a[j], a[j + 8], b[2 * j], b[2 * j + 1]);
    for (int j = 0; j < 8; ++j) interleave(b[j], b[j + 8], a[2 * j], a[2 * j + 1]);
    for (int64_t j = 0; j < COLUMNS; ++j) store(out + (q + j) * apart, a[j]);
  }
  for (; q < quads; ++q)
    for (int64_t j = 0; j < COLUMNS; ++j) std::memcpy(out + q * apart + j * QUAD, rows + j * pitch + q * QUAD, QUAD);
}

// Weights as bytes.h lays them out: their digits, if there are any, and their sizes, if `sizes` is not null. Refused if
// one is not finite (1), or with `most_of` [tiles, columns] if the largest of a column is above that (2). `start`
// [tiles, blocks, digits, 16] takes off what is added to levels; the units [tiles, 16 x blocks] are those of the last
// digit and of the sizes, for an even number of blocks. `room` holds the planes of a block and a tile per thread.
void byte_weights(int8_t* out, int8_t* sizes, int32_t* start, float* unit, float* size_unit, int32_t* refused,
                  int8_t* room, const float* w, const float* most_of, int64_t columns, int64_t length, int64_t tile,
                  int digits, int threads) {
  const int64_t tiles = ceil_div(length, tile), quads = ceil_div(tile, QUAD);
  const int64_t blocks = SIZE_PLANES * ceil_div(columns, SIZE_PLANES * COLUMNS);
  const int64_t planes = digits + (sizes ? 1 : 0), width = ceil_div(tile, PLANE) * PLANE, each = COLUMNS * width;
  *refused = for_workers(blocks, threads_for(columns * length, threads), [&](int64_t worker, int64_t b) {
    int8_t* rows = room + worker * planes * each;
    int32_t off = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = t * tile, count = length - first < tile ? length - first : tile, place = t * blocks + b;
      if (count % QUAD || columns < (b + 1) * COLUMNS || count < tile) std::memset(rows, 0, planes * each);
      for (int64_t j = 0; j < COLUMNS; ++j) {
        const int64_t column = b * COLUMNS + j, at = place * COLUMNS + j, n = column < columns ? count : 0;
        int8_t* to[4] = {};
        for (int64_t p = 0; p < planes; ++p) to[p] = rows + p * each + j * width;
        const float *from = w + column * length + first, most = largest_of(from, n, length);
        int32_t sums[3];
        if (digits) off |= (digits == 3 ? digit_row<3> : digit_row<2>)(to, sums, unit + at, from, n, most) ? 0 : 1;
        if (most_of && n && !(most <= most_of[t * columns + column])) off |= 2;
        for (int p = 0; p < digits; ++p) start[(place * digits + p) * COLUMNS + j] = -128 * sums[p];
        if (!sizes) continue;
        size_unit[at] = most / LARGEST_SIZE;
        const Rounding rounding = {(uint32_t)column * 3242174889u + (uint32_t)first * 3100463411u, 3100463411u};
        size_row((uint8_t*)to[digits], from, n, most, rounding);
      }
      for (int64_t p = 0; p < digits; ++p)
        transposed(out + (place * quads * digits + p) * PLANE, rows + p * each, width, quads, digits * PLANE);
      if (sizes)
        transposed(sizes + (place / SIZE_PLANES * quads * SIZE_PLANES + b % SIZE_PLANES) * PLANE, rows + digits * each,
                   width, quads, SIZE_PLANES * PLANE);
    }
    return off;
  });
}

struct Bytes {  // arguments of a product
  const uint8_t *levels, *squares;
  const int8_t *digits, *sizes;
  const int32_t* start;
  const float *unit, *size_unit, *square_unit, *range;
  float max_code;
  bool per_row;
  int64_t rows, columns, quads, tiles;

  int64_t blocks() const { return SIZE_PLANES * ceil_div(columns, SIZE_PLANES * COLUMNS); }
  void store_columns(float* row, const float* values, int64_t column) const {
    if (columns - column >= COLUMNS)
      std::memcpy(row + column, values, COLUMNS * sizeof(float));
    else if (columns > column)
      std::memcpy(row + column, values, (columns - column) * sizeof(float));
  }
};

// out(row, place, sums, n) for the sums of n columns from `place` on, [planes, 16], for a panel of rows and one tile.
template <class Sums, int PLANES, class F>
static inline void multiply_panel(const Bytes& c, const uint8_t* x, const int8_t* w, const int32_t* start, int64_t wide,
                                  int64_t tile, int64_t first_row, int64_t last_row, F out) {
  constexpr int ROWS = rows_of_group(PLANES), GROUPS = PANEL / ROWS;
  const int64_t blocks = c.blocks() * COLUMNS / wide, block_bytes = c.quads * PLANES * PLANE;
  const int64_t group_bytes = c.quads * ROWS * QUAD;
  static const int32_t zero[SIZE_PLANES * COLUMNS] = {};
  alignas(64) int32_t sums[ROWS * PLANES * COLUMNS];
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t at = tile * blocks + b;
    const int8_t* block = w + at * block_bytes;
    for (int64_t row = first_row; row < last_row; row += ROWS) {
      const int64_t group = row / ROWS;
      multiply_block<Sums, PLANES>(sums, x + (group * c.tiles + tile) * group_bytes, block,
                                   start ? start + at * PLANES * COLUMNS : zero, c.quads,
                                   block + block_bytes + group % GROUPS * (block_bytes / GROUPS));
      for (int64_t i = 0; i < ROWS && row + i < last_row; ++i) out(row + i, b * wide, sums + i * PLANES * COLUMNS);
    }
  }
}

// Products [rows, columns] of a panel of rows with one tile.
template <class Sums, int DIGITS>
static void multiply_digits(float* y, const Bytes& c, int64_t tile, int64_t first_row, int64_t last_row) {
  multiply_panel<Sums, DIGITS>(c, c.levels, c.digits, c.start, COLUMNS, tile, first_row, last_row,
                               [&](int64_t row, int64_t column, const int32_t* sums) {
                                 const float *unit = c.unit + tile * c.blocks() * COLUMNS + column,
                                             step = c.range[c.per_row ? row : 0] / c.max_code;
                                 alignas(64) float joined[COLUMNS];
#pragma omp simd
                                 for (int64_t j = 0; j < COLUMNS; ++j) {
                                   float sum = (float)sums[j];
                                   for (int p = 1; p < DIGITS; ++p) sum = sum * 256.0f + (float)sums[p * COLUMNS + j];
                                   joined[j] = sum * (unit[j] * step);
                                 }
                                 c.store_columns(y + (row - first_row) * c.columns, joined, column);
                               });
}

// Variances [rows, columns] of a panel of rows with one tile, in units of the squared read noise.
template <class Sums>
static void multiply_sizes(float* v, const Bytes& c, int64_t tile, int64_t first_row, int64_t last_row) {
  multiply_panel<Sums, SIZE_PLANES>(c, c.squares, c.sizes, nullptr, SIZE_PLANES * COLUMNS, tile, first_row, last_row,
                                    [&](int64_t row, int64_t column, const int32_t* sums) {
                                      const float *unit = c.size_unit + tile * c.blocks() * COLUMNS + column,
                                                  squares = c.square_unit[tile * c.rows + row];
                                      alignas(64) float joined[SIZE_PLANES * COLUMNS];
#pragma omp simd
                                      for (int64_t j = 0; j < SIZE_PLANES * COLUMNS; ++j)
                                        joined[j] = (float)sums[j] * (squares * unit[j]);
                                      for (int p = 0; p < SIZE_PLANES; ++p)
                                        c.store_columns(v + (row - first_row) * c.columns, joined + p * COLUMNS,
                                                        column + p * COLUMNS);
                                    });
}

template <class Sums>
static void multiply(float* y, float* v, const Bytes& c, int digits, int64_t tile, int64_t first_row,
                     int64_t last_row) {
  if (digits == 3) multiply_digits<Sums, 3>(y, c, tile, first_row, last_row);
  if (digits == 2) multiply_digits<Sums, 2>(y, c, tile, first_row, last_row);
  if (c.sizes) multiply_sizes<Sums>(v, c, tile, first_row, last_row);
}

// Rows whose outputs are computed together: a whole number of groups of inputs, and of groups of draws.
static int64_t panel_rows(int64_t columns) { return columns % 4 == 0 ? PANEL : 4 * PANEL; }

// The sum of the outputs of tiles first_tile .. last_tile - 1 after noise and conversion; tile 0 overwrites it, and the
// others are added to it. Without digits, the products of these tiles are `products` [tiles, rows, columns]. `room`
// holds one panel of outputs per thread, and one of variances if there are sizes.
void byte_product(float* out, int8_t* code, float* room, float* table, const float* products, const uint8_t* x,
                  const uint8_t* squares, const int8_t* w, const int8_t* sizes, const int32_t* start, const float* unit,
                  const float* size_unit, const float* square_unit, const float* scale, const float* gain,
                  const float* range, int64_t rows, int64_t columns, int64_t length, int64_t tile, int64_t first_tile,
                  int64_t last_tile, int per_row, float levels, int digits, double output_noise, double read_noise,
                  float bound, int mode, double max_code, uint64_t seed, uint64_t offset, int threads) {
  const int64_t tiles = ceil_div(length, tile), quads = ceil_div(tile, QUAD), at_once = panel_rows(columns);
  const Adc a = {(float)output_noise, (float)read_noise, bound, (float)max_code, mode};
  const Conversion c = {a,    scale,  gain,  range, tiles, rows, columns, 1, per_row != 0, output_noise > 0.0 || sizes,
                        seed, offset, table, code};
  const Bytes bytes = {x,      squares,      w,    sizes,   start, unit, size_unit, square_unit, range,
                       levels, per_row != 0, rows, columns, quads, tiles};
  const auto multiply_rows = has_vnni() ? multiply<VnniSums> : multiply<PlainSums>;
  const int64_t panels = ceil_div(rows, at_once), kinds = sizes ? 2 : 1;
  c.fill_table();
  for_workers(panels, threads < panels ? threads : (int)panels, [&](int64_t worker, int64_t p) {
    float *y = room + worker * kinds * at_once * columns, *v = y + at_once * columns;
    const int64_t first_row = p * at_once, last_row = first_row + at_once < rows ? first_row + at_once : rows;
    const int64_t begin = first_row * columns, end = last_row * columns;
    for (int64_t t = first_tile; t < last_tile; ++t) {
      multiply_rows(y, v, bytes, digits, t, first_row, last_row);
      const float* from = digits ? y : products + (t - first_tile) * rows * columns + begin;
      for (int64_t first = begin; first < end; first += CHUNK) {
        const int64_t n = end - first < CHUNK ? end - first : CHUNK;
        Room sum, y_room, v_room;
        if (t) std::memcpy(sum.v, out + first, n * sizeof(float));
        const float* vt = sizes ? padded(v + first - begin, n, v_room.v) : nullptr;
        c.add(sum.v, t, first, n, padded(from + first - begin, n, y_room.v), vt, t == 0);
        std::memcpy(out + first, sum.v, n * sizeof(float));
      }
    }
    return 0;
  });
}

}  // namespace PG_ISA
}  // namespace pg

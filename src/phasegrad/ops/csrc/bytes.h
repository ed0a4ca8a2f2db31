// Products of bytes: how a tile's inputs and weights are laid out, and the multiplication of a few rows of inputs.
//
// If inputs lie on the levels of an 8-bit converter, their product is one of integers: a level fits in one byte, and a
// weight of 24 bits, the precision of a float, in three. Where the processor adds four products of bytes at once (the
// AVX-512 VNNI), three of them take three quarters of the time of one product of floats, and sums are exact in any
// order. The variance of read noise, sum_j |w_j| x_j^2, is needed to a fraction of a percent: magnitudes of 7 bits
// make it a fourth product of bytes.
//
// Inputs are [groups, tiles, quads, rows of a group, 4] bytes: levels plus 128, or sizes of squares. Weights are
// [tiles, blocks, quads, planes, 16, 4] signed bytes: a plane is a digit of 16 columns, the highest first, or a size of
// 16 of a block's 32 columns. What is beyond the last input or column is zero.
#pragma once
#include "chunks.h"

namespace pg {
namespace PG_ISA {

constexpr int64_t COLUMNS = 16;  // of a block
constexpr int64_t QUAD = 4;      // bytes that are multiplied and summed in one lane
constexpr int64_t PLANE = COLUMNS * QUAD;
constexpr int64_t PANEL = 48;  // rows of inputs whose outputs stay in the cache; a multiple of every group

// Rows of inputs that are multiplied with a block at a time: their sums and the planes fill the registers.
constexpr int rows_of_group(int planes) { return planes == 3 ? 8 : 12; }
constexpr int SIZE_PLANES = 2;  // blocks of sizes are twice as wide, as one plane would not keep the multipliers busy

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Sixteen sums, to which products of unsigned and signed bytes are added.
struct PlainSums {
  int32_t v[COLUMNS];
  struct Weights {
    const int8_t* w;
  };
  static inline PlainSums start(const int32_t* from) {
    PlainSums s;
    std::memcpy(s.v, from, sizeof s.v);
    return s;
  }
  static inline Weights weights(const int8_t* w) { return {w}; }
  inline void add(const uint8_t* x, Weights weights) {
    for (int j = 0; j < COLUMNS; ++j)
      for (int k = 0; k < QUAD; ++k) v[j] += (int32_t)x[k] * (int32_t)weights.w[QUAD * j + k];
  }
  inline void finish(int32_t* to) const { std::memcpy(to, v, sizeof v); }
};

#if defined(__AVX512F__)
// In assembly, because this file is compiled for processors without the instruction, too.
struct VnniSums {
  vi v;
  typedef vi Weights;
  static inline VnniSums start(const int32_t* from) { return {load<vi>(from)}; }
  static inline Weights weights(const int8_t* w) { return load<vi>(w); }
  inline void add(const uint8_t* x, Weights weights) {
    int32_t quad;
    std::memcpy(&quad, x, sizeof quad);
    const vi inputs = isplat(quad);
    asm("vpdpbusd %2, %1, %0" : "+v"(v) : "v"(inputs), "v"(weights));
  }
  inline void finish(int32_t* to) const { store(to, v); }
};
static inline bool has_vnni() {
  static const bool found = __builtin_cpu_supports("avx512vnni");
  return found;
}
#else
typedef PlainSums VnniSums;
static inline bool has_vnni() { return false; }
#endif

// out [rows of a group, planes, 16]: products of a group of inputs with one block of columns, summed over a tile from
// `start` [planes, 16] on. Meanwhile the share of this group of the next block is fetched from memory, from `next` on.
template <class Sums, int PLANES>
static inline void multiply_block(int32_t* out, const uint8_t* x, const int8_t* w, const int32_t* start, int64_t quads,
                                  const int8_t* next) {
  constexpr int ROWS = rows_of_group(PLANES);
  constexpr int FETCHED = PLANES * PLANE / (PANEL / ROWS);  // bytes of the next block for a quad of this one
  Sums s[ROWS][PLANES];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < PLANES; ++p) s[i][p] = Sums::start(start + p * COLUMNS);
  for (int64_t q = 0; q < quads; ++q, w += PLANES * PLANE, x += ROWS * QUAD) {
    __builtin_prefetch(next + FETCHED * q, 0, 2);
    typename Sums::Weights planes[PLANES];
#pragma GCC unroll 4
    for (int p = 0; p < PLANES; ++p) planes[p] = Sums::weights(w + p * PLANE);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
      for (int p = 0; p < PLANES; ++p) s[i][p].add(x + QUAD * i, planes[p]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < PLANES; ++p) s[i][p].finish(out + (i * PLANES + p) * COLUMNS);
}

}  // namespace PG_ISA
}  // namespace pg

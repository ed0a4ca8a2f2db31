// How kernels walk flat memory: chunks of 1024 values that start at a whole Philox group, spread over threads.
// The content of a chunk does not depend on the number of threads, so no result does.
#pragma once
#include "api.h"
#include "philox.h"

namespace pg {
namespace PG_ISA {

constexpr int64_t CHUNK = 1024;
constexpr int64_t SERIAL = 16 * CHUNK;  // below this, waking a second thread costs more than it gains

static inline int threads_for(int64_t n, int threads) { return n < SERIAL ? 1 : threads; }

static inline int64_t chunks_in(int64_t n) { return (n + CHUNK - 1) / CHUNK; }

// f(first, length) for every chunk of [0, n).
template <class F>
static inline void for_chunks(int64_t n, int threads, F f) {
  const int64_t count = chunks_in(n);
#pragma omp parallel for num_threads(threads_for(n, threads)) schedule(static)
  for (int64_t c = 0; c < count; ++c) {
    const int64_t first = c * CHUNK;
    f(first, n - first < CHUNK ? n - first : CHUNK);
  }
}

static inline int64_t groups_for(int64_t length) { return (length + GROUP - 1) / GROUP; }

static inline void normal_chunk(const Philox& g, float* out, int64_t first, int64_t length) {
  normal_groups(g, out, first / GROUP, groups_for(length));
}

// CHUNK readable floats: p itself, or a copy of its tail padded with zeros.
static inline const float* padded(const float* p, int64_t length, float* room) {
  if (length % W == 0) return p;
  std::memcpy(room, p, length * sizeof(float));
  std::memset(room + length, 0, W * sizeof(float));
  return room;
}

// Run f(first, length, row, tile) over the pieces of [first, first + length) that lie in one row and one tile.
template <class F>
static inline void for_pieces(int64_t first, int64_t length, int64_t cols_in, int64_t tile_rows, F f) {
  int64_t row = first / cols_in, column = first % cols_in, i = 0;
  while (i < length) {
    const int64_t tile = column / tile_rows;
    const int64_t end = (tile + 1) * tile_rows < cols_in ? (tile + 1) * tile_rows : cols_in;
    const int64_t run = end - column < length - i ? end - column : length - i;
    f(i, run, row, tile);
    i += run;
    column += run;
    if (column == cols_in) column = 0, ++row;
  }
}

// A chunk and at least one vector beyond it. The size keeps neighbouring rooms 1280 bytes apart modulo a page: stores
// to one would otherwise look like stores to what is loaded from the next.
struct alignas(64) Room {
  float v[CHUNK + 320];
};

}  // namespace PG_ISA
}  // namespace pg

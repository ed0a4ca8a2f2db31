// Fingerprints of memory, which tell whether it was written to.
#include "chunks.h"

namespace pg {
namespace PG_ISA {

constexpr int64_t PARTS = 64, SMALL = 1 << 14;  // as in ops/fingerprint.py

static inline uint64_t word_at(const char* p, int64_t bytes) {
  uint64_t word = 0;
  std::memcpy(&word, p, bytes < 8 ? bytes : 8);
  return word;
}

// Multiplied by an odd number, a change of one word always changes the result.
static inline uint64_t mixed(uint64_t print, uint64_t word) {
  const uint64_t x = (print ^ word) * 0x9E3779B97F4A7C15ull;
  return x ^ (x >> 29);
}

// The words of a range, in eight lanes, so that one does not wait for the other.
static uint64_t of_range(uint64_t print, const char* p, int64_t bytes) {
  constexpr int LANES = 8;
  uint64_t lane[LANES] = {1, 2, 3, 4, 5, 6, 7, 8};
  int64_t i = 0;
  for (; i + 8 * LANES <= bytes; i += 8 * LANES)
    for (int j = 0; j < LANES; ++j) lane[j] = mixed(lane[j], word_at(p + i + 8 * j, 8));
  for (; i < bytes; i += 8) print = mixed(print, word_at(p + i, bytes - i));
  for (int j = 0; j < LANES; ++j) print = mixed(print, lane[j]);
  return print;
}

// Of `count` arrays: small ones whole, of large ones words at 64 equal distances and one part, unless it is negative.
void fingerprint(uint64_t* result, const void* const* data, const int64_t* bytes, int64_t count, int64_t part, int) {
  uint64_t print = 0;
  for (int64_t k = 0; k < count; ++k) {
    const char* p = (const char*)data[k];
    const int64_t n = bytes[k], size = (n + PARTS - 1) / PARTS;
    print = mixed(print, (uint64_t)n);
    if (n <= SMALL) {
      print = of_range(print, p, n);
      continue;
    }
    for (int64_t i = 0; i < PARTS; ++i) print = mixed(print, word_at(p + i * (n / PARTS), 8));
    if (part >= 0) print = of_range(print, p + part * size, n - part * size < size ? n - part * size : size);
  }
  *result = print;
}

}  // namespace PG_ISA
}  // namespace pg

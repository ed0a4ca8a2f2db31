#include "chunks.h"

namespace pg {
namespace PG_ISA {

template <class Fill>
static void fill_stream(float* out, int64_t n, uint64_t seed, uint64_t offset, int threads, Fill fill) {
  const Philox g(seed, offset);
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    if (length == CHUNK) return fill(g, out + first, first / GROUP, CHUNK / GROUP);
    Room room;
    fill(g, room.v, first / GROUP, groups_for(length));
    std::memcpy(out + first, room.v, length * sizeof(float));
  });
}

void normal(float* out, int64_t n, uint64_t seed, uint64_t offset, int threads) {
  fill_stream(out, n, seed, offset, threads, normal_groups);
}

void uniform(float* out, int64_t n, uint64_t seed, uint64_t offset, int threads) {
  fill_stream(out, n, seed, offset, threads, uniform_groups);
}

}  // namespace PG_ISA
}  // namespace pg

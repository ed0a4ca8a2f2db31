// The weighted sum of planes of devices, some of them read with noise, in one pass.
#include "chunks.h"

namespace pg {
namespace PG_ISA {

// Values first to first + length of a plane; a tail is copied, so that whole vectors can be read.
static inline const float* part(const float* plane, int64_t first, int64_t length, Room& room) {
  return padded(plane + first, length, room.v);
}

// total += factor * max(g + sd(g) z, 0), or factor * g without noise.
static inline void add_plane(float* total, const float* g, const float* z, int64_t length, float factor,
                             const float* sd) {
  for (int64_t i = 0; i < length; i += W) {
    vf v = load<vf>(g + i);
    if (z) v = vmax(splat(0.0f), v + (splat(sd[0]) + v * (splat(sd[1]) + v * splat(sd[2]))) * load<vf>(z + i));
    store(total + i, load<vf>(total + i) + v * splat(factor));
  }
}

void weighted_sum(float* out, const float* g, int64_t planes, const float* other_planes, int64_t other_count, int64_t n,
                  const float* factors, const float* sd, uint64_t seed, uint64_t offset, int threads) {
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    Room total, room, z;
    for (int64_t i = 0; i < length; i += W) store(total.v + i, vf{});
    for (int64_t p = 0; p < planes; ++p) {
      if (sd) normal_chunk(Philox(seed, offset + p), z.v, first, length);
      add_plane(total.v, part(g + p * n, first, length, room), sd ? z.v : nullptr, length, factors[1 + p], sd);
    }
    for (int64_t p = 0; p < other_count; ++p)
      add_plane(total.v, part(other_planes + p * n, first, length, room), nullptr, length, factors[1 + planes + p],
                nullptr);
    for (int64_t i = 0; i < length; i += W) store(total.v + i, load<vf>(total.v + i) + splat(factors[0]));
    std::memcpy(out + first, total.v, length * sizeof(float));
  });
}

// In one pass: relax the devices part of the way to their level, and update the weight if one is tracked.
void leak(float* g, int64_t planes, int64_t n, float level, float lost, float* weight, const float* other_planes,
          int64_t other_count, const float* factors, int threads) {
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    Room total, room;
    for (int64_t i = 0; weight && i < length; i += W) store(total.v + i, vf{});
    for (int64_t p = 0; p < planes; ++p) {
      float* plane = g + p * n + first;
      const float* from = padded(plane, length, room.v);
      for (int64_t i = 0; i < length; i += W) {
        const vf v = load<vf>(from + i);
        store(room.v + i, v + (splat(level) - v) * splat(lost));
      }
      std::memcpy(plane, room.v, length * sizeof(float));
      if (weight) add_plane(total.v, room.v, nullptr, length, factors[1 + p], nullptr);
    }
    if (!weight) return;
    for (int64_t p = 0; p < other_count; ++p)
      add_plane(total.v, part(other_planes + p * n, first, length, room), nullptr, length, factors[1 + planes + p],
                nullptr);
    for (int64_t i = 0; i < length; i += W) store(total.v + i, load<vf>(total.v + i) + splat(factors[0]));
    std::memcpy(weight + first, total.v, length * sizeof(float));
  });
}

}  // namespace PG_ISA
}  // namespace pg

// Philox4x32-10 (Salmon et al., SC 2011), W blocks at a time, and Box-Muller normals from it.
//
// Value n of stream (seed, offset): block 16 (n / 64) + n % 16, word (n / 16) % 4; a block's counter is
// (block, offset), its key is seed. Sixteen neighbours share a word number, so that every vector width stores
// whole vectors and gives the same values.
#pragma once
#include "simd.h"

namespace pg {
namespace PG_ISA {

constexpr int GROUP = 64;  // values made together

struct Philox {
  vq k0[10], k1[10], c2, c3;
  Philox(uint64_t seed, uint64_t offset) {
    uint32_t a = (uint32_t)seed, b = (uint32_t)(seed >> 32);
    for (int r = 0; r < 10; ++r) {
      k0[r] = (uint64_t)a - vq{};
      k1[r] = (uint64_t)b - vq{};
      a += 0x9E3779B9u;
      b += 0xBB67AE85u;
    }
    c2 = (offset & 0xffffffffu) - vq{};
    c3 = (offset >> 32) - vq{};
  }

  // W/2 blocks, a 32-bit word in the low half of each 64-bit lane; the high halves hold rubbish that the
  // multiplication ignores, which saves the shuffles of packed words.
  inline void half(vq block, vq c[4]) const {
    const vq m0 = 0xD2511F53ull - vq{}, m1 = 0xCD9E8D57ull - vq{};
    vq x0 = block, x1 = block >> 32, x2 = c2, x3 = c3;
    for (int r = 0; r < 10; ++r) {
      vq p0 = mul32(m0, x0), p1 = mul32(m1, x2);
      x0 = (p1 >> 32) ^ x1 ^ k0[r];
      x2 = (p0 >> 32) ^ x3 ^ k1[r];
      x1 = p1;
      x3 = p0;
    }
    c[0] = x0, c[1] = x1, c[2] = x2, c[3] = x3;
  }

  // The four words of blocks first .. first + W - 1.
  inline void words(uint64_t first, vu out[4]) const {
    vq lane{};
    for (int i = 0; i < W / 2; ++i) lane[i] = 2 * i;
    vq even[4], odd[4];
    half(first + lane, even);
    half(first + 1 + lane, odd);
    for (int i = 0; i < 4; ++i) out[i] = (vu)((even[i] & 0xffffffffull) | (odd[i] << 32));
  }
};

// Two standard normals from two words: radius from 31 bits of a (|z| up to 6.66), angle from all bits of b,
// whose top two are the quadrant.
static inline void box_muller(vu a, vu b, vf& z0, vf& z1) {
  vf u = to_float((vi)(a >> 1)) * splat(0x1p-31f) + splat(0x1p-32f);
  vf r = vsqrt(splat(-2.0f) * vlog(u));
  vi q = (vi)(b >> 30);
  vf t = to_float((vi)(b << 2)) * splat(3.6572951981e-10f);  // pi/2 * 2^-32: the angle in [-pi/4, pi/4)
  vf t2 = t * t;
  vf s = ((splat(-1.9515295891e-4f) * t2 + splat(8.3321608736e-3f)) * t2 + splat(-1.6666654611e-1f)) * t2 * t + t;
  vf c = ((splat(2.443315711809948e-5f) * t2 + splat(-1.388731625493765e-3f)) * t2 + splat(4.166664568298827e-2f)) *
             t2 * t2 -
         splat(0.5f) * t2 + splat(1.0f);
  vi odd = (q & 1) != 0;
  vf cosine = odd ? s : c, sine = odd ? c : s;
  z0 = r * with_sign_bits(cosine, ((q + 1) & 2) << 30);
  z1 = r * with_sign_bits(sine, (q & 2) << 30);
}

// Normals of groups first .. first + count - 1; out holds count * 64 floats.
static inline void normal_groups(const Philox& g, float* out, int64_t first, int64_t count) {
  for (int64_t k = 0; k < count; ++k, out += GROUP)
    for (int h = 0; h < 16; h += W) {
      vu w[4];
      vf z[4];
      g.words(16 * (uint64_t)(first + k) + h, w);
      box_muller(w[0], w[1], z[0], z[1]);
      box_muller(w[2], w[3], z[2], z[3]);
      for (int i = 0; i < 4; ++i) store(out + 16 * i + h, z[i]);
    }
}

// Uniforms in [0, 1) with 24 bits.
static inline void uniform_groups(const Philox& g, float* out, int64_t first, int64_t count) {
  for (int64_t k = 0; k < count; ++k, out += GROUP)
    for (int h = 0; h < 16; h += W) {
      vu w[4];
      g.words(16 * (uint64_t)(first + k) + h, w);
      for (int i = 0; i < 4; ++i) store(out + 16 * i + h, to_float((vi)(w[i] >> 8)) * splat(0x1p-24f));
    }
}

}  // namespace PG_ISA
}  // namespace pg

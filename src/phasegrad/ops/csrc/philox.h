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

  // The four words of blocks first .. first + W - 1. Even and odd blocks run side by side, each word in the low
  // half of a 64-bit lane; the high halves hold rubbish that the multiplication ignores, which saves the shuffles
  // that packed words would need.
  inline void words(uint64_t first, vu out[4]) const {
    const vq m0 = 0xD2511F53ull - vq{}, m1 = 0xCD9E8D57ull - vq{};
    vq block{};
    for (int i = 0; i < W / 2; ++i) block[i] = first + 2 * i;
    vq a0 = block, a1 = block >> 32, a2 = c2, a3 = c3;
    block += 1;
    vq b0 = block, b1 = block >> 32, b2 = c2, b3 = c3;
    for (int r = 0; r < 10; ++r) {
      const vq p0 = mul32(m0, a0), p1 = mul32(m1, a2), q0 = mul32(m0, b0), q1 = mul32(m1, b2);
      a0 = (p1 >> 32) ^ (a1 ^ k0[r]);
      b0 = (q1 >> 32) ^ (b1 ^ k0[r]);
      a2 = (p0 >> 32) ^ (a3 ^ k1[r]);
      b2 = (q0 >> 32) ^ (b3 ^ k1[r]);
      a1 = p1, a3 = p0, b1 = q1, b3 = q0;
    }
    const vq even[4] = {a0, a1, a2, a3}, odd[4] = {b0, b1, b2, b3};
    for (int i = 0; i < 4; ++i) out[i] = (vu)((even[i] & 0xffffffffull) | (odd[i] << 32));
  }
};

// Two standard normals from two words: radius from 31 bits of a (|z| up to 6.66), angle from all bits of b,
// whose top two are the quadrant.
static inline void box_muller(vu a, vu b, vf& z0, vf& z1) {
  vf u = to_float((vi)(a >> 1)) * splat(0x1p-31f) + splat(0x1p-32f);
  vf r = vsqrt(splat(-2.0f) * vlog(u));
  vf t = to_float((vi)(b << 2)) * splat(3.6572951981e-10f);  // pi/2 * 2^-32: the angle in [-pi/4, pi/4)
  vf t2 = t * t;
  vf s = ((splat(-1.9515295891e-4f) * t2 + splat(8.3321608736e-3f)) * t2 + splat(-1.6666654611e-1f)) * t2 * t + t;
  vf c = ((splat(2.443315711809948e-5f) * t2 + splat(-1.388731625493765e-3f)) * t2 + splat(4.166664568298827e-2f)) *
             t2 * t2 -
         splat(0.5f) * t2 + splat(1.0f);
  // Bit 30 exchanges sine and cosine; their signs are bit 31, and bits 31 and 30 together.
  vi odd = (vi)((vi)(b << 1) < 0), sign = (vi)(b & 0x80000000u), both = (vi)((b ^ (b << 1)) & 0x80000000u);
  z0 = r * with_sign_bits(odd ? s : c, both);
  z1 = r * with_sign_bits(odd ? c : s, sign);
}

// The words of `count` groups, stored as their values will be.
static inline void word_groups(const Philox& g, uint32_t* out, uint64_t first, int64_t count) {
  for (int64_t k = 0; k < count; ++k, out += GROUP)
    for (int h = 0; h < 16; h += W) {
      vu w[4];
      g.words(16 * (first + k) + h, w);
      for (int i = 0; i < 4; ++i) store(out + 16 * i + h, w[i]);
    }
}

// Normals of groups first .. first + count - 1; out holds count * 64 floats. Words first, eight groups at a time,
// then their transformation: in one loop the two long chains of dependent instructions would fill the processor's
// window and leave its units idle.
static inline void normal_groups(const Philox& g, float* out, int64_t first, int64_t count) {
  constexpr int64_t AT_ONCE = 8;
  alignas(64) uint32_t words[AT_ONCE * GROUP];
  for (int64_t k = 0; k < count; k += AT_ONCE) {
    const int64_t n = count - k < AT_ONCE ? count - k : AT_ONCE;
    word_groups(g, words, first + k, n);
    float* o = out + k * GROUP;
    for (int64_t i = 0; i < 2 * n; ++i)  // half a group: words 0 and 1, or 2 and 3
      for (int h = 32 * i; h < 32 * i + 16; h += W) {
        vf z0, z1;
        box_muller(load<vu>(words + h), load<vu>(words + h + 16), z0, z1);
        store(o + h, z0);
        store(o + h + 16, z1);
      }
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

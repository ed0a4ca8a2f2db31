// Philox4x32-10, W blocks at a time, and Box-Muller normals from its words.
//
// Value n of stream (seed, offset): block 16 (n / 64) + n % 16, word (n / 16) % 4; a block's counter is
// (block, offset), its key is seed. Sixteen neighbours share a word number, so that every vector width stores
// whole vectors and produces the same values.
//
// References: Salmon, Moraes, Dror and Shaw, SC 2011, doi:10.1145/2063384.2063405; Box and Muller, Ann. Math. Stat. 29
// (1958), doi:10.1214/aoms/1177706645.
#pragma once
#include "simd.h"

namespace pg {
namespace PG_ISA {

constexpr int GROUP = 64;  // values generated together

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

  // The four words of blocks first, first + stride, ... Even and odd blocks run side by side, each word in the low
  // half of a 64-bit lane; the multiplication ignores the high halves, which are left undefined; packed words would
  // need shuffles. SETS of W blocks at once hide the multiplier's latency.
  template <int SETS>
  inline void words(uint64_t first, vu out[SETS][4], uint64_t stride = 1) const {
    const vq m0 = 0xD2511F53ull - vq{}, m1 = 0xCD9E8D57ull - vq{};
    vq x[2 * SETS][4];
    vq even;
    for (int i = 0; i < W / 2; ++i) even[i] = 2 * i;
    for (int j = 0; j < 2 * SETS; ++j) {
      const vq block = even * stride + (first + stride * (W * (j / 2) + j % 2));
      x[j][0] = block, x[j][1] = block >> 32, x[j][2] = c2, x[j][3] = c3;
    }
#pragma GCC unroll 10
    for (int r = 0; r < 10; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < 2 * SETS; ++j) {
        const vq p0 = mul32(m0, x[j][0]), p1 = mul32(m1, x[j][2]);
        x[j][0] = high_halves(p1) ^ (x[j][1] ^ k0[r]);
        x[j][2] = high_halves(p0) ^ (x[j][3] ^ k1[r]);
        x[j][1] = p1, x[j][3] = p0;
      }
    for (int k = 0; k < SETS; ++k)
      for (int i = 0; i < 4; ++i) out[k][i] = (vu)((x[2 * k][i] & 0xffffffffull) | (x[2 * k + 1][i] << 32));
  }
};

// Two standard normals from two words: radius from 31 bits of a (|z| up to 6.66), angle from all bits of b, whose top
// two are the quadrant. N vectors go through each step together, because the steps of one depend on each
// other and the processor's reorder window is too short to reach the next vector.
template <int N>
static inline void box_muller(const vu* a, const vu* b, vf* z0, vf* z1) {
#define EACH for (int j = 0; j < N; ++j)
  vf r[N], f[N], z[N], y[N], e[N], t[N], t2[N], s[N], c[N];
  EACH r[j] = to_float((vi)(a[j] >> 1)) * splat(0x1p-31f) + splat(0x1p-32f);
  EACH t[j] = to_float((vi)(b[j] << 2)) * splat(3.6572951981e-10f);  // pi/2 * 2^-32: in [-pi/4, pi/4)
  // ln r as in vlog
  EACH {
    const vi exponent = ((vi)r[j] - 0x3f3504f3) >> 23;
    f[j] = (vf)((vi)r[j] - (exponent << 23)) - splat(1.0f);
    e[j] = to_float(exponent) * splat(0.6931471806f);
  }
  EACH f[j] = f[j] / (f[j] + splat(2.0f));
  EACH t2[j] = t[j] * t[j];
  EACH s[j] = splat(-1.9515295891e-4f) * t2[j] + splat(8.3321608736e-3f);
  EACH c[j] = splat(2.443315711809948e-5f) * t2[j] + splat(-1.388731625493765e-3f);
  EACH z[j] = f[j] * f[j];
  EACH s[j] = s[j] * t2[j] + splat(-1.6666654611e-1f);
  EACH c[j] = c[j] * t2[j] + splat(4.166664568298827e-2f);
  EACH y[j] = splat(0.2222222222f) * z[j] + splat(0.2857142857f);
  EACH s[j] = s[j] * (t2[j] * t[j]) + t[j];
  EACH c[j] = c[j] * (t2[j] * t2[j]) - splat(0.5f) * t2[j] + splat(1.0f);
  EACH y[j] = y[j] * z[j] + splat(0.4f);
  EACH y[j] = y[j] * z[j] + splat(0.6666666667f);
  EACH y[j] = e[j] + (y[j] * z[j] * f[j] + (f[j] + f[j]));
  EACH r[j] = vsqrt(splat(-2.0f) * y[j]);
  // Bit 30 exchanges sine and cosine; their signs are bit 31, and bits 31 and 30 together.
  EACH {
    const vi odd = (vi)((vi)(b[j] << 1) < 0);
    z0[j] = r[j] * with_sign_bits(odd ? s[j] : c[j], (vi)((b[j] ^ (b[j] << 1)) & 0x80000000u));
    z1[j] = r[j] * with_sign_bits(odd ? c[j] : s[j], (vi)(b[j] & 0x80000000u));
  }
#undef EACH
}

// The words of `count` groups, stored as their values will be.
static inline void word_groups(const Philox& g, uint32_t* out, uint64_t first, int64_t count) {
  constexpr int SETS = 2;
  const auto put = [&](int64_t block, const vu* words) {
    for (int i = 0; i < 4; ++i) store(out + block / 16 * GROUP + 16 * i + block % 16, words[i]);
  };
  int64_t block = 0;
  for (; block + SETS * W <= 16 * count; block += SETS * W) {
    vu w[SETS][4];
    g.words<SETS>(16 * first + block, w);
    for (int j = 0; j < SETS; ++j) put(block + j * W, w[j]);
  }
  if (block == 16 * count) return;
  vu w[1][4];
  g.words<1>(16 * first + block, w);
  put(block, w[0]);
}

constexpr int64_t AT_ONCE = 8;  // groups whose words are computed before they are transformed

// Normals of half groups i, i + 1, ... in vectors: words 0 and 1 of a group, or 2 and 3.
template <int N>
static inline void normal_vectors(float* out, const uint32_t* words, int64_t i) {
  constexpr int PER_HALF = 16 / W;
  vu a[N], b[N];
  vf z0[N], z1[N];
  int64_t at[N];
  for (int j = 0; j < N; ++j) {
    at[j] = 32 * ((i + j) / PER_HALF) + (i + j) % PER_HALF * W;
    a[j] = load<vu>(words + at[j]), b[j] = load<vu>(words + at[j] + 16);
  }
  box_muller<N>(a, b, z0, z1);
  for (int j = 0; j < N; ++j) store(out + at[j], z0[j]), store(out + at[j] + 16, z1[j]);
}

// Normals of groups first .. first + count - 1; out holds count * 64 floats. Words first, eight groups at a time,
// then their transformation: in one loop, the two long dependency chains would fill the processor's reorder
// window and leave its execution units idle.
static inline void normal_groups(const Philox& g, float* out, int64_t first, int64_t count) {
  alignas(64) uint32_t words[AT_ONCE * GROUP];
  for (int64_t k = 0; k < count; k += AT_ONCE, out += AT_ONCE * GROUP) {
    const int64_t n = count - k < AT_ONCE ? count - k : AT_ONCE, vectors = 32 / W * n;
    word_groups(g, words, first + k, n);
    int64_t i = 0;
    for (; i + 4 <= vectors; i += 4) normal_vectors<4>(out, words, i);
    if (i < vectors) normal_vectors<2>(out, words, i);
  }
}

// Uniforms in [0, 1) with 24 bits.
static inline void uniform_groups(const Philox& g, float* out, int64_t first, int64_t count) {
  alignas(64) uint32_t words[AT_ONCE * GROUP];
  for (int64_t k = 0; k < count; k += AT_ONCE, out += AT_ONCE * GROUP) {
    const int64_t n = count - k < AT_ONCE ? count - k : AT_ONCE;
    word_groups(g, words, first + k, n);
    for (int64_t i = 0; i < n * GROUP; i += W)
      store(out + i, to_float((vi)(load<vu>(words + i) >> 8)) * splat(0x1p-24f));
  }
}

}  // namespace PG_ISA
}  // namespace pg

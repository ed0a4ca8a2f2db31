// Vectors of floats for one instruction set, and the elementary functions that the kernels need.
//
// GCC vector extensions keep one source for every width. No fused multiply-add (-ffp-contract=off): every
// instruction set computes the same bits, so a result does not depend on the machine that computed it.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef PG_ISA
#error "PG_ISA names the instruction set that a kernel file is compiled for"
#endif

namespace pg {
namespace PG_ISA {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint64_t vq __attribute__((vector_size(4 * W)));

template <class V, class T>
static inline V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class T>
static inline void store(T* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

static inline vf splat(float x) { return x - vf{}; }
static inline vi isplat(int32_t x) { return x - vi{}; }

// Low 32 bits of a times low 32 bits of b, in each 64-bit lane.
static inline vq mul32(vq a, vq b) {
#if defined(__AVX512F__)
  // The masked forms of these two intrinsics name every input; the plain forms warn of an uninitialised one (GCC bug
  // 105593).
  return (vq)_mm512_maskz_mul_epu32((__mmask8)-1, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vq)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (vq)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// The high 32 bits of each 64-bit lane in its low half; the high half is undefined. Processors shuffle with another
// unit than the one that multiplies, and shift with the same.
static inline vq high_halves(vq x) {
#if defined(__AVX512F__)
  return (vq)_mm512_maskz_shuffle_epi32((__mmask16)-1, (__m512i)x, (_MM_PERM_ENUM)0xF5);
#elif defined(__AVX2__)
  return (vq)_mm256_shuffle_epi32((__m256i)x, 0xF5);
#elif defined(__SSE2__)
  return (vq)_mm_shuffle_epi32((__m128i)x, 0xF5);
#else
  return x >> 32;
#endif
}

static inline vf vsqrt(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_sqrt_ps((__mmask16)-1, (__m512)x);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
  return (vf)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < W; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// Whether any lane of a mask is set; all lanes of a mask are all ones or zero.
static inline bool any(vi mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)mask) != 0;
#else
  for (int i = 0; i < W; ++i)
    if (mask[i]) return true;
  return false;
#endif
}

// a * b + c with one rounding, as torch's own kernels add a multiple. Elsewhere products are rounded.
static inline vf vfma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  for (int i = 0; i < W; ++i) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return a;
#endif
}

static inline vf to_float(vi x) { return __builtin_convertvector(x, vf); }

// The result is the second argument if either is NaN: pass the bound first, so that NaN passes through.
static inline vf vmin(vf a, vf b) { return a < b ? a : b; }
static inline vf vmax(vf a, vf b) { return a > b ? a : b; }
static inline vf vclamp(vf x, vf low, vf high) { return vmax(low, vmin(high, x)); }
static inline vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }
static inline vf with_sign_bits(vf x, vi bits) { return (vf)((vi)x ^ bits); }
static inline vi finite(vf x) { return (vi)(x - x == splat(0.0f)); }  // all ones where x is a number

// Round to nearest even, exact for |x| < 2^22. Adding and subtracting 1.5 * 2^23 removes the fraction bits.
static inline vf vround(vf x) {
  const vf magic = splat(12582912.0f);
  return (x + magic) - magic;
}
static inline vf vfloor(vf x) {
  vf r = vround(x);
  return r - (r > x ? splat(1.0f) : splat(0.0f));
}

// Natural logarithm of a positive normal float, to 2 ulp: ln(2^e m) = e ln 2 + 2 atanh((m - 1) / (m + 1)). One
// division is cheaper than the eight terms of a polynomial in m.
static inline vf vlog(vf x) {
  vi bits = (vi)x - 0x3f3504f3;  // distance from sqrt(1/2), in units of the last place
  vi e = bits >> 23;             // x = 2^e m, with sqrt(1/2) <= m < sqrt(2)
  vf f = (vf)((vi)x - (e << 23)) - splat(1.0f);
  vf s = f / (f + splat(2.0f));
  vf z = s * s;
  vf y = splat(0.2222222222f);
  y = y * z + splat(0.2857142857f);
  y = y * z + splat(0.4f);
  y = y * z + splat(0.6666666667f);
  return to_float(e) * splat(0.6931471806f) + (y * z * s + (s + s));
}

// exp(x), x clamped to [-87, 88] (Cephes' expf); NaN passes through.
static inline vf vexp(vf x) {
  x = vclamp(x, splat(-87.0f), splat(88.0f));
  vf n = vround(x * splat(1.44269504088896341f));
  vf r = x - n * splat(0.693359375f) - n * splat(-2.12194440e-4f);
  // Evaluate the polynomial in pairs: a device waits for the result of its step, and a chain of ten operations is long.
  vf r2 = r * r;
  vf low = splat(5.0000001201e-1f) + splat(1.6666665459e-1f) * r;
  vf mid = splat(4.1665795894e-2f) + splat(8.3334519073e-3f) * r;
  vf high = splat(1.3981999507e-3f) + splat(1.9875691500e-4f) * r;
  vf y = (low + (mid + high * r2) * r2) * r2 + (r + splat(1.0f));
  vi e = __builtin_convertvector(n, vi);
  return (vf)((vi)y + (e << 23)) + (x - x);
}

}  // namespace PG_ISA
}  // namespace pg

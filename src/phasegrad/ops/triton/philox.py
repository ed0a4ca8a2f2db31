"""Counter-based random numbers in Triton: the words of ``phasegrad.ops.philox``, and its normals to rounding.

A kernel takes the number of a block and gets its four words, normals or uniforms, each of the shape of ``block``;
``place`` says which values of the stream they are. A value is therefore the same for every size of Triton's blocks.

``tl.rand`` and ``tl.randn`` are not used: their numbers changed between versions of Triton. Logarithm, sine and cosine
are the polynomials of csrc/philox.h, because Triton's own are approximate: near 1, its logarithm has an absolute error
of 2e-7, which is large for a logarithm of 1e-4.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def words(seed, offset, block):
    """The four 32-bit words of blocks of the stream ``(seed, offset)``; seed and numbers of blocks are int64."""
    stream = tl.cast(offset, tl.int64)
    low, high = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    return tl.philox(seed, low, high, stream.to(tl.uint32), (stream >> 32).to(tl.uint32))


@triton.jit
def place(block, word):
    """Which value of the stream comes from a word of a block."""
    return 64 * (block // 16) + 16 * word + block % 16


@triton.jit
def in_order(a, b, c, d, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """Values from the four words of blocks ``[ROWS, 16 GROUPS]``, as they lie in the stream ``[ROWS, 64 GROUPS]``."""
    words = tl.reshape(
        tl.join(tl.join(a, c), tl.join(b, d)), (ROWS, GROUPS, 16, 2, 2)
    )  # word 2 i + j is at [..., i, j]
    return tl.reshape(tl.permute(words, (0, 1, 3, 4, 2)), (ROWS, 64 * GROUPS))


@triton.jit
def normal_rows(seed, offset, group, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """Consecutive normals of a stream ``[ROWS, 64 GROUPS]``; value ``64 group`` ``[ROWS, 1]`` is a row's first."""
    a, b, c, d = normals(seed, offset, 16 * group + tl.arange(0, 16 * GROUPS)[None, :])
    return in_order(a, b, c, d, ROWS, GROUPS)


@triton.jit
def uniform_rows(seed, offset, group, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """Consecutive uniforms, as ``normal_rows``."""
    a, b, c, d = uniforms(seed, offset, 16 * group + tl.arange(0, 16 * GROUPS)[None, :])
    return in_order(a, b, c, d, ROWS, GROUPS)


@triton.jit
def log(x):
    """The natural logarithm of positive, normal float32 numbers, to 1 or 2 units in the last place."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23  # x = 2^exponent m, with sqrt(1/2) <= m < sqrt(2)
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    s = f / (f + 2.0)
    z = s * s
    y = tl.fma(tl.fma(tl.fma(0.2222222222, z, 0.2857142857), z, 0.4), z, 0.6666666667)
    return tl.fma(exponent.to(tl.float32), 0.6931471806, tl.fma(y * z, s, s + s))


@triton.jit
def box_muller(a, b):
    """Two standard normals from two words."""
    u = tl.fma((a >> 1).to(tl.int32).to(tl.float32), 4.656612873077393e-10, 2.3283064365386963e-10)
    radius = tl.sqrt(-2.0 * log(u))
    angle = (b << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.6572951981e-10  # in [-pi/4, pi/4)
    square = angle * angle
    sine = tl.fma(tl.fma(-1.9515295891e-4, square, 8.3321608736e-3), square, -1.6666654611e-1)
    sine = tl.fma(sine, square * angle, angle)
    cosine = tl.fma(tl.fma(2.443315711809948e-5, square, -1.388731625493765e-3), square, 4.166664568298827e-2)
    cosine = tl.fma(cosine, square * square, tl.fma(-0.5, square, 1.0))
    # Bit 30 exchanges sine and cosine; their signs are bit 31, and bits 31 and 30 together.
    odd = ((b >> 30) & 1) != 0
    first, second = radius * tl.where(odd, sine, cosine), radius * tl.where(odd, cosine, sine)
    return _with_sign(first, b ^ (b << 1)), _with_sign(second, b)


@triton.jit
def _with_sign(x, bits):
    sign = (bits >> 31) << 31
    return (x.to(tl.uint32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def normals(seed, offset, block):
    """Four standard normals per block, float32."""
    a, b, c, d = words(seed, offset, block)
    first, second = box_muller(a, b)
    third, fourth = box_muller(c, d)
    return first, second, third, fourth


@triton.jit
def uniforms(seed, offset, block):
    """Four uniforms in [0, 1) per block, float32 with 24 bits."""
    a, b, c, d = words(seed, offset, block)
    return unit(a), unit(b), unit(c), unit(d)


@triton.jit
def unit(word):
    """A uniform in [0, 1) from the upper 24 bits of a word."""
    return (word >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08

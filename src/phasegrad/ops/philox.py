"""Counter-based random numbers: Philox4x32-10, in plain torch.

This file is the definition; the C++ kernels produce the same words, and normals equal to float rounding.

Value ``n`` of the stream ``(seed, offset)`` comes from block ``16 * (n // 64) + n % 16``, word ``(n // 16) % 4``.
Sixteen consecutive values share a word number, so that every vector width from 4 to 16 stores whole vectors.
A block's counter is ``(block, offset)``, each 64 bits in two words; its key is ``seed``.

References:
    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
    doi:10.1145/2063384.2063405: Philox4x32-10.
    Box and Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29, 610 (1958),
    doi:10.1214/aoms/1177706645: normals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 x 32 bit product, computed in signed 64-bit integers."""
    low_part = (a & 0xFFFF) * b
    high_part = (a >> 16) * b
    high = (high_part + (low_part >> 16)) >> 16
    low = (((high_part & 0xFFFF) << 16) + low_part) & _MASK
    return high, low


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors that contain 32-bit words.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of 32-bit words.

    Examples:
        The known answer of the authors' test suite for counter 0 and key 0:

        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> [hex(word.item()) for word in philox4x32((zero, zero, zero, zero), (0, 0))]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _groups(seed: int, offset: int, count: int, device: torch.device) -> tuple[Tensor, ...]:
    """The four words of the blocks that ``count`` values need, each ``[groups, 16]``."""
    block = torch.arange(16 * ((count + 63) // 64), dtype=torch.int64, device=device)
    low, high = torch.full_like(block, offset & _MASK), torch.full_like(block, (offset >> 32) & _MASK)
    words = philox4x32((block & _MASK, block >> 32, low, high), (seed & _MASK, (seed >> 32) & _MASK))
    return tuple(word.view(-1, 16) for word in words)


def box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two normals from two words: the radius from 31 bits of ``a``, the angle from all 32 of ``b``."""
    u = (a >> 1).float() * 2.0**-31 + 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(u))
    quadrant = b >> 30
    rest = (b << 2) & _MASK
    rest = torch.where(rest >= 2**31, rest - 2**32, rest)  # the lower 30 bits, as a signed number
    angle = (rest.float() * 2.0**-32 + quadrant) * (math.pi / 2)
    return radius * torch.cos(angle), radius * torch.sin(angle)


def normal(seed: int, offset: int, count: int, device: torch.device) -> Tensor:
    """The first ``count`` standard normals of a stream, float32 ``[count]``; none exceeds 6.66 in magnitude."""
    w0, w1, w2, w3 = _groups(seed, offset, count, device)
    values = torch.stack((*box_muller(w0, w1), *box_muller(w2, w3)), dim=1)
    return values.reshape(-1)[:count]


def uniform(seed: int, offset: int, count: int, device: torch.device) -> Tensor:
    """The first ``count`` uniforms in [0, 1) of a stream, float32 ``[count]`` with 24 bits."""
    words = torch.stack(_groups(seed, offset, count, device), dim=1)
    return ((words >> 8).float() * 2.0**-24).reshape(-1)[:count]

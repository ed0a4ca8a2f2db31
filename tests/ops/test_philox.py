from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.contracts.op import SEED, Call, KernelContract, same_bits, seed_errors
from torch import Tensor

from phasegrad.ops import philox, reference

MASK = np.uint64(0xFFFFFFFF)
HIGH = np.uint64(32)

# Random123, kat_vectors, philox4x32 10: counter, key, answer.
KNOWN_ANSWERS = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
EDGES = [0, 1, 15, 16, 17, 63, 64, 65, 1000, 1023, 1024, 1025, 20_011]


def words(text: str) -> list[int]:
    return [int(w, 16) for w in text.split()]


def numpy_philox(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Salmon et al. 2011, section 3.3, in unsigned 64-bit arithmetic."""
    x, (a, b) = counter, key
    for _ in range(10):
        p, q = np.uint64(0xD2511F53) * x[0], np.uint64(0xCD9E8D57) * x[2]
        x = [(q >> HIGH) ^ x[1] ^ np.uint64(a), q & MASK, (p >> HIGH) ^ x[3] ^ np.uint64(b), p & MASK]
        a, b = (a + 0x9E3779B9) % 2**32, (b + 0xBB67AE85) % 2**32
    return x


def stream(seed: int, offset: int, count: int) -> np.ndarray:
    """Word ``n`` of a stream: block ``16 (n // 64) + n % 16``, word ``(n // 16) % 4``."""
    n = np.arange(count, dtype=np.uint64)
    block = np.uint64(16) * (n // np.uint64(64)) + n % np.uint64(16)
    seed, offset = seed % 2**64, offset % 2**64
    fixed = [np.full(count, offset % 2**32, np.uint64), np.full(count, offset >> 32, np.uint64)]
    blocks = numpy_philox([block & MASK, block >> HIGH, *fixed], (seed % 2**32, seed >> 32))
    which = ((n // np.uint64(16)) % np.uint64(4)).astype(int)
    return np.choose(which, blocks) if count else np.empty(0, np.uint64)


def box_muller(w: np.ndarray) -> np.ndarray:
    """Rows of four 16-wide words: the pairs (0, 1) and (2, 3) become normals."""
    w = w.reshape(-1, 2, 2, 16).astype(np.int64)
    radius = np.sqrt(-2.0 * np.log((w[:, :, 0] >> 1) * 2.0**-31 + 2.0**-32))
    rest = (w[:, :, 1] << 2) % 2**32
    turn = (np.where(rest >= 2**31, rest - 2**32, rest) * 2.0**-32 + (w[:, :, 1] >> 30)) / 4
    angle = 2 * np.pi * turn
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(-1)


class RandomContract(KernelContract):
    opchecked = ("65 in 3 axes",)

    def samples(self) -> dict[str, Call]:
        sizes: dict[str, Call] = {str(n): (SEED, 5, [n]) for n in EDGES}
        return sizes | {
            "65 in 3 axes": (SEED, 5, [5, 1, 13]),
            "negative seed": (torch.tensor([-3]), 5, [200]),
            "least seed": (torch.tensor([-(2**63)]), 5, [200]),
            "seed without axes": (torch.tensor(2**63 - 1), 5, [200]),
            "huge offset": (SEED, 2**32 + 7, [200]),
            "largest offset": (SEED, 2**63 - 1, [200]),
        }

    @pytest.mark.parametrize("case", ["float seed", "two seeds"])
    def test_refuses(self, case: str) -> None:
        call, error, message = seed_errors((SEED, 0, [3]), 0)[case]
        with pytest.raises(error, match=message):
            self.op(*call)

    def test_a_shorter_draw_is_the_start_of_a_longer_one(self) -> None:
        long = self.op(SEED, 3, [5000])
        for n in EDGES[:-1]:
            assert same_bits(self.op(SEED, 3, [n]), long[:n])

    def test_shape_does_not_matter(self) -> None:
        assert same_bits(self.op(SEED, 3, [7, 11, 13]).flatten(), self.op(SEED, 3, [1001]))


class TestUniform(RandomContract):
    name = "uniform"
    rtol = 0.0

    def truth(self, seed: Tensor, offset: int, size: list[int]) -> Tensor:
        top = stream(int(seed), offset, int(np.prod(size))) >> np.uint64(8)
        return torch.from_numpy(top.astype(np.float64) * 2.0**-24).reshape(size)


class TestNormal(RandomContract):
    name = "normal"
    rtol = 0.0
    atol = 2e-6  # a few float32 roundings of numbers up to 6.66

    def truth(self, seed: Tensor, offset: int, size: list[int]) -> Tensor:
        count = int(np.prod(size))
        whole = stream(int(seed), offset, -(-count // 64) * 64)
        return torch.from_numpy(box_muller(whole)[:count]).reshape(size)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_known_answers_of_random123(counter: str, key: str, answer: str) -> None:
    at = [torch.tensor([w]) for w in words(counter)]
    got = philox.philox4x32((at[0], at[1], at[2], at[3]), (words(key)[0], words(key)[1]))
    assert [w.item() for w in got] == words(answer)
    there = numpy_philox([np.array([w], np.uint64) for w in words(counter)], (words(key)[0], words(key)[1]))
    assert [int(w[0]) for w in there] == words(answer)


def test_stream_starts_with_the_known_answer_of_seed_and_offset_zero() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    got = torch.ops.phasegrad.uniform(zero, 0, [64])[[0, 16, 32, 48]].double() * 2**24
    assert got.tolist() == [w >> 8 for w in words(KNOWN_ANSWERS[0][2])]


def test_counter_is_offset_and_key_is_seed() -> None:
    counter, key, answer = (words(part) for part in KNOWN_ANSWERS[2])
    offset, seed = counter[2] | counter[3] << 32, key[0] | key[1] << 32
    block = torch.tensor([counter[0]]), torch.tensor([counter[1]])
    low, high = torch.tensor([offset % 2**32]), torch.tensor([offset >> 32])
    got = philox.philox4x32((*block, low, high), (seed % 2**32, seed >> 32))
    assert [w.item() for w in got] == answer


def test_largest_and_smallest_radius_are_finite() -> None:
    a = torch.tensor([0, 2**32 - 1])
    z, _ = philox.box_muller(a, torch.zeros(2, dtype=torch.int64))
    assert z[0].item() == pytest.approx(np.sqrt(64 * np.log(2)), rel=1e-6)
    assert abs(z[1].item()) < 1e-4


@pytest.mark.parametrize("name", ["normal", "uniform"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_draws_what_the_reference_draws(name: str) -> None:
    here = getattr(reference, name)(SEED, 5, [3001])
    there: Any = getattr(torch.ops.phasegrad, name)(SEED.cuda(), 5, [3001]).cpu()
    torch.testing.assert_close(there, here, rtol=0.0, atol=0.0 if name == "uniform" else 2e-6)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.contracts.op import SEED, Call, FloatingContract, OpContract, draw, same_bits, seed_errors
from torch import Tensor

OFFSET = 11


def pruned(*shape: int) -> Tensor:
    """Weights of which 2 % are left, and none in the first row."""
    w = draw(*shape)
    w[w.abs() < 2.33] = 0.0
    w[0] = 0.0
    return w


class TestWeightScale(OpContract):
    name = "weight_scale"
    triton_block_sizes = (("weights.SCALE_ROWS", (4, 16, 64)), ("weights.COLUMNS", (32, 64, 512)))
    rtol = 1e-5
    elementwise = ()
    opchecked = ("uneven tiles", "transposed")

    def samples(self) -> dict[str, Call]:
        w = draw(33, 70)
        return {
            "one value": (draw(1, 1), 4, 4, True, 0.0, False),
            "one row": (draw(1, 100), 32, 32, False, 2.0, False),
            "one column": (draw(100, 1), 32, 32, False, 2.0, False),
            "uneven tiles": (w, 32, 16, False, 2.5, False),
            "a scale each column": (w, 32, 16, True, 2.5, False),
            "a clip each channel": (w, 32, 16, True, 1.5, True),
            "tile and channel": (w, 32, 16, False, 1.5, True),
            "no clip": (w, 32, 16, False, 0.0, False),
            "one tile": (w, 512, 512, False, 2.5, False),
            "tiles of one": (draw(5, 7), 1, 1, False, 2.5, False),
            "transposed": (draw(70, 33).t(), 32, 16, False, 2.5, False),
            "all zero": (torch.zeros(5, 7), 4, 4, True, 2.5, False),
            "pruned": (pruned(130, 151), 64, 64, False, 2.5, False),
            "pruned, a clip each channel": (pruned(33, 70), 32, 16, True, 1.5, True),
            "mean as large as the spread": (draw(33, 70) + 1.0, 32, 16, True, 2.5, False),
            "long": (draw(130, 151), 64, 64, False, 2.5, False),
        }

    def truth(self, w: Tensor, rows: int, columns: int, per_column: bool, sigmas: float, channels: bool) -> tuple:
        v = w.double().numpy()
        # The clip is about zero, and so is the spread that it counts in: a layer of one weight is not clipped to 0.
        # Zeros do not count, because they are pruned.
        sums, nonzero = (v**2).sum(axis=1), (v != 0).sum(axis=1)
        squares = sums / np.maximum(nonzero, 1)
        squares = squares if channels else np.full(len(v), sums.sum() / max(nonzero.sum(), 1))
        spread = np.sqrt(squares)
        clip = sigmas * spread if sigmas > 0 else np.full(len(v), math.inf)
        scale = np.stack([abs(v[:, i : i + rows]).max(axis=1) for i in range(0, v.shape[1], rows)])
        scale = np.minimum(scale, clip)
        for a in range(0, 0 if per_column else len(v), columns):
            scale[:, a : a + columns] = scale[:, a : a + columns].max(axis=1, keepdims=True)
        return torch.from_numpy(scale), torch.from_numpy(clip)

    def wrong(self) -> dict[str, tuple[Call, type[Exception], str]]:
        rest = (4, 4, True, 0.0, False)
        return {
            "integer weights": ((torch.ones(3, 3).int(), *rest), TypeError, "w has dtype torch.int32"),
            "weights of a convolution": ((draw(3, 3, 2), *rest), ValueError, r"w has shape \[3, 3, 2\]"),
            "vector": ((draw(3), *rest), ValueError, r"w has shape \[3\]"),
        }

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_a_weight_that_is_no_number_makes_its_scale_none(self, value: float) -> None:
        w = draw(33, 70)
        w[4, 40] = value
        scale, _ = torch.ops.phasegrad.weight_scale(w, 32, 16, True, 0.0, False)
        assert not scale[1, 4].isfinite()
        assert scale.isfinite().sum() == scale.numel() - 1

    def test_a_weight_that_is_no_number_makes_the_clip_of_its_layer_none(self) -> None:
        w = draw(33, 70)
        w[4, 40] = torch.nan
        scale, clip = torch.ops.phasegrad.weight_scale(w, 32, 16, True, 2.5, False)
        assert clip.isnan().all()
        assert scale.isnan().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("channels", [False, True])
    def test_zeros_do_not_move_the_clip(self, channels: bool, dtype: torch.dtype) -> None:
        w = draw(33, 70).to(dtype)
        sparse = torch.zeros(33, 70 * 20, dtype=dtype)
        sparse[:, ::20] = w
        dense_clip, sparse_clip = (
            torch.ops.phasegrad.weight_scale(v, 32, 16, True, 2.5, channels)[1] for v in (w, sparse)
        )
        torch.testing.assert_close(sparse_clip, dense_clip, rtol=4 * torch.finfo(dtype).eps, atol=0.0)

    def test_equal_weights_are_not_clipped_away(self) -> None:
        _, clip = torch.ops.phasegrad.weight_scale(torch.full((33, 70), 0.1), 32, 16, True, 2.5, False)
        torch.testing.assert_close(clip, torch.full((33,), 0.25))


def noisy(
    shape: tuple[int, int], rows: int = 32, noise: tuple[float, ...] = (0.05, 0.0, 0.0), *, level: float = 1.0,
    clip: float = math.inf, drop_connect: float = 0.0,
) -> Call:  # fmt: skip
    w = draw(*shape)
    scale = torch.stack([part.abs().amax(1) for part in w.split(rows, dim=1)])
    return (
        w,
        scale,
        torch.full((shape[0],), clip),
        torch.tensor(level),
        SEED,
        OFFSET,
        rows,
        list(noise),
        drop_connect,
    )


MANY_STARTS = [-0.9 + 0.12 * k for k in range(15)]
MANY_PARABOLAS = [c for k in range(16) for c in (0.01 * k, 0.02 * (k % 3), -0.01 * (k % 2))]


class TestNoisyWeights(OpContract):
    name = "noisy_weights"
    triton_block_sizes = (("weights.ROWS", (16, 32, 64)), ("weights.GROUPS", (1, 2, 8)))
    rtol = 1e-5
    atol = 1e-5
    differentiable = (0,)
    elementwise = (0,)
    opchecked = ("uneven tiles", "clipped, noisy, dropped", "transposed")

    def samples(self) -> dict[str, Call]:
        shape, cubic = (33, 70), (0.03, 0.05, -0.02)
        no_scale = noisy((5, 70), noise=cubic)
        no_scale[1][1, 3] = 0.0
        transposed = noisy((33, 70), noise=cubic)
        several_clips = noisy(shape)
        return {
            "one value": noisy((1, 1)),
            "one row": noisy((1, 100)),
            "one column": noisy((100, 1)),
            "row longer than a chunk": noisy((2, 3001), 512, cubic),
            "uneven tiles": noisy(shape, noise=cubic),
            "one tile": noisy(shape, 512, cubic),
            "tiles of one": noisy((5, 7), 1, cubic),
            "no noise": noisy(shape, noise=(0.0, 0.0, 0.0)),
            "level of zero": noisy(shape, noise=cubic, level=0.0),
            "level of a half": noisy(shape, noise=cubic, level=0.5),
            "spread that would be negative": noisy(shape, noise=(0.03, -0.2, 0.1)),
            "clipped": noisy(shape, noise=(0.0, 0.0, 0.0), clip=0.8),
            "a clip each channel": (*several_clips[:2], draw(33, seed=4).abs(), *several_clips[3:]),
            "dropped": noisy(shape, noise=(0.0, 0.0, 0.0), drop_connect=0.3),
            "clipped, noisy, dropped": noisy(shape, noise=cubic, clip=0.8, drop_connect=0.1),
            "scale of zero": no_scale,
            "transposed": (transposed[0].t().contiguous().t(), *transposed[1:]),
            "level with an axis": (*noisy(shape)[:3], torch.tensor([0.7]), *noisy(shape)[4:]),
            "long": noisy((130, 151), 64, cubic, clip=1.5, drop_connect=0.1),
            "one parabola by sign": noisy(shape, noise=(1.0, 0.03, 0.05, -0.02), level=0.5),
            "two parabolas": noisy(shape, noise=(0.0, 0.4, 0.03, 0.05, -0.02, 0.2, 0.0, -0.1), clip=0.9),
            "many parabolas by sign": noisy(shape, noise=(1.0, *MANY_STARTS, *MANY_PARABOLAS), drop_connect=0.1),
            "parabolas without noise": noisy(shape, noise=(0.0, 0.4, *(0.0,) * 6)),
        }

    def truth(
        self, w: Tensor, scale: Tensor, clip: Tensor, level: Tensor, seed: Tensor, offset: int, rows: int,
        noise: list[float], drop_connect: float,
    ) -> Tensor:  # fmt: skip
        bound = clip.double().numpy()[:, None]
        v = np.clip(w.double().numpy(), -bound, bound)
        s = np.repeat(scale.double().numpy(), rows, axis=0)[: w.shape[1]].T
        square = np.divide(v * v, s, out=np.zeros_like(v), where=s > 0)
        pieces = max(len(noise) // 4, 1)
        size = v if len(noise) > 3 and noise[0] else abs(v)
        starts, parabolas = noise[1:pieces], np.array(noise[-3 * pieces :]).reshape(pieces, 3)
        c = parabolas[sum((size >= start * s).astype(int) for start in starts) + np.zeros(v.shape, dtype=int)]
        sd = float(level) * np.maximum(c[..., 0] * s + c[..., 1] * size + c[..., 2] * square, 0.0)
        v = v + sd * torch.ops.phasegrad.normal(seed, offset, w.shape).double().numpy()
        stuck = torch.ops.phasegrad.uniform(seed, offset + 1, w.shape).double().numpy() < np.float32(drop_connect)
        return torch.from_numpy(np.where(stuck, 0.0, v))

    def wrong(self) -> dict[str, tuple[Call, type[Exception], str]]:
        w, scale, clip, *rest = noisy((33, 70))
        return {
            "integer weights": ((w.int(), scale, clip, *rest), TypeError, "w has dtype torch.int32"),
            "integer clip": (
                (w, scale, clip.nan_to_num(posinf=9.0).int(), *rest),
                TypeError,
                "clip has dtype",
            ),
            "scale elsewhere": ((w, scale.to("meta"), clip, *rest), ValueError, "scale is on meta"),
            "scale of two tiles": ((w, scale[:2], clip, *rest), ValueError, r"scale has shape \[2, 33\]"),
            "clip of one": ((w, scale, clip[:1], *rest), ValueError, r"clip \[1\]"),
            "vector": ((w[0], scale, clip, *rest), ValueError, r"\[70\]"),
            "five coefficients": ((w, scale, clip, *rest[:4], [0.1] * 5, 0.0), ValueError, "5 noise coefficients"),
            "65 parabolas": ((w, scale, clip, *rest[:4], [0.1] * 260, 0.0), ValueError, "260 noise coefficients"),
            "two levels": ((w, scale, clip, torch.ones(2), *rest[1:]), ValueError, "level"),
            **seed_errors((w, scale, clip, *rest), 4),
        }

    def test_what_is_not_a_number_never_becomes_one(self) -> None:
        call = noisy((33, 70), clip=0.8)
        call[0][:3, 5] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        out = torch.ops.phasegrad.noisy_weights(*call)
        assert not out[:3, 5].isfinite().any()
        assert out.isfinite().sum() == out.numel() - 3

    @pytest.mark.parametrize("drop_connect", [0.01, 0.3])
    def test_a_fraction_is_dropped(self, drop_connect: float) -> None:
        call = noisy((300, 300), noise=(0.0, 0.0, 0.0), drop_connect=drop_connect)
        n = 90_000
        zeros = (torch.ops.phasegrad.noisy_weights(*call) == 0).sum().item()
        assert abs(zeros - n * drop_connect) < 5.0 * math.sqrt(n * drop_connect * (1.0 - drop_connect))

    def test_all_is_dropped_at_one(self) -> None:
        assert torch.ops.phasegrad.noisy_weights(*noisy((33, 70), drop_connect=1.0)).eq(0).all()

    def test_no_noise_leaves_weights_as_they_are(self) -> None:
        call = noisy((33, 70), noise=(0.0, 0.0, 0.0))
        assert same_bits(torch.ops.phasegrad.noisy_weights(*call), call[0])


class TestNoisyWeightsBackward(FloatingContract):
    name = "noisy_weights_backward"
    triton_block_sizes = (("weights.ROWS", (4, 16, 64)), ("weights.COLUMNS", (32, 64, 512)))
    opchecked = ("odd",)

    def samples(self) -> dict[str, Call]:
        return {
            "one value": (draw(1, 1, seed=1), draw(1, 1), torch.ones(1)),
            "no rows": (draw(0, 5), draw(0, 5), torch.ones(0)),
            "odd": (draw(33, 70, seed=1), draw(33, 70), draw(33, seed=2).abs()),
            "transposed": (draw(70, 33, seed=1).t(), draw(70, 33).t(), draw(33, seed=2).abs()),
            "no clip": (draw(33, 70, seed=1), draw(33, 70), torch.full((33,), math.inf)),
            "long": (draw(130, 151, seed=1), draw(130, 151), draw(130, seed=2).abs()),
        }

    def truth(self, grad: Tensor, w: Tensor, clip: Tensor) -> Tensor:
        beyond = w.abs() > clip[:, None]
        further = (w * grad) < 0  # a step goes against the gradient
        return grad.double().masked_fill(beyond & further, 0.0)


def test_gradient_passes_noise_and_drop() -> None:
    call = noisy((33, 70), noise=(0.03, 0.05, -0.02), drop_connect=0.2)
    w, grad = call[0].requires_grad_(), draw(33, 70, seed=1)
    torch.ops.phasegrad.noisy_weights(w, *call[1:]).backward(grad)
    assert same_bits(w.grad, grad)


def test_only_the_gradient_that_pushes_a_clipped_weight_out_stops() -> None:
    w = torch.tensor([[2.0, 2.0, -2.0, -2.0, 0.5, 1.0]], requires_grad=True)
    grad = torch.tensor([[1.0, -1.0, 1.0, -1.0, -1.0, -1.0]])
    call = (torch.ones(1, 1), torch.ones(1), torch.tensor(1.0), SEED, 0, 8, [0.1, 0.0, 0.0], 0.0)
    torch.ops.phasegrad.noisy_weights(w, *call).backward(grad)
    assert w.grad.tolist() == [[1.0, 0.0, 0.0, -1.0, -1.0, -1.0]]


def test_gradient_is_exact_while_the_noise_does_not_depend_on_the_weight() -> None:
    # With c1 or c2 the spread follows the weight and the straight-through gradient leaves that out on purpose.
    call = noisy((3, 4), 2, noise=(0.05, 0.0, 0.0))
    w, scale, clip = (a.double() for a in call[:3])
    function = torch.ops.phasegrad.noisy_weights
    assert torch.autograd.gradcheck(lambda w: function(w, scale, clip, *call[3:]), w.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    call, seed = noisy((33, 70)), torch.tensor([7])
    ops = torch.ops.phasegrad
    before = (
        ops.noisy_weights(*call),
        *ops.weight_scale(call[0], 32, 16, True, 2.5, False),
        ops.normal(seed, 0, [999]),
    )
    torch.set_default_dtype(dtype)
    try:
        after = (ops.noisy_weights(*call), *ops.weight_scale(call[0], 32, 16, True, 2.5, False))
        after = (*after, ops.normal(seed, 0, [999]))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(b.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(before, after, strict=True))

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.contracts.op import SEED, Call, FloatingContract, OpContract, draw, seed_errors
from torch import Tensor

from phasegrad.ops.reference import COUNTER, END_POINT, MID_RISE, MID_TREAD, NO_CONVERTER

MAX_CODE = 127.0
OFFSET = 11


def conversion(
    shape: tuple[int, ...],
    tiles: int = 1,
    mode: int = MID_TREAD,
    *,
    read: bool = False,
    gain: bool = False,
    per_row: bool = False,
    output_noise: float = 0.0,
    bound: float = 1.2,
    max_code: float = MAX_CODE,
) -> Call:
    """A call whose tile outputs are of the order of their unit, some of them beyond the bound."""
    scale = draw(tiles, shape[1], seed=1).abs() + 0.1
    rows = draw(shape[0], seed=2).abs() + 0.5 if per_row else torch.tensor([1.3])
    columns = (1, -1, *[1] * (len(shape) - 2))
    y = [draw(*shape, seed=10 + t) * scale[t].view(columns) for t in range(tiles)]
    v = [draw(*shape, seed=20 + t).abs() for t in range(tiles)] if read else []
    gains = draw(tiles, shape[1], seed=3).abs() + 0.5 if gain else None
    noise = (output_noise, 0.02 if read else 0.0)
    return (y, v, scale, gains, rows, torch.tensor([bound]), SEED, OFFSET, *noise, mode, max_code)


def units(call: Call, tile: int) -> np.ndarray:
    """The scale times the input range: the unit of a tile's output, ``[rows, channels, ...]``."""
    y, scale, rows = call[0][tile], call[2][tile].double().numpy(), call[4].double().numpy()
    rest = [1] * (y.dim() - 2)
    return rows.reshape(-1, 1, *rest) * scale.reshape(1, -1, *rest) * np.ones(y.shape)


class TestAdc(OpContract):
    name = "adc"
    triton_block_sizes = (("converters.ROWS", (2, 16, 256)), ("converters.GROUPS", (1, 2, 8)))
    rtol = 2e-6
    atol = 2e-6
    elementwise = (0, 1)
    opchecked = ("two tiles", "images", "all at once", "no converter", "transposed")

    def samples(self) -> dict[str, Call]:
        zero = conversion((6, 10), 2)
        zero[2][0, 3] = 0.0
        transposed = conversion((6, 10), 2)
        return {
            "one value": conversion((1, 1)),
            "one row": conversion((1, 17), 2),
            "one column": conversion((5, 1), 2),
            "no rows": conversion((0, 4), 2),
            "two tiles": conversion((6, 10), 2),
            "mid-rise": conversion((6, 10), 3, MID_RISE),
            "mid-rise, four levels": conversion((6, 10), 2, MID_RISE, max_code=2.0),
            "end-point": conversion((6, 10), 3, END_POINT, max_code=127.5),
            "end-point, four levels": conversion((13, 79), 2, END_POINT, max_code=1.5),
            "counter": conversion((6, 10), 3, COUNTER, max_code=128.0),
            "counter, three levels": conversion((13, 79), 2, COUNTER, max_code=2.0),
            "no converter": conversion((6, 10), 3, NO_CONVERTER, gain=True),
            "output noise": conversion((6, 10), 2, output_noise=0.04),
            "read noise": conversion((6, 10), 2, read=True),
            "both noises": conversion((13, 79), 2, MID_RISE, read=True, output_noise=0.04),
            "noise and no converter": conversion((13, 79), 2, NO_CONVERTER, read=True, output_noise=0.04),
            "gain": conversion((6, 10), 2, gain=True),
            "a range each row": conversion((6, 10), 2, per_row=True),
            "images": conversion((4, 3, 5, 5), 2, gain=True),
            "a range each image": conversion((4, 3, 5, 5), 2, per_row=True, output_noise=0.04),
            "lines": conversion((3, 4, 2000), 2, gain=True, per_row=True),
            "all at once": conversion((7, 9), 2, read=True, gain=True, per_row=True, output_noise=0.04),
            "column of zero scale": zero,
            "bound of zero": conversion((6, 10), 2, bound=0.0),
            "transposed": ([t.t().contiguous().t() for t in transposed[0]], *transposed[1:]),
            "long": conversion((40, 511), 2, read=True, output_noise=0.04),
        }

    def near_ties(self, *call: Any) -> tuple[float, float]:
        full = call[5].item() * max(units(call, t).max(initial=0.0) for t in range(len(call[0])))
        step = (1.0 if call[3] is None else call[3].max().item()) * full / call[11]
        noisy = call[8] > 0 or call[1]
        return (2e-3 if noisy else 2e-4), max(1.001 * step, 1.0)  # 1: a clip code

    def truth(self, *call: Any) -> tuple[Tensor, Tensor]:
        y, v, scale, gain, _, bound, seed, offset, output_noise, read_noise, mode, max_code = call
        total, codes = np.zeros(y[0].shape), []
        for t in range(len(y)):
            unit, out = units(call, t), y[t].double().numpy()
            columns = (1, -1, *[1] * (y[t].dim() - 2))
            variance = (output_noise * unit) ** 2
            if v:
                variance = variance + read_noise**2 * scale[t].double().numpy().reshape(columns) * v[t].double().numpy()
            out = out + np.sqrt(variance) * torch.ops.phasegrad.normal(seed, offset + t, y[t].shape).double().numpy()
            full = bound.double().item() * unit
            codes.append(np.sign(out) * ((np.abs(out) > full) & (full > 0)))
            if mode != NO_CONVERTER:
                out = np.where(full > 0, digital(out, np.where(full > 0, full, 1.0), mode, max_code), out)
            total += out if gain is None else out * gain[t].double().numpy().reshape(columns)
        code = torch.from_numpy(np.stack(codes)) if mode != NO_CONVERTER else torch.empty(0)
        return torch.from_numpy(total), code

    def wrong(self) -> dict[str, tuple[Call, type[Exception], str]]:
        def with_(**changes: Any) -> Call:
            names = ("y", "v", "scale", "gain", "input_range", "bound", "seed", "offset")
            call = conversion((6, 10), 2, read=True, gain=True)
            return tuple(changes.get(n, a) for n, a in zip((*names, *range(4)), call, strict=True))

        whole = torch.ones(6, 10, dtype=torch.int32)
        return {
            "integer output": (with_(y=[draw(6, 10), whole]), TypeError, r"y\[1\] has dtype torch.int32"),
            "integer spread": (with_(v=[whole, whole]), TypeError, r"v\[0\] has dtype torch.int32"),
            "integer scale": (with_(scale=torch.ones(2, 10).int()), TypeError, "scale has dtype torch.int32"),
            "integer gain": (with_(gain=torch.ones(2, 10).int()), TypeError, "gain has dtype torch.int32"),
            "integer bound": (with_(bound=torch.ones(1).long()), TypeError, "bound has dtype torch.int64"),
            "scale elsewhere": (
                with_(scale=torch.ones(2, 10, device="meta")),
                ValueError,
                "scale is on meta",
            ),
            "gain elsewhere": (with_(gain=torch.ones(2, 10, device="meta")), ValueError, "gain is on meta"),
            "one spread of two": (with_(v=[draw(6, 10)]), ValueError, r"\[6, 10\]"),
            "unlike tiles": (with_(y=[draw(6, 10), draw(6, 9)]), ValueError, r"\[6, 10\], \[6, 9\]"),
            "scale of one tile": (with_(scale=torch.ones(1, 10)), ValueError, r"scale has shape \[1, 10\]"),
            "gain of one column": (with_(gain=torch.ones(2, 1)), ValueError, r"gain has shape \[2, 1\]"),
            "five ranges, six rows": (
                with_(input_range=torch.ones(5)),
                ValueError,
                "input_range has 5 elements",
            ),
            "two bounds": (with_(bound=torch.ones(2)), ValueError, "bound has"),
            "no tile": (with_(y=[], v=[]), ValueError, "y"),
            "outputs without columns": (with_(y=[draw(6)] * 2, v=[draw(6)] * 2), ValueError, r"\[6\]"),
            **seed_errors(with_(), 6),
        }

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("mode", [NO_CONVERTER, MID_TREAD, MID_RISE, END_POINT])
    def test_what_is_not_a_number_passes(self, value: float, mode: int) -> None:
        call = conversion((6, 10), 2, mode, output_noise=0.04)
        call[0][1][2, 3] = value
        out, code = torch.ops.phasegrad.adc(*call)
        assert str(out[2, 3].item()) == str(value)
        assert out.isfinite().sum() == 59
        assert mode == NO_CONVERTER or code[1, 2, 3] == 0

    @pytest.mark.parametrize("position", [2, 4, 5], ids=["scale", "input range", "bound"])
    @pytest.mark.parametrize("mode", [MID_TREAD, MID_RISE, END_POINT])
    def test_a_unit_that_is_no_number_gives_none(self, position: int, mode: int) -> None:
        # Passing the output on, as with a unit of zero, would leave the converter out without a word.
        call = list(conversion((6, 10), 1, mode))
        call[position] = torch.full_like(call[position], torch.nan)
        assert torch.ops.phasegrad.adc(*call)[0].isnan().all()

    def test_mid_tread_has_two_half_plus_one_levels_with_zero(self) -> None:
        assert levels(MID_TREAD) == pytest.approx([k / 4 for k in range(-4, 5)])

    def test_mid_rise_has_two_half_levels_without_zero(self) -> None:
        assert levels(MID_RISE) == pytest.approx([(k + 0.5) / 4 for k in range(-4, 4)])

    def test_end_point_has_both_ends_and_no_zero(self) -> None:
        assert levels(END_POINT, 3.5) == pytest.approx([(k + 0.5) / 3.5 for k in range(-4, 4)])

    def test_error_is_half_a_step_at_most(self) -> None:
        y = torch.linspace(-1.0, 1.0, 5001).view(1, -1)
        for mode, most in ((MID_TREAD, MAX_CODE), (MID_RISE, MAX_CODE), (END_POINT, MAX_CODE + 0.5)):
            error = (converted(y, mode, most) - y).abs().max().item()
            assert 0.49 / most < error < 0.501 / most

    def test_tiles_draw_different_noise(self) -> None:
        n = 10_000
        y, one = torch.zeros(1, n), torch.ones(2, n)
        call = (
            [y, y],
            [],
            one,
            None,
            torch.ones(1),
            torch.ones(1),
            SEED,
            OFFSET,
            0.1,
            0.0,
            NO_CONVERTER,
            1.0,
        )
        variance = torch.ops.phasegrad.adc(*call)[0].double().var().item()
        assert abs(variance / 0.02 - 1.0) < 5.0 * (2.0 / n) ** 0.5

    def test_read_noise_has_the_variance_of_the_column_sum(self) -> None:
        n = 10_000
        call = (
            [torch.zeros(1, n)], [torch.full((1, n), 3.0)], torch.full((1, n), 0.5), None, torch.ones(1),
            torch.ones(1), SEED, OFFSET, 0.0, 0.0175, NO_CONVERTER, 1.0,
        )  # fmt: skip
        variance = torch.ops.phasegrad.adc(*call)[0].double().var().item()
        assert abs(variance / (0.0175**2 * 0.5 * 3.0) - 1.0) < 5.0 * (2.0 / n) ** 0.5


class TestAdcBackward(FloatingContract):
    name = "adc_backward"
    triton_block_sizes = (("converters.VALUES", (64, 256, 4096)),)
    opchecked = ("images",)

    def samples(self) -> dict[str, Call]:
        def clipped(*shape: int) -> Tensor:
            return draw(*shape, seed=1).round().clamp(-1, 1).to(torch.int8)

        return {
            "one value": (draw(1, 1), clipped(1, 1, 1)),
            "no rows": (draw(0, 4), clipped(2, 0, 4)),
            "images": (draw(4, 3, 5, 5), clipped(2, 4, 3, 5, 5)),
            "transposed": (draw(10, 6).t(), clipped(3, 6, 10)),
            "long": (draw(40, 511), clipped(2, 40, 511)),
        }

    def truth(self, grad: Tensor, code: Tensor) -> Tensor:
        return grad.double() * (code == 0)


def digital(y: np.ndarray, full: np.ndarray, mode: int, max_code: float) -> np.ndarray:
    step = full / max_code
    if mode == END_POINT:
        return np.clip(np.floor(np.clip(y / step, -max_code, max_code)) + 0.5, -max_code, max_code) * step
    if mode == MID_TREAD:
        return np.rint(np.clip(y / step, -max_code, max_code)) * step
    if mode == COUNTER:
        return np.sign(y) * np.minimum(np.floor(np.abs(y / step)), max_code - 1) * step
    return (np.clip(np.floor(y / step), -max_code, max_code - 1) + 0.5) * step


def converted(y: Tensor, mode: int, max_code: float) -> Tensor:
    one = torch.ones(1)
    scale = torch.ones(1, y.shape[1])
    return torch.ops.phasegrad.adc([y], [], scale, None, one, one, SEED, 0, 0.0, 0.0, mode, max_code)[0]


def levels(mode: int, max_code: float = 4.0) -> list[float]:
    return converted(torch.linspace(-2.0, 2.0, 4001).view(1, -1), mode, max_code).unique().tolist()


def gradients(call: Call) -> list[Tensor]:
    y, bound = [t.clone().requires_grad_() for t in call[0]], call[5].clone().requires_grad_()
    out, _ = torch.ops.phasegrad.adc(y, *call[1:5], bound, *call[6:])
    (out * draw(*out.shape, seed=5)).sum().backward()
    return [*(t.grad for t in y), bound.grad]


def clamp_gradients(call: Call) -> list[Tensor]:
    """Rounding taken for the identity, the noise for a constant; autograd does the rest."""
    y, bound = [t.double().requires_grad_() for t in call[0]], call[5].double().requires_grad_()
    total = torch.zeros(y[0].shape, dtype=torch.float64)
    for t, product in enumerate(y):
        columns = (1, -1, *[1] * (product.dim() - 2))
        unit = torch.from_numpy(units(call, t))
        variance = (call[8] * unit) ** 2
        if call[1]:
            variance = variance + call[9] ** 2 * call[2][t].view(columns) * call[1][t]
        noisy = product + variance.sqrt() * torch.ops.phasegrad.normal(call[6], call[7] + t, product.shape)
        clipped = torch.minimum(torch.maximum(noisy, -bound * unit), bound * unit)
        total = total + clipped * (1.0 if call[3] is None else call[3][t].view(columns))
    (total * draw(*total.shape, seed=5)).sum().backward()
    return [*(t.grad for t in y), bound.grad]


@pytest.mark.parametrize("mode", [MID_TREAD, MID_RISE, END_POINT])
@pytest.mark.parametrize("shape", [(13, 31), (4, 3, 5, 5)], ids=str)
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("gain", [False, True])
def test_gradient_is_that_of_clipping(mode: int, shape: tuple[int, ...], per_row: bool, gain: bool) -> None:
    call = conversion(shape, 2, mode, read=True, gain=gain, per_row=per_row, output_noise=0.04)
    for got, want in zip(gradients(call), clamp_gradients(call), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_without_converter_the_gradient_is_exact() -> None:
    # Only here does gradcheck apply: a converter's true derivative is zero between steps, and the straight-through
    # gradient is deliberately not that.
    call = conversion((3, 4), 2, NO_CONVERTER, read=True, gain=True, per_row=True, output_noise=0.04)
    call = tuple([t.double() for t in a] if isinstance(a, list) else a for a in call)
    call = tuple(a.double() if isinstance(a, Tensor) and a.dtype == torch.float32 else a for a in call)
    y = [t.requires_grad_() for t in call[0]]
    assert torch.autograd.gradcheck(lambda *y: torch.ops.phasegrad.adc(y, *call[1:])[0], y)


def test_bound_without_axes_gets_a_gradient_without_axes() -> None:
    call = conversion((6, 10))
    assert gradients((*call[:5], torch.tensor(1.2), *call[6:]))[-1].shape == ()

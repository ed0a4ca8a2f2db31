from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.contracts.op import (
    SEED,
    Call,
    FloatingContract,
    OpContract,
    cast,
    draw,
    same_bits,
    seed_errors,
    tensors,
    threads,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import phasegrad as pg
from phasegrad.ops import direct
from phasegrad.ops.reference import MID_RISE, MID_TREAD, NO_CONVERTER

NAMES = (
    "x", "w", "scale", "clip", "level", "gain", "input_range", "dac_max_code", "decay", "keep", "bound", "seed",
    "weight_offset", "offset", "rows", "noise", "drop_connect", "output_noise", "read_noise", "mode",
    "adc_max_code",
)  # fmt: skip
DAC = (127.0, 0.01, 0.5)  # largest code, and a range that decays where half of the inputs lie inside
NOISE = (0.03, 0.01, -0.005)


def linear(
    batch: int = 6,
    out: int = 10,
    features: int = 13,
    rows: int = 5,
    mode: int = MID_TREAD,
    *,
    perturbed: bool = False,
    drop_connect: float = 0.0,
    gain: bool = False,
    per_row: bool = False,
    output_noise: float = 0.0,
    read_noise: float = 0.0,
    bound: float = 0.6,
    dac: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Call:
    """A call in which some inputs, tile outputs and weights lie beyond the range, the bound and the clip."""
    w = 0.3 * draw(out, features, seed=1)
    parts = w.split(rows, dim=1)
    scale = torch.stack([part.abs().amax(1).clamp(max=0.5) for part in parts])
    clip, level = (torch.full((out,), 0.5), torch.ones(1)) if perturbed else (None, None)
    gains = draw(len(parts), out, seed=3).abs() + 0.5 if gain else None
    ranges = draw(batch, seed=2).abs() + 0.5 if per_row else torch.tensor([1.3])
    noise = NOISE if perturbed else (0.0, 0.0, 0.0)
    units = (gains, ranges, *dac, torch.tensor([bound]))
    call = (draw(batch, features, seed=4), w, scale, clip, level, *units, SEED, 3, 11, rows)
    return (*call, noise, drop_connect, output_noise, read_noise, mode, 127.0)


def named(call: Call) -> dict[str, Any]:
    return dict(zip(NAMES, call, strict=True))


def separately(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """The same through the ops for reading weights and for converting, each of which has its own tests."""
    a = named(call)
    if a["dac_max_code"] > 0:
        a["x"] = torch.ops.phasegrad.dac(a["x"], a["input_range"], a["dac_max_code"], a["decay"], a["keep"])
        a["input_range"] = a["input_range"].detach()
    read = a["w"]
    if a["clip"] is not None:
        weights = ("w", "scale", "clip", "level", "seed", "weight_offset", "rows", "noise", "drop_connect")
        read = torch.ops.phasegrad.noisy_weights(*(a[n] for n in weights))
    parts = list(zip(a["x"].split(a["rows"], 1), read.split(a["rows"], 1), strict=True))
    y = [x @ w.t() for x, w in parts]
    v = [x.square() @ w.abs().t() for x, w in parts] if a["read_noise"] > 0 else []
    rest = (
        "scale",
        "gain",
        "input_range",
        "bound",
        "seed",
        "offset",
        "output_noise",
        "read_noise",
        "mode",
        "adc_max_code",
    )
    out, code = torch.ops.phasegrad.adc(y, v, *(a[n] for n in rest))
    return out, code, a["w"].new_empty(0) if a["clip"] is None else read


def gradients(product: Any, call: Call) -> list[Tensor]:
    a = list(call)
    leaves = {i: a[i].clone().requires_grad_() for i in (0, 1, *map(NAMES.index, ("input_range", "bound")))}
    for i, leaf in leaves.items():
        a[i] = leaf
    out = product(tuple(a))[0]
    (out * draw(*out.shape, seed=5)).sum().backward()
    return [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves.values()]


def fused(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.phasegrad.tile_linear(*call)


SAMPLES = {
    "one value": linear(1, 1, 1, 5),
    "one tile": linear(rows=64),
    "tiles of one row": linear(features=4, rows=1),
    "no rows": linear(0),
    "a last tile that is short": linear(),
    "equal tiles": linear(features=15),
    "mid-rise": linear(mode=MID_RISE),
    "no converter": linear(mode=NO_CONVERTER, output_noise=0.04),
    "gain": linear(gain=True),
    "gain and no converter": linear(gain=True, mode=NO_CONVERTER, output_noise=0.04),
    "read noise": linear(read_noise=0.02),
    "noisy weights": linear(perturbed=True),
    "dropped weights": linear(perturbed=True, drop_connect=0.2),
    "converted inputs": linear(dac=DAC),
    "converted inputs, a range for each row": linear(dac=(7.0, 0.0, 1.0), per_row=True, mode=NO_CONVERTER),
    "converted inputs of a long product": linear(70, 300, 200, 64, dac=DAC, perturbed=True),
    "all at once, converted inputs": linear(
        dac=DAC, perturbed=True, drop_connect=0.1, gain=True, per_row=True, output_noise=0.04, read_noise=0.02
    ),
    "all at once": linear(
        perturbed=True, drop_connect=0.1, gain=True, per_row=True, output_noise=0.04, read_noise=0.02
    ),
    "long": linear(70, 300, 200, 64, perturbed=True, output_noise=0.04),
    "many outputs": linear(520, 510, 40, 16, perturbed=True, output_noise=0.04),
}


def torchs_own_repeat(a: Tensor, b: Tensor) -> bool:
    """Whether torch's products of these sizes are the same for any number of threads: not always, and not our doing."""
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append((torch.mm(a, b.t()), torch.mm(a.t(), a), torch.mm(b.t(), b)))
    return all(same_bits(found[0], other) for other in found[1:])


UNREPEATABLE = "torch's own products of this size depend on the number of threads here"


def close(results: Any, others: Any) -> bool:
    """Torch's own products differ in the last bit where a copy of their operands lies at another address."""
    return all(torch.allclose(a, b, 1e-5, 1e-5) for a, b in zip(tensors(results), tensors(others), strict=True))


class TestTileLinear(OpContract):
    name = "tile_linear"
    triton_block_sizes = (("weights.ROWS", (16, 32, 64)), ("converters.ROWS", (16, 64, 256)))
    only_compiled = ("many outputs", "converted inputs of a long product", "long")
    rtol = 5e-6
    atol = 5e-6
    elementwise = ()
    opchecked = ("a last tile that is short", "gain and no converter", "all at once", "all at once, converted inputs")

    def samples(self) -> dict[str, Call]:
        return SAMPLES

    def test_repeats_to_the_bit_for_any_number_of_threads(self, call: Call) -> None:
        if not torchs_own_repeat(call[0][:, : named(call)["rows"]], call[1][:, : named(call)["rows"]]):
            pytest.skip(UNREPEATABLE)
        super().test_repeats_to_the_bit_for_any_number_of_threads(call)

    def same(self, results: Any, others: Any) -> bool:
        return close(results, others)

    def near_ties(self, *call: Any) -> tuple[float, float]:
        a = named(call)
        step = a["bound"].item() * a["scale"].max().item() * a["input_range"].max().item() / a["adc_max_code"]
        return 4e-3, max(1.001 * step * (1.0 if a["gain"] is None else a["gain"].max().item()), 1.0)  # 1: a clip code

    def truth(self, *call: Any) -> tuple[Tensor, ...]:
        return separately(
            tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, call)
        )

    def wrong(self) -> dict[str, tuple[Call, type[Exception], str]]:
        def with_(**changes: Any) -> Call:
            return tuple({**named(linear(perturbed=True, gain=True)), **changes}.values())

        return {
            "integer input": (with_(x=torch.ones(6, 13).int()), TypeError, "x has dtype torch.int32"),
            "input of another dtype": (with_(x=draw(6, 13).double()), ValueError, "of one dtype"),
            "input of another width": (with_(x=draw(6, 12)), ValueError, r"\[6, 12\]"),
            "input of three axes": (with_(x=draw(2, 3, 13)), ValueError, r"\[2, 3, 13\]"),
            "no inputs": (with_(x=draw(6, 0), w=draw(10, 0)), ValueError, "at least one input"),
            "no number of levels": (with_(dac_max_code=-1.0), ValueError, "dac_max_code = -1.0"),
            "tiles of no rows": (with_(rows=0), ValueError, "rows = 0"),
            "scale of two tiles of three": (with_(scale=torch.ones(2, 10)), ValueError, r"scale has shape \[2, 10\]"),
            "gain of one column": (with_(gain=torch.ones(3, 1)), ValueError, r"gain has shape \[3, 1\]"),
            "clip without level": (with_(level=None), ValueError, "together"),
            "clip of nine": (with_(clip=torch.ones(9)), ValueError, r"clip \[9\]"),
            "two levels": (with_(level=torch.ones(2)), ValueError, "level has"),
            "two coefficients": (with_(noise=(0.1, 0.1)), ValueError, "2 noise coefficients"),
            "five ranges, six rows": (with_(input_range=torch.ones(5)), ValueError, "input_range has 5 elements"),
            "two bounds": (with_(bound=torch.ones(2)), ValueError, "bound has"),
            "weight elsewhere": (with_(w=torch.ones(10, 13, device="meta")), ValueError, "w is on meta"),
            **seed_errors(with_(), NAMES.index("seed")),
        }

    def test_result_has_the_dtype_of_the_first_argument(self, opcheck_call: Call) -> None:
        x, w = cast(opcheck_call[:2], torch.bfloat16)
        out, _, read = self.op(x, w, *opcheck_call[2:])
        assert out.dtype == read.dtype == torch.bfloat16

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_what_is_not_a_number_passes(self, value: float) -> None:
        call = linear(mode=MID_TREAD, output_noise=0.04, perturbed=True)
        call[0][2, 3] = value
        out = fused(call)[0]
        assert not out[2].isfinite().any()
        assert out[[0, 1, 3, 4, 5]].isfinite().all()


class TestTileLinearBackward(FloatingContract):
    name = "tile_linear_backward"
    rtol = 1e-5
    atol = 1e-5
    opchecked = ("clipped", "gain", "noisy weights")

    def same(self, results: Any, others: Any) -> bool:
        return close(results, others)

    def samples(self) -> dict[str, Call]:
        def call(tiles: int, rows: int, *, codes: bool, gain: bool, perturbed: bool, wanted: list[bool]) -> Call:
            batch, out, features = 6, 10, tiles * rows - 2
            code = (
                draw(tiles, batch, out, seed=1).round().clamp(-1, 1).to(torch.int8) if codes else torch.empty(0).char()
            )
            w = draw(out, features, seed=2)
            master = (w + 0.1, torch.full((out,), 0.5)) if perturbed else (None, None)
            gains = draw(tiles, out, seed=3) if gain else None
            return (draw(batch, out), code, draw(batch, features, seed=4), w, *master, gains, rows, wanted)

        both = [True, True]
        return {
            "clipped": call(3, 5, codes=True, gain=False, perturbed=False, wanted=both),
            "gain": call(3, 5, codes=False, gain=True, perturbed=False, wanted=both),
            "neither": call(3, 5, codes=False, gain=False, perturbed=False, wanted=both),
            "noisy weights": call(3, 5, codes=True, gain=True, perturbed=True, wanted=both),
            "noisy weights, all tiles alike": call(3, 5, codes=False, gain=False, perturbed=True, wanted=both),
            "of the input alone": call(3, 5, codes=True, gain=False, perturbed=True, wanted=[True, False]),
            "of the matrix alone": call(2, 20, codes=True, gain=True, perturbed=True, wanted=[False, True]),
        }

    def test_repeats_to_the_bit_for_any_number_of_threads(self, call: Call) -> None:
        grad, rows = call[0], call[7]
        if not torchs_own_repeat(grad.t(), call[2][:, :rows].t()):
            pytest.skip(UNREPEATABLE)
        super().test_repeats_to_the_bit_for_any_number_of_threads(call)

    def truth(self, *call: Any) -> tuple[Tensor, Tensor]:
        grad, code, x, read, w, clip, gain, rows, wanted = call
        tiles = -(-x.shape[1] // rows)
        by_tile = torch.ones(tiles, *grad.shape, dtype=torch.float64) if not len(code) else (code == 0).double()
        by_tile = by_tile * grad.double() * (1.0 if gain is None else gain.double().unsqueeze(1))
        spread = by_tile.repeat_interleave(rows, 0)[: x.shape[1]]  # [in, batch, out]
        grad_x = torch.einsum("ibo,oi->bi", spread, read.double())
        grad_w = torch.einsum("ibo,bi->oi", spread, x.double())
        if w is not None:
            outward = ((w > clip[:, None]) & (grad_w < 0)) | ((w < -clip[:, None]) & (grad_w > 0))
            grad_w = grad_w * ~outward
        return grad_x if wanted[0] else torch.empty(0), grad_w if wanted[1] else torch.empty(0)


@pytest.mark.parametrize("call", SAMPLES.values(), ids=list(SAMPLES))
def test_gradient_is_that_of_the_ops_it_joins(call: Call) -> None:
    # A converter's code may differ by a near-tie, never its gradient: both see the same clipped outputs here.
    for got, want in zip(gradients(fused, call), gradients(separately, call), strict=True):
        torch.testing.assert_close(
            got, want, rtol=1e-4, atol=1e-4 * max(1.0, want.abs().max().item()) if want.numel() else 0
        )


@pytest.mark.parametrize("perturbed", [False, True])
def test_a_gradient_nobody_asks_for_is_not_computed(perturbed: bool) -> None:
    call = list(linear(perturbed=perturbed))
    x = call[0] = call[0].requires_grad_()
    fused(tuple(call))[0].sum().backward()
    assert x.grad is not None
    assert call[1].grad is None


def test_without_converter_the_gradient_is_exact() -> None:
    call = linear(3, 4, 7, 3, NO_CONVERTER, gain=True, output_noise=0.04, perturbed=True)
    call = tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, call)
    # The noise of a weight depends on its size; the gradient rule treats it as a constant, so this test omits it.
    a = {**named(call), "noise": (0.0, 0.0, 0.0), "clip": torch.full((4,), 9.0, dtype=torch.float64)}
    x, w = a["x"].requires_grad_(), a["w"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: fused((x, w, *list(a.values())[2:]))[0], (x, w))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    call = linear(perturbed=True, gain=True)
    before = fused(call)
    torch.set_default_dtype(dtype)
    try:
        after = fused(call)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(before, after, strict=True):
        assert same_bits(a, b)


LARGE = {
    "normal": (draw(256, 600, seed=4), draw(256, 600, seed=1)),
    "rectified": (draw(256, 600, seed=4).relu(), draw(256, 600, seed=1)),
    "one large input": (torch.cat((torch.full((256, 1), 40.0), draw(256, 599, seed=4)), 1), draw(256, 600, seed=1)),
}


@pytest.mark.parametrize(("x", "w"), LARGE.values(), ids=LARGE)
def test_read_noise_of_a_large_product_has_the_variance_of_its_sizes(x: Tensor, w: Tensor) -> None:
    """Sizes of 7 bits, rounded up as often as their fractions say: no bias, and little scatter."""
    scale = torch.stack([part.abs().amax(1) for part in w.split(512, dim=1)])
    one, noise = torch.ones(1), (0.0, 0.0, 0.0)
    call = (
        x,
        w,
        scale,
        None,
        None,
        None,
        one,
        0.0,
        0.0,
        1.0,
        one,
        SEED,
        3,
        11,
        512,
        noise,
        0.0,
        0.0,
        0.5,
        NO_CONVERTER,
        1.0,
    )
    results = []
    for count in (1, 2):
        with threads(count):
            results.append(torch.ops.phasegrad.tile_linear(*call)[0])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-3)  # torch's product may round otherwise
    parts = list(zip(x.split(512, 1), w.split(512, 1), strict=True))
    y = sum(a @ b.t() for a, b in parts)
    sds = [0.5 * (s * (a.square() @ b.abs().t())).sqrt() for s, (a, b) in zip(scale, parts, strict=True)]
    z = [torch.ops.phasegrad.normal(SEED, 11 + t, (256, 256)) for t in range(2)]
    wanted = sum(sd * n for sd, n in zip(sds, z, strict=True))
    ratio = ((results[0] - y) * wanted).sum() / wanted.square().sum()
    assert ratio.item() == pytest.approx(1.0, abs=1e-3)
    assert ((results[0] - y - wanted).square().mean() / wanted.square().mean()).sqrt() < 0.03


def large(x: Tensor, w: Tensor, input_range: Tensor) -> Tensor:
    """The product of a large matrix's two tiles, through neither noise nor converter."""
    scale, one = torch.ones(2, len(w)), torch.ones(1)
    noise = (0.0, 0.0, 0.0)
    call = (
        x,
        w,
        scale,
        None,
        None,
        None,
        input_range,
        0.0,
        0.0,
        1.0,
        one,
        SEED,
        3,
        11,
        512,
        noise,
        0.0,
        0.0,
        0.0,
        NO_CONVERTER,
        1.0,
    )
    return torch.ops.phasegrad.tile_linear(*call)[0]


@pytest.mark.parametrize("per_row", [False, True])
def test_a_large_product_of_levels_is_as_exact_as_one_of_floats(per_row: bool) -> None:
    ranges = draw(256, seed=2).abs() + 0.5 if per_row else torch.tensor([1.3])
    x = torch.ops.phasegrad.dac(draw(256, 600, seed=4), ranges, 127.0, 0.0, 1.0)
    w = draw(256, 600, seed=1) * torch.logspace(-12, 12, 256).unsqueeze(1)
    exact = x.double() @ w.double().t()
    size = x.double().square().sum(1, keepdim=True).sqrt() * w.double().square().sum(1).sqrt()
    error = (large(x, w, ranges).double() - exact).abs() / size
    assert error.max() < 1e-6
    wrong = x.clone()
    wrong[3, 5] *= 1.001  # no level any more
    error = (large(wrong, w, ranges).double() - wrong.double() @ w.double().t()).abs() / size
    assert error.max() < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_large_product_hides_no_broken_number(value: float) -> None:
    one = torch.tensor([1.0])
    x = torch.ops.phasegrad.dac(draw(256, 600, seed=4), one, 127.0, 0.0, 1.0)
    w = draw(256, 600, seed=1)
    x[2, 3] = value
    assert not large(x, w, one)[2].isfinite().any()
    assert large(x, w, one)[[0, 1, 3]].isfinite().all()
    x[2, 3], w[4, 5] = 1.0, value
    assert not large(x, w, one)[:, 4].isfinite().any()
    w[4] = 0.0
    assert torch.equal(large(x, w, one)[:, 4], torch.zeros(256))


@pytest.mark.parametrize("learned", [True, False])
def test_converted_inputs_are_not_kept(learned: bool) -> None:
    """The product's graph stores the inputs unconverted, as the layer before does."""
    x, w = torch.randn(300, 40, requires_grad=True), torch.randn(24, 40, requires_grad=True)
    span = torch.full((1,), 3.0, requires_grad=learned)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scale, one, seed = w.detach().abs().amax(1)[None], torch.ones(1), torch.zeros(1, dtype=torch.int64)
        rest = (127.0, 0.0, 1.0, one, seed, 0, 1, 64, [0.0] * 3, 0.0, 0.0, 0.0, 0, 1.0)
        y = direct.call("tile_linear", x, w, scale, None, None, None, span, *rest)[0]
    inputs = [t for t in kept.values() if t.shape == x.shape]
    assert [t.data_ptr() for t in inputs] == [x.data_ptr()]
    (grad_w,) = torch.autograd.grad(y.sum(), w)
    driven = torch.ops.phasegrad.dac(x, span, 127.0, 0.0, 1.0)
    torch.testing.assert_close(grad_w, driven.detach().sum(0).expand_as(w))


@pytest.mark.parametrize("wanted", ["x", "w", "input_range"])
def test_each_gradient_alone_is_that_of_all_together(wanted: str) -> None:
    call = linear(dac=DAC, perturbed=True)
    names = ("x", "w", "input_range", "bound")
    every = dict(zip(names, gradients(fused, call), strict=True))
    a = named(call)
    leaf = a[wanted] = a[wanted].clone().requires_grad_()
    out = fused(tuple(a.values()))[0]
    (out * draw(*out.shape, seed=5)).sum().backward()
    assert torch.equal(leaf.grad, every[wanted])


def test_without_a_dac_the_input_range_has_no_gradient() -> None:
    a = named(linear())
    span = a["input_range"] = a["input_range"].clone().requires_grad_()
    assert not fused(tuple(a.values()))[0].requires_grad
    a["w"].requires_grad_()
    fused(tuple(a.values()))[0].sum().backward()
    assert span.grad is None


def test_an_input_that_changes_between_two_backward_passes_is_noticed() -> None:
    torch.manual_seed(0)
    layer = pg.convert(nn.Linear(6, 4), pg.presets.pcm_inference())
    h = torch.randn(5, 6, requires_grad=True) * 1.0
    y = layer(h).sum()
    torch.autograd.grad(y, [layer.weight], retain_graph=True)
    with torch.no_grad():
        h.mul_(100.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, [layer.weight])

"""Physical converters in layers: how their errors are shared and saved, and gradients through them."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import (
    AbsMaxRange,
    Adc,
    BitSerialDac,
    CalibratedRange,
    CyclicAdc,
    Dac,
    FixedRange,
    FullScaleRange,
    LearnedRange,
    OscillatorAdc,
    PipelineAdc,
    RampAdc,
    SarAdc,
)

IDEAL = pg.presets.ideal_inference()
BOUND = 5.0
WIDE = FixedRange(value=40.0)
ADCS = {
    "ideal": Adc(bits=12, range=WIDE, gain_mismatch=0.02, offset_mismatch=2.0),
    "ramp": RampAdc(bits=12, range=WIDE, curvature=2.0, gain_mismatch=0.02),
    "sar": SarAdc(bits=12, range=WIDE, capacitor_mismatch=0.01, comparator_noise=0.2),
    "pipeline": PipelineAdc(bits=12, range=WIDE, residue_gain_mismatch=0.002, threshold_mismatch=0.02),
    "cyclic": CyclicAdc(bits=12, range=WIDE, residue_gain_mismatch=0.002),
    "oscillator": OscillatorAdc(bits=12, range=WIDE, gain_mismatch=0.02, nonlinearity=0.01),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor, **options: Any) -> pg.nn.AnalogLinear:
    layer = pg.nn.AnalogLinear(weight.shape[1], weight.shape[0], bias=False, hardware=replace(IDEAL, **options))
    layer.weight.data.copy_(weight)
    return layer.eval()


def gains(layer: nn.Module) -> Tensor:
    """The gain of the converter of each column, measured at the outputs."""
    return (layer(torch.eye(1, layer.in_features)) / layer.weight[:, 0]).detach()[0]


@pytest.mark.parametrize("adc", ADCS.values(), ids=ADCS)
def test_outputs_equal_the_product_within_the_converter_errors(adc: Any) -> None:
    for layer, x in (
        (linear(random(6, 50), rows=20, adc=adc), random(30, 50, seed=1)),
        (pg.nn.AnalogConv2d(4, 6, 3, bias=False, hardware=replace(IDEAL, rows=20, adc=adc)), random(2, 4, 7, 7)),
    ):
        exact = pg.to_digital(layer)(x)
        error = (layer(x) - exact).abs() / exact.abs().max()
        assert 1e-5 < error.max() < 0.2
    assert linear(random(6, 50), adc=adc)(torch.full((1, 50), torch.nan)).isnan().all()


def test_gain_and_offset_of_converters_have_their_mean_and_sd() -> None:
    n = 4000
    adc = Adc(bits=16, range=FullScaleRange(), gain_error=0.05, gain_mismatch=0.02, offset=300.0, offset_mismatch=100.0)
    layer = linear(torch.ones(n, 2), adc=adc)
    low, high = layer(torch.tensor([[1.0, -1.0], [1.0, 0.0]])).detach()  # the full scale is 2
    steps = adc.max_code / 2.0
    assert (low * steps).mean().item() == pytest.approx(300.0, abs=BOUND * 100 / n**0.5)
    assert (low * steps).std().item() == pytest.approx(100.0, rel=BOUND / (2 * n) ** 0.5)
    assert (high - low).mean().item() == pytest.approx(1.05, abs=BOUND * 0.02 / n**0.5)
    assert (high - low).std().item() == pytest.approx(0.02, rel=BOUND / (2 * n) ** 0.5)
    both = torch.corrcoef(torch.stack((low, high - low)))[0, 1].item()
    assert abs(both) < BOUND / n**0.5


def test_converters_of_columns_and_row_tiles_are_independent() -> None:
    n = 4000
    layer = linear(torch.ones(n, 2), rows=1, adc=Adc(bits=16, range=FullScaleRange(), gain_mismatch=0.02))
    first, second = layer(torch.eye(2)).detach() - 1.0
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1].item()) < BOUND / n**0.5
    assert abs(torch.corrcoef(torch.stack((first[:-1], first[1:])))[0, 1].item()) < BOUND / n**0.5


def test_columns_that_share_a_converter_share_its_errors_within_their_tile() -> None:
    adc = Adc(bits=16, range=FullScaleRange(), gain_mismatch=0.02, columns_per_converter=3)
    g = gains(linear(torch.ones(14, 4), columns=7, adc=adc))
    wanted = [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5]  # the seventh column of a tile has its own converter
    same = torch.isclose(g.unsqueeze(0), g.unsqueeze(1), rtol=0.0, atol=1e-4)
    assert torch.equal(same, torch.tensor(wanted).unsqueeze(0) == torch.tensor(wanted).unsqueeze(1))


MISMATCHED = Adc(bits=16, range=FullScaleRange(), gain_mismatch=0.02)


def test_manual_seed_determines_the_converters_of_a_layer_and_program_seed_those_of_a_chip() -> None:
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(linear(torch.ones(5, 4), adc=MISMATCHED))
    one, same, other = map(gains, nets)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    chips = [gains(pg.inference.program(nets[0], seed=seed)) for seed in (7, 7, 8)]
    assert torch.equal(chips[0], chips[1])
    assert not torch.equal(chips[0], chips[2])
    assert not torch.equal(chips[0], one)
    assert torch.equal(gains(nets[0]), one)  # programming a copy did not change those of the net


def test_no_seed_is_drawn_for_converters_without_mismatch() -> None:
    before = torch.get_rng_state()
    pg.nn.AnalogLinear.from_digital(nn.Linear(2, 2, device="meta"), replace(IDEAL, adc=RampAdc(curvature=1.0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_copying_and_half_keep_the_converters() -> None:
    hardware = replace(IDEAL, adc=MISMATCHED, dac=Dac(gain_mismatch=0.1, range=FixedRange(value=1.0)))
    layer = pg.nn.AnalogLinear(4, 5, hardware=hardware)
    assert {"converters.outputs", "converters.inputs"} < set(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = pg.nn.AnalogLinear(4, 5, hardware=hardware)
    other.load_state_dict(torch.load(file, weights_only=True))
    half = copy.deepcopy(layer).half()
    for copied in (other, copy.deepcopy(layer), half):
        for name in ("outputs", "inputs"):
            mine, theirs = (getattr(net.converters, name) for net in (layer, copied))
            assert theirs.dtype == torch.float32
            assert torch.equal(mine, theirs)
    assert half(torch.ones(2, 4).half()).dtype == torch.float16


def test_a_float_checkpoint_does_not_change_the_converters() -> None:
    layer = pg.nn.AnalogLinear(4, 5, hardware=replace(IDEAL, adc=MISMATCHED))
    before = layer.converters.outputs.clone()
    layer.load_state_dict(nn.Linear(4, 5).state_dict())
    assert torch.equal(layer.converters.outputs, before)


def test_tied_layers_have_the_same_converters_before_and_after_programming() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    net = pg.convert(model, replace(IDEAL, adc=MISMATCHED))
    chip = pg.inference.program(net, seed=0)
    for tied in (net, chip):
        assert tied[0].converters is tied[1].converters


def test_drift_compensation_reads_through_the_same_converters() -> None:
    adc = Adc(bits=16, range=FullScaleRange(), gain_mismatch=0.2, offset_mismatch=50.0)
    net = linear(random(6, 50), rows=20, adc=adc)
    chip = pg.inference.compensate(pg.inference.program(net, seed=0), seed=1)
    torch.testing.assert_close(chip.devices.gain, torch.ones(3, 6), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("adc", ADCS.values(), ids=ADCS)
def test_gradients_pass_through_unchanged(adc: Any) -> None:
    w, x = random(6, 50), random(30, 50, seed=1).requires_grad_()
    layer, grad = linear(w, rows=20, adc=adc), random(30, 6, seed=2)
    layer(x).backward(grad)
    torch.testing.assert_close(x.grad, grad @ w)
    torch.testing.assert_close(layer.weight.grad, grad.t() @ x.detach())


@pytest.mark.parametrize("kind", [Adc, RampAdc, SarAdc, PipelineAdc, CyclicAdc, OscillatorAdc])
def test_the_gradient_of_a_clipped_output_goes_to_the_range(kind: Any) -> None:
    adc = kind(bits=8, range=LearnedRange(start=0.5), gain_error=1e-6)
    layer = linear(torch.tensor([[0.0, 2.0]]), adc=adc)
    x = torch.tensor([[1.0, 1.0], [1.0, 0.2], [1.0, -0.9], [4.0, 0.0], [4.0, 4.0]], requires_grad=True)
    layer(x).backward(torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]]))
    assert layer.output_range.grad.item() == pytest.approx(1.0 * 2 - 4.0 * 2 + 16.0 * 8)
    assert torch.equal(x.grad[:, 1], torch.tensor([0.0, 4.0, 0.0, 16.0, 0.0]))


@pytest.mark.parametrize("adc", [RampAdc(bits=16, range=WIDE), SarAdc(bits=16, range=WIDE, gain_error=1e-4)])
def test_gradients_equal_finite_differences_over_many_steps(adc: Any) -> None:
    w, x = random(3, 5), random(4, 5, seed=1)
    layer, grad, towards = linear(w, adc=adc), random(4, 3, seed=2), random(4, 5, seed=3)
    moved = x.clone().requires_grad_()
    layer(moved).backward(grad)
    with torch.no_grad():
        # The input range follows the largest input, so it is fixed for the finite differences.
        layer.register_buffer("input_range", torch.tensor([4.0]))
        change = ((layer(x + 0.1 * towards) - layer(x - 0.1 * towards)) * grad).sum() / 0.2
    steps = (2 * grad.abs().sum() * 0.5 * w.abs().max() * 4.0 * 40.0 / adc.max_code / 0.2).item()
    assert change.item() == pytest.approx((moved.grad * towards).sum().item(), abs=0.5 * steps)
    assert steps < 0.5 * abs(change.item())


def test_physical_converters_vectorise() -> None:
    layer = linear(random(6, 50), rows=20, adc=ADCS["pipeline"])
    x = random(30, 50, seed=1)
    wanted = layer(x)
    rows = torch.vmap(lambda one: layer(one.unsqueeze(0))[0], randomness="different")(x)
    torch.testing.assert_close(rows, wanted, rtol=0.0, atol=0.1)


def test_a_dac_has_gain_offset_and_odd_distortion() -> None:
    dac = Dac(bits=8, range=FixedRange(value=2.0), gain_error=0.05, offset=1.5, nonlinearity=3.0)
    levels = torch.tensor([-127.0, -60.0, 0.0, 33.0, 127.0])
    out = linear(torch.ones(1, 1), dac=dac)(levels.unsqueeze(1) * 2.0 / 127)[:, 0] * 127 / 2.0
    z = levels / 127
    torch.testing.assert_close(out.detach(), levels * 1.05 + 1.5 + 3.0 * 1.5 * 3**0.5 * z * (1 - z**2))


def test_each_word_line_has_its_own_converter() -> None:
    n = 4000
    dac = Dac(bits=8, range=FixedRange(value=1.0), gain_mismatch=0.03)
    layer = linear(torch.ones(1, n), dac=dac)
    per_line = layer(torch.eye(n))[:, 0].detach() - 1.0
    assert per_line.std().item() == pytest.approx(0.03, rel=BOUND / (2 * n) ** 0.5)
    assert abs(torch.corrcoef(torch.stack((per_line[:-1], per_line[1:])))[0, 1].item()) < BOUND / n**0.5


def test_kernel_positions_of_a_channel_share_a_dac() -> None:
    dac = Dac(bits=8, range=FixedRange(value=1.0), gain_mismatch=0.1)
    layer = pg.nn.AnalogConv1d(3, 1, 2, bias=False, hardware=replace(IDEAL, dac=dac))
    g = 1.0 + layer.converters.inputs[0]
    x = torch.ones(1, 3, 4)
    wanted = F.conv1d(x * g.view(1, 3, 1), layer.weight)
    torch.testing.assert_close(layer(x), wanted)


def test_gradients_ignore_the_errors_of_a_dac() -> None:
    dac = Dac(bits=8, range=LearnedRange(start=1.0), gain_mismatch=0.1, offset_mismatch=3.0)
    w, x = random(3, 5), random(4, 5, seed=1).requires_grad_()
    layer, grad = linear(w, dac=dac), random(4, 3, seed=2)
    layer(x).backward(grad)
    inside = x.detach().abs() <= 1.0
    torch.testing.assert_close(x.grad, torch.where(inside, grad @ w, 0.0))


@pytest.mark.parametrize("accumulation", ["digital", "analog"])
def test_bit_serial_input_equals_parallel_input(accumulation: str) -> None:
    serial = BitSerialDac(bits=6, range=FixedRange(value=2.0), accumulation=accumulation)
    x = random(30, 50, seed=1)
    x[0, 0] = torch.inf
    parallel = linear(random(6, 50), dac=Dac(bits=6, range=FixedRange(value=2.0)))(x)
    torch.testing.assert_close(linear(random(6, 50), dac=serial)(x), parallel, rtol=1e-5, atol=1e-5)


def test_digital_accumulation_converts_each_bit() -> None:
    w, x = random(6, 10), random(50, 10, seed=1)
    serial = BitSerialDac(bits=4, range=FixedRange(value=2.0))
    layer = linear(w, rows=4, dac=serial, adc=Adc(bits=5, range=FixedRange(value=3.0)))
    level = (x * 7 / 2).round().clamp(-7, 7).double()
    full = 3.0 * 2.0 * torch.stack([p.abs().amax(1) for p in w.split(4, 1)]).double()
    wanted = torch.zeros(50, 6, dtype=torch.float64)
    for bit in range(3):
        driven = level.sign() * (level.abs().int() >> bit & 1) * 2.0
        for t, (a, b) in enumerate(zip(driven.split(4, 1), w.double().split(4, 1), strict=True)):
            y = (a @ b.t()) / full[t] * 15
            wanted += y.clamp(-15, 15).round() * full[t] / 15 * 2.0**bit / 7
    torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-5)


def test_analog_accumulation_converts_once_per_input() -> None:
    w, x = random(6, 10), random(50, 10, seed=1)
    adc = Adc(bits=5, range=FixedRange(value=3.0))
    serial = BitSerialDac(bits=4, range=FixedRange(value=2.0), accumulation="analog")
    parallel = linear(w, dac=Dac(bits=4, range=FixedRange(value=2.0)), adc=adc)
    torch.testing.assert_close(linear(w, dac=serial, adc=adc)(x), parallel(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("accumulation", ["digital", "analog"])
def test_noise_is_drawn_once_per_bit_and_weighted_as_the_bit(accumulation: str) -> None:
    n = 40_000
    serial = BitSerialDac(bits=4, range=FixedRange(value=2.0), accumulation=accumulation)
    layer = linear(torch.tensor([[1.0, 0.25]]), dac=serial, output_noise=0.4, read_noise=0.3)
    level = torch.tensor([5.0, -3.0])
    noise = (layer((level * 2 / 7).expand(n, 2)) - (level * 2 / 7) @ layer.weight[0]).detach()
    variance = 0.0
    for bit in range(3):
        on = (level.abs().int() >> bit & 1).float()
        variance += (2.0**bit / 7 * 2.0) ** 2 * (0.4**2 + 0.3**2 * float(on @ torch.tensor([1.0, 0.25])))
    assert noise.mean().abs().item() < BOUND * variance**0.5 / n**0.5
    assert noise.var().item() == pytest.approx(variance, rel=BOUND * (2 / n) ** 0.5)


def test_bit_serial_gradients_equal_those_of_the_input_without_clipping() -> None:
    serial = BitSerialDac(bits=6, range=FixedRange(value=2.0))
    w, x = random(6, 10), random(50, 10, seed=1).requires_grad_()
    layer, grad = linear(w, dac=serial, adc=Adc(bits=8, range=FullScaleRange())), random(50, 6, seed=2)
    layer(x).backward(grad)
    torch.testing.assert_close(x.grad, torch.where(x.detach().abs() <= 2.0, grad @ w, 0.0))
    driven = (x.detach() * 31 / 2).round().clamp(-31, 31) * 2 / 31
    torch.testing.assert_close(layer.weight.grad, grad.t() @ driven)


@pytest.mark.parametrize("dac", [Dac(range=AbsMaxRange()), BitSerialDac(range=AbsMaxRange())])
def test_calibration_uses_a_percentile_of_the_converter_inputs(dac: Any) -> None:
    adc = SarAdc(bits=8, range=CalibratedRange(percentile=100.0), capacitor_mismatch=0.01)
    layer, x = linear(random(6, 50), rows=20, dac=dac, adc=adc), random(30, 50, seed=1)
    pg.hwa.calibrate(layer, [x], recipe=None)
    level = (x / x.abs().amax(1, keepdim=True) * 127).round()
    each = [level / 127]
    if isinstance(dac, BitSerialDac):
        each = [level.sign() * (level.abs().int() >> bit & 1) for bit in range(7)]
    parts = zip(*[e.split(20, 1) for e in each], strict=True)
    largest = max(
        float((a @ b.t() / b.abs().amax(1)).abs().max())
        for tile, b in zip(parts, layer.weight.detach().split(20, 1), strict=True)
        for a in tile
    )
    assert layer.output_range.item() == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adc": RampAdc()}, "adc = RampAdc with pulses"),
        ({"adc": Adc(gain_mismatch=0.1)}, "adc = Adc with pulses"),
        ({"dac": BitSerialDac()}, "dac = BitSerialDac with errors, or bit by bit"),
        ({"dac": Dac(offset=1.0)}, "dac = Dac with errors"),
    ],
)
def test_in_memory_training_with_converter_errors_raises(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(pg.presets.soft_bounds_training(), **options)


def test_a_converter_shared_by_more_columns_than_a_tile_has_raises() -> None:
    with pytest.raises(ValueError, match="columns = 8 of a tile, but SarAdc: columns_per_converter = 16"):
        replace(IDEAL, columns=8, adc=SarAdc(columns_per_converter=16))

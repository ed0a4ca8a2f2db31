"""Layers on tiles with wire resistance."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import DifferentialSlices, OffsetSlices
from phasegrad.crossbar import AbsMaxRange, Dac, DurationCodedDrop, Hardware, Pulses, Wires
from phasegrad.crossbar.wires import over_tiles

WIRES = Wires(word_line=40.0, bit_line=60.0, driver=100.0, sense=50.0)
IDEAL = pg.presets.ideal_inference(rows=7, columns=5)
WIRED = replace(IDEAL, wires=WIRES)


def effective(weight: Tensor, hardware: Hardware, g_max: float = 25e-6) -> Tensor:
    """The effective weight matrix, computed for each tile and conductance plane."""
    out = torch.empty_like(weight, dtype=torch.float64)
    for o in range(0, len(weight), hardware.columns):
        for i in range(0, weight.shape[1], hardware.rows):
            w = weight[o : o + hardware.columns, i : i + hardware.rows].double()
            scale = w.abs().amax(1, keepdim=True)
            planes = [WIRES.effective((sign * w / scale).clamp(min=0).T * g_max).T for sign in (1, -1)]
            out[o : o + len(w), i : i + w.shape[1]] = (planes[0] - planes[1]) / g_max * scale
    return out


def test_a_linear_layer_multiplies_by_the_effective_matrices_of_its_tiles() -> None:
    net, x = pg.convert(nn.Linear(19, 11, bias=False), WIRED), torch.randn(4, 19)
    want = x.double() @ effective(net.weight.detach(), WIRED).T
    torch.testing.assert_close(net(x).double(), want, rtol=1e-5, atol=1e-6)
    assert float((want - x.double() @ net.weight.detach().double().T).abs().max()) > 1e-3
    chip = pg.inference.program(net, seed=0)
    torch.testing.assert_close(chip(x).double(), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(chip.weight, net.weight, rtol=1e-5, atol=1e-7)  # the programmed weight, without wires


def test_a_convolution_multiplies_by_the_effective_matrices_of_its_tiles() -> None:
    net, x = pg.convert(nn.Conv2d(3, 6, 3, bias=False), WIRED), torch.randn(2, 3, 5, 5)
    kernel = effective(net.weight.detach().flatten(1), WIRED).view(net.weight.shape)
    want = torch.nn.functional.conv2d(x.double(), kernel)
    torch.testing.assert_close(net(x).double(), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pg.inference.program(net, seed=0)(x).double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["exact", "first-order"])
def test_gradients_of_digital_weights_pass_through_the_wires(how: str) -> None:
    """Compare with a finite difference in a random direction that keeps the largest weights, and so the scales."""
    hardware = replace(IDEAL, wires=replace(WIRES, solve=how))
    net, x = pg.convert(nn.Linear(9, 6, bias=False).double(), hardware), torch.randn(5, 9, dtype=torch.float64)
    upstream = torch.randn(5, 6, dtype=torch.float64)
    (net(x) * upstream).sum().backward()
    weight = net.weight.detach().clone()
    step = torch.randn_like(weight)
    for tile in range(0, 9, 7):
        part = weight[:, tile : tile + 7].abs()
        step[:, tile : tile + 7][part == part.amax(1, keepdim=True)] = 0.0
    step = step * 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            net.weight.copy_(weight + sign * step)
            ends.append(float((net(x) * upstream).sum()))
    assert net.weight.grad is not None
    assert float((net.weight.grad * step).sum()) == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-5)


def test_wires_are_solved_again_only_when_the_chip_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = replace(pg.presets.pcm_inference(), rows=7, columns=5, wires=WIRES)
    chip = pg.inference.program(pg.convert(nn.Linear(9, 6), hardware), seed=0)
    solved, effective_of = [], Wires.effective_unchecked

    def counted(wires: Wires, conductance: Tensor) -> Tensor:
        solved.append(1)
        return effective_of(wires, conductance)

    monkeypatch.setattr(Wires, "effective_unchecked", counted)
    chip(torch.randn(3, 9))
    pg.inference.compensate(copy.deepcopy(chip), seed=0)
    assert not solved
    old = pg.inference.age(chip, seconds=1e6)
    assert solved
    assert old.devices is not None
    assert chip.devices is not None
    torch.testing.assert_close(old.devices.solved, old.devices.present(old.devices.clock))
    both = torch.cat(
        [over_tiles(p.double(), 7, 5, lambda g: effective_of(WIRES, g)) for p in old.devices.solved[:, None]]
    )
    found = (old.devices.wire_offset + old.devices.wire_sensitivity * old.devices.solved).double()
    torch.testing.assert_close(found, both, rtol=0.0, atol=1e-6 * float(both.max()))


def test_wires_are_solved_when_devices_are_loaded() -> None:
    net, x = pg.convert(nn.Linear(9, 6), WIRED), torch.randn(3, 9)
    chip = pg.inference.program(net, seed=0)
    state = chip.state_dict()
    assert not any("reached" in name for name in state)
    other = pg.convert(nn.Linear(9, 6), WIRED)
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), chip(x), rtol=0.0, atol=0.0)


@pytest.mark.slow
def test_read_noise_is_attenuated_by_the_wires_in_both_directions() -> None:
    """Behind 10 kohm the sd of reads of one cell is that without wires times ``(1 + G R)^-2``."""
    hardware = replace(pg.presets.pcm_inference(), dac=None, adc=None, output_noise=0.0, read_noise=0.0)
    read_sd, digital = {}, nn.Linear(1, 1, bias=False)
    digital.weight.data.fill_(1.0)
    for wires in (None, Wires(word_line=4e3, bit_line=6e3)):
        chip = pg.inference.program(pg.convert(digital, replace(hardware, wires=wires)), seed=0)
        seeds = [torch.tensor([s]) for s in range(4000)]
        reads = torch.stack([chip.devices.read_weight(s) for s in seeds])
        read_sd[wires is not None] = float(reads.std())
        conductance = chip.devices.present(chip.devices.clock)[0].item()
    attenuation = 1.0 / (1.0 + conductance * 1e4) ** 2
    assert attenuation < 0.8
    n = 4000  # the ratio of two sds has a relative sd of 1 / sqrt(n), or less with the same draws
    assert read_sd[True] / read_sd[False] == pytest.approx(attenuation, rel=4 / n**0.5)


def test_in_memory_training_with_wires_raises_and_names_the_fix() -> None:
    training = pg.presets.soft_bounds_training()
    for wires in (WIRES, DurationCodedDrop()):
        with pytest.raises(ValueError, match=r"Hardware: wires = .* with pulses.*wires=None.*to_digital"):
            replace(training, wires=wires)
    with pytest.raises(ValueError, match="Hardware: wires"):
        replace(WIRED, pulses=Pulses(), scale=1.0)
    with pytest.raises(TypeError, match=r"Hardware: wires = 1\.0"):
        replace(IDEAL, wires=1.0)


def dropped(x: Tensor, w: Tensor, rows: int, segment: float, g_max: float = 25e-6) -> Tensor:
    """The formula for duration-coded inputs, evaluated for each tile and output."""
    y = torch.zeros(len(x), len(w), dtype=torch.float64)
    for b, vector in enumerate(x.double()):
        for o, row in enumerate(w.double()):
            for i in range(0, len(row), rows):
                part, driven = row[i : i + rows], vector[i : i + rows]
                n, j = len(part), torch.arange(len(part), dtype=torch.float64)
                a = n * segment * g_max * float((part * driven).abs().sum() / part.abs().max() / vector.abs().max())
                c = a * (0.05 * a * a - 0.2 * a + 0.5)
                y[b, o] += (part * driven * (1 - c * (1 - (1 - j / n) ** 2))).sum()
    return y


def test_layers_follow_the_duration_coded_formula() -> None:
    hardware = replace(IDEAL, dac=Dac(bits=16, range=AbsMaxRange()), wires=DurationCodedDrop(segment=500.0))
    net, x = pg.convert(nn.Linear(19, 11, bias=False), hardware), torch.randn(4, 19)
    want = dropped(x, net.weight.detach(), 7, 500.0)
    assert float((want - x.double() @ net.weight.detach().double().T).abs().max()) > 1e-2
    torch.testing.assert_close(net(x).double(), want, rtol=0.0, atol=2e-4)  # the resolution of 16 bits
    torch.testing.assert_close(pg.inference.program(net, seed=0)(x).double(), want, rtol=0.0, atol=2e-4)
    net = pg.convert(nn.Conv2d(19, 11, 1, bias=False), hardware)
    images = torch.randn(4, 19, 1, 1)
    want = dropped(images.flatten(1), net.weight.detach().flatten(1), 7, 500.0)
    torch.testing.assert_close(net(images).flatten(1).double(), want, rtol=0.0, atol=2e-4)


def test_wires_support_half_precision_and_training_noise() -> None:
    hardware = replace(pg.presets.pcm_inference(), rows=7, columns=5, wires=WIRES)
    net = pg.convert(nn.Linear(9, 6), hardware)
    pg.hwa.calibrate(net, [torch.randn(8, 9)], recipe=pg.hwa.Recipe(noise=pg.hwa.PCMNoise()))
    net(torch.randn(3, 9)).sum().backward()
    assert bool(net.weight.grad.isfinite().all())
    half = pg.convert(nn.Linear(9, 6), WIRED).half()
    x = torch.randn(3, 9)
    exact = half(x.half()).double()
    single = copy.deepcopy(half).float()(x).double()
    torch.testing.assert_close(exact, single, rtol=0.0, atol=3e-3)


def test_the_baseline_of_drift_compensation_is_read_through_the_wires() -> None:
    """With ideal devices and converters, the baseline of a column is the sum of its absolute effective weights."""
    net = pg.convert(nn.Linear(19, 11, bias=False), WIRED)
    chip = pg.inference.program(net, seed=0)
    sizes = effective(net.weight.detach(), WIRED).abs()
    want = torch.stack([part.sum(1) for part in sizes.split(7, dim=1)])
    torch.testing.assert_close(chip.devices.baseline.double(), want, rtol=1e-5, atol=0.0)
    gain = pg.inference.compensate(pg.inference.age(chip, seconds=1e5), seed=0).devices.gain
    torch.testing.assert_close(gain, torch.ones_like(gain), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("how", ["exact", "first-order"])
def test_a_nan_weight_makes_its_output_nan_through_wires(how: str) -> None:
    net = pg.convert(nn.Linear(9, 6, bias=False), replace(IDEAL, wires=replace(WIRES, solve=how)))
    with torch.no_grad():
        net.weight[2, 3] = torch.nan
    assert bool(net(torch.ones(2, 9))[:, 2].isnan().all())


@pytest.mark.parametrize("programmed", [False, True])
def test_the_wires_of_each_slice_are_solved_separately(programmed: bool) -> None:
    cell = DifferentialSlices(device=pg.devices.ideal_device(g_max=25e-6), bits=6, slices=3)
    wires = Wires(word_line=20.0, bit_line=10.0)
    hardware = replace(pg.presets.ideal_inference(rows=20, columns=64), cell=cell, wires=wires)
    net = pg.convert(nn.Sequential(nn.Linear(40, 7, bias=False)), hardware).eval()
    weight = net[0].weight.detach().clone()
    layer = pg.inference.program(net, seed=0) if programmed else net
    x = torch.randn(5, 40)
    want = torch.zeros(5, 7)
    for half, inputs in zip(weight.split(20, dim=1), x.split(20, dim=1), strict=True):
        scale = half.abs().amax(1, keepdim=True)
        planes = wires.effective(cell.targets(half / scale).mT.double()).mT
        slices = (planes[0::2] - planes[1::2]).float() / 25e-6
        for factor, part in zip(cell.slice_factors, slices, strict=True):
            want += factor * inputs @ (part * scale).t()
    torch.testing.assert_close(layer(x), want, rtol=1e-4, atol=1e-5)
    plain = pg.convert(nn.Sequential(nn.Linear(40, 7, bias=False)), replace(hardware, wires=None)).eval()
    plain[0].weight.data.copy_(weight)
    assert (plain(x) - want).abs().max() > 1e-3


def test_wires_with_a_reference_column_raise() -> None:
    cell = OffsetSlices(device=pg.devices.ideal_device(), bits=6, slices=3)
    with pytest.raises(ValueError, match="cell = OffsetSlices"):
        replace(pg.presets.ideal_inference(), cell=cell, wires=Wires(word_line=1.0, bit_line=1.0))

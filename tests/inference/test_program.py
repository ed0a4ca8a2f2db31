"""Programming, ageing and compensation follow the laws of the devices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import Adc, FixedRange
from phasegrad.devices import PCM, Curve, Power
from phasegrad.inference import age, compensate, now, program

IDEAL = pg.presets.ideal_inference()
STANDARD = pg.presets.pcm_inference()
G_MAX, T0, T_READ = 25e-6, 20.0, 250e-9
YEAR = 3.15e7


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread, because threads this short mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def hardware(device: PCM, **options: Any) -> pg.Hardware:
    """Pairs of ``device`` in tiles of 5 by 3, ideal except for ``options``."""
    return replace(IDEAL, cell=pg.cells.DifferentialPair(device=device), **{"rows": 5, "columns": 3, **options})


def device(**options: Any) -> PCM:
    """A device that is ideal except for ``options``."""
    return replace(pg.devices.ideal_device(), **options)


# Programming errors and drift, but noiseless reads: results have a closed form.
QUIET = hardware(replace(pg.devices.joshi_2020(), read_noise=None))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def net(chosen: pg.Hardware = STANDARD) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return pg.convert(model, chosen)


def state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [k for k, v in expected.items() if not torch.equal(found[k], v)] == []


def output(chip: nn.Module, seed: int = 0) -> Tensor:
    x = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(seed)
    with torch.no_grad():
        return chip(x)


def drifted(conductance: Tensor, nu: Tensor, seconds: float) -> np.ndarray:
    """The law of drift, in double precision."""
    return conductance.double().numpy() * ((seconds + T0) / T0) ** -nu.double().numpy()


def full_scale(layer: pg.nn.AnalogLayer) -> np.ndarray:
    """The weight of a fully programmed cell, for each weight."""
    scale = layer.devices.scale.double().numpy().repeat(layer.hardware.rows, 0)[: layer.in_features].T
    return np.where(scale > 0, scale, 1.0)


def test_a_chip_is_a_function_of_net_and_seed() -> None:
    module = net()
    assert_same(state(program(module, seed=3)), state(program(module, seed=3)))
    drawn = []
    for _ in range(2):
        torch.manual_seed(9)
        drawn.append(state(program(module)))
    assert_same(drawn[0], drawn[1])


def test_programming_does_not_modify_the_net_and_freezes_the_chip() -> None:
    module = net().train()
    before = state(module)
    chip = program(module, seed=0)
    assert_same(state(module), before)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert not any(m.training for m in chip.modules())
    assert [n for n, p in chip.named_parameters() if n.endswith("weight") and p.requires_grad] == []
    assert now(chip) == 0.0


@pytest.mark.parametrize("g", [0.0, 0.2, 0.6, 1.0])
def test_programmed_conductances_follow_the_published_programming_noise(g: float) -> None:
    weight = torch.full((100, 400), 0.3 * g)
    weight[:, 0] = 0.3
    layer = pg.nn.AnalogLinear(400, 100, bias=False, hardware=replace(STANDARD, rows=512))
    layer.weight.data.copy_(weight)
    plus, minus = program(layer, seed=0).devices.conductance[:, :, 1:].flatten(1)
    sd = (0.26348 + 1.9650 * g - 1.1731 * g * g) * 1e-6
    n = plus.numel()
    if g > 0:
        assert plus.mean().item() == pytest.approx(g * G_MAX, abs=5 * sd / n**0.5)
        assert plus.std().item() == pytest.approx(sd, rel=5 / (2 * n) ** 0.5)
    assert (minus == 0).float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / n**0.5)  # half the draws are negative
    assert minus.square().mean().sqrt().item() == pytest.approx(0.26348e-6 / 2**0.5, rel=5 * (1.25 / n) ** 0.5)


@pytest.mark.parametrize("g", [0.1, 0.6])
def test_drift_exponents_follow_their_published_distribution(g: float) -> None:
    weight = torch.full((100, 400), 0.3 * g)
    weight[:, 0] = 0.3
    layer = pg.nn.AnalogLinear(400, 100, bias=False, hardware=replace(STANDARD, rows=512))
    layer.weight.data.copy_(weight)
    nu = program(layer, seed=0).devices.nu[0, :, 1:]
    mean, sd = (np.clip(a * np.log(g) + b, *c) for a, b, c in [
        (-0.0155, 0.0244, (0.049, 0.1)), (-0.0125, -0.0059, (0.008, 0.045)),
    ])  # fmt: skip
    assert nu.mean().item() == pytest.approx(mean, abs=5 * sd / nu.numel() ** 0.5 + 1e-3 * mean)
    assert nu.std().item() == pytest.approx(sd, rel=5 / (2 * nu.numel()) ** 0.5 + (0.02 if g == 0.1 else 0.0))


def test_weights_are_mapped_to_both_devices_by_sign_and_scale() -> None:
    chip = program(pg.convert(nn.Linear(12, 4), hardware(device())), seed=0)
    layer = pg.convert(nn.Linear(12, 4), hardware(device()))
    layer.load_state_dict({k: v for k, v in chip.state_dict().items() if k in ("weight", "bias")})
    relative = layer.weight.detach().double().numpy() / full_scale(chip) * G_MAX
    np.testing.assert_allclose(chip.devices.conductance[0], np.maximum(relative, 0), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(chip.devices.conductance[1], np.maximum(-relative, 0), rtol=1e-5, atol=1e-12)


def test_ideal_devices_store_the_clipped_weights() -> None:
    module = net(hardware(device()))
    pg.hwa.Recipe(clip_sigma=1.0).apply(module)
    chip = program(module, seed=0)
    for mine, theirs in zip(pg.nn.analog_layers(chip).values(), pg.nn.analog_layers(module).values(), strict=True):
        torch.testing.assert_close(mine.weight.flatten(1), theirs.store.mean_matrix().weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(output(chip), output(module.eval()), rtol=1e-5, atol=1e-5)


def test_a_column_of_zeros_stays_exactly_zero_on_devices() -> None:
    module = pg.convert(nn.Linear(12, 4), STANDARD)
    with torch.no_grad():
        module.weight[2] = 0.0
    chip = program(module, seed=0)
    with torch.no_grad():
        y = chip(torch.randn(5, 12))
    assert torch.equal(chip.weight[2], torch.zeros(12))
    assert torch.equal(y[:, 2], chip.bias[2].expand(5))


def test_tied_layers_share_devices() -> None:
    chip = program(pg.convert(Tied(), STANDARD), seed=0)
    assert chip.a.devices is chip.b.devices
    assert chip.a.weight is chip.b.weight
    old = compensate(age(chip, seconds=YEAR), seed=0)
    assert old.a.devices is old.b.devices
    assert old.a.devices is not chip.a.devices
    assert torch.equal(old.b.weight, old.a.devices.logical_weight())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_and_nothing_changes(value: float) -> None:
    module = net()
    with torch.no_grad():
        module[2].weight[1, :3] = value
    before = state(module)
    with pytest.raises(ValueError, match=r"program: 2 has 3 non-finite weight\(s\) out of 128"):
        program(module, seed=0)
    after = state(module)
    assert all(torch.equal(after[k].nan_to_num(), v.nan_to_num()) for k, v in before.items())
    assert module[0].devices is None


def test_a_chip_is_not_programmed_twice() -> None:
    with pytest.raises(ValueError, match="0 is already programmed"):
        program(program(net(), seed=0), seed=0)


@pytest.mark.parametrize("act", [program, lambda m: age(m, seconds=1.0), compensate])
def test_digital_models_are_refused(act: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"no analog layer.*pg\.convert"):
        act(nn.Linear(3, 2))


@pytest.mark.parametrize("act", [lambda m: age(m, seconds=1.0), compensate])
def test_nets_that_were_never_programmed_are_refused(act: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(ValueError, match="0 was never programmed"):
        act(net())


@pytest.mark.parametrize("seconds", [0.0, 1.0, 86_400.0, YEAR])
def test_every_device_drifts_by_its_own_exponent_from_its_programmed_state(seconds: float) -> None:
    chip = program(net(QUIET), seed=0)
    old = age(chip, seconds=seconds)
    for mine, theirs in zip(pg.nn.analog_layers(old).values(), pg.nn.analog_layers(chip).values(), strict=True):
        # The conductance is that at programming.
        assert torch.equal(mine.devices.conductance, theirs.devices.conductance)
        assert torch.equal(mine.devices.nu, theirs.devices.nu)
        g = drifted(mine.devices.conductance, mine.devices.nu, seconds)
        expected = (g[0] - g[1]) / G_MAX * full_scale(mine)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(mine.weight.flatten(1).detach(), expected, rtol=3e-5, atol=1e-6 * scale)


def test_a_pair_is_not_rebuilt_from_its_difference() -> None:
    chip = program(net(QUIET), seed=0)
    old = age(chip, seconds=YEAR)[2]
    g, nu = old.devices.conductance, old.devices.nu
    assert (g.amin(0) > 0).any()  # partners at RESET conduct slightly and drift independently
    factor = (YEAR + T0) / T0
    rebuilt = (
        (g[0] - g[1]) * factor ** -torch.where(g[0] > g[1], nu[0], nu[1]) / G_MAX * torch.from_numpy(full_scale(old))
    )
    difference = (old.weight - rebuilt).abs() / torch.from_numpy(full_scale(old))
    assert difference[g.amin(0) > 0.1e-6].mean() > 1e-3


def test_the_output_is_computed_from_the_drifted_weights() -> None:
    old = age(program(net(replace(QUIET, rows=512)), seed=0), seconds=YEAR)
    torch.testing.assert_close(output(old), output(pg.to_digital(old)), rtol=1e-4, atol=1e-5)


def test_ageing_twice_is_ageing_once_to_the_bit() -> None:
    chip = program(net(), seed=0)
    once, twice = age(chip, seconds=86_400.0), age(age(chip, seconds=3600.0), seconds=82_800.0)
    until = age(age(chip, until=10.0), until=86_400.0)
    for other in (twice, until):
        assert_same(state(other), state(once))
        assert torch.equal(output(other), output(once))
    assert now(once) == 86_400.0


def test_ageing_does_not_modify_the_chip() -> None:
    chip = program(net(), seed=0)
    before = state(chip)
    age(chip, seconds=YEAR)
    compensate(chip, seed=0)
    assert_same(state(chip), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": -1.0}, r"seconds = -1\.0 s"),
        ({"seconds": float("nan")}, "seconds = nan s"),
        ({"seconds": float("inf")}, "seconds = inf s"),
        ({"until": -5.0}, r"until = -5\.0 s"),
        ({"until": float("nan")}, "until = nan s"),
        ({"until": 99.0}, "until = 99 s is before the chip's present time of 100 s"),
        ({}, "seconds = None and until = None"),
        ({"seconds": 1.0, "until": 200.0}, r"seconds = 1\.0 and until = 200\.0"),
    ],
)
def test_impossible_times_are_refused_and_nothing_changes(arguments: dict[str, float], message: str) -> None:
    chip = age(program(net(), seed=0), seconds=100.0)
    before = state(chip)
    with pytest.raises(ValueError, match=message):
        age(chip, **arguments)
    assert_same(state(chip), before)


@pytest.mark.parametrize("per", ["tile", "column", "layer"])
def test_one_exponent_for_all_is_compensated_to_rounding(per: str) -> None:
    one = hardware(device(nu_mean=Curve(polynomial=(0.06,))))
    chip = program(net(one), seed=0)
    old = age(chip, seconds=YEAR)
    factor = ((YEAR + T0) / T0) ** -0.06
    np.testing.assert_allclose(old[2].weight.detach(), chip[2].weight.detach() * factor, rtol=1e-5)
    new = compensate(old, compensation=per, seed=0)
    np.testing.assert_allclose(new[2].devices.gain, 1 / factor, rtol=1e-5)
    torch.testing.assert_close(new[2].weight, chip[2].weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(output(new), output(chip), rtol=1e-5, atol=1e-6)


def sums_of_magnitudes(layer: pg.nn.AnalogLayer, seconds: float) -> np.ndarray:
    """Sums of output magnitudes ``[row tiles, out]`` of each column with its rows driven one at a time."""
    g = drifted(layer.devices.conductance, layer.devices.nu, seconds)
    magnitudes = np.abs((g[0] - g[1]) / G_MAX * full_scale(layer))
    return np.stack([magnitudes[:, at : at + 5].sum(1) for at in range(0, magnitudes.shape[1], 5)])


@pytest.mark.parametrize("per", ["tile", "column", "layer"])
def test_gain_is_the_baseline_over_the_present_sum(per: str) -> None:
    old = compensate(age(program(net(QUIET), seed=0), seconds=YEAR), compensation=per, seed=0)
    for layer in pg.nn.analog_layers(old).values():
        before, after = sums_of_magnitudes(layer, 0.0), sums_of_magnitudes(layer, YEAR)
        np.testing.assert_allclose(layer.devices.baseline, before, rtol=1e-4)
        if per == "layer":
            before, after = (np.full_like(s, s.sum()) for s in (before, after))
        if per == "tile":
            columns = [slice(a, a + 3) for a in range(0, before.shape[1], 3)]
            for s in (before, after):
                for c in columns:
                    s[:, c] = s[:, c].sum(1, keepdims=True)
        np.testing.assert_allclose(layer.devices.gain, before / after, rtol=1e-4)


def test_gain_scales_the_partial_sum_of_each_tile() -> None:
    old = compensate(age(program(net(QUIET), seed=0), seconds=YEAR), compensation="column", seed=0)[4]
    x = torch.randn(6, 8)
    with torch.no_grad():
        drifted = old.store.mean_matrix().weight
        parts = zip(x.split(5, 1), drifted.split(5, 1), old.devices.gain, strict=True)
        expected = old.bias + sum(a @ w.t() * k for a, w, k in parts)
        torch.testing.assert_close(old(x), expected, rtol=1e-5, atol=1e-5)


def test_gain_is_digital_and_applied_after_the_converter() -> None:
    adc = Adc(bits=4, range=FixedRange(value=1.0))
    one = hardware(device(nu_mean=Curve(polynomial=(0.06,))), rows=512, adc=adc)
    old = compensate(age(program(pg.nn.AnalogLinear(8, 3, bias=False, hardware=one), seed=0), seconds=YEAR), seed=0)
    x = torch.randn(50, 8)
    with torch.no_grad():
        levels = old(x) / (old.devices.gain * old.devices.scale * x.abs().amax(1, keepdim=True) / 7)
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert levels.abs().max() == pytest.approx(7.0)


def test_gain_does_not_change_as_the_chip_ages_further() -> None:
    old = compensate(age(program(net(QUIET), seed=0), seconds=1e4), seed=0)
    older = age(old, seconds=1e6)
    assert torch.equal(older[2].devices.gain, old[2].devices.gain)
    again = compensate(older, seed=0)
    assert (again[2].devices.gain > old[2].devices.gain).all()
    np.testing.assert_allclose(again[2].devices.gain, compensate(age(old, seconds=1e6), seed=5)[2].devices.gain)


def test_columns_of_zeros_keep_a_gain_of_one() -> None:
    module = pg.convert(nn.Linear(8, 4), hardware(device(nu_mean=Curve(polynomial=(0.06,)))))
    with torch.no_grad():
        module.weight[1] = 0.0
    old = compensate(age(program(module, seed=0), seconds=YEAR), compensation="column", seed=0)
    assert torch.equal(old.devices.gain[:, 1], torch.ones(2))
    assert old.weight.isfinite().all()


def noisy_layer() -> pg.nn.AnalogLinear:
    """Exact programming, no drift, reads with 1/f noise: the same devices on every chip."""
    reads = hardware(device(read_noise=Power(factor=0.02, exponent=-0.5, high=0.2)), rows=8)
    layer = pg.nn.AnalogLinear(8, 4000, hardware=reads)
    nn.init.uniform_(layer.weight, 0.5, 1.0)
    return layer


def test_the_baseline_is_a_noisy_read() -> None:
    layer = noisy_layer()
    one, other = (program(layer, seed=seed).devices for seed in (0, 1))
    assert torch.equal(one.conductance, other.conductance)
    g = one.conductance[0] / G_MAX
    sd = g * 0.02 * g**-0.5 * np.sqrt(np.log((T0 + T_READ) / (2 * T_READ)))
    for devices in (one, other):
        z = (devices.baseline[0] / devices.scale[0] - g.sum(1)) / sd.square().sum(1).sqrt()
        assert z.std().item() == pytest.approx(1.0, abs=5 / (2 * len(z)) ** 0.5)
        assert abs(z.mean().item()) < 5 / len(z) ** 0.5
    pair = torch.stack([one.baseline[0] - g.sum(1) * one.scale[0], other.baseline[0] - g.sum(1) * other.scale[0]])
    assert abs(torch.corrcoef(pair)[0, 1].item()) < 5 / pair.shape[1] ** 0.5


def test_compensation_draws_a_new_read() -> None:
    chip = program(noisy_layer(), seed=0)
    one, other = (compensate(chip, compensation="column", seed=seed).devices.gain[0] for seed in (5, 6))
    assert one.std() > 1e-3
    # Both gains share the error of the baseline, and each has that of its own read: a correlation of one half.
    found = torch.corrcoef(torch.stack((one, other)))[0, 1].item()
    assert found == pytest.approx(0.5, abs=5 / len(one) ** 0.5)


def test_compensation_is_a_function_of_its_seed_or_of_torchs_generator() -> None:
    chip = age(program(net(), seed=0), seconds=YEAR)
    assert_same(state(compensate(chip, seed=4)), state(compensate(chip, seed=4)))
    states = []
    for _ in range(2):
        torch.manual_seed(2)
        states.append(state(compensate(chip)))
    assert_same(states[0], states[1])


def test_compensation_is_per_tile_column_or_layer() -> None:
    chip = program(net(), seed=0)
    with pytest.raises(ValueError, match="compensation = 'row'; it must be 'tile', 'column' or 'layer'"):
        compensate(chip, compensation="row")

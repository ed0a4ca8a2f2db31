"""Layers whose inputs are pulse lengths."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import Adc, BitSerialDac, Dac, DurationCodedDrop, FixedRange, Integrator, Wires

IDEAL = pg.presets.ideal_inference(rows=20)
DAC = Dac(bits=8, range=FixedRange(value=2.0))
LAYERS = {
    "linear": (nn.Linear(50, 7), (6, 50)),
    "convolution": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (3, 6, 8, 8)),
}


def made(name: str, **fields: object) -> tuple[nn.Module, Tensor]:
    digital, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return pg.convert(nn.Sequential(digital), dataclasses.replace(IDEAL, **fields)).eval(), x


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("dac", [None, DAC], ids=["exact", "8 bit"])
@pytest.mark.parametrize("name", list(LAYERS))
def test_capacitors_without_limits_change_nothing(name: str, dac: Dac | None, split: bool) -> None:
    plain, x = made(name, dac=dac)
    full = None if dac else 10.0
    timed, _ = made(name, dac=dac, integrator=Integrator(split=split, full_input=full))
    torch.testing.assert_close(timed(x), plain(x), rtol=1e-5, atol=1e-5)
    roomy, _ = made(name, dac=dac, integrator=Integrator(split=split, saturation=1e3, full_input=full))
    torch.testing.assert_close(roomy(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(LAYERS))
def test_a_leak_and_a_bound_act_on_every_tile_in_its_units(name: str) -> None:
    """One column-scaled tile, worked out from the layer's own weights, tick by tick."""
    integrator = Integrator(window=1.0, tau=0.8, saturation=0.7)
    layer, x = made(name, rows=512, dac=DAC, integrator=integrator)
    weight = layer[0].weight.detach().flatten(1)
    scale = weight.abs().amax(1, keepdim=True)
    length = torch.round(x.clamp(-2.0, 2.0) / 2.0 * 127.0)
    held: Tensor | None = None
    kept = math.exp(-1.0 / (0.8 * 127.0))
    for tick in range(127):
        drive = torch.sign(length) * (length.abs() > tick)
        digital = LAYERS[name][0]
        relative = (weight / scale).view_as(digital.weight)
        current = torch.func.functional_call(digital, {"weight": relative, "bias": torch.zeros(len(weight))}, drive)
        held = (0.0 if held is None else held) * kept + current * 0.8 * (1.0 - kept)
        held = held.clamp(-0.7, 0.7)
    assert held is not None
    shape = (-1, *[1] * (held.dim() - 2))
    want = held * scale.view(shape) * 2.0 + layer[0].bias.view(shape)
    torch.testing.assert_close(layer(x), want.detach() if want.requires_grad else want, rtol=1e-4, atol=1e-4)


def test_a_chip_keeps_time_ages_and_loads(tmp_path: object) -> None:
    hardware = dataclasses.replace(pg.presets.pcm_inference(), integrator=Integrator(tau=1e-6, saturation=10.0))
    net = pg.convert(nn.Sequential(nn.Linear(60, 30), nn.ReLU(), nn.Linear(30, 5)), hardware).eval()
    x = torch.randn(9, 60)
    chip = pg.inference.age(pg.inference.program(net, seed=3), seconds=1e6)
    mended = pg.inference.compensate(chip)
    assert torch.isfinite(mended(x)).all()
    torch.manual_seed(0)
    before = mended(x)
    other = pg.inference.program(pg.convert(nn.Sequential(nn.Linear(60, 30), nn.ReLU(), nn.Linear(30, 5)), hardware))
    other.load_state_dict(mended.state_dict())
    torch.manual_seed(0)
    assert torch.equal(other.eval()(x), before)


def test_the_baseline_of_compensation_is_read_through_capacitors() -> None:
    hardware = dataclasses.replace(IDEAL, rows=512, dac=DAC, integrator=Integrator(window=1.0, tau=0.8, saturation=0.4))
    chip = pg.inference.program(pg.convert(nn.Sequential(nn.Linear(30, 8)), hardware), seed=0)
    weight = chip[0].weight.detach()
    scale = weight.abs().amax(1, keepdim=True)
    alone = (weight / scale * 0.8 * (1.0 - math.exp(-1.0 / 0.8))).clamp(-0.4, 0.4) * scale
    torch.testing.assert_close(chip[0].devices.baseline, alone.abs().sum(1).unsqueeze(0))


def test_training_passes_through_lengths() -> None:
    net, x = made("linear", dac=DAC, integrator=Integrator(tau=1e-7, saturation=2.0), adc=Adc(bits=8))
    x = x.requires_grad_()
    net.train()(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert net[0].weight.grad.abs().sum() > 0


def test_what_is_not_finite_shows() -> None:
    net, x = made("linear", integrator=Integrator(saturation=0.5, full_input=4.0))
    x[1, 3], x[2, 4] = math.nan, math.inf
    y = net(x)
    assert torch.isfinite(y[[0, 3, 4, 5]]).all()
    assert not torch.isfinite(y[[1, 2]]).any()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"wires": DurationCodedDrop()}, "wires"),
        ({"dac": BitSerialDac()}, "dac"),
        ({"pulses": pg.crossbar.Pulses(), "scale": 1.0}, "pulses"),
    ],
)
def test_refuses_what_is_not_modelled(fields: dict[str, object], field: str) -> None:
    base = pg.presets.soft_bounds_training() if field == "pulses" else IDEAL
    with pytest.raises(ValueError, match=f"integrator is given with {field}"):
        dataclasses.replace(base, **{"dac": DAC, **fields, "integrator": Integrator()})


def test_what_fills_the_window_is_said_once() -> None:
    for fields in ({}, {"dac": DAC, "integrator": Integrator(full_input=1.0)}):
        with pytest.raises(ValueError, match="full_input"):
            dataclasses.replace(IDEAL, **{"integrator": Integrator(), **fields})


def test_lengths_go_from_tile_to_tile_without_converters() -> None:
    """The second layer's lines are driven for what the first one's capacitors hold, and for a window at most."""
    first = dataclasses.replace(IDEAL, dac=DAC, integrator=Integrator(saturation=3.0))
    second = dataclasses.replace(IDEAL, integrator=Integrator(full_input=0.5))
    layers = nn.Linear(20, 8, bias=False), nn.Linear(8, 3, bias=False)
    net = nn.Sequential(pg.convert(layers[0], first), nn.ReLU(), pg.convert(layers[1], second)).eval()
    x = torch.randn(50, 20)
    held = net[0](x).relu()
    assert (held > 0.5).any()
    torch.testing.assert_close(net(x), held.clamp(max=0.5) @ layers[1].weight.t(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dac", [Dac(bits=8, range=FixedRange(value=1.0), gain_error=0.2), Dac(bits=4, offset=0.4)])
@pytest.mark.parametrize("tau", [math.inf, 1e-7])
def test_a_bound_that_is_never_met_changes_nothing(dac: Dac, tau: float) -> None:
    net, x = made("linear", dac=dac, integrator=Integrator(tau=tau))
    bounded, _ = made("linear", dac=dac, integrator=Integrator(tau=tau, saturation=8.0))
    followed = x.abs().sum(1) > 8.0
    assert followed.any()
    torch.testing.assert_close(bounded(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiles_whole_and_maps() -> None:
    _, x = made("linear")
    layer = pg.convert(
        nn.Linear(50, 7), dataclasses.replace(IDEAL, integrator=Integrator(saturation=0.5, full_input=2.0, steps=7))
    ).eval()
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            torch.func.vmap(layer, randomness="different")(x.unsqueeze(1)).squeeze(1), layer(x), rtol=1e-5, atol=1e-5
        )


def test_wires_and_capacitors_go_together() -> None:
    wires = Wires(word_line=100.0, bit_line=100.0)
    behind, x = made("linear", dac=DAC, wires=wires)
    timed, _ = made("linear", dac=DAC, wires=wires, integrator=Integrator())
    plain, _ = made("linear", dac=DAC)
    torch.testing.assert_close(timed(x), behind(x), rtol=1e-5, atol=1e-5)
    assert (plain(x) - behind(x)).abs().max() > 0.01

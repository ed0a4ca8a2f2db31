"""Layers whose inputs are encoded as pulse durations."""

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


def converted(name: str, **fields: object) -> tuple[nn.Module, Tensor]:
    digital, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return pg.convert(nn.Sequential(digital), dataclasses.replace(IDEAL, **fields)).eval(), x


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("dac", [None, DAC], ids=["exact", "8 bit"])
@pytest.mark.parametrize("name", list(LAYERS))
def test_capacitors_without_leak_or_saturation_do_not_change_the_output(
    name: str, dac: Dac | None, split: bool
) -> None:
    plain, x = converted(name, dac=dac)
    full = None if dac else 10.0
    timed, _ = converted(name, dac=dac, integrator=Integrator(split=split, full_input=full))
    torch.testing.assert_close(timed(x), plain(x), rtol=1e-5, atol=1e-5)
    unsaturated, _ = converted(name, dac=dac, integrator=Integrator(split=split, saturation=1e3, full_input=full))
    torch.testing.assert_close(unsaturated(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(LAYERS))
def test_leak_and_saturation_act_in_units_of_each_tile(name: str) -> None:
    """Integrate one column-scaled tile tick by tick, from the weights of the layer."""
    integrator = Integrator(window=1.0, tau=0.8, saturation=0.7)
    layer, x = converted(name, rows=512, dac=DAC, integrator=integrator)
    weight = layer[0].weight.detach().flatten(1)
    scale = weight.abs().amax(1, keepdim=True)
    length = torch.round(x.clamp(-2.0, 2.0) / 2.0 * 127.0)
    charge: Tensor | None = None
    decay = math.exp(-1.0 / (0.8 * 127.0))
    for tick in range(127):
        drive = torch.sign(length) * (length.abs() > tick)
        digital = LAYERS[name][0]
        relative = (weight / scale).view_as(digital.weight)
        current = torch.func.functional_call(digital, {"weight": relative, "bias": torch.zeros(len(weight))}, drive)
        charge = (0.0 if charge is None else charge) * decay + current * 0.8 * (1.0 - decay)
        charge = charge.clamp(-0.7, 0.7)
    assert charge is not None
    shape = (-1, *[1] * (charge.dim() - 2))
    want = charge * scale.view(shape) * 2.0 + layer[0].bias.view(shape)
    torch.testing.assert_close(layer(x), want.detach() if want.requires_grad else want, rtol=1e-4, atol=1e-4)


def test_an_aged_and_compensated_chip_survives_its_state_dict() -> None:
    hardware = dataclasses.replace(pg.presets.pcm_inference(), integrator=Integrator(tau=1e-6, saturation=10.0))
    net = pg.convert(nn.Sequential(nn.Linear(60, 30), nn.ReLU(), nn.Linear(30, 5)), hardware).eval()
    x = torch.randn(9, 60)
    chip = pg.inference.age(pg.inference.program(net, seed=3), seconds=1e6)
    compensated = pg.inference.compensate(chip)
    assert torch.isfinite(compensated(x)).all()
    torch.manual_seed(0)
    before = compensated(x)
    other = pg.inference.program(pg.convert(nn.Sequential(nn.Linear(60, 30), nn.ReLU(), nn.Linear(30, 5)), hardware))
    other.load_state_dict(compensated.state_dict())
    torch.manual_seed(0)
    assert torch.equal(other.eval()(x), before)


def test_the_baseline_of_compensation_is_read_through_capacitors() -> None:
    hardware = dataclasses.replace(IDEAL, rows=512, dac=DAC, integrator=Integrator(window=1.0, tau=0.8, saturation=0.4))
    chip = pg.inference.program(pg.convert(nn.Sequential(nn.Linear(30, 8)), hardware), seed=0)
    weight = chip[0].weight.detach()
    scale = weight.abs().amax(1, keepdim=True)
    alone = (weight / scale * 0.8 * (1.0 - math.exp(-1.0 / 0.8))).clamp(-0.4, 0.4) * scale
    torch.testing.assert_close(chip[0].devices.baseline, alone.abs().sum(1).unsqueeze(0))


def test_gradients_pass_through_pulse_durations() -> None:
    net, x = converted("linear", dac=DAC, integrator=Integrator(tau=1e-7, saturation=2.0), adc=Adc(bits=8))
    x = x.requires_grad_()
    net.train()(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert net[0].weight.grad.abs().sum() > 0


def test_non_finite_inputs_return_non_finite_outputs() -> None:
    net, x = converted("linear", integrator=Integrator(saturation=0.5, full_input=4.0))
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
def test_combinations_that_are_not_modelled_raise(fields: dict[str, object], field: str) -> None:
    base = pg.presets.soft_bounds_training() if field == "pulses" else IDEAL
    with pytest.raises(ValueError, match=f"integrator is given with {field}"):
        dataclasses.replace(base, **{"dac": DAC, **fields, "integrator": Integrator()})


def test_the_full_input_must_be_set_by_either_the_dac_or_the_integrator() -> None:
    for fields in ({}, {"dac": DAC, "integrator": Integrator(full_input=1.0)}):
        with pytest.raises(ValueError, match="full_input"):
            dataclasses.replace(IDEAL, **{"integrator": Integrator(), **fields})


def test_pulse_durations_pass_between_tiles_without_converters() -> None:
    """The charge of the first layer sets the pulse durations of the second, up to one window."""
    first = dataclasses.replace(IDEAL, dac=DAC, integrator=Integrator(saturation=3.0))
    second = dataclasses.replace(IDEAL, integrator=Integrator(full_input=0.5))
    layers = nn.Linear(20, 8, bias=False), nn.Linear(8, 3, bias=False)
    net = nn.Sequential(pg.convert(layers[0], first), nn.ReLU(), pg.convert(layers[1], second)).eval()
    x = torch.randn(50, 20)
    charge = net[0](x).relu()
    assert (charge > 0.5).any()
    torch.testing.assert_close(net(x), charge.clamp(max=0.5) @ layers[1].weight.t(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dac", [Dac(bits=8, range=FixedRange(value=1.0), gain_error=0.2), Dac(bits=4, offset=0.4)])
@pytest.mark.parametrize("tau", [math.inf, 1e-7])
def test_a_saturation_that_is_never_reached_does_not_change_the_output(dac: Dac, tau: float) -> None:
    net, x = converted("linear", dac=dac, integrator=Integrator(tau=tau))
    bounded, _ = converted("linear", dac=dac, integrator=Integrator(tau=tau, saturation=8.0))
    integrated_in_time = x.abs().sum(1) > 8.0  # these rows could saturate, so they are integrated step by step
    assert integrated_in_time.any()
    torch.testing.assert_close(bounded(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiles_without_graph_breaks_and_vectorises() -> None:
    _, x = converted("linear")
    layer = pg.convert(
        nn.Linear(50, 7), dataclasses.replace(IDEAL, integrator=Integrator(saturation=0.5, full_input=2.0, steps=7))
    ).eval()
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            torch.func.vmap(layer, randomness="different")(x.unsqueeze(1)).squeeze(1), layer(x), rtol=1e-5, atol=1e-5
        )


def test_wires_and_capacitors_can_be_combined() -> None:
    wires = Wires(word_line=100.0, bit_line=100.0)
    wired, x = converted("linear", dac=DAC, wires=wires)
    timed, _ = converted("linear", dac=DAC, wires=wires, integrator=Integrator())
    plain, _ = converted("linear", dac=DAC)
    torch.testing.assert_close(timed(x), wired(x), rtol=1e-5, atol=1e-5)
    assert (plain(x) - wired(x)).abs().max() > 0.01

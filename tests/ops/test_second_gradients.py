"""Gradients of gradients: gradient penalties on exact, hardware-aware and in-memory hardware."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.optim.test_analog_sgd import fine
from tests.stores.test_staged_gradient import FAMILIES
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import DifferentialPair
from phasegrad.crossbar import Adc, Dac, LearnedRange, Perturbation
from phasegrad.devices import ideal_device
from phasegrad.ops import reference

call: Any = torch.ops.phasegrad


def penalty(net: nn.Module, x: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    return ((g.flatten(1).norm(dim=1) - 1.0) ** 2).mean()


def gradients(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    penalty(net, x).backward()
    found = {}
    for name, p in net.named_parameters():
        if p.grad is not None:
            found[name] = p.grad.to_dense() if isinstance(p, pg.nn.InMemoryWeight) else p.grad
    return {**found, "x": x.grad}


def tanh_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 1))


def fine_grained(**fields: Any) -> pg.Hardware:
    """Converters of 16 bits, whose rounding the straight-through gradient may ignore; several row tiles."""
    device = ideal_device(g_max=25e-6)
    ranges = {"dac": Dac(bits=16, range=LearnedRange(start=6.0)), "adc": Adc(bits=16, range=LearnedRange(start=8.0))}
    return pg.Hardware(cell=DifferentialPair(device=device), **{"rows": 5, "columns": 4, **ranges, **fields})


@pytest.mark.parametrize(
    "hardware", [fine, fine_grained, lambda: fine_grained(adc=None)], ids=["memory", "aware", "dac"]
)
def test_a_gradient_penalty_equals_that_of_the_float_net(hardware: Callable[[], pg.Hardware]) -> None:
    digital, x = tanh_net(), torch.randn(7, 8)
    expected = gradients(digital, x.clone().requires_grad_())
    analog = pg.convert(tanh_net(), hardware())
    found = gradients(analog, x.clone().requires_grad_())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize("preset", ["pcm_inference", "ideal_inference", "soft_bounds_training", "pcm_pair_training"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_has_gradients_of_gradients(name: str, preset: str) -> None:
    if name == "reentrant":
        pytest.skip("torch refuses it")
    torch.manual_seed(0)
    make, shape = FAMILIES[name]
    net, x = pg.convert(make(), getattr(pg.presets, preset)()), torch.randn(shape, requires_grad=True)
    found = gradients(net, x)
    assert set(dict(net.named_parameters())) - set(found) <= _without_second_gradient(net)
    assert all(value.isfinite().all() for value in found.values())
    assert all(value.any() for name, value in found.items() if name.endswith("weight"))


def _without_second_gradient(net: nn.Module) -> set[str]:
    """Biases that are only added, and ranges."""
    return {n for n, _ in net.named_parameters() if n.endswith(("bias", "_range"))}


@pytest.mark.parametrize("name", ["linear", "grouped", "transposed", "tied", "lstm"])
def test_in_memory_penalties_stage_what_the_float_net_has_as_gradient(name: str) -> None:
    torch.manual_seed(0)
    make, shape = FAMILIES[name]
    digital, x = make(), torch.randn(shape)
    digital = pg.to_digital(pg.convert(digital, fine()))
    analog = pg.convert(digital, fine())
    expected = gradients(digital, x.clone().requires_grad_())
    found = gradients(analog, x.clone().requires_grad_())
    torch.testing.assert_close(found["x"], expected["x"], rtol=1e-3, atol=1e-4)
    for key, value in found.items():
        if key in expected:
            torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4)


def test_in_memory_penalties_train() -> None:
    torch.manual_seed(0)
    net, x = pg.convert(tanh_net(), pg.presets.constant_step_training()), torch.randn(32, 8)
    optimizer, losses = pg.optim.AnalogSGD(net.parameters(), lr=0.02), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = penalty(net, x.clone().requires_grad_())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_third_derivatives_exist() -> None:
    digital, x = tanh_net(), torch.randn(3, 8)
    found = []
    for net in (digital, pg.convert(tanh_net(), fine_grained()), pg.convert(tanh_net(), fine())):
        inputs = x.clone().requires_grad_()
        value = net(inputs).sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(value, inputs, create_graph=True)
            value = g.square().sum()
        found.append(g.detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(found[2], found[0], rtol=1e-2, atol=1e-4)


def test_first_gradients_have_the_same_bits_with_and_without_a_graph() -> None:
    found = []
    for graph in (False, True):
        torch.manual_seed(0)
        net = pg.convert(tanh_net(), pg.presets.pcm_inference())
        x = torch.randn(4, 8, requires_grad=True)
        torch.manual_seed(1)
        loss = net(x).sum()
        found.append(torch.autograd.grad(loss, [x, *net.parameters()], create_graph=graph, allow_unused=True))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*found, strict=True))


def _inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


ARGUMENTS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "dac_backward": lambda: (_inputs(4, 5), _inputs(4, 5), torch.tensor([0.8]).double(), 0.01, 0.1),
    "adc_backward": lambda: (_inputs(4, 6), torch.randint(-1, 2, (3, 4, 6), dtype=torch.int8)),
    "noisy_weights_backward": lambda: (_inputs(6, 5), 2 * _inputs(6, 5), torch.full((6,), 1.0).double()),
    "tile_linear_backward": lambda: (
        _inputs(4, 6), torch.randint(-1, 2, (2, 4, 6), dtype=torch.int8), _inputs(4, 5), _inputs(6, 5), _inputs(6, 5),
        torch.full((6,), 0.5).double(), torch.ones(2, 6).double() * 1.5, 3, [True, True],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_gradients_of_backward_ops_are_those_of_their_definition(name: str) -> None:
    arguments = ARGUMENTS[name]()
    places = [i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.is_floating_point()]
    found = []
    for op in (getattr(call, name), getattr(reference, name)):
        own = [a.clone().requires_grad_() if i in places else a for i, a in enumerate(arguments)]
        results = op(*own)
        results = results if isinstance(results, tuple) else (results,)
        total = sum((r * torch.linspace(-1, 1, r.numel()).double().view_as(r)).sum() for r in results)
        found.append(torch.autograd.grad(total, [own[i] for i in places], allow_unused=True))
    for mine, definition in zip(*found, strict=True):
        assert (mine is None) == (definition is None)
        if mine is not None:
            torch.testing.assert_close(mine, definition)


def test_clipped_values_are_constants_in_all_derivatives() -> None:
    """Inputs beyond the DAC's range pass neither gradient, in first and second order."""
    hardware = fine_grained(dac=Dac(bits=16, range=LearnedRange(start=1.0)), adc=None, rows=8)
    layer = pg.nn.AnalogLinear(3, 2, bias=False, hardware=hardware)
    x = torch.tensor([[0.5, 2.0, -3.0]], requires_grad=True)
    (g,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    g.sum().backward()
    assert torch.equal(layer.weight.grad, torch.tensor([[1.0, 0.0, 0.0]] * 2))


def test_noise_and_clipping_of_weights_are_constants_in_second_derivatives() -> None:
    layer = pg.nn.AnalogLinear(64, 16, bias=False, hardware=fine_grained(dac=None, adc=None, output_noise=0.01))
    layer.perturbation = Perturbation(additive=0.1, clip_sigma=1.0)
    x, v = torch.randn(3, 64, requires_grad=True), torch.randn(3, 16)
    (g,) = torch.autograd.grad((layer(x) * v).sum(), x, create_graph=True)
    direction = torch.randn(3, 64)
    (g * direction).sum().backward()
    dense = v.t() @ direction
    bound = layer.weight.detach().square().mean().sqrt()
    beyond = layer.weight.detach() * torch.where(layer.weight.detach().abs() > bound, 1.0, 0.0)
    expected = torch.where(beyond * dense < 0, 0.0, dense)  # a step down would push them further out
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_exact_wires_have_gradient_penalties_and_say_what_has_second_derivatives_of_weights() -> None:
    wires = pg.crossbar.Wires(word_line=0.3, bit_line=0.3)
    for solve in ("exact", "first-order"):
        hardware = fine_grained(dac=None, adc=None, wires=dataclasses.replace(wires, solve=solve))
        torch.manual_seed(0)
        layer, x = pg.nn.AnalogLinear(6, 4, hardware=hardware), torch.randn(2, 6, requires_grad=True)
        penalty(layer, x).backward()  # only the first derivative of the wires
        assert layer.weight.grad.any()
        (of_weight,) = torch.autograd.grad(layer(x).square().sum(), layer.weight, create_graph=True)
        if solve == "first-order":
            of_weight.square().sum().backward()
        else:
            with pytest.raises(RuntimeError, match="first-order"):
                of_weight.square().sum().backward()

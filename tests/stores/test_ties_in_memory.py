"""Layers that share a weight share its devices, which are pulsed by the samples of both layers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from tests.optim.test_analog_sgd import fine, same, state
from torch import Tensor, nn

import phasegrad as pg


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


def tied(hardware: pg.Hardware | None = None, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Tied() if hardware is None else pg.convert(Tied(), hardware)


def backward(net: nn.Module) -> None:
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    net(x).square().sum().backward()


def shares_devices(net: nn.Module) -> bool:
    return net.first.weight is net.last.weight and net.first.devices is net.last.devices is net.first.weight.devices


def test_tied_layers_share_weight_and_devices() -> None:
    net, digital = tied(fine()), tied()
    assert shares_devices(net)
    assert len([p for p in net.parameters() if p.dim() == 2]) == 1
    x = torch.randn(3, 6)
    torch.testing.assert_close(net(x), digital(x), rtol=1e-4, atol=1e-5)


def test_samples_of_both_layers_are_staged_and_trained() -> None:
    net, digital = tied(fine(steps=20_000)), tied()
    backward(net)
    backward(digital)
    assert len(net.first.weight.grad.samples) == 2
    x, d = next(net.first.weight.staged())
    torch.testing.assert_close(d.t() @ x, digital.first.weight.grad, rtol=1e-4, atol=1e-5)
    before = net.first.weight.detach().clone()
    pg.optim.MixedPrecision(net.parameters(), lr=0.01).step()
    change = net.first.weight.detach() - before
    expected = -0.01 * digital.first.weight.grad
    assert ((change - expected).abs() < 1.01e-4 + 1e-3 * expected.abs()).all()  # steps of 1e-4
    assert expected.abs().max() > 1e-3
    assert shares_devices(net)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_tied_to_each_other_only(copied: Callable[[nn.Module], nn.Module]) -> None:
    net = tied(pg.presets.soft_bounds_training())
    other, before = copied(net), state(net)
    assert shares_devices(other)
    assert other.first.weight is not net.first.weight
    backward(other)
    pg.optim.AnalogSGD(other.parameters(), lr=0.1).step()
    assert same(state(net), before)


def test_loading_state_dicts_preserves_the_tie() -> None:
    net, other = tied(pg.presets.soft_bounds_training()), tied(pg.presets.soft_bounds_training(), seed=1)
    backward(net)
    pg.optim.AnalogSGD(net.parameters(), lr=0.1).step()
    other.load_state_dict(net.state_dict())
    assert same(state(net), state(other))
    assert shares_devices(other)
    digital = tied(seed=2)
    other.load_state_dict(digital.state_dict())
    assert shares_devices(other)
    torch.testing.assert_close(other.last.weight.detach(), other.first.devices.logical_weight())
    assert type(pg.to_digital(other).first.weight) is nn.Parameter


def test_convolutions_of_different_geometry_share_a_weight() -> None:
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, stride=2, dilation=2))
    digital[1].weight = digital[0].weight
    net = pg.convert(digital, fine())
    assert net[0].weight is net[1].weight
    x = torch.randn(2, 4, 11)
    for module in (net, digital):
        module(x).square().sum().backward()
    gradient = sum(d.t() @ x for x, d in net[0].weight.staged())
    torch.testing.assert_close(gradient, digital[0].weight.grad.flatten(1), rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_used_twice_is_converted_once() -> None:
    layer = nn.Linear(6, 6)
    net = pg.convert(nn.Sequential(layer, nn.Tanh(), layer), fine())
    assert net[0] is net[2]
    backward(net)
    assert len(net[0].weight.grad.samples) == 2


def test_a_weight_shared_with_a_digital_layer_is_refused() -> None:
    embedding, head = nn.Embedding(6, 4), nn.Linear(4, 6)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head)
    with pytest.raises(ValueError, match=r"1 and 0 share a weight.*a look-up of rows.*Skip 1 too"):
        pg.convert(model, fine())
    with pytest.raises(ValueError, match=r"first and last share a weight.*named in skip"):
        pg.convert(Tied(), fine(), skip=["last"])

"""Aliases of weights and devices that somebody holds, and tensors that two nets might share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import phasegrad as pg

PCM = pg.presets.pcm_inference()


def chip() -> nn.Module:
    return pg.inference.program(pg.convert(nn.Sequential(nn.Linear(64, 64)), PCM), seed=0)


@pytest.mark.parametrize("hardware", [PCM, pg.presets.soft_bounds_training()], ids=["programmed", "in memory"])
def test_every_write_through_a_held_alias_is_programmed(hardware: pg.Hardware) -> None:
    net = pg.convert(nn.Sequential(nn.Linear(64, 64)), hardware)
    net = net if hardware.pulses is not None else pg.inference.program(net, seed=0)
    alias, norms = net[0].weight.detach().numpy(), []
    for _ in range(3):
        alias *= 0.5
        with pytest.warns(UserWarning, match="the weight was written"), torch.no_grad():
            net(torch.randn(2, 64))
        norms.append(net[0].devices.logical_weight().norm().item())
    assert norms[1] / norms[0] == pytest.approx(0.5, rel=0.15)
    assert norms[2] / norms[1] == pytest.approx(0.5, rel=0.15)


def test_pulses_under_a_held_alias_are_no_write() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(8, 4)), pg.presets.soft_bounds_training())
    held, optimizer = net[0].weight.data, pg.optim.AnalogSGD(net.parameters(), lr=0.1)
    for _ in range(3):
        net(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(held, net[0].weight)


def test_loading_takes_the_place_of_an_assigned_weight() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.tokens(x))

    programmed = pg.inference.program(pg.convert(Tied(), PCM), seed=0)
    state = {k: v.clone() for k, v in pg.inference.age(programmed, 3e7).state_dict().items()}
    other = copy.deepcopy(programmed)
    other.head.weight = other.tokens.weight
    other.load_state_dict(state)
    assert torch.equal(other.tokens.weight, state["tokens.weight"])
    assert torch.equal(other.head.weight, state["head.weight"])


def test_a_net_that_was_assigned_the_state_of_another_changes_alone() -> None:
    original, x = chip(), torch.randn(4, 64)
    net = pg.convert(nn.Sequential(nn.Linear(64, 64)), PCM).eval()
    net.load_state_dict(original.state_dict(), assign=True)
    before = {k: v.clone() for k, v in original.state_dict().items()}
    with torch.no_grad():
        net[0].weight.mul_(0.1)
        with pytest.warns(UserWarning, match="the weight was written"):
            net(x)
    assert all(torch.equal(v, original.state_dict()[k]) for k, v in before.items())


def test_an_array_over_a_chip_does_not_reach_an_aged_one() -> None:
    young = pg.inference.program(pg.convert(nn.Sequential(nn.Linear(64, 128)), PCM), seed=0)
    array = young[0].devices.conductance.numpy()
    old = pg.inference.age(young, 3600.0)
    before = old[0].devices.conductance.clone()
    array *= 0.0
    assert torch.equal(old[0].devices.conductance, before)


def test_kept_reads_see_devices_that_were_set_through_data() -> None:
    net, x = chip(), torch.randn(8, 64)
    with torch.no_grad():
        for _ in range(3):
            net(x)
        net[0].devices.conductance.data.zero_()
        assert (net(x) - net[0].bias).abs().max() < 0.2 * net(x).abs().max() + 1.0


def test_what_inference_mode_keeps_serves_gradients_later() -> None:
    net = chip()
    with torch.inference_mode():
        net(torch.randn(1, 64))
    net(torch.randn(1, 64)).square().sum().backward()
    assert net[0].bias.grad is not None


def test_a_chip_whose_weight_is_unfrozen_says_that_it_gets_no_gradient() -> None:
    net = chip().requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"weight\.requires_grad = True, but the weight lives on devices"):
        net(torch.randn(2, 64))


def test_conversion_under_a_meta_device() -> None:
    with torch.device("meta"):
        net = pg.convert(nn.Sequential(nn.Linear(8, 4)), PCM)
    assert net[0].weight.is_meta

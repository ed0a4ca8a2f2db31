"""Masks: some weights of a layer keep their devices to the bit while the others are trained."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.stores.analog_weight import AnalogWeight

TRAININGS: dict[str, tuple[Callable[[], pg.Hardware], Callable[..., Any]]] = {
    "soft bounds": (pg.presets.soft_bounds_training, pg.optim.AnalogSGD),
    "constant": (pg.presets.constant_step_training, pg.optim.AnalogSGD),
    "pcm pair": (pg.presets.pcm_pair_training, pg.optim.AnalogSGD),
    "multi-memristive": (pg.presets.multi_memristive_training, pg.optim.AnalogSGD),
    "mixed precision": (pg.presets.pcm_pair_training, pg.optim.MixedPrecision),
    "Tiki-Taka": (pg.presets.tiki_taka_training, pg.optim.TikiTaka),
    "TTv2": (pg.presets.tiki_taka_training, pg.optim.TikiTakaV2),
    "c-TTv2": (pg.presets.tiki_taka_training, pg.optim.ChoppedTikiTakaV2),
    "AGAD": (pg.presets.tiki_taka_training, pg.optim.AGAD),
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(8, 6), (16, 8)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (4, 4, 5)),
}
training = pytest.mark.parametrize("name", TRAININGS)


def made(name: str, layer: str = "linear") -> tuple[Any, Any, Tensor]:
    torch.manual_seed(0)
    hardware, optimizer = TRAININGS[name]
    make, shape = LAYERS[layer]
    net = pg.convert(make(), hardware())
    return net, optimizer(net.parameters(), lr=0.5), torch.randn(shape)


def cells(devices: AnalogWeight, trained: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The state of the devices of fixed cells, and that of the others."""
    arrays = [devices] if devices.fast is None else [devices, devices.fast]
    buffers = [getattr(a, name) for a in arrays for name in ("conductance", "history", "pulsed_at")]
    present = [b for b in buffers if b is not None]
    return [b[..., ~trained].clone() for b in present], [b[..., trained].clone() for b in present]


def train(net: Any, optimizer: Any, x: Tensor, steps: int = 6) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("layer", "how"), [("linear", "attribute"), ("linear", "hook"), ("conv", "attribute"), ("transposed", "hook")]
)
@training
def test_masked_weights_keep_their_bits_while_the_others_train(name: str, layer: str, how: str) -> None:
    net, optimizer, x = made(name, layer)
    weight = net.weight
    mask = torch.rand(weight.shape) > 0.5
    if how == "attribute":
        weight.mask = mask
        assert torch.equal(weight.mask, mask)
    else:
        weight.register_hook(lambda grad: grad * mask)
    trained = weight.matrix_layout.matrix(mask)
    value, (fixed, _) = weight.detach().clone(), cells(net.devices, trained)
    train(net, optimizer, x)
    assert torch.equal(weight[~mask], value[~mask])
    assert (weight[mask] != value[mask]).double().mean() > 0.3
    after, _ = cells(net.devices, trained)
    assert all(map(torch.equal, fixed, after))
    assert torch.equal(weight.matrix_layout.matrix(weight.detach()), net.devices.logical_weight())


@training
def test_the_other_weights_train_as_without_a_mask(name: str) -> None:
    """One step from the same gradients: what is drawn for a cell does not depend on a mask of others."""
    found = []
    for masked in (False, True):
        net, optimizer, x = made(name)
        mask = torch.ones(net.weight.shape, dtype=torch.bool)
        mask[:, ::2] = False
        if masked:
            net.weight.mask = mask
        torch.manual_seed(5)
        train(net, optimizer, x, 1)
        found.append(net.weight.detach()[mask])
    assert torch.equal(*found)


def test_a_refresh_leaves_fixed_pairs_alone() -> None:
    net, optimizer, x = made("pcm pair")
    net.devices.conductance.uniform_(11e-6, 12e-6)  # saturated
    net.store.sync()
    mask = torch.rand(net.weight.shape) > 0.5
    net.weight.mask = mask
    value, (fixed, others) = net.weight.detach().clone(), cells(net.devices, mask)
    net.devices.updates.fill_(net.hardware.cell.refresh_every - 1)
    train(net, optimizer, x, 1)
    after, changed = cells(net.devices, mask)
    assert all(map(torch.equal, fixed, after))
    assert torch.equal(net.weight[~mask], value[~mask])
    assert (changed[0] < 0.5 * others[0]).any()  # RESET


@pytest.mark.parametrize("name", ["TTv2", "AGAD", "mixed precision"])
def test_gradients_of_fixed_weights_do_not_wait_in_digital_buffers(name: str) -> None:
    net, optimizer, x = made(name)
    mask = torch.zeros(net.weight.shape, dtype=torch.bool)
    net.weight.mask = mask
    train(net, optimizer, x)
    stored = optimizer.state[net.weight]["chi" if name == "mixed precision" else "hidden"]
    assert not stored.any()
    net.weight.mask = None
    train(net, optimizer, x)
    assert stored.any()


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: copy.deepcopy(m).double()],
    ids=["deepcopy", "pickle", "double"],
)
def test_copies_have_the_mask(copied: Callable[[Any], Any]) -> None:
    net, _, _ = made("soft bounds")
    mask = torch.rand(net.weight.shape) > 0.5
    net.weight.mask = mask
    other = copied(net)
    assert torch.equal(other.weight.mask, mask)
    other.weight.mask = None
    assert net.weight.mask is not None


@pytest.mark.parametrize("assign", [False, True])
def test_the_mask_is_in_the_state_dict(assign: bool) -> None:
    net, _, _ = made("soft bounds")
    other, _, _ = made("soft bounds")
    without = net.state_dict()
    assert "devices.mask" not in without
    mask = torch.rand(net.weight.shape) > 0.5
    net.weight.mask = mask
    other.load_state_dict(net.state_dict(), assign=assign)
    assert torch.equal(other.devices.mask, mask)
    other.load_state_dict(without)  # as a checkpoint of an earlier release
    assert torch.equal(other.devices.mask, mask)


def test_tied_layers_share_the_mask() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    net = pg.convert(nn.Sequential(first, nn.Tanh(), second), pg.presets.soft_bounds_training())
    net[0].weight.mask = torch.eye(4)
    assert torch.equal(net[2].weight.mask, torch.eye(4).bool())
    value = net[0].weight.detach().clone()
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=1.0)
    net(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    changed = net[2].weight != value
    assert changed.any()
    assert not changed[~torch.eye(4).bool()].any()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.full((6, 8), 0.5), ValueError, r"other than 0 and 1.*hook"),
        (torch.full((6, 8), torch.nan), ValueError, "other than 0 and 1"),
        (torch.ones(3, 8), ValueError, r"shape \[3, 8\]; it must be that of the weight, \[6, 8\]"),
        (True, TypeError, "it must be a tensor"),
        ("weights", TypeError, "it must be a tensor"),
    ],
)
def test_other_masks_are_refused(mask: Any, error: type[Exception], message: str) -> None:
    net, _, _ = made("soft bounds")
    with pytest.raises(error, match=message):
        net.weight.mask = mask
    assert net.weight.mask is None


def test_hardware_that_cannot_keep_a_weight_refuses_masks() -> None:
    net = pg.convert(nn.Linear(8, 6), pg.presets.pcm_capacitor_training())
    with pytest.raises(ValueError, match=r"devices of its hardware leak.*digital"):
        net.weight.mask = torch.ones(6, 8)
    net.weight.register_hook(lambda grad: grad * torch.eye(6, 8))
    with pytest.raises(RuntimeError, match=r"masked gradient.*leak.*digital"):
        net(torch.randn(2, 8)).sum().backward()
    assert net.weight.grad is None

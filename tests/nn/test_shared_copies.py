"""Chips share the memory of what they do not change, and are values all the same."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.ops.lazy_copies import address

X = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
DERIVE: dict[str, Callable[[nn.Module], nn.Module]] = {
    "age": lambda chip: pg.inference.age(chip, seconds=3600.0),
    "compensate": lambda chip: pg.inference.compensate(chip, seed=0),
    "re-estimate": lambda chip: pg.inference.reestimate_batchnorm(chip, [X]),
}


def _chip() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 96), nn.BatchNorm1d(96), nn.Linear(96, 64), nn.LayerNorm([64]), _Table())
    net = pg.convert(model, pg.presets.pcm_inference())
    return pg.inference.program(net, seed=0)


class _Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(100, 64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table.mean(0)


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


SHARED = ("0.devices.conductance", "0.devices.nu", "2.devices.conductance", "2.devices.nu", "4.table")


@pytest.mark.parametrize("verb", DERIVE)
def test_a_derived_chip_shares_what_it_does_not_change(verb: str) -> None:
    chip = _chip()
    derived = DERIVE[verb](chip)
    derived(X), chip(X)  # reading does not end it
    ours, theirs = _tensors(derived), _tensors(chip)
    for name in SHARED:
        assert address(ours[name]) == address(theirs[name]), name


@pytest.mark.parametrize("verb", DERIVE)
@pytest.mark.parametrize("writes_to_the_copy", [False, True])
def test_a_write_reaches_one_chip_alone(verb: str, writes_to_the_copy: bool) -> None:
    chip = _chip()
    derived = DERIVE[verb](chip)
    written, other = (derived, chip) if writes_to_the_copy else (chip, derived)
    before = {name: t.detach().clone() for name, t in _tensors(other).items()}
    with torch.no_grad():
        for name, tensor in _tensors(written).items():
            tensor.fill_(1) if "clock" not in name else None
    assert all(torch.equal(t, before[name]) for name, t in _tensors(other).items())
    with torch.no_grad():
        assert all(bool((t == 1).all()) for name, t in _tensors(written).items() if name in SHARED)


def test_loading_reaches_one_chip_alone() -> None:
    chip, foreign = _chip(), pg.inference.program(pg.convert(_digital(), pg.presets.pcm_inference()), seed=9)
    old = DERIVE["age"](chip)
    before = {k: v.clone() for k, v in chip.state_dict().items()}
    old.load_state_dict(foreign.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in chip.state_dict().items())
    assert torch.equal(old[0].devices.conductance, foreign[0].devices.conductance)


def _digital() -> nn.Module:
    return nn.Sequential(nn.Linear(128, 96), nn.BatchNorm1d(96), nn.Linear(96, 64), nn.LayerNorm([64]), _Table())


def test_several_chips_in_one_file() -> None:
    chip = _chip()
    chips = {"new": chip, "old": DERIVE["age"](chip)}
    file = io.BytesIO()
    torch.save({name: c.state_dict() for name, c in chips.items()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    for name, c in chips.items():
        assert all(torch.equal(v, loaded[name][k]) for k, v in c.state_dict().items())


def test_a_net_that_is_trained_keeps_its_memory() -> None:
    net = pg.convert(_digital(), pg.presets.pcm_inference())
    view = net[0].weight.detach().numpy()
    pg.inference.program(net, seed=0)
    pg.inference.noiseless(net)
    with torch.no_grad():
        net[0].weight.fill_(0.5)
    assert (view == 0.5).all()


def test_training_in_the_memory_after_ageing_leaves_the_older_net() -> None:
    hardware = pg.presets.pcm_pair_training()
    net = pg.convert(nn.Linear(128, 64), hardware)
    old = pg.inference.age(net, seconds=10.0)
    before = {k: v.clone() for k, v in old.state_dict().items()}
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.5)
    net(X).square().mean().backward()
    optimizer.step()
    assert not torch.equal(net.devices.conductance, old.devices.conductance)
    assert all(torch.equal(v, before[k]) for k, v in old.state_dict().items())


def test_copies_are_eager_where_torch_has_no_lazy_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = _chip()
    monkeypatch.setattr("phasegrad.ops.lazy_copies._WORKS", False)
    old = DERIVE["age"](chip)
    assert old[0].devices.nu.data_ptr() != chip[0].devices.nu.data_ptr()
    assert torch.equal(old[0].devices.nu, chip[0].devices.nu)


def test_addresses_of_views() -> None:
    matrix = torch.zeros(4, 6)
    for tensor in (matrix, matrix[1], matrix[:, 2:], matrix.double()[3, 5]):
        assert address(tensor) == tensor.data_ptr()

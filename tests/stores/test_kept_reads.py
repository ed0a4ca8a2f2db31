"""What reads of a chip share until it ages: the same bits, and nothing in files or copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg

X = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))


def _chip(seconds: float = 60.0) -> nn.Module:
    torch.manual_seed(0)
    net = pg.convert(nn.Linear(96, 40), pg.presets.pcm_inference())
    return pg.inference.age(pg.inference.program(net, seed=0), seconds=seconds)


def _read(chip: nn.Module) -> Tensor:
    torch.manual_seed(7)
    with torch.no_grad():
        return chip(X)


def _keeps(chip: nn.Module) -> bool:
    record = chip.devices.kept_reads._record
    return record is not None and record.value is not None


def test_kept_from_the_second_read_on_with_the_same_bits() -> None:
    chip = _chip()
    first = _read(chip)
    assert not _keeps(chip)
    assert torch.equal(_read(chip), first)
    assert _keeps(chip)
    assert torch.equal(_read(chip), first)


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "conductance": lambda chip: chip.devices.conductance.mul_(0.5),
    "exponents": lambda chip: chip.devices.nu.add_(0.5),
    "clock": lambda chip: chip.devices.clock.add_(1e6),
    "load": lambda chip: chip.load_state_dict(_chip(1e6).state_dict()) and None,
    "replace": lambda chip: setattr(chip.devices, "conductance", 0.5 * chip.devices.conductance),
    "advance": lambda chip: chip.devices.advance_clock(1e6),
    "reprogram": lambda chip: chip.load_state_dict({"weight": torch.ones(40, 96), "bias": torch.ones(40)}) and None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_forgotten_when_the_devices_change(change: str) -> None:
    chip, fresh = _chip(), _chip()
    _read(chip), _read(chip)
    with torch.no_grad():
        for net in (chip, fresh):
            torch.manual_seed(1)
            CHANGES[change](net)
    changed = _read(chip)
    assert torch.equal(changed, _read(fresh))
    assert not torch.equal(changed, _read(_chip()))


def test_copies_and_pickles_keep_nothing() -> None:
    chip = _chip()
    first = _read(chip), _read(chip)
    for other in (copy.deepcopy(chip), pickle.loads(pickle.dumps(chip)), pg.inference.compensate(chip, seed=0)):
        assert not _keeps(other)
    assert _keeps(chip)
    assert torch.equal(_read(copy.deepcopy(chip)), first[0])


def test_a_chip_of_an_earlier_release_without_the_attribute() -> None:
    chip = _chip()
    state = chip.devices.__dict__.copy()
    del state["kept_reads"]
    chip.devices.__setstate__(state)
    assert torch.equal(_read(chip), _read(_chip()))


def test_chips_made_in_inference_mode_keep_nothing() -> None:
    with torch.inference_mode():
        chip = _chip()
    assert torch.equal(_read(chip), _read(chip))
    assert not _keeps(chip)


def _through_data(values: Tensor, place: int) -> None:
    values.data.view(-1)[place] = 20e-6


def _through_numpy(values: Tensor, place: int) -> None:
    values.numpy().reshape(-1)[place] = 20e-6


@pytest.mark.parametrize(
    ("size", "reads", "rows", "write"),
    [
        ((48, 40), 1, 1, _through_data),
        ((48, 40), 1, 5, _through_numpy),
        ((73, 29), 64, 1, _through_numpy),
        ((73, 29), 64, 5, _through_data),
    ],
    ids=["small, one row", "small", "large, one row", "large"],
)
def test_a_single_value_that_is_written_without_a_count_is_noticed(
    size: tuple[int, int], reads: int, rows: int, write: Callable[[Tensor, int], None]
) -> None:
    """At once for a few thousand devices, after 64 reads at most for more."""
    torch.manual_seed(0)
    net = pg.inference.program(pg.convert(nn.Linear(*size), pg.presets.pcm_inference()), seed=0)
    chip, x = pg.inference.age(net, seconds=60.0), torch.randn(rows, size[0])

    def read(chip: nn.Module) -> Tensor:
        torch.manual_seed(7)
        with torch.no_grad():
            return chip(x)

    before = [read(chip), read(chip), read(chip)][-1]
    assert _keeps(chip)
    write(chip.devices.conductance, chip.devices.conductance.numel() // 3)
    found = [read(chip) for _ in range(reads)][-1]
    fresh = copy.deepcopy(chip)
    assert not torch.equal(found, before)
    assert torch.equal(found, read(fresh))

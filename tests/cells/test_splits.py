from __future__ import annotations

import itertools

import pytest
import torch

from phasegrad.cells import (
    Cell,
    EqualSplit,
    FullOrPartial,
    MostSignificantFirst,
    SignificancePairs,
    Split,
    SplitTable,
)
from phasegrad.configuration import from_json
from phasegrad.devices import Device, ideal_device, joshi_2020
from phasegrad.testing import CellContract

_SIGNIFICANCES = [(1.0,), (1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (3.0, 1.0, 2.0), (4.0, 2.0, 1.0, 1.0)]
_SPLITS = [EqualSplit(), MostSignificantFirst(), FullOrPartial()]
_WEIGHTS = torch.cat((torch.tensor([0.0, 1.0, -1.0]), torch.linspace(-1.0, 1.0, 2001)))


class TestMostSignificantFirst(CellContract):
    devices = 4

    def cell(self, device: Device) -> Cell:
        return SignificancePairs(device=device, significances=(2.0, 1.0), split=MostSignificantFirst())


class TestFullOrPartial(CellContract):
    devices = 6

    def cell(self, device: Device) -> Cell:
        return SignificancePairs(device=device, significances=(2.0, 1.0, 1.0), split=FullOrPartial())


class TestTable(CellContract):
    """A table whose targets are exactly the weight: F = 2, the least significant pair first."""

    devices = 4

    def cell(self, device: Device) -> Cell:
        third = 1.0 / 3.0
        table = SplitTable(
            weights=(0.0, third, 1.0), device_fractions=((0.0, 0.0, 1.0), (0.0,) * 3, (0.0, 1.0, 1.0), (0.0,) * 3)
        )
        return SignificancePairs(device=device, significances=(2.0, 1.0), split=table)


@pytest.mark.parametrize(("split", "significances"), list(itertools.product(_SPLITS, _SIGNIFICANCES)), ids=str)
def test_every_split_represents_every_weight(split: Split, significances: tuple[float, ...]) -> None:
    cell = SignificancePairs(device=ideal_device(), significances=significances, split=split)
    targets = cell.targets(_WEIGHTS)
    torch.testing.assert_close(cell.weight(targets), _WEIGHTS, rtol=1e-6, atol=1e-6)
    assert 0.0 <= float(targets.min())
    assert float(targets.max()) <= cell.device.g_max * (1.0 + 1e-6)
    assert from_json(cell.to_json()) == cell


@pytest.mark.parametrize("split", [MostSignificantFirst(), FullOrPartial()], ids=str)
@pytest.mark.parametrize("significances", _SIGNIFICANCES, ids=str)
def test_at_most_one_device_is_between_reset_and_set(split: Split, significances: tuple[float, ...]) -> None:
    fractions = split.fractions(_WEIGHTS.double(), significances)
    between = (fractions > 1e-9) & (fractions < 1.0 - 1e-9)
    assert int(between.sum(0).max()) <= 1


def test_the_partial_device_has_the_least_significance_possible() -> None:
    # Of 3: 0.9 fits the pair of significance 1; 1.9 needs that of 2, and 2.9 leaves 0.9 for that of 1.
    fractions = FullOrPartial().fractions(torch.tensor([0.9, 1.9, 2.9]).double() / 3.0, (2.0, 1.0))
    wanted = torch.tensor([[0.0, 0.95, 1.0], [0.0] * 3, [0.9, 0.0, 0.9], [0.0] * 3]).double()
    torch.testing.assert_close(fractions, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_targets_keep_dtype_and_pass_a_gradient(dtype: torch.dtype) -> None:
    weight = torch.tensor([0.3, -0.6], dtype=dtype, requires_grad=True)
    for split in _SPLITS:
        cell = SignificancePairs(device=joshi_2020(), significances=(2.0, 1.0), split=split)
        targets = cell.targets(weight)
        assert targets.dtype == dtype
        (gradient,) = torch.autograd.grad(cell.weight(targets.double()).sum(), weight)
        torch.testing.assert_close(gradient.double(), torch.ones(2).double(), rtol=2e-2, atol=2e-2)


def test_the_weight_of_a_full_cell_multiplies_the_factors() -> None:
    table = SplitTable(weights=(0.0, 1.0), device_fractions=((0.0, 0.5), (0.0, 0.0)), full_weight=2.0)
    cell = SignificancePairs(device=ideal_device(), significances=(1.0,), split=table)
    assert cell.factors == (2.0, -2.0)
    torch.testing.assert_close(cell.weight(cell.targets(_WEIGHTS)), _WEIGHTS, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device_fractions": ((0.0, 1.2), (0.0, 0.0))}, r"device_fractions\[0\] = .*in the window of the device"),
        ({"device_fractions": ((0.0, -0.1), (0.0, 0.0))}, r"device_fractions\[0\] = .*in the window of the device"),
        ({"device_fractions": ((0.0, 0.5), (0.0,))}, r"device_fractions\[1\] has 1 values; give one for each of the 2"),
        ({"device_fractions": ((0.0, 0.5),)}, "of 1 devices; give those of both devices"),
        ({"device_fractions": ((0.1, 0.5), (0.0, 0.0))}, "0.1 and 0.0 of a pair at a weight of 0; they must be equal"),
        ({"weights": (0.0, 0.9)}, "must increase from 0 to 1"),
        ({"full_weight": 0.0}, "full_weight = 0.0"),
    ],
)
def test_tables_are_refused_that_no_cell_can_have(fields: dict, message: str) -> None:
    good = {"weights": (0.0, 1.0), "device_fractions": ((0.0, 1.0), (0.0, 0.0))}
    with pytest.raises(ValueError, match=message):
        SplitTable(**{**good, **fields})


def test_a_split_must_fit_the_pairs() -> None:
    table = SplitTable(weights=(0.0, 1.0), device_fractions=((0.0, 1.0), (0.0, 0.0)))
    with pytest.raises(ValueError, match="of 2 devices for 2 pairs; give those of 4 devices"):
        SignificancePairs(device=ideal_device(), significances=(2.0, 1.0), split=table)
    with pytest.raises(ValueError, match="9 pairs; all combinations are searched"):
        SignificancePairs(device=ideal_device(), significances=(1.0,) * 9, split=FullOrPartial())
    with pytest.raises(TypeError, match="split = 'equal'"):
        SignificancePairs(device=ideal_device(), significances=(1.0,), split="equal")  # type: ignore[arg-type]

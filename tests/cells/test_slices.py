"""Bit-sliced weights: digits, factors, and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import phasegrad as pg
from phasegrad.cells import Cell, DifferentialSlices, OffsetSlices
from phasegrad.devices import ideal_device, joshi_2020
from phasegrad.testing import ConfigurationContract

KINDS = (DifferentialSlices, OffsetSlices)


class TestDifferentialSlices(ConfigurationContract):
    def configuration(self) -> Cell:
        return DifferentialSlices(device=joshi_2020(), bits=8, slices=4)


class TestOffsetSlices(ConfigurationContract):
    def configuration(self) -> Cell:
        return OffsetSlices(device=joshi_2020(), bits=6, slices=3)


def codes(bits: int) -> Tensor:
    """All weights that a number of bits can represent."""
    largest = 2 ** (bits - 1) - 1
    return torch.arange(-largest, largest + 1) / largest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "slices"), [(2, 1), (4, 1), (4, 3), (8, 2), (8, 3), (8, 4), (8, 7), (12, 5)])
def test_every_code_is_the_sum_of_its_slices(kind: Any, bits: int, slices: int) -> None:
    cell, w = kind(device=ideal_device(), bits=bits, slices=slices), codes(bits)
    parts, conductance = cell.bit_slice(w), cell.targets(w)
    assert parts.shape == (slices, len(w))
    assert len(conductance) == len(cell.factors)
    factors = torch.tensor(cell.slice_factors).unsqueeze(1)
    torch.testing.assert_close((factors * parts).sum(0), w, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cell.read_slices(conductance), parts, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cell.weight(conductance), w, rtol=1e-5, atol=1e-6)
    assert conductance.min() >= 0.0
    assert conductance.max().item() == pytest.approx(cell.device.g_max, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_rounded_to_the_nearest_code(kind: Any) -> None:
    cell, w = kind(device=ideal_device(), bits=5, slices=2), torch.linspace(-1.0, 1.0, 998)
    torch.testing.assert_close(cell.weight(cell.targets(w)), (w * 15).round() / 15, rtol=1e-5, atol=1e-6)


def test_digits_are_those_of_the_number_written_in_its_base() -> None:
    cell = DifferentialSlices(device=ideal_device(g_max=1.0), bits=7, slices=3)  # 6 bits: three digits of 0 to 3
    for code in range(-63, 64):
        n, wanted = abs(code), []
        for _ in range(3):
            wanted.append((n % 4) / 3 * (1 if code >= 0 else -1))
            n //= 4
        assert cell.bit_slice(torch.tensor(code / 63)).tolist() == pytest.approx(wanted)
    assert cell.slice_factors == pytest.approx((3 / 63, 12 / 63, 48 / 63))


def test_uneven_bits_go_to_the_least_significant_slices() -> None:
    cell = DifferentialSlices(device=ideal_device(), bits=8, slices=3)  # 7 bits: 3, 2, 2
    assert cell.slice_factors == pytest.approx((7 / 127, 3 * 8 / 127, 3 * 32 / 127))


def test_a_reference_holds_the_offset() -> None:
    cell = OffsetSlices(device=ideal_device(g_max=1.0), bits=8, slices=4)  # 128: digits 0, 0, 0, 2
    assert cell.targets(torch.zeros(1))[:, 0].tolist() == pytest.approx([0.0, 0.0, 0.0, 2 / 3])
    assert cell.bit_slice(torch.zeros(1)).abs().max() == 0.0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (DifferentialSlices, {"bits": 8, "slices": 8}, "slices = 8, but a weight of bits = 8 has 7 bits to slice"),
        (OffsetSlices, {"bits": 4, "slices": 5}, "slices = 5, but a weight of bits = 4 has 4 bits to slice"),
        (OffsetSlices, {"bits": 1}, "bits = 1; it must be an integer in"),
        (DifferentialSlices, {"slices": 0}, "slices = 0; it must be an integer in"),
    ],
)
def test_impossible_slices_raise(kind: Any, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
        kind(device=ideal_device(), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_pulses_cannot_train_slices(kind: Any) -> None:
    training = pg.presets.soft_bounds_training()
    with pytest.raises(ValueError, match=f"cell = {kind.__name__} with pulses.*or pulses=None"):
        pg.Hardware(cell=kind(device=training.cell.device), scale=1.0, pulses=training.pulses)

"""Training in the memory: what a step costs, by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.cost.technologies import CONSTANTS as C
from tests.cost.technologies import technology
from torch import nn

import phasegrad as pg
from phasegrad.cost import TrainingEstimate, estimate_training
from phasegrad.crossbar import Adc


def trained(hardware: pg.Hardware | None = None, **options: Any) -> TrainingEstimate:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30, bias=False), nn.Tanh(), nn.Linear(30, 5, bias=False))
    net = pg.convert(model, hardware or pg.presets.constant_step_training())
    options = {"technology": technology(), "activity": 0.25, "firing": 0.1, **options}
    return estimate_training(net, torch.empty(4, 20), **options)


def test_only_gradients_that_are_needed_are_products() -> None:
    found = trained().backward.counts  # the input of the net needs none
    assert (found.vectors, found.products) == (4, 4)
    assert found.multiplications == 4 * 30 * 5
    assert found.drives == 4 * 5
    assert found.results == 4 * 30


def test_a_split_matrix_is_driven_from_all_its_columns() -> None:
    hardware = dataclasses.replace(pg.presets.constant_step_training(), rows=8, columns=3, adc=Adc())
    found = trained(hardware).backward.counts  # the second layer has 4 x 2 tiles
    assert found.products == 4 * 8
    assert found.drives == 4 * 5 * 4
    assert found.conversions == 4 * 30 * 2
    assert found.additions == 4 * 30
    assert (found.bytes_in, found.bytes_out) == (4 * 5 * 4 * 4, 4 * 30 * 2)  # values of 4 bytes in, 8 bits out


def test_partial_sums_of_the_backward_pass_are_added_where_those_of_the_forward_pass_are() -> None:
    hardware = dataclasses.replace(pg.presets.constant_step_training(), rows=8, columns=3, adc=Adc())
    everywhere = trained(hardware).backward
    chained = trained(hardware, technology=technology(partial_sums="local", hop_time=0.0)).backward
    assert chained.counts.additions == 0
    assert everywhere.energy - chained.energy == pytest.approx(4 * 30 * C["digital_energy"])
    assert everywhere.time - chained.time == pytest.approx(4 * 30 * C["digital_time"])


def test_a_step_is_printed_with_what_is_known() -> None:
    counted = str(trained(technology=None))
    assert "pass technology=" in counted
    partly = str(trained(firing=None))
    assert "update energy: firing (an argument)" in partly
    assert "forward" in partly.splitlines()[2]
    assert "energy, at most" in str(trained(activity=None)).splitlines()[0]


def test_updates_pulse_all_lines_for_the_length_of_a_train() -> None:
    found = trained().update
    slots = 4 * 31
    assert found.time == pytest.approx(2 * slots * C["pulse_time"])
    assert found.pulses == pytest.approx(slots * (50 + 35) * 0.1)
    assert found.coincidences == pytest.approx(slots * (600 + 150) * 0.01)
    energy = found.pulses * C["line_pulse_energy"] + found.coincidences * C["pulse_energy"]
    assert found.energy == pytest.approx(energy)


def test_a_transfer_programs_all_slow_devices_every_so_many_samples() -> None:
    found = trained(pg.presets.pcm_capacitor_training(every=1000)).transfer
    assert found.energy == pytest.approx(4 / 1000 * (600 + 150) * 2 * C["programming_energy"])
    assert trained().transfer.energy == 0.0


def test_digital_operators_of_the_backward_pass_are_counted() -> None:
    names = {part.operator.name for part in trained().forward.digital}
    assert {"tanh", "tanh_backward"} <= names


def test_totals_add_up() -> None:
    found = trained()
    assert found.time == pytest.approx(found.forward.latency + sum(part.time for part in found.parts))
    static = (2 * 1e-3 + 1e-2) * sum(part.time for part in found.parts)
    assert found.energy == pytest.approx(found.forward.energy + sum(part.energy for part in found.parts) + static)
    assert found.samples_per_joule == pytest.approx(4 / found.energy)
    assert found.samples_per_second == pytest.approx(4 / found.time)
    assert "an average, given: 0.1" in str(found)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"firing \(an argument\): for 2, 0"):
        _ = trained(firing=None).energy
    with pytest.raises(ValueError, match=r"pulse_time \[s\]"):
        _ = trained(technology=technology(pulse_time=None)).time


def test_a_net_that_is_not_trained_in_the_memory_is_refused() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(2, 2)), pg.presets.pcm_inference())
    with pytest.raises(ValueError, match="no layer has hardware with pulses"):
        estimate_training(net, torch.empty(1, 2))

"""The roofline of a digital accelerator, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.cost.technologies import converted, small, technology
from torch import nn

import phasegrad as pg
from phasegrad.configuration import from_json
from phasegrad.cost import Accelerator, Comparison, compare, estimate

GPU = {"throughput": 1e12, "efficiency": 1e12, "bandwidth": 1e11, "byte_energy": 5e-12}


def compared(vectors: int, **changes: Any) -> Comparison:
    net = converted(nn.Sequential(nn.Linear(100, 50, bias=False), nn.ReLU()))
    found = estimate(
        net, torch.empty(vectors, 100), technology=technology(partial_sums="local", hop_time=0.0), activity=0.2
    )
    return compare(found, Accelerator(**{**GPU, **changes}))


def test_few_vectors_are_bound_by_the_memory_of_weights() -> None:
    part = compared(1).parts[0]
    assert part.operations == 2 * 100 * 50
    assert part.bytes == 100 * 50 + 150
    assert part.bound == "memory"
    assert part.time == pytest.approx(5150 / 1e11)
    assert part.energy == pytest.approx(1e4 / 1e12 + 5150 * 5e-12)


def test_many_vectors_are_bound_by_arithmetic() -> None:
    part = compared(1000).parts[0]
    assert part.bound == "compute"
    assert part.time == pytest.approx(1e7 / 1e12)


def test_weights_that_fit_stay_on_the_chip() -> None:
    found = compared(1, on_chip=5000)
    assert found.weights_on_chip
    assert found.parts[0].bytes == 150
    assert not compared(1, on_chip=4999).weights_on_chip


def test_widths_scale_bytes() -> None:
    assert compared(1, weight_bits=4, activation_bits=16).parts[0].bytes == 100 * 50 / 2 + 150 * 2


def test_digital_operators_are_part_of_both() -> None:
    relu = compared(3).parts[1]
    assert (relu.name, relu.operations, relu.bytes) == ("relu", 150, 300)


def test_a_convolution_moves_images_and_not_patches() -> None:
    net = converted(nn.Sequential(nn.Conv2d(2, 4, 3, bias=False)))
    found = estimate(net, torch.empty(1, 2, 8, 8), technology=technology(), activity=0.2)
    part = compare(found, Accelerator(**GPU)).parts[0]
    assert part.bytes == 2 * 9 * 4 + 2 * 64 + 4 * 36


def test_an_embedding_reads_what_it_looks_up() -> None:
    net = nn.Sequential(pg.nn.AnalogEmbedding(100, 16, hardware=small()))
    found = estimate(net, torch.zeros(1, 3, dtype=torch.int64), technology=technology(), activity=0.2)
    part = compare(found, Accelerator(**GPU)).parts[0]
    assert (part.operations, part.bytes) == (0, 3 * 16 + 3 + 3 * 16)


def test_totals_and_ratios() -> None:
    found = compared(1)
    assert found.latency == pytest.approx(sum(part.time for part in found.parts))
    assert found.speedup == pytest.approx(found.latency / found.analog.latency)
    assert found.energy_ratio == pytest.approx(found.energy / found.analog.energy)


def test_the_table_states_the_assumptions() -> None:
    text = str(compared(1))
    assert "bandwidth = 1e+11 B/s (no source)" in text
    assert "8 bits per weight" in text
    assert "moved once per call" in text
    assert "times the speed" in text


def test_figures_are_checked_and_survive_json() -> None:
    found = Accelerator(**GPU)
    assert from_json(found.to_json()) == found
    with pytest.raises(ValueError, match="throughput = 0 op/s; it must be above 0"):
        Accelerator(**{**GPU, "throughput": 0.0})
    with pytest.raises(ValueError, match="weight_bits = 0"):
        Accelerator(**GPU, weight_bits=0)
    with pytest.raises(TypeError, match="estimate = 1"):
        compare(1, found)  # type: ignore[arg-type]

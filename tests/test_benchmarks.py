"""Figures of benchmarks say on which machine, and relative to what, they were measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import harness


def test_a_figure_prints_its_baseline_beside_the_ratio() -> None:
    figure = harness.Figure("step", 3.0, "ms", "nn.Linear", 2.0, 1.5, "at most 2")
    assert "1.50x of nn.Linear (2.000 ms)" in str(figure)


@pytest.mark.skipif(not Path("/sys/devices/system/cpu/cpu0/cache/index0").exists(), reason="no sysfs")
def test_the_machine_is_described_by_family_model_and_caches() -> None:
    machine = harness.machine()
    assert {"L1d", "L2"} <= set(machine["caches"])
    if "model name" in Path("/proc/cpuinfo").read_text():
        assert "family " in machine["processor"]
        assert "model " in machine["processor"]

"""Programming of devices: one statistical draw, and write-and-verify as a process."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.harness import Figure, median_time
from phasegrad.cells import SignificancePairs
from phasegrad.devices import melt_and_quench
from phasegrad.inference import AmplitudeSteps, ProgrammingMethod, Statistical, WriteVerify
from phasegrad.stores.device_array import DeviceArray

SIZE, ITERATIONS = 512, 30


def figures() -> list[Figure]:
    """Program 512 x 512 weights of four devices."""
    cell = SignificancePairs(device=melt_and_quench(), significances=(2.0, 1.0))
    torch.manual_seed(0)
    weight = torch.randn(SIZE, SIZE).mul_(0.3).clamp_(-1.0, 1.0)
    array = DeviceArray(cell, None, None, (SIZE, SIZE))
    now, seed = torch.zeros((), dtype=torch.float64), torch.tensor([0])

    def programming(method: ProgrammingMethod) -> Callable[[], object]:
        return lambda: method.write(array, weight, now, seed, (SIZE, SIZE))

    loop = WriteVerify(strategy=AmplitudeSteps(), iterations=ITERATIONS)
    once, process = median_time(programming(Statistical()), 5), median_time(programming(loop), 3)
    name, devices = f"{SIZE}x{SIZE} weights of 4 devices", 4 * SIZE * SIZE
    return [
        Figure(f"program {name}, statistical", once, "s", None, None, None, "-"),
        Figure(
            f"program {name}, {ITERATIONS} iterations", process, "s", "statistical", once, process / once, "at most 3 s"
        ),
        Figure("the same, per device", 1e9 * process / devices, "ns", None, None, None, "-"),
    ]

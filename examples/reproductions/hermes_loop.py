"""The programming loop of IBM's HERMES chips on a model of one core: 256 x 256 weights, 30 iterations.

Published: the weight error of one device per polarity has a standard deviation of 4.8 % (a multilayer perceptron) and
5.3 % (ResNet-9), with 100 % and 99.9 % of the weights converged (Khaddam-Aljameh 2022); two devices per polarity do
better (Le Gallo 2023). A core takes about 25 ms. Run from the root of the repository:

    python examples/reproductions/hermes_loop.py --out docs/results/hermes-loop
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any, Literal

import programming_results as results
import torch
from torch import Tensor

import phasegrad as pg
from phasegrad.cells import SignificancePairs
from phasegrad.devices import AmplitudeResponse, DeviceState, Table, hermes_one, hermes_two
from phasegrad.inference import DeviceSelection, Diagonals, WriteVerify

Full = Literal["read", "nominal"]
SIZE = 256
COUNT = 0.1e-6
"""Conductance of one count of the converter [S]: assumed, see ``ASSUMED``."""
SET, SET_SPREAD = 15e-6, 0.2
"""Median and log-spread of the SET conductance: assumed, see ``ASSUMED``."""
PUBLISHED = (0.048, 0.053)
PAPERS = (
    "Khaddam-Aljameh et al. 2022: sd of the weight error 4.8 % and 5.3 %, one device per polarity; Le Gallo et al. "
    "2023: two devices are better; about 25 ms a core for 30 iterations"
)
ASSUMED = {
    "count": "0.1 uS per count; the papers state the margin in counts (5) but no conductance per count. "
    "'alternatives' shows what 0.05 and 0.2 uS would give",
    "SET": "median 15 uS with a log-spread of 0.2: Le Gallo 2023 reports a wide SET distribution of which some devices "
    "miss G_max = 10.35 uS. 'alternatives' shows 12 and 30 uS",
    "curve": "50 to 500 uA, shape and offsets of AmplitudeResponse(): read off a plot, or assumed. The weakest pulse, "
    "125 uA, then no longer SETs a device fully, so targets just below a SET conductance are missed; 'alternatives' "
    "shows an onset of 125 uA",
    "read noise": "the published law up to G_max, constant above it, where it is not measured; each read draws it anew",
    "weights": "normal, cut off at two standard deviations, the largest at G_max; 'uniform' as a second case",
    "gain": "DeviceSelection's default; the papers say 'by the error'",
    "fitted": "nothing",
}


def device(set_conductance: float = SET, onset: float = 50e-6) -> pg.devices.PCM:
    """A HERMES device that can be programmed by the amplitude of pulses."""
    published = hermes_one()
    assert published.read_noise is not None
    g = tuple(i / 50 for i in range(1, 51))
    noise = Table(g=g, value=tuple(published.read_noise(torch.tensor(g)).tolist()))
    curve = AmplitudeResponse(set_conductance=set_conductance, set_sd=SET_SPREAD, onset=onset)
    return dataclasses.replace(published, read_noise=noise, amplitude=curve)


def weights(kind: str, seed: int) -> Tensor:
    """Weights ``[256, 256]`` in [-1, 1], of which the largest is 1."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "uniform":
        drawn = 2.0 * torch.rand(SIZE, SIZE, generator=generator) - 1.0
        return drawn / drawn.abs().max()
    return (torch.randn(SIZE, SIZE, generator=generator) / 2.0).clamp(-1.0, 1.0)


def program(
    cell: pg.cells.Cell, kind: str, seed: int, full: Full | None = None, count: float = COUNT
) -> dict[str, Any]:
    """Program one core by the loop, or statistically without ``full``; errors are parts of the largest weight."""
    hardware, asked = pg.Hardware(cell=cell, rows=SIZE, columns=SIZE, scale="tile"), weights(kind, seed)
    net = torch.nn.Sequential(torch.nn.Linear(SIZE, SIZE, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(asked)
    method = loop(full, count) if full else None
    chip = pg.inference.program(pg.convert(net, hardware), seed=seed, how=method)
    read = chip[0].devices.read_weight(torch.tensor([seed + 1]))
    errors = chip[0].weight.detach() - asked
    found = {"stored": float(errors.std()), "read": float((read - asked).std()), "errors": errors, "asked": asked}
    return found | (process(chip) if full else {})


def loop(full: Full, count: float) -> WriteVerify:
    """The loop of a core."""
    return WriteVerify(
        strategy=DeviceSelection(full=full), iterations=30, tolerance=5 * count, reads=1, read_time=512e-9,
        read_voltage=0.2, bits=10, full_scale=1023 * count, schedule=Diagonals(heads=32),
    )  # fmt: skip


def process(chip: torch.nn.Module) -> dict[str, float]:
    """What the loop of a chip of one core did."""
    (record,) = pg.inference.programming_record(chip).values()
    return {
        "converged": float(record.converged.all(dim=0).double().mean()),
        "seconds": float(record.time.max()),
        "joules": float(record.energy.sum()),
    }


def counted_yield(seed: int, samples: int = 100_000) -> float:
    """Devices that read less than 5 counts after RESET and more than 50 after SET, of a core without faults."""
    one, normals = device(), torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))
    assert one.amplitude is not None
    now, still = torch.zeros((), dtype=torch.float64), torch.zeros(samples)
    states = (torch.full((samples,), one.amplitude.reset_conductance), one.amplitude.fully_set(normals[1]))
    reset, full = (one.read(DeviceState(g, still), now, torch.tensor([seed]), 2 * i) for i, g in enumerate(states))
    return float(((reset < 5 * COUNT) & (full > 50 * COUNT)).double().mean())


def row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the results: the sd of the error of what is stored, over seeds, and the means of the rest."""
    stored = [r["stored"] for r in runs]
    others = {key: statistics.mean(r[key] for r in runs) for key in runs[0] if key not in ("stored", "errors", "asked")}
    return {"method": name, "mean": statistics.mean(stored), "sd": statistics.stdev(stored), **others}


def cases(set_conductance: float = SET, onset: float = 50e-6) -> dict[str, tuple[pg.cells.Cell, Full]]:
    """One and two devices per polarity, and both rules for two."""
    one = device(set_conductance, onset)
    pair, four = (SignificancePairs(device=one, significances=(1.0,) * n) for n in (1, 2))
    return {"1 device": (pair, "read"), "2 devices, read": (four, "read"), "2 devices, nominal": (four, "nominal")}


STATISTICAL = {"1 device, fit to the chip": hermes_one(), "2 devices, fit to the chip": hermes_two()}
"""Published fits to measurements of the chip, which the process should come close to."""


def all_runs(seeds: list[int]) -> dict[str, list[dict[str, Any]]]:
    """Every case and kind of weights, with all seeds."""
    runs = {}
    for kind in ("normal", "uniform"):
        for name, (cell, full) in cases().items():
            runs[f"{name}, {kind}"] = [program(cell, kind, seed, full) for seed in seeds]
        for name, fitted in STATISTICAL.items():
            pair = pg.cells.DifferentialPair(device=fitted)
            runs[f"{name}, {kind}"] = [program(pair, kind, seed) for seed in seeds]
    return runs


def alternatives(seed: int) -> dict[str, float]:
    """The sd of the error with other numbers in place of assumed ones."""
    cell, full = cases()["1 device"]
    found = {f"count {c * 1e6:g} uS": program(cell, "normal", seed, full, c)["stored"] for c in (0.05e-6, 0.2e-6)}
    changes = {"SET 12 uS": (12e-6, 50e-6), "SET 30 uS": (30e-6, 50e-6), "onset 125 uA": (SET, 125e-6)}
    for change, numbers in changes.items():
        for name, (cell, full) in cases(*numbers).items():
            found[f"{change}, {name}"] = program(cell, "normal", seed, full)["stored"]
    return found


def main() -> None:
    """Run all cases and write ``result.json`` and ``result.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = all_runs(options.seeds)
    result = {
        "experiment": "hermes-loop",
        "published": PAPERS,
        "seeds": options.seeds,
        "assumed": ASSUMED,
        "rows": [row(name, found) for name, found in runs.items()],
        "alternatives": alternatives(options.seeds[0]),
        "yield": counted_yield(options.seeds[0]),
        "float": None,
        "command": f"python examples/reproductions/hermes_loop.py --out {options.out}",
    }
    results.write(result, options.out)
    normal = {name.removesuffix(", normal"): found for name, found in runs.items() if name.endswith("normal")}
    results.draw_errors(normal, PUBLISHED, "sd of the weight error", options.out / "result.png")


if __name__ == "__main__":
    main()

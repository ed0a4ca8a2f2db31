"""Does the slope of activation functions that follows the mean drift keep a network accurate?

Published: networks on phase-change memory lose accuracy as devices drift; slope correction restores most of it for
about a year, and what remains is the spread of the exponents; the choice of the squashing function matters (Ambrogio et
al. 2019). Perceptrons with three activations are trained in float, programmed on many chips, and aged for five years.
Run from the root of the repository:

    python examples/reproductions/ambrogio_2019.py --out docs/results/ambrogio-2019
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import programming_results as results
from _small_nets import trained
from torch import nn

import phasegrad as pg
from phasegrad.inference import Report, SlopeCorrection, accuracy_over_time

PAPER = (
    "Ambrogio et al., IEDM 2019: conductance drift and the spread of its exponents degrade the accuracy of perceptrons "
    "(MNIST), ResNets and an LSTM over time; slope correction suppresses the degradation, for about a year"
)
ACTIVATIONS = {"ReLU": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
TIMES = (0.0, 3600.0, 86_400.0, 2.6e6, 3.15e7, 1.6e8)
METHODS = {"none": None, "slope correction": SlopeCorrection(), "calibration read per tile": "tile"}
HARDWARE = dataclasses.replace(pg.presets.pcm_inference(), dac=None, adc=None, output_noise=0.0, wires=None)
"""Devices alone: programming error, drift and read noise, behind ideal converters."""
ASSUMED = {
    "device": "the published statistics of joshi_2020; the paper's own device model is not public",
    "periphery": "ideal, so that nothing but the devices changes with time",
    "nets": "784-64-64-10, biases digital; the paper's perceptrons are larger",
    "slope": "multiplies the output of the tiles before the bias",
}


def main() -> None:
    """Train, measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("out/ambrogio-2019"))
    parser.add_argument("--chips", type=int, default=25)
    options = parser.parse_args()
    exact, reports = {}, {}
    for name, activation in ACTIVATIONS.items():
        net = trained(activation, HARDWARE, layers=2)
        exact[name] = net.exact
        for method, compensation in METHODS.items():
            reports[name, method] = accuracy_over_time(
                net.net, net.accuracy, TIMES, chips=options.chips, compensation=compensation, progress=False
            )
    rows = [row(f"{name}, {method}", report) for (name, method), report in reports.items()]
    results.write(
        {
            "experiment": "slope correction over five years",
            "published": PAPER,
            "assumed": ASSUMED,
            "times": list(TIMES),
            "seeds": list(range(options.chips)),
            "float": exact,
            "rows": rows,
            "curves": {
                f"{name}, {method}": report.mean().round(5).tolist() for (name, method), report in reports.items()
            },
            "command": "python examples/reproductions/ambrogio_2019.py --out docs/results/ambrogio-2019",
        },
        options.out,
    )
    draw(reports, exact, options.out / "result.png")


def row(name: str, report: Report) -> dict[str, Any]:
    """Accuracy after five years over chips, and its mean at each time."""
    a_year = list(report.times).index(3.15e7)
    mean, sd = report.mean(), report.sd()
    found = {"method": name, "mean": float(mean[-1]), "sd": float(sd[-1]), "after a year": float(mean[a_year])}
    return found | {"at programming": float(mean[0])}


def draw(reports: dict[tuple[str, str], Report], exact: dict[str, float], path: Path) -> None:
    """Draw the accuracy over time, one panel per activation, with the 5th to 95th percentile of chips."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(exact), figsize=(11.0, 3.6), sharey=True, layout="constrained")
    for axes, name in zip(panels, exact, strict=True):
        for colour, method in zip(results.COLOURS, METHODS, strict=False):
            report = reports[name, method]
            age = [t + 20.0 for t in report.times]
            axes.semilogx(age, 100 * report.mean(), "o-", ms=3, color=colour, label=method)
            low, high = 100 * report.quantile(0.05), 100 * report.quantile(0.95)
            axes.fill_between(age, low, high, color=colour, alpha=0.15, lw=0)
        axes.axhline(100 * exact[name], color="#404040", ls=":", label="float")
        axes.set(title=name, xlabel="time since programming + 20 s [s]")
    panels[0].set_ylabel("accuracy on test images [%]")
    panels[0].legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

"""How much accuracy do stuck devices cost on MNIST, and how much does programming around them save?

A fully connected network is fine-tuned for phase-change memory and programmed on chips whose devices are stuck at SET,
as they are, with the other device of each pair, with swapped columns, and with both. Writes FOLDER/result.json and
FOLDER/result.png.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from _fault_nets import KINDS, Trained, trained
from _report import at_least

import phasegrad as pg
from phasegrad.progress import track

WAYS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "columns swapped": ("columns",),
    "other device of a pair": ("pair",),
    "both": ("pair", "columns"),
}
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
COLOURS = ("#404040", "#0072b2", "#d55e00", "#009e73")


def main() -> None:
    """Train, measure, and write the results."""
    options = parse()
    net = trained(KINDS[0], options.data, test_images=options.test_images)
    print(f"{net.kind.name}: float {net.exact:.2%} of {options.test_images:,} test images", flush=True)
    measured = {way: measure(net, ways, options.chips) for way, ways in WAYS.items()}
    for way, values in measured.items():
        means = zip(RATES, values.mean(1), strict=True)
        print(f"{way:<24}" + "".join(f"  {rate:.1%}: {value:.2%}" for rate, value in means))
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "experiment": "faults",
        "rows": [
            {"method": way, "rate": rate, "mean": accuracies.mean(), "sd": accuracies.std(ddof=1)}
            for way, values in measured.items()
            for rate, accuracies in zip(RATES, values, strict=True)
        ],
        "float": net.exact,
        "seeds": list(range(options.chips)),
        "command": f"python examples/faults.py --chips {options.chips} --test-images {options.test_images}",
    }
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(measured, net.exact, options.out / "result.png")


def measure(net: Trained, ways: tuple[str, ...], chips: int) -> np.ndarray:
    """Accuracy of chips ``[rates, chips]`` that are programmed around devices stuck at SET."""
    values = np.empty((len(RATES), chips))
    with track(values.size, unit="chip", label=str(ways)) as bar:
        for i, rate in enumerate(RATES):
            faults = pg.devices.Faults(stuck_at_set=rate)
            for seed in range(chips):
                torch.manual_seed(seed)  # noise of reads
                chip = pg.inference.program(net.tuned, seed=seed, faults=faults, map_around=ways)
                values[i, seed] = net.accuracy(chip)
                bar.update()
    return values


def draw(measured: dict[str, np.ndarray], exact: float, path: Path) -> None:
    """Draw the mean accuracy and its 95 % interval against the rate."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(5.6, 3.8), dpi=160, layout="constrained")
        axes = figure.subplots()
        for (way, values), colour in zip(measured.items(), COLOURS, strict=True):
            margin = 1.96 * values.std(1, ddof=1) / math.sqrt(values.shape[1]) * 100.0
            rates = np.array(RATES) * 100.0
            axes.errorbar(rates, values.mean(1) * 100.0, margin, fmt="o-", ms=3, capsize=2, color=colour, label=way)
        axes.axhline(100.0 * exact, color="0.5", lw=0.8, ls="--", label="float")
        axes.set(xscale="log", xlabel="devices stuck at SET (%)", ylabel="accuracy on MNIST (%)")
        axes.grid(axis="y", color="0.92")
        axes.legend(frameon=False)
        figure.savefig(path)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/faults"), help="folder for the results")
    parser.add_argument("--data", type=Path, default=None, help="folder with the four MNIST files")
    parser.add_argument("--chips", type=at_least(2), default=10, help="chips per rate")
    parser.add_argument("--test-images", type=at_least(1), default=2000, help="test images")
    return parser.parse_args()


if __name__ == "__main__":
    main()

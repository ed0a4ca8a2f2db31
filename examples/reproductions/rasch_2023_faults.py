"""At which rate of stuck devices does a network on phase-change memory lose 1 % of its accuracy?

Networks of several kinds are fine-tuned for the hardware and programmed on chips whose devices are stuck at zero, at a
random conductance, or at the highest one. A chip is iso-accurate if it keeps 99 % of the float network's accuracy above
chance. Writes FOLDER/result.json and FOLDER/result.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _fault_nets import KINDS, Trained, trained

import phasegrad as pg
from phasegrad.progress import track
from reproductions.drawing import COLOURS

PUBLISHED = (
    "Rasch et al., Nat. Commun. 14:5282 (2023): networks that are retrained for the hardware stay within 1 % of the "
    "float accuracy up to 0.42 % of devices stuck at zero (the most sensitive convolutional network) or 3 to 4 % "
    "(recurrent networks); devices stuck at random or at the highest conductance matter at 0.05 % for convolutional "
    "networks"
)
FAULTS = {"zero": "stuck_at_reset", "random": "stuck_at_random", "highest": "stuck_at_set"}
RATES = {
    "zero": (0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08),
    "random": (0.0, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02),
    "highest": (0.0, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02),
}
CHANCE, ISO = 0.1, 0.99


def main() -> None:
    """Train, measure, and write the results."""
    options = parse()
    nets = [trained(kind, options.data, test_images=options.test_images) for kind in KINDS]
    rows, curves = [], {}
    for net in nets:
        print(f"{net.kind.name}: float {net.exact:.2%} of {options.test_images:,} test images", flush=True)
        for stuck in FAULTS:
            kept = measure(net, stuck, options.draws)
            curves[f"{net.kind.name}: {stuck}"] = kept.tolist()
            rows.append(row(net, stuck, kept))
            print(f"  {describe(rows[-1])}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    exact = {net.kind.name: net.exact for net in nets}
    text = json.dumps(summary(rows, curves, exact, options), indent=1, allow_nan=False)
    (options.out / "result.json").write_text(text + "\n")
    draw(curves, options.out / "result.png")


def measure(net: Trained, stuck: str, draws: int) -> np.ndarray:
    """The part of the float accuracy above chance that each chip keeps, ``[rates, draws]``."""
    rates = RATES[stuck]
    kept = np.empty((len(rates), draws))
    with track(kept.size, unit="chip", label=f"{net.kind.name}, {stuck}") as bar:
        for i, rate in enumerate(rates):
            faults = pg.devices.Faults(**{FAULTS[stuck]: rate})
            for seed in range(draws):  # the same seeds at each rate: devices are added to those of lower rates
                torch.manual_seed(seed)  # noise of reads
                accuracy = net.accuracy(pg.inference.program(net.tuned, seed=seed, faults=faults))
                kept[i, seed] = (accuracy - CHANCE) / (net.exact - CHANCE)
                bar.update()
    return kept


def threshold(rates: Sequence[float], mean: np.ndarray, iso: float) -> float:
    """The rate at which a mean falls below a level, interpolated linearly; infinite if it does not."""
    below = np.flatnonzero(mean < iso)
    if not len(below):
        return math.inf
    i = int(below[0])
    if i == 0:
        return 0.0
    return rates[i - 1] + (rates[i] - rates[i - 1]) * (mean[i - 1] - iso) / (mean[i - 1] - mean[i])


def bootstrap(rates: Sequence[float], kept: np.ndarray, *, of_chips: bool, repeats: int = 2000) -> np.ndarray:
    """Thresholds of resampled chips; ``of_chips``: 99 % of what chips without faults keep, not of float."""
    picked = np.random.default_rng(0).integers(kept.shape[1], size=(repeats, kept.shape[1]))
    means = kept[:, picked].mean(2).T
    return np.array([threshold(rates, mean, ISO * (mean[0] if of_chips else 1.0)) for mean in means])


def row(net: Trained, stuck: str, kept: np.ndarray) -> dict[str, Any]:
    """The thresholds of one network and kind of fault, against float and against chips without faults."""
    found: dict[str, Any] = {"method": f"{net.kind.name}, stuck at {stuck}", "without_faults": kept[0].mean()}
    mean = kept.mean(1)
    for name, of_chips in (("of_float", False), ("of_chips_without_faults", True)):
        value = threshold(RATES[stuck], mean, ISO * (mean[0] if of_chips else 1.0))
        samples = bootstrap(RATES[stuck], kept, of_chips=of_chips)
        low, high = (finite(v) for v in np.quantile(samples, (0.025, 0.975), method="nearest"))
        found[name] = {"rate": finite(value), "interval": [low, high]}
    samples = bootstrap(RATES[stuck], kept, of_chips=False)
    sd = float(samples.std()) if np.isfinite(samples).all() else None
    return {**found, "mean": found["of_float"]["rate"], "sd": sd}


def finite(value: float) -> float | None:
    """A number for JSON; ``None`` where no rate that was measured reaches the threshold."""
    return float(value) if math.isfinite(value) else None


def describe(of: dict[str, Any]) -> str:
    """A row in words."""

    def rate(value: float | None) -> str:
        return "more than measured" if value is None else f"{value:.2%}"

    parts = [
        f"{name.replace('_', ' ')} {rate(of[name]['rate'])} [{', '.join(map(rate, of[name]['interval']))}]"
        for name in ("of_float", "of_chips_without_faults")
    ]
    return f"{of['method']}: 99 % {'; '.join(parts)}; without faults {of['without_faults']:.4f}"


def summary(rows: list[dict[str, Any]], curves: dict[str, Any], exact: Any, options: Any) -> dict[str, Any]:
    """Content of ``result.json``."""
    return {
        "experiment": "rasch-2023-faults",
        "published": PUBLISHED,
        "chosen": "nothing: the first settings that were tried",
        "measured": "the rate of stuck devices at which chips keep on average 99 % of the accuracy above chance, just "
        "after programming, with the 95 % interval of a bootstrap over chips",
        "seeds": list(range(options.draws)),
        "test_images": options.test_images,
        "rows": rows,
        "float": exact,
        "rates": RATES,
        "kept": curves,
        "command": f"python examples/reproductions/rasch_2023_faults.py --draws {options.draws} --test-images "
        f"{options.test_images}",
    }


def draw(curves: dict[str, list[list[float]]], path: Path) -> None:
    """Draw the mean over chips and its 95 % interval against the rate, one panel per kind of fault."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11.0, 3.8), dpi=160, layout="constrained")
        for axes, stuck in zip(figure.subplots(1, 3, sharey=True), FAULTS, strict=True):
            for kind, colour in zip(KINDS, COLOURS[1:], strict=False):
                kept = np.array(curves[f"{kind.name}: {stuck}"]) * 100.0
                rates = np.array(RATES[stuck]) * 100.0
                rates[0] = rates[1] / 3.0  # the logarithmic axis has no 0
                margin = 1.96 * kept.std(1, ddof=1) / math.sqrt(kept.shape[1])
                axes.errorbar(rates, kept.mean(1), margin, fmt="o-", ms=3, color=colour, label=kind.name, capsize=2)
            axes.axhline(100.0 * ISO, color="0.5", lw=0.8, ls="--")
            axes.set(
                xscale="log", xlabel="stuck devices (%); leftmost: none", title=f"stuck at {stuck}", ylim=(88, 101)
            )
            axes.grid(axis="y", color="0.92")
        figure.axes[0].set_ylabel("accuracy kept, above chance (%)")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.savefig(path)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/rasch-2023-faults"), help="folder")
    parser.add_argument("--data", type=Path, default=None, help="folder with the data sets; without it the cache")
    parser.add_argument("--draws", type=int, default=10, help="chips per rate")
    parser.add_argument("--test-images", type=int, default=1000, help="test images")
    return parser.parse_args()


if __name__ == "__main__":
    main()

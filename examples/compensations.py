"""What does each compensation save of a network's accuracy over five years on phase-change memory?

Trains a small perceptron with batch norms in float, programs it on many chips, and ages and compensates each. Writes
OUT.png and OUT.json:

    python examples/compensations.py --out docs/images/compensation --chips 10
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _small_nets import Trained, calibrated_hardware, trained
from torch import nn

from phasegrad.inference import (
    AdaBS,
    PercentileRanges,
    ReferenceColumns,
    Report,
    SlopeCorrection,
    accuracy_over_time,
    format_time,
)

TIMES = (0.0, 3600.0, 86_400.0, 2.6e6, 3.15e7, 1.6e8)
COLOURS = ("#404040", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999900")


def main() -> None:
    """Measure every compensation, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("out/compensation"))
    parser.add_argument("--chips", type=int, default=25)
    options = parser.parse_args()
    net = trained(nn.ReLU, calibrated_hardware(), hidden=48, layers=2, batch_norm=True)
    reports = {}
    for name, settings in cases(net).items():
        reports[name] = accuracy_over_time(
            net.net, net.accuracy, TIMES, chips=options.chips, progress=False, **settings
        )
        shown = ", ".join(f"{format_time(t)} {m:.2%}" for t, m in zip(TIMES, reports[name].mean(), strict=True))
        print(f"{name}: {shown}; sd {reports[name].sd()[-1]:.2%}", flush=True)
    result = {
        "float": net.exact,
        "times": TIMES,
        "chips": options.chips,
        "rows": {n: {"mean": r.mean().round(5).tolist(), "sd": r.sd().round(5).tolist()} for n, r in reports.items()},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    draw(reports, net.exact, options.out.with_suffix(".png"))


def cases(net: Trained) -> dict[str, dict[str, Any]]:
    """Arguments of ``accuracy_over_time`` by name."""
    adabs, ranges = AdaBS(net.batches), PercentileRanges(net.batches, fraction=0.01)
    return {
        "none": {"compensation": None},
        "slope correction": {"compensation": SlopeCorrection()},
        "tile": {"compensation": "tile"},
        "column": {"compensation": "column"},
        "reference columns": {"compensation": ReferenceColumns(count=1)},
        "AdaBS": {"compensation": adabs},
        "tile, AdaBS, ranges": {"compensation": ("tile", adabs, ranges)},
        "tile, refresh monthly": {"compensation": "tile", "refresh": 2.6e6},
    }


def draw(reports: dict[str, Report], exact: float, path: Path) -> None:
    """Draw the mean over chips, and its spread after five years where a compensation acts."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11.0, 4.0), width_ratios=(1.5, 1.0), layout="constrained")
    for i, ((name, report), colour) in enumerate(zip(reports.items(), COLOURS, strict=True)):
        left.semilogx([t + 20.0 for t in TIMES], 100 * report.mean(), "o-", ms=3, color=colour, label=name)
        if name != "none":  # far outside the range of the others
            right.errorbar(100 * report.mean()[-1], i, xerr=100 * report.sd()[-1], fmt="D", color=colour, capsize=4)
    for axes in (left.axhline, right.axvline):
        axes(100 * exact, color="#404040", ls=":")
    left.set(xlabel="time since programming + 20 s [s]", ylabel="accuracy on test images [%]")
    left.legend(frameon=False, loc="lower left", fontsize=8)
    right.set(xlabel="accuracy after five years, mean and sd over chips [%]", yticks=range(1, len(reports)))
    right.set_yticklabels(list(reports)[1:])
    right.invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

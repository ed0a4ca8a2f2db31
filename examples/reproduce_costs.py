"""Compare what the cost model computes for published PCM chips with what was published.

Writes FOLDER/result.json and FOLDER/result.png. Each figure says whether a constant was fitted to it or whether it is
predicted; ``docs/cost-of-published-chips.md`` discusses them. Nothing is trained, so this takes seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from reproductions import published_chips
from reproductions.published_chips import AGES, DAY, Figure

import phasegrad as pg


def main() -> None:
    """Compute all figures, print them, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of weights and devices")
    parser.add_argument("--out", type=Path, default=Path("docs/results/published-chips"), help="folder for the results")
    options = parser.parse_args()
    figures = published_chips.figures()
    for f in figures:
        print(f"{f.name}: {f.computed:.4g} {f.unit}, published {f.published:g} ({f.error:+.1%}, {f.origin})")
    aged = published_chips.gains(options.seeds)
    for row in aged:
        print(f"{row['method']}: {row['mean']:+.1%}, with static power {row['with_static_power']:+.1%}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "result.json").write_text(json.dumps(summary(figures, aged, options.seeds), indent=1) + "\n")
    draw(figures, aged, options.out / "result.png")


def summary(figures: list[Figure], aged: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    """Content of ``result.json``."""
    rows = [
        {
            "method": f.name, "unit": f.unit, "mean": f.computed, "sd": None, "published": f.published,
            "origin": f.origin, "error": f.error,
        }
        for f in figures
    ]  # fmt: skip
    technologies = {
        "hermes_core": pg.cost.hermes_core(), "hermes_64_core": pg.cost.hermes_64_core(),
        "ambrogio_2023": pg.cost.ambrogio_2023(),
    }  # fmt: skip
    return {
        "experiment": "published-chips",
        "published": "Khaddam-Aljameh et al., IEEE J. Solid-State Circuits 57 (2022); Le Gallo et al., Nat. Electron. "
        "6 (2023); Ambrogio et al., Nature 620 (2023); Frank et al., IRPS (2023), for the gain with age",
        "chosen": "one constant for each figure of origin fitted, among them the columns of a tile that are used: "
        f"{published_chips.USED_COLUMNS} of 512, for 7.09 TOPS/W",
        "seeds": seeds,
        "rows": rows + aged,
        "float": None,
        "degrees_of_freedom": sum(f.origin == "predicted" for f in figures),
        "ages": AGES,
        "technologies": {name: json.loads(t.to_json()) for name, t in technologies.items()},
        "command": f"python examples/reproduce_costs.py --seeds {' '.join(map(str, seeds))}",
        "versions": {"phasegrad": pg.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def draw(figures: list[Figure], aged: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratio of every figure to the published one, and the gain with age."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        canvas = Canvas(figsize=(11.0, 5.4), dpi=160, layout="constrained")
        ratios, ages = canvas.subplots(1, 2, width_ratios=[1.2, 1.0])
        for origin, face in (("fitted", "white"), ("predicted", "#0072b2")):
            points = [(100.0 * f.error, -i) for i, f in enumerate(figures) if f.origin == origin]
            ratios.plot(*zip(*points, strict=True), "o", color="#0072b2", mfc=face, ms=5, label=origin)
        ratios.axvline(0.0, color="0.7", lw=0.8, zorder=0)
        ratios.set_yticks([-i for i in range(len(figures))], [f"{f.name}: {f.published:g} {f.unit}" for f in figures])
        ratios.set_xlabel("deviation from the published figure (%)")
        ratios.legend(frameon=False, loc="lower left")
        ages.axhspan(3.0, 15.0, xmin=0.96, color="0.85", label="Frank et al.: 3 to 15 %")
        for row, colour in zip(aged, ("#d55e00", "#0072b2", "#009e73") * len(aged), strict=False):
            style = "--" if row["method"].startswith("HERMES") else "-"
            label = row["method"].partition(":")[0]
            ages.semilogx([a / DAY for a in AGES], [100.0 * g for g in row["by_age"]], style, color=colour, label=label)
        ages.set(xlabel="age (days)", ylabel="gain in efficiency of a product since day 1 (%)")
        ages.legend(frameon=False)
        canvas.savefig(path)


if __name__ == "__main__":
    main()

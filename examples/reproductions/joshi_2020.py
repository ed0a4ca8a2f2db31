"""Iterative programming of PCM devices, and the spread that it leaves (Joshi et al. 2020).

    python examples/reproductions/joshi_2020.py --out docs/results/joshi-2020

11 levels from 0 to 25 uS, 10,000 devices each: at most 55 iterations of 1 us pulses, verified by the mean of 5 reads
within 0.25 uS. Published: more than 99.1 % of the devices with a target converge, and the standard deviation of each
level, measured afterwards, is below 1.2 uS. Section "Methods" of the paper gives a polynomial for it, which is
the statistical programming error of ``devices.joshi_2020``; here the same spread must come out of pulses and reads.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import phasegrad as pg
from phasegrad.devices import joshi_2020, melt_and_quench

LEVELS, DEVICES = 11, 10_000
PUBLISHED = (
    "Joshi et al. 2020, Nat. Commun. 11, 2473: 99.1 % or more of the devices with a target converge; the standard "
    "deviation of every level is below 1.2 uS, with a median of 0.94 uS"
)


def programmed(devices: int, seed: int) -> tuple[pg.nn.AnalogLinear, torch.Tensor]:
    """A chip with ``devices`` pairs at each level of weights from 0 to 1, and the levels [S]."""
    hardware = pg.Hardware(cell=pg.cells.DifferentialPair(device=melt_and_quench()), scale="tile", columns=1 << 14)
    net = pg.convert(nn.Linear(LEVELS, devices, bias=False), hardware)
    levels = torch.linspace(0.0, 1.0, LEVELS)
    with torch.no_grad():
        net.weight.copy_(levels)
    how = pg.inference.WriteVerify(strategy=pg.inference.AmplitudeSteps())
    chip = cast("pg.nn.AnalogLinear", pg.inference.program(net, seed=seed, how=how))
    return chip, levels * melt_and_quench().g_max


def rows_of(devices: int, seed: int) -> list[dict[str, Any]]:
    """Figures of every level."""
    chip, levels = programmed(devices, seed)
    record, array = pg.inference.programming_record(chip)[""], chip.devices
    assert array is not None
    read = array.read(array.clock, torch.tensor([seed + 1]))[0]
    law = joshi_2020()
    rows = []
    for i, level in enumerate(levels.tolist()):
        polynomial = sum(c * (level / law.g_max) ** k for k, c in enumerate(law.programming_sd))
        rows.append(
            {
                "level_uS": 1e6 * level,
                "converged": float(record.converged[0, :, i].double().mean()),
                "pulses": float(record.pulses[0, :, i].double().mean()),
                "mean_uS": 1e6 * float(read[:, i].double().mean()),
                "sd_uS": 1e6 * float(read[:, i].double().std()),
                "sd_without_read_noise_uS": 1e6 * float(array.conductance[0, :, i].double().std()),
                "published_sd_uS": 1e6 * polynomial,
            }
        )
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the spread and the number of pulses against the target."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    level = [row["level_uS"] for row in rows]
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8.4, 3.4), dpi=160, layout="constrained")
        spread, pulses = figure.subplots(1, 2, width_ratios=[3.0, 2.0])
        spread.plot(level, [row["published_sd_uS"] for row in rows], "k-", label="published law")
        spread.plot(level, [row["sd_uS"] for row in rows], "o-", color="#0072b2", label="pulses and reads")
        inner = [row["sd_without_read_noise_uS"] for row in rows]
        spread.plot(level, inner, "o--", ms=3, color="#56b4e9", label="the same, without the noise of the last read")
        spread.set(xlabel="target (uS)", ylabel="standard deviation (uS)", ylim=(0.0, 1.45))
        spread.legend(frameon=False, fontsize=9, loc="upper left")
        pulses.plot(level, [row["pulses"] for row in rows], "o-", color="#d55e00")
        pulses.set(xlabel="target (uS)", ylabel="pulses per device, with the RESET", ylim=(0.0, None))
        for axes in (spread, pulses):
            axes.grid(axis="y", color="0.9")
        figure.savefig(path)


def main() -> None:
    """Program the levels, print the figures, and keep them with a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/joshi-2020"), help="folder of result.json and result.png")
    parser.add_argument("--devices", type=int, default=DEVICES, help="devices per level")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = rows_of(options.devices, options.seed)
    print("target  converged  pulses    mean      sd  published sd (uS)")
    for row in rows:
        print(
            f"{row['level_uS']:6.1f}  {100.0 * row['converged']:8.2f}%  {row['pulses']:6.1f}  {row['mean_uS']:6.2f}  "
            f"{row['sd_uS']:6.3f}  {row['published_sd_uS']:6.3f}"
        )
    asked = rows[1:]
    converged = statistics.mean(row["converged"] for row in asked)
    median = statistics.median(row["sd_uS"] for row in asked)
    print(f"{100.0 * converged:.2f} % of the devices with a target converged; median sd {median:.3f} uS")
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "experiment": "joshi-2020",
        "published": PUBLISHED,
        "assumed": "the spreads of AmplitudeResponse, and the gain of the rule",
        "seeds": [options.seed],
        "rows": [
            {"method": f"{row['level_uS']:.1f} uS", "mean": row["mean_uS"], "sd": row["sd_uS"], **row} for row in rows
        ],
        "converged": converged,
        "median_sd_uS": median,
        "float": None,
        "command": "python examples/reproductions/joshi_2020.py --out docs/results/joshi-2020",
    }
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(rows, options.out / "result.png")


if __name__ == "__main__":
    main()

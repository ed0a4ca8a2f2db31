"""Programming by the error of products, next to write-and-verify (Büchel et al. 2023).

    python examples/reproductions/buchel_2023.py --out docs/results/buchel-2023

A tile of 128 x 128 random weights is programmed by one draw from measured statistics, by write-and-verify of every
device, and by gradient descent on the error of products of random inputs, which reads no single device. The published
claim is that the last lowers the error of products, because it corrects what products see: also wires and converters.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import phasegrad as pg
from phasegrad.crossbar import Adc, Dac, FixedRange, Wires

SIZE, INPUTS = 128, 2000
METHODS: dict[str, pg.inference.ProgrammingMethod] = {
    "statistical": pg.inference.Statistical(),
    "write-and-verify": pg.inference.WriteVerify(strategy=pg.inference.AmplitudeSteps()),
    "gradient descent": pg.inference.GradientDescent(),
}


def hardware() -> dict[str, pg.Hardware]:
    """The tile alone, with converters and output noise, and with wires."""
    cell = pg.cells.DifferentialPair(device=pg.devices.melt_and_quench())
    ideal = pg.Hardware(cell=cell, rows=SIZE, columns=SIZE, scale="tile")
    converters = {"dac": Dac(bits=8, range=FixedRange(value=1.0)), "adc": Adc(bits=8, range=FixedRange(value=10.0))}
    return {
        "devices alone": ideal,
        "converters of 8 bits": dataclasses.replace(ideal, output_noise=0.04, **converters),
        "wires of 1 ohm": dataclasses.replace(ideal, wires=Wires(word_line=1.0, bit_line=1.0)),
    }


@torch.no_grad()
def product_error(tile: pg.Hardware, how: pg.inference.ProgrammingMethod, seed: int) -> tuple[float, float]:
    """The root mean square error of products over that of the products, and the seconds of CPU time."""
    torch.manual_seed(seed)
    net = pg.convert(torch.nn.Linear(SIZE, SIZE, bias=False), tile)
    net.weight.copy_((torch.randn(SIZE, SIZE) / 3.0).clamp(-1.0, 1.0))
    x = torch.rand(INPUTS, SIZE) * 2.0 - 1.0
    wanted, start = x @ net.weight.t(), time.process_time()
    chip = pg.inference.program(net, seed=seed, how=how)
    seconds = time.process_time() - start
    return float(((chip(x) - wanted).square().mean() / wanted.square().mean()).sqrt()), seconds


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the errors of every method on every tile."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    tiles = list(dict.fromkeys(row["tile"] for row in rows))
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7.0, 3.4), dpi=160, layout="constrained")
        axes = figure.subplots()
        for i, (name, colour) in enumerate(zip(METHODS, ("#808080", "#0072b2", "#d55e00"), strict=True)):
            of_name = [row for row in rows if row["method"] == f"{name}, {row['tile']}"]
            places = [n + 0.26 * (i - 1) for n in range(len(tiles))]
            axes.bar(places, [100.0 * r["mean"] for r in of_name], 0.24, color=colour, label=name)
            axes.errorbar(places, [100.0 * r["mean"] for r in of_name], [100.0 * r["sd"] for r in of_name], fmt="none",
                          ecolor="black", capsize=2)  # fmt: skip
        axes.set_xticks(range(len(tiles)), tiles)
        axes.set_ylabel("error of products (%)")
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(path)


def main() -> None:
    """Program every tile with every method, print the figures, and keep them with a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("out/buchel-2023"), help="folder of result.json and result.png"
    )
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for tile, one in hardware().items():
        for name, how in METHODS.items():
            found = [product_error(one, how, seed) for seed in range(options.seeds)]
            errors = [error for error, _ in found]
            sd = statistics.stdev(errors) if len(errors) > 1 else 0.0
            row = {"method": f"{name}, {tile}", "tile": tile, "mean": statistics.mean(errors), "sd": sd}
            rows.append({**row, "seconds": statistics.mean(seconds for _, seconds in found)})
            print(f"{row['method']:40}  error of products {100.0 * row['mean']:5.2f} +- {100.0 * sd:.2f} %", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "experiment": "buchel-2023",
        "published": "Büchel et al. 2023: gradient-descent programming lowers the error of products (no figure used)",
        "seeds": list(range(options.seeds)),
        "rows": rows,
        "float": None,
        "command": "python examples/reproductions/buchel_2023.py --out docs/results/buchel-2023",
    }
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(rows, options.out / "result.png")


if __name__ == "__main__":
    main()

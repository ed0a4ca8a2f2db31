"""Published results of training in the memory, on real MNIST: each beside a float net of the same start and schedule.

Writes FOLDER/EXPERIMENT/result.json and result.png. Nothing is chosen on the test images: the learning rate and its
decay are those of the float net.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _data import DataUnavailableError, Mnist, mnist
from mnist_in_memory import network, train

import phasegrad as pg


@dataclass(frozen=True)
class Experiment:
    """A published result, and how it is run here."""

    published: str
    layers: tuple[int, ...]
    method: str
    preset: Callable[[], pg.Hardware]
    optimiser: Callable[..., torch.optim.Optimizer]
    epochs: int = 10
    batch: int = 10
    lr: float = 0.1
    decay: float = 0.9


EXPERIMENTS = {
    "gokmen-vlasov-2016": Experiment(
        published="Gokmen and Vlasov, Front. Neurosci. 10:333 (2016): 784-256-128-10 on devices of 1,200 steps, with "
        "30 % of variation, is within 0.6 points of float",
        layers=(784, 256, 128, 10),
        method="stochastic pulses",
        preset=pg.presets.constant_step_training,
        optimiser=pg.optim.AnalogSGD,
    ),
    "nandakumar-2020": Experiment(
        published="Nandakumar et al., Front. Neurosci. 14:406 (2020): mixed precision on PCM pairs, 784-250-10, "
        "97.73 %, within 0.6 points of software",
        layers=(784, 250, 10),
        method="mixed precision",
        # Of 0.3, 0.6, 0.9, 1.2 and 2, on 10,000 training images held out from 20,000: 0.6 to 1.2 are alike.
        preset=functools.partial(pg.presets.pcm_pair_training, weight_max=0.9),
        optimiser=pg.optim.MixedPrecision,
    ),
}


def main() -> None:
    """Run the experiments that were asked for."""
    options = parse()
    try:
        data = mnist(options.data)
    except DataUnavailableError as error:
        sys.exit(str(error))
    for name in options.experiment or EXPERIMENTS:
        run(name, EXPERIMENTS[name], data, options.seeds, options.out / name)


def run(name: str, experiment: Experiment, data: Mnist, seeds: list[int], folder: Path) -> None:
    """Train every seed in float and in the memory; keep figures and picture."""
    curves: dict[str, list[list[float]]] = {"float": [], experiment.method: []}
    for seed in seeds:
        settings = argparse.Namespace(
            epochs=experiment.epochs, batch=experiment.batch, lr=experiment.lr, decay=experiment.decay, seed=seed,
            train_images=len(data.train_images),
        )  # fmt: skip
        torch.manual_seed(seed)
        start = network(list(experiment.layers))
        analog = pg.convert(start, experiment.preset())
        print(f"{name}, seed {seed}", flush=True)
        curves["float"].append(train(start, data, settings, torch.optim.SGD))
        curves[experiment.method].append(train(analog, data, settings, experiment.optimiser))
    rows = [
        {"method": method, "mean": statistics.mean(last), "sd": statistics.stdev(last) if len(last) > 1 else None,
         "accuracies": last}
        for method, last in ((m, [curve[-1] for curve in c]) for m, c in curves.items())
    ]  # fmt: skip
    result = {
        "experiment": name,
        "published": experiment.published,
        "seeds": seeds,
        "rows": rows,
        "float": rows[0]["mean"],
        "curves": curves,
        "hardware": json.loads(experiment.preset().to_json()),
        "settings": {k: getattr(experiment, k) for k in ("layers", "epochs", "batch", "lr", "decay")},
        "versions": {"phasegrad": pg.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "command": f"python examples/reproduce.py {name} --seeds {' '.join(map(str, seeds))}",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(curves, folder / "result.png")
    for row in rows:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.2%}"
        print(f"{row['method']}: {row['mean']:.2%}{spread}", flush=True)


def draw(curves: dict[str, list[list[float]]], path: Path) -> None:
    """Test accuracy by epoch: mean over the seeds, and their range."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(5.0, 3.4), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        for (method, seeds), colour in zip(curves.items(), ("#404040", "#0072b2"), strict=True):
            by_epoch = [[100.0 * a for a in epoch] for epoch in zip(*seeds, strict=True)]
            epochs = range(1, len(by_epoch) + 1)
            axes.plot(epochs, [statistics.mean(e) for e in by_epoch], "o-", ms=4, color=colour, label=method)
            axes.fill_between(
                epochs, [min(e) for e in by_epoch], [max(e) for e in by_epoch], color=colour, alpha=0.2, lw=0
            )
        axes.set(xlabel="epoch", ylabel="MNIST test accuracy (%)")
        axes.grid(axis="y", color="0.9")
        axes.legend(frameon=False)
        figure.savefig(path)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ", ".join(EXPERIMENTS)
    parser.add_argument("experiment", nargs="*", help=f"any of {names}; all of them if left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=None, help="folder with the MNIST files; fetched if left out")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    options = parser.parse_args()
    unknown = [name for name in options.experiment if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"there is no experiment {', '.join(unknown)}; there are {names}")
    return options


if __name__ == "__main__":
    main()

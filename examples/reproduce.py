"""Reproduce published results of in-memory training on MNIST, each with a float net as its baseline.

The float net has the same initial weights and schedule. Writes FOLDER/EXPERIMENT/result.json and result.png. No setting
is chosen on the test images: each module in ``reproductions`` documents its choices and the images they were made on.
To choose settings, ``--hold-out N --lr RATE`` tests on the last N training images and writes to another folder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from _data import DataUnavailableError, Mnist, mnist
from reproductions import EXPERIMENTS
from reproductions.running import run


def main() -> None:
    """Run the selected experiments."""
    options = parse()
    try:
        data = mnist(options.data)
    except DataUnavailableError as error:
        sys.exit(str(error))
    folder, trial = Path("docs/results"), ""
    if options.hold_out:
        data, folder = held_out(data, options.hold_out), Path("out/held_out")
        trial = f" --hold-out {options.hold_out}" + (f" --lr {options.lr}" if options.lr else "")
    for name in options.experiment or EXPERIMENTS:
        experiment = EXPERIMENTS[name]
        if options.lr:
            experiment = replace(experiment, methods=tuple(replace(m, lr=options.lr) for m in experiment.methods))
        seeds = options.seeds or list(experiment.seeds)
        run(name, experiment, data, seeds, (options.out or folder) / name, options.jobs, trial)


def held_out(data: Mnist, n: int) -> Mnist:
    """Replace the test images by the last ``n`` training images."""
    return Mnist(data.train_images[:-n], data.train_labels[:-n], data.train_images[-n:], data.train_labels[-n:])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ", ".join(EXPERIMENTS)
    parser.add_argument("experiment", nargs="*", help=f"any of {names}; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=None, help="seeds; those of the experiment by default")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, each in a process with one thread")
    parser.add_argument("--hold-out", type=int, default=0, help="number of training images to test on")
    parser.add_argument(
        "--lr", type=float, default=None, help="with --hold-out: learning rate of all methods except float"
    )
    parser.add_argument("--data", type=Path, default=None, help="folder with the MNIST files; fetched by default")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for the results; docs/results or out/held_out by default"
    )
    options = parser.parse_args()
    unknown = [name for name in options.experiment if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"there is no experiment {', '.join(unknown)}; choose from {names}")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: it must be at least 1")
    if options.lr and not options.hold_out:
        parser.error(f"--lr {options.lr}: choose settings with --hold-out, not on the test images")
    return options


if __name__ == "__main__":
    main()

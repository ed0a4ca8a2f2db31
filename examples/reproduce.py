"""Published results of training in the memory, on real MNIST: each beside a float net of the same start and schedule.

Writes FOLDER/EXPERIMENT/result.json and result.png. Nothing is chosen on the test images: each experiment's module in
``reproductions`` says what was chosen, and on which images. To choose, ``--hold-out N --lr RATE`` lets the last N
training images stand in for the test images, and keeps what it finds elsewhere.
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
    """Run the experiments that were asked for."""
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
    """The last ``n`` training images in place of the test images."""
    return Mnist(data.train_images[:-n], data.train_labels[:-n], data.train_images[-n:], data.train_labels[-n:])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ", ".join(EXPERIMENTS)
    parser.add_argument("experiment", nargs="*", help=f"any of {names}; all of them if left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=None, help="the experiment's own if left out")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process with one thread")
    parser.add_argument("--hold-out", type=int, default=0, help="training images that stand in for the test images")
    parser.add_argument("--lr", type=float, default=None, help="with --hold-out: the rate of all methods but float")
    parser.add_argument("--data", type=Path, default=None, help="folder with the MNIST files; fetched if left out")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results: docs/results, or out/held_out")
    options = parser.parse_args()
    unknown = [name for name in options.experiment if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"there is no experiment {', '.join(unknown)}; there are {names}")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: one at least")
    if options.lr and not options.hold_out:
        parser.error(f"--lr {options.lr}: settings are tried with --hold-out, not on the test images")
    return options


if __name__ == "__main__":
    main()

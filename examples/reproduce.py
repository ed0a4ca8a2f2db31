"""Published results of training in the memory, on real MNIST: each beside a float net of the same start and schedule.

Writes FOLDER/EXPERIMENT/result.json and result.png. Nothing is chosen on the test images: each experiment's module in
``reproductions`` says what was chosen, and on which images. With ``--hold-out`` the last of the training images stand
in for the test images, so that settings can be compared.
"""

from __future__ import annotations

import argparse
import sys
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
    if options.hold_out:
        data = held_out(data, options.hold_out)
    for name in options.experiment or EXPERIMENTS:
        experiment = EXPERIMENTS[name]
        run(name, experiment, data, options.seeds or list(experiment.seeds), options.out / name, options.jobs)


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
    parser.add_argument("--data", type=Path, default=None, help="folder with the MNIST files; fetched if left out")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    options = parser.parse_args()
    unknown = [name for name in options.experiment if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"there is no experiment {', '.join(unknown)}; there are {names}")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: one at least")
    return options


if __name__ == "__main__":
    main()

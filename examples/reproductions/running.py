"""Runs of all methods and seeds of an experiment, optionally in parallel, and their result files."""

from __future__ import annotations

import json
import multiprocessing
import platform
import re
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from _data import Mnist

import phasegrad as pg
from reproductions.drawing import draw
from reproductions.experiment import Curves, Experiment, Method, train

Runs = dict[str, list[Curves]]
"""Curves of every seed, by method."""


def run(
    name: str, experiment: Experiment, data: Mnist, seeds: list[int], folder: Path, jobs: int = 1, trial: str = ""
) -> None:
    """Train every method and seed; write the results and a figure. ``trial`` is the rest of the command line."""
    print(name, flush=True)
    tasks = [(method, seed) for seed in seeds for method in experiment.all_methods]
    finished = _train_all(experiment, tasks, data, jobs)
    runs: Runs = {method.name: [] for method in experiment.all_methods}
    for (method, _), curves in zip(tasks, finished, strict=True):
        runs[method.name].append(curves)
    result = summary(name, experiment, seeds, runs)
    result["command"] = f"python examples/reproduce.py {name} --seeds {' '.join(map(str, seeds))}{trial}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(_compact(json.dumps(result, indent=2)) + "\n")
    draw(runs, folder / "result.png")
    for row in result["rows"]:
        print(
            f"{row['method']}: {_mean_and_sd(row)}"
            + (f", on the training images {_mean_and_sd(row['train'])}" if "train" in row else "")
        )


def _train_all(experiment: Experiment, tasks: list[tuple[Method, int]], data: Mnist, jobs: int) -> list[Curves]:
    if jobs == 1:
        return [train(experiment, method, seed, data) for method, seed in tasks]
    # A forked child could deadlock on locks that threads of its parent hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(train, experiment, method, seed, data) for method, seed in tasks]
        return [future.result() for future in futures]


def summary(name: str, experiment: Experiment, seeds: list[int], runs: Runs) -> dict[str, Any]:
    """Content of ``result.json``, except the command."""
    rows = []
    for method, curves in runs.items():
        last = experiment.averaged
        row = {"method": method, **_moments([statistics.mean(c.test[-last:]) for c in curves])}
        if experiment.on_training:
            row["train"] = _moments([statistics.mean(c.train[-last:]) for c in curves])
        rows.append(row)
    used = [m for m in experiment.methods if m.preset is not None]
    return {
        "experiment": name,
        "published": experiment.published,
        "chosen": experiment.chosen,
        "seeds": seeds,
        "rows": rows,
        "float": rows[0]["mean"],
        "curves": {m: [c.test for c in curves] for m, curves in runs.items()},
        "training_curves": {m: [c.train for c in curves] for m, curves in runs.items() if experiment.on_training},
        "learning_rates": {m.name: m.lr or experiment.lr for m in experiment.all_methods},
        "hardware": {m.name: json.loads(m.preset().to_json()) for m in used if m.preset is not None},
        "settings": {
            k: getattr(experiment, k)
            for k in ("layers", "crop", "images", "epochs", "batch", "lr", "decay", "averaged")
        },
        "versions": {"phasegrad": pg.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _compact(text: str) -> str:
    """Put innermost lists on one line."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)


def _moments(last: list[float]) -> dict[str, Any]:
    return {
        "mean": statistics.mean(last), "sd": statistics.stdev(last) if len(last) > 1 else None, "accuracies": last,
    }  # fmt: skip


def _mean_and_sd(row: dict[str, Any]) -> str:
    return f"{row['mean']:.2%}" + ("" if row["sd"] is None else f" ± {row['sd']:.2%}")

"""A training run in a separate process, which may be killed at a moment chosen in advance."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import phasegrad as pg
from phasegrad.checkpoint import archive

STEPS, EVERY = 200, 3


class Kill(NamedTuple):
    """The moment at which a process is killed."""

    steps: int
    """Steps after the process started."""
    seconds: float
    """Delay after that step [s]; unused if ``bytes`` is set."""
    bytes: int | None
    """Size of the partial checkpoint after which the process is killed; ``None`` to kill it after the delay."""


def draw_kill(number: int) -> Kill:
    """One of many random moments, within 9 steps; those of odd numbers are during the write of a checkpoint."""
    drawn = random.Random(number)
    return Kill(drawn.randrange(1, 9), 0.01 * drawn.random(), drawn.randrange(1, 20_000) if number % 2 else None)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples with augmentation drawn from the global stream."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(50, 8, generator=generator)
        self.y = torch.randint(4, (50,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + 0.1 * torch.randn(8), self.y[index]


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def hardware_aware() -> dict[str, Any]:
    net = pg.convert(model(), pg.presets.pcm_inference())
    pg.hwa.Recipe().apply(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    return {
        "net": net,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    }


def in_memory() -> dict[str, Any]:
    net = pg.convert(model(), pg.presets.pcm_capacitor_training())
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.05, momentum=0.5)
    return {"net": net, "optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 50)}


RUNS = {"hardware-aware": hardware_aware, "in memory": in_memory}


def train(name: str, path: Path, kill: Kill | None) -> None:
    """Train, resuming from the newest checkpoint, as a user's script that is started repeatedly does."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    parts = RUNS[name]()
    loader = pg.checkpoint.ResumableLoader(Noisy(), 8, seed=1)
    folder = pg.checkpoint.Folder(path)
    found = folder.resume(loader=loader, **parts) or {"step": 0, "losses": []}
    step, losses = found["step"], found["losses"]
    last = step + kill.steps if kill else None
    while step < STEPS:
        for x, y in loader:
            parts["optimizer"].zero_grad()
            loss = F.cross_entropy(parts["net"].train()(x), y)
            loss.backward()
            parts["optimizer"].step()
            parts["scheduler"].step()
            step, losses = step + 1, [*losses, float(loss.detach())]
            if step == last:
                schedule(kill)
            if step % EVERY == 0 or step == STEPS:
                folder.save(step, loader=loader, losses=losses, **parts)
            if step == STEPS:
                break


def schedule(kill: Kill | None) -> None:
    assert kill is not None
    if kill.bytes is None:
        threading.Thread(target=lambda: (time.sleep(kill.seconds), kill_this_process())).start()
        return
    write, limit = archive.Sink.write, kill.bytes

    def write_until_limit(sink: archive.Sink, data: Any) -> int:
        written = write(sink, data)
        if sink.size >= limit:
            kill_this_process()
        return written

    archive.Sink.write = write_until_limit  # type: ignore[method-assign]


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_process(process: BaseProcess) -> bool:
    """Run a process to its end; return whether it was killed."""
    process.start()
    process.join(60.0)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0

"""A training run in a process of its own, which may be killed at a moment that is chosen beforehand."""

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


class Death(NamedTuple):
    """When a life ends."""

    steps: int
    """Steps after it began."""
    seconds: float
    """Later than that."""
    bytes: int | None
    """Of a checkpoint that is being written then, if it is."""


def death(number: int) -> Death:
    """One of many, half of them within a checkpoint. No life comes further than 9 steps."""
    drawn = random.Random(number)
    return Death(drawn.randrange(1, 9), 0.01 * drawn.random(), drawn.randrange(1, 20_000) if number % 2 else None)


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


def live(name: str, path: Path, ends: Death | None) -> None:
    """The command of the user: the same at every start."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    parts = RUNS[name]()
    loader = pg.checkpoint.ResumableLoader(Noisy(), 8, seed=1)
    folder = pg.checkpoint.Folder(path)
    found = folder.resume(loader=loader, **parts) or {"step": 0, "losses": []}
    step, losses = found["step"], found["losses"]
    last = step + ends.steps if ends else None
    while step < STEPS:
        for x, y in loader:
            parts["optimizer"].zero_grad()
            loss = F.cross_entropy(parts["net"].train()(x), y)
            loss.backward()
            parts["optimizer"].step()
            parts["scheduler"].step()
            step, losses = step + 1, [*losses, float(loss.detach())]
            if step == last:
                die(ends)
            if step % EVERY == 0 or step == STEPS:
                folder.save(step, loader=loader, losses=losses, **parts)
            if step == STEPS:
                break


def die(ends: Death | None) -> None:
    assert ends is not None
    if ends.bytes is None:
        threading.Thread(target=lambda: (time.sleep(ends.seconds), kill())).start()
        return
    write, limit = archive.Sink.write, ends.bytes

    def write_and_die(sink: archive.Sink, data: Any) -> int:
        written = write(sink, data)
        if sink.size >= limit:
            kill()
        return written

    archive.Sink.write = write_and_die  # type: ignore[method-assign]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(process: BaseProcess) -> bool:
    process.start()
    process.join(60.0)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0

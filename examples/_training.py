"""Training loop of the examples, which resumes after an interruption."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.progress import track


def batches(size: int, batch: int, seed: int, make: Callable[[Tensor], Any]) -> pg.checkpoint.ResumableLoader:
    """Create a resumable loader.

    Args:
        size: number of samples in the data set.
        batch: samples per step; an incomplete last batch is dropped.
        seed: seed of the order.
        make: ``(indices of samples [batch]) -> batch``, which must draw only from torch's generator.
    """
    return pg.checkpoint.ResumableLoader(
        range(size), batch, seed=seed, drop_last=True, collate_fn=lambda picked: make(torch.tensor(picked))
    )


def checkpoint_folder(runs: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """Folder for the checkpoints of a training, unique for its settings."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return runs / f"{name}-{key}"


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, rise: float) -> torch.optim.lr_scheduler.LRScheduler:
    """Create a learning-rate schedule: a linear rise over a fraction of the steps, then a half cosine to zero."""
    up = max(1, round(rise * steps))

    def factor(step: int) -> float:
        if step < up:
            return (step + 1) / up
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - up) / max(1, steps - up)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def fit(
    net: nn.Module,
    loader: pg.checkpoint.ResumableLoader,
    loss: Callable[[nn.Module, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    *,
    epochs: int,
    folder: Path,
    label: str,
    progress: bool = True,
    every: float = 60.0,
    norm: float | None = None,
) -> float:
    """Train a network in place; when called again with the same arguments, resume from the last checkpoint.

    Args:
        net: network to train; left in evaluation mode.
        loader: the data.
        loss: ``(net, batch) -> scalar``.
        optimizer: optimizer of the network.
        schedule: learning-rate schedule, stepped after each batch.
        epochs: passes over the data.
        folder: folder for checkpoints.
        label: label of the progress.
        progress: whether to show progress.
        every: seconds between checkpoints.
        norm: gradient norm to clip to; ``None`` for no clipping.

    Returns:
        Training time [s], including time before an interruption.
    """
    checkpoints = pg.checkpoint.Folder(folder, keep=2)
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule, "loader": loader}
    values = checkpoints.resume(**parts) or {"step": 0, "seconds": 0.0}
    step, before, steps = values["step"], values["seconds"], epochs * len(loader)
    started = saved = time.perf_counter()
    net.train()
    with track(steps, unit="step", label=label, initial=step, shown=progress) as bar:
        while step < steps:
            for batch in loader:
                optimizer.zero_grad()
                value = loss(net, batch)
                value.backward()
                if norm is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), norm)
                optimizer.step()
                schedule.step()
                step += 1
                bar.update()
                if step % 10 == 0:
                    bar.values(loss=f"{float(value.detach()):.4f}")
                now = time.perf_counter()
                if now - saved >= every or step == steps:
                    checkpoints.save(step, **parts, seconds=before + now - started)
                    saved = now
    net.eval()
    return before + time.perf_counter() - started

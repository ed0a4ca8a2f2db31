"""One training loop for the examples, which goes on where it was stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.progress import track


def batches(size: int, batch: int, seed: int, make: Callable[[Tensor], Any]) -> pg.checkpoint.ResumableLoader:
    """A loader that knows where it is.

    Args:
        size: samples of the data set.
        batch: samples a step; those left over wait for the next epoch.
        seed: of their order.
        make: ``(numbers of samples [batch]) -> batch``; what it draws, it draws from torch's generator.
    """
    return pg.checkpoint.ResumableLoader(
        range(size), batch, seed=seed, drop_last=True, collate_fn=lambda picked: make(torch.tensor(picked))
    )


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, rise: float) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rates that rise linearly over a part of the steps and fall to nothing as a half cosine."""
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
    """Train a network in place; started again with the same arguments, it goes on from its last checkpoint.

    Args:
        net: network to train; left in evaluation mode.
        loader: the data.
        loss: ``(net, batch) -> scalar``.
        optimizer: its optimizer.
        schedule: stepped after each batch.
        epochs: passes over the data.
        folder: where checkpoints are kept.
        label: text in front of the progress.
        progress: whether to show it.
        every: seconds between checkpoints.
        norm: largest norm of the gradient, which is scaled down to it; ``None`` for any.

    Returns:
        Seconds of training, those before an interruption included.
    """
    kept = pg.checkpoint.Folder(folder, keep=2)
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule, "loader": loader}
    values = kept.resume(**parts) or {"step": 0, "seconds": 0.0}
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
                    kept.save(step, **parts, seconds=before + now - started)
                    saved = now
    net.eval()
    return before + time.perf_counter() - started

"""The loop of a fine-tuning: steps, noise ramp, history and checkpoints, and how it stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.hwa.calibration import calibrate
from phasegrad.hwa.objective import Objective
from phasegrad.hwa.recipe import Recipe, set_noise_level
from phasegrad.nn import analog_layers
from phasegrad.nn.chip_age import draw_age, share_age
from phasegrad.progress import Progress


class Checkpoints(Protocol):
    """A store of checkpoints: [`Folder`][phasegrad.checkpoint.Folder] or a class with the same methods."""

    def save(self, step: int, **parts: Any) -> Any:
        """Save the states of parts, and plain values."""
        ...

    def resume(self, **parts: Any) -> dict[str, Any] | None:
        """Load the newest states into the parts; return the plain values, or ``None`` without a checkpoint."""
        ...


@runtime_checkable
class _Resumable(Protocol):
    """A net, optimizer, scheduler or loader whose state can be saved and restored."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass
class History:
    """Figures of [`fine_tune`][phasegrad.hwa.fine_tune], one per epoch."""

    loss: list[float] = field(default_factory=list)
    """Mean training loss."""
    learning_rate: list[float] = field(default_factory=list)
    """Learning rate of the first parameter group at the end of the epoch."""
    noise_level: list[float] = field(default_factory=list)
    """Factor of the recipe's noise at the end of the epoch."""
    metric: list[float] = field(default_factory=list)
    """Return value of ``evaluate``; empty without ``evaluate``."""


class Checkpointing:
    """The parts of a training that checkpoints contain, and the steps that save one."""

    def __init__(self, checkpoints: Checkpoints | None, every: int, parts: dict[str, Any]) -> None:
        self.checkpoints, self.every = checkpoints, every
        self.parts = {name: part for name, part in parts.items() if isinstance(part, _Resumable)}

    def due(self, step: int) -> bool:
        """Whether a checkpoint is saved after a step within an epoch."""
        return self.checkpoints is not None and "loader" in self.parts and step % self.every == 0

    def save(self, step: int, **values: Any) -> None:
        """Save the present state of the training."""
        if self.checkpoints is not None:
            self.checkpoints.save(step, **self.parts, **values)

    def resume(self) -> dict[str, Any] | None:
        """Restore the newest checkpoint and return its values, or ``None`` without one."""
        return None if self.checkpoints is None else self.checkpoints.resume(**self.parts)


class Loop:
    """The state of a training: step, noise level, and losses of the epoch.

    Args:
        net: the net.
        loader: batches; ``steps`` is their number in all epochs, ``None`` if it is unknown.
        optimizer: the optimizer.
        scheduler: scheduler, stepped after each batch, or ``None``.
        objective: the loss.
        recipe: noise and clipping.
        epochs: number of epochs.
        steps: number of steps.
        checkpointing: the checkpoints.
    """

    def __init__(
        self, net: nn.Module, loader: Iterable[Any], optimizer: torch.optim.Optimizer, scheduler: Any,
        objective: Objective, recipe: Recipe, epochs: int, steps: int | None, checkpointing: Checkpointing,
    ) -> None:  # fmt: skip
        self.net, self.loader, self.optimizer, self.scheduler = net, loader, optimizer, scheduler
        self.objective, self.recipe, self.epochs, self.steps = objective, recipe, epochs, steps
        self.checkpointing, self.history = checkpointing, History()
        self.step, self.level = 0, 1.0
        self.total, self.count = 0.0, 0  # of the losses of this epoch
        # In a net in training mode, modules in evaluation mode are so on purpose, as frozen batch norms are.
        self.evaluated = [m for m in net.modules() if not m.training] if net.training else []

    def prepare(self, calibration_batches: int) -> None:
        """Resume from the newest checkpoint; without one, calibrate and apply the recipe.

        An error or an interruption leaves the recipe of every layer as it was.
        """
        layers = analog_layers(self.net).values()
        before = {layer: layer.perturbation for layer in layers}
        try:
            if self._resume():  # checkpoints hold the recipe, except those that hold only weights
                for layer in [layer for layer in layers if layer.perturbation is before[layer]]:
                    layer.perturbation = self.recipe.perturbation(layer.hardware)
                share_age(getattr(self.net, "_orig_mod", self.net))
            elif calibration_batches:
                forward = self.objective.run
                calibrate(self.net, self.loader, calibration_batches, recipe=self.recipe, forward=forward)
            else:
                self.recipe.apply(self.net)
        except BaseException:
            for layer in layers:
                layer.perturbation = before[layer]
            share_age(getattr(self.net, "_orig_mod", self.net))
            raise

    def run(self, evaluate: Callable[[nn.Module], float] | None, bar: Progress) -> None:
        """Train for the epochs that are left."""
        for epoch in range(len(self.history.loss), self.epochs):
            bar.describe(f"fine-tuning, epoch {epoch + 1}/{self.epochs}")
            self.history.loss.append(self._epoch(epoch, bar))
            self.history.learning_rate.append(self.optimizer.param_groups[0]["lr"])
            self.history.noise_level.append(self.level)
            if evaluate is not None:
                found = evaluate(self.net.eval())
                self.history.metric.append(checks.result("fine_tune", "evaluate", found, f" after epoch {epoch + 1}"))
            self._save_checkpoint()
        set_noise_level(self.net, 1.0)
        self.net.eval()

    def _save_checkpoint(self) -> None:
        lists = {name: list(values) for name, values in vars(self.history).items()}
        self.checkpointing.save(self.step, history=lists, level=self.level, total=self.total, count=self.count)

    def _resume(self) -> bool:
        found = self.checkpointing.resume()
        if found is None:
            return False
        for name, values in found["history"].items():
            getattr(self.history, name)[:] = values
        self.step, self.level = found["step"], found["level"]
        self.total, self.count = found["total"], found["count"]
        return True

    def _epoch(self, number: int, bar: Progress) -> float:
        """Train for one pass and return the mean loss."""
        self.net.train()
        for module in self.evaluated:
            module.training = False
        for batch in self.loader:
            done = self.step / self.steps if self.steps else number / self.epochs
            self.level = min(1.0, done / self.recipe.ramp) if self.recipe.ramp > 0 else 1.0
            set_noise_level(self.net, self.level)
            draw_age(self.net)  # for a forward of the user's that calls parts of the net
            value = self._train(batch)
            self.step += 1
            self.total, self.count = self.total + value, self.count + 1
            bar.update()
            if self.count % 10 == 0:
                bar.values(loss=f"{self.total / self.count:.4f}")
            if self.checkpointing.due(self.step):
                self._save_checkpoint()
        if self.count == 0:
            raise ValueError("fine_tune: the loader yielded no batch; pass one with at least one batch")
        mean, self.total, self.count = self.total / self.count, 0.0, 0
        return mean

    def _train(self, batch: Any) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        value = self.objective(self.net, batch)
        number = float(value.detach())
        if not math.isfinite(number):
            raise ValueError(
                f"fine_tune: the loss is {number} at step {self.step}; lower the learning rate or check the data"
            )
        value.backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return number


@contextmanager
def modes_restored_on_failure(net: nn.Module) -> Iterator[None]:
    """Restore the mode of every module and the noise level of every layer after an error or an interruption."""
    modes = {module: module.training for module in net.modules()}
    levels = {layer: layer.noise_level.clone() for layer in analog_layers(net).values()}
    try:
        yield
    except BaseException:
        for module, mode in modes.items():
            module.training = mode
        for layer, level in levels.items():
            layer.noise_level.copy_(level)
        raise

"""A ready-made training loop for hardware-aware fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phasegrad.conversion import to_digital
from phasegrad.hwa.calibration import calibrate, require_unprogrammed
from phasegrad.hwa.recipe import Distillation, Recipe, set_noise_level
from phasegrad.nn.copying import copy_net
from phasegrad.progress import Progress, track

Loss = Callable[[Tensor, Tensor], Tensor]


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


def fine_tune(
    net: nn.Module,
    loader: Iterable[Any],
    *,
    loss: Loss = F.cross_entropy,
    epochs: int = 3,
    recipe: Recipe | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    teacher: nn.Module | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    calibration_batches: int = 100,
    checkpoints: Checkpoints | None = None,
    every: int = 100,
    progress: bool = True,
) -> History:
    """Train a converted net, in place, to preserve its accuracy on the hardware.

    Calibrates converter ranges, applies the recipe's noise and clipping to the layers, and trains. Your own loop after
    [`calibrate`][phasegrad.hwa.calibrate] is equivalent, because the layers add the noise.

    Args:
        net: a converted net that is not programmed.
        loader: batches ``(input, target)``.
        loss: ``(output, target) -> scalar``.
        epochs: passes over the loader.
        recipe: the recipe; ``None`` for [`Recipe`][phasegrad.hwa.Recipe]'s defaults.
        optimizer: any torch optimizer over the net's parameters; ``None`` for SGD with momentum 0.9 and a learning
            rate that decays from 0.01 along a half cosine.
        scheduler: learning-rate scheduler, stepped after each batch; ``None`` for a constant rate with your own
            ``optimizer``.
        teacher: model to distil from; ``None`` for a digital, exact copy of the net before training.
        evaluate: function that is called with the net, in evaluation mode, after each epoch.
        calibration_batches: batches for [`calibrate`][phasegrad.hwa.calibrate]; 0 to skip it.
        checkpoints: store of checkpoints, such as ``pg.checkpoint.Folder("run")``, or ``None``. When called again
            with the same arguments, an interrupted training resumes and produces the same bits, unless the loader
            draws its order from its own generator, whose state is in no ``state_dict``.
        every: steps between checkpoints if the loader has a ``state_dict``, as
            ``phasegrad.checkpoint.ResumableLoader`` does. With any loader, each epoch ends with a checkpoint.
        progress: whether to show progress: a bar on a terminal, a line every half minute elsewhere.

    Returns:
        The history. The net is left in evaluation mode.

    Raises:
        ValueError: the net has no analog layer or a programmed one, the loader is empty, the loss is not finite, or a
            checkpoint does not fit.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9

        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023).
        https://doi.org/10.1038/s41467-023-40770-4
    """
    require_unprogrammed(net, "fine_tune")
    if epochs < 1 or every < 1:
        raise ValueError(f"fine_tune: epochs = {epochs} and every = {every}; both must be at least 1")
    recipe = recipe or Recipe()
    objective = _Objective(loss, recipe.distillation, _teacher(net, teacher) if recipe.distillation else None)
    steps = len(loader) * epochs if isinstance(loader, Sized) else None
    if optimizer is None:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        if scheduler is None and steps:
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = History()
    parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
    checkpointing = _Checkpointing(checkpoints, every, parts)
    loop = _Loop(net, optimizer, scheduler, objective, recipe.ramp, epochs, steps, checkpointing, history)
    recipe.apply(net)
    if not loop.resume() and calibration_batches:
        calibrate(net, loader, calibration_batches, recipe=recipe)
    with track(steps, unit="batch", initial=loop.step, shown=progress) as bar:
        for epoch in range(len(history.loss), epochs):
            bar.describe(f"fine-tuning, epoch {epoch + 1}/{epochs}")
            history.loss.append(loop.epoch(epoch, loader, bar))
            history.learning_rate.append(optimizer.param_groups[0]["lr"])
            history.noise_level.append(loop.level)
            if evaluate is not None:
                history.metric.append(float(evaluate(net.eval())))
            loop.save_checkpoint()
    set_noise_level(net, 1.0)
    net.eval()
    return history


class _Checkpointing:
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


class _Objective:
    """The loss, with the distillation term if there is a teacher."""

    def __init__(self, loss: Loss, distillation: Distillation | None, teacher: nn.Module | None) -> None:
        self.loss, self.distillation, self.teacher = loss, distillation, teacher

    def __call__(self, x: Any, output: Tensor, target: Tensor) -> Tensor:
        value = self.loss(output, target)
        if self.distillation is None or self.teacher is None:
            return value
        t, w = self.distillation.temperature, self.distillation.weight
        with torch.no_grad():
            wanted = F.log_softmax(self.teacher(x) / t, dim=-1)
        distance = F.kl_div(F.log_softmax(output / t, dim=-1), wanted, reduction="batchmean", log_target=True)
        return (1.0 - w) * value + w * t * t * distance


class _Loop:
    """The state of a training: step, noise level, and losses of the epoch."""

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, objective: _Objective,
        ramp: float, epochs: int, steps: int | None, checkpointing: _Checkpointing, history: History,
    ) -> None:  # fmt: skip
        self.net, self.optimizer, self.scheduler, self.objective = net, optimizer, scheduler, objective
        self.ramp, self.epochs, self.steps = ramp, epochs, steps
        self.checkpointing, self.history = checkpointing, history
        self.step, self.level = 0, 1.0
        self.total, self.count = 0.0, 0  # of the losses of this epoch

    def save_checkpoint(self) -> None:
        """Save a checkpoint."""
        lists = {name: list(values) for name, values in vars(self.history).items()}
        self.checkpointing.save(self.step, history=lists, level=self.level, total=self.total, count=self.count)

    def resume(self) -> bool:
        """Restore the newest checkpoint; return whether there is one."""
        found = self.checkpointing.resume()
        if found is None:
            return False
        for name, values in found["history"].items():
            getattr(self.history, name)[:] = values
        self.step, self.level = found["step"], found["level"]
        self.total, self.count = found["total"], found["count"]
        return True

    def epoch(self, number: int, loader: Iterable[Any], bar: Progress) -> float:
        """Train for one pass and return the mean loss."""
        self.net.train()
        for x, target in loader:
            done = self.step / self.steps if self.steps else number / self.epochs
            self.level = min(1.0, done / self.ramp) if self.ramp > 0 else 1.0
            set_noise_level(self.net, self.level)
            value = self._train(x, target)
            self.step += 1
            self.total, self.count = self.total + value, self.count + 1
            bar.update()
            if self.count % 10 == 0:
                bar.values(loss=f"{self.total / self.count:.4f}")
            if self.checkpointing.due(self.step):
                self.save_checkpoint()
        if self.count == 0:
            raise ValueError("fine_tune: the loader yielded no batch; pass one with at least one batch")
        mean, self.total, self.count = self.total / self.count, 0.0, 0
        return mean

    def _train(self, x: Any, target: Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        value = self.objective(x, self.net(x), target)
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


def _teacher(net: nn.Module, teacher: nn.Module | None) -> nn.Module:
    model = copy_net(teacher) if teacher is not None else to_digital(net)
    return model.eval().requires_grad_(False)

"""A ready-made training loop for hardware-aware fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.conversion import to_digital
from phasegrad.hwa.calibration import require_unprogrammed
from phasegrad.hwa.objective import Forward, Loss, Objective
from phasegrad.hwa.recipe import Recipe
from phasegrad.hwa.trained_parameters import check_parts, check_repeatable, check_trainable
from phasegrad.hwa.training_loop import Checkpointing, Checkpoints, History, Loop, modes_restored_on_failure
from phasegrad.nn.copying import copy_net
from phasegrad.progress import track


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
    forward: Forward | None = None,
) -> History:
    """Train a converted net, in place, to preserve its accuracy on the hardware.

    Calibrates converter ranges, applies the recipe's noise and clipping to the layers, and trains. Your own loop after
    [`calibrate`][phasegrad.hwa.calibrate] is equivalent, because the layers add the noise.

    The loss of a batch ``(input, target)`` is ``loss(net(input), target)``. A dictionary is passed as ``net(**batch)``,
    and the loss is that of the output, as the models of Hugging Face compute it. If the net computes none, or does not
    take ``labels``, it is ``loss(output, batch["labels"])``. Batches are moved to the device of the net. ``forward``
    handles every other form.

    An error or an interruption before the training leaves the net as it was. Later it leaves the weights trained so
    far, with their recipe and ranges, and restores the mode of every module and the noise level.

    Args:
        net: a converted net that is not programmed. If it is in training mode, its modules in evaluation mode, such as
            frozen batch norms, stay in evaluation mode.
        loader: batches ``(input, target)`` or dictionaries; it is passed over several times, so it is no iterator.
        loss: ``(output, target) -> scalar``. Outputs with ``logits`` are passed to the default as these.
        epochs: passes over the loader.
        recipe: the recipe; ``None`` for [`Recipe`][phasegrad.hwa.Recipe]'s defaults.
        optimizer: any torch optimizer over the net's parameters, created after ``convert``, which copies the model;
            ``None`` for SGD with momentum 0.9 and a learning rate that decays from 0.01 along a half cosine.
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
        forward: ``(net, batch) -> loss`` or ``(net, batch) -> (output, target)``, for batches of another form or nets
            with several inputs. It gets each batch as the loader yields it, in calibration too. Distillation needs the
            output, and calls it with the teacher as well.

    Returns:
        The history. The net is left in evaluation mode.

    Warns:
        UserWarning: ``optimizer`` holds no weight of an analog layer.

    Raises:
        ValueError: the net has no analog layer or a programmed one, nothing is trainable, ``optimizer`` holds no
            trainable parameter of the net, the loader is empty, the loss or what ``evaluate`` returns is not finite,
            or a checkpoint does not fit.
        TypeError: the loader is an iterator, the step of ``optimizer`` needs a closure, as that of L-BFGS does, or the
            batches or the results of ``forward`` have another form.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9

        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023).
        https://doi.org/10.1038/s41467-023-40770-4
    """
    require_unprogrammed(net, "fine_tune")
    epochs, every = (checks.integer("fine_tune", name, v, 1) for name, v in (("epochs", epochs), ("every", every)))
    calibration_batches = checks.integer("fine_tune", "calibration_batches", calibration_batches, 0)
    checks.flag("fine_tune", "progress", progress)
    check_repeatable(checks.loader("fine_tune", "loader", loader))
    check_parts(loss, forward, evaluate, recipe, optimizer, scheduler, teacher, checkpoints)
    check_trainable(net, optimizer)
    recipe = Recipe() if recipe is None else recipe
    length = _length(loader)
    steps = None if length is None else length * epochs
    if optimizer is None:
        optimizer, scheduler = _default_optimizer(net, steps, scheduler)
    objective = Objective(loss, forward, recipe.distillation, _teacher(net, teacher) if recipe.distillation else None)
    parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
    checkpointing = Checkpointing(checkpoints, every, parts)
    loop = Loop(net, loader, optimizer, scheduler, objective, recipe, epochs, steps, checkpointing)
    with modes_restored_on_failure(net):
        loop.prepare(calibration_batches)
        with track(steps, unit="batch", initial=loop.step, shown=progress) as bar:
            loop.run(evaluate, bar)
    return loop.history


def _length(loader: Any) -> int | None:
    """The number of batches, or ``None`` if it is not known, as of a stream."""
    try:
        return len(loader)
    except TypeError:
        return None


def _default_optimizer(net: nn.Module, steps: int | None, scheduler: Any) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    if scheduler is None and steps:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return optimizer, scheduler


def _teacher(net: nn.Module, teacher: nn.Module | None) -> nn.Module:
    model = copy_net(teacher) if teacher is not None else to_digital(net)
    return model.eval().requires_grad_(False)

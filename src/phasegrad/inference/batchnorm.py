"""Batch-norm statistics of a chip as it is now."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def reestimate_batchnorm(
    chip: nn.Module,
    loader: Iterable[Any],
    batches: int = 20,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> nn.Module:
    """Let batch norms take the means and variances that a chip's layers give now.

    Devices that drift move what layers give, mean and variance channel by channel; a few batches of training inputs
    tell where they have gone (adaptive batch-norm statistics, AdaBS: Joshi et al. 2020). Statistics are digital, and
    no device is written. Every batch counts alike; 1,000 images or more make good estimates.

    Args:
        chip: a converted net, programmed or not; left as it is.
        loader: batches as in training, augmentation included: of inputs that the net knows by heart other statistics
            come. A tuple's or list's first element is the input.
        batches: how many batches to use at most.
        forward: ``(net, batch) -> anything``, for batches that are something else.

    Returns:
        A copy in the chip's mode with new running means and variances.

    Raises:
        ValueError: no batch norm that keeps statistics, or no batch.

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)), pg.presets.pcm_inference())
        >>> chip = pg.inference.age(pg.inference.program(net, seed=0), seconds=86_400.0)
        >>> reestimate_batchnorm(chip, [torch.randn(64, 8)])[1].running_mean.shape
        torch.Size([4])
    """
    adapted = copy.deepcopy(chip)
    norms = [m for m in adapted.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        raise ValueError("reestimate_batchnorm: the net has no batch norm with running statistics; nothing to estimate")
    momenta = [norm.momentum for norm in norms]
    modes = {module: module.training for module in adapted.modules()}
    adapted.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    count = 0
    with torch.no_grad():
        for batch in itertools.islice(loader, batches):
            (forward or _forward)(adapted, batch)
            count += 1
    if count == 0:
        raise ValueError("reestimate_batchnorm: the loader gave no batch")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    return adapted


def _forward(net: nn.Module, batch: Any) -> Any:
    return net(batch[0] if isinstance(batch, (tuple, list)) else batch)

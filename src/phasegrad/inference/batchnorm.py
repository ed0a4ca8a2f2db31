"""Batch-norm statistics of a chip at its present age."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from phasegrad import argument_checks as checks
from phasegrad.nn.copying import shared_copy
from phasegrad.nn.evaluation import evaluation_mode, forward_batch
from phasegrad.nn.layer import take_writes_of_net


def reestimate_batchnorm(
    chip: nn.Module,
    loader: Iterable[Any],
    batches: int = 20,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> nn.Module:
    """Re-estimate the running means and variances of batch norms at a chip's present age.

    Drift shifts the mean and variance of each channel; a few batches of training inputs measure them again (adaptive
    batch-norm statistics, AdaBS: Joshi et al. 2020). The statistics are digital, and no device is written. All batches
    have equal weight; 1,000 images or more are enough for good estimates.

    Args:
        chip: a converted net, programmed or not; it is not modified.
        loader: batches as in training, with augmentation, because memorised inputs give different statistics. The
            first element of a tuple or list is the input.
        batches: maximum number of batches.
        forward: ``(net, batch) -> anything``, which runs the net on batches of another form.

    Returns:
        A copy, in the chip's mode, with new running means and variances.

    Raises:
        ValueError: the net has no batch norm with running statistics, or the loader is empty.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)), pg.presets.ideal_inference())
        >>> chip = pg.inference.age(pg.inference.program(net, seed=0), seconds=86_400.0)
        >>> reestimate_batchnorm(chip, [torch.randn(64, 8)])[1].running_mean.shape
        torch.Size([4])
    """
    checks.module("reestimate_batchnorm", "chip", chip)
    checks.loader("reestimate_batchnorm", "loader", loader)
    batches = checks.integer("reestimate_batchnorm", "batches", batches, 1)
    if forward is not None:
        checks.function("reestimate_batchnorm", "forward", forward, "(net, batch) -> anything")
    take_writes_of_net(chip)
    require_batch_norms(chip, "reestimate_batchnorm")
    adapted = shared_copy(chip)
    estimate_statistics(adapted, loader, batches, forward, "reestimate_batchnorm")
    return adapted


def require_batch_norms(net: nn.Module, caller: str) -> list[_BatchNorm]:
    """The batch norms of a net that have running statistics; raise ``ValueError`` if there are none."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        raise ValueError(f"{caller}: the net has no batch norm with running statistics; nothing to estimate")
    return norms


def estimate_statistics(
    net: nn.Module, loader: Iterable[Any], batches: int, forward: Callable[[nn.Module, Any], Any] | None, caller: str
) -> None:
    """Re-estimate the running statistics of a net in place; after an error they are as before."""
    norms = require_batch_norms(net, caller)
    before = [{k: v.clone() for k, v in norm.named_buffers()} for norm in norms]
    try:
        _estimate(net, norms, itertools.islice(loader, batches), forward, caller)
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
        raise


def _estimate(
    net: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any] | None,
    caller: str,
) -> None:  # fmt: skip
    momenta, count = [norm.momentum for norm in norms], 0
    try:
        with evaluation_mode(net), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # average over all batches
                norm.train()
            for batch in batches:
                (forward or forward_batch)(net, batch)
                count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if count == 0:
        raise ValueError(f"{caller}: the loader yielded no batch; pass one with at least one batch")

"""Reads that serve a single row of inputs.

Read noise is drawn anew in each read. If a read serves one row of inputs, only the outputs of that row depend on it,
and a sum of many independent devices is normal: the mean and the variance of the weights give the same law from two
matrix-vector products. Outputs of one row are independent of each other, as different columns have different devices.

Not used where that is not the law: with wires, voltage drop, integrators, reference columns, fast devices, inputs that
are applied bit by bit, or noise that is not redrawn in each read; nor where it would not be normal, because few inputs
carry the product; nor with gradients, ``torch.compile``, autocast, ``torch.func`` or other types than float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from phasegrad.crossbar.hardware import Hardware
from phasegrad.ops.direct import readable

_ENOUGH = 32.0  # inputs of equal size that carry a product; the sum of so many reads is normal to 1 % of a quantile

_sampled: ContextVar[bool] = ContextVar("_sampled", default=False)


@contextmanager
def sampled_reads() -> Iterator[None]:
    """In this context, each read draws the noise of every device, also if it serves a single row of inputs.

    Outside it, the noise of a product of one row by a programmed layer is drawn from the same law for its outputs,
    which takes a tenth of the time.

    Examples:
        >>> import torch, phasegrad as pg
        >>> net = pg.convert(torch.nn.Linear(64, 10), pg.presets.pcm_inference())
        >>> chip = pg.inference.program(net, seed=0)
        >>> with torch.no_grad(), pg.inference.sampled_reads():
        ...     y = chip(torch.randn(1, 64))
    """
    token = _sampled.set(True)
    try:
        yield
    finally:
        _sampled.reset(token)


def serves_one_row(x: Tensor, hardware: Hardware) -> bool:
    """Whether the noise of a read for these inputs may be drawn for the outputs."""
    return (
        x.dim() == 2
        and len(x) == 1
        and readable(x)
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not (x.requires_grad and torch.is_grad_enabled())
        and not _sampled.get()
        and not torch.is_autocast_enabled("cpu")
        and _allows_rows(hardware)
        and _spread_out(x)
    )


def _allows_rows(hardware: Hardware) -> bool:
    ideal = hardware.wires is None and hardware.integrator is None and hardware.fast is None
    return ideal and not hardware.cell.has_reference and (hardware.dac is None or hardware.dac.at_once)


def _spread_out(x: Tensor) -> bool:
    """Whether enough inputs carry the product: ``(sum x^2)^2 / sum x^4``, the number of inputs if all are equal."""
    squares = x.detach().square()
    return float(squares.sum()) ** 2 >= _ENOUGH * float(torch.dot(squares[0], squares[0])) > 0.0

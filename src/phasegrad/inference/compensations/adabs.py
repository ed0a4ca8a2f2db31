"""Adaptive batch-norm statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from phasegrad.inference.batchnorm import estimate_statistics, require_batch_norms
from phasegrad.inference.compensations.base import Compensation
from phasegrad.inference.compensations.data import batch_count, check_data, tile_reads
from phasegrad.inference.programming import Seeds


@final
@dataclass(frozen=True)
class AdaBS(Compensation):
    """Batch-norm statistics measured again on the aged chip (Joshi et al. 2020).

    The running means and variances of the net's batch norms become those of some of the training data, as
    [`reestimate_batchnorm`][phasegrad.inference.reestimate_batchnorm] measures them. Where every tile has a batch norm
    behind it, this corrects the drift of each channel; other layers, such as the last, need another compensation
    before it, as in ``("tile", AdaBS(loader))``.

    Args:
        loader: batches of training data, which is read at each compensation.
        fraction: part of its batches.
        batches: number of batches instead of a fraction, also for loaders without a length.
        forward: ``(net, batch) -> anything``, which runs the net on batches of another form.

    Raises:
        ValueError: the loader is empty, can be read only once, or has no length and ``batches`` is not given.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9
    """

    loader: Iterable[Any]
    fraction: float = 0.05
    batches: int | None = None
    forward: Callable[[nn.Module, Any], Any] | None = None

    def __post_init__(self) -> None:
        check_data("AdaBS", self.loader, self.fraction, self.batches, self.forward)

    def __repr__(self) -> str:
        return f"AdaBS({self.count} batches)"

    @property
    def count(self) -> int:
        """Number of batches that are read."""
        return batch_count(self.loader, self.fraction, self.batches)

    def check(self, chip: nn.Module, caller: str) -> None:
        """Raise ``ValueError`` if the net has no batch norm with running statistics."""
        require_batch_norms(chip, f"{caller}: AdaBS")

    def apply(self, chip: nn.Module, seeds: Seeds) -> None:
        """Run the batches and replace the statistics."""
        estimate_statistics(chip, self.loader, self.count, self.forward, "AdaBS")

    def reads(self, chip: nn.Module) -> int:
        """Tile reads of the batches, each as large as the first, which is run to count them."""
        return tile_reads(chip, self.loader, self.count, self.forward, "AdaBS")

"""Batches in an order that can be taken up in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler


@final
class ResumableLoader:
    """A ``DataLoader`` that knows where it is, and goes on there.

    The order of an epoch is a function of seed and epoch. ``epoch`` and ``position``, the batches of it that were given
    out, are the loader's state: saved after any batch and loaded elsewhere, the next batch is the one that would have
    been next, with worker processes too. Nothing is drawn from torch's global stream, which a plain ``DataLoader`` does
    at the start of each pass. What a data set draws itself, as augmentation does, is repeated where it draws from a
    global stream in the main process (``num_workers=0``).

    A pass that is given up half way, as by ``break``, begins anew at the next.

    Args:
        dataset: map-style: indices to samples.
        batch_size: samples of a batch, of each process where there are several.
        seed: of the order.
        shuffle: whether there is a new order each epoch.
        drop_last: whether a last batch that is not full is left out.
        rank: number of this process.
        ranks: how many processes share each batch. A last batch that is not full is shared as evenly as can be, and
            left out if it has fewer samples than there are processes.
        options: of ``torch.utils.data.DataLoader``: ``num_workers``, ``collate_fn``, ``pin_memory`` and others.

    Raises:
        ValueError: ``batch_size`` is below 1, ``rank`` not below ``ranks``, or the data set too small for a batch.

    Examples:
        >>> loader = ResumableLoader(range(10), 4, seed=0, shuffle=False)
        >>> [batch.tolist() for batch in loader], loader.epoch
        ([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], 1)
        >>> passing = iter(loader)
        >>> state = (next(passing), loader.state_dict())[1]
        >>> other = ResumableLoader(range(10), 4, seed=0, shuffle=False)
        >>> other.load_state_dict(state)
        >>> [batch.tolist() for batch in other], other.epoch
        ([[4, 5, 6, 7], [8, 9]], 2)
    """

    def __init__(
        self, dataset: Any, batch_size: int, *, seed: int = 0, shuffle: bool = True, drop_last: bool = False,
        rank: int = 0, ranks: int = 1, **options: Any,
    ) -> None:  # fmt: skip
        if batch_size < 1:
            raise ValueError(f"ResumableLoader: batch_size = {batch_size}; it must be at least 1")
        if not 0 <= rank < ranks:
            raise ValueError(f"ResumableLoader: rank = {rank} with ranks = {ranks}; it must be 0 to ranks - 1")
        self.dataset, self.batch_size, self.seed, self.shuffle = dataset, batch_size, seed, shuffle
        self.rank, self.ranks = rank, ranks
        self.epoch, self.position, self._start = 0, 0, 0
        together, samples = batch_size * ranks, len(dataset)
        rest = samples % together
        self._batches = samples // together + (not drop_last and rest >= ranks and rest > 0)
        if self._batches == 0:
            raise ValueError(f"ResumableLoader: {samples} samples are too few for a batch of {batch_size} x {ranks}")
        # Of its own stream, not of torch's, DataLoader draws a seed for its workers at the start of each pass.
        own = torch.Generator().manual_seed(seed)
        self._loader = DataLoader(dataset, batch_sampler=_Order(self), generator=own, **options)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Any]:
        self.position, self._start = self._start, 0
        for batch in self._loader:
            self.position += 1  # before the batch is used: who saves with it has had it
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def indices(self) -> list[list[int]]:
        """What this process's batches of the present epoch hold, from the present position on."""
        order = torch.arange(len(self.dataset))
        if self.shuffle:
            mixed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))
            order = torch.randperm(len(order), generator=generator)
        batches = order.split(self.batch_size * self.ranks)[self.position : self._batches]
        return [batch[self.rank :: self.ranks].tolist() for batch in batches]

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and by what the order was made."""
        return {"epoch": self.epoch, "position": self.position, **self._made_by()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another was.

        Raises:
            ValueError: that one had another order: other samples, batches, seed, or number of processes.
        """
        mine = self._made_by()
        other = {key: state_dict.get(key) for key in mine}
        if mine != other:
            told = ", ".join(f"{key} = {mine[key]} here, {other[key]} there" for key in mine if mine[key] != other[key])
            raise ValueError(f"ResumableLoader: the state is of another order ({told}); make the loader as it was")
        self.epoch, self._start = state_dict["epoch"], state_dict["position"]
        self.position = self._start

    def _made_by(self) -> dict[str, Any]:
        return {
            "seed": self.seed, "shuffle": self.shuffle, "batch_size": self.batch_size, "ranks": self.ranks,
            "samples": len(self.dataset), "batches": self._batches,
        }  # fmt: skip


class _Order(Sampler[list[int]]):
    """The rest of a loader's epoch, batch by batch."""

    def __init__(self, loader: ResumableLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.loader.indices())

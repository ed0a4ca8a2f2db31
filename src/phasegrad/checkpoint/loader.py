"""A data loader that resumes in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from phasegrad import argument_checks as checks


@final
class ResumableLoader:
    """A ``DataLoader`` that saves its position and resumes from it.

    The order of an epoch is a function of seed and epoch. The state of the loader is ``epoch`` and ``position``, the
    number of batches of the epoch that it has yielded. A loader that loads a state saved after any batch yields the
    next batch of the original, also with worker processes. It draws nothing from torch's global stream, unlike a plain
    ``DataLoader``, which draws at the start of each pass. Random augmentation in the data set is reproduced if it draws
    from a global stream in the main process (``num_workers=0``).

    After an incomplete pass, as after ``break``, the next pass starts the epoch again.

    Args:
        dataset: map-style data set.
        batch_size: samples per batch and process.
        seed: seed of the order.
        shuffle: whether to draw a new order for each epoch.
        drop_last: whether to drop an incomplete last batch.
        rank: rank of this process.
        ranks: number of processes that share each batch. They share an incomplete last batch as evenly as possible, or
            drop it if it has fewer samples than there are processes.
        options: options of ``torch.utils.data.DataLoader``: ``num_workers``, ``collate_fn``, ``pin_memory`` and others.

    Raises:
        ValueError: ``batch_size`` is below 1, ``rank`` is not below ``ranks``, or the data set is smaller than a batch.

    Examples:
        >>> loader = ResumableLoader(range(10), 4, seed=0, shuffle=False)
        >>> [batch.tolist() for batch in loader], loader.epoch
        ([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], 1)
        >>> iterator = iter(loader)
        >>> state = (next(iterator), loader.state_dict())[1]
        >>> other = ResumableLoader(range(10), 4, seed=0, shuffle=False)
        >>> other.load_state_dict(state)
        >>> [batch.tolist() for batch in other], other.epoch
        ([[4, 5, 6, 7], [8, 9]], 2)
    """

    def __init__(
        self, dataset: Any, batch_size: int, *, seed: int = 0, shuffle: bool = True, drop_last: bool = False,
        rank: int = 0, ranks: int = 1, **options: Any,
    ) -> None:  # fmt: skip
        batch_size = checks.integer("ResumableLoader", "batch_size", batch_size, 1)
        seed = checks.integer("ResumableLoader", "seed", seed, 0)
        rank = checks.integer("ResumableLoader", "rank", rank, -(1 << 31))
        ranks = checks.integer("ResumableLoader", "ranks", ranks, -(1 << 31))
        shuffle = checks.flag("ResumableLoader", "shuffle", shuffle)
        drop_last = checks.flag("ResumableLoader", "drop_last", drop_last)
        if not 0 <= rank < ranks:
            raise ValueError(f"ResumableLoader: rank = {rank} with ranks = {ranks}; rank must be 0 to ranks - 1")
        self.dataset, self.batch_size, self.seed, self.shuffle = dataset, batch_size, seed, shuffle
        self.rank, self.ranks = rank, ranks
        self.epoch, self.position, self._start = 0, 0, 0
        global_batch, samples = batch_size * ranks, len(dataset)
        rest = samples % global_batch
        self._batches = samples // global_batch + (not drop_last and rest >= ranks and rest > 0)
        if self._batches == 0:
            raise ValueError(f"ResumableLoader: {samples} samples are too few for a batch of {batch_size} x {ranks}")
        # DataLoader draws a seed for its workers at the start of each pass, by default from torch's global stream.
        generator = torch.Generator().manual_seed(seed)
        self._loader = DataLoader(dataset, batch_sampler=_Order(self), generator=generator, **options)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Any]:
        self.position, self._start = self._start, 0
        for batch in self._loader:
            self.position += 1  # before the yield, so that a state saved after the batch counts it
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def indices(self) -> list[list[int]]:
        """Indices of samples in this process's remaining batches of the present epoch."""
        order = torch.arange(len(self.dataset))
        if self.shuffle:
            mixed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))
            order = torch.randperm(len(order), generator=generator)
        batches = order.split(self.batch_size * self.ranks)[self.position : self._batches]
        return [batch[self.rank :: self.ranks].tolist() for batch in batches]

    def state_dict(self) -> dict[str, Any]:
        """Position, and the parameters that determine the order."""
        return {"epoch": self.epoch, "position": self.position, **self._order_parameters()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from the position of another loader.

        Raises:
            ValueError: the other loader had another number of samples, batches or processes, or another seed.
        """
        mine = self._order_parameters()
        other = {key: state_dict.get(key) for key in mine}
        if mine != other:
            different = [
                f"{key} = {mine[key]}, but {other[key]} in the state" for key in mine if mine[key] != other[key]
            ]
            raise ValueError(
                f"ResumableLoader: the state belongs to a loader with another order ({'; '.join(different)}); create "
                "the loader with the saved parameters"
            )
        self.epoch, self._start = state_dict["epoch"], state_dict["position"]
        self.position = self._start

    def _order_parameters(self) -> dict[str, Any]:
        return {
            "seed": self.seed, "shuffle": self.shuffle, "batch_size": self.batch_size, "ranks": self.ranks,
            "samples": len(self.dataset), "batches": self._batches,
        }  # fmt: skip


class _Order(Sampler[list[int]]):
    """The remaining batches of a loader's epoch."""

    def __init__(self, loader: ResumableLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.loader.indices())

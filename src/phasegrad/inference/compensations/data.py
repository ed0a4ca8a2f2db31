"""The part of the training data that a compensation measures a chip with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.crossbar.mapping import row_tiles
from phasegrad.inference.compensations.base import tiles_of
from phasegrad.nn import AnalogLayer, analog_layers
from phasegrad.nn.copying import shared_copy
from phasegrad.nn.evaluation import evaluation_mode, forward_batch

Forward = Callable[[nn.Module, Any], Any]


def check_data(caller: str, loader: object, fraction: float, batches: int | None, forward: Forward | None) -> None:
    """Raise unless a loader can be read again and again, and the part of it that is read is known."""
    checks.loader(caller, "loader", loader)
    checks.number(caller, "fraction", fraction, 0.0, 1.0, above=True)
    if batches is not None:
        checks.integer(caller, "batches", batches, 1)
    if forward is not None:
        checks.function(caller, "forward", forward, "(net, batch) -> anything")
    if isinstance(loader, Iterator):
        raise ValueError(
            f"{caller}: loader = {checks.shown(loader)}, which is empty after one pass; each compensation reads it "
            "again: pass a DataLoader or a list of batches"
        )
    if isinstance(loader, Sized) and len(loader) == 0:
        raise ValueError(f"{caller}: the loader has no batch; pass one with at least one batch")
    if batches is None and not isinstance(loader, Sized):
        raise ValueError(
            f"{caller}: loader = {checks.shown(loader)} has no length, so fraction = {fraction} of it is unknown; pass "
            "batches, the number of batches to read"
        )


def batch_count(loader: Iterable[Any], fraction: float, batches: int | None) -> int:
    """The number of batches to read."""
    if batches is not None:
        return batches
    assert isinstance(loader, Sized)
    return max(1, math.ceil(fraction * len(loader)))


Watcher: TypeAlias = Callable[[str, AnalogLayer, Tensor, "slice | None"], None]
"""A function of the name of a layer, the layer, its input, and the outputs that are computed: ``None`` for all."""


@contextmanager
def watched(net: nn.Module, see: Watcher) -> Iterator[None]:
    """Call ``see(name, layer, input, outputs)`` with every input of every analog layer.

    ``forward`` itself is replaced, because a call of ``layer.forward(x)`` bypasses the hooks of the layer.
    """
    with ExitStack() as undo:
        for name, layer in analog_layers(net).items():
            undo.callback(_watch(name, layer, see))
        yield


def _watch(name: str, layer: AnalogLayer, see: Watcher) -> Callable[[], None]:
    forward, own = layer.forward, vars(layer).get("forward")

    def seen(*inputs: Any, **named: Any) -> Any:
        outputs = inputs[2] if len(inputs) > 2 else named.get("outputs")
        see(name, layer, inputs[0] if inputs else named["input"], outputs)
        return forward(*inputs, **named)

    def end() -> None:
        if own is None:
            del vars(layer)["forward"]
        else:
            vars(layer)["forward"] = own

    vars(layer)["forward"] = seen
    return end


def run_batches(net: nn.Module, loader: Iterable[Any], count: int, forward: Forward | None, caller: str) -> None:
    """Run a net on the first batches of a loader, in evaluation mode."""
    done = 0
    with evaluation_mode(net), torch.no_grad():
        for batch in itertools.islice(loader, count):
            (forward or forward_batch)(net, batch)
            done += 1
    if done == 0:
        raise ValueError(f"{caller}: the loader yielded no batch; pass one with at least one batch")


def tile_reads(chip: nn.Module, loader: Iterable[Any], count: int, forward: Forward | None, caller: str) -> int:
    """Tile reads of running a chip on ``count`` batches, all as large as the first."""
    found = 0

    def see(name: str, layer: AnalogLayer, x: Tensor, outputs: slice | None) -> None:
        nonlocal found
        rows = layer.to_rows(x)
        if layer.tiling.senses_rows:  # one column of each row tile per token
            found += rows.numel() * row_tiles(layer.in_features, layer.hardware)
            return
        y = layer.tiling.product(torch.zeros_like(rows), torch.zeros_like(layer.weight_matrix.detach()))
        found += y.numel() // layer.out_features * tiles_of(layer)

    probed = shared_copy(chip)
    with torch.random.fork_rng(), watched(probed, see):
        run_batches(probed, loader, 1, forward, caller)
    return found * count

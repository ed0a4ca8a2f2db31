"""Where the weight of a layer lives: what the layer asks its store, and how one store becomes another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from phasegrad.crossbar.converters import Converters
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.perturbation import Perturbation
from phasegrad.crossbar.product import product
from phasegrad.crossbar.streams import draw_seed
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import Tiling
from phasegrad.crossbar.word_lines import Periphery
from phasegrad.stores.analog_weight import AnalogWeight
from phasegrad.stores.layout import Layout


class StoredLayer(Protocol):
    """A layer as its weight store sees it; the attributes are described at :class:`phasegrad.nn.AnalogLayer`."""

    hardware: Hardware
    perturbation: Perturbation | None
    noise_level: Tensor
    output_range: Tensor
    converters: Converters | None
    devices: AnalogWeight | None
    noiseless: Any
    training: bool
    weight: nn.Parameter
    out_features: int
    in_features: int

    @property
    def store(self) -> WeightStore:
        """The present store."""
        ...

    @property
    def layout(self) -> Layout:
        """How the parameter ``weight`` is a matrix ``[out, in]``."""
        ...

    @property
    def weight_matrix(self) -> Tensor:
        """The parameter ``weight`` as a matrix ``[out, in]``; differentiable."""
        ...

    @property
    def columns(self) -> int:
        """Outputs that share a tile."""
        ...

    @property
    def tiling(self) -> Tiling:
        """How inputs meet the rows of the tiles."""
        ...

    @property
    def periphery(self) -> Periphery:
        """Ranges and errors of the converters."""
        ...

    def use_store(self, store: type[WeightStore]) -> None:
        """Exchange the store."""
        ...

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As :class:`torch.nn.Module` does."""
        ...


class WeightStore(ABC):
    """The place of a layer's weight. A store keeps no state of its own: it reads and changes that of its layer.

    The layer registers the parameter ``weight``, the submodule ``devices`` and the buffers, so that they move, save and
    load with it; which store reads them is the one thing that programming exchanges.

    Args:
        layer: the layer.
    """

    name: ClassVar[str]
    """What :func:`phasegrad.summary` calls it."""
    one_read_per_sequence: ClassVar[bool] = False
    """Whether all steps of a sequence share one read of a recurrent matrix, as training noise does."""
    why_not_digital: ClassVar[str | None] = None
    """Why the weight cannot be trained digitally, and what to do; ``None`` if it can."""

    def __init__(self, layer: StoredLayer) -> None:
        self.layer = layer

    @abstractmethod
    def matrix(self, seed: Tensor) -> TileWeights:
        """The weights that the tiles multiply with now, as one read sees them.

        Args:
            seed: seed of the read.
        """

    @abstractmethod
    def mean_matrix(self) -> TileWeights:
        """The weights that the tiles multiply with now, without any noise."""

    @abstractmethod
    def to_parameter(self) -> nn.Parameter:
        """The weight that the layer has now, as the parameter of its digital counterpart."""

    def draw_seed(self) -> Tensor:
        """The seed of one call of the layer."""
        return draw_seed(self.layer.weight.device)

    def read_once(self) -> TileWeights | None:
        """One read of the weights, for several products; ``None`` if each product reads by itself."""
        seed = self.draw_seed()
        return self.matrix(seed).read_once(seed, self.layer.hardware.rows)

    def output(
        self, x: Tensor, bias: Tensor | None, weights: TileWeights | None = None, outputs: slice | None = None
    ) -> Tensor:
        """The product of the layer's tiles, and its digital bias.

        Args:
            x: inputs ``[rows, in]`` or ``[rows, channels, ...]``.
            bias: ``[out]``, or ``None``.
            weights: an earlier read of the weights; ``None`` to read now.
            outputs: the outputs to compute; ``None`` for all.
        """
        layer, seed = self.layer, self.draw_seed()
        weights, periphery = self.matrix(seed) if weights is None else weights, layer.periphery
        if outputs is not None:
            weights, periphery = weights.outputs(outputs), periphery.outputs(outputs)
            bias = None if bias is None else bias[outputs]
        y = product(x, weights, layer.tiling, periphery, layer.hardware, seed)
        return y if bias is None else y + along_channels(bias, y)

    def sync(self) -> None:  # noqa: B027 -- a store without devices has nothing to copy
        """Copy into the parameter ``weight`` what the devices store now."""

    def no_seed(self) -> Tensor:
        """A seed for reads that draw nothing."""
        return torch.zeros(1, dtype=torch.int64, device=self.layer.weight.device)


def along_channels(bias: Tensor, y: Tensor) -> Tensor:
    """A bias ``[channels]`` that broadcasts over ``[rows, channels, ...]``."""
    return bias if y.dim() == 2 else bias.view(-1, *[1] * (y.dim() - 2))


def range_name(what: str) -> Callable[[Any], str]:
    """The name of a layer's profiler range: its type, the shape of its matrix, and ``what`` it does."""
    return lambda layer: f"{type(layer).__name__} [{layer.out_features}, {layer.in_features}] {what}"

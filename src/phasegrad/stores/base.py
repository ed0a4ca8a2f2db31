"""Weight stores: the interface through which a layer reads its weight, and the product that all stores share."""

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
from phasegrad.deprecation import warn_renamed
from phasegrad.ops.direct import readable
from phasegrad.stores.analog_weight import AnalogWeight
from phasegrad.stores.layout import Layout
from phasegrad.stores.watched_weight import Assigned


class StoredLayer(Protocol):
    """The part of a layer that a weight store uses; ``phasegrad.nn.AnalogLayer`` describes the attributes."""

    hardware: Hardware
    perturbation: Perturbation | None
    noise_level: Tensor
    output_range: Tensor
    converters: Converters | None
    devices: AnalogWeight | None
    noiseless: Any
    ranges_calibrated: bool | None
    training: bool
    weight: nn.Parameter
    assigned: Assigned | None
    range_is_stale: bool
    out_features: int
    in_features: int

    @property
    def store(self) -> WeightStore:
        """The present store."""
        ...

    @property
    def holds_copy(self) -> bool:
        """Whether the parameter ``weight`` is a copy of what devices store, or of a frozen mean."""
        ...

    @property
    def initial_values(self) -> dict[str, float]:
        """The noise level and the converter ranges of a new layer, by name."""
        ...

    @property
    def age_draw(self) -> Tensor | None:
        """The random integer from which the layers of a net find the age of a chip in training, if they share one."""
        ...

    @property
    def layout(self) -> Layout:
        """Layout of the parameter ``weight``, which converts it to a matrix ``[out, in]``."""
        ...

    @property
    def weight_matrix(self) -> Tensor:
        """The parameter ``weight`` as a matrix ``[out, in]``; differentiable."""
        ...

    @property
    def columns(self) -> int:
        """Outputs per tile."""
        ...

    @property
    def tiling(self) -> Tiling:
        """Assignment of the inputs to the rows of the tiles."""
        ...

    @property
    def periphery(self) -> Periphery:
        """Ranges and errors of the converters."""
        ...

    def use_store(self, store: type[WeightStore]) -> None:
        """Replace the store with one of this type."""
        ...

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter, as ``torch.nn.Module`` does."""
        ...


class WeightStore(ABC):
    """The store of a layer's weight. It has no state of its own: it reads and changes the state of its layer.

    The layer registers the parameter ``weight``, the submodule ``devices`` and the buffers, so that they are moved,
    saved and loaded with it. Programming replaces only the store that reads them.

    Args:
        layer: the layer.
    """

    name: ClassVar[str]
    """Name in [`summary`][phasegrad.summary]."""
    holds_copy: ClassVar[bool] = True
    """Whether the parameter ``weight`` is a copy, so that its devices must be programmed when it is written."""
    one_read_per_sequence: ClassVar[bool] = False
    """Whether all steps of a sequence share one read of a recurrent matrix, as they do for training noise."""
    why_not_digital: ClassVar[str | None] = None
    """Why the weight cannot be trained digitally, and what to do instead; ``None`` if it can."""

    def __init__(self, layer: StoredLayer) -> None:
        self.layer = layer

    @abstractmethod
    def matrix(self, seed: Tensor) -> TileWeights:
        """The weights of the tiles, as one read sees them.

        Training noise may still be drawn at the product, see ``TileWeights.perturbation``.

        Args:
            seed: seed of the read.
        """

    @abstractmethod
    def mean_matrix(self) -> TileWeights:
        """The weights that the tiles multiply with now, without any noise."""

    @abstractmethod
    def to_parameter(self) -> nn.Parameter:
        """The present weight of the layer, as a parameter of its digital counterpart."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} weight of {type(self.layer).__name__}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):  # release 0.1.0 had the name here
            warn_renamed("the string layer.store", "layer.store.name")
            return self.name == other
        return type(other) is type(self) and other.layer is self.layer

    def __hash__(self) -> int:
        return hash((type(self), id(self.layer)))

    def draw_seed(self) -> Tensor:
        """The seed of one call of the layer."""
        return draw_seed(self.layer.weight.device)

    def read_once(self) -> TileWeights | None:
        """One read of the weights that several products share; ``None`` if each product reads the weights again."""
        seed = self.draw_seed()
        return self.matrix(seed).read_once(seed, self.layer.hardware.rows)

    def output(
        self, x: Tensor, bias: Tensor | None, weights: TileWeights | None = None, outputs: slice | None = None
    ) -> Tensor:
        """The product of the layer's tiles plus its digital bias.

        Args:
            x: inputs ``[samples, in]`` or ``[samples, channels, ...]``.
            bias: ``[out]``, or ``None``.
            weights: an earlier read of the weights; ``None`` to read them now.
            outputs: the outputs to compute; ``None`` for all.
        """
        layer, seed = self.layer, self.draw_seed()
        weights, periphery = self.matrix(seed) if weights is None else weights, layer.periphery
        if outputs is not None:
            weights, periphery = weights.outputs(outputs), periphery.outputs(outputs)
            bias = None if bias is None else bias[outputs]
        y = product(x, weights, layer.tiling, periphery, layer.hardware, seed)
        if bias is None:
            return y
        own = not torch.is_grad_enabled() and readable(y) and readable(bias) and y.dtype == bias.dtype
        return _add_to_channels(bias, y) if own else y + along_channels(bias, y)

    def sync(self) -> None:  # noqa: B027 -- a store without devices has nothing to copy
        """Copy the present value of the devices into the parameter ``weight``."""

    def no_seed(self) -> Tensor:
        """A seed for reads without random draws."""
        return torch.zeros(1, dtype=torch.int64, device=self.layer.weight.device)


def along_channels(bias: Tensor, y: Tensor) -> Tensor:
    """A bias ``[channels]`` that broadcasts over ``[samples, channels, ...]``."""
    return bias if y.dim() == 2 else bias.view(-1, *[1] * (y.dim() - 2))


def _add_to_channels(bias: Tensor, y: Tensor) -> Tensor:
    """Add a bias in place: with channels last, a line of pixels at a time, which takes half as long as a pixel does."""
    if y.dim() == 2:
        return y.add_(bias)
    pixels = y.movedim(1, -1)
    if pixels.is_contiguous():
        pixels.flatten(-2).add_(bias.repeat(pixels.shape[-2]))
        return y
    return y.add_(along_channels(bias, y))


def range_name(operation: str) -> Callable[[Any], str]:
    """The name of a layer's profiler range: its type, the shape of its matrix, and the operation."""
    return lambda layer: f"{type(layer).__name__} [{layer.out_features}, {layer.in_features}] {operation}"

"""Base class of analog layers: weight store, converters and matrix product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phasegrad.argument_checks import module
from phasegrad.configuration import check_type
from phasegrad.crossbar import Hardware, Perturbation
from phasegrad.crossbar.converters import Converters
from phasegrad.crossbar.mapping import row_tiles, tile_count
from phasegrad.crossbar.materialisation import loses_values
from phasegrad.crossbar.streams import draw_seed
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import Tiling
from phasegrad.crossbar.word_lines import Periphery
from phasegrad.nn import layer_ranges, layer_state, materialisation
from phasegrad.nn.calling_net import calling_net
from phasegrad.nn.lazy import require_initialised
from phasegrad.ops.profiling import profiled
from phasegrad.stores import AnalogWeight, Digital, WeightStore
from phasegrad.stores.base import range_name
from phasegrad.stores.digital import programming_target
from phasegrad.stores.in_memory import move_into_memory
from phasegrad.stores.layout import OUTPUTS_FIRST, Layout
from phasegrad.stores.noiseless import NoiselessWeights
from phasegrad.stores.sharing import exchanged
from phasegrad.stores.watched_weight import Assigned
from phasegrad.stores.written_weights import (
    follow_move,
    is_current,
    note_weight,
    take_writes,
    wrap_restored,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class AnalogLayer(nn.Module, ABC):
    """A layer whose product is computed in crossbar tiles.

    Attributes:
        weight: parameter with the shape of the digital counterpart's weight: the digital weight, or, once programmed, a
            copy of the weight that the devices store at the layer's present time.
        bias: digital bias, or ``None``.
        out_features: number of outputs of the weight matrix.
        in_features: number of inputs of the weight matrix.
        hardware: the hardware; immutable.
        perturbation: clipping and training noise of the digital weight, or ``None``.
        noise_level: 0-d factor of the training noise, which a noise ramp changes.
        input_range: range of the DAC ``[1]`` (a parameter if learned), or ``None`` if each input sets it.
        output_range: range of the ADC ``[1]`` in units of ``max|w| max|x|``; a parameter if learned. Learned ranges
            are frozen if every parameter of the digital counterpart was.
        converters: errors of each physical converter, or ``None`` if all converters are ideal.
        devices: the programmed devices, or ``None`` while the weight is digital.
        noiseless: the fixed mean of the weights if the layer is noiseless, otherwise ``None``.
        assigned: a parameter that was assigned to ``weight`` of a layer with devices, until it is programmed.
        range_is_stale: whether the weight was written and programmed since the input range was set.
        ranges_calibrated: whether data determined the converter ranges; ``None`` if this is not known, as for
            checkpoints of release 0.1.0.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    out_features: int
    in_features: int
    noise_level: Tensor
    input_range: Tensor | None
    output_range: Tensor
    converters: Converters | None
    devices: AnalogWeight | None
    noiseless: NoiselessWeights | None
    assigned: Assigned | None = None
    range_is_stale: bool = False
    ranges_calibrated: bool | None = None

    @classmethod
    def from_digital(cls, digital: nn.Module, hardware: Hardware) -> Self:
        """Create the analog layer from its digital counterpart; the parameters are the same objects."""
        layer = cls.__new__(cls)
        layer._init_from_digital(digital, hardware)
        return layer

    def _init_from_digital(self, digital: nn.Module, hardware: Hardware) -> None:
        nn.Module.__init__(self)
        self.hardware = hardware
        check_type(self, "hardware", Hardware)
        self.perturbation: Perturbation | None = None
        self.ranges_calibrated = False
        self.training = digital.training
        for name in self._options:
            setattr(self, name, getattr(digital, name))
        self.register_parameter("weight", digital.weight)  # type: ignore[arg-type]
        self.register_parameter("bias", digital._parameters.get("bias"))
        self.out_features, self.in_features = self.layout.size(self.weight.shape)
        factory: dict[str, Any] = {"dtype": self.weight.dtype, "device": self.weight.device}
        self.register_buffer("noise_level", torch.ones((), **factory), persistent=False)
        self._make_input_range(factory)
        layer_ranges.make_output_range(self, self._initial_output_range(), factory)
        self._make_converters()
        self.devices = None
        self.noiseless = None
        self.use_store(Digital)
        if hardware.pulses is not None:
            move_into_memory(self)

    def _make_input_range(self, factory: dict[str, Any]) -> None:
        layer_ranges.make_input_range(self, factory)

    def _initial_output_range(self) -> float:
        return layer_ranges.initial_output_range(self)

    @property
    def initial_values(self) -> dict[str, float]:
        """The values of the noise level and of the converter ranges in a new layer, by name."""
        values = {"noise_level": 1.0, "output_range": self._initial_output_range()}
        return values | layer_ranges.initial_input_range(self)

    def _make_converters(self) -> None:
        hardware, tiles = self.hardware, row_tiles(self.in_features, self.hardware)
        tiles *= len(hardware.cell.slice_factors or (1.0,))
        geometry = (tiles, self.out_features, self.columns, self._dac_count)
        converters = Converters(hardware.adc, hardware.dac, *geometry, self.weight.device)
        has_errors = converters.outputs is not None or converters.inputs is not None
        self.converters = converters if has_errors else None
        if converters.differ:
            converters.draw(draw_seed(self.weight.device))

    _options: tuple[str, ...]
    """Names of the attributes that are copied from the digital counterpart."""

    @property
    @abstractmethod
    def tiling(self) -> Tiling:
        """How inputs are mapped to the rows of the tiles."""

    @property
    @abstractmethod
    def _dac_count(self) -> int:
        """Number of DACs."""

    @abstractmethod
    def to_rows(self, x: Tensor) -> Tensor:
        """Reshape the input to ``[rows, in]`` or ``[rows, channels, ...]``.

        Raises:
            ValueError: the shape of the input is wrong.
        """

    @abstractmethod
    def _from_rows(self, y: Tensor, x: Tensor) -> Tensor:
        """Reshape output ``y`` to match the shape of input ``x``."""

    @abstractmethod
    def _make_digital(self) -> nn.Module:
        """Create a digital counterpart with the same options on the meta device."""

    @property
    def store(self) -> WeightStore:
        """Where the weight is stored: ``Digital``, ``Programmed``, ``InMemory`` or ``Noiseless``."""
        return self._store_type(self)

    def use_store(self, store: type[WeightStore]) -> None:
        """Replace the store; only stores call this method."""
        self._store_type = store

    @property
    def holds_copy(self) -> bool:
        """Whether the parameter ``weight`` is a copy of what devices store, or of a frozen mean."""
        store = self.__dict__.get("_store_type")
        return store is not None and store.holds_copy

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter, as torch does; a weight that is assigned to devices is programmed at the next use."""
        if name == "weight" and self.holds_copy:
            note_weight(self, param)
        super().register_parameter(name, param)

    def take_writes(self) -> None:
        """Program the devices if the weight was written since its last use.

        Raises:
            RuntimeError: it was written in a way that devices cannot follow.
            ValueError: it was written with another shape, or values that are not finite.
        """
        if self._store_type.holds_copy and not torch.compiler.is_compiling() and not is_current(self):
            if not self.__dict__.get("_is_replica"):  # of DataParallel
                take_writes_of_net(calling_net(self), (self,))

    @property
    def layout(self) -> Layout:
        """How the parameter ``weight`` is arranged as a matrix ``[out, in]``."""
        return OUTPUTS_FIRST

    @property
    def weight_matrix(self) -> Tensor:
        """The parameter ``weight`` as the matrix ``[out, in]`` that is mapped to tiles; differentiable."""
        return self.layout.matrix(self.weight)

    @torch.no_grad()
    def clipped_weight(self) -> Tensor:
        """The weight ``[out, in]`` that programming would write: clipped as ``perturbation`` specifies, if digital."""
        if self.store.why_not_digital is not None:
            return self.weight_matrix.detach()
        return programming_target(self).weight

    @property
    def columns(self) -> int:
        """Number of outputs that share a tile."""
        return self.hardware.columns

    @property
    def tiles(self) -> int:
        """Number of crossbar tiles of the matrix."""
        return tile_count(self.out_features, self.in_features, self.hardware)

    @property
    def device_count(self) -> int:
        """Number of devices of the weight, including references."""
        columns = self.out_features
        if self.hardware.cell.has_reference:
            columns += -(-self.out_features // self.columns)
        return self.in_features * columns * sum(len(cell.factors) for cell in self.hardware.cells)

    def to_digital(self) -> nn.Module:
        """The digital counterpart with the present weight of the layer (the same parameter, clipped)."""
        self.take_writes()
        digital = self._make_digital()
        digital.register_parameter("weight", exchanged(self.weight, self.store.to_parameter))
        digital.register_parameter("bias", self.bias)
        return digital.train(self.training)

    @profiled(range_name("forward"))
    def forward(self, input: Tensor, weights: TileWeights | None = None, outputs: slice | None = None) -> Tensor:
        """Compute the layer's output on the hardware.

        Args:
            input: input of the shape that the digital counterpart accepts.
            weights: the result of ``read``, to share one read between products; ``None`` to read now.
            outputs: the outputs to compute; ``None`` for all.

        Raises:
            ValueError: the shape of the input is wrong.
        """
        self.take_writes()
        rows = self.to_rows(input)
        if self.range_is_stale:
            layer_ranges.widen_input_range(self, rows)
        y = self.store.output(rows, self.bias, weights, outputs)
        return self._from_rows(y, input)

    def read(self) -> TileWeights | None:
        """Read the weights once, to share the read between several calls of ``forward``.

        Training noise and device noise are drawn in this read; converter and output noise are drawn in each product.

        Returns:
            The weights; ``None`` for in-memory weights, which every product reads itself.
        """
        self.take_writes()
        return self.store.read_once()

    @property
    def periphery(self) -> Periphery:
        """The ranges and errors of the converters."""
        converters = self.converters
        if converters is None:
            return Periphery(self.input_range, self.output_range)
        return Periphery(self.input_range, self.output_range, converters.of_columns, converters.inputs)

    @property
    def age_draw(self) -> Tensor | None:
        """The random integer from which the layers of a net find the age of a chip in training, if they share one."""
        return self._buffers.get("_age_draw")

    @property
    def has_ranges(self) -> bool:
        """Whether the converter ranges can be calibrated from inputs."""
        return True

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the weight and the bias as the digital counterpart does, and everything else as in a new layer.

        A weight that is trained in the memory is programmed.

        Raises:
            ValueError: the layer is programmed or noiseless.
        """
        materialisation.refuse_programmed(self)
        digital = self._make_digital()
        digital.register_parameter("weight", self.weight)
        digital.register_parameter("bias", self.bias)
        self._initialise(digital)
        materialisation.reset(self)

    def _initialise(self, digital: nn.Module) -> None:
        """Initialise the parameters of a digital counterpart in place."""
        digital.reset_parameters()  # type: ignore[operator]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        wrap_restored(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if not self.holds_copy:
            super()._apply(fn, recurse)
            return self._restored_after(fn)
        take_writes_of_net(calling_net(self), ())
        weight = self._parameters.get("weight")
        dtype = None if weight is None else weight.dtype
        super()._apply(fn, recurse)
        follow_move(self, weight, dtype)
        return self._restored_after(fn)

    def _restored_after(self, fn: Callable[[Tensor], Tensor]) -> Self:
        if loses_values(fn):
            materialisation.restore(self)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.take_writes()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        layer_state.save_configuration(self, destination, prefix)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        with layer_state.loading(self, state_dict, prefix, local_metadata):
            lists = (missing_keys, unexpected_keys, error_msgs)
            super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
            materialisation.follow_weight(self)
            materialisation.mark_loaded(self, (k.removeprefix(prefix) for k in state_dict if k.startswith(prefix)))

    def extra_repr(self) -> str:
        """The options of the digital counterpart, the number of tiles, and the weight store."""
        options = ", ".join(f"{name}={getattr(self, name)}" for name in self._options)
        return f"{options}, bias={self.bias is not None}, tiles={self.tiles}, weight={self.store.name}"


def analog_layers(net: nn.Module) -> dict[str, AnalogLayer]:
    """Find the analog layers of a net by name; a layer in several places is listed once.

    Raises:
        TypeError: ``net`` is not a module.
    """
    return {name: m for name, m in module("analog_layers", "net", net).named_modules() if isinstance(m, AnalogLayer)}


def require_analog_layers(net: nn.Module, caller: str) -> dict[str, AnalogLayer]:
    """The analog layers of a net by name; raise ``ValueError`` in the name of ``caller`` if there is none.

    It is also raised if a lazy layer of the net has not become analog yet.
    """
    require_initialised(module(caller, "the net", net), caller)
    layers = analog_layers(net)
    if not layers:
        raise ValueError(f"{caller}: the net has no analog layer; convert it first with pg.convert(model, hardware)")
    for name, layer in layers.items():
        materialisation.check_values(layer, f"{caller}: {name}" if name else caller)
    return layers


def take_writes_of_net(net: nn.Module, used: Collection[AnalogLayer] | None = None) -> None:
    """Program the devices of all layers of a net whose weight was written since its last use, and warn once.

    Args:
        net: a net; digital weights are what layers compute with, so nothing happens to them.
        used: the layers that are about to be used; ``None`` for all.

    Raises:
        RuntimeError: a weight was written in a way that devices cannot follow; nothing was changed.
        ValueError: it was written with another shape, or values that are not finite; nothing was changed.
    """
    take_writes({name: layer for name, layer in analog_layers(net).items() if layer.holds_copy}, used)

"""Base class of analog layers: weight store, converters and matrix product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phasegrad.argument_checks import module
from phasegrad.configuration import check_type
from phasegrad.crossbar import Hardware, Perturbation
from phasegrad.crossbar.converters import (
    AbsMaxRange,
    CalibratedRange,
    Converters,
    FixedRange,
    FullScaleRange,
    LearnedRange,
)
from phasegrad.crossbar.mapping import row_tiles, tile_count
from phasegrad.crossbar.streams import draw_seed
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import Tiling
from phasegrad.crossbar.word_lines import Periphery
from phasegrad.nn import layer_state
from phasegrad.ops.profiling import profiled
from phasegrad.stores import AnalogWeight, Digital, WeightStore
from phasegrad.stores.base import range_name
from phasegrad.stores.digital import programming_target
from phasegrad.stores.in_memory import move_into_memory
from phasegrad.stores.layout import OUTPUTS_FIRST, Layout
from phasegrad.stores.noiseless import NoiselessWeights
from phasegrad.stores.sharing import exchanged

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
        self._make_output_range(factory)
        self._make_converters()
        self.devices = None
        self.noiseless = None
        self.use_store(Digital)
        if hardware.pulses is not None:
            move_into_memory(self)

    def _make_input_range(self, factory: dict[str, Any]) -> None:
        kind = self.hardware.dac.range if self.hardware.dac else AbsMaxRange()
        if isinstance(kind, LearnedRange):
            self.input_range = nn.Parameter(torch.full((1,), kind.start, **factory), self._is_trainable)
        elif isinstance(kind, FixedRange):
            self.register_buffer("input_range", torch.full((1,), kind.value, **factory), persistent=False)
        else:
            self.register_buffer("input_range", None)

    @property
    def _is_trainable(self) -> bool:
        """Whether a parameter is trainable; a layer whose parameters are all frozen gets no trainable range."""
        return any(p.requires_grad for p in self._parameters.values() if p is not None)

    def _make_output_range(self, factory: dict[str, Any]) -> None:
        kind = self.hardware.adc.range if self.hardware.adc else FullScaleRange()
        value = torch.full((1,), self._initial_output_range(), **factory)
        if isinstance(kind, LearnedRange):
            self.output_range = nn.Parameter(value, self._is_trainable)
        else:
            self.register_buffer("output_range", value, persistent=isinstance(kind, CalibratedRange))

    def _initial_output_range(self) -> float:
        kind = self.hardware.adc.range if self.hardware.adc else FullScaleRange()
        if isinstance(kind, FullScaleRange):
            return float(min(self.in_features, self.hardware.rows))
        return kind.value if isinstance(kind, FixedRange) else kind.start

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
        y = self.store.output(self.to_rows(input), self.bias, weights, outputs)
        return self._from_rows(y, input)

    def read(self) -> TileWeights | None:
        """Read the weights once, to share the read between several calls of ``forward``.

        Training noise and device noise are drawn in this read; converter and output noise are drawn in each product.

        Returns:
            The weights; ``None`` for in-memory weights, which every product reads itself.
        """
        return self.store.read_once()

    @property
    def periphery(self) -> Periphery:
        """The ranges and errors of the converters."""
        converters = self.converters
        if converters is None:
            return Periphery(self.input_range, self.output_range)
        return Periphery(self.input_range, self.output_range, converters.of_columns, converters.inputs)

    @property
    def has_ranges(self) -> bool:
        """Whether the converter ranges can be calibrated from inputs."""
        return True

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        layer_state.save_configuration(self, destination, prefix)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        with layer_state.loading(self, state_dict, prefix, local_metadata):
            lists = (missing_keys, unexpected_keys, error_msgs)
            super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)

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
    """The analog layers of a net by name; raise ``ValueError`` in the name of ``caller`` if there is none."""
    layers = analog_layers(module(caller, "the net", net))
    if not layers:
        raise ValueError(f"{caller}: the net has no analog layer; convert it first with pg.convert(model, hardware)")
    return layers

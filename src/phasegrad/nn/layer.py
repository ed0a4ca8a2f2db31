"""What every analog layer shares: its weight store, its converters, its product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

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
from phasegrad.stores.in_memory import move_into_memory
from phasegrad.stores.layout import OUTPUTS_FIRST, Layout
from phasegrad.stores.noiseless import NoiselessWeights
from phasegrad.stores.sharing import exchanged

if TYPE_CHECKING:
    from typing_extensions import Self


class AnalogLayer(nn.Module, ABC):
    """A layer whose product is computed in crossbar tiles.

    Attributes:
        weight: parameter in the shape of the digital counterpart's: the digital weight, or, once programmed, a copy of
            what the devices store at the layer's present time.
        bias: digital, or ``None``.
        hardware: the hardware, frozen.
        perturbation: clipping and training noise of the digital weight, or ``None``.
        noise_level: factor of that noise, 0-d; a ramp changes it.
        input_range: range of the DAC (a parameter if learned), or ``None`` if it is taken from each input.
        output_range: range of the ADC in units of ``max|w| max|x|``; a parameter if learned.
        converters: errors of each physical converter, or ``None`` if all are ideal.
        devices: the programmed devices, or ``None`` while the weight is digital.
        noiseless: the frozen mean of the weights, if the layer is noiseless; ``None`` otherwise.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    noise_level: Tensor
    input_range: Tensor | None
    output_range: Tensor
    converters: Converters | None
    devices: AnalogWeight | None
    noiseless: NoiselessWeights | None

    @classmethod
    def from_digital(cls, digital: nn.Module, hardware: Hardware) -> Self:
        """An analog layer with the parameters of its digital counterpart (the same objects)."""
        layer = cls.__new__(cls)
        layer._adopt(digital, hardware)
        return layer

    def _adopt(self, digital: nn.Module, hardware: Hardware) -> None:
        nn.Module.__init__(self)
        self.hardware = hardware
        check_type(self, "hardware", Hardware)
        self.perturbation: Perturbation | None = None
        self.training = digital.training
        for name in self._options:
            setattr(self, name, getattr(digital, name))
        self.register_parameter("weight", digital.weight)  # type: ignore[arg-type]
        self.register_parameter("bias", digital._parameters.get("bias"))
        like: dict[str, Any] = {"dtype": self.weight.dtype, "device": self.weight.device}
        self.register_buffer("noise_level", torch.ones((), **like), persistent=False)
        self._make_input_range(like)
        self._make_output_range(like)
        self._make_converters()
        self.devices = None
        self.noiseless = None
        self.use_store(Digital)
        if hardware.pulses is not None:
            move_into_memory(self)

    def _make_input_range(self, like: dict[str, Any]) -> None:
        kind = self.hardware.dac.range if self.hardware.dac else AbsMaxRange()
        if isinstance(kind, LearnedRange):
            self.input_range = nn.Parameter(torch.full((1,), kind.start, **like))
        elif isinstance(kind, FixedRange):
            self.register_buffer("input_range", torch.full((1,), kind.value, **like), persistent=False)
        else:
            self.register_buffer("input_range", None)

    def _make_output_range(self, like: dict[str, Any]) -> None:
        kind = self.hardware.adc.range if self.hardware.adc else FullScaleRange()
        if isinstance(kind, FullScaleRange):
            value = float(min(self.in_features, self.hardware.rows))
        else:
            value = kind.value if isinstance(kind, FixedRange) else kind.start
        full = torch.full((1,), value, **like)
        if isinstance(kind, LearnedRange):
            self.output_range = nn.Parameter(full)
        else:
            self.register_buffer("output_range", full, persistent=isinstance(kind, CalibratedRange))

    def _make_converters(self) -> None:
        hardware, tiles = self.hardware, row_tiles(self.in_features, self.hardware)
        tiles *= len(hardware.cell.slice_factors or (1.0,))
        geometry = (tiles, self.out_features, self.columns, self._dac_count)
        made = Converters(hardware.adc, hardware.dac, *geometry, self.weight.device)
        self.converters = made if made.outputs is not None or made.inputs is not None else None
        if made.differ:
            made.draw(draw_seed(self.weight.device))

    # --- what a concrete layer supplies -----------------------------------------------------------------------

    _options: tuple[str, ...]
    """Attributes of the digital counterpart."""

    @property
    @abstractmethod
    def tiling(self) -> Tiling:
        """How inputs meet the rows of the tiles."""

    @property
    @abstractmethod
    def _dac_count(self) -> int:
        """Inputs that have a converter of their own."""

    @abstractmethod
    def to_rows(self, x: Tensor) -> Tensor:
        """The input as ``[rows, in]`` or ``[rows, channels, ...]``; raises if its shape is wrong."""

    @abstractmethod
    def _from_rows(self, y: Tensor, x: Tensor) -> Tensor:
        """The output in the shape that belongs to input ``x``."""

    @abstractmethod
    def _digital(self) -> nn.Module:
        """A digital counterpart with the same options, on the meta device."""

    # --- the weight -------------------------------------------------------------------------------------------

    @property
    def store(self) -> WeightStore:
        """Where the weight lives: ``Digital``, ``Programmed``, ``InMemory`` or ``Noiseless``."""
        return self._store_type(self)

    def use_store(self, store: type[WeightStore]) -> None:
        """Exchange the store; the stores themselves call this."""
        self._store_type = store

    @property
    def layout(self) -> Layout:
        """How the parameter ``weight`` is a matrix ``[out, in]``."""
        return OUTPUTS_FIRST

    @property
    def weight_matrix(self) -> Tensor:
        """The parameter ``weight`` as the matrix ``[out, in]`` that lies on tiles; differentiable."""
        return self.layout.matrix(self.weight)

    @property
    def out_features(self) -> int:
        """Outputs of the weight matrix."""
        return self.layout.size(self.weight.shape)[0]

    @property
    def in_features(self) -> int:
        """Inputs of the weight matrix."""
        return self.layout.size(self.weight.shape)[1]

    @property
    def columns(self) -> int:
        """Outputs that share a tile."""
        return self.hardware.columns

    @property
    def tiles(self) -> int:
        """Crossbar tiles of the matrix."""
        return tile_count(self.out_features, self.in_features, self.hardware)

    @property
    def device_count(self) -> int:
        """Devices of the weight, references included."""
        columns = self.out_features
        if self.hardware.cell.has_reference:
            columns += -(-self.out_features // self.columns)
        return self.in_features * columns * sum(len(cell.factors) for cell in self.hardware.cells)

    def to_digital(self) -> nn.Module:
        """The digital counterpart, with the weight that the layer has now (the same parameter, clipped)."""
        digital = self._digital()
        digital.register_parameter("weight", exchanged(self.weight, self.store.to_parameter))
        digital.register_parameter("bias", self.bias)
        return digital.train(self.training)

    # --- the product ------------------------------------------------------------------------------------------

    @profiled(range_name("forward"))
    def forward(self, input: Tensor, weights: TileWeights | None = None, outputs: slice | None = None) -> Tensor:
        """The layer's output, as the hardware computes it.

        Args:
            input: in the shape of the digital counterpart's input.
            weights: an earlier :meth:`read`, for several products with one read; ``None`` to read now.
            outputs: the outputs to compute; ``None`` for all.
        """
        y = self.store.output(self.to_rows(input), self.bias, weights, outputs)
        return self._from_rows(y, input)

    def read(self) -> TileWeights | None:
        """One read of the weights, for several products, each a call of :meth:`forward`.

        The noise of training and of devices is that of this read; each product draws converter and output noise of its
        own. ``None`` for in-memory weights, which each product reads by itself.
        """
        return self.store.read_once()

    @property
    def periphery(self) -> Periphery:
        """Ranges and errors of the converters."""
        converters = self.converters
        if converters is None:
            return Periphery(self.input_range, self.output_range)
        return Periphery(self.input_range, self.output_range, converters.of_columns, converters.inputs)

    @property
    def has_ranges(self) -> bool:
        """Whether the ranges of the converters can be calibrated from inputs."""
        return True

    # --- state dict -------------------------------------------------------------------------------------------

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
        """The options of the digital counterpart, the tiles, and where the weight lives."""
        options = ", ".join(f"{name}={getattr(self, name)}" for name in self._options)
        return f"{options}, bias={self.bias is not None}, tiles={self.tiles}, weight={self.store.name}"


def analog_layers(net: nn.Module) -> dict[str, AnalogLayer]:
    """The analog layers of a net by name, each object once."""
    return {name: m for name, m in net.named_modules() if isinstance(m, AnalogLayer)}


def require_analog_layers(net: nn.Module, caller: str) -> dict[str, AnalogLayer]:
    """The analog layers of a net by name; raise ``ValueError`` in the name of ``caller`` if there is none."""
    layers = analog_layers(net)
    if not layers:
        raise ValueError(f"{caller}: the net has no analog layer; convert it first with pg.convert(model, hardware)")
    return layers

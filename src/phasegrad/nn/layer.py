"""What every analog layer shares: its weight, where that lives, its converters' ranges, its state dict."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from phasegrad.configuration import Configuration, check_type
from phasegrad.crossbar import Hardware, Perturbation
from phasegrad.crossbar.converters import (
    AbsMaxRange,
    CalibratedRange,
    Converters,
    FixedRange,
    FullScaleRange,
    LearnedRange,
)
from phasegrad.crossbar.hardware import from_tensor, to_tensor
from phasegrad.crossbar.mapping import row_tiles, tile_count
from phasegrad.crossbar.masters import master_matrix, sliced_matrix, wired_matrix
from phasegrad.crossbar.product import LinearTiles, Matrix, Periphery, Tiles, product
from phasegrad.crossbar.stores import Devices
from phasegrad.crossbar.streams import draw_seed
from phasegrad.nn.fixed import FixedMatrix
from phasegrad.nn.in_memory import InMemoryWeight, in_memory_product
from phasegrad.nn.layout import OUTPUTS_FIRST, Layout
from phasegrad.nn.patches import Patches
from phasegrad.nn.sharing import exchanged
from phasegrad.ops.profiling import profiled

if TYPE_CHECKING:
    from typing_extensions import Self

_CONFIGURATION = "configuration"  # key of the state dict


def range_name(what: str) -> Callable[[AnalogLayer], str]:
    """How a profile names what a layer does: its kind, the shape of its matrix, and ``what``."""
    return lambda layer: f"{type(layer).__name__} [{layer.out_features}, {layer.in_features}] {what}"


@final
@dataclass(frozen=True, kw_only=True)
class LayerConfiguration(Configuration):
    """What a layer's state dict says about it."""

    hardware: Hardware
    perturbation: Perturbation | None


class AnalogLayer(nn.Module, ABC):
    """A layer whose product is computed in crossbar tiles.

    Attributes:
        weight: parameter of the digital twin's shape: the master weight, or, once programmed, a copy of what the
            devices hold at the layer's present time.
        bias: digital, or ``None``.
        hardware: the hardware, frozen.
        perturbation: clipping and training noise of the master weight, or ``None``.
        noise_level: factor of that noise, 0-d; a ramp moves it.
        input_range: range of the DAC (parameter when learned), or ``None`` when taken from each input.
        output_range: range of the ADC in units of ``max|w| max|x|``; a parameter when learned.
        converters: what is not ideal about each physical converter, or ``None`` where they are ideal.
        devices: the programmed devices, or ``None`` while the weight is digital.
        fixed: the mean of the matrix, where :meth:`fix` was called; ``None`` otherwise.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    noise_level: Tensor
    input_range: Tensor | None
    output_range: Tensor
    converters: Converters | None
    devices: Devices | None
    fixed: FixedMatrix | None

    @classmethod
    def from_digital(cls, digital: nn.Module, hardware: Hardware) -> Self:
        """An analog layer that takes over the parameters of its digital twin (the same objects)."""
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
        self.fixed = None
        if hardware.pulses is not None:
            self._move_into_memory()

    def _move_into_memory(self) -> None:
        """Program the weight, which is trained there from now on, unless a layer that it is tied to has done so."""
        weight = self.weight
        if not isinstance(weight, InMemoryWeight):
            weight = exchanged(weight, self._programmed_weight)
        assert isinstance(weight, InMemoryWeight)
        if weight.matrix_layout != self.layout:
            raise ValueError(
                f"{type(self).__name__}: its weight is tied to one whose inputs and outputs lie the other way "
                "around, so that no devices can hold both while they are trained. Untie them, or skip one"
            )
        self.devices = weight.devices
        self.register_parameter("weight", weight)

    def _programmed_weight(self) -> nn.Parameter:
        trained = self.weight.requires_grad
        self.program(draw_seed(self.weight.device))
        self.weight.requires_grad_(trained)
        return self.weight

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
        geometry = (tiles, self.out_features, self._columns, self._lines)
        made = Converters(hardware.adc, hardware.dac, *geometry, self.weight.device)
        self.converters = made if made.outputs is not None or made.inputs is not None else None
        if made.differ:
            made.draw(draw_seed(self.weight.device))

    # --- what a concrete layer supplies -----------------------------------------------------------------------

    _options: tuple[str, ...]
    """Attributes that are the digital twin's own."""

    @property
    @abstractmethod
    def _tiles(self) -> Tiles:
        """How inputs meet the matrix."""

    @property
    @abstractmethod
    def _lines(self) -> int:
        """Inputs of a row that have a converter of their own."""

    @abstractmethod
    def _to_rows(self, x: Tensor) -> Tensor:
        """The input as ``[rows, in]`` or ``[rows, channels, ...]``; raises if its shape is wrong."""

    @abstractmethod
    def _from_rows(self, y: Tensor, x: Tensor) -> Tensor:
        """The output in the shape that belongs to input ``x``."""

    @property
    @abstractmethod
    def patches(self) -> Patches | None:
        """How images are samples of an update in the memory; ``None`` where each row is one."""

    @abstractmethod
    def _transposed_exactly(self, d: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
        """Gradients of rows of a shape, as arithmetic gives them for a weight ``[out, in]``."""

    @abstractmethod
    def _transposed_by_tiles(self, d: Tensor, shape: torch.Size, seed: Tensor) -> Tensor:
        """The same, through tiles driven from the side of their outputs."""

    @abstractmethod
    def _digital(self) -> nn.Module:
        """A digital twin with the same options, on the meta device."""

    # --- the weight -------------------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """How the parameter ``weight`` is a matrix ``[out, in]``."""
        return OUTPUTS_FIRST

    @property
    def weight_matrix(self) -> Tensor:
        """The parameter ``weight`` as the matrix ``[out, in]`` that is put on tiles; differentiable."""
        return self.layout.matrix(self.weight)

    @property
    def out_features(self) -> int:
        """Outputs of the weight matrix."""
        return self.layout.size(self.weight.shape)[0]

    @property
    def in_features(self) -> int:
        """Inputs that one output sees."""
        return self.layout.size(self.weight.shape)[1]

    @property
    def tiles(self) -> int:
        """Crossbar tiles that the matrix takes."""
        return tile_count(self.out_features, self.in_features, self.hardware)

    @property
    def device_count(self) -> int:
        """Devices that hold the weight, references included."""
        columns = self.out_features
        if self.hardware.cell.has_reference:
            columns += -(-self.out_features // self._columns)
        return self.in_features * columns * sum(len(cell.factors) for cell in self.hardware.cells)

    @property
    def store(self) -> str:
        """Where the weight lives: ``"digital"``, ``"programmed"`` or ``"in memory"``."""
        if self.hardware.pulses is not None:
            return "in memory"
        return "digital" if self.devices is None else "programmed"

    @property
    def _columns(self) -> int:
        """Outputs that share a tile."""
        return self.hardware.columns

    def _matrix(self, seed: Tensor) -> Matrix:
        if self.fixed is not None:
            return self.fixed.matrix()
        if self.hardware.pulses is not None:
            return master_matrix(self._held(seed), self.hardware, None, None, self._columns)
        if self.devices is not None:
            return self.devices.matrix(seed, self.weight.dtype)
        level = self.noise_level if self.training else None
        matrix = master_matrix(self.weight_matrix, self.hardware, self.perturbation, level, self._columns)
        return wired_matrix(sliced_matrix(matrix, self.hardware), seed, self.hardware, self._columns)

    def _seed(self) -> Tensor:
        """Of what this call draws."""
        device = self.weight.device
        return draw_seed(device) if self.fixed is None else torch.zeros(1, dtype=torch.int64, device=device)

    def fix(self) -> None:
        """From now on compute with the mean of the matrix and without noise: for inference alone."""
        self.fixed = FixedMatrix(self.mean_matrix())
        adc = self.hardware.adc.without_noise() if self.hardware.adc else None
        self.hardware = dataclasses.replace(self.hardware, adc=adc, output_noise=0.0, read_noise=0.0)

    @torch.no_grad()
    def mean_matrix(self) -> Matrix:
        """What the layer computes with, but for noise: the weight clipped, or as devices hold it, with its wires."""
        seed = torch.zeros(1, dtype=torch.int64, device=self.weight.device)  # evaluation draws nothing
        if self.devices is not None and self.hardware.pulses is None:
            return self.devices.mean_matrix(self.weight.dtype)
        matrix = master_matrix(self.weight_matrix, self.hardware, self.perturbation, None, self._columns)
        matrix = wired_matrix(sliced_matrix(matrix, self.hardware), seed, self.hardware, self._columns)
        return matrix._replace(weight=matrix.read(seed, self.hardware.rows), draw=None, read_noise=0.0)

    def _held(self, seed: Tensor | None = None) -> Tensor:
        """The weight ``[out, in]`` as a read finds it while it is trained in the memory; it needs no gradient."""
        devices, weight = self.devices, self.weight
        if devices is None or not devices.reads_are_noisy:
            return self.layout.matrix(weight.detach())
        seed = draw_seed(weight.device) if seed is None else seed
        return devices.read_logical_weight(seed).to(weight.dtype)

    @torch.no_grad()
    def clipped_weight(self) -> Tensor:
        """The weight ``[out, in]`` that would be programmed: the master weight, clipped."""
        seed = torch.zeros(1, dtype=torch.int64, device=self.weight.device)  # evaluation draws nothing
        matrix = master_matrix(self.weight_matrix, self.hardware, self.perturbation, None)
        return matrix.read(seed, self.hardware.rows)

    @torch.no_grad()
    def program(self, seed: Tensor, converters: bool = True) -> None:
        """Move the weight onto devices. See :func:`phasegrad.inference.program`, which copies and checks.

        Args:
            seed: of all draws.
            converters: whether their errors are drawn too.
        """
        if converters and self.converters is not None and self.converters.differ:
            self.converters.draw(seed)
        weight = self.clipped_weight()
        scale = master_matrix(weight, self.hardware, None, None, self._columns).scale
        devices = self.devices or self.make_devices()
        devices.program_weight(weight, scale, self.output_range, seed, self.periphery.output_errors)
        self.attach(devices)

    def attach(self, devices: Devices) -> None:
        """Let the weight live on ``devices``, which tied layers share."""
        self.expect_devices(devices)
        self.refresh()

    @profiled(range_name("refresh"))
    @torch.no_grad()
    def refresh(self) -> None:
        """Copy into ``weight`` what the devices hold now, gain included, wires left out; solve these."""
        if self.devices is not None:
            self.devices.solve_wires()
            self.weight.copy_(self.layout.weight(self.devices.logical_weight(), self.weight.shape))

    def to_digital(self) -> nn.Module:
        """The digital twin, with the weight that the layer holds now (the same parameter, clipped)."""
        digital = self._digital()
        digital.register_parameter("weight", exchanged(self.weight, self._plain_weight))
        digital.register_parameter("bias", self.bias)
        return digital.train(self.training)

    @torch.no_grad()
    def _plain_weight(self) -> nn.Parameter:
        if self.hardware.pulses is not None:
            return nn.Parameter(self.weight.detach().clone())
        if self.devices is not None:
            self.weight.requires_grad_(True)
        else:
            clipped = self.layout.weight(self.clipped_weight(), self.weight.shape)
            self.weight.copy_(clipped.clone())  # what is not clipped may be a view of the weight itself
        return self.weight

    # --- the product ------------------------------------------------------------------------------------------

    @profiled(range_name("forward"))
    def forward(self, input: Tensor, matrix: Matrix | None = None, outputs: slice | None = None) -> Tensor:
        """The layer's output, as the hardware gives it.

        Args:
            input: in the twin's shape.
            matrix: what :meth:`read` found, for several products of one read; ``None`` to read now.
            outputs: the outputs that are wanted; ``None`` for all.
        """
        rows = self._to_rows(input)
        return self._from_rows(self._outputs(rows, self.bias, matrix, outputs), input)

    def _outputs(self, rows: Tensor, bias: Tensor | None, matrix: Matrix | None, outputs: slice | None) -> Tensor:
        """The product of rows, or of images, and a digital bias."""
        if self.fixed is None and isinstance(self.weight, InMemoryWeight):
            y = in_memory_product(rows, self.weight, bias, self)
            return y if outputs is None else y[:, outputs]
        if self.fixed is None and self.hardware.pulses is not None:
            self._refuse_a_stand_in()
        y = self._multiply_noisily(rows, matrix, outputs)
        if bias is None:
            return y
        bias = bias if outputs is None else bias[outputs]
        return y + (bias if y.dim() == 2 else bias.view(-1, *[1] * (y.dim() - 2)))

    def _refuse_a_stand_in(self) -> None:
        """FSDP puts a parameter of its own in the place of the weight; devices cannot be in parts of processes."""
        if isinstance(self._parameters.get("weight"), nn.Parameter) or "weight" not in self._parameters:
            raise RuntimeError(
                f"{type(self).__name__}: the weight is trained in the memory, and something, FSDP it seems, has put a "
                "parameter without devices in its place. Pulses act on all devices of a weight, so it cannot be "
                "sharded: wrap the net in DistributedDataParallel, whose replicas take the same pulses, or train it "
                "digitally (hardware without pulses)"
            )

    def read(self) -> Matrix | None:
        """What one read finds, for several products of one :meth:`forward` each.

        Noise of training and of devices is that of this read; what each product adds (converters, noise that is
        referred to the output) is drawn by each. ``None`` in the memory, where each product reads.
        """
        if self.fixed is None and self.hardware.pulses is not None:
            return None
        seed = self._seed()
        return self._matrix(seed).drawn(seed, self.hardware.rows)

    @property
    def calibrated(self) -> bool:
        """Whether ranges of converters can be found from inputs."""
        return True

    def _multiply_noisily(self, rows: Tensor, matrix: Matrix | None = None, outputs: slice | None = None) -> Tensor:
        seed = self._seed()
        matrix, periphery = self._matrix(seed) if matrix is None else matrix, self.periphery
        if outputs is not None:
            matrix, periphery = matrix.part(outputs), periphery.part(outputs)
        return product(rows, matrix, self._tiles, periphery, self.hardware, seed)

    @property
    def periphery(self) -> Periphery:
        """Ranges and errors of the converters."""
        converters = self.converters
        if converters is None:
            return Periphery(self.input_range, self.output_range)
        return Periphery(self.input_range, self.output_range, converters.of_columns, converters.inputs)

    def multiply(self, x: Tensor) -> Tensor:
        """The product of tiles trained in the memory, of inputs ``[rows, in]`` or ``[rows, channels, ...]``."""
        if self.hardware.exact:  # nothing is drawn but what devices read noisily add
            return self._tiles.whole(x, self._held())
        return self._multiply_noisily(x)

    @profiled(range_name("backward"))
    def transposed(self, d: Tensor, shape: torch.Size) -> Tensor:
        """The product of the same tiles driven from the other side, which carries gradients back.

        Args:
            d: gradients of the outputs.
            shape: of the inputs.
        """
        if self.hardware.exact:
            return self._transposed_exactly(d, shape, self._held())
        return self._transposed_by_tiles(d, shape, draw_seed(d.device))

    def _turned_product(self, d: Tensor, weight: Tensor, seed: Tensor) -> Tensor:
        """``[rows, out] @ [out, in]`` as tiles give it that are driven from the side of their outputs."""
        turned = self.hardware.transposed
        matrix = master_matrix(weight.t().contiguous(), turned, None, None)
        return product(d, matrix, LinearTiles(turned.rows), Periphery(None, self.output_range.detach()), turned, seed)

    # --- state dict -------------------------------------------------------------------------------------------

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        configuration = LayerConfiguration(hardware=self.hardware, perturbation=self.perturbation)
        destination[prefix + _CONFIGURATION] = to_tensor(configuration)

    def check_state_dict(self, state_dict: dict[str, Any], prefix: str) -> LayerConfiguration | None:
        """Whether a state dict can be loaded here, before anything is copied.

        Returns:
            The configuration that it holds for this layer; ``None`` if it is a float checkpoint.

        Raises:
            ValueError: it is of other hardware (the message lists the fields), devices have another shape, or what
                devices, converters or a weight that would be programmed hold is not finite.
        """
        weight, devices = state_dict.get(f"{prefix}weight"), state_dict.get(f"{prefix}devices.conductance")
        expected = [len(self.hardware.cell.factors), self.out_features, self.in_features]
        loaded = self._loaded_configuration(state_dict, prefix)
        if devices is not None and list(devices.shape) != expected:
            raise ValueError(f"{prefix}devices.conductance has shape {list(devices.shape)}; it must be {expected}")
        self._check_finite(state_dict, prefix)
        if self.devices is not None and devices is None and weight is not None and not bool(weight.isfinite().all()):
            raise ValueError(f"{prefix}weight has non-finite values; a device cannot be programmed to them")
        return loaded

    def _check_finite(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Devices conduct, and converters have errors, that are numbers; what wires are solved for is not negative."""
        for key, value in state_dict.items():
            name = key.removeprefix(prefix)
            conducts = name in ("devices.conductance", "devices.reference.conductance", "devices.fast.conductance")
            if not key.startswith(prefix) or not (conducts or name.startswith("converters.")):
                continue
            if not bool(value.isfinite().all()):
                raise ValueError(f"{key} has non-finite values; the state dict is damaged, nothing was loaded")
            if conducts and self.hardware.linear_wires is not None and bool((value < 0.0).any()):
                raise ValueError(f"{key} has a conductance of {float(value.min())} S; with wires none may be negative")

    def _loaded_configuration(self, state_dict: dict[str, Any], prefix: str) -> LayerConfiguration | None:
        tensor = state_dict.get(prefix + _CONFIGURATION)
        if tensor is None:
            return None
        loaded = from_tensor(tensor)
        assert isinstance(loaded, LayerConfiguration)
        differences = self.hardware.differences(loaded.hardware)
        if differences:
            raise ValueError(
                f"state dict of other Hardware for {prefix.rstrip('.') or 'this layer'} (mine != the state dict's): "
                f"{'; '.join(differences)}. Convert the model with the Hardware the state dict was made with, or "
                f"delete its '{_CONFIGURATION}' entries to take the weights alone"
            )
        return loaded

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        loaded = self.check_state_dict(state_dict, prefix)
        state_dict.pop(prefix + _CONFIGURATION, None)
        has_devices = f"{prefix}devices.conductance" in state_dict
        reprograms = self.devices is not None and not has_devices and f"{prefix}weight" in state_dict
        if loaded is None:
            self._keep_converters(state_dict, prefix)
        elif loaded.perturbation is not None:  # one saved before a recipe was applied does not take mine away
            self.perturbation = loaded.perturbation
        if has_devices and self.devices is None:
            self.expect_devices(self.make_devices())
        lists = (missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        if reprograms:
            self._reprogram(local_metadata.get("assign_to_params_buffers", False), state_dict, prefix)
            devices = self.devices
            assert devices is not None
            state_dict.update({f"{prefix}devices.{k}": v for k, v in devices.state_dict().items()})

    def make_devices(self) -> Devices:
        """Blank devices of this layer's shape."""
        shape = (self.out_features, self.in_features, self._columns)
        return Devices(self.hardware, *shape, self.weight.device)

    def expect_devices(self, devices: Devices) -> None:
        """Make room for devices whose state is about to be loaded."""
        self.devices = devices.train(self.training)
        if self.hardware.pulses is None:
            self.weight.requires_grad_(False)
        elif not isinstance(self.weight, InMemoryWeight) or self.weight.devices is not devices:
            copied = self.weight.detach().clone()
            self.register_parameter("weight", InMemoryWeight(copied, devices, self.layout))

    def _reprogram(self, assigned: bool, state_dict: dict[str, Any], prefix: str) -> None:
        """Put a weight that was just loaded onto the devices, behind the converters that come with it."""
        if assigned:  # the weight is the checkpoint's own tensor, which must not change
            self.weight = nn.Parameter(self.weight.detach().clone(), requires_grad=False)
        if self.converters is not None:  # a child, whose turn comes after; the baseline is read through it
            with torch.no_grad():
                for name, buffer in self.converters.state_dict().items():
                    buffer.copy_(state_dict.get(f"{prefix}converters.{name}", buffer))
        self.program(draw_seed(self.weight.device), converters=False)

    def _keep_converters(self, state_dict: dict[str, Any], prefix: str) -> None:
        """A float checkpoint has no converters: mine stay, with their ranges."""
        if self.converters is not None:
            for name, value in self.converters.state_dict().items():
                state_dict.setdefault(f"{prefix}converters.{name}", value)
        for name in ("input_range", "output_range"):
            value = getattr(self, name)
            if value is not None and name in self._persistent:
                state_dict.setdefault(prefix + name, value.detach())

    @property
    def _persistent(self) -> set[str]:
        return (set(self._parameters) | set(self._buffers)) - self._non_persistent_buffers_set

    def extra_repr(self) -> str:
        """The twin's options, the tiles, and where the weight lives."""
        options = ", ".join(f"{name}={getattr(self, name)}" for name in self._options)
        return f"{options}, bias={self.bias is not None}, tiles={self.tiles}, weight={self.store}"

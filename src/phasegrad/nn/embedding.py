"""Analog twin of ``nn.Embedding``."""

from __future__ import annotations

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phasegrad.crossbar import Hardware
from phasegrad.crossbar.converters import CalibratedRange, LearnedRange
from phasegrad.crossbar.product import Conversion, LinearTiles, Matrix, convert_outputs
from phasegrad.nn.layer import AnalogLayer, range_name
from phasegrad.ops.profiling import profiled


@final
class AnalogEmbedding(AnalogLayer):
    """``nn.Embedding`` as reads of single lines of a crossbar: ``[...] -> [..., embedding_dim]``.

    The weight lies on tiles as that of a linear layer with ``num_embeddings`` outputs, so that a decoder tied to it has
    the same devices. A token drives its line fully, from the side of that layer's outputs, and no other line: no DAC is
    needed, and what a line gives to a converter is one device's current. So the converters' range is that of one
    device, unless it is learned: then it starts there.

    :func:`phasegrad.convert` leaves embeddings digital, where a look-up costs a read of one row of ordinary memory. Ask
    for this one with ``register_twin(nn.Embedding, AnalogEmbedding.from_digital)``.

    Args:
        num_embeddings: how many there are.
        embedding_dim: size of each.
        padding_idx: an embedding that gets no gradient.
        max_norm: must be ``None``: devices are not rewritten at each look-up.
        norm_type: as in torch; without ``max_norm`` it means nothing.
        scale_grad_by_freq: as in torch.
        sparse: must be false: noise of training reaches every weight.
        device: as in torch.
        dtype: as in torch.
        hardware: the hardware to run on.

    Raises:
        ValueError: an option is refused, or the hardware trains in the memory, has wires, capacitors of columns, or
            converters with errors.

    Examples:
        >>> import torch, phasegrad as pg
        >>> layer = AnalogEmbedding(100, 16, hardware=pg.presets.pcm_inference())
        >>> layer(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 16])
    """

    _options = (
        "num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse",
    )  # fmt: skip

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    sparse: bool

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False, device: Any = None,
        dtype: Any = None, *, hardware: Hardware,
    ) -> None:  # fmt: skip
        options = (padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        self._adopt(nn.Embedding(num_embeddings, embedding_dim, *options, device=device, dtype=dtype), hardware)

    def _adopt(self, digital: nn.Module, hardware: Hardware) -> None:
        _check_options(digital)
        _check_hardware(hardware)
        super()._adopt(digital, hardware)

    def _make_input_range(self, like: dict[str, Any]) -> None:
        self.register_buffer("input_range", None)

    def _make_output_range(self, like: dict[str, Any]) -> None:
        kind, one = self.hardware.adc.range if self.hardware.adc else None, torch.ones(1, **like)
        if isinstance(kind, LearnedRange):
            self.output_range = nn.Parameter(one)
        else:
            self.register_buffer("output_range", one, persistent=isinstance(kind, CalibratedRange))

    def _make_converters(self) -> None:
        self.converters = None

    @property
    def calibrated(self) -> bool:
        """No: tokens have no range."""
        return False

    @property
    def _tiles(self) -> LinearTiles:
        return LinearTiles(self.hardware.rows)

    @property
    def _lines(self) -> int:
        return 1

    @property
    def patches(self) -> None:
        """None: each row is a sample."""

    @profiled(range_name("forward"))
    def forward(self, input: Tensor, matrix: Matrix | None = None) -> Tensor:  # type: ignore[override]
        """The embeddings of tokens, as the hardware reads them.

        Args:
            input: tokens, of an integer dtype.
            matrix: what :meth:`read` found, for several look-ups of one read; ``None`` to read now.
        """
        seed = self._seed()
        matrix = self._matrix(seed) if matrix is None else matrix
        tokens, total = input.flatten(), None
        for i, (factor, part) in enumerate(matrix.slices()):
            y = factor * self._look_up(tokens, part, seed, i)
            total = y if total is None else total + y
        assert total is not None
        return total.view(*input.shape, self.embedding_dim)

    def _look_up(self, tokens: Tensor, matrix: Matrix, seed: Tensor, number: int) -> Tensor:
        """One slice, tile after tile of the lines that are sensed."""
        read = matrix.read(seed, self.hardware.rows)
        y = F.embedding(tokens, read, self.padding_idx, None, 2.0, self.scale_grad_by_freq)
        parts = []
        for t, values in enumerate(y.split(self.hardware.rows, dim=1)):
            unit = matrix.scale[t][tokens]
            values = self._converted(values, unit, matrix, seed, number * len(matrix.scale) + t)
            parts.append(
                values if matrix.gain is None else values * matrix.gain[t][tokens].unsqueeze(1).to(values.dtype)
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _converted(self, values: Tensor, unit: Tensor, matrix: Matrix, seed: Tensor, stream: int) -> Tensor:
        hardware = self.hardware
        if hardware.adc is None and hardware.output_noise == 0.0 and matrix.read_noise == 0.0:
            return values
        whole = matrix.scale.new_ones(1, values.shape[1])
        conversion = Conversion(unit, self.output_range, hardware, seed)
        conversion = conversion._replace(offset=conversion.offset + stream)
        spread = [values.detach().abs()] if matrix.read_noise > 0 else []
        return convert_outputs([values.contiguous()], spread, matrix._replace(scale=whole, gain=None), conversion)

    def _to_rows(self, x: Tensor) -> Tensor:
        return x

    def _from_rows(self, y: Tensor, x: Tensor) -> Tensor:
        return y

    def _transposed_exactly(self, d: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
        raise NotImplementedError("tokens have no gradient")

    def _transposed_by_tiles(self, d: Tensor, shape: torch.Size, seed: Tensor) -> Tensor:
        raise NotImplementedError("tokens have no gradient")

    def _digital(self) -> nn.Module:
        options = (self.padding_idx, None, self.norm_type, self.scale_grad_by_freq, False)
        return nn.Embedding(self.num_embeddings, self.embedding_dim, *options, device="meta")

    def to_digital(self) -> nn.Module:
        """The digital twin, with the weight that the layer holds now (the same parameter, clipped)."""
        digital = super().to_digital()
        del digital._parameters["bias"]
        return digital


def _check_options(digital: nn.Module) -> None:
    if digital.max_norm is not None:
        raise ValueError(
            f"AnalogEmbedding: max_norm = {digital.max_norm}; devices are not rewritten at each look-up, so it must be "
            "None. Normalise the weight once, or leave the embedding digital"
        )
    if digital.sparse:
        raise ValueError(
            "AnalogEmbedding: sparse = True; clipping and the noise of training see the whole weight, so that its "
            "gradient is dense. Use sparse = False, or leave the embedding digital"
        )


def _check_hardware(hardware: Hardware) -> None:
    refused = {
        "pulses": hardware.pulses is not None,
        "wires": hardware.linear_wires is not None or hardware.ir_drop is not None,
        "integrator": hardware.integrator is not None,
        "adc": hardware.adc is not None and any(map(any, hardware.adc.errors)),
    }
    found = [name for name, present in refused.items() if present]
    if found:
        raise ValueError(
            f"AnalogEmbedding: hardware.{found[0]} = {getattr(hardware, found[0])}; a look-up through it is not "
            "modelled. Leave the embedding digital, which convert does unless a twin is registered for it"
        )

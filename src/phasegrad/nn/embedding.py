"""Analog counterpart of ``nn.Embedding``."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from phasegrad.argument_checks import shown
from phasegrad.crossbar import Hardware
from phasegrad.crossbar.bit_lines import Conversion, TileOutputs, converted, tile_outputs
from phasegrad.crossbar.converters import InputSlice
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import LookUp
from phasegrad.nn.construction import counterpart
from phasegrad.nn.layer import AnalogLayer
from phasegrad.ops.profiling import profiled
from phasegrad.stores.base import range_name


@final
class AnalogEmbedding(AnalogLayer):
    """``nn.Embedding`` that reads single bit lines of a crossbar: ``[...] -> [..., embedding_dim]``.

    The weight is mapped to tiles like that of a linear layer with ``num_embeddings`` outputs, so that a tied decoder
    shares its devices. A token drives one bit line of that mapping at full amplitude, and the word lines are sensed. No
    DAC is needed, and each converter digitises the current of one device. The converter range is therefore that of one
    device; a learned range starts at this value.

    [`convert`][phasegrad.convert] keeps embeddings digital, because a digital look-up reads only one row of memory. To
    convert them, call ``register_counterpart(nn.Embedding, AnalogEmbedding.from_digital)``.

    Args:
        num_embeddings: number of embeddings.
        embedding_dim: size of each embedding.
        padding_idx: index of an embedding that receives no gradient.
        max_norm: must be ``None``, because devices are not rewritten at each look-up.
        norm_type: as in torch; it has no effect without ``max_norm``.
        scale_grad_by_freq: as in torch.
        sparse: must be false, because training noise makes the gradient dense.
        device: as in torch.
        dtype: as in torch.
        hardware: the hardware to run on.

    Raises:
        ValueError: ``max_norm`` or ``sparse`` is set, or the hardware has pulses (in-memory training), wires, an
            integrator or ADC errors.

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
        digital = counterpart(
            self, nn.Embedding, hardware, num_embeddings=num_embeddings, embedding_dim=embedding_dim,
            padding_idx=padding_idx, max_norm=max_norm, norm_type=norm_type, scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse, device=device, dtype=dtype,
        )  # fmt: skip
        self._init_from_digital(digital, hardware)

    def _init_from_digital(self, digital: nn.Module, hardware: Hardware) -> None:
        _check_options(digital)
        _check_hardware(hardware)
        super()._init_from_digital(digital, hardware)

    def _make_input_range(self, factory: dict[str, Any]) -> None:
        self.register_buffer("input_range", None)

    def _initial_output_range(self) -> float:
        return 1.0

    def _make_converters(self) -> None:
        self.converters = None

    @property
    def has_ranges(self) -> bool:
        """Whether the converter ranges can be calibrated from inputs; tokens have no range."""
        return False

    @property
    def tiling(self) -> LookUp:
        """Tiles whose columns are driven by one token at a time."""
        return LookUp(self.hardware.rows, self.padding_idx, self.scale_grad_by_freq)

    @property
    def _dac_count(self) -> int:
        return 1

    @profiled(range_name("forward"))
    def forward(self, input: Tensor, weights: TileWeights | None = None) -> Tensor:  # type: ignore[override]
        """Read the embeddings of tokens, ``[...] -> [..., embedding_dim]``.

        Args:
            input: tokens ``[...]`` of an integer dtype.
            weights: the result of ``read``, to share one read between look-ups; ``None`` to read now.

        Raises:
            TypeError: the tokens are not a tensor of an integer dtype.
            IndexError: a token is not below ``num_embeddings``.
        """
        if (
            not isinstance(input, Tensor)
            or input.layout is not torch.strided
            or input.dtype not in (torch.int64, torch.int32)
        ):
            raise TypeError(
                f"AnalogEmbedding: input = {shown(input)}; it must be a tensor [...] of tokens, of dtype int64 or int32"
            )
        self.take_writes()
        seed = self.store.draw_seed()
        weights = self.store.matrix(seed) if weights is None else weights
        tokens = input.flatten()
        try:
            parts = [factor * self._look_up(tokens, w, seed, i) for i, (factor, w) in enumerate(weights.slices())]
        except IndexError as error:
            raise IndexError(
                f"AnalogEmbedding: tokens are between {int(tokens.min())} and {int(tokens.max())}; they must be in [0, "
                f"{self.num_embeddings}), because num_embeddings = {self.num_embeddings}"
            ) from error
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total.view(*input.shape, self.embedding_dim)

    def _look_up(self, tokens: Tensor, weights: TileWeights, seed: Tensor, number: int) -> Tensor:
        """The embeddings from weight slice ``number``; each tile of sensed word lines has its own converters."""
        hardware, driven = self.hardware, InputSlice(tokens, square=tokens)
        outputs = tile_outputs(driven, weights, weights.scale, self.tiling, hardware, seed)
        parts = []
        for t, values in enumerate(outputs.values):
            if hardware.adc is not None or hardware.output_noise > 0.0 or weights.read_noise > 0.0:
                conversion = Conversion(weights.scale[t][tokens], self.output_range, hardware, seed)
                conversion = conversion._replace(offset=conversion.offset + number * len(weights.scale) + t)
                tile = TileOutputs([values.contiguous()], outputs.variances[t : t + 1])
                ones = weights.scale.new_ones(1, values.shape[1])
                values = converted(tile, weights._replace(scale=ones, gain=None, column_range=None), conversion)
            if weights.gain is not None:
                values = values * weights.gain[t][tokens].unsqueeze(1).to(values.dtype)
            parts.append(values)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def to_rows(self, x: Tensor) -> Tensor:
        """The tokens, unchanged."""
        return x

    def _from_rows(self, y: Tensor, x: Tensor) -> Tensor:
        return y

    def _make_digital(self) -> nn.Module:
        options = (self.padding_idx, None, self.norm_type, self.scale_grad_by_freq, False)
        return nn.Embedding(self.num_embeddings, self.embedding_dim, *options, device="meta")

    def to_digital(self) -> nn.Module:
        """The digital counterpart with the present weight of the layer (the same parameter, clipped)."""
        digital = super().to_digital()
        del digital._parameters["bias"]
        return digital


def _check_options(digital: nn.Module) -> None:
    if digital.max_norm is not None:
        raise ValueError(
            f"AnalogEmbedding: max_norm = {digital.max_norm}; it must be None, because devices are not rewritten at "
            "each look-up. Normalise the weight once, or leave the embedding digital"
        )
    if digital.sparse:
        raise ValueError(
            "AnalogEmbedding: sparse = True; it must be False, because clipping and training noise make the gradient "
            "dense. Use sparse = False, or leave the embedding digital"
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
            f"AnalogEmbedding: hardware.{found[0]} = {getattr(hardware, found[0])}; embeddings do not "
            "model it. Leave the embedding digital, as convert does unless a counterpart is registered for it"
        )

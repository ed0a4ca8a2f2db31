"""Ranges of the columns' converters, from the outputs that the weights and the inputs of a chip predict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.crossbar.bit_lines import tile_outputs
from phasegrad.crossbar.converters import InputSlice
from phasegrad.crossbar.mapping import nonzero
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.word_lines import drive
from phasegrad.inference.compensations.base import Compensation, row_reads_of
from phasegrad.inference.compensations.data import batch_count, check_data, run_batches, tile_reads, watched
from phasegrad.inference.programming import Seeds
from phasegrad.nn import AnalogLayer, analog_layers
from phasegrad.stores import AnalogWeight
from phasegrad.stores.compensation import weights_read_back


@final
@dataclass(frozen=True)
class ColumnRanges(Compensation):
    """Ranges of ADCs, column by column, from predicted saturation (Lammie et al. 2024).

    The weights are read back, row by row as by a calibration read, and multiplied digitally with the inputs of the
    chip. This predicts the mean and the standard deviation of the output of every column of every tile, also where the
    converter would clip it. The range of the column becomes ``|mean| + deviations * sd``. Normal outputs without a mean
    then saturate with a probability of ``2 (1 - Phi(deviations))``, 6e-5 for 4 standard deviations. An 8-bit converter
    has its smallest mean square error at 3.9.

    In the paper, the range of the conductances of a column is chosen, so that its outputs suit a fixed converter. Here
    the column has a programmable gain in front of its converter, which also enlarges small outputs, and the devices
    keep their whole window and their relative errors. Output noise is that of the column, whatever its range.

    Ranges are kept as the chip ages; a new application follows the outputs, which shrink. A column whose outputs are
    all zero keeps its range. After programming and in calibration reads, all columns have the range of their layer.
    Embeddings, whose outputs never exceed a range of ``max|w|``, are left as they are.

    Args:
        loader: batches of training data.
        deviations: standard deviations of its output between the mean and the range of a column.
        fraction: part of the loader's batches.
        batches: number of batches instead of a fraction.
        forward: ``(net, batch) -> anything``, which runs the net on batches of another form.

    Raises:
        ValueError: the loader is empty, can be read only once, or has no length and ``batches`` is not given; or
            ``deviations`` is not positive.

    References:
        Lammie, C. et al. Improving the accuracy of analog-based in-memory computing accelerators post-training. ISCAS
        2024. https://doi.org/10.1109/ISCAS58744.2024.10558540
    """

    loader: Iterable[Any]
    deviations: float = 4.0
    fraction: float = 0.05
    batches: int | None = None
    forward: Callable[[nn.Module, Any], Any] | None = None

    def __post_init__(self) -> None:
        checks.number("ColumnRanges", "deviations", self.deviations, 0.0, above=True)
        check_data("ColumnRanges", self.loader, self.fraction, self.batches, self.forward)

    def __repr__(self) -> str:
        return f"ColumnRanges({self.deviations:g} sd, {self.count} batches)"

    @property
    def count(self) -> int:
        """Number of batches that are read."""
        return batch_count(self.loader, self.fraction, self.batches)

    def check(self, chip: nn.Module, caller: str) -> None:
        """Raise ``ValueError`` if a layer has no ADC, or is trained in the memory."""
        layers = {name or "the net": layer for name, layer in analog_layers(chip).items() if layer.has_ranges}
        exact = [name for name, layer in layers.items() if layer.hardware.adc is None]
        if exact or not layers:
            raise ValueError(
                f"{caller}: ColumnRanges: {', '.join(exact[:5]) or 'the net'} has no ADC whose range could be set, so "
                "its outputs do not saturate; use hardware with adc=Adc(...), or leave this compensation out"
            )
        trained = [name for name, layer in layers.items() if layer.hardware.pulses is not None]
        if trained:
            raise ValueError(
                f"{caller}: ColumnRanges: {', '.join(trained[:5])} is trained in the memory, where the converters of "
                "all columns have one range, which gradients share; program the trained weights on hardware with "
                "pulses=None, or leave this compensation out"
            )

    def apply(self, chip: nn.Module, seeds: Seeds) -> None:
        """Read the weights back, run the batches, and set the ranges of all columns."""
        known = {id(devices): _Predicted(layer, devices, seeds) for layer, devices in _with_columns(chip)}

        def see(name: str, layer: AnalogLayer, x: Tensor, outputs: slice | None) -> None:
            if layer.has_ranges:
                known[id(layer.devices)].add(layer, x, slice(None) if outputs is None else outputs)

        with watched(chip, see):
            run_batches(chip, self.loader, self.count, self.forward, "ColumnRanges")
        for found in known.values():
            found.devices.register_buffer("column_range", found.ranges(self.deviations))

    def reads(self, chip: nn.Module) -> int:
        """Tile reads of the weights and of the batches, each as large as the first, which is run to count them."""
        rows = sum(row_reads_of(layer) for layer, _ in _with_columns(chip))
        return rows + tile_reads(chip, self.loader, self.count, self.forward, "ColumnRanges")


def _with_columns(chip: nn.Module) -> list[tuple[AnalogLayer, AnalogWeight]]:
    """The devices whose columns are sensed, each once, with the first layer that does so: an embedding senses rows."""
    found: dict[int, tuple[AnalogLayer, AnalogWeight]] = {}
    for layer in analog_layers(chip).values():
        if layer.devices is not None and layer.has_ranges:
            found.setdefault(id(layer.devices), (layer, layer.devices))
    return list(found.values())


class _Predicted:
    """Moments of the outputs of the columns that share devices, in units of ``max|w| max|x|``."""

    def __init__(self, layer: AnalogLayer, devices: AnalogWeight, seeds: Seeds) -> None:
        seed = seeds.next(layer.weight.device)
        weights = devices.tile_weights(seed, torch.float32)
        arguments = (layer.hardware, layer.output_range, seed, layer.periphery.output_errors)
        self.devices, self.weights = devices, weights_read_back(weights, *arguments)
        present = devices.column_range
        self.present = layer.output_range.detach().abs().float() if present is None else present
        self.moments: dict[int, Tensor] = {}
        """By the number of the input slice: count, sum and sum of squares, ``[3, slices * row tiles, out]``."""

    @torch.no_grad()
    def add(self, layer: AnalogLayer, x: Tensor, outputs: slice) -> None:
        """Add the products of an input, for the outputs that are computed from it."""
        driven, input_range = drive(layer.to_rows(x), layer.periphery, layer.hardware)
        weights = self.weights.outputs(outputs)
        for i, one in enumerate(driven):
            weights = weights._replace(weight=weights.weight.to(one.x.dtype))
            found = [_sums(y) for y in _relative_outputs(layer, one, weights, input_range)]
            if i not in self.moments:
                self.moments[i] = found[0].new_zeros(3, len(found), self.weights.scale.shape[1])
            self.moments[i][:, :, outputs] += torch.stack(found, dim=1)

    def ranges(self, deviations: float) -> Tensor | None:
        """The range of every column ``[slices * row tiles, out]``; the present ones if there was no input."""
        if not self.moments:
            return self.devices.column_range
        count, total, squares = torch.stack(list(self.moments.values()), dim=1)
        mean = total / count.clamp(min=1.0)
        sd = (squares / count.clamp(min=1.0) - mean.square()).clamp(min=0.0).sqrt()
        widest = (mean.abs() + deviations * sd).amax(0).float()  # one range for all input slices
        return torch.where(widest > 0.0, widest, self.present)


def _relative_outputs(
    layer: AnalogLayer, driven: InputSlice, weights: TileWeights, input_range: Tensor
) -> Iterator[Tensor]:
    """The outputs ``[out, n]`` of each slice and row tile before their converters, in units of ``max|w| max|x|``."""
    no_seed = torch.zeros(1, dtype=torch.int64, device=weights.weight.device)  # the weights were read before
    for _, part in weights.slices():
        tiles = tile_outputs(driven, part, input_range, layer.tiling, layer.hardware, no_seed)
        for y, scale in zip(tiles.values, nonzero(part.scale), strict=True):
            unit = scale.view(-1, *[1] * (y.dim() - 2)) * input_range.view(-1, *[1] * (y.dim() - 1)).abs()
            yield (y.float() / nonzero(unit.float())).movedim(1, 0).flatten(1)


def _sums(y: Tensor) -> Tensor:
    """The number of outputs ``[out, n]``, their sum, and the sum of their squares: ``[3, out]``."""
    total = y.sum(1, dtype=torch.float64)
    return torch.stack((torch.full_like(total, y.shape[1]), total, y.square().sum(1, dtype=torch.float64)))

"""Drift compensation: calibration reads, and the digital gain computed from them.

Compensation uses noisy reads through the converters, as on a chip, never the conductances themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.bit_lines import Conversion, converted, tile_outputs
from phasegrad.crossbar.converters import InputSlice
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import SingleRows


@torch.no_grad()
def calibration_read(
    weights: TileWeights, hardware: Hardware, output_range: Tensor, seed: Tensor, errors: Tensor | None = None
) -> Tensor:
    """The sum of the absolute outputs of each column when the rows of its tile are fully driven one at a time.

    Output noise and ADC act on the outputs as in any product. All columns are read with the range of the layer, as a
    single row may exceed a range that suits the sums of many.

    Args:
        weights: one read of the weights; their gain is not applied.
        hardware: the hardware.
        output_range: range of the ADC.
        seed: seed of the noise.
        errors: errors of the ADCs ``[errors, tiles, out]``, or ``None``.

    Returns:
        ``[row tiles, out]``, in units of the weights.
    """
    outputs: list[list[Tensor]] = [[] for _ in weights.scale]
    for t, factor, read in _row_reads(weights, hardware, output_range, seed, errors):
        outputs[t].append(_summed(read, factor, weights))
    return torch.stack([torch.stack(slices).sum(0).abs().sum(0) for slices in outputs])


@torch.no_grad()
def weights_read_back(
    weights: TileWeights, hardware: Hardware, output_range: Tensor, seed: Tensor, errors: Tensor | None = None
) -> TileWeights:
    """The weights that the controller of a chip knows from a calibration read, see ``calibration_read``.

    Returns:
        The weights with the noise and the resolution of that read, without gain and further noise.
    """
    reads = _row_reads(weights, hardware, output_range, seed, errors)
    rows = [read.t() for _, _, read in reads]
    count = len(weights.scale)
    slices = [torch.cat(rows[i : i + count], dim=1) for i in range(0, len(rows), count)]
    matrix = slices[0] if weights.slice_factors is None else torch.stack(slices)
    return weights._replace(weight=matrix.to(weights.weight.dtype), gain=None, read_noise=0.0, column_range=None)


def _row_reads(
    weights: TileWeights, hardware: Hardware, output_range: Tensor, seed: Tensor, errors: Tensor | None
) -> Iterator[tuple[int, float, Tensor]]:
    """The number of each row tile, the significance of its slice, and its outputs ``[rows, out]``, slice by slice."""
    one = torch.ones(1, dtype=torch.float32, device=weights.weight.device)
    count = len(weights.scale)
    for s, (factor, part) in enumerate(weights._replace(gain=None, column_range=None).slices()):
        for t, tile in enumerate(part.row_tiles(hardware.rows)):
            rows = one.expand(tile.weight.shape[1], 1)
            own = None if errors is None else errors[:, s * count + t : s * count + t + 1]
            conversion = Conversion(one, output_range.float(), hardware, seed + t, errors=own)
            conversion = conversion._replace(offset=conversion.offset + s * streams.PART)
            read = tile_outputs(InputSlice(rows), tile, one, SingleRows(), hardware, seed)
            yield t, factor, converted(read, tile, conversion)


def _summed(outputs: Tensor, factor: float, weights: TileWeights) -> Tensor:
    """Outputs ``[rows, out]`` of a slice; their sum ``[1, out]`` if there are no other slices to be added first."""
    return factor * outputs if weights.slice_factors is not None else outputs.abs().sum(0, keepdim=True)


def drift_gain(baseline: Tensor, present: Tensor, columns: int, per: str) -> Tensor:
    """The gain that restores the present calibration read to the baseline.

    Args:
        baseline: the calibration read after programming ``[row tiles, out]``.
        present: the calibration read now, of the same shape.
        columns: outputs per tile.
        per: ``"column"``, ``"tile"`` or ``"layer"``: which columns share a gain.

    Returns:
        ``[row tiles, out]``; 1 where one of the reads is 0.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9 (global drift compensation)
    """
    before, now = (sum_over_tiles(read, columns, per) for read in (baseline, present))
    return torch.where((before > 0) & (now > 0), before / now, torch.ones_like(now))


def sum_over_tiles(values: Tensor, columns: int, per: str) -> Tensor:
    """Sum values over the columns of a tile or over the layer, and expand the sums to the original shape.

    Args:
        values: one number per tile and column, ``[row tiles, out]``.
        columns: columns per tile.
        per: ``"column"`` (no sum), ``"tile"``, or ``"layer"``.
    """
    if per == "column":
        return values
    if per == "layer":
        return values.sum().expand_as(values)
    blocks = [b.sum(1, keepdim=True).expand_as(b) for b in values.split(columns, dim=1)]
    return torch.cat(blocks, dim=1)

"""Digital master weights as the hardware reads them: clipped, noisy, in slices, through wires."""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import expand_scale, nonzero, row_tiles
from phasegrad.crossbar.perturbation import Perturbation
from phasegrad.crossbar.product import Draw, Matrix
from phasegrad.crossbar.straight_through import bit_slice
from phasegrad.crossbar.wires import over_tiles
from phasegrad.ops.direct import call


def master_matrix(
    weight: Tensor,
    hardware: Hardware,
    perturbation: Perturbation | None,
    level: Tensor | None,
    columns: int | None = None,
) -> Matrix:
    """Digital weights as the hardware reads them.

    Args:
        weight: ``[out, in]``.
        hardware: tiles and scales.
        perturbation: clipping and noise, or ``None``.
        level: factor of the noise in training; ``None`` in evaluation, which sees clipping alone.
        columns: outputs that share a tile; ``None`` for the hardware's columns.

    Returns:
        The matrix, its scales from the clipped weights. Gradients of a read pass straight through noise and dropped
        weights, and through clipping unless a step down would push a clipped weight further out.
    """
    p = perturbation or Perturbation()
    if not isinstance(hardware.scale, str):
        tiles = row_tiles(weight.shape[1], hardware)
        return Matrix(weight, weight.new_full((tiles, len(weight)), hardware.scale), None, hardware.read_noise)
    scale, clip = call(
        "weight_scale",
        weight.detach(),
        hardware.rows,
        columns or hardware.columns,
        hardware.scale == "column",
        p.clip_sigma,
        p.clip_per == "channel",
    )
    draw = None
    if level is not None and p.perturbs:
        draw = Draw(clip, level, p.noise, p.drop_connect)
    elif p.clip_sigma > 0:
        draw = Draw(clip, weight.new_zeros(()), (0.0, 0.0, 0.0), 0.0)
    return Matrix(weight, scale, None, hardware.read_noise, draw)


def sliced_matrix(matrix: Matrix, hardware: Hardware) -> Matrix:
    """Digital weights ``[out, in]`` cut into slices, if the hardware's cell has them.

    Weights are clipped before they are cut; the noise of training is drawn for every slice on its own, as devices that
    each hold a slice would add it. Gradients pass :func:`phasegrad.crossbar.straight_through.bit_slice`.
    """
    factors = hardware.cell.slice_factors
    if factors is None:
        return matrix
    draw, weight = matrix.draw, matrix.weight
    if draw is not None:
        clip = matrix._replace(draw=Draw(draw.clip, torch.zeros_like(draw.level), (0.0, 0.0, 0.0), 0.0))
        weight = clip.read(torch.zeros(1, dtype=torch.int64, device=weight.device), hardware.rows)
        unclipped = torch.full_like(draw.clip, torch.inf)
        draw = draw._replace(clip=unclipped) if any(draw.noise) or draw.drop else None
    with torch.no_grad():
        full = expand_scale(matrix.scale, weight.shape[1], hardware)
        digits = hardware.cell.bit_slice(weight / nonzero(full)) * full
        digits = torch.where(torch.isfinite(weight), digits, weight)  # what is broken stays so
    return matrix._replace(weight=bit_slice(weight, digits, factors), draw=draw, factors=factors)


def wired_matrix(matrix: Matrix, seed: Tensor, hardware: Hardware, columns: int) -> Matrix:
    """Digital weights as tiles with wires read them: with noise first, which is the devices'; differentiable.

    Args:
        matrix: of :func:`master_matrix` or :func:`sliced_matrix`.
        seed: seed of the read.
        hardware: the hardware.
        columns: outputs that share a tile.
    """
    wires = hardware.linear_wires
    if wires is None:
        return matrix
    parts = [part.read(seed, hardware.rows) for _, part in matrix.slices()]
    weight = parts[0] if matrix.factors is None else torch.stack(parts)
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))  # float16 has no numbers for microsiemens
    scale = expand_scale(nonzero(matrix.scale).to(exact.dtype), exact.shape[-1], hardware)
    cell, sliced = hardware.cell, matrix.factors is not None
    planes = (cell.slice_targets if sliced else cell.targets)(exact / scale)
    planes = over_tiles(planes, hardware.rows, columns, wires.effective_unchecked)
    read = (cell.read_slices if sliced else cell.weight)(planes)
    return matrix._replace(weight=(read * scale).to(weight.dtype), draw=None)

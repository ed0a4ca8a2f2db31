"""Weights in digital memory, read as on the hardware: clipped, noisy, bit-sliced, and through wires."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import expand_scale, fixed_scale, nonzero
from phasegrad.crossbar.perturbation import Perturbation
from phasegrad.crossbar.straight_through import bit_slice
from phasegrad.crossbar.tile_weights import TileWeights, WeightPerturbation
from phasegrad.crossbar.wires import over_tiles
from phasegrad.ops.direct import call
from phasegrad.stores.aged_weights import aged_weights
from phasegrad.stores.base import StoredLayer, WeightStore


@final
class Digital(WeightStore):
    """An ordinary parameter in digital memory, read with the noise that the hardware would add."""

    name = "digital"
    holds_copy = False
    one_read_per_sequence = True

    def matrix(self, seed: Tensor) -> TileWeights:
        """The clipped parameter; in training with its perturbation, or as a chip of a random age reads it."""
        layer, perturbation = self.layer, self.layer.perturbation
        if layer.training and perturbation is not None and perturbation.age is not None:
            return self._of_aged_chip(perturbation, seed)
        return self._tile_weights(layer.noise_level if layer.training else None, seed)

    def _of_aged_chip(self, perturbation: Perturbation, seed: Tensor) -> TileWeights:
        """The clipped parameter, as a chip of a random age reads it."""
        layer = self.layer
        clean = self._tile_weights(None, seed).read_once(seed, layer.hardware.rows)  # evaluation draws nothing
        as_written = layer.hardware.slice_factors is None and layer.hardware.linear_wires is None
        target = clean.weight if as_written else programming_target(layer).weight
        return aged_weights(layer, perturbation, target, clean, layer.noise_level, seed)

    @torch.no_grad()
    def mean_matrix(self) -> TileWeights:
        """The clipped parameter, read through the wires."""
        seed = self.no_seed()
        return self._tile_weights(None, seed).read_once(seed, self.layer.hardware.rows)._replace(read_noise=0.0)

    def _tile_weights(self, level: Tensor | None, seed: Tensor) -> TileWeights:
        layer = self.layer
        weights = digital_weights(layer.weight_matrix, layer.hardware, layer.perturbation, level, layer.columns)
        return wired_weights(sliced_weights(weights, layer.hardware), seed, layer.hardware, layer.columns)

    @torch.no_grad()
    def to_parameter(self) -> nn.Parameter:
        """The same parameter, clipped in place."""
        weight = self.layer.weight
        clipped = self.layer.layout.weight(programming_target(self.layer).weight, weight.shape)
        weight.copy_(clipped.clone())  # without clipping, ``clipped`` may be a view of the weight itself
        return weight


@torch.no_grad()
def programming_target(layer: StoredLayer) -> TileWeights:
    """The weights ``[out, in]`` that programming writes, clipped, and the scales of the same clipped weights."""
    weights = digital_weights(layer.weight_matrix, layer.hardware, layer.perturbation, None, layer.columns)
    no_seed = torch.zeros(1, dtype=torch.int64, device=layer.weight.device)  # clipping draws nothing
    return weights.read_once(no_seed, layer.hardware.rows)


def digital_weights(
    weight: Tensor,
    hardware: Hardware,
    perturbation: Perturbation | None,
    level: Tensor | None,
    columns: int | None = None,
) -> TileWeights:
    """Digital weights as the hardware reads them.

    Args:
        weight: ``[out, in]``.
        hardware: tiles and scales.
        perturbation: clipping and noise, or ``None``.
        level: factor of the noise in training; ``None`` in evaluation, which applies clipping alone.
        columns: outputs per tile; ``None`` for the hardware's columns.

    Returns:
        The weights, with the scales of the clipped weights. The gradient of a read treats noise and drop-connect
        as constants, and passes through clipping unless gradient descent would move a clipped weight further out.
    """
    p = perturbation or Perturbation()
    if not isinstance(hardware.scale, str):
        return TileWeights(weight, fixed_scale(weight, hardware), None, hardware.read_noise)
    scale, clip = call(
        "weight_scale",
        weight.detach(),
        hardware.rows,
        columns or hardware.columns,
        hardware.scale == "column",
        p.clip_sigma,
        p.clip_per == "channel",
    )
    drawn = None
    if level is not None and p.perturbs:
        drawn = WeightPerturbation(clip, level, p.slice_noise, p.drop_connect)
    elif p.clip_sigma > 0:
        drawn = WeightPerturbation(clip, weight.new_zeros(()), ((0.0, 0.0, 0.0),), 0.0)
    return TileWeights(weight, scale, None, hardware.read_noise, drawn)


def sliced_weights(weights: TileWeights, hardware: Hardware) -> TileWeights:
    """Slice digital weights ``[out, in]``, if the cell of the hardware has slices.

    Weights are clipped before they are sliced. Training noise is drawn for every slice separately, because each slice
    is stored on its own devices. Gradients follow ``phasegrad.crossbar.straight_through.bit_slice``.
    """
    factors = hardware.slice_factors
    if factors is None:
        return weights
    drawn, weight = weights.perturbation, weights.weight
    if drawn is not None:
        no_seed = torch.zeros(1, dtype=torch.int64, device=weight.device)
        weight = weights._replace(perturbation=drawn.clip_only()).read(no_seed, hardware.rows)
        unclipped = torch.full_like(drawn.clip, torch.inf)
        drawn = drawn._replace(clip=unclipped) if drawn.perturbs else None
    with torch.no_grad():
        scale = expand_scale(weights.scale, weight.shape[1], hardware)
        digits = hardware.cell.bit_slice(weight / nonzero(scale)) * scale
        digits = torch.where(torch.isfinite(weight), digits, weight)  # non-finite weights stay non-finite
    return weights._replace(weight=bit_slice(weight, digits, factors), perturbation=drawn, slice_factors=factors)


def wired_weights(weights: TileWeights, seed: Tensor, hardware: Hardware, columns: int) -> TileWeights:
    """Training noise, then the effect of wire resistance, applied to digital weights; differentiable.

    Args:
        weights: result of ``digital_weights`` or ``sliced_weights``.
        seed: seed of the read.
        hardware: the hardware.
        columns: outputs per tile.
    """
    wires = hardware.linear_wires
    if wires is None:
        return weights
    weight = weights.read_once(seed, hardware.rows).weight
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))  # float16 cannot represent microsiemens
    scale = expand_scale(nonzero(weights.scale).to(exact.dtype), exact.shape[-1], hardware)
    cell, sliced = hardware.cell, weights.slice_factors is not None
    planes = (cell.slice_targets if sliced else cell.targets)(exact / scale)
    planes = over_tiles(planes, hardware.rows, columns, wires.effective_unchecked)
    read = (cell.read_slices if sliced else cell.weight)(planes)
    return weights._replace(weight=(read * scale).to(weight.dtype), perturbation=None)

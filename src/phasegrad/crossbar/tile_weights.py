"""The weights of a layer's tiles, and reads of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.ops.direct import call


class WeightPerturbation(NamedTuple):
    """Clipping and training noise of digital weights; see ``phasegrad.ops.reference.noisy_weights``."""

    clip: Tensor
    """``[out]``: the largest absolute weight of each output."""
    level: Tensor
    """Factor of the noise, one element."""
    noise: tuple[tuple[float, ...], ...]
    """Standard deviation as a function of the relative weight, of each slice or of all slices."""
    drop_connect: float
    """Probability that a weight reads as zero."""

    def clip_only(self) -> WeightPerturbation:
        """The same clipping, without noise and dropped weights."""
        return WeightPerturbation(self.clip, torch.zeros_like(self.level), _NO_NOISE, 0.0)

    def of_slice(self, i: int) -> WeightPerturbation:
        """The perturbation of one slice."""
        return self if len(self.noise) == 1 else self._replace(noise=(self.noise[i],))

    @property
    def perturbs(self) -> bool:
        """Whether there is noise or a dropped weight."""
        return any(any(noise) for noise in self.noise) or self.drop_connect > 0.0


_NO_NOISE = ((0.0, 0.0, 0.0),)


class TileWeights(NamedTuple):
    """The matrix on the tiles of a layer, in units of the layer's weight."""

    weight: Tensor
    """``[out, in]``, before ``perturbation``; for bit-sliced weights ``[slices, out, in]``."""
    scale: Tensor
    """``[row tiles, out]``: the weight that a fully programmed cell represents."""
    gain: Tensor | None
    """``[row tiles, out]``: digital factor of each tile's output (drift compensation), or ``None``."""
    read_noise: float
    """Output-referred read noise of the weights, which the product adds."""
    perturbation: WeightPerturbation | None = None
    """Perturbation that each read draws; ``None`` if nothing remains to be drawn."""
    slice_factors: tuple[float, ...] | None = None
    """Digital significance of each slice; ``None`` for weights without slices."""
    stream: int = streams.WEIGHTS
    """Random stream of ``perturbation``."""
    variance: Tensor | None = None
    """Variance of the weights in each read over the scale of their column, of the shape of ``weight``, for which the
    product draws noise of its outputs. ``None`` if ``weight`` is one read, or its noise is ``read_noise``."""
    column_range: Tensor | None = None
    """``[slices * row tiles, out]``: range of the ADC at each column, in units of ``max|w| max|x|``; ``None`` for the
    range of the layer at all of them."""

    def slices(self) -> tuple[tuple[float, TileWeights], ...]:
        """Every slice as separate weights, with its digital significance."""
        if self.slice_factors is None:
            return ((1.0, self),)
        drawn = self.perturbation
        count, ranges = len(self.weight), self.column_range
        variances = [None] * count if self.variance is None else self.variance.unbind()
        of_slices = [None] * count if ranges is None else ranges.chunk(count)
        return tuple(
            (
                factor,
                self._replace(
                    weight=weight,
                    variance=variance,
                    column_range=of_slice,
                    slice_factors=None,
                    stream=self.stream + 2 * i,
                    perturbation=None if drawn is None else drawn.of_slice(i),
                ),
            )
            for i, (factor, weight, variance, of_slice) in enumerate(
                zip(self.slice_factors, self.weight.unbind(), variances, of_slices, strict=True)
            )
        )

    def row_tiles(self, rows: int) -> Iterator[TileWeights]:
        """The weights of each row tile, with ``rows`` inputs per tile; ``perturbation`` must be ``None``."""
        assert self.perturbation is None
        for t, weight in enumerate(self.weight.split(rows, dim=-1)):
            gain, ranges = (None if each is None else each[t : t + 1] for each in (self.gain, self.column_range))
            yield self._replace(weight=weight, scale=self.scale[t : t + 1], gain=gain, column_range=ranges)

    def read(self, seed: Tensor, rows: int) -> Tensor:
        """The weight ``[out, in]`` that one read of a single slice sees, with ``rows`` inputs per tile."""
        if self.perturbation is None:
            return self.weight
        clip, level, (noise,), drop_connect = self.perturbation
        return call("noisy_weights", self.weight, self.scale, clip, level, seed, self.stream, rows, noise, drop_connect)

    def read_once(self, seed: Tensor, rows: int) -> TileWeights:
        """The same weights with ``perturbation`` drawn, so that all later products share this read."""
        if self.perturbation is None:
            return self
        parts = [part.read(seed, rows) for _, part in self.slices()]
        weight = parts[0] if self.slice_factors is None else torch.stack(parts)
        return self._replace(weight=weight, perturbation=None)

    def outputs(self, chosen: slice) -> TileWeights:
        """The weights of a range of outputs."""
        gain = None if self.gain is None else self.gain[:, chosen]
        perturbation = self.perturbation
        if perturbation is not None:
            perturbation = perturbation._replace(clip=perturbation.clip[chosen])
        weight, scale = self.weight[..., chosen, :], self.scale[:, chosen]
        variance = None if self.variance is None else self.variance[..., chosen, :]
        part = self._replace(weight=weight, scale=scale, gain=gain, perturbation=perturbation, variance=variance)
        return part if self.column_range is None else part._replace(column_range=self.column_range[:, chosen])

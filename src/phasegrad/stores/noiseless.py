"""The mean of a layer's weights, frozen, as graphs are exported with it."""

from __future__ import annotations

import dataclasses
from typing import final

from torch import Tensor, nn

from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.stores.base import StoredLayer, WeightStore


@final
class NoiselessWeights(nn.Module):
    """Weights without noise, as buffers of a layer.

    Args:
        weights: the weights; their perturbation must be drawn.
        origin: the store that they come from.
    """

    weight: Tensor
    scale: Tensor
    gain: Tensor | None

    def __init__(self, weights: TileWeights, origin: type[WeightStore]) -> None:
        super().__init__()
        self.slice_factors, self.origin = weights.slice_factors, origin
        self.register_buffer("weight", weights.weight.detach().clone(), persistent=False)
        self.register_buffer("scale", weights.scale.detach().clone(), persistent=False)
        self.register_buffer("gain", None if weights.gain is None else weights.gain.clone(), persistent=False)


@final
class Noiseless(WeightStore):
    """The mean of the weights, frozen; for inference alone."""

    name = "noiseless"
    why_not_digital = "is noiseless, its matrix is fixed; use the net it was made from"

    @property
    def _weights(self) -> NoiselessWeights:
        weights = self.layer.noiseless
        assert weights is not None
        return weights

    def matrix(self, seed: Tensor) -> TileWeights:
        """The mean of the weights."""
        held = self._weights
        return TileWeights(held.weight, held.scale, held.gain, 0.0, slice_factors=held.slice_factors)

    def mean_matrix(self) -> TileWeights:
        """The mean of the weights."""
        return self.matrix(self.no_seed())

    def draw_seed(self) -> Tensor:
        """A constant: nothing is drawn."""
        return self.no_seed()

    def to_parameter(self) -> nn.Parameter:
        """The parameter that the store before would return."""
        return self._weights.origin(self.layer).to_parameter()


def make_noiseless(layer: StoredLayer) -> None:
    """From now on compute with the mean of the weights and converters without noise."""
    hardware = layer.hardware
    layer.noiseless = NoiselessWeights(layer.store.mean_matrix(), type(layer.store))
    adc = hardware.adc.without_noise() if hardware.adc else None
    layer.hardware = dataclasses.replace(hardware, adc=adc, output_noise=0.0, read_noise=0.0)
    layer.use_store(Noiseless)

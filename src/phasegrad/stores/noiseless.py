"""The mean of a layer's weights, frozen, for exported graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from phasegrad.crossbar.materialisation import loses_values
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.stores.base import StoredLayer, WeightStore
from phasegrad.stores.sharing import exchanged
from phasegrad.stores.watched_weight import FrozenWeight, WatchedWeight


@final
class NoiselessWeights(nn.Module):
    """Weights without noise, as buffers of a layer.

    Args:
        weights: the weights, with their perturbation already drawn.
        origin: the type of the store from which they were read.
    """

    weight: Tensor
    scale: Tensor
    gain: Tensor | None
    column_range: Tensor | None

    def __init__(self, weights: TileWeights, origin: type[WeightStore]) -> None:
        super().__init__()
        self.slice_factors, self.origin = weights.slice_factors, origin
        self.register_buffer("weight", weights.weight.detach().clone(), persistent=False)
        self.register_buffer("scale", weights.scale.detach().clone(), persistent=False)
        for name, value in (("gain", weights.gain), ("column_range", weights.column_range)):
            self.register_buffer(name, None if value is None else value.clone(), persistent=False)

    @torch.no_grad()
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NoiselessWeights:
        super()._apply(fn, recurse)
        if loses_values(fn):
            self.weight.fill_(torch.nan)  # until a state dict is loaded
        return self


@final
class Noiseless(WeightStore):
    """The frozen mean of the weights, for inference only."""

    name = "noiseless"
    why_not_digital = "is noiseless, so its weights are frozen; use the net from which it was made"

    @property
    def _weights(self) -> NoiselessWeights:
        weights = self.layer.noiseless
        assert weights is not None
        return weights

    def matrix(self, seed: Tensor) -> TileWeights:
        """The mean of the weights."""
        mean = self._weights
        settings = {"slice_factors": mean.slice_factors, "column_range": mean.column_range}
        return TileWeights(mean.weight, mean.scale, mean.gain, 0.0, **settings)

    def mean_matrix(self) -> TileWeights:
        """The mean of the weights."""
        return self.matrix(self.no_seed())

    def draw_seed(self) -> Tensor:
        """A constant seed; nothing is drawn."""
        return self.no_seed()

    def to_parameter(self) -> nn.Parameter:
        """The parameter of the original store's weight."""
        parameter = self._weights.origin(self.layer).to_parameter()
        if isinstance(parameter, WatchedWeight):
            return nn.Parameter(parameter.memory, parameter.requires_grad)
        return parameter


def make_noiseless(layer: StoredLayer) -> None:
    """Make a layer compute with the mean of its weights and with noiseless converters."""
    hardware = layer.hardware
    origin = type(layer.store) if layer.noiseless is None else layer.noiseless.origin
    layer.noiseless = NoiselessWeights(layer.store.mean_matrix(), origin)
    adc = hardware.adc.without_noise() if hardware.adc else None
    layer.hardware = dataclasses.replace(hardware, adc=adc, output_noise=0.0, read_noise=0.0)
    layer.use_store(Noiseless)
    if layer.devices is None:
        weight = layer.weight
        frozen = exchanged(weight, lambda: FrozenWeight.wrap(weight, None, weight.requires_grad))
        layer.register_parameter("weight", frozen)
        cast("FrozenWeight", frozen).mark_current()
    cast("nn.Module", layer).register_load_state_dict_post_hook(_follow_loaded)


def _follow_loaded(layer: Any, _: Any) -> None:
    """Compute the mean again, of the weights that were loaded."""
    origin = layer.noiseless.origin
    layer.noiseless = NoiselessWeights(origin(layer).mean_matrix(), origin)

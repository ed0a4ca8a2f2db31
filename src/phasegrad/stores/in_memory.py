"""Weights on devices that pulses train in memory."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from phasegrad.crossbar.streams import draw_seed
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.stores.base import StoredLayer, WeightStore
from phasegrad.stores.digital import digital_weights
from phasegrad.stores.in_memory_product import InMemoryTiles, in_memory_product
from phasegrad.stores.in_memory_weight import InMemoryWeight
from phasegrad.stores.programmed import assign_devices, blank_devices, program, sync_devices
from phasegrad.stores.sharing import exchanged


@final
class InMemory(WeightStore):
    """Conductances that pulses change; the parameter is an [`InMemoryWeight`][phasegrad.nn.InMemoryWeight]."""

    name = "in memory"
    why_not_digital = (
        "is trained in the memory, by the pulses of an optimizer of pg.optim such as AnalogSGD, so no recipe and no "
        "fine-tuning applies to its weights; its converter ranges are calibrated by pg.hwa.calibrate(..., recipe=None)"
    )

    def matrix(self, seed: Tensor) -> TileWeights:
        """The weights of the devices, with the noise of this read."""
        layer, weight = self.layer, self.layer.weight
        read = weight.read(seed) if isinstance(weight, InMemoryWeight) else layer.layout.matrix(weight.detach())
        return digital_weights(read, layer.hardware, None, None, layer.columns)

    @torch.no_grad()
    def mean_matrix(self) -> TileWeights:
        """The weights of the devices, without noise."""
        layer = self.layer
        weights = digital_weights(layer.weight_matrix, layer.hardware, None, None, layer.columns)
        return weights._replace(read_noise=0.0)

    @torch.no_grad()
    def to_parameter(self) -> nn.Parameter:
        """A new parameter with the weights of the devices."""
        return nn.Parameter(self.layer.weight.clone(), self.layer.weight.requires_grad)

    def read_once(self) -> None:
        """Return ``None``: each product reads the weights again."""

    def output(
        self, x: Tensor, bias: Tensor | None, weights: TileWeights | None = None, outputs: slice | None = None
    ) -> Tensor:
        """The product of the layer's tiles plus its bias; the backward pass stages samples for the next update."""
        layer, weight = self.layer, self.layer.weight
        if not isinstance(weight, InMemoryWeight):
            self._refuse_sharded_weight()
            return super().output(x, bias, weights, outputs)
        tiles = InMemoryTiles(type(layer).__name__, weight, layer.tiling, layer.periphery, layer.hardware)
        y = in_memory_product(x, weight, bias, tiles)
        return y if outputs is None else y[:, outputs]

    def sync(self) -> None:
        """Copy the present value of the devices, gain included, into the parameter ``weight``."""
        sync_devices(self.layer)

    def _refuse_sharded_weight(self) -> None:
        """Raise if a wrapper such as FSDP has replaced the weight: devices cannot be split over processes."""
        parameters = self.layer._parameters  # type: ignore[attr-defined]
        if isinstance(parameters.get("weight"), nn.Parameter) or "weight" not in parameters:
            raise RuntimeError(
                f"{type(self.layer).__name__}: the weight is trained in memory, but a wrapper, probably FSDP, has "
                "replaced it with a parameter without devices. Pulses act on all devices of a weight, so it cannot be "
                "sharded. Wrap the net in DistributedDataParallel, whose replicas apply the same pulses, or train it "
                "digitally, on hardware without pulses"
            )


def move_into_memory(layer: StoredLayer) -> None:
    """Program the weight of a new layer that is trained in memory, unless a tied layer has already programmed it.

    Raises:
        ValueError: the weight is tied to a weight with another order of inputs and outputs.
    """
    layer.use_store(InMemory)
    weight = layer.weight
    if not isinstance(weight, InMemoryWeight):
        weight = exchanged(weight, lambda: _programmed_weight(layer))
    assert isinstance(weight, InMemoryWeight)
    if weight.matrix_layout != layer.layout:
        raise ValueError(
            f"{type(layer).__name__}: its weight is tied to a weight with another order of inputs and outputs, so the "
            "two cannot share devices in training. Untie the weights, or skip one of the layers"
        )
    layer.devices = weight.devices
    layer.register_parameter("weight", weight)


def _programmed_weight(layer: StoredLayer) -> nn.Parameter:
    trained = layer.weight.requires_grad
    if layer.weight.is_meta:  # a state dict, or reset_parameters, will program the devices
        assign_devices(layer, blank_devices(layer))
    else:
        program(layer, draw_seed(layer.weight.device))
    layer.weight.requires_grad_(trained)
    return layer.weight

"""Weights on devices that are programmed once and then age."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from phasegrad.crossbar.mapping import nonzero
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.ops.profiling import profiled
from phasegrad.stores.analog_weight import AnalogWeight, relative_weight
from phasegrad.stores.base import StoredLayer, WeightStore, range_name
from phasegrad.stores.digital import programming_target
from phasegrad.stores.in_memory_weight import InMemoryWeight
from phasegrad.stores.programming.base import ProgrammingMethod
from phasegrad.stores.single_rows import serves_one_row
from phasegrad.stores.stuck_devices import KnownFaults
from phasegrad.stores.watched_weight import ProgrammedWeight, WatchedWeight


@final
class Programmed(WeightStore):
    """Weights on programmed devices; the parameter ``weight`` is a copy of their value."""

    name = "programmed"
    why_not_digital = "is programmed, so its weights cannot be trained; use the net the chip was programmed from"

    @property
    def devices(self) -> AnalogWeight:
        """The devices."""
        devices = self.layer.devices
        if devices is None:
            raise RuntimeError(
                f"{type(self.layer).__name__} is programmed, but its devices were removed; use phasegrad.to_digital "
                "for a digital copy"
            )
        return devices

    def matrix(self, seed: Tensor) -> TileWeights:
        """The weights of the devices at the present time, with the noise of this read."""
        return self.devices.tile_weights(seed, self.layer.weight.dtype)

    def output(
        self, x: Tensor, bias: Tensor | None, weights: TileWeights | None = None, outputs: slice | None = None
    ) -> Tensor:
        """The product of the tiles plus the bias; the noise of a read for one row is drawn for its outputs."""
        layer = self.layer
        if layer.weight.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"{type(layer).__name__}: weight.requires_grad = True, but the weight lives on devices and gets no "
                "gradient, so an optimizer would never train it. Leave it frozen, layer.weight.requires_grad_(False), "
                "or train the net that the chip was programmed from"
            )
        if weights is None and layer.tiling.fused and serves_one_row(x, layer.hardware):
            weights = self.devices.row_weights() if layer.weight.dtype == torch.float32 else None
        return super().output(x, bias, weights, outputs)

    @torch.no_grad()
    def mean_matrix(self) -> TileWeights:
        """The weights of the devices at the present time, read through the wires without noise."""
        return self.devices.mean_tile_weights(self.layer.weight.dtype)

    @torch.no_grad()
    def to_parameter(self) -> nn.Parameter:
        """A new parameter with the weights of the devices, trainable unless the programmed weight was frozen."""
        devices = self.layer.devices
        return nn.Parameter(self.layer.weight.clone(), devices is None or devices.weight_was_trainable)

    def sync(self) -> None:
        """Copy the present value of the devices, with gain and without wires, into the parameter ``weight``."""
        sync_devices(self.layer)


@torch.no_grad()
def program(
    layer: StoredLayer, seed: Tensor, *, converters: bool = True, faults: KnownFaults | None = None,
    method: ProgrammingMethod | None = None,
) -> None:  # fmt: skip
    """Write the weight of a layer onto devices; its store becomes ``Programmed``, or ``InMemory`` with pulses.

    Args:
        layer: the layer, with any store.
        seed: seed of all draws.
        converters: whether the errors of the converters are also drawn.
        faults: faults that the devices have from now on; ``None`` for those that they have, or that the hardware gives
            to new devices.
        method: how the devices are programmed; ``None`` for one statistical draw.
    """
    if converters and layer.converters is not None and layer.converters.differ:
        layer.converters.draw(seed)
    target, devices = programming_target(layer), layer.devices or blank_devices(layer, zeroed=False)
    if faults is not None:
        relative = relative_weight(target.weight.float(), nonzero(target.scale).float(), layer.hardware.rows)
        faults.install(devices, relative, target.scale, seed)
    errors = layer.periphery.output_errors
    devices.program_weight(target.weight, target.scale, layer.output_range, seed, errors, method)
    attach(layer, devices)


def attach(layer: StoredLayer, devices: AnalogWeight, tied: StoredLayer | None = None) -> None:
    """Store the weight of a layer on programmed devices, which tied layers share."""
    assign_devices(layer, devices, tied)
    sync_devices(layer)


def assign_devices(layer: StoredLayer, devices: AnalogWeight, tied: StoredLayer | None = None) -> None:
    """Store the weight of a layer on devices, whose state may be loaded afterwards; ``weight`` is not copied yet.

    Args:
        layer: the layer.
        devices: the devices.
        tied: a layer with these devices, whose parameter ``weight`` the layer shares.
    """
    layer.devices = devices.train(layer.training)
    weight = layer.weight if tied is None else tied.weight
    if layer.hardware.pulses is None:
        if not isinstance(weight, WatchedWeight) or weight.devices is not devices:
            weight = ProgrammedWeight.wrap(weight, devices, requires_grad=False)
        layer.use_store(Programmed)
    elif not isinstance(weight, InMemoryWeight) or weight.devices is not devices:
        trained = weight.requires_grad
        weight = InMemoryWeight(weight.detach().clone(), devices, layer.layout)
        weight.requires_grad_(trained)
    layer.register_parameter("weight", weight)


def blank_devices(layer: StoredLayer, *, zeroed: bool = True) -> AnalogWeight:
    """Unprogrammed devices in the shape of a layer, whose conductances are undefined unless they are zeroed."""
    shape = (layer.out_features, layer.in_features, layer.columns)
    devices = AnalogWeight(layer.hardware, *shape, layer.weight.device, zeroed)
    devices.weight_was_trainable = layer.weight.requires_grad
    return devices


@profiled(range_name("sync"))
@torch.no_grad()
def sync_devices(layer: StoredLayer) -> None:
    """Solve the wires, and copy the present value of the devices, without wires, into the parameter ``weight``."""
    assert layer.devices is not None
    layer.devices.solve_wires()
    if layer.assigned is not None:  # the parameter of another module is never refreshed
        layer.register_parameter("weight", layer.assigned.own)
    weight = layer.weight
    assert isinstance(weight, WatchedWeight)
    assert weight.devices is layer.devices
    weight.copy_(layer.layout.weight(layer.devices.logical_weight(), weight.shape))
    weight.mark_current()

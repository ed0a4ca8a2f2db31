"""Weights that devices cannot be programmed with, and how a weight is compared with the one that the devices store."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from phasegrad.ops.direct import in_transform
from phasegrad.stores.base import StoredLayer
from phasegrad.stores.in_memory_weight import InMemoryWeight

_functorch: Any = torch._C._functorch  # type: ignore[attr-defined]  # wrappers of torch.func have no public name


@torch.no_grad()
def differs(layer: StoredLayer, weight: Tensor) -> bool:
    """Whether a weight is not the one that the devices of a layer store, up to rounding.

    Another processor may have computed the copy, so the last digits may differ. Programming resolves far fewer.
    """
    return not _all(_close(weight, _stored(layer, weight)))


def _stored(layer: StoredLayer, weight: Tensor) -> Tensor:
    """What the devices store, in the shape, dtype and memory of a weight."""
    assert layer.devices is not None
    return layer.layout.weight(layer.devices.logical_weight(), weight.shape).to(weight)


def _close(a: Tensor, b: Tensor) -> Tensor:
    largest = float(b.abs().max()) if b.numel() else 0.0
    return (a - b).abs() <= 1e-6 * largest + 4.0 * torch.finfo(b.dtype).eps * b.abs()  # isclose has no rule for vmap


def _all(condition: Tensor) -> bool:
    """Whether a condition is true everywhere, for all samples of ``vmap``."""
    while _functorch.is_functorch_wrapped_tensor(condition):
        condition = _functorch.get_unwrapped(condition)
    return bool(condition.to(torch.uint8).numpy().all()) if in_transform() else bool(condition.all())


def check_shape(name: str, layer: StoredLayer, weight: Tensor) -> None:
    """Raise ``ValueError`` if a weight has another shape than the layer's own."""
    own = layer.weight if layer.assigned is None else layer.assigned.own
    if weight.dim() == own.dim() and layer.layout.size(weight.shape) == (layer.out_features, layer.in_features):
        return
    if isinstance(own, InMemoryWeight):
        _refuse_sharded(name)
    raise ValueError(
        f"{name}: the weight was replaced with one of shape {list(weight.shape)}, but the devices store "
        f"{list(own.shape)}. Convert and program a model with the new shape"
    )


def check_programmable(name: str, layer: StoredLayer, weight: Tensor) -> None:
    """Raise if the devices of a layer cannot be programmed with a weight, or not now."""
    if not bool(weight.isfinite().all()):
        raise ValueError(
            f"{name}: the weight was written with values that are not finite, to which no device can be programmed. "
            "Write a finite weight, or load a state dict"
        )
    if in_transform():
        raise RuntimeError(
            f"{name}: the weight was written, but devices cannot be programmed within a transform of torch.func. Call "
            "the net once outside of it"
        )
    own = layer.weight if layer.assigned is None else layer.assigned.own
    if isinstance(own, InMemoryWeight) and own.replicated:
        raise RuntimeError(
            f"{name}: the weight was written, but it is replicated in several processes, whose devices would be "
            "programmed with different errors. Load a state dict, or write the weight before the optimizer is created, "
            "which copies the devices of rank 0"
        )


def check_passed(name: str, layer: StoredLayer, weight: Tensor) -> None:
    """Raise if a layer is called with a weight that it does not own, unless it has the value of its devices."""
    if isinstance(weight, nn.Parameter) and layer.hardware.pulses is not None and layer.noiseless is None:
        _refuse_sharded(name)
    if torch.is_grad_enabled() and _tracks_gradient(weight):
        raise RuntimeError(
            f"{name}: a gradient is wanted for a weight that lives on devices, which has none. Leave {name}.weight out "
            "of the parameters of the call, or call the digital net, pg.to_digital(net)"
        )
    if layer.devices is not None and _functorch.is_functorch_wrapped_tensor(layer.devices.conductance):
        return  # the devices were passed too
    if layer.noiseless is not None:
        check_frozen(name, layer, weight)
    elif differs(layer, weight):
        raise RuntimeError(
            f"{name}: it was called with another weight than its own, as by torch.func.functional_call, but it "
            f"computes with its devices, which a call does not program. Leave {name}.weight out of the parameters of "
            "the call; write the weight of a copy of the net, which programs it; or call the digital net, "
            "pg.to_digital(net)"
        )


def _tracks_gradient(weight: Tensor) -> bool:
    while _functorch.is_functorch_wrapped_tensor(weight):
        if _functorch.is_gradtrackingtensor(weight):
            return True
        weight = _functorch.get_unwrapped(weight)
    return weight.requires_grad


@torch.no_grad()
def check_frozen(name: str, layer: StoredLayer, weight: Tensor) -> None:
    """Raise if the mean that a noiseless layer froze is not that of its weight any more."""
    frozen = layer.noiseless
    mean = frozen.origin(layer).mean_matrix().weight
    same = _all(_close(mean, frozen.weight))
    if layer.devices is not None:
        same = same and not differs(layer, weight)
    if not same:
        raise RuntimeError(
            f"{name}: the weight was written, but the layer is noiseless and computes with a frozen mean. Write the "
            "weight of the net or chip that the noiseless copy was made from, and call pg.inference.noiseless again"
        )


def refuse_computed(name: str, layer: StoredLayer) -> NoReturn:
    """Raise because the parameter ``weight`` was removed from a layer."""
    before = "converting" if layer.hardware.pulses is not None else "programming"
    raise RuntimeError(
        f"{name}: the weight is no parameter any more but computed from others, as by pruning, weight or spectral "
        f"normalisation, or a parametrization. The devices of the layer cannot follow it. Do this to the digital model "
        f"before {before} it, or make the result the weight, which programs it: torch.nn.utils.prune.remove, "
        "torch.nn.utils.parametrize.remove_parametrizations"
    )


def _refuse_sharded(name: str) -> NoReturn:
    raise RuntimeError(
        f"{name}: the weight is trained in memory, but a wrapper, probably FSDP, has replaced it with a parameter "
        "without devices. Pulses act on all devices of a weight, so it cannot be sharded. Wrap the net in "
        "DistributedDataParallel, whose replicas apply the same pulses, or train it digitally, on hardware without "
        "pulses. Nor can torch.func.functional_call pass such a weight"
    )

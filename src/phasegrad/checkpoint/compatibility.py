"""Whether a state fits, seen before any of it is loaded: torch copies what fits, and raises afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from phasegrad.nn import AnalogComposite, AnalogLayer
from phasegrad.nn.layer_state import check_state_dict
from phasegrad.stores.programmed import blank_devices

_OF_ELEMENTS = (
    "momentum_buffer", "velocity", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "chi", "hidden",
)  # fmt: skip
"""What optimizers remember of each element of a parameter."""


def check_module(module: nn.Module, state: dict[str, Any]) -> None:
    """Whether a net can take a state dict over, all of it.

    Raises:
        ValueError: it cannot; the message lists the fields of other hardware, or keys and shapes.
    """
    expected, state = dict(module.state_dict()), dict(state)
    for name, part in module.named_modules():
        if isinstance(part, AnalogComposite):  # a float checkpoint has its counterpart's keys
            part.rename_float_keys(state, f"{name}." if name else "")
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, AnalogLayer):
            prefix = f"{name}." if name else ""
            check_state_dict(layer, state, prefix)
            _expect_devices(layer, f"{prefix}devices.", expected, state)
            if f"{prefix}configuration" not in state:
                _expect_floats(prefix, expected, state)
    told = [f"{key} is missing" for key in expected if key not in state]
    told += [f"{key} is not in the net" for key in state if key not in expected]
    told += [_shapes(key, expected[key], state[key]) for key in expected if key in state]
    if told := [one for one in told if one]:
        raise ValueError("; ".join(told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else ""))


def _expect_devices(layer: AnalogLayer, prefix: str, expected: dict[str, Any], state: dict[str, Any]) -> None:
    """A layer that is not programmed makes devices for a chip's state; a chip is programmed anew by other weights."""
    given = any(key.startswith(prefix) for key in state)
    if given and layer.devices is None:
        expected.update({prefix + key: value for key, value in blank_devices(layer).state_dict().items()})
    elif not given:
        for key in [key for key in expected if key.startswith(prefix)]:
            del expected[key]


def _expect_floats(prefix: str, expected: dict[str, Any], state: dict[str, Any]) -> None:
    """A float net's state knows no converters; the layer's own stay."""
    for key in list(expected):
        name = key.removeprefix(prefix)
        own = name in ("configuration", "input_range", "output_range") or name.startswith("converters.")
        if key.startswith(prefix) and own and key not in state:
            del expected[key]


def _shapes(key: str, mine: Any, other: Any) -> str | None:
    if not isinstance(mine, Tensor) or mine.shape == other.shape or key.rpartition(".")[2] == "configuration":
        return None  # configurations are compared field by field, as text they may differ in length
    return f"{key} has shape {list(other.shape)}, and {list(mine.shape)} in the net"


def check_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Whether an optimizer has the groups that a state was saved of, with parameters of the same sizes.

    Raises:
        ValueError: it has not.
    """
    mine = [len(group["params"]) for group in optimizer.param_groups]
    other = [len(group["params"]) for group in state["param_groups"]]
    if mine != other:
        raise ValueError(
            f"groups of {mine} parameters, and {other} when it was saved; make it over the same parameters"
        )
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, (number, parameter) in enumerate(zip(numbers, parameters, strict=True)):
        for key, held in state["state"].get(number, {}).items():
            if key in _OF_ELEMENTS and isinstance(held, Tensor) and held.numel() != parameter.numel():
                raise ValueError(
                    f"parameter {place} has shape {list(parameter.shape)}, but its {key} has {list(held.shape)}; give "
                    "the parameters in the order of the run that was saved"
                )
